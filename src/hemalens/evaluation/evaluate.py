"""A trained model and samples to its scores: intervals, calibration, distortions, groups, the worst mistakes.

Labels that the model does not know take no part in the scores; they are counted and predicted all the same.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from PIL import Image

from hemalens.core.artifacts import (
    output_directory,
    read_json,
    read_table,
    require_complete,
    write_atomically,
    write_json,
    write_table,
    write_text,
)
from hemalens.core.charts import figure_svg
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.heatmaps import normalise, overlay
from hemalens.core.metrics import (
    accuracy,
    balanced_accuracy,
    bootstrap_interval,
    confusion_matrix,
    cross_entropy,
    expected_calibration_error,
    macro_f1,
    per_class_scores,
    reliability_bins,
    softmax,
)
from hemalens.core.provenance import sha256_file
from hemalens.core.refusal import Judgement, Refusal, confidence_rule, judge
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress
from hemalens.data.sources import Source, content_sha256, open_source
from hemalens.data.split import read_splits
from hemalens.evaluation.figures import confusion_matrix_figure, per_class_f1, reliability_diagram
from hemalens.evaluation.gradcam import grad_cam
from hemalens.evaluation.robustness import Scored, measure_robustness, write_robustness
from hemalens.evaluation.trust import Answers, trust_scores
from hemalens.evaluation.trust_figures import class_reliability, refusal_histogram, risk_coverage_curve
from hemalens.training.checkpoint import LoadedModel, load_model, model_directory, read_validation
from hemalens.training.device import torch_threads
from hemalens.training.predicting import perturb, predict_features, predict_logits
from hemalens.training.tensors import encode_labels, load_images

__all__ = ["Side", "evaluate", "score"]

_LOG = logging.getLogger(__name__)

Side = Literal["train", "val", "test", "all"]
_WORST = 24
_FIELD = (
    "rotation, zoom, shear, shift, stain, white balance, contrast, blur, noise and cutout, strong and mixed, seeded"
)


@dataclass(frozen=True, slots=True)
class _Set:
    """The samples to score: pictures (N, S, S, 3) uint8, labels (N,) or -1, their places in the source.

    ``unknown`` (N,) bool says which are labelled with a class that the model does not know.
    """

    images: Images
    labels: IntArray
    unknown: npt.NDArray[np.bool_]
    places: tuple[int, ...]


def evaluate(
    model: Path,
    source: str | Path,
    out: Path,
    *,
    splits: Path | None = None,
    split: Side | None = None,
    audit: Path | None = None,
    corruptions: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Score a trained model on a source and return what ``evaluation.json`` holds.

    Args:
        model: a RUN directory.
        source: any SOURCE with labels.
        out: the directory to write.
        splits: a ``splits.csv`` of the source; then only one side is scored.
        split: which side; ``test`` where splits are given, ``all`` where not.
        audit: an audit of the source's samples: its background batches are scored apart.
        corruptions: also score 55 corrupted copies of every picture (MedMNIST-C).
        overwrite: replace an earlier evaluation.
        progress: told about the steps.
    """
    side = _check_side(split, splits)
    loaded = load_model(model)
    opened = open_source(source)
    chosen = _chosen(opened, splits, side)
    samples = [opened.samples[place] for place in chosen]
    labels = encode_labels([sample.label for sample in samples], loaded.classes)
    unknown = np.array([opened.samples[place].label is not None for place in chosen]) & (labels < 0)
    if not (labels >= 0).any():
        rule = f"has no sample labelled with a class of the model ({', '.join(loaded.classes)})"
        raise SourceError(f"source {source} ({side})", rule, "give labels, or use another source")
    batch = None if audit is None else _background_batch(audit)
    options = {"split": side, "corruptions": corruptions}
    inputs = {"source": opened.fingerprint(), "model": sha256_file(model_directory(model) / "model.safetensors")}
    with output_directory(out, "evaluate", overwrite=overwrite, inputs=inputs, options=options):
        with torch_threads(0):
            images = load_images(opened, chosen, size=loaded.image_size, progress=progress)
            scored = _Set(images, labels, unknown, tuple(chosen))
            result, judgement = _evaluate(loaded, model, scored, progress)
            if corruptions:
                result |= _robustness(loaded, opened, scored, result, progress)
        result = {"split": side, "source": str(source), "model": loaded.card["model"]} | result
        probabilities = judgement.probabilities
        if batch and (groups := _groups(batch, opened, scored, probabilities)):
            result["groups"] = groups
        write_table(out / "predictions.csv", _predictions(opened, scored, loaded.classes, judgement))
        result["worst_mistakes"] = _write_mistakes(out, opened, scored, loaded, probabilities)
        _write_figures(out, result, loaded.classes)
        if corruptions:
            write_robustness(out, result)
        write_json(out / "evaluation.json", result)
    return result


def score(labels: IntArray, probabilities: FloatArray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores of probabilities (N, C) for labels (N,) in 0..C-1, as ``evaluation.json`` names them."""
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    per_class = per_class_scores(matrix)
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.int64)
    return {
        "n": len(labels),
        "classes": list(classes),
        "accuracy": asdict(bootstrap_interval(matrix, accuracy)),
        "balanced_accuracy": asdict(bootstrap_interval(matrix, balanced_accuracy)),
        "macro_f1": asdict(bootstrap_interval(matrix, macro_f1)),
        "per_class": {
            name: {
                "precision": float(per_class["precision"][place]),
                "recall": float(per_class["recall"][place]),
                "f1": float(per_class["f1"][place]),
                "support": int(per_class["support"][place]),
            }
            for place, name in enumerate(classes)
        },
        "confusion_matrix": matrix.tolist(),
        "loss": cross_entropy(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "reliability": {name: values.tolist() for name, values in reliability_bins(confidence, correct).items()},
    }


def _check_side(split: Side | None, splits: Path | None) -> Side:
    if split is not None and split not in get_args(Side):
        raise ConfigError(f"split {split}", f"must be one of {', '.join(get_args(Side))}", "change --split")
    if split not in (None, "all") and splits is None:
        raise ConfigError(f"split {split}", "needs to know who is in it", "give --splits splits.csv")
    return split or ("all" if splits is None else "test")


def _chosen(source: Source, splits: Path | None, side: Side) -> list[int]:
    refused = {place for place, sample in enumerate(source.samples) if sample.refused}
    if refused:
        lone = source.samples[min(refused)]
        raise SourceError(f"sample {lone.sample_id}", f"cannot be read ({lone.refused})", "audit and clean the source")
    if splits is None or side == "all":
        return list(range(len(source)))
    chosen = [place for place, found in enumerate(read_splits(splits, source.samples)) if found == side]
    if not chosen:
        raise ArtifactError(f"split {side} in {splits}", "is empty", "split with a larger share, or choose another")
    return chosen


def _evaluate(loaded: LoadedModel, model: Path, scored: _Set, progress: Progress) -> tuple[dict[str, Any], Judgement]:
    """Predict clean and distorted pictures; temperature and limits come from the run's validation samples."""
    validation = read_validation(model_directory(model))
    refusal, rule = _refusal(model_directory(model), validation)
    pictures = torch.from_numpy(scored.images)
    started = time.monotonic()
    features, logits = predict_features(loaded.module, pictures, progress=progress)
    seconds = time.monotonic() - started
    judgement = judge(refusal, features, logits)
    known = scored.labels >= 0
    labels = scored.labels[known]
    result = score(labels, judgement.probabilities[known], loaded.classes)
    result |= {
        "n_unknown_label": int((~known).sum()),
        "temperature": refusal.temperature,
        "ece_uncalibrated": expected_calibration_error(softmax(logits[known]), labels),
        "pictures_per_second": len(pictures) / max(seconds, 1e-9),
    }
    result |= trust_scores(
        Answers(logits, scored.labels, scored.unknown), judgement, refusal, validation, loaded.classes
    )
    result["abstention"]["rule"] = rule
    field_like = predict_logits(loaded.module, perturb(pictures[torch.from_numpy(known)]), progress=progress)
    distorted = confusion_matrix(labels, field_like.argmax(axis=1), len(loaded.classes))
    result["perturbed"] = asdict(bootstrap_interval(distorted, accuracy)) | {"description": _FIELD}
    return result, judgement


def _refusal(run: Path, validation: tuple[FloatArray, IntArray]) -> tuple[Refusal, str]:
    """Return when a run's model refuses, and in words by what; runs of before kept no features to tell by."""
    path = run / "refusal.json"
    if path.is_file():
        return Refusal.from_json(read_json(path)), "distance from the training cells, and confidence"
    _LOG.warning("%s has no refusal.json: refused by confidence alone; train again to refuse what is no cell", run)
    return confidence_rule(*validation), "confidence alone: this run kept nothing of its training cells to compare with"


def _robustness(
    loaded: LoadedModel, source: Source, scored: _Set, result: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Score the corrupted copies of the samples whose label the model knows."""
    known = np.flatnonzero(scored.labels >= 0)
    chosen = Scored(
        places=[scored.places[row] for row in known],
        labels=scored.labels[known],
        classes=loaded.classes,
        size=loaded.image_size,
        predict=lambda pictures: predict_logits(loaded.module, torch.from_numpy(pictures)),
        temperature=result["temperature"],
        clean_error=1 - result["balanced_accuracy"]["value"],
    )
    return measure_robustness(source, chosen, progress=progress)


def _background_batch(audit: Path) -> set[str]:
    """Return the content hashes of the samples that an audit found on another background than the rest.

    Contents, not ids: cleaning into folders may give a sample another path, never other bytes.
    """
    require_complete(audit, "audit")
    issues = read_table(audit / "issues.csv", dict.fromkeys(("sample_id", "issue"), pl.String))
    manifest = read_table(audit / "manifest.csv", dict.fromkeys(("sample_id", "sha256"), pl.String))
    members = issues.filter(pl.col("issue") == "colour_cluster").select("sample_id").unique()
    return set(manifest.join(members, on="sample_id")["sha256"].drop_nulls().to_list())


def _groups(members: set[str], source: Source, scored: _Set, probabilities: FloatArray) -> dict[str, Any]:
    """Score the background batches that the audit found apart from the rest: does the pattern hurt?"""
    inside = np.array([content_sha256(source.read(place)) in members for place in scored.places])
    known, predicted = scored.labels >= 0, probabilities.argmax(axis=1)
    groups = {}
    for name, chosen in (("grey_background", inside & known), ("other", ~inside & known)):
        if chosen.any():
            matrix = confusion_matrix(scored.labels[chosen], predicted[chosen], probabilities.shape[1])
            groups[name] = {"n": int(chosen.sum()), "accuracy": asdict(bootstrap_interval(matrix, accuracy))}
    return groups if len(groups) == 2 else {}


def _predictions(source: Source, scored: _Set, classes: Sequence[str], judgement: Judgement) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "sample_id": [source.samples[place].sample_id for place in scored.places],
        "label": pl.Series([source.samples[place].label for place in scored.places], dtype=pl.String),
        "predicted": [classes[number] for number in judgement.predicted],
        "confidence": judgement.confidence.round(6),
        "abstained": judgement.abstained,
        "reason": list(judgement.reasons),
    }
    columns |= {f"p_{name}": judgement.probabilities[:, place].round(6) for place, name in enumerate(classes)}
    return pl.DataFrame(columns)


def _write_mistakes(
    out: Path, source: Source, scored: _Set, loaded: LoadedModel, probabilities: FloatArray
) -> list[dict[str, Any]]:
    """Write the pictures of the mistakes made with most confidence, each also under its heat map, worst first."""
    classes = loaded.classes
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero((scored.labels >= 0) & (predicted != scored.labels))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_WORST]
    (out / "mistakes").mkdir(exist_ok=True)
    maps = _heat_maps(loaded, scored.images[worst], predicted[worst])
    rows = []
    for rank, row in enumerate(worst.tolist(), 1):
        sample = source.samples[scored.places[row]]
        name, drawn = f"mistakes/{rank:02d}.png", None
        picture = source.picture(scored.places[row]).pixels
        write_atomically(out / name, partial(Image.fromarray(picture).save, format="PNG"))
        if maps is not None:
            drawn = f"mistakes/{rank:02d}-map.png"
            heated = Image.fromarray(overlay(picture, maps[rank - 1]))
            write_atomically(out / drawn, partial(heated.save, format="PNG"))
        facts = {"sample_id": sample.sample_id, "label": sample.label, "predicted": classes[predicted[row]]}
        rows.append(facts | {"confidence": float(confidence[row]), "picture": name, "map": drawn})
    return rows


def _heat_maps(loaded: LoadedModel, pictures: Images, classes: IntArray) -> FloatArray | None:
    """Return what speaks for the predicted classes (N, h, w) in [0, 1]; None where the network has no map."""
    try:
        return normalise(grad_cam(loaded.module, pictures, classes))
    except ConfigError:
        return None


def _write_figures(out: Path, result: Mapping[str, Any], classes: Sequence[str]) -> None:
    figures = {
        "confusion_matrix": (confusion_matrix_figure(result["confusion_matrix"], classes), "confusion matrix"),
        "per_class_f1": (per_class_f1(result["per_class"]), "F1 of each class"),
        "reliability": (
            reliability_diagram(result["reliability"], before=result["calibration"]["before"]["reliability"]),
            "confidence against accuracy",
        ),
        "reliability_by_class": (
            class_reliability(*(result["calibration"][when]["per_class"] for when in ("before", "after"))),
            "probability of each class against its share",
        ),
        "risk_coverage": (
            risk_coverage_curve(result["risk_coverage"], abstention=result["abstention"]),
            "error among the answers kept against their share",
        ),
    }
    if result["abstention"]["distance_threshold"] is not None:
        figures["refusal"] = (refusal_histogram(result["abstention"]), "distance from the training cells")
    for name, (figure, label) in figures.items():
        write_text(out / f"{name}.svg", figure_svg(figure, label=label))
