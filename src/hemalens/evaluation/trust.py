"""Logits and labels to how far a model can be trusted: calibration, sets with a promise, what abstaining gains.

Everything that is fitted comes from the run's validation samples. Needs numpy and SciPy; neither torch nor training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from hemalens.core.abstention import Abstention, Judgement
from hemalens.core.calibration import aps_scores, lac_scores, prediction_sets, set_thresholds
from hemalens.core.evaluation_summary import (
    AbstentionScores,
    Calibration,
    CalibrationErrors,
    ClassCalibration,
    Conformal,
    Distances,
    Held,
    Reliability,
    RiskCoverage,
    SetScores,
    TrustScores,
    UnknownClasses,
)
from hemalens.core.metrics import Interval, expected_calibration_error, reliability_bins, softmax
from hemalens.core.types import FloatArray, IntArray
from hemalens.evaluation.openset import aurc, auroc, risk_coverage

__all__ = [
    "Answers",
    "abstention_scores",
    "calibration_scores",
    "conformal_scores",
    "distance_histogram",
    "risk_coverage_scores",
    "trust_scores",
]

BoolArray = npt.NDArray[np.bool_]

_COVERAGE = 0.9
_SET_SEED = 0
_POINTS = 101
_NEAREST, _BINS = 0.01, 40
_RULES = {
    True: "distance from the training cells, and confidence",
    False: "confidence alone: this run kept nothing of its training cells to compare with",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network said of N samples, and what is known of them.

    Attributes:
        logits: (N, C).
        labels: (N,), 0..C-1, or -1 where there is no label that the model knows.
        unknown: (N,) bool: labelled with a class that the model does not know.
    """

    logits: FloatArray
    labels: IntArray
    unknown: BoolArray


def trust_scores(
    answers: Answers,
    judgement: Judgement,
    abstention: Abstention,
    validation: tuple[FloatArray, IntArray] | None,
    classes: Sequence[str],
) -> TrustScores:
    """Return what abstaining gains, and how far probabilities and sets of answers keep their promise.

    Args:
        answers: the samples to be scored; one label at least is known.
        judgement: of the same samples.
        abstention: what it was judged by.
        validation: logits (M, C) and labels (M,) of the run's validation samples; None where they are not at hand, as
            beside an exported model: then sets are those of the thresholds it carries.
        classes: C names.
    """
    known = answers.labels >= 0
    labels, probabilities = answers.labels[known], judgement.probabilities[known]
    wrong = (judgement.predicted[known] != labels).astype(np.float64)
    if validation is None:
        sets = prediction_sets(lac_scores(probabilities), abstention.set_thresholds)
        conformal = Conformal(wanted=_COVERAGE, lac_by_class=_set_scores(sets, labels, classes))
    else:
        own = (softmax(validation[0] / abstention.temperature), validation[1])
        conformal = conformal_scores(own, (probabilities, labels), classes)
    return TrustScores(
        abstention=abstention_scores(answers, judgement, abstention),
        calibration=calibration_scores(answers.logits[known], labels, abstention.temperature, classes),
        conformal=conformal,
        risk_coverage={name: risk_coverage_scores(one[known], wrong) for name, one in _orders(judgement).items()},
    )


def calibration_scores(logits: FloatArray, labels: IntArray, temperature: float, classes: Sequence[str]) -> Calibration:
    """Return calibration errors and reliability bins before and after the temperature, of all and of each class.

    A class's error is that of its own probability over all samples (classwise ECE; Kull et al. 2019).

    Args:
        logits: (N, C).
        labels: (N,), 0..C-1.
        temperature: fitted on other samples.
        classes: C names.
    """
    before, after = (_calibration_errors(softmax(one), labels, classes) for one in (logits, logits / temperature))
    return Calibration(temperature=temperature, before=before, after=after)


def _calibration_errors(probabilities: FloatArray, labels: IntArray, classes: Sequence[str]) -> CalibrationErrors:
    right = (probabilities.argmax(axis=1) == labels).astype(np.int64)
    per_class = {}
    for index, name in enumerate(classes):
        bins = reliability_bins(probabilities[:, index], (labels == index).astype(np.int64))
        gaps = np.abs(bins["accuracy"] - bins["confidence"])
        error = float((bins["count"] * gaps).sum() / max(len(labels), 1))
        per_class[name] = ClassCalibration(ece=error, reliability=Reliability.of(bins))
    return CalibrationErrors(
        ece=expected_calibration_error(probabilities, labels),
        reliability=Reliability.of(reliability_bins(probabilities.max(axis=1), right)),
        per_class=per_class,
    )


def conformal_scores(
    validation: tuple[FloatArray, IntArray], scored: tuple[FloatArray, IntArray], classes: Sequence[str]
) -> Conformal:
    """Return how often 90 % sets hold the truth, overall and by class, and how large they are.

    Args:
        validation: calibrated probabilities (M, C) and labels (M,), from which the thresholds come.
        scored: probabilities (N, C) and labels (N,) of the samples to be scored.
        classes: C names.
    """
    draw = np.random.default_rng(_SET_SEED)
    draws = [draw.random(len(labels)) for _, labels in (validation, scored)]
    methods = {
        "lac": (lac_scores(validation[0]), lac_scores(scored[0])),
        "aps": (aps_scores(validation[0], draws[0]), aps_scores(scored[0], draws[1])),
    }
    found = {}
    for method, (own, others) in methods.items():
        for suffix, by_class in (("", False), ("_by_class", True)):
            thresholds = set_thresholds(own, validation[1], coverage=_COVERAGE, by_class=by_class)
            found[method + suffix] = _set_scores(prediction_sets(others, thresholds), scored[1], classes)
    return Conformal(wanted=_COVERAGE, **found)


def risk_coverage_scores(strangeness: FloatArray, wrong: FloatArray) -> RiskCoverage:
    """Return the area under the risk-coverage curve and 101 points of it, for strangeness (N,) and mistakes (N,)."""
    coverage, risk = risk_coverage(strangeness, wrong)
    indices = np.unique(np.linspace(0, len(coverage) - 1, _POINTS).round().astype(np.int64))
    return RiskCoverage(
        aurc=aurc(strangeness, wrong),
        least_aurc=aurc(wrong, wrong),
        coverage=tuple(coverage[indices].tolist()),
        risk=tuple(risk[indices].tolist()),
    )


def abstention_scores(answers: Answers, judgement: Judgement, abstention: Abstention) -> AbstentionScores:
    """Return what abstaining costs and gains for samples that were judged by ``abstention``."""
    known, strange = answers.labels >= 0, answers.unknown
    kept = known & ~judgement.abstained
    right = judgement.predicted == answers.labels
    by_distance = abstention.gaussians is not None
    return AbstentionScores(
        coverage=float((~judgement.abstained[known]).mean()),
        accuracy_kept=float(right[kept].mean()) if kept.any() else None,
        accuracy_abstained=float(right[known & ~kept].mean()) if (known & ~kept).any() else None,
        threshold=abstention.confidence_limit,
        distance_threshold=abstention.distance_limit if by_distance else None,
        rejection_rate=abstention.rejection_rate,
        histogram=distance_histogram(judgement, answers),
        rule=_RULES[by_distance],
        unknown_classes=_unknown_classes(judgement, known, strange) if strange.any() else None,
    )


def _unknown_classes(judgement: Judgement, known: BoolArray, strange: BoolArray) -> UnknownClasses:
    share = _held(judgement.abstained[strange])
    return UnknownClasses(
        n=share.n,
        abstained=Interval(share.coverage, share.low, share.high),
        auroc={name: auroc(one[known], one[strange]) for name, one in _orders(judgement).items()},
    )


def distance_histogram(judgement: Judgement, answers: Answers) -> Distances:
    """Return counts of the distances of right and wrong answers and unknown classes, between 41 ``edges``.

    Both lists are empty where nothing is known of the training cells.
    """
    known, right = answers.labels >= 0, judgement.predicted == answers.labels
    groups = {"right": known & right, "wrong": known & ~right, "unknown": answers.unknown}
    if np.isnan(judgement.distance).any():
        return Distances(edges=(), right=(), wrong=(), unknown=())
    shown = judgement.distance[known | answers.unknown]
    edges = np.geomspace(max(shown.min(), _NEAREST), max(shown.max(), 2 * _NEAREST), _BINS + 1)
    counts = {
        name: tuple(np.histogram(judgement.distance[group].clip(edges[0], edges[-1]), edges)[0].tolist())
        for name, group in groups.items()
    }
    return Distances(edges=tuple(edges.tolist()), **counts)


def _orders(judgement: Judgement) -> dict[str, FloatArray]:
    """Return the criteria by which samples can be put in order, the least trusted last."""
    found = {"confidence": -judgement.confidence}
    return found if np.isnan(judgement.distance).any() else found | {"distance": judgement.distance}


def _set_scores(sets: BoolArray, labels: IntArray, classes: Sequence[str]) -> SetScores:
    held = sets[np.arange(len(labels)), labels]
    sizes = sets.sum(axis=1)
    per_class = {name: _held(held[labels == index]) for index, name in enumerate(classes) if (labels == index).any()}
    empty = float((sizes == 0).mean())
    return SetScores(**dict(_held(held)), mean_size=float(sizes.mean()), empty=empty, per_class=per_class)


def _held(held: BoolArray) -> Held:
    """Return a share with its 95 % Wilson interval and the number of samples it rests on."""
    count = int(held.sum())
    low, high = binomtest(count, len(held)).proportion_ci(method="wilson")
    return Held(coverage=count / len(held), low=float(low), high=float(high), n=len(held))
