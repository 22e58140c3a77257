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
    """The audited samples, then those of the other source, with the split that each is in."""

    statistics: Statistics
    samples: Sequence[Sample]
    splits: Sequence[str | None]
    near: NearImages
    own: int


def find_leakage(
    near: NearImages,
    statistics: Statistics,
    samples: Sequence[Sample],
    splits: Sequence[str | None],
    *,
    against: Against | None = None,
) -> list[Finding]:
    """Report samples whose image, nearly equal image or group is also in another split or source.

    An image that the other source has too is suggested to drop. Between splits of one source nothing is: there the
    duplicate findings say which copy stays, and a new split keeps copies and groups together. Groups are for review.

    Args:
        near: the nearly equal images of this source.
        statistics: what was measured of it.
        samples: its samples.
        splits: the split of each, None where it has none.
        against: another source.
    """
    if against is not None:
        # A source without splits is one of its own; what has no name here cannot meet a split's name.
        own = ["" if split is None else split for split in splits]
        together = joined(statistics, against.statistics)
        everyone = [*samples, *against.samples]
        named = [*own, *[f"source {against.name}"] * len(against.samples)]
        pool = _Pool(together, everyone, named, near_duplicates(together), len(samples))
    elif len(set(splits) - {None}) > 1:
        pool = _Pool(statistics, samples, splits, near, len(samples))
    else:
        return []
    images = _image_leaks(pool)
    told = {finding.index for finding in images}
    return images + [finding for finding in _group_leaks(pool) if finding.index not in told]


def _image_leaks(pool: _Pool) -> list[Finding]:
    findings = []
    for members in copies(pool.near, pool.statistics):
        by_split = _by_split(pool, members)
        if len(by_split) < 2:
            continue
        pixels = {index: _pixels(pool, index) for index in members}
        first = {pixels[index]: index for index in reversed(members)}
        equal: dict[tuple[str, str], int] = {}
        for split, indices in by_split.items():
            for index in indices:
                equal.setdefault((split, pixels[index]), index)
        for index in (index for indices in by_split.values() for index in indices if index < pool.own):
            other = _elsewhere(pool, by_split, index)
            link = pool.near.links.get(first[pixels[index]])
            same = equal.get((pool.splits[other] or "", pixels[index]))
            if same is not None or link is None:
                score, what, other = 1.0, "the same pixels as", other if same is None else same
            else:
                other = link.other if pool.splits[link.other] == pool.splits[other] else other
                score, what = certainty(link.residual, pool.near.limit), "nearly the same image as"
            suggestion: Suggestion = "drop" if other >= pool.own else "review"
            reason = f"{_where(pool, index)}{what} {_named(pool, other)}{_more(pool, by_split, index)}"
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
        by_split = _by_split(pool, members)
        if len(by_split) < 2:
            continue
        for index in (index for indices in by_split.values() for index in indices if index < pool.own):
            other = _elsewhere(pool, by_split, index)
            reason = (
                f"{_where(pool, index)}of the same group {name} as {_named(pool, other)}{_more(pool, by_split, index)}"
            )
            findings.append(Finding(index, "leakage", 1.0, f"leak-group-{name}", "review", reason, other))
    return findings


def _by_split(pool: _Pool, members: Sequence[int]) -> dict[str, list[int]]:
    by_split: defaultdict[str, list[int]] = defaultdict(list)
    for index in members:
        if (split := pool.splits[index]) is not None:
            by_split[split].append(index)
    return by_split


def _elsewhere(pool: _Pool, by_split: dict[str, list[int]], index: int) -> int:
    """Return the first member in another split, one of the other source before one of another split."""
    firsts = [indices[0] for split, indices in by_split.items() if split != pool.splits[index]]
    return max(firsts, key=lambda first: (first >= pool.own, -first))


def _where(pool: _Pool, index: int) -> str:
    return f"in {pool.splits[index]}, " if pool.splits[index] else ""


def _named(pool: _Pool, index: int) -> str:
    return f"{pool.samples[index].sample_id} in {pool.splits[index] or 'this source'}"


def _more(pool: _Pool, by_split: dict[str, list[int]], index: int) -> str:
    count = sum(len(indices) for split, indices in by_split.items() if split != pool.splits[index]) - 1
    return f" and {count} more elsewhere" if count else ""


def _pixels(pool: _Pool, index: int) -> str:
    row = pool.statistics.measurements[index]
    assert row is not None  # only readable images are grouped
    return row.pixel_sha256
