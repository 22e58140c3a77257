"""A model and samples to its scores: intervals, calibration, distortions, groups, the worst mistakes.

Labels that the model does not know take no part in the scores; they are counted and predicted all the same. Needs torch
where the model is a RUN directory, and to draw distorted copies.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hemalens.core.abstention import Judgement, judge
from hemalens.core.artifacts import output_directory, write_table, write_text
from hemalens.core.charts import figure_svg
from hemalens.core.errors import ConfigError, SourceError
from hemalens.core.evaluation_summary import (
    Adaptation,
    ClassScores,
    CorruptionFacts,
    Corruptions,
    DistortedScore,
    Evaluation,
    Reliability,
    Scores,
)
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
from hemalens.core.types import FloatArray, IntArray, Progress, encode_labels, no_progress
from hemalens.data.reading.load import load_images
from hemalens.data.scale import find_scale
from hemalens.data.sources import Source, open_source
from hemalens.evaluation.chosen import Chosen, SplitName, check_split, choose_indices
from hemalens.evaluation.distorting import FIELD, distorted
from hemalens.evaluation.examinee import Examinee, open_examinee
from hemalens.evaluation.figures import confusion_matrix_figure, per_class_f1, reliability_diagram
from hemalens.evaluation.groups import background_batch, score_groups
from hemalens.evaluation.mistakes import write_mistakes
from hemalens.evaluation.robustness import Scored, measure_robustness, write_robustness
from hemalens.evaluation.trust import Answers, trust_scores
from hemalens.evaluation.trust_figures import abstention_histogram, class_reliability, risk_coverage_curve

__all__ = ["evaluate", "score"]


def evaluate(
    model: str | Path,
    source: str | Path,
    out: Path,
    *,
    splits: Path | None = None,
    split: SplitName | None = None,
    audit: Path | None = None,
    corruptions: bool = False,
    adapt: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score a model on a source and return what ``evaluation.json`` holds.

    Args:
        model: a RUN directory, an .onnx file or ``embedded``.
        source: any SOURCE with labels.
        out: the directory to write.
        splits: a ``splits.csv`` of the source; then only one split is scored.
        split: which one; ``test`` where splits are given, ``all`` where not.
        audit: an audit of the source's samples: its background batches are scored apart.
        corruptions: also score corrupted copies of every image (MedMNIST-C).
        adapt: first bring the images to the size of the training cells, told from their features, not from labels.
        overwrite: replace an earlier evaluation.
        progress: called for the steps.
    """
    chosen_split = check_split(split, splits)
    if adapt and corruptions:
        step = "leave one of them out"
        raise ConfigError("--adapt with --corruptions", "corrupted copies are scored at their own size", step)
    examinee = open_examinee(model)
    opened = open_source(source)
    indices = choose_indices(opened, splits, chosen_split)
    named = [opened.samples[index].label for index in indices]
    labels = encode_labels(named, examinee.classes)
    unknown = np.array([name is not None for name in named]) & (labels < 0)
    if not (labels >= 0).any():
        rule = f"has no sample labelled with a class of the model ({', '.join(examinee.classes)})"
        raise SourceError(f"source {source} ({chosen_split})", rule, "give labels, or use another source")
    batch = None if audit is None else background_batch(audit)
    options = {"split": chosen_split, "corruptions": corruptions, "adapt": adapt}
    inputs = {"source": opened.fingerprint(), "model": examinee.sha256}
    with output_directory(out, "evaluate", overwrite=overwrite, inputs=inputs, options=options):
        adaptation = _adaptation(examinee, opened, progress) if adapt else None
        zoom = adaptation.zoom if adaptation else 1.0
        images = load_images(opened, indices, size=examinee.image_size, zoom=zoom, progress=progress)
        chosen = Chosen(images, labels, unknown, tuple(indices))
        found, judgement = _evaluate(examinee, chosen, progress)
        hurt, facts = _robustness(examinee, opened, chosen, found, progress) if corruptions else (None, None)
        write_table(out / "predictions.csv", _predictions(opened, chosen, examinee.classes, judgement))
        result = Evaluation(
            split=chosen_split,
            source=str(source),
            model=examinee.network,
            adaptation=adaptation,
            corruptions=hurt,
            corruption_facts=facts,
            groups=score_groups(batch, opened, chosen, judgement.probabilities) if batch else None,
            worst_mistakes=write_mistakes(out, opened, chosen, examinee, judgement.probabilities),
            **found,
        )
        _write_figures(out, result)
        if hurt is not None and facts is not None:
            write_robustness(out, hurt, facts)
        result.write(out / "evaluation.json")
    return result


def score(labels: IntArray, probabilities: FloatArray, classes: Sequence[str]) -> Scores:
    """Return the scores of probabilities (N, C) for labels (N,) in 0..C-1."""
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    per_class = per_class_scores(matrix)
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.int64)
    return Scores(
        n=len(labels),
        classes=tuple(classes),
        accuracy=bootstrap_interval(matrix, accuracy),
        balanced_accuracy=bootstrap_interval(matrix, balanced_accuracy),
        macro_f1=bootstrap_interval(matrix, macro_f1),
        per_class={
            name: ClassScores(
                precision=float(per_class["precision"][index]),
                recall=float(per_class["recall"][index]),
                f1=float(per_class["f1"][index]),
                support=int(per_class["support"][index]),
            )
            for index, name in enumerate(classes)
        },
        confusion_matrix=tuple(map(tuple, matrix.tolist())),
        loss=cross_entropy(probabilities, labels),
        ece=expected_calibration_error(probabilities, labels),
        reliability=Reliability.of(reliability_bins(confidence, correct)),
    )


def _evaluate(examinee: Examinee, chosen: Chosen, progress: Progress) -> tuple[dict[str, Any], Judgement]:
    """Predict clean and distorted images; return fields of an Evaluation, and the answers to the clean ones.

    Temperature and limits are the model's own, from its validation samples.
    """
    abstention = examinee.abstention
    started = time.monotonic()
    features, logits = examinee.answer(chosen.images, progress)
    seconds = time.monotonic() - started
    judgement = judge(abstention, features, logits)
    known = chosen.labels >= 0
    labels = chosen.labels[known]
    answers = Answers(logits, chosen.labels, chosen.unknown)
    found = {
        **dict(score(labels, judgement.probabilities[known], examinee.classes)),
        **dict(trust_scores(answers, judgement, abstention, examinee.validation, examinee.classes)),
        "n_unknown_label": int((~known).sum()),
        "temperature": abstention.temperature,
        "ece_uncalibrated": expected_calibration_error(softmax(logits[known]), labels),
        "images_per_second": len(chosen.images) / max(seconds, 1e-9),
    }
    copies = distorted(chosen.images[known])
    if copies is not None:
        field_like = examinee.answer(copies, progress)[1]
        one = bootstrap_interval(confusion_matrix(labels, field_like.argmax(axis=1), len(examinee.classes)), accuracy)
        found["distorted"] = DistortedScore(value=one.value, low=one.low, high=one.high, description=FIELD)
    return found, judgement


def _adaptation(examinee: Examinee, source: Source, progress: Progress) -> Adaptation:
    """Return to which scale the whole source is brought, whatever part of it is scored."""
    found = find_scale(source, examinee.image_size, examinee.abstention, examinee.features, progress=progress)
    return Adaptation.from_json(found.to_json())


def _robustness(
    examinee: Examinee, source: Source, chosen: Chosen, found: dict[str, Any], progress: Progress
) -> tuple[Corruptions, CorruptionFacts]:
    """Score the corrupted copies of the samples whose label the model knows."""
    known = np.flatnonzero(chosen.labels >= 0)
    scored = Scored(
        indices=[chosen.indices[row] for row in known],
        labels=chosen.labels[known],
        classes=examinee.classes,
        size=examinee.image_size,
        predict=examinee.logits,
        temperature=examinee.abstention.temperature,
        clean_error=1 - found["balanced_accuracy"].value,
    )
    return measure_robustness(source, scored, progress=progress)


def _predictions(source: Source, chosen: Chosen, classes: Sequence[str], judgement: Judgement) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "sample_id": [source.samples[index].sample_id for index in chosen.indices],
        "label": pl.Series([source.samples[index].label for index in chosen.indices], dtype=pl.String),
        "predicted": [classes[number] for number in judgement.predicted],
        "confidence": judgement.confidence.round(6),
        "abstained": judgement.abstained,
        "reason": list(judgement.reasons),
    }
    columns |= {f"p_{name}": judgement.probabilities[:, index].round(6) for index, name in enumerate(classes)}
    return pl.DataFrame(columns)


def _write_figures(out: Path, result: Evaluation) -> None:
    before, after = result.calibration.before, result.calibration.after
    figures = {
        "confusion_matrix": (confusion_matrix_figure(result.confusion_matrix, result.classes), "confusion matrix"),
        "per_class_f1": (per_class_f1(result.per_class), "F1 of each class"),
        "reliability": (
            reliability_diagram(result.reliability, before=before.reliability),
            "confidence against accuracy",
        ),
        "reliability_by_class": (
            class_reliability(before.per_class, after.per_class),
            "probability of each class against its share",
        ),
        "risk_coverage": (
            risk_coverage_curve(result.risk_coverage, abstention=result.abstention),
            "error among the answers kept against their share",
        ),
    }
    if result.abstention.distance_threshold is not None:
        figures["abstention"] = (abstention_histogram(result.abstention), "distance from the training cells")
    for name, (figure, label) in figures.items():
        write_text(out / f"{name}.svg", figure_svg(figure, label=label))
