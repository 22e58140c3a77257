"""A model's answers on corrupted images to its robustness: balanced error and calibration at every severity, BE, rBE.

The benchmark is MedMNIST-C for blood cells. Of the corrupted images only the logits are kept. Needs no torch.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl

from hemalens.core.artifacts import write_table, write_text
from hemalens.core.charts import figure_svg
from hemalens.core.evaluation_summary import CorruptionFacts, Corruptions, CorruptionScore
from hemalens.core.metrics import balanced_accuracy, confusion_matrix, expected_calibration_error, softmax
from hemalens.core.types import CELL_CLASSES, FloatArray, Images, IntArray, Progress, no_progress
from hemalens.data.sources import Source
from hemalens.evaluation.corrupting import SETS, corrupted_copies
from hemalens.evaluation.corruptions import CORRUPTIONS, REFERENCE_SIDE
from hemalens.evaluation.figures import corruption_errors

__all__ = [
    "ALEXNET_CLEAN",
    "ALEXNET_ERRORS",
    "Scored",
    "corrupted_logits",
    "measure_robustness",
    "score_corruptions",
    "write_robustness",
]

ALEXNET_CLEAN = 0.01837
"""Balanced error of the paper's AlexNet on BloodMNIST's test images."""

ALEXNET_ERRORS: Mapping[str, float] = MappingProxyType({name: one.alexnet_error for name, one in CORRUPTIONS.items()})
"""Its balanced error under each corruption, mean over the severities."""

_SEED = 0  # all models are compared on the same images


@dataclass(frozen=True, slots=True)
class Scored:
    """What is scored: indices of the samples in their source, their labels (N,) in 0..C-1, the names of the C classes.

    ``predict`` turns images (N, size, size, 3) uint8 into logits (N, C); ``temperature`` calibrates them;
    ``clean_error`` is the balanced error on the images as they are.
    """

    indices: Sequence[int]
    labels: IntArray
    classes: Sequence[str]
    size: int
    predict: Callable[[Images], FloatArray]
    temperature: float
    clean_error: float


def measure_robustness(
    source: Source, scored: Scored, *, workers: int | None = None, progress: Progress = no_progress
) -> tuple[Corruptions, CorruptionFacts]:
    """Return the scores on every set of corrupted copies, and what they cost altogether.

    Args:
        source: where the samples are.
        scored: what is scored, and by what.
        workers: processes that corrupt; None for one a core, 0 for this process.
        progress: called after every chunk of samples.
    """
    started = time.monotonic()
    logits = corrupted_logits(source, scored, workers=workers, progress=progress)
    seconds = time.monotonic() - started
    errors = score_corruptions(logits, scored)
    return errors, CorruptionFacts(
        benchmark="MedMNIST-C for BloodMNIST (Di Salvo et al. 2024), parameters of medmnistc 0.1.0",
        corrupted_at=REFERENCE_SIDE,
        seed=_SEED,
        n=len(scored.indices),
        clean_balanced_error=scored.clean_error,
        mean_balanced_error=float(np.mean(list(errors.mean_errors().values()))),
        alexnet_mean_balanced_error=float(np.mean(list(ALEXNET_ERRORS.values()))),
        alexnet_errors=dict(ALEXNET_ERRORS),
        seconds=seconds,
    )


def corrupted_logits(
    source: Source, scored: Scored, *, workers: int | None = None, progress: Progress = no_progress
) -> FloatArray:
    """Return the logits (corruptions x severities, N, C) of every corrupted copy, severities of one after the other."""
    total = len(scored.indices)
    logits = np.zeros((len(SETS), total, len(scored.classes)), np.float32)
    progress("corrupting", 0, total)
    done = 0
    for copies in corrupted_copies(source, scored.indices, size=scored.size, seed=_SEED, workers=workers):
        count = copies.shape[1]
        answers = scored.predict(copies.reshape(-1, *copies.shape[2:]))
        logits[:, done : done + count] = answers.reshape(len(SETS), count, -1)
        done += count
        progress("corrupting", done, total)
    return logits


def score_corruptions(logits: FloatArray, scored: Scored) -> Corruptions:
    """Return balanced error and ECE of every set, ``be`` and ``rbe``, of logits (corruptions x severities, N, C).

    With e the mean error over the severities, a the AlexNet's and 0 marking clean images, BE is the mean of e / a
    over the corruptions and rBE that of (e - e0) / (a - a0), as medmnistc computes them (Di Salvo et al. 2024): 1 is as
    good as the AlexNet, 0 perfect. Both are None for other classes than the eight that the AlexNet was tested on.
    """
    found: dict[str, dict[str, CorruptionScore]] = {name: {} for name in CORRUPTIONS}
    for (name, severity), one in zip(SETS, logits, strict=True):
        matrix = confusion_matrix(scored.labels, one.argmax(axis=1), len(scored.classes))
        ece = expected_calibration_error(softmax(one / scored.temperature), scored.labels)
        found[name][str(severity)] = CorruptionScore(balanced_error=1 - float(balanced_accuracy(matrix)), ece=ece)
    means = Corruptions.of(found, None, None).mean_errors()
    comparable = tuple(scored.classes) == CELL_CLASSES
    clean, peer = scored.clean_error, ALEXNET_ERRORS
    relative = [means[name] / peer[name] for name in CORRUPTIONS]
    lost = [(means[name] - clean) / (peer[name] - ALEXNET_CLEAN) for name in CORRUPTIONS]
    be, rbe = (float(np.mean(relative)), float(np.mean(lost))) if comparable else (None, None)
    return Corruptions.of(found, be, rbe)


def write_robustness(out: Path, found: Corruptions, facts: CorruptionFacts) -> None:
    """Write ``corruptions.csv`` (a row a set) and ``corruptions.svg`` of what ``measure_robustness`` returned."""
    rows = [
        {"corruption": name, "severity": int(severity)} | dict(one)
        for name, levels in found.sets.items()
        for severity, one in levels.items()
    ]
    write_table(out / "corruptions.csv", pl.DataFrame(rows))
    errors = {name: [one.balanced_error for one in levels.values()] for name, levels in found.sets.items()}
    peer = facts.alexnet_errors if found.be is not None else None
    figure = corruption_errors(errors, clean=facts.clean_balanced_error, peer=peer)
    write_text(out / "corruptions.svg", figure_svg(figure, label="balanced error of each corruption by severity"))
