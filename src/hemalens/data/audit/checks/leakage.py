"""Leakage: what should be apart and is not, the same image or the same patient in two splits or two sources."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.core.types import Sample
from hemalens.data.audit.checks.finding import Finding, Suggestion
from hemalens.data.audit.checks.near_duplicates import certainty, copies, near_duplicates
from hemalens.data.audit.checks.near_images import NearImages
from hemalens.data.audit.statistics import Statistics, joined

__all__ = ["Against", "find_leakage"]


@dataclass(frozen=True, slots=True)
class Against:
    """Another source that must share nothing with the audited one: its name, what was measured, its samples."""

    name: str
    statistics: Statistics
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class _Pool:
    """The audited samples, then those of the other source, with the side each is on."""

    statistics: Statistics
    samples: Sequence[Sample]
    sides: Sequence[str | None]
    near: NearImages
    own: int


def find_leakage(
    near: NearImages,
    statistics: Statistics,
    samples: Sequence[Sample],
    sides: Sequence[str | None],
    *,
    against: Against | None = None,
) -> list[Finding]:
    """Report samples whose image, nearly equal image or group is also on another side.

    An image that the other source has too is suggested to drop. Between splits of one source nothing is: there the
    duplicate findings say which copy stays, and a new split keeps copies and groups together. Groups are for review.

    Args:
        near: the nearly equal images of this source.
        statistics: what was measured of it.
        samples: its samples.
        sides: the split of each, None where it has none.
        against: another source.
    """
    if against is not None:
        # A source without splits is one side; what has no name here cannot meet a split's name.
        own = ["" if side is None else side for side in sides]
        together = joined(statistics, against.statistics)
        everyone = [*samples, *against.samples]
        indices = [*own, *[f"source {against.name}"] * len(against.samples)]
        pool = _Pool(together, everyone, indices, near_duplicates(together), len(samples))
    elif len(set(sides) - {None}) > 1:
        pool = _Pool(statistics, samples, sides, near, len(samples))
    else:
        return []
    images = _image_leaks(pool)
    told = {finding.index for finding in images}
    return images + [finding for finding in _group_leaks(pool) if finding.index not in told]


def _image_leaks(pool: _Pool) -> list[Finding]:
    findings = []
    for members in copies(pool.near, pool.statistics):
        by_side = _by_side(pool, members)
        if len(by_side) < 2:
            continue
        pixels = {index: _pixels(pool, index) for index in members}
        first = {pixels[index]: index for index in reversed(members)}
        equal: dict[tuple[str, str], int] = {}
        for side, indices in by_side.items():
            for index in indices:
                equal.setdefault((side, pixels[index]), index)
        for index in (index for indices in by_side.values() for index in indices if index < pool.own):
            other = _other_side(pool, by_side, index)
            link = pool.near.links.get(first[pixels[index]])
            same = equal.get((pool.sides[other] or "", pixels[index]))
            if same is not None or link is None:
                score, what, other = 1.0, "the same pixels as", other if same is None else same
            else:
                other = link.other if pool.sides[link.other] == pool.sides[other] else other
                score, what = certainty(link.misfit, pool.near.limit), "nearly the same image as"
            suggestion: Suggestion = "drop" if other >= pool.own else "review"
            reason = f"{_where(pool, index)}{what} {_named(pool, other)}{_more(pool, by_side, index)}"
            findings.append(
                Finding(index, "leakage", score, f"leak-{pixels[members[0]][:12]}", suggestion, reason, other)
            )
    return findings


def _group_leaks(pool: _Pool) -> list[Finding]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(pool.samples):
        if sample.group:
            groups[sample.group].append(index)
    findings = []
    for name, members in groups.items():
        by_side = _by_side(pool, members)
        if len(by_side) < 2:
            continue
        for index in (index for indices in by_side.values() for index in indices if index < pool.own):
            other = _other_side(pool, by_side, index)
            reason = (
                f"{_where(pool, index)}of the same group {name} as {_named(pool, other)}{_more(pool, by_side, index)}"
            )
            findings.append(Finding(index, "leakage", 1.0, f"leak-group-{name}", "review", reason, other))
    return findings


def _by_side(pool: _Pool, members: Sequence[int]) -> dict[str, list[int]]:
    by_side: defaultdict[str, list[int]] = defaultdict(list)
    for index in members:
        if (side := pool.sides[index]) is not None:
            by_side[side].append(index)
    return by_side


def _other_side(pool: _Pool, by_side: dict[str, list[int]], index: int) -> int:
    """Return the first member on another side, one of the other source before one of another split."""
    firsts = [indices[0] for side, indices in by_side.items() if side != pool.sides[index]]
    return max(firsts, key=lambda first: (first >= pool.own, -first))


def _where(pool: _Pool, index: int) -> str:
    return f"in {pool.sides[index]}, " if pool.sides[index] else ""


def _named(pool: _Pool, index: int) -> str:
    return f"{pool.samples[index].sample_id} in {pool.sides[index] or 'this source'}"


def _more(pool: _Pool, by_side: dict[str, list[int]], index: int) -> str:
    count = sum(len(indices) for side, indices in by_side.items() if side != pool.sides[index]) - 1
    return f" and {count} more elsewhere" if count else ""


def _pixels(pool: _Pool, index: int) -> str:
    row = pool.statistics.measurements[index]
    assert row is not None  # only readable images are grouped
    return row.pixel_sha256
