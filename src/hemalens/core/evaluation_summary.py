"""What an evaluation found, as ``evaluation.json`` holds it: evaluation writes it, report and commands read it.

Confidence intervals are of 95 %. Shares, accuracies and errors lie in [0, 1].
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict

from hemalens.core.metrics import Interval
from hemalens.core.records import Record

__all__ = [
    "AbstentionScores",
    "Adaptation",
    "Calibration",
    "CalibrationErrors",
    "ClassCalibration",
    "ClassScores",
    "Conformal",
    "CorruptionFacts",
    "CorruptionScore",
    "Corruptions",
    "Distances",
    "DistortedScore",
    "Evaluation",
    "GroupScore",
    "Groups",
    "Held",
    "Mistake",
    "Reliability",
    "RiskCoverage",
    "Scores",
    "SetScores",
    "TrustScores",
    "UnknownClasses",
]


class ClassScores(Record):
    """The scores of one class; ``support`` is how many samples have its label."""

    precision: float
    recall: float
    f1: float
    support: int


class Reliability(Record):
    """Samples, mean confidence and accuracy of equally wide bins of confidence over [0, 1]; empty bins hold zeros."""

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @classmethod
    def of(cls, bins: Mapping[str, npt.NDArray[np.number]]) -> Self:
        """Return the record of what ``metrics.reliability_bins`` returned."""
        return cls(**{name: tuple(values.tolist()) for name, values in bins.items()})


class ClassCalibration(Record):
    """How well the probability of one class is calibrated, over all samples."""

    ece: float
    reliability: Reliability


class CalibrationErrors(Record):
    """Calibration of the answers, and of each class's own probability."""

    ece: float
    reliability: Reliability
    per_class: Mapping[str, ClassCalibration]


class Calibration(Record):
    """Calibration before and after the logits are divided by the temperature."""

    temperature: float
    before: CalibrationErrors
    after: CalibrationErrors


class Distances(Record):
    """Counts of right and wrong answers and of unknown classes between ``edges`` of distance; all empty if unknown."""

    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    unknown: tuple[int, ...]


class UnknownClasses(Record):
    """How cells of classes that the model does not know fare.

    Attributes:
        n: how many there are.
        abstained: share of them that the model abstained on.
        auroc: witness -> the chance that it finds an unknown cell stranger than a known one.
    """

    n: int
    abstained: Interval
    auroc: Mapping[str, Interval]


class AbstentionScores(Record):
    """What abstaining costs and gains.

    Attributes:
        coverage: share of the samples that are answered.
        accuracy_kept: of the answers; None where there are none.
        accuracy_abstained: of the answers that would have been given to the others; None where there are none.
        threshold: least confidence of an answer.
        distance_threshold: largest distance from the training cells; None where confidence alone decides.
        rejection_rate: share of the validation samples that the limits abstain on.
        histogram: of distances.
        rule: by what the model abstains, in words.
        unknown_classes: None where the samples have only classes that the model knows.
    """

    coverage: float
    accuracy_kept: float | None
    accuracy_abstained: float | None
    threshold: float
    distance_threshold: float | None
    rejection_rate: float
    histogram: Distances
    rule: str
    unknown_classes: UnknownClasses | None = None


class Held(Record):
    """In which share of ``n`` samples the set of answers holds the true class, with its Wilson interval."""

    coverage: float
    low: float
    high: float
    n: int


class SetScores(Held):
    """How often sets hold the true class, how large they are on average, which share is empty."""

    mean_size: float
    empty: float
    per_class: Mapping[str, Held]


class Conformal(Record):
    """Sets that are to hold the true class in the wanted share of samples, by method.

    Without validation samples, as beside an exported model, only ``lac_by_class`` is known.
    """

    wanted: float
    lac: SetScores | None = None
    lac_by_class: SetScores
    aps: SetScores | None = None
    aps_by_class: SetScores | None = None

    def methods(self) -> dict[str, SetScores]:
        """Return the methods that were measured."""
        found = {name: getattr(self, name) for name in ("lac", "lac_by_class", "aps", "aps_by_class")}
        return {name: one for name, one in found.items() if one is not None}


class RiskCoverage(Record):
    """Risk (share of wrong answers) against coverage, the area under that curve, and the least that it could be."""

    aurc: float
    least_aurc: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


class DistortedScore(Record):
    """Accuracy on distorted copies of the samples, with its interval and what was done to them in words."""

    value: float
    low: float
    high: float
    description: str


class CorruptionScore(Record):
    """Balanced error and expected calibration error on one set of corrupted copies."""

    balanced_error: float
    ece: float


class Corruptions(Record):
    """Corruption -> severity -> scores, beside ``be`` and ``rbe``: the errors relative to those of the AlexNet.

    Both are None for other classes than the eight that the AlexNet was tested on.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Mapping[str, CorruptionScore]]

    be: float | None
    rbe: float | None

    @classmethod
    def of(cls, sets: Mapping[str, Mapping[str, CorruptionScore]], be: float | None, rbe: float | None) -> Self:
        """Return the record of scores by corruption and severity."""
        return cls.model_validate({**sets, "be": be, "rbe": rbe})

    @property
    def sets(self) -> Mapping[str, Mapping[str, CorruptionScore]]:
        """Corruption -> severity -> scores."""
        return self.__pydantic_extra__

    def mean_errors(self) -> dict[str, float]:
        """Return the mean balanced error of each corruption over its severities."""
        errors = {name: [one.balanced_error for one in levels.values()] for name, levels in self.sets.items()}
        return {name: float(np.mean(found)) for name, found in errors.items()}


class CorruptionFacts(Record):
    """How corrupted copies were made and what they cost altogether.

    Attributes:
        benchmark: what was followed.
        corrupted_at: side in pixels at which images are corrupted.
        seed: of the corruptions.
        n: samples that were corrupted.
        clean_balanced_error: on the samples as they are.
        mean_balanced_error: over all corruptions.
        alexnet_mean_balanced_error: the same of the benchmark's AlexNet.
        alexnet_errors: corruption -> balanced error of the AlexNet, mean over the severities.
        seconds: that it took.
    """

    benchmark: str
    corrupted_at: int
    seed: int
    n: int
    clean_balanced_error: float
    mean_balanced_error: float
    alexnet_mean_balanced_error: float
    alexnet_errors: Mapping[str, float]
    seconds: float


class GroupScore(Record):
    """The accuracy on some of the samples."""

    n: int
    accuracy: Interval


class Groups(Record):
    """The samples of an audit's background batches, and the others."""

    grey_background: GroupScore
    other: GroupScore


class Mistake(Record):
    """A wrong answer; ``image`` and ``map`` (its heat map, None where the model has none) lie beside the evaluation."""

    sample_id: str
    label: str
    predicted: str
    confidence: float
    image: str
    map: str | None


class Adaptation(Record):
    """To which scale the images were brought.

    Attributes:
        zoom: by which every image was enlarged; 1 where they stayed as they are.
        n_images: looked at for it.
        unlike: share of them unlike any training cell.
        distances: zoom -> median distance from the training cells.
        words: what was done and why.
    """

    zoom: float
    n_images: int
    unlike: float
    distances: Mapping[str, float]
    words: str


class Scores(Record):
    """What labels and probabilities alone say.

    Attributes:
        n: samples that were scored.
        classes: of the model, in its order.
        accuracy: with its interval, as the next two.
        balanced_accuracy: mean recall of the classes.
        macro_f1: mean F1 of the classes.
        per_class: class -> its scores.
        confusion_matrix: counts; rows are true classes, columns predicted ones.
        loss: cross-entropy in nats.
        ece: expected calibration error.
        reliability: of the answers.
    """

    n: int
    classes: tuple[str, ...]
    accuracy: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    per_class: Mapping[str, ClassScores]
    confusion_matrix: tuple[tuple[int, ...], ...]
    loss: float
    ece: float
    reliability: Reliability


class TrustScores(Record):
    """How far the answers can be trusted: abstaining, calibration, sets of answers, risk by witness of strangeness."""

    abstention: AbstentionScores
    calibration: Calibration
    conformal: Conformal
    risk_coverage: Mapping[str, RiskCoverage]


class Evaluation(TrustScores, Scores):
    """The contents of ``evaluation.json``.

    Attributes:
        split: the split that was scored, ``all`` for the whole source.
        source: the SOURCE as it was named.
        model: name of the network.
        n_unknown_label: samples without a label that the model knows; they take no part in the scores.
        temperature: by which logits are divided.
        ece_uncalibrated: expected calibration error before that.
        images_per_second: answered.
        worst_mistakes: the wrong answers of highest confidence, the surest first.
        adaptation: None where it was not asked for.
        distorted: None where no copies could be distorted.
        corruptions: None where they were not asked for.
        corruption_facts: the same.
        groups: None where there is no background batch.
    """

    written_by: ClassVar[str] = "evaluate"

    split: str
    source: str
    model: str
    n_unknown_label: int
    temperature: float
    ece_uncalibrated: float
    images_per_second: float
    worst_mistakes: tuple[Mistake, ...]
    adaptation: Adaptation | None = None
    distorted: DistortedScore | None = None
    corruptions: Corruptions | None = None
    corruption_facts: CorruptionFacts | None = None
    groups: Groups | None = None
