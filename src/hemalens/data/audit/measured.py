"""What an audit measured, written beside its tables and read again, so that later stages measure no image twice.

A cleaned source has ids of its own: an image is known again by the hash of its content. Needs polars; no torch.
"""

import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.lib import format as npy

from hemalens.core.artifacts import write_atomically
from hemalens.core.errors import ArtifactError, DecodeError
from hemalens.core.recorded import open_record
from hemalens.core.types import Images, Progress, no_progress
from hemalens.data.audit.statistics import THUMBNAIL, Measurement, Statistics, measure_source, pixels_sha256
from hemalens.data.sources import Source
from hemalens.data.sources.source import content_sha256

__all__ = ["measure_unknown", "read_statistics", "write_thumbnails"]

_THUMBNAILS = "thumbnails.npy"
_WHOLE = ("width", "height", "bytes")
_TEXT = ("mode", "sha256", "phash", "pixel_sha256", "conversions")
_IN_MANIFEST = ("width", "height", "mode", "bytes", "sha256", "phash")


def write_thumbnails(out: Path, statistics: Statistics) -> None:
    """Write what of the statistics is no column of a table, (N, 16, 16, 3) uint8, into an audit's directory."""
    write_atomically(out / _THUMBNAILS, lambda file: npy.write_array(file, statistics.thumbnails, allow_pickle=False))


def read_statistics(audit: Path) -> Statistics | None:
    """Return what an audit measured, in its source's order; None where an earlier version wrote it without.

    Raises ArtifactError where the audit is incomplete or damaged.
    """
    record = open_record(audit, "audit")
    if not record.has(_THUMBNAILS):
        return None
    kinds = {field.name: _kind(field.name) for field in fields(Measurement)}
    manifest = record.table("manifest.csv", {name: kinds[name] for name in _IN_MANIFEST})
    rest = {name: kind for name, kind in kinds.items() if name not in _IN_MANIFEST}
    table = record.table("statistics.csv", rest)
    thumbnails = _read_thumbnails(record.bytes(_THUMBNAILS), audit / _THUMBNAILS)
    if not manifest.height == table.height == len(thumbnails):
        rule = "does not have the rows of manifest.csv and statistics.csv"
        raise ArtifactError(f"file {audit / _THUMBNAILS}", rule, "audit the source again")
    joined = pl.concat([manifest.select(_IN_MANIFEST), table.select(list(rest))], how="horizontal")
    rows = tuple(_measurement(row) for row in joined.iter_rows(named=True))
    return Statistics(rows, tuple("" if row else "is unreadable" for row in rows), thumbnails)


def measure_unknown(
    source: Source, known: Statistics, *, workers: int | None = None, progress: Progress = no_progress
) -> Statistics:
    """Return the statistics of a source; only images that are not among the known ones are decoded and measured.

    Args:
        source: what ``open_source`` returned.
        known: what was measured before, of any samples.
        workers: processes that measure what is not known; None for one a core, 0 for this process.
        progress: called for the images that are measured.
    """
    rows = {}
    for row, measured in enumerate(known.measurements):
        if measured is not None:
            rows[measured.pixel_sha256] = row
            if not measured.mode.startswith("array:"):
                rows[measured.sha256] = row
    found = [rows.get(_content(source, index)) for index in range(len(source))]
    unknown = [index for index, row in enumerate(found) if row is None]
    measurements: list[Measurement | None] = [None if row is None else known.measurements[row] for row in found]
    reasons, thumbnails = [""] * len(source), np.zeros((len(source), THUMBNAIL, THUMBNAIL, 3), np.uint8)
    thumbnails[[row is not None for row in found]] = known.thumbnails[[row for row in found if row is not None]]
    if unknown:
        rest = measure_source(source.part(unknown), workers=workers, progress=progress)
        for row, index in enumerate(unknown):
            measurements[index], reasons[index] = rest.measurements[row], rest.reasons[row]
        thumbnails[unknown] = rest.thumbnails
    return Statistics(tuple(measurements), tuple(reasons), thumbnails)


def _content(source: Source, index: int) -> str:
    """Return the hash by which an image is known again, without decoding it; "" where it has none."""
    try:
        held = source.read(index)
    except DecodeError:
        return ""
    if isinstance(held, bytes):
        return content_sha256(held)
    return pixels_sha256(held) if held.dtype == np.uint8 and held.ndim == 3 and held.shape[2] == 3 else ""


def _measurement(row: Mapping[str, Any]) -> Measurement | None:
    return None if row["pixel_sha256"] is None else Measurement(**{**row, "conversions": row["conversions"] or ""})


def _kind(name: str) -> type[pl.DataType]:
    return pl.Int64 if name in _WHOLE else pl.String if name in _TEXT else pl.Float64


def _read_thumbnails(data: bytes, path: Path) -> Images:
    try:
        found = npy.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"file {path}", f"cannot be read ({error})", "audit the source again") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape[1:] != (THUMBNAIL, THUMBNAIL, 3):
        raise ArtifactError(f"file {path}", "holds no thumbnails", "audit the source again")
    return found
