"""Statistics to findings: every check, its rows in the order a person would read them. Needs SciPy and scikit-learn."""

from collections.abc import Sequence

from hemalens.core.types import Sample
from hemalens.data.audit.checks.background import find_background_batches
from hemalens.data.audit.checks.duplicates import find_duplicates, find_label_conflicts
from hemalens.data.audit.checks.files import find_converted, find_odd_sizes, find_unreadable
from hemalens.data.audit.checks.finding import ISSUES, Finding
from hemalens.data.audit.checks.foreign import find_foreign
from hemalens.data.audit.checks.leakage import Against, find_leakage
from hemalens.data.audit.checks.near_duplicates import find_near_conflicts, find_near_duplicates, near_duplicates
from hemalens.data.audit.checks.outliers import OutlierAnalysis, analyse_outliers
from hemalens.data.audit.checks.quality import find_blurry, find_bright, find_dark
from hemalens.data.audit.statistics import Statistics

__all__ = ["arrange", "find_all"]


def find_all(
    statistics: Statistics,
    samples: Sequence[Sample],
    *,
    sides: Sequence[str | None] | None = None,
    against: Against | None = None,
) -> tuple[OutlierAnalysis, list[Finding]]:
    """Run every check; return the outlier analysis and all findings, ordered by issue, group and falling score.

    Args:
        statistics: what was measured.
        samples: the source's samples.
        sides: the split of each; the samples' own where None.
        against: another source that must share nothing with this one.
    """
    analysis = analyse_outliers(statistics)
    near = near_duplicates(statistics)
    sides = [sample.split for sample in samples] if sides is None else sides
    findings = [
        *find_unreadable(statistics),
        *find_converted(statistics),
        *find_odd_sizes(statistics),
        *find_duplicates(statistics, samples),
        *find_near_duplicates(near, statistics, samples),
        *find_label_conflicts(statistics, samples),
        *find_near_conflicts(near, statistics, samples),
        *find_foreign(statistics),
        *analysis.findings,
        *find_background_batches(statistics),
        *find_blurry(statistics),
        *find_dark(statistics),
        *find_bright(statistics),
        *find_leakage(near, statistics, samples, sides, against=against),
    ]
    return analysis, arrange(findings)


def arrange(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings ordered by issue, group and falling score."""
    order = {issue: index for index, issue in enumerate(ISSUES)}
    return sorted(findings, key=lambda f: (order[f.issue], f.group, -f.score, f.index))
