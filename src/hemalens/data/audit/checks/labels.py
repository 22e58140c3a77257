"""Labels that a model which never saw them doubts: confident learning on out-of-fold probabilities.

Needs numpy only; where the probabilities come from is not asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemalens.core.types import FloatArray, IntArray, Sample
from hemalens.data.audit.checks.finding import Finding

__all__ = [
    "LabelCheck",
    "check_labels",
    "class_thresholds",
    "confident_classes",
    "confident_joint",
    "doubt",
    "find_label_issues",
    "suspects",
]


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """What the probabilities say of the labels.

    Attributes:
        samples: how many labels were checked.
        agreement: share of them that the most probable class confirms.
        noise: share of wrong labels, estimated by the confident joint; the model's own mistakes count as well.
        pairs: (label, class it rather looks like, samples) of the findings, the most frequent first.
        findings: the doubted labels, for review, the most doubtful first.
    """

    samples: int
    agreement: float
    noise: float
    pairs: tuple[tuple[str, str, int], ...]
    findings: tuple[Finding, ...]


def check_labels(
    samples: Sequence[Sample],
    classes: Sequence[str],
    probabilities: FloatArray,
    *,
    without: frozenset[int] | set[int] = frozenset(),
) -> LabelCheck | None:
    """Report the samples whose label the probabilities contradict most; None where nothing can be checked.

    As many are reported as the confident joint says are wrong (``suspects``); the score is ``doubt``.

    Args:
        samples: N samples, labelled or not.
        classes: the C class names in the order of the columns.
        probabilities: (N, C), each row by a model that was not trained on that sample; NaN where there are none.
        without: indices to leave out, such as images that are suggested to drop anyway.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    coded = np.array([-1 if s.label is None else numbers.get(s.label, -1) for s in samples], np.int64)
    usable = (coded >= 0) & np.isfinite(probabilities).all(axis=1)
    usable[list(without)] = False
    indices = np.flatnonzero(usable)
    labels, probabilities = coded[indices], probabilities[indices].astype(np.float64)
    if len(np.unique(labels)) < 2:
        return None
    likely, score = probabilities.argmax(axis=1), doubt(labels, probabilities)
    joint = confident_joint(labels, probabilities)
    doubted = suspects(labels, probabilities)
    findings, counts = [], np.zeros((len(classes), len(classes)), np.int64)
    for row in doubted[np.argsort(-score[doubted], kind="stable")].tolist():
        given, other = int(labels[row]), int(likely[row])
        counts[given, other] += 1
        reason = f"looks like {classes[other]} ({100 * probabilities[row, other]:.0f} %) rather than {classes[given]} "
        reason += f"({100 * probabilities[row, given]:.0f} %) to a model that was not trained on it"
        findings.append(Finding(int(indices[row]), "label_issue", round(float(score[row]), 4), "", "review", reason))
    pairs = [(classes[a], classes[b], int(counts[a, b])) for a, b in np.argwhere(counts).tolist()]
    return LabelCheck(
        samples=len(indices),
        agreement=float((likely == labels).mean()),
        noise=float(1 - np.trace(joint) / joint.sum()),
        pairs=tuple(sorted(pairs, key=lambda pair: -pair[2])),
        findings=tuple(findings),
    )


def find_label_issues(labels: LabelCheck | None) -> tuple[Finding, ...]:
    """Report the doubted labels; none where no model was asked."""
    return labels.findings if labels else ()


def suspects(labels: IntArray, probabilities: FloatArray) -> IntArray:
    """Return the places (M,), ascending, of the labels to doubt: pruning by noise rate (Northcutt et al. 2021, 3.2).

    For each pair of classes as many samples as the confident joint counts there, those whose probability of the other
    class exceeds that of the label most; of these, the ones that another class is likelier for than the label.
    """
    margins = probabilities - probabilities[np.arange(len(labels)), labels][:, None]
    counts = np.rint(confident_joint(labels, probabilities)).astype(np.int64)
    chosen = np.zeros(len(labels), bool)
    for given, other in np.argwhere(counts).tolist():
        if given != other:
            members = np.flatnonzero(labels == given)
            chosen[members[np.argsort(-margins[members, other], kind="stable")[: counts[given, other]]]] = True
    return np.flatnonzero(chosen & (probabilities.argmax(axis=1) != labels))


def doubt(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return how much each label is doubted (N,) in [0, 1]: half of one minus the normalised margin.

    The margin is the probability of the given class minus that of the best other one: 1 is certainty of another class,
    0.5 a tie, 0 certainty of the label.

    >>> doubt(np.array([0, 0, 1]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])).tolist()
    [0.0, 1.0, 0.5]
    """
    rows = np.arange(len(labels))
    others = probabilities.astype(np.float64)
    own = others[rows, labels].copy()
    others[rows, labels] = -np.inf
    return np.asarray((1 - (own - others.max(axis=1))) / 2)


def class_thresholds(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return the mean probability of a class among the samples labelled with it (C,); infinity where there are none.

    Northcutt et al. 2021, eq. 2: a class that is hard to learn counts from a lower probability on.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_classes(labels: IntArray, probabilities: FloatArray) -> IntArray:
    """Return the most probable class that reaches its threshold (N,), -1 where none does (eq. 1)."""
    reached: npt.NDArray[np.bool_] = probabilities >= class_thresholds(labels, probabilities)
    best = np.where(reached, probabilities, -np.inf).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return counts (C, C) of given class and confident class, each row scaled to the samples of its class (eq. 3).

    A class without any confident sample is taken to be right.

    >>> confident_joint(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.05, 0.95], [0.1, 0.9], [0.1, 0.9]])).tolist()
    [[1.0, 1.0], [0.0, 2.0]]
    """
    n_classes = probabilities.shape[1]
    confident = confident_classes(labels, probabilities)
    known = confident >= 0
    flat = labels[known] * n_classes + confident[known]
    counts = np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes).astype(np.float64)
    empty = counts.sum(axis=1) == 0
    counts[empty, empty] = 1.0
    totals = np.bincount(labels, minlength=n_classes)
    return np.asarray(counts * (totals / counts.sum(axis=1))[:, None])
