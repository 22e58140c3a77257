"""Nearly equal images: copies encoded anew, resized, cropped by a hair, turned, mirrored, brighter or darker."""

from collections.abc import Sequence

from hemalens.core.types import Sample
from hemalens.data.audit.checks.duplicates import distinct, duplicate_groups
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.checks.near_images import Link, NearImages, near_images
from hemalens.data.audit.checks.structure_hash import ORIENTATIONS
from hemalens.data.audit.statistics import Measurement, Statistics

__all__ = ["certainty", "copies", "find_near_conflicts", "find_near_duplicates", "near_duplicates"]


def near_duplicates(statistics: Statistics) -> NearImages:
    """Return the groups of nearly equal images among the readable ones; of equal ones the first stands for all."""
    return near_images(statistics.thumbnails, distinct(statistics))


def copies(near: NearImages, statistics: Statistics) -> list[list[int]]:
    """Return the groups of two or more samples that show equal or nearly equal images, each in source order."""
    equal = {members[0]: members for members in duplicate_groups(statistics)}
    joined = [sorted(copy for index in group for copy in equal.pop(index, [index])) for group in near.groups]
    return joined + list(equal.values())


def find_near_duplicates(near: NearImages, statistics: Statistics, samples: Sequence[Sample]) -> list[Finding]:
    """Report nearly equal images; the best of a group is kept, the others are suggested to drop.

    The best is labelled, has the most pixels, then the most bytes, then comes first. Where the labels differ all are
    for review: one of them is wrong, or two cells look nearly the same.
    """
    labels = _labels(near, statistics, samples)
    findings = []
    for group, found in zip(near.groups, labels, strict=True):
        best = max(group, key=lambda index: (samples[index].label is not None, *_size(_row(statistics, index)), -index))
        name = _group("near", statistics, group)
        for index in group:
            link = near.links[index]
            score = certainty(link.residual, near.limit)
            reason = _reason(link, near.limit, samples)
            if len(found) > 1:
                reason += f"; the labels of the group differ: {', '.join(found)}"
                findings.append(Finding(index, "near_duplicate", score, name, "review", reason, link.other))
            elif index == best:
                reason = f"best of {len(group)} nearly equal images: {reason}"
                findings.append(Finding(index, "near_duplicate", score, name, "keep", reason, link.other))
            else:
                findings.append(Finding(index, "near_duplicate", score, name, "drop", reason, link.other))
    return findings


def find_near_conflicts(near: NearImages, statistics: Statistics, samples: Sequence[Sample]) -> list[Finding]:
    """Report nearly equal images with several labels, for review: unlike equal pixels, likeness is no proof."""
    findings = []
    for group, found in zip(near.groups, _labels(near, statistics, samples), strict=True):
        if len(found) < 2:
            continue
        name = _group("near-conflict", statistics, group)
        reason = f"{len(group)} nearly equal images carry {len(found)} labels: {', '.join(found)}"
        for index in group:
            link = near.links[index]
            score = certainty(link.residual, near.limit)
            findings.append(Finding(index, "label_conflict", score, name, "review", reason, link.other))
    return findings


def certainty(residual: float, limit: float) -> float:
    """Return 1 for equal images, falling to 0.5 at the limit."""
    return round(1 - residual / limit / 2, 4)


def _labels(near: NearImages, statistics: Statistics, samples: Sequence[Sample]) -> list[list[str]]:
    """Return the labels of each group, those of its members' equal copies among them."""
    equal = {members[0]: members for members in duplicate_groups(statistics)}
    found = []
    for group in near.groups:
        every = (copy for index in group for copy in equal.get(index, [index]))
        found.append(sorted({label for index in every if (label := samples[index].label) is not None}))
    return found


def _reason(link: Link, limit: float, samples: Sequence[Sample]) -> str:
    turned = f" {ORIENTATIONS[link.turn]}" if link.turn else ""
    shares = (
        f"{100 * link.residual:.1f} % of the structure differs, copies in this set may differ by {100 * limit:.1f} %"
    )
    return f"nearly the same as {samples[link.other].sample_id}{turned} ({shares})"


def _row(statistics: Statistics, index: int) -> Measurement:
    row = statistics.measurements[index]
    assert row is not None  # only readable images are grouped
    return row


def _size(row: Measurement) -> tuple[int, int]:
    return row.width * row.height, row.bytes


def _group(kind: str, statistics: Statistics, group: Sequence[int]) -> str:
    return f"{kind}-{_row(statistics, group[0]).pixel_sha256[:12]}"
