"""What an audit found, as ``audit.json`` holds it: data writes it, the review, the report and the commands read it."""

from collections.abc import Mapping
from typing import ClassVar

from hemalens.core.metrics import Interval
from hemalens.core.records import Record

__all__ = [
    "AuditSummary",
    "ClassCount",
    "ClassShare",
    "FoundIssue",
    "Ignored",
    "LabelDoubts",
    "Leak",
    "LikenessMap",
    "Shortcut",
    "ShownImage",
    "SwappedLabels",
]


class ClassCount(Record):
    """How many samples a class has before and after the suggested drops."""

    before: int
    after: int


class FoundIssue(Record):
    """How often an issue was found, and what pages say of it: a row of the issue table.

    Attributes:
        samples: that have it.
        groups: of samples that have it together.
        title: what people call it, in the plural.
        words: what it means, without a capital and a full stop.
    """

    samples: int
    groups: int
    title: str
    words: str


class Ignored(Record):
    """An entry of the source that is no sample, and why."""

    name: str
    reason: str


class Leak(Record):
    """A class that an attribute gives away: the one-vs-rest area under the ROC curve, and its p-value, corrected."""

    label: str
    auroc: float
    p_value: float


class ClassShare(Record):
    """The share of a class among some samples, and among all."""

    label: str
    share: float
    usual: float


class Shortcut(Record):
    """What one attribute alone tells of the label.

    Attributes:
        attribute: a key of ``ATTRIBUTES``.
        accuracy: balanced accuracy of a tree on samples it has not seen, with its 95 % interval.
        chance: balanced accuracy of guessing: one over the number of classes.
        p_value: that guessing does as well, corrected for the number of tests.
        leaks: the classes it gives away, the most telling first; empty where the attribute says nothing certain.
        where: the most telling values in words, "" where nothing leaks.
        samples: how many samples have these values.
        shares: of the classes that are more frequent among them than in all.
    """

    attribute: str
    accuracy: Interval
    chance: float
    p_value: float
    leaks: tuple[Leak, ...]
    where: str
    samples: int
    shares: tuple[ClassShare, ...]


class SwappedLabels(Record):
    """How many samples of one label look like another class."""

    label: str
    looks_like: str
    samples: int


class LabelDoubts(Record):
    """What out-of-fold probabilities say of the labels.

    Attributes:
        checked: how many labels were checked.
        agreement: share of them that the most probable class confirms.
        noise: share of wrong labels by the confident joint; the model's own mistakes count as well.
        pairs: of the doubted labels, the most frequent first.
    """

    checked: int
    agreement: float
    noise: float
    pairs: tuple[SwappedLabels, ...]


class ShownImage(Record):
    """A small image kept beside the audit: its file there, its sample, and a few words such as "12 copies"."""

    file: str
    sample_id: str
    label: str
    words: str


class LikenessMap(Record):
    """The map of the samples by principal components.

    Attributes:
        explained: shares of the variance that the first two components explain.
        limit: of the squared Mahalanobis distance, beyond which a sample is an outlier; 0 for a set too small to say.
    """

    explained: tuple[float, ...]
    limit: float


class AuditSummary(Record):
    """The contents of ``audit.json``.

    Attributes:
        source: the SOURCE as it was named.
        kind: of the source.
        n_samples: in the source.
        n_unreadable: of them.
        n_ignored: entries of the source that are no samples.
        ignored: these entries.
        classes: class -> its samples; "" for samples without a label.
        are_blood_cells: whether all classes are known kinds of blood cells.
        issues: name -> what was found, in the order of the issue table; only issues that were found.
        suggested_drops: samples that at least one finding suggests to drop.
        shortcuts: what each attribute tells of the label.
        labels: None where labels were not checked by a model.
        against: the other source, None where there is none.
        n_against: samples of the other source.
        images: "classes" or the name of an issue -> images kept for the report.
        map: of the samples.
        findings_sha256: digest of what was found, which a person's decisions in ``issues.csv`` leave as it is.
        seconds: that the audit took.
    """

    written_by: ClassVar[str] = "audit"

    source: str
    kind: str
    n_samples: int
    n_unreadable: int
    n_ignored: int
    ignored: tuple[Ignored, ...]
    classes: Mapping[str, ClassCount]
    are_blood_cells: bool
    issues: Mapping[str, FoundIssue]
    suggested_drops: int
    shortcuts: tuple[Shortcut, ...]
    labels: LabelDoubts | None = None
    against: str | None = None
    n_against: int | None = None
    images: Mapping[str, tuple[ShownImage, ...]]
    map: LikenessMap
    findings_sha256: str
    seconds: float
