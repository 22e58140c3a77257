"""From a table of paths (.csv or .parquet) to a source of files.

The user wrote the paths, so absolute ones and ones that lead upwards are followed. Needs polars, when one is opened.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemalens.core.errors import SourceError
from hemalens.core.provenance import sha256_file
from hemalens.core.types import Sample
from hemalens.data.sources.entries import check_size, escape, number_repeats
from hemalens.data.sources.folders import FileSource
from hemalens.data.sources.labels import SPLITS, name_labels

__all__ = ["open_manifest"]

_COLUMNS = ("path", "label", "group", "split")


def open_manifest(path: Path, *, spec: str, classes: Sequence[str] | None = None) -> FileSource:
    """Open a table with ``path`` (relative to the table's folder, or absolute), ``label``, ``group`` and ``split``.

    All but ``path`` may be missing, and empty where unknown. A file that is missing or no regular file becomes a
    unreadable sample. Rows are counted from 1 below the header. Raises SourceError for a table that cannot be read, an
    empty path or an unknown split.
    """
    table = _read(path, spec)
    rows = len(table["path"])
    for row, value in enumerate(table["path"], start=1):
        if not value:
            raise SourceError(f"row {row} of {spec}", "has no path", "fill it in or delete the row")
    paths = [str(value) for value in table["path"]]
    raw = [_label(value, row, spec) for row, value in enumerate(table["label"], start=1)]
    if all(isinstance(label, int) or label is None or label.isdecimal() for label in raw):
        raw = [int(label) if label is not None else None for label in raw]
    labels, names = name_labels(raw, classes, what=spec)
    ids, repeated = number_repeats([escape(name) for name in paths])
    root = os.fspath(path.parent.absolute())
    samples, stamps = [], []
    for row in range(rows):
        unreadable, stamp = _inspect(Path(root, paths[row]))
        unreadable = "has the path of an earlier row (duplicate id)" if repeated[row] else unreadable
        group = table["group"][row]
        split = _split(table["split"][row], row + 1, spec)
        samples.append(Sample(ids[row], labels[row], None if group in (None, "") else str(group), split, unreadable))
        stamps.append(stamp)
    return FileSource(
        spec=spec,
        kind="manifest",
        samples=tuple(samples),
        classes=names,
        root=root,
        paths=tuple(paths),
        stamps=tuple(stamps),
        origin=sha256_file(path),
    )


def _read(path: Path, spec: str) -> dict[str, list[Any]]:
    """Return the known columns as lists, None throughout where a column is missing."""
    import polars as pl  # here: it takes 100 ms, and workers that only read images never need it

    try:
        table = pl.read_parquet(path) if path.suffix.lower() == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:  # it panics on broken Parquet
        reason = str(error).splitlines()[0]
        raise SourceError(f"manifest {spec}", f"cannot be read ({reason})", "save it as UTF-8 with commas") from error
    if "path" not in table.columns:
        found = ", ".join(table.columns)
        step = "name the column of file names 'path' and separate columns by commas"
        raise SourceError(f"manifest {spec}", f"lacks the column 'path' (it has {found})", step)
    if table.height == 0:
        raise SourceError(f"manifest {spec}", "lists no image", "add a row for each")
    return {name: table[name].to_list() if name in table.columns else [None] * table.height for name in _COLUMNS}


def _label(value: object, row: int, spec: str) -> int | str | None:
    if value is None or value == "" or value != value:  # NaN: missing in a float column
        return None
    if isinstance(value, float):
        if not value.is_integer():
            raise SourceError(f"label {value} in row {row} of {spec}", "is no class number", "write whole numbers")
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value).strip() or None


def _split(value: object, row: int, spec: str) -> str | None:
    if value is None or value == "":
        return None
    if str(value).strip().lower() not in SPLITS:
        rule = "is none of train, val, test"
        raise SourceError(f"split {value!r} in row {row} of {spec}", rule, "correct it or leave it empty")
    return SPLITS[str(value).strip().lower()]


def _inspect(path: Path) -> tuple[str | None, tuple[int, int]]:
    """Return (why it is unreadable or None, (bytes, modification time in ns))."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"cannot be found ({reason})", (0, 0)
    unreadable = check_size(status.st_size)
    if not stat.S_ISREG(status.st_mode):
        unreadable = "is no regular file"
    elif not os.access(path, os.R_OK):
        unreadable = "cannot be read (Permission denied)"
    return unreadable, (status.st_size, status.st_mtime_ns)
