"""Findings about the files themselves: unreadable, converted while reading, of an odd size."""

from collections import Counter

from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.statistics import Statistics

__all__ = ["find_converted", "find_odd_sizes", "find_unreadable"]

_SAME_SHAPE = 1.1
_SAME_SIZE = 1.5


def find_unreadable(statistics: Statistics) -> list[Finding]:
    """Report every sample that could not be decoded, with the decoder's reason; suggested to drop."""
    return [
        Finding(index, "unreadable", 1.0, "", "drop", reason)
        for index, reason in enumerate(statistics.reasons)
        if reason
    ]


def find_converted(statistics: Statistics) -> list[Finding]:
    """Report every sample that was decoded by a conversion rule (16-bit, alpha, palette, ...); kept."""
    return [
        Finding(index, "converted", 1.0, row.conversions, "keep", row.conversions)
        for index, row in enumerate(statistics.measurements)
        if row is not None and row.conversions
    ]


def find_odd_sizes(statistics: Statistics) -> list[Finding]:
    """Report samples whose shape or size departs from the most common one; kept, as size can leak the class.

    A sample is odd where its aspect ratio differs by more than a tenth, or its side by more than a half. Where fewer
    than half of the samples come near the most common size there is no usual size to depart from, and none is odd.
    """
    sizes = [None if row is None else (row.width, row.height) for row in statistics.measurements]
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        return []
    usual = min(counts, key=lambda size: (-counts[size], size))
    odd = {size for size in counts if _departs(size, usual)}
    share = sum(counts[size] for size in odd) / counts.total()
    if share > 0.5:
        return []
    findings = []
    for index, size in enumerate(sizes):
        if size in odd and size is not None:
            reason = f"{size[0]} x {size[1]} pixels; most images have {usual[0]} x {usual[1]}"
            findings.append(Finding(index, "odd_size", round(1 - share, 4), f"{size[0]}x{size[1]}", "keep", reason))
    return findings


def _departs(size: tuple[int, int], usual: tuple[int, int]) -> bool:
    aspect = (size[0] / size[1]) / (usual[0] / usual[1])
    scale = ((size[0] * size[1]) / (usual[0] * usual[1])) ** 0.5
    return max(aspect, 1 / aspect) > _SAME_SHAPE or max(scale, 1 / scale) > _SAME_SIZE
