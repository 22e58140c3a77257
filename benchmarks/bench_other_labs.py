"""What helps on cells of another laboratory, measure by measure, and what each costs at home.

Every NAME=RUN is a finished training; runs that differ in one thing show what that thing gives, measures at prediction
time are tried on each. 200 neutrophils of LMU (their 200 myeloblasts, a kind no run knows, lie among the unlabelled
images to adapt to) and the public validation file of PBC are only scored.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from conditions import RESULTS, challenge, real_data, record, trained_runs
from hemalens.core.abstention import Abstention, judge
from hemalens.core.artifacts import read_json
from hemalens.data.scale import ZOOMS, Scale, choose_scale, zoomed
from hemalens.data.sources import open_source
from hemalens.training.checkpoint import load_model, model_directory
from hemalens.training.predicting import predict_features
from hemalens.training.tensors import load_images, to_batch

NEUTROPHIL = "neutrophil"
AVERAGED = {"1, 1.25": (1.0, 1.25), "0.8, 1, 1.25": (0.8, 1.0, 1.25), "1, 1.12, 1.25, 1.4": (1.0, 1.12, 1.25, 1.4)}
BLENDS = (0.1, 0.25, 0.5, 1.0)
REFERENCE, SCALED = 1500, 512  # training images of the reference stain; images that a scale is told from

HOME_STEP = 2  # every second validation image: 856

ImageInput = list[np.ndarray]
Seen = tuple[np.ndarray, np.ndarray]
Views = Callable[[float], Seen]


@dataclass(frozen=True, slots=True)
class Set:
    """Images of their own size, their labels, and at each zoom as the network takes them (kept once made)."""

    images: ImageInput
    labels: np.ndarray
    size: int
    made: dict[float, np.ndarray]

    def at(self, zoom: float = 1.0) -> np.ndarray:
        """Return (N, S, S, 3) uint8 at a zoom."""
        if zoom not in self.made:
            self.made[zoom] = np.stack([zoomed(image, zoom, self.size) for image in self.images])
        return self.made[zoom]


def see(module: nn.Module, images: np.ndarray) -> Seen:
    return predict_features(module, torch.from_numpy(np.ascontiguousarray(images)))


def mean(parts: Sequence[Seen]) -> Seen:
    features, logits = zip(*parts, strict=True)
    return np.mean(features, axis=0), np.mean(logits, axis=0)


def eightfold(module: nn.Module, images: np.ndarray) -> Seen:
    turned = [np.rot90(images, quarter, (1, 2)) for quarter in range(4)]
    return mean([see(module, one) for one in (*turned, *(one[:, :, ::-1] for one in turned))])


def density(images: np.ndarray) -> np.ndarray:
    return -np.log((images.astype(np.float32) + 1) / 256)


def from_density(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(256 * np.exp(-values) - 1), 0, 255).astype(np.uint8)


def matched(
    images: np.ndarray, wanted: np.ndarray, *, each: bool = False, whole: np.ndarray | None = None
) -> np.ndarray:
    """Return images with mean and spread per channel of the optical density of others (Reinhard et al. 2001).

    Told from each image, or from all of ``whole``, or of the images themselves.
    """
    found = density(images)
    base = found if whole is None else density(whole)
    axes = (1, 2) if each else (0, 1, 2)
    centre, spread = base.mean(axis=axes, keepdims=True), base.std(axis=axes, keepdims=True)
    goal = density(wanted)
    return from_density(
        (found - centre) / np.maximum(spread, 1e-3) * goal.std(axis=(0, 1, 2)) + goal.mean(axis=(0, 1, 2))
    )


def coloured(images: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return images with mean and covariance of the three densities of others: stain directions match as well."""
    found, goal = density(images), density(wanted).reshape(-1, 3)
    centre = found.reshape(-1, 3).mean(axis=0)
    change = root(np.cov(found.reshape(-1, 3).T), -0.5) @ root(np.cov(goal.T), 0.5)
    return from_density((found - centre) @ change + goal.mean(axis=0))


def root(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-8) ** power) @ vectors.T


def renormed(module: nn.Module, images: np.ndarray, share: float) -> nn.Module:
    """Return a copy whose batch normalisation has so large a share of these images' statistics in it."""
    changed = copy.deepcopy(module)
    layers = [layer for layer in changed.modules() if isinstance(layer, nn.BatchNorm2d)]
    old = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    changed.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        changed(to_batch(torch.from_numpy(images)))
    for layer, (centre, variance) in zip(layers, old, strict=True):
        apart = layer.running_mean - centre
        layer.running_var.mul_(share).add_((1 - share) * variance + share * (1 - share) * apart**2)
        layer.running_mean.copy_(centre + share * apart)
    return changed.eval()


def scale_of(views: Views, abstention: Abstention, chosen: np.ndarray) -> Scale:
    """Return the zoom that ``predict --adapt`` takes for these images."""
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(SCALED, len(chosen))).round().astype(int))]
    return choose_scale({zoom: views(zoom)[0][chosen] for zoom in ZOOMS}, abstention)


def measures(
    module: nn.Module, views: Views, cells: Set, stain: np.ndarray, zoom: float, known: np.ndarray | None
) -> dict[str, Callable[[], Seen]]:
    """Return each measure by its name; ``known`` (N,) are the neutrophils of the other laboratory."""
    plain = cells.at()
    found: dict[str, Callable[[], Seen]] = {"none": lambda: views(1.0)}
    found["8 symmetries averaged"] = lambda: eightfold(module, plain)
    for name, zooms in AVERAGED.items():
        found[f"zooms {name} averaged"] = lambda zooms=zooms: mean([views(one) for one in zooms])
    found["density matched, whole set"] = lambda: see(module, matched(plain, stain))
    found["density matched, each image"] = lambda: see(module, matched(plain, stain, each=True))
    found["density and stain directions matched, whole set"] = lambda: see(module, coloured(plain, stain))
    for share in BLENDS:
        found[f"BatchNorm, share {share:g}"] = lambda share=share: see(renormed(module, plain, share), plain)
    found["scale found (--adapt)"] = lambda: views(zoom)
    found["scale found, 8 symmetries"] = lambda: eightfold(module, cells.at(zoom))
    found["scale found, density matched"] = lambda: see(module, matched(cells.at(zoom), stain))
    found["scale found, BatchNorm 0.25"] = lambda: see(renormed(module, cells.at(zoom), 0.25), cells.at(zoom))
    if known is not None:
        found["density matched to neutrophils alone"] = lambda: see(module, matched(plain, stain, whole=plain[known]))
        for share in BLENDS[1:]:
            found[f"BatchNorm of neutrophils alone, share {share:g}"] = lambda share=share: see(
                renormed(module, plain[known], share), plain
            )
    return found


def look(name: str, run: Path, stain: np.ndarray, sets: tuple[Set, Set]) -> dict[str, Any]:
    """Return the figures of one run."""
    loaded = load_model(run)
    other, home = sets
    module, abstention = loaded.module, Abstention.from_json(read_json(model_directory(run) / "abstention.json"))
    cell, known = loaded.classes.index(NEUTROPHIL), other.labels == NEUTROPHIL
    truth = np.array([loaded.classes.index(label) for label in home.labels])
    elsewhere, here = (cache(lambda zoom, cells=cells: see(module, cells.at(zoom))) for cells in sets)
    parts = {"LMU": (elsewhere, np.arange(len(known))), "LMU neutrophils alone": (elsewhere, np.flatnonzero(known))}
    parts["PBC"] = here, np.arange(len(truth))
    parts |= {f"PBC {label} alone": (here, np.flatnonzero(home.labels == label)) for label in loaded.classes}
    scales = {part: scale_of(views, abstention, chosen) for part, (views, chosen) in parts.items()}
    at_home = measures(module, here, home, stain, scales["PBC"].zoom, None)
    table = {}
    for measure, predict in measures(module, elsewhere, other, stain, scales["LMU"].zoom, known).items():
        judged = judge(abstention, *predict())
        row: dict[str, Any] = {
            "neutrophils": share(judged.predicted[known] == cell),
            "neutrophils refused": round(float(judged.abstained[known].mean()), 4),
            "myeloblasts refused": round(float(judged.abstained[~known].mean()), 4),
            "myeloblasts called neutrophil and kept": round(
                float(((judged.predicted == cell) & ~judged.abstained)[~known].mean()), 4
            ),
        }
        if measure in at_home:
            judged = judge(abstention, *at_home[measure]())
            row |= {"home": share(judged.predicted == truth), "home refused": round(float(judged.abstained.mean()), 4)}
        table[measure] = row
        print(name, measure, row, flush=True)
    fixed = {f"{zoom:g}": share(elsewhere(zoom)[1][known].argmax(axis=1) == cell) for zoom in ZOOMS}
    card = {key: loaded.card.get(key) for key in ("model", "epochs", "train_seconds")}
    found = {part: scale.to_json() for part, scale in scales.items()}
    return {"run": name, **card, "scales": found, "neutrophils at each zoom": fixed, "measures": table}


def share(right: np.ndarray) -> dict[str, float]:
    """Return a share with its 95 % interval (Wilson 1927)."""
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"value": round(float(right.mean()), 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def read(path: Path, size: int, *, step: int = 1) -> Set:
    opened = open_source(path)
    indices = range(0, len(opened), step)
    labels = np.array([opened.samples[index].label for index in indices])
    return Set([opened.image(index).pixels for index in indices], labels, size, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN", help="those of bench_run.py by default")
    parser.add_argument("--source", type=Path, help="the cleaned set that the runs were trained on")
    parser.add_argument("--add", action="store_true", help="keep the runs of other names that were measured before")
    options = parser.parse_args()
    data = real_data()
    torch.set_num_threads(1)
    given = [word.split("=", 1) for word in options.runs]
    runs = dict(given or ((f"compact-{path.name}", str(path)) for path in trained_runs()))
    source = options.source or trained_runs()[0] / "clean.npz"
    sizes = {load_model(Path(run)).image_size for run in runs.values()}
    opened, size = open_source(source), sizes.pop()
    assert not sizes, "runs of one image_size"
    chosen = np.linspace(0, len(opened) - 1, REFERENCE).round().astype(int).tolist()
    stain = load_images(opened, chosen, size=size, workers=0)
    sets = read(data / "lmu" / "lmu-000.tar", size), read(challenge(validation=True), size, step=HOME_STEP)
    kept = read_json(RESULTS / "other_labs.json")["runs"] if options.add else []
    figures = {run["run"]: run for run in kept}
    for name, run in runs.items():
        figures[name] = look(name, Path(run), stain, sets)
        facts = {"reference": REFERENCE, "home_step": HOME_STEP, "zooms": ZOOMS, "blends": BLENDS}
        record("other_labs", {"runs": list(figures.values())}, **facts)


if __name__ == "__main__":
    main()
