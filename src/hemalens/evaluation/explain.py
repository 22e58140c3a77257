"""A model and samples to heat maps: one picture a sample, a page of them, and a check whether the maps mean something.

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

from hemalens.core.artifacts import output_directory, write_atomically, write_json, write_table, write_text
from hemalens.core.errors import ConfigError, SourceError
from hemalens.core.heatmaps import colour_heat, enlarge, normalise, overlay
from hemalens.core.page import contact_sheet_uri, percent, picture_uri, render_page
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress
from hemalens.data.sources import Source, open_source
from hemalens.evaluation.explainer import Explainer, open_explainer
from hemalens.evaluation.faithfulness import check_maps
from hemalens.training.decoding import load_images

__all__ = ["explain"]

_MISTAKES = 24
_CHECKED = 128  # pictures in the check: 34 answers and 34 more for the random map of each
_SIDE = 160  # of a picture on the page, in pixels
_LARGEST = 512  # of a heat map's file


@dataclass(frozen=True, slots=True)
class _Explained:
    """One explained sample.

    Its place in the source, what it is called and predicted, its picture as it came, and maps (h, w) in [0, 1] of the
    predicted class and, where that is a mistake, of its label on the same scale.
    """

    place: int
    sample_id: str
    label: str | None
    predicted: str
    confidence: float
    picture: Images
    heat: FloatArray
    label_heat: FloatArray | None

    @property
    def file(self) -> str:
        """Where its heat map is written."""
        return f"maps/{self.place:06d}.png"


def explain(
    model: Path,
    source: str | Path,
    out: Path,
    *,
    limit: int = 96,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write heat maps of samples, ``explain.csv``, ``explain.json`` and the page; return what ``explain.json`` holds.

    Args:
        model: a RUN directory, an .onnx file or ``embedded``.
        source: any SOURCE; labels are not needed.
        out: the directory to write.
        limit: samples to explain at most.
        overwrite: replace earlier explanations.
        progress: told about the steps.
    """
    if limit < 1:
        raise ConfigError(f"limit {limit}", "must be at least 1", "change --limit")
    started = time.monotonic()
    explainer = open_explainer(model)
    opened = open_source(source)
    if not len(opened):
        raise SourceError(f"source {source}", "has no sample", "use another source")
    inputs = {"source": opened.fingerprint(), "model": explainer.sha256}
    with output_directory(out, "explain", overwrite=overwrite, inputs=inputs, options={"limit": limit}):
        pictures = load_images(opened, range(len(opened)), size=explainer.image_size, progress=progress)
        probabilities = explainer.probabilities(pictures)
        places = _choose(opened, explainer.classes, probabilities, limit)
        explained = _explain(explainer, opened, pictures, probabilities, places)
        checked = places[np.linspace(0, len(places) - 1, min(len(places), _CHECKED)).round().astype(int)]
        predicted = probabilities.argmax(axis=1)
        maps = explainer.maps(pictures[checked], predicted[checked])
        check = check_maps(explainer.probabilities, pictures[checked], maps, predicted[checked], progress=progress)
        result = {
            "source": str(source),
            "model": str(model),
            "method": explainer.method,
            "map_size": list(maps.shape[1:]),
            "n_samples": len(opened),
            "n_explained": len(explained),
            "n_mistakes_explained": sum(one.label_heat is not None for one in explained),
            "check": check,
            "seconds": time.monotonic() - started,
        }
        _write_maps(out, explained, progress)
        write_table(out / "explain.csv", _table(explained))
        write_text(out / "explain.html", _page(result, explained, explainer.classes))
        write_json(out / "explain.json", result)
    return result


def _choose(source: Source, classes: Sequence[str], probabilities: FloatArray, limit: int) -> IntArray:
    """Return the places of the worst mistakes, then of others spread evenly."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(sample.label or "", -1) for sample in source.samples])
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero((labels >= 0) & (labels != predicted))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: min(_MISTAKES, limit)]
    others = np.setdiff1d(np.arange(len(labels)), worst)
    count = min(limit - len(worst), len(others))
    spread = others[np.linspace(0, len(others) - 1, count).round().astype(int)] if count else others[:0]
    return np.concatenate([worst, spread])


def _explain(
    explainer: Explainer, source: Source, pictures: Images, probabilities: FloatArray, places: IntArray
) -> list[_Explained]:
    predicted = probabilities[places].argmax(axis=1)
    labels = [source.samples[place].label for place in places]
    named = [explainer.classes.index(one) if one in explainer.classes else -1 for one in labels]
    mistaken = [row for row, number in enumerate(named) if number not in (-1, predicted[row])]
    maps = explainer.maps(pictures[places], predicted)
    heat = normalise(maps)
    theirs: dict[int, FloatArray] = {}
    if mistaken:  # on the scale of the prediction's map: what speaks for the label is often next to nothing
        asked = np.array([named[row] for row in mistaken])
        largest = np.maximum(maps[mistaken].max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
        found = explainer.maps(pictures[places[mistaken]], asked) / largest
        theirs = dict(zip(mistaken, np.minimum(found, 1), strict=True))
    return [
        _Explained(
            place=int(place),
            sample_id=source.samples[place].sample_id,
            label=labels[row],
            predicted=explainer.classes[predicted[row]],
            confidence=float(probabilities[place].max()),
            picture=source.picture(int(place)).pixels,
            heat=heat[row],
            label_heat=theirs.get(row),
        )
        for row, place in enumerate(places)
    ]


def _write_maps(out: Path, explained: Sequence[_Explained], progress: Progress) -> None:
    """Write each sample's picture under its heat map as PNG, at the picture's own size or 512 px."""
    (out / "maps").mkdir(exist_ok=True)
    for done, one in enumerate(explained):
        progress("writing maps", done, len(explained))
        picture = Image.fromarray(one.picture)
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
        drawn = Image.fromarray(overlay(np.asarray(picture), one.heat))
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


def _page(result: dict[str, Any], explained: Sequence[_Explained], classes: Sequence[str]) -> str:
    """Return ``explain.html``: the check, the mistakes, then the other samples by predicted class."""
    others = [one for one in explained if one.label_heat is None]
    groups = [(name, [_item(one) for one in others if one.predicted == name]) for name in classes]
    check = result["check"]
    games = [(name, check[name]) for name in ("deletion", "insertion") if name in check]
    rows = [
        [name, f"{game['maps']:.3f}", f"{game['random']:.3f}", percent(game["better"]), _p(game["p"])]
        for name, game in games
    ]
    context = {
        "title": "What the model looks at",
        "result": result,
        "check_rows": rows,
        "mistakes": [_item(one) for one in explained if one.label_heat is not None],
        "groups": [(name, items) for name, items in groups if items],
        "scale": picture_uri(_scale()),
    }
    return render_page("explain.html", "hemalens.evaluation", context)


def _item(one: _Explained) -> dict[str, Any]:
    """Return what the page shows of a sample: its picture and its maps side by side, and its facts."""
    small = Image.fromarray(one.picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    picture = np.asarray(small)
    sheet = [picture, overlay(picture, one.heat)]
    lines = [f"{one.predicted} {percent(one.confidence)}"]
    if one.label_heat is not None:
        sheet.append(overlay(picture, one.label_heat))
        lines = [f"predicted {one.predicted} {percent(one.confidence)}, labelled {one.label}"]
    alt = f"{one.sample_id}, and what speaks for {one.predicted}"
    return {"uri": contact_sheet_uri(sheet, len(sheet), side=_SIDE), "alt": alt, "lines": [*lines, one.sample_id]}


def _scale() -> Images:
    heat = enlarge(np.linspace(0, 1, 128, dtype=np.float32)[None], (12, 128))
    return colour_heat(heat).round().astype(np.uint8)


def _p(value: float) -> str:
    return "<\N{NO-BREAK SPACE}0.001" if value < 0.001 else f"{value:.3f}"
