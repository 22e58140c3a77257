"""A model and samples to heat maps: one image a sample, a page of them, and a check whether the maps mean something.

Explained are the mistakes made with most confidence and samples spread evenly over the rest of the source. Needs torch
only where the model is a RUN directory.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from hemalens.core.artifacts import output_directory, write_atomically, write_table, write_text
from hemalens.core.errors import ConfigError, SourceError
from hemalens.core.heatmaps import colour_heat, enlarge, normalise, overlay
from hemalens.core.page import contact_sheet_uri, image_uri, render_page
from hemalens.core.run_summary import Explained
from hemalens.core.text import percent
from hemalens.core.types import FloatArray, Images, IntArray, Progress, encode_labels, no_progress
from hemalens.data.reading.load import load_images
from hemalens.data.sources import Source, open_source
from hemalens.evaluation.chosen import SplitName, check_split, choose_indices, worst_mistakes
from hemalens.evaluation.examinee import Examinee, open_examinee
from hemalens.evaluation.faithfulness import check_maps

__all__ = ["explain"]

_MISTAKES = 24
_CHECKED = 128  # images in the check: 34 answers and 34 more for the random map of each
_SIDE = 160  # of an image on the page, in pixels
_LARGEST = 512  # of a heat map's file


@dataclass(frozen=True, slots=True)
class _Explained:
    """One explained sample.

    Its index in the source, what it is called and predicted, its image as it came, and maps (h, w) in [0, 1] of the
    predicted class and, where that is a mistake, of its label on the same scale.
    """

    index: int
    sample_id: str
    label: str | None
    predicted: str
    confidence: float
    image: Images
    heat: FloatArray
    label_heat: FloatArray | None

    @property
    def file(self) -> str:
        """Where its heat map is written."""
        return f"maps/{self.index:06d}.png"


def explain(
    model: str | Path,
    source: str | Path,
    out: Path,
    *,
    splits: Path | None = None,
    split: SplitName | None = None,
    limit: int = 96,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Explained:
    """Write heat maps of samples, ``explain.csv``, ``explain.json`` and the page; return what ``explain.json`` holds.

    Args:
        model: a RUN directory, an .onnx file or ``embedded``.
        source: any SOURCE; labels are not needed.
        out: the directory to write.
        splits: a ``splits.csv`` of the source; then only samples of one split are explained.
        split: which one; ``test`` where splits are given, ``all`` where not.
        limit: samples to explain at most.
        overwrite: replace earlier explanations.
        progress: called for the steps.
    """
    chosen_split = check_split(split, splits)
    if limit < 1:
        raise ConfigError(f"limit {limit}", "must be at least 1", "change --limit")
    started = time.monotonic()
    examinee = open_examinee(model)
    _check_maps(examinee)
    opened = open_source(source)
    indices = np.array(choose_indices(opened, splits, chosen_split), np.int64)
    if not len(indices):
        raise SourceError(f"source {source}", "has no sample", "use another source")
    inputs = {"source": opened.fingerprint(), "model": examinee.sha256}
    options = {"split": chosen_split, "limit": limit}
    with output_directory(out, "explain", overwrite=overwrite, inputs=inputs, options=options):
        images = load_images(opened, indices.tolist(), size=examinee.image_size, progress=progress)
        probabilities = examinee.probabilities(images)
        labels = encode_labels([opened.samples[index].label for index in indices], examinee.classes)
        rows = _choose(labels, probabilities, limit)
        explained = _explain(examinee, opened, indices[rows], images[rows], probabilities[rows])
        checked = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CHECKED)).round().astype(int)]
        predicted = probabilities[checked].argmax(axis=1)
        maps = examinee.maps(images[checked], predicted)
        check = check_maps(examinee.probabilities, images[checked], maps, predicted, progress=progress)
        result = Explained(
            split=chosen_split,
            source=str(source),
            model=str(model),
            method=examinee.method,
            map_size=tuple(maps.shape[1:]),
            n_samples=len(indices),
            n_explained=len(explained),
            n_mistakes_explained=sum(one.label_heat is not None for one in explained),
            check=check,
            seconds=time.monotonic() - started,
        )
        _write_maps(out, explained, progress)
        write_table(out / "explain.csv", _table(explained))
        write_text(out / "explain.html", _page(result, explained, examinee.classes))
        result.write(out / "explain.json")
    return result


def _check_maps(examinee: Examinee) -> None:
    """Let a model that has no maps refuse before anything is written."""
    size = examinee.image_size
    examinee.maps(np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int64))


def _choose(labels: IntArray, probabilities: FloatArray, limit: int) -> IntArray:
    """Return the rows of the worst mistakes, then of others spread evenly."""
    worst = worst_mistakes(labels, probabilities, min(_MISTAKES, limit))
    others = np.setdiff1d(np.arange(len(labels)), worst)
    count = min(limit - len(worst), len(others))
    spread = others[np.linspace(0, len(others) - 1, count).round().astype(int)] if count else others[:0]
    return np.concatenate([worst, spread])


def _explain(
    examinee: Examinee, source: Source, indices: IntArray, images: Images, probabilities: FloatArray
) -> list[_Explained]:
    """Explain samples by their indices in the source, images (N, S, S, 3) uint8 and probabilities (N, C)."""
    predicted = probabilities.argmax(axis=1)
    labels = [source.samples[index].label for index in indices]
    named = encode_labels(labels, examinee.classes)
    mistaken = np.flatnonzero((named >= 0) & (named != predicted))
    maps = examinee.maps(images, predicted)
    heat = normalise(maps)
    theirs: dict[int, FloatArray] = {}
    if len(mistaken):  # on the scale of the prediction's map: what speaks for the label is often next to nothing
        largest = np.maximum(maps[mistaken].max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
        found = examinee.maps(images[mistaken], named[mistaken]) / largest
        theirs = dict(zip(mistaken.tolist(), np.minimum(found, 1), strict=True))
    return [
        _Explained(
            index=int(index),
            sample_id=source.samples[index].sample_id,
            label=labels[row],
            predicted=examinee.classes[predicted[row]],
            confidence=float(probabilities[row].max()),
            image=source.image(int(index)).pixels,
            heat=heat[row],
            label_heat=theirs.get(row),
        )
        for row, index in enumerate(indices)
    ]


def _write_maps(out: Path, explained: Sequence[_Explained], progress: Progress) -> None:
    """Write each sample's image under its heat map as PNG, at the image's own size or 512 px."""
    (out / "maps").mkdir(exist_ok=True)
    for done, one in enumerate(explained):
        progress("writing maps", done, len(explained))
        image = Image.fromarray(one.image)
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
        drawn = Image.fromarray(overlay(np.asarray(image), one.heat))
        write_atomically(out / one.file, partial(drawn.save, format="PNG"))
    progress("writing maps", len(explained), len(explained))


def _table(explained: Sequence[_Explained]) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "sample_id": [one.sample_id for one in explained],
        "label": pl.Series([one.label for one in explained], dtype=pl.String),
        "predicted": [one.predicted for one in explained],
        "confidence": [round(one.confidence, 6) for one in explained],
        "map": [one.file for one in explained],
    }
    return pl.DataFrame(columns)


def _page(result: Explained, explained: Sequence[_Explained], classes: Sequence[str]) -> str:
    """Return ``explain.html``: the check, the mistakes, then the other samples by predicted class."""
    others = [one for one in explained if one.label_heat is None]
    groups = [(name, [_item(one) for one in others if one.predicted == name]) for name in classes]
    rows = [
        [name, f"{game.maps:.3f}", f"{game.random:.3f}", percent(game.better), _p(game.p)]
        for name, game in result.check.games().items()
    ]
    context = {
        "title": "What the model looks at",
        "result": result,
        "check_rows": rows,
        "mistakes": [_item(one) for one in explained if one.label_heat is not None],
        "groups": [(name, items) for name, items in groups if items],
        "scale": image_uri(_scale()),
    }
    return render_page("explain.html", "hemalens.evaluation", context)


def _item(one: _Explained) -> dict[str, Any]:
    """Return what the page shows of a sample: its image and its maps side by side, and its facts."""
    small = Image.fromarray(one.image).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image = np.asarray(small)
    sheet = [image, overlay(image, one.heat)]
    lines = [f"{one.predicted} {percent(one.confidence)}"]
    if one.label_heat is not None:
        sheet.append(overlay(image, one.label_heat))
        lines = [f"predicted {one.predicted} {percent(one.confidence)}, labelled {one.label}"]
    alt = f"{one.sample_id}, and what speaks for {one.predicted}"
    return {"uri": contact_sheet_uri(sheet, len(sheet), side=_SIDE), "alt": alt, "lines": [*lines, one.sample_id]}


def _scale() -> Images:
    heat = enlarge(np.linspace(0, 1, 128, dtype=np.float32)[None], (12, 128))
    return colour_heat(heat).round().astype(np.uint8)


def _p(value: float) -> str:
    return "<\N{NO-BREAK SPACE}0.001" if value < 0.001 else f"{value:.3f}"
