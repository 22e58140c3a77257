"""Equal images: exact duplicates and copies of one image under several labels."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from hemalens.core.types import IntArray, Sample
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.statistics import Statistics

__all__ = ["distinct", "duplicate_groups", "find_duplicates", "find_label_conflicts"]


def duplicate_groups(statistics: Statistics) -> list[list[int]]:
    """Return the groups of two or more samples whose decoded pixels are equal, each in source order."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(statistics.measurements):
        if row is not None:
            groups[row.pixel_sha256].append(index)
    return [members for members in groups.values() if len(members) > 1]


def distinct(statistics: Statistics) -> IntArray:
    """Return the indices of the readable samples without further copies of equal images, ascending (M,)."""
    copies = [index for members in duplicate_groups(statistics) for index in members[1:]]
    return np.setdiff1d(np.flatnonzero(statistics.readable), copies)


def find_duplicates(statistics: Statistics, samples: Sequence[Sample]) -> list[Finding]:
    """Report equal images; the first of a group is kept, the copies are suggested to drop."""
    findings = []
    for members in duplicate_groups(statistics):
        first = samples[members[0]].sample_id
        group = _group("same", statistics, members)
        for index in members:
            if index == members[0]:
                reason = f"first of {len(members)} equal images"
                findings.append(Finding(index, "exact_duplicate", 1.0, group, "keep", reason))
            else:
                reason = f"same pixels as {first}"
                findings.append(Finding(index, "exact_duplicate", 1.0, group, "drop", reason))
    return findings


def find_label_conflicts(statistics: Statistics, samples: Sequence[Sample]) -> list[Finding]:
    """Report equal images with several labels; all of them are suggested to drop, as no label can be believed."""
    findings = []
    for members in duplicate_groups(statistics):
        labels = sorted({label for index in members if (label := samples[index].label) is not None})
        if len(labels) < 2:
            continue
        reason = f"{len(members)} equal images carry {len(labels)} labels: {', '.join(labels)}"
        group = _group("conflict", statistics, members)
        findings += [Finding(index, "label_conflict", 1.0, group, "drop", reason) for index in members]
    return findings


def _group(kind: str, statistics: Statistics, members: Sequence[int]) -> str:
    row = statistics.measurements[members[0]]
    assert row is not None
    return f"{kind}-{row.pixel_sha256[:12]}"
