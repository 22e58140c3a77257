"""Statistics to findings: every check of the issue table, its rows in the order a person would read them.

A check is a function in ``checks/`` that returns findings; it is given what its arguments are named after: an attribute
of ``Inspection``. Needs SciPy and scikit-learn.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

from hemalens.core.types import FloatArray, Sample
from hemalens.data.audit import issues
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.checks.labels import LabelCheck, check_labels
from hemalens.data.audit.checks.leakage import Against
from hemalens.data.audit.checks.near_duplicates import near_duplicates
from hemalens.data.audit.checks.near_images import NearImages
from hemalens.data.audit.checks.outliers import OutlierAnalysis, analyse_outliers
from hemalens.data.audit.statistics import Statistics

__all__ = ["Inspection", "find_all", "suggested_drops"]

_CHECKS = "hemalens.data.audit.checks"


@dataclass
class Inspection:
    """What checks may look at; what several of them need is made once, when the first asks.

    Attributes:
        statistics: what was measured.
        samples: the source's samples.
        given_splits: the split of each sample; the samples' own where None.
        against: another source that must share nothing with this one.
        classes: the source's classes.
        probabilities: of the classes (N, C) by models that were not trained on the sample; None where there are none.
        dropped: the samples that the findings so far suggest to drop.
    """

    statistics: Statistics
    samples: Sequence[Sample]
    given_splits: Sequence[str | None] | None = None
    against: Against | None = None
    classes: Sequence[str] = ()
    probabilities: FloatArray | None = None
    dropped: set[int] = field(default_factory=set)

    @property
    def splits(self) -> Sequence[str | None]:
        """The split of each sample, None where it has none."""
        return [sample.split for sample in self.samples] if self.given_splits is None else self.given_splits

    @cached_property
    def near(self) -> NearImages:
        """The nearly equal images."""
        return near_duplicates(self.statistics)

    @cached_property
    def analysis(self) -> OutlierAnalysis:
        """Principal components and robust distances."""
        return analyse_outliers(self.statistics)

    @cached_property
    def labels(self) -> LabelCheck | None:
        """What the probabilities say of the labels of samples that nothing else suggests to drop."""
        if self.probabilities is None:
            return None
        return check_labels(self.samples, self.classes, self.probabilities, without=self.dropped)


def find_all(inspection: Inspection) -> list[Finding]:
    """Run every check of the issue table; return all findings, ordered by issue, group and falling score."""
    findings: list[Finding] = []
    for issue in sorted(issues.ISSUES, key=lambda one: one.last):
        for name in issue.checks:
            findings += _run(_find_check(name), inspection)
        inspection.dropped |= suggested_drops(findings)
    order = {name: index for index, name in enumerate(issues.issue_names())}
    return sorted(findings, key=lambda f: (order[f.issue], f.group, -f.score, f.index))


def suggested_drops(findings: Iterable[Finding]) -> set[int]:
    """Return the indices of the samples that at least one finding suggests to drop."""
    return {finding.index for finding in findings if finding.suggestion == "drop"}


def _find_check(name: str) -> Callable[..., Iterable[Finding]]:
    module, _, function = name.rpartition(".")
    found: Callable[..., Iterable[Finding]] = getattr(import_module(f"{_CHECKS}.{module}"), function)
    return found


def _run(check: Callable[..., Iterable[Finding]], inspection: Inspection) -> Iterable[Finding]:
    """Call a check with what it asks for by name; an argument with a default that is not there keeps its default."""
    wanted = inspect.signature(check).parameters.values()
    known = (one for one in wanted if one.default is inspect.Parameter.empty or hasattr(inspection, one.name))
    return check(**{one.name: getattr(inspection, one.name) for one in known})
