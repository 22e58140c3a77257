"""Leakage: what should be apart and is not, the same picture or the same patient in two splits or two sources."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.core.types import Sample
from hemalens.data.audit.checks.finding import Finding, Suggestion
from hemalens.data.audit.checks.near_duplicates import certainty, copies, near_duplicates
from hemalens.data.audit.checks.near_pictures import NearPictures
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
    near: NearPictures
    own: int


def find_leakage(
    near: NearPictures,
    statistics: Statistics,
    samples: Sequence[Sample],
    sides: Sequence[str | None],
    *,
    against: Against | None = None,
) -> list[Finding]:
    """Report samples whose picture, nearly equal picture or group is also on another side.

    A picture that the other source has too is suggested to drop. Between splits of one source nothing is: there the
    duplicate findings say which copy stays, and a new split keeps copies and groups together. Groups are for review.

    Args:
        near: the nearly equal pictures of this source.
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
        places = [*own, *[f"source {against.name}"] * len(against.samples)]
        pool = _Pool(together, everyone, places, near_duplicates(together), len(samples))
    elif len(set(sides) - {None}) > 1:
        pool = _Pool(statistics, samples, sides, near, len(samples))
    else:
        return []
    pictures = _picture_leaks(pool)
    told = {finding.index for finding in pictures}
    return pictures + [finding for finding in _group_leaks(pool) if finding.index not in told]


def _picture_leaks(pool: _Pool) -> list[Finding]:
    findings = []
    for members in copies(pool.near, pool.statistics):
        by_side = _by_side(pool, members)
        if len(by_side) < 2:
            continue
        pixels = {place: _pixels(pool, place) for place in members}
        first = {pixels[place]: place for place in reversed(members)}
        equal: dict[tuple[str, str], int] = {}
        for side, places in by_side.items():
            for place in places:
                equal.setdefault((side, pixels[place]), place)
        for place in (place for places in by_side.values() for place in places if place < pool.own):
            other = _other_side(pool, by_side, place)
            link = pool.near.links.get(first[pixels[place]])
            same = equal.get((pool.sides[other] or "", pixels[place]))
            if same is not None or link is None:
                score, what, other = 1.0, "the same pixels as", other if same is None else same
            else:
                other = link.other if pool.sides[link.other] == pool.sides[other] else other
                score, what = certainty(link.misfit, pool.near.limit), "nearly the same picture as"
            suggestion: Suggestion = "drop" if other >= pool.own else "review"
            reason = f"{_where(pool, place)}{what} {_named(pool, other)}{_more(pool, by_side, place)}"
            findings.append(
                Finding(place, "leakage", score, f"leak-{pixels[members[0]][:12]}", suggestion, reason, other)
            )
    return findings


def _group_leaks(pool: _Pool) -> list[Finding]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(pool.samples):
        if sample.group:
            groups[sample.group].append(place)
    findings = []
    for name, members in groups.items():
        by_side = _by_side(pool, members)
        if len(by_side) < 2:
            continue
        for place in (place for places in by_side.values() for place in places if place < pool.own):
            other = _other_side(pool, by_side, place)
            reason = (
                f"{_where(pool, place)}of the same group {name} as {_named(pool, other)}{_more(pool, by_side, place)}"
            )
            findings.append(Finding(place, "leakage", 1.0, f"leak-group-{name}", "review", reason, other))
    return findings


def _by_side(pool: _Pool, members: Sequence[int]) -> dict[str, list[int]]:
    by_side: defaultdict[str, list[int]] = defaultdict(list)
    for place in members:
        if (side := pool.sides[place]) is not None:
            by_side[side].append(place)
    return by_side


def _other_side(pool: _Pool, by_side: dict[str, list[int]], place: int) -> int:
    """Return the first member on another side, one of the other source before one of another split."""
    firsts = [places[0] for side, places in by_side.items() if side != pool.sides[place]]
    return max(firsts, key=lambda first: (first >= pool.own, -first))


def _where(pool: _Pool, place: int) -> str:
    return f"in {pool.sides[place]}, " if pool.sides[place] else ""


def _named(pool: _Pool, place: int) -> str:
    return f"{pool.samples[place].sample_id} in {pool.sides[place] or 'this source'}"


def _more(pool: _Pool, by_side: dict[str, list[int]], place: int) -> str:
    count = sum(len(places) for side, places in by_side.items() if side != pool.sides[place]) - 1
    return f" and {count} more elsewhere" if count else ""


def _pixels(pool: _Pool, place: int) -> str:
    row = pool.statistics.measurements[place]
    assert row is not None  # only readable pictures are grouped
    return row.pixel_sha256
