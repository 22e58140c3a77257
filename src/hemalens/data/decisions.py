"""A person's decisions on an audit: a journal that outlives a kill, folded into the suggestions of ``issues.csv``.

The journal, ``decisions.jsonl`` beside the table, is only ever appended to, a line an act, each on the disk before it
is confirmed; an act can be undone by a further line. Now and then the table is written anew from it and a line says
so. What lies after the last such line is not in the table yet, so every reader folds it in. Needs polars; no torch.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from io import RawIOBase
from pathlib import Path
from typing import Any

import polars as pl

from hemalens.core.artifacts import (
    PROVENANCE,
    find_table,
    parse_table,
    text_digest,
    write_atomically,
    write_table,
)
from hemalens.core.errors import ArtifactError
from hemalens.core.provenance import sha256_file
from hemalens.core.records import Record, open_record
from hemalens.core.strict_json import canonical_json, parse_json
from hemalens.core.types import Sample

__all__ = [
    "JOURNAL",
    "RELABEL",
    "Act",
    "History",
    "Journal",
    "decisions_digest",
    "findings_digest",
    "fold",
    "new_labels",
    "read_history",
    "read_issues",
    "require_unreviewed",
    "write_issues",
]

JOURNAL = "decisions.jsonl"
"""Name of the journal in the directory of an audit."""
RELABEL = "relabel:"
"""What a suggestion begins with that gives a sample another label: ``relabel:ig``."""

_TEXT = ("sample_id", "label", "issue", "group", "suggestion", "reason")
_COLUMNS: dict[str, type[pl.DataType]] = {**dict.fromkeys(_TEXT, pl.String), "score": pl.Float64}
_Pending = dict[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a person did.

    Attributes:
        decisions: sample id -> ``keep``, ``drop`` or ``relabel:CLASS``.
        before: sample id -> what its rows of ``issues.csv`` said, in the order of the table.
    """

    decisions: Mapping[str, str]
    before: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class History:
    """What a journal says.

    Attributes:
        standing: the acts that were not undone, oldest first.
        pending: sample id -> what its rows say from now on (one text for all, or one each), not in the table yet.
    """

    standing: tuple[Act, ...] = ()
    pending: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


def read_history(audit: Path) -> History:
    """Read the journal of an audit; there is none where it was not reviewed, or was audited anew since.

    A last line that a kill cut short was never confirmed and is passed over. Raises ArtifactError where any other line
    is not what ``Journal`` writes.
    """
    lines = _whole_lines(audit / JOURNAL)
    if not lines or _header(lines[0], audit / JOURNAL) != _identity(audit):
        return History()
    standing: list[Act] = []
    pending: _Pending = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            _follow(parse_json(line, "line", step=""), standing, pending)
        except (ArtifactError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            what = f"{audit / JOURNAL} line {number}"
            raise ArtifactError(what, f"is no act of a review ({error})", "delete the line") from error
    return History(tuple(standing), pending)


def _follow(said: Mapping[str, Any], standing: list[Act], pending: _Pending) -> None:
    """Follow one line of a journal: change the acts standing, and what the table lacks, in place."""
    if "decisions" in said:
        standing.append(Act(dict(said["decisions"]), dict(said["before"])))
        pending.update(standing[-1].decisions)
    elif "undo" in said:
        standing.pop()
        pending.update(said["undo"])
    elif "merged" in said:
        pending.clear()
    else:
        raise ValueError("neither decisions, undo nor merged")


def fold(issues: pl.DataFrame, pending: Mapping[str, str | Sequence[str]]) -> pl.DataFrame:
    """Return ``issues`` with the suggestions of the samples in ``pending`` replaced.

    A sample's rows take one text each where as many are given; where a person added or deleted rows since, all of them
    fall back to ``review``.
    """
    if not pending:
        return issues
    suggestions = issues["suggestion"].to_list()
    rows: dict[str, list[int]] = {}
    for row, sample_id in enumerate(issues["sample_id"].to_list()):
        if sample_id in pending:
            rows.setdefault(sample_id, []).append(row)
    for sample_id, places in rows.items():
        said = pending[sample_id]
        if isinstance(said, str):
            said = [said] * len(places)
        elif len(said) != len(places):
            said = ["review"] * len(places)
        for row, text in zip(places, said, strict=True):
            suggestions[row] = text
    return issues.with_columns(pl.Series("suggestion", suggestions, pl.String))


def read_issues(audit: Path) -> pl.DataFrame:
    """Read ``issues.csv`` of an audit, with what the journal holds beyond it.

    Raises ArtifactError where more of it was changed than suggestions and the order of its rows.
    """
    return fold(_decided(open_record(audit, "audit")), read_history(audit).pending)


def findings_digest(issues: pl.DataFrame) -> str:
    """Return the SHA-256 of what a person must not change in a table of findings: all but suggestions and order.

    Columns that a person adds do not count, nor how a spreadsheet quotes cells and ends lines.
    """
    rows = issues.select(
        pl.col(name).cast(kind).fill_null("") if kind == pl.String else pl.col(name).cast(kind)
        for name, kind in _COLUMNS.items()
        if name != "suggestion"
    )
    return text_digest(b"\n".join(sorted(canonical_json(row) for row in rows.iter_rows())).decode())


def _decided(record: Record) -> pl.DataFrame:
    """Read the table of findings: as the audit wrote it, or with other suggestions."""
    name = record.require("issues.csv")
    path = record.home / name
    try:
        data = path.read_bytes()
    except OSError as error:
        step = "put it back, or audit again"
        raise ArtifactError(f"file {path}", f"cannot be read ({error.strerror})", step) from error
    issues = parse_table(data, path, _COLUMNS)
    if sha256(data).hexdigest() == record.outputs[name]:
        return issues
    # NaN and infinity are numbers to polars, and no finding has one.
    finite = issues["score"].is_null() | issues["score"].is_finite()
    if not finite.all() or findings_digest(issues) != record.json("audit.json").get("findings_sha256"):
        rule = f"was changed beyond its column 'suggestion': the findings are not those in {record.home / 'audit.json'}"
        step = "put the other columns and all rows back (leave one out by suggestion keep), or audit again"
        raise ArtifactError(f"file {path}", rule, step)
    return issues


def write_issues(audit: Path, issues: pl.DataFrame) -> None:
    """Write ``issues.csv`` anew from a table that ``read_issues`` returned; refused while a review is open."""
    if not (audit / JOURNAL).exists():
        write_table(audit / "issues.csv", issues)
        return
    with closing(Journal(audit)) as journal:
        journal.merge(issues)


def require_unreviewed(audit: Path) -> None:
    """Raise ArtifactError while another process holds the journal of an audit."""
    if (audit / JOURNAL).exists():
        Journal(audit).close()


def decisions_digest(audit: Path) -> str:
    """Return a SHA-256 that changes when a decision does, whether it is in the table or only in the journal yet."""
    table = audit / "issues.csv"
    digest = sha256_file(find_table(table) or table)
    pending = read_history(audit).pending
    return text_digest(digest + json.dumps(pending, sort_keys=True)) if pending else digest


def new_labels(issues: pl.DataFrame, samples: Sequence[Sample], classes: Sequence[str]) -> dict[int, str]:
    """Return place -> class of the samples that ``relabel:CLASS`` gives another label; a ``drop`` beside it wins.

    Raises ArtifactError where the class is none of ``classes``, or a sample's rows name two of them.
    """
    places = {sample.sample_id: place for place, sample in enumerate(samples)}
    dropped = set(issues.filter(pl.col("suggestion") == "drop")["sample_id"].to_list())
    found: dict[int, str] = {}
    for line, (sample_id, suggestion) in enumerate(issues.select("sample_id", "suggestion").iter_rows(), 2):
        if suggestion is None or not suggestion.startswith(RELABEL) or sample_id in dropped:
            continue
        what, label = f"issues.csv line {line}: suggestion {suggestion}", suggestion[len(RELABEL) :]
        place = places[sample_id]
        if label not in classes:
            known = ", ".join(classes) or "none: name them with --classes"
            raise ArtifactError(what, f"names no class of the source ({known})", "mend the line")
        if found.setdefault(place, label) != label:
            raise ArtifactError(what, f"contradicts an earlier line of the sample ({found[place]})", "mend one of them")
    return {place: label for place, label in found.items() if label != samples[place].label}


class Journal:
    """The journal of an audit, open for appending: one process at a time (on POSIX) holds it.

    The journal of an earlier audit in the same directory is set aside under another name.

    Raises:
        ArtifactError: it cannot be written, or another process holds it.
    """

    def __init__(self, audit: Path) -> None:
        self._audit, self._path = audit, audit / JOURNAL
        lines = _whole_lines(self._path)
        identity = _identity(audit)
        if lines and _header(lines[0], self._path) != identity:
            self._path.rename(audit / f"decisions-{text_digest(lines[0].decode())[:8]}.jsonl")
        if not lines or not self._path.exists():
            header = json.dumps({"about": "decisions of a person, see hemalens clean", "audit": identity}) + "\n"
            write_atomically(self._path, lambda file: file.write(header.encode()))
        try:
            self._file = self._path.open("r+b", buffering=0)  # a line refused must not be written later on
        except OSError as error:
            raise self._refused(error) from error
        try:
            _lock(self._file, audit)
        except ArtifactError:
            self._file.close()
            raise
        # Only now is it certain that nobody is in the middle of a line: cut off what a kill left of one.
        self._end = len(b"".join(line + b"\n" for line in _whole_lines(self._path)))
        self._file.truncate(self._end)

    def decide(self, act: Act) -> None:
        """Put an act on the disk."""
        self._append(
            {"decisions": dict(act.decisions), "before": {key: list(said) for key, said in act.before.items()}}
        )

    def undo(self, before: Mapping[str, Sequence[str]]) -> None:
        """Put on the disk that the last act standing is undone, and what the rows of its samples say again."""
        self._append({"undo": {key: list(said) for key, said in before.items()}})

    def merge(self, issues: pl.DataFrame) -> None:
        """Write ``issues.csv``, in which all acts so far are folded in, then say so in the journal."""
        write_table(self._audit / "issues.csv", issues)
        self._append({"merged": True})

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def _append(self, said: Mapping[str, Any]) -> None:
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **said}).encode() + b"\n"
        try:
            self._file.seek(self._end)
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise self._refused(error) from error
        self._end += len(line)

    def _refused(self, error: OSError) -> ArtifactError:
        rule = f"cannot be written ({error.strerror or error}), so the decision does not stand"
        return ArtifactError(f"journal {self._path}", rule, "free some space or check its permissions")


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a journal that were written to their end; none where there is no journal."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtifactError(f"journal {path}", f"cannot be read ({error.strerror})", "check its permissions") from error
    if lines:
        _header(lines[0], path)
    return lines


def _header(line: bytes, path: Path) -> object:
    """Return of which audit a journal is, by its first line."""
    try:
        return parse_json(line, "line")["audit"]
    except (ArtifactError, KeyError) as error:
        raise ArtifactError(f"journal {path}", "does not begin like one", "move it elsewhere") from error


def _identity(audit: Path) -> str:
    """Return what tells one audit from the next in the same directory."""
    return sha256_file(audit / PROVENANCE)


def _lock(file: RawIOBase, audit: Path) -> None:
    if sys.platform == "win32":  # no such lock there: one review at a time is the user's to see to
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        step = "finish that review first"
        raise ArtifactError(f"audit {audit}", "is being reviewed by another process", step) from error
