"""Files that are whole or not there: atomic writes, and directories that their provenance completes, written last.

What a stage wrote is read by its record (``core.recorded``), which compares hashes. Needs polars for tables; no torch.
"""

import glob
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import polars as pl

from hemalens.core.errors import ArtifactError
from hemalens.core.locking import LOCK, locked
from hemalens.core.provenance import PROVENANCE, STARTED, provenance, sha256_file
from hemalens.core.spreadsheet import from_spreadsheet, to_spreadsheet
from hemalens.core.strict_json import read_json

__all__ = [
    "PROVENANCE",
    "check_vacant",
    "find_table",
    "is_complete",
    "is_marker",
    "output_directory",
    "output_file",
    "parse_table",
    "provenance_path",
    "read_json",
    "read_provenance",
    "read_table",
    "remove_leftovers",
    "text_digest",
    "write_atomically",
    "write_json",
    "write_table",
    "write_text",
]

_STARTED_WORDS = "hemalens is writing here; without provenance.json this directory is incomplete"
_PARQUET_ROWS = 1_000_000
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)  # what a process leaves that was killed while writing


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, fsync it and rename it into place.

    A reader sees the old file or the new one, never a part. Raises ArtifactError where the disk refuses.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise ArtifactError(
            f"output {path}", f"cannot be written ({error.strerror})", "choose another --out"
        ) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _fsync_directory(path.parent)
    except OSError as error:
        rule = f"cannot be written ({error.strerror or error})"
        raise ArtifactError(f"output {path}", rule, "free some space or choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, table: pl.DataFrame) -> Path:
    """Write a table as CSV (see ``core.spreadsheet``), or as Parquet from a million rows; return the path written."""
    if path.suffix == ".parquet" or table.height >= _PARQUET_ROWS:
        twin = path.with_suffix(".parquet")
        write_atomically(twin, lambda file: _write_parquet(table, file))
        if twin != path:
            path.unlink(missing_ok=True)  # an older CSV would be read in its place
        return twin
    buffer = io.BytesIO()
    to_spreadsheet(table).write_csv(buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
    return path


def _write_parquet(table: pl.DataFrame, file: IO[bytes]) -> None:
    try:
        table.write_parquet(file)
    except pl.exceptions.ComputeError as error:  # what polars makes of a full disk
        raise OSError(str(error)) from error


def find_table(path: Path) -> Path | None:
    """Return where a table lies: at ``path`` or, where a CSV grew too large, in its Parquet twin; None if nowhere."""
    written = _as_written(path)
    return written if written.is_file() else None


def read_table(path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Read a table that no record vouches for; its named columns come back with the given types.

    Where ``path`` is a CSV that is missing and its Parquet twin exists, the twin is read.
    """
    path = _as_written(path)
    if not path.is_file():
        raise ArtifactError(f"table {path}", "does not exist", "run the stage that writes it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"table {path}", f"cannot be read ({error.strerror})", "check its permissions") from error
    return parse_table(data, path, columns)


def parse_table(data: bytes, path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Return the table in the bytes of a CSV or Parquet file and check that it has the named columns.

    They come back with the given types, others of a CSV as text.
    """
    try:
        parquet = path.suffix == ".parquet"
        table = pl.read_parquet(data) if parquet else from_spreadsheet(pl.read_csv(data, infer_schema=False))
        missing = [name for name in columns if name not in table.columns]
        if missing:
            raise ArtifactError(f"table {path}", f"lacks the column {missing[0]!r}", "write it again with its stage")
        return table.with_columns(pl.col(name).cast(kind) for name, kind in columns.items())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        rule = f"cannot be read ({[*str(error).splitlines(), type(error).__name__][0]})"
        raise ArtifactError(f"table {path}", rule, "correct the line or write the file again") from error


def provenance_path(output: Path) -> Path:
    """Return where an output's provenance lies: inside a directory, beside a file."""
    return output / PROVENANCE if output.is_dir() else output.with_name(f"{output.name}.{PROVENANCE}")


def read_provenance(output: Path) -> dict[str, Any] | None:
    """Return an output's provenance, None where it has none (it is incomplete or not ours)."""
    path = provenance_path(output)
    return read_json(path) if path.is_file() else None


def is_complete(output: Path, *, options: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Tell whether an output was written to its end from the same inputs with the same options and is still there."""
    if not _as_written(output).exists() or (found := read_provenance(output)) is None:
        return False
    home = output if output.is_dir() else output.parent
    outputs = found.get("outputs")
    present = isinstance(outputs, dict) and all((home / name).exists() for name in outputs)
    same_options = json.loads(json.dumps(dict(options))) == found.get("options")
    return present and same_options and dict(inputs) == found.get("inputs")


def check_vacant(path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Raise ArtifactError where ``output_directory`` would refuse a path for what is there; touch nothing."""
    _refuse_file(path)
    try:
        occupied = path.is_dir() and any(
            entry.name != LOCK and not _TEMPORARY.fullmatch(entry.name) for entry in path.iterdir()
        )
    except OSError as error:
        raise ArtifactError(
            f"output {path}", f"cannot be written ({error.strerror})", "choose another --out"
        ) from error
    if occupied and not ((path / STARTED).exists() or overwrite or resume):
        raise ArtifactError(
            f"output {path}", "exists already and is not empty", "add --overwrite or choose another --out"
        )


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"output {path}", "is a file, a directory is to be written", "choose another --out")


@contextmanager
def output_directory(
    path: Path,
    command: str,
    *,
    overwrite: bool = False,
    resume: bool = False,
    seed: int | None = None,
    inputs: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Open a directory to write a stage's files into; its provenance is written last, only if the body succeeds.

    A directory that hemalens started and did not finish may be written again; any other that is not empty is refused
    unless ``overwrite``. Overwriting removes what the earlier run listed as its own files and nothing else; with
    ``resume`` earlier files stay. One process at a time writes there: a second is told who does.
    """
    _refuse_file(path)
    _make_directory(path)
    with locked(path, command):
        foreign = _claim_directory(path, overwrite=overwrite, resume=resume)
        yield path
        record = provenance(command, seed=seed, inputs=inputs or {}, options=options)
        ours = sorted(name for name, stamp in _stamps(path).items() if foreign.get(name) != stamp)
        record["outputs"] = {name: sha256_file(path / name) for name in ours}
        write_json(path / PROVENANCE, record)
        (path / STARTED).unlink(missing_ok=True)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"output {path}", f"cannot be written ({error.strerror})", "choose another --out"
        ) from error


@contextmanager
def output_file(
    path: Path,
    command: str,
    *,
    overwrite: bool = False,
    seed: int | None = None,
    inputs: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    beside: Sequence[str] = (),
) -> Iterator[Path]:
    """Guard a single output file: refuse an existing one unless ``overwrite``, write its provenance beside it last.

    The files named in ``beside`` are recorded with it where they are there at the end.
    """
    _check_file(path, overwrite=overwrite)
    _make_directory(path.parent)
    with locked(path, command):
        _check_file(path, overwrite=overwrite)  # another process may have completed it meanwhile
        try:
            provenance_path(path).unlink(missing_ok=True)
            remove_leftovers(path)
        except OSError as error:
            raise ArtifactError(
                f"output {path}", f"cannot be written ({error.strerror})", "choose another --out"
            ) from error
        yield path
        record = provenance(command, seed=seed, inputs=inputs or {}, options=options)
        written = [file for file in map(_as_written, (path, *map(path.with_name, beside))) if file.exists()]
        record["outputs"] = {file.name: sha256_file(file) for file in written}
        write_json(provenance_path(path), record)


def _check_file(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise ArtifactError(f"output {path}", "is a directory, a file is to be written", "name a file in --out")
    present = _as_written(path).exists()
    if present and provenance_path(path).exists() and not overwrite:
        raise ArtifactError(f"output {path}", "exists already", "add --overwrite or choose another --out")
    if present and not overwrite:
        raise ArtifactError(f"output {path}", "exists and was not written to its end by hemalens", "add --overwrite")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that processes left beside ``path`` when they were killed while writing it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _TEMPORARY.fullmatch(left.name):
            left.unlink(missing_ok=True)


def text_digest(text: str) -> str:
    """Return the SHA-256 of UTF-8 text (lone surrogates kept) as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _as_written(path: Path) -> Path:
    """Return a table's Parquet twin where that was written in the place of a CSV, else the path itself."""
    twin = path.with_suffix(".parquet")
    return twin if path.suffix == ".csv" and not path.exists() and twin.exists() else path


def _claim_directory(path: Path, *, overwrite: bool, resume: bool) -> dict[str, int]:
    """Make a directory ours to write in; return the files in it that are not ours, name -> time of change."""
    remove_leftovers(path / STARTED)
    check_vacant(path, overwrite=overwrite, resume=resume)
    unfinished = (path / STARTED).exists()
    stamps, listed = _stamps(path), _listed_outputs(path)
    noted = _noted_foreign(path / STARTED) if unfinished else stamps
    for name in stamps.keys() - noted.keys():
        if _TEMPORARY.fullmatch(Path(name).name):
            (path / name).unlink(missing_ok=True)
            del stamps[name]
    foreign = {name: stamp for name, stamp in stamps.items() if noted.get(name) == stamp and name not in listed}
    # Marker first, removals last: a kill in between must leave a directory that nobody takes for complete.
    write_json(path / STARTED, {"about": _STARTED_WORDS, "foreign": foreign})
    (path / PROVENANCE).unlink(missing_ok=True)
    if overwrite and not resume:
        for name in listed & stamps.keys():  # only what was found inside: a listed "../name" is not followed
            (path / name).unlink(missing_ok=True)
    return foreign


def _listed_outputs(path: Path) -> set[str]:
    """Return the files that a directory's provenance lists; none where it has none or a damaged one."""
    try:
        found = read_provenance(path)
    except ArtifactError:
        return set()
    return set(found["outputs"]) if found and isinstance(found.get("outputs"), dict) else set()


def _noted_foreign(marker: Path) -> dict[str, int]:
    """Return the foreign files an interrupted run noted; a marker that is no JSON (an empty one) notes none."""
    try:
        return dict(json.loads(marker.read_text(encoding="utf-8"))["foreign"])
    except (ValueError, KeyError, TypeError):
        return {}


def _stamps(path: Path) -> dict[str, int]:
    """Return the files below a directory, but for markers and its own provenance: name -> time of change in ns."""
    files = (file for file in path.rglob("*") if file.is_file() and not is_marker(file) and file != path / PROVENANCE)
    return {file.relative_to(path).as_posix(): file.stat().st_mtime_ns for file in files}


def is_marker(path: Path) -> bool:
    """Tell whether a file only says that a stage is at work, or was when it was killed."""
    return path.name == STARTED or path.name.endswith(LOCK)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _fsync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
