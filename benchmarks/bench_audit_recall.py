"""What the audit finds: the 1,800 planted rows of the challenge file, and foreign images that occur once.

The lone images are made here (photographs that ship with scikit-learn and matplotlib, text, noise, blanks, charts)
and planted one to five at a time among the 11,959 cells, and among another laboratory's 400.
"""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from conditions import BUILD, challenge, real_data, record
from hemalens.data.audit.audit import audit
from hemalens.data.audit.checks.foreign import find_foreign
from hemalens.data.audit.statistics import Statistics, measure_source
from hemalens.data.sources import open_source

SIDE = 96
TRIALS = 20
CELLS = 11_959


def lone_images(seed: int) -> list[tuple[str, np.ndarray]]:
    """Return named foreign images (96, 96, 3) uint8 of five kinds."""
    draw = np.random.default_rng(seed)
    images = [(f"photograph-{n}", photo) for n, photo in enumerate(photographs(draw))]
    noises = (draw.integers(0, 256, (SIDE, SIDE, 3)), draw.normal(128, 40, (SIDE, SIDE, 3)).clip(0, 255))
    images += [(f"noise-{n}", noise.astype(np.uint8)) for n, noise in enumerate(noises)]
    for colour in ("white", "black", "grey", "#fae1c8", "#5a3c8c"):
        images.append((f"blank-{colour}", np.asarray(Image.new("RGB", (SIDE, SIDE), colour))))
    for paper, ink in (("white", "black"), ("black", "white"), ("#fae1c8", "black")):
        page = Image.new("RGB", (SIDE, SIDE), paper)
        for line in range(8):
            ImageDraw.Draw(page).text((2, 2 + 11 * line), "".join(draw.choice(list("abcdefgh "), 16)), fill=ink)
        images.append((f"text-{paper}", np.asarray(page)))
    images += [(f"chart-{n}", chart) for n, chart in enumerate(charts(draw))]
    return images


def photographs(draw: np.random.Generator) -> list[np.ndarray]:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        whole = [*load_sample_images().images, np.asarray(Image.open(file).convert("RGB"))]
    crops = []
    for photo in whole:
        for _ in range(4):
            side = int(min(photo.shape[:2]) * draw.uniform(0.3, 1.0))
            top, left = (int(draw.integers(0, photo.shape[axis] - side + 1)) for axis in (0, 1))
            crop = Image.fromarray(photo[top : top + side, left : left + side])
            crops.append(np.asarray(crop.resize((SIDE, SIDE))))
    return crops


def charts(draw: np.random.Generator) -> list[np.ndarray]:
    drawn = []
    for kind in ("bar", "plot", "imshow"):
        figure = Figure(figsize=(2, 2))
        axes = figure.add_subplot()
        values = draw.random((9, 9))
        {
            "bar": lambda axes=axes, values=values: axes.bar(range(5), values[0, :5]),
            "plot": lambda axes=axes, values=values: axes.plot(values[0]),
            "imshow": lambda axes=axes, values=values: axes.imshow(values),
        }[kind]()
        buffer = io.BytesIO()
        figure.savefig(buffer)
        drawn.append(np.asarray(Image.open(buffer).convert("RGB").resize((SIDE, SIDE))))
    return drawn


def planted_once(cells: np.ndarray, trials: int) -> dict[str, object]:
    """Plant 1-5 lone images, look for them, and count what was missed and which cells were called foreign.

    The cells are measured once: an image's row does not depend on its neighbours, the check itself sees all rows.
    """
    measured_cells = measured(cells)
    draw = np.random.default_rng(0)
    missed: Counter[str] = Counter()
    planted, wrong = 0, 0
    for trial in range(trials):
        images = lone_images(trial)
        chosen = draw.choice(len(images), 1 + trial % 5, replace=False)
        lone = measured(np.stack([images[number][1] for number in chosen]))
        found = {finding.index for finding in find_foreign(together(measured_cells, lone))}
        planted += len(chosen)
        missed.update(images[number][0] for n, number in enumerate(chosen) if len(cells) + n not in found)
        wrong += sum(index < len(cells) for index in found)
    return {
        "trials": trials,
        "planted": planted,
        "found": planted - missed.total(),
        "missed": dict(missed),
        "cells_called_foreign_percent": round(100 * wrong / (trials * len(cells)), 4),
    }


def measured(images: np.ndarray) -> Statistics:
    path = BUILD / "images.npy"
    np.save(path, images)
    return measure_source(open_source(path))


def together(first: Statistics, second: Statistics) -> Statistics:
    thumbnails = np.concatenate([first.thumbnails, second.thumbnails])
    return Statistics(first.measurements + second.measurements, first.reasons + second.reasons, thumbnails)


def other_laboratory(data: Path) -> np.ndarray:
    source = open_source(data / "lmu" / "lmu-000.tar")
    images = [Image.fromarray(source.image(index).pixels).resize((SIDE, SIDE)) for index in range(len(source))]
    return np.stack([np.asarray(image) for image in images])


def main() -> None:
    data = real_data()
    out = BUILD / "audit-recall"
    summary = audit(challenge(), out, overwrite=True)
    said = summary.to_json()
    issues = pl.read_csv(out / "issues.csv").filter(pl.col("suggestion") == "drop")
    drops = {int(name.removeprefix("row-")) for name in issues["sample_id"].unique()}
    with np.load(challenge()) as file:
        cells = file["images"][:CELLS]
    record(
        "audit_recall",
        {
            "challenge": {
                "planted_dropped": sum(row >= CELLS for row in drops),
                "planted": summary.n_samples - CELLS,
                "cells_dropped": sum(row < CELLS for row in drops),
                "classes": said["classes"],
                "issues": said["issues"],
            },
            "lone_among_11959_cells": planted_once(cells, TRIALS),
            "lone_among_2000_cells": planted_once(cells[:2000], TRIALS),
            "lone_among_400_cells_of_another_laboratory": planted_once(other_laboratory(data), TRIALS),
        },
        side=SIDE,
    )


if __name__ == "__main__":
    main()
