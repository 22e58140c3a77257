"""What an output says of itself: the only way to its files, each compared with its recorded SHA-256 when it is read.

A record is ``provenance.json`` in a directory or ``NAME.provenance.json`` beside a file. What is parsed are the very
bytes that were hashed. Needs polars for tables; no torch.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import polars as pl

from hemalens.core.artifacts import parse_table, provenance_path
from hemalens.core.errors import ArtifactError
from hemalens.core.provenance import PROVENANCE, sha256_file
from hemalens.core.records import Record
from hemalens.core.strict_json import parse_json, read_json

__all__ = ["Recorded", "file_record", "find_record", "folder_record", "open_record"]

_Kind = TypeVar("_Kind", bound=Record)

_LOG = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEVELS = 5  # above a file that its record may lie: a cleaned folder has splits and classes
_MAPPINGS = ("outputs", "inputs", "options")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a stage recorded when it had written an output to its end.

    Attributes:
        home: the directory that the names of outputs start from.
        path: of the record itself.
        facts: all that it holds.
    """

    home: Path
    path: Path
    facts: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The stage that wrote it."""
        return str(self.facts["command"])

    @property
    def outputs(self) -> Mapping[str, str]:
        """Name of each file -> SHA-256."""
        found: Mapping[str, str] = self.facts["outputs"]
        return found

    @property
    def inputs(self) -> Mapping[str, str]:
        """Name of each input -> SHA-256."""
        found: Mapping[str, str] = self.facts["inputs"]
        return found

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that shaped the result."""
        found: Mapping[str, Any] = self.facts["options"]
        return found

    def relative(self, file: Path) -> str:
        """Return the name that a file below ``home`` has in the record."""
        return file.absolute().relative_to(self.home.absolute()).as_posix()

    def name_of(self, name: str) -> str | None:
        """Return under which name a file is recorded, a large table under that of its Parquet twin; None if it is not.

        Raises ArtifactError where a file of that name lies there that is not recorded.
        """
        if name in self.outputs:
            return name
        twin = str(PurePosixPath(name).with_suffix(".parquet"))
        if name.endswith(".csv") and twin in self.outputs:
            return twin
        if (self.home / name).exists():
            raise self.unrecorded(name)
        return None

    def require(self, name: str) -> str:
        """Return under which name a file is recorded; raise ArtifactError where it is not."""
        found = self.name_of(name)
        if found is None:
            rule = f"is neither there nor in {self.path.name}"
            raise ArtifactError(f"file {self.home / name}", rule, f"write it again: {self._stage()}")
        return found

    def has(self, name: str) -> bool:
        """Tell whether a file is recorded; raise ArtifactError where one lies there that is not."""
        return self.name_of(name) is not None

    def bytes(self, name: str) -> bytes:
        """Return a file's bytes; raise ArtifactError where they are not those that were recorded."""
        found = self.require(name)
        try:
            data = (self.home / found).read_bytes()
        except OSError as error:
            raise self._unreadable(found, error) from error
        if sha256(data).hexdigest() != self.outputs[found]:
            raise self.differs(found)
        self._tell(found)
        return data

    def checked(self, name: str) -> Path:
        """Return the path of a file too large to be held, once its SHA-256 was found to be the recorded one."""
        found = self.require(name)
        try:
            digest = sha256_file(self.home / found)
        except OSError as error:
            raise self._unreadable(found, error) from error
        if digest != self.outputs[found]:
            raise self.differs(found)
        self._tell(found)
        return self.home / found

    def json(self, name: str, kinds: Mapping[str, type | tuple[type, ...]] | Sequence[str] = ()) -> dict[str, Any]:
        """Return a JSON object that was recorded; raise ArtifactError where it lacks a key or has one of another kind.

        Args:
            name: of the file.
            kinds: keys that it must have, with the types of their values where these matter.
        """
        what = f"file {self.home / name}"
        value = parse_json(self.bytes(name), what)
        for key in kinds:
            if key not in value:
                raise ArtifactError(what, f"lacks the key {key!r}", "write it again with its stage")
            kind = kinds[key] if isinstance(kinds, Mapping) else object
            if not isinstance(value[key], kind) or (
                isinstance(value[key], bool) and kind is not bool and kind is not object
            ):
                raise ArtifactError(what, f"holds {value[key]!r:.40} as {key!r}", "write it again with its stage")
        return value

    def read(self, name: str, kind: type[_Kind]) -> _Kind:
        """Return what a stage found out, as the typed record that it wrote."""
        return kind.from_json(self.json(name), f"file {self.home / name}")

    def table(self, name: str, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        """Return a table that was recorded, in CSV or Parquet; the named columns come back with the given types."""
        found = self.require(name)
        return parse_table(self.bytes(found), self.home / found, columns)

    def digest(self, name: str) -> str:
        """Return the recorded SHA-256 of a file."""
        return self.outputs[self.require(name)]

    def differs(self, name: str) -> ArtifactError:
        """Return the error for a file that is not the recorded one."""
        rule = f"is not what '{self.command}' wrote: its SHA-256 is not the one in {self.path.name}"
        return ArtifactError(f"file {self.home / name}", rule, f"put it back, {self._or_accept(name)}")

    def unrecorded(self, name: str) -> ArtifactError:
        """Return the error for a file that lies where the record knows none."""
        rule = f"is not in {self.path.name}, so its origin is unknown"
        return ArtifactError(f"file {self.home / name}", rule, f"remove it, {self._or_accept(name)}")

    def _or_accept(self, name: str) -> str:
        return f"write it again ({self._stage()}), or accept it as it is: hemalens verify {self.home / name} --accept"

    def _stage(self) -> str:
        return f"hemalens {self.command} ..."

    def _unreadable(self, name: str, error: OSError) -> ArtifactError:
        rule = f"is in {self.path.name} and cannot be read ({error.strerror or error})"
        return ArtifactError(f"file {self.home / name}", rule, f"put it back, {self._or_accept(name)}")

    def _tell(self, name: str) -> None:
        """Warn where somebody changed a file by hand and said so: what rests on it should not look untouched."""
        for change in self.facts.get("accepted", []):
            if change["file"] == name:
                _LOG.warning("%s was changed by hand (accepted %s)", self.home / name, change["time"])


def open_record(directory: Path, command: str | None = None) -> Recorded:
    """Return the record of a directory that ``command`` (any, where None) wrote to its end, or raise ArtifactError."""
    step = f"run: hemalens {command or 'STAGE'} ... --out {directory}"
    if not directory.is_dir():
        raise ArtifactError(f"directory {directory}", "does not exist", step)
    path = directory / PROVENANCE
    if not path.is_file():
        raise ArtifactError(f"directory {directory}", f"has no {PROVENANCE}, so it was not written to its end", step)
    record = _read(directory, path)
    if command is not None and record.command != command:
        raise ArtifactError(f"directory {directory}", f"was written by '{record.command}', not by '{command}'", step)
    return record


def file_record(file: Path, command: str | None = None) -> Recorded:
    """Return the record beside an output file that ``command`` (any, where None) wrote, or raise ArtifactError."""
    path = provenance_path(file)
    if not path.is_file():
        rule = f"has no {path.name} beside it, so its origin is unknown"
        step = "put that back, or write the file again with its stage"
        raise ArtifactError(f"file {file}", rule, step)
    record = _read(file.parent, path)
    if command is not None and record.command != command:
        rule = f"was written by '{record.command}', not by '{command}'"
        raise ArtifactError(f"file {file}", rule, f"write it with: hemalens {command} ... --out FILE")
    return record


def find_record(file: Path) -> Recorded | None:
    """Return the record that lists a file: the one beside it, else that of a directory above; None where none does.

    A table may be named by the CSV that it was to be, or by the Parquet twin that was written in its place.
    """
    names = {file.name, file.with_suffix(".csv").name if file.suffix == ".parquet" else file.name}
    for name in names:
        beside = file.with_name(f"{name}.{PROVENANCE}")
        if beside.is_file():
            return _read(file.parent, beside)
    names.add(file.with_suffix(".parquet").name if file.suffix == ".csv" else file.name)
    whole = file.absolute()
    for folder in whole.parents[:_LEVELS]:
        inside = folder_record(folder)
        below = whole.parent.relative_to(folder).as_posix()
        listed = names if below == "." else {f"{below}/{name}" for name in names}
        if inside is not None and listed & inside.outputs.keys():
            return inside
    return None


def folder_record(folder: Path) -> Recorded | None:
    """Return the record in a folder; None where there is none, or a file of that name that is not of our making."""
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if not file.read(64).lstrip().startswith(b"{"):
            return None
    return _read(folder, path) if {"command", "outputs"} <= read_json(path).keys() else None


def _read(home: Path, path: Path) -> Recorded:
    step = "put it back, or run the stage again"
    facts = read_json(path, step=step)
    rules = [f"has no object as {key!r}" for key in _MAPPINGS if not isinstance(facts.get(key), dict)]
    rules += [] if isinstance(facts.get("command"), str) else ["names no command"]
    if not rules:
        rules += [
            f"has no SHA-256 for {name!r}"
            for name, digest in facts["outputs"].items()
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest)
        ]
        outside = [name for name in facts["outputs"] if not name or ".." in PurePosixPath(name).parts or name[0] == "/"]
        rules += [f"names a file outside ({name!r})" for name in outside]
        changes = facts.get("accepted", [])
        good = isinstance(changes, list) and all(
            isinstance(one, dict) and isinstance(one.get("file"), str) and isinstance(one.get("time"), str)
            for one in changes
        )
        rules += [] if good else ["has a damaged list 'accepted'"]
    if rules:
        raise ArtifactError(f"file {path}", rules[0], step)
    return Recorded(home, path, facts)
