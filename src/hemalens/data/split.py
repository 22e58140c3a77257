"""Samples to train, val and test: stratified by class, with everything that belongs together in one split.

Belonging together means the same ``group`` (patient, slide), the same pixels or nearly the same image. A source that
brings its own splits keeps them. Needs no torch.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hemalens.core.artifacts import output_file, read_table, write_table
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.recorded import find_record, folder_record
from hemalens.core.types import IntArray, Progress, Sample, no_progress
from hemalens.data.audit.checks.near_duplicates import copies, near_duplicates
from hemalens.data.audit.measured import measure_unknown, read_statistics
from hemalens.data.audit.statistics import Statistics, measure_source
from hemalens.data.sources import Source, open_source

__all__ = [
    "RATIOS",
    "SPLITS",
    "assign",
    "choose_splits",
    "linked_units",
    "parse_ratios",
    "read_splits",
    "split",
    "splits_table",
]

_LOG = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
RATIOS = "83:13:4"
"""The course report's shares of train, val and test."""


def split(
    source: str | Path,
    out: Path,
    *,
    ratios: str = RATIOS,
    seed: int = 0,
    audit: Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``splits.csv`` (sample_id, label, group, split) for a source and return the counts per split and class.

    Args:
        source: any SOURCE.
        out: the table to write.
        ratios: shares of train, val and test.
        seed: of the draw.
        audit: an audit of the same images, whatever their ids: what it measured is not measured again. The splits are
            the same without it.
        overwrite: replace an earlier table.
        progress: called for the steps.

    Raises:
        ConfigError: wrong ratios.
        SourceError: only a part of the samples brings a split.
        ArtifactError: the audit is incomplete, or the output exists.
    """
    shares = parse_ratios(ratios)
    opened = open_source(source)
    known = None if audit is None else read_statistics(audit)
    with output_file(
        out,
        "split",
        overwrite=overwrite,
        seed=seed,
        inputs={"source": opened.fingerprint()},
        options={"ratios": ratios, "seed": seed},
    ):
        splits = choose_splits(opened, shares=shares, seed=seed, known=known, workers=None, progress=progress)
        table = splits_table(opened.samples, splits)
        write_table(out, table)
    counts = table.group_by("split", "label").len()
    return {
        "n_samples": table.height,
        "splits": {
            name: {
                label or "": count
                for label, count in counts.filter(pl.col("split") == name).sort("label").select("label", "len").rows()
            }
            for name in SPLITS
        },
        "out": str(out),
    }


def choose_splits(
    source: Source,
    *,
    shares: Sequence[float],
    seed: int = 0,
    known: Statistics | None = None,
    workers: int | None = 0,
    progress: Progress = no_progress,
) -> list[str]:
    """Return a split per sample: the source's own where it brings them, else drawn by ``assign``.

    Images that are not ``known`` are decoded to find their copies: here, or in ``workers`` processes (None for one a
    core).
    """
    own = _own_splits(source)
    if own is not None:
        return own
    labels = [sample.label or "" for sample in source.samples]
    if known is None:
        statistics = measure_source(source, workers=workers, progress=progress)
    else:
        statistics = measure_unknown(source, known, workers=workers, progress=progress)
    units = linked_units(source.samples, copies(near_duplicates(statistics), statistics))
    return [SPLITS[number] for number in assign(labels, units, shares=shares, seed=seed)]


def splits_table(samples: Sequence[Sample], splits: Sequence[str]) -> pl.DataFrame:
    """Return the table of ``splits.csv``: sample_id, label, group, split."""
    columns = {
        "sample_id": [sample.sample_id for sample in samples],
        "label": [sample.label for sample in samples],
        "group": [sample.group for sample in samples],
        "split": list(splits),
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Return the three shares, summing to 1, of a text like ``83:13:4``.

    >>> parse_ratios("8:1:1")
    (0.8, 0.1, 0.1)
    """
    rule = "must be three numbers, not negative, the first above zero"
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        raise ConfigError(f"ratios {text}", rule, "write for example 83:13:4") from None
    if len(parts) != len(SPLITS) or not np.isfinite(sum(parts)) or min(parts) < 0 or parts[0] <= 0:
        raise ConfigError(f"ratios {text}", rule, "write for example 83:13:4")
    train, val, test = (part / sum(parts) for part in parts)
    return train, val, test


def read_splits(path: Path, samples: Sequence[Sample]) -> list[str]:
    """Return each sample's split from a ``splits.csv``; raise ArtifactError unless every sample is in it once.

    One that a stage wrote must be as it was written; one without a record is the user's own, and a warning says so.
    """
    columns = {"sample_id": pl.String, "split": pl.String}
    record = find_record(path) or folder_record(path.parent)
    if record is None:
        _LOG.warning("splits %s have no record beside them: taken as your own", path)
    table = read_table(path, columns) if record is None else record.table(record.relative(path), columns)
    found: dict[str, str] = {}
    for line, (sample_id, name) in enumerate(table.select("sample_id", "split").iter_rows(), 2):
        if name not in SPLITS:
            what = f"split {name!r} in line {line} of {path}"
            raise ArtifactError(what, f"must be one of {', '.join(SPLITS)}", "mend the line")
        if found.setdefault(sample_id, name) != name:
            what = f"sample {sample_id} in line {line} of {path}"
            raise ArtifactError(what, f"is in {name} and, further up, in {found[sample_id]}", "delete one of the lines")
    missing = [sample.sample_id for sample in samples if sample.sample_id not in found]
    if missing:
        rule = f"is not in {path} ({len(missing)} of {len(samples)} samples are not)"
        raise ArtifactError(
            f"sample {missing[0]}", rule, "split this very source: hemalens split SOURCE --out splits.csv"
        )
    return [found[sample.sample_id] for sample in samples]


def linked_units(samples: Sequence[Sample], copies: Sequence[Sequence[int]]) -> IntArray:
    """Return a unit number per sample (N,): equal for samples linked by group or by copies, however indirectly.

    Args:
        samples: the source's samples.
        copies: indices of samples that show the same image.
    """
    first: dict[str, int] = {}
    links = [
        (first.setdefault(sample.group, index), index)
        for index, sample in enumerate(samples)
        if sample.group is not None
    ]
    links += [(members[0], index) for members in copies for index in members]
    ends = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links), bool), (ends[0], ends[1])), shape=(len(samples), len(samples)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def assign(labels: Sequence[str], units: IntArray, *, shares: Sequence[float], seed: int = 0) -> IntArray:
    """Return the number of a split per sample (N,), near the shares in every class, no unit in two splits.

    Units of several samples are placed first, the largest first, each where its classes lack most; the single samples
    of a class then fill its quotas (largest remainder) in an order drawn from the seed.
    """
    classes, coded = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    room = np.stack([_quotas(int(count), shares) for count in np.bincount(coded, minlength=len(classes))]).astype(float)
    generator = np.random.default_rng(seed)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, unit in enumerate(units.tolist()):
        members[unit].append(index)
    drawn = np.zeros(len(coded), np.int64)
    several = [unit for unit in members.values() if len(unit) > 1]
    several = [several[position] for position in generator.permutation(len(several))]
    for unit in sorted(several, key=len, reverse=True):
        counts = np.bincount(coded[unit], minlength=len(classes))
        # The split with most room for these classes, relative to its size, so that small ones get their share too.
        lack = (counts[:, None] * room).sum(axis=0) / np.maximum(np.asarray(shares), 1e-9)
        chosen = int(np.argmax(np.where(np.asarray(shares) > 0, lack, -np.inf)))
        drawn[unit] = chosen
        room[:, chosen] -= counts
    alone = np.array([unit[0] for unit in members.values() if len(unit) == 1], np.int64)
    for number in range(len(classes)):
        rows = generator.permutation(alone[coded[alone] == number])
        drawn[rows] = _fill(len(rows), room[number])
    return drawn


def _quotas(count: int, shares: Sequence[float]) -> IntArray:
    """Return whole counts that sum to ``count``, by largest remainder."""
    exact = np.asarray(shares) * count
    whole: IntArray = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: count - int(whole.sum())]] += 1
    return whole


def _fill(count: int, room: Sequence[float]) -> IntArray:
    """Return ``count`` numbers of splits, each as often as it has room; what groups took comes off the largest."""
    left = np.maximum(np.asarray(room), 0).astype(np.int64)
    left[int(np.argmax(left))] += count - int(left.sum())
    numbers: IntArray = np.repeat(np.arange(len(left)), np.maximum(left, 0))[:count]
    return numbers


def _own_splits(source: Source) -> list[str] | None:
    own = [sample.split for sample in source.samples]
    if all(value is None for value in own):
        return None
    missing = [sample.sample_id for sample in source.samples if sample.split is None]
    if missing:
        rule = f"has no split while other samples of {source.spec} have one"
        raise SourceError(f"sample {missing[0]}", rule, "give every sample a split, or none")
    return [value for value in own if value is not None]
