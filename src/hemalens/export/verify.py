"""Outputs of any stage to the answer whether every recorded hash still holds, file by file.

Reads directories, single outputs, exported models with what belongs to them, and zips of ``package``. No torch.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from hemalens.core.artifacts import is_marker, write_json
from hemalens.core.decisions import JOURNAL, read_issues
from hemalens.core.errors import ArtifactError, ConfigError, UserError
from hemalens.core.locking import locked
from hemalens.core.provenance import PROVENANCE, STARTED, sha256_file
from hemalens.core.recorded import Recorded, file_record, find_record, folder_record
from hemalens.core.strict_json import read_json
from hemalens.core.types import Progress, no_progress
from hemalens.export.signing import check_signature, signature_path
from hemalens.export.submission.archive import SUMS, check_members, parse_sums
from hemalens.inference.sidecar import EMBEDDED, find_onnx, read_exported

__all__ = ["Finding", "verify"]

_FIXED = {
    "audit": "decide by the column 'suggestion' of issues.csv, or audit again",
    "export": "export the run again",
    "package": "pack it again",
}
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What is true of one file: its path, ``ok``, ``differs``, ``missing`` or ``not recorded``, and why it is said."""

    file: str
    status: str
    note: str = ""


def verify(
    paths: Sequence[str | Path],
    *,
    public_key: Path | None = None,
    accept: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare every recorded hash with what lies there and return the findings, with ``holds`` for all of them.

    Args:
        paths: directories that stages wrote, single outputs, .onnx files, zips of ``package``, or ``embedded``.
        public_key: of who signed the .onnx files among them; each must then be signed.
        accept: record what differs as it is now, with the time: for who changed a file on purpose.
        progress: called for the files.

    Raises:
        ArtifactError: there is no record, or one that is damaged; what was accepted must be written by its stage.
        ConfigError: a key without a model.
        MissingExtraError: a key without the extra ``sign``.
    """
    found: list[Finding] = []
    models = [find_onnx(path) for path in paths if str(path) == EMBEDDED or Path(path).suffix == ".onnx"]
    if public_key is not None and not models:
        raise ConfigError(f"public key {public_key}", "is for exported models", "name an .onnx file to verify")
    for index, path in enumerate(paths):
        progress("verifying", index, len(paths))
        known = find_onnx(path) if str(path) == EMBEDDED else Path(path)
        if accept:
            _accept(known)
        found += _verify_one(known)
    if public_key is not None:
        found += [_signature(model, public_key) for model in models]
    progress("verifying", len(paths), len(paths))
    counts = Counter(one.status for one in found)
    return {
        "paths": [str(path) for path in paths],
        "holds": not counts["differs"] and not counts["missing"],
        **{name.replace(" ", "_"): counts[name] for name in ("ok", "differs", "missing", "not recorded")},
        "files": [asdict(one) for one in found],
    }


def _verify_one(path: Path) -> Iterator[Finding]:
    if path.is_dir():
        yield from _directory(path)
        return
    if not path.exists():
        raise ArtifactError(f"path {path}", "does not exist", "name what hemalens wrote")
    record = find_record(path)
    if record is not None:
        yield from _recorded(record, None if record.path.name != PROVENANCE else record.relative(path))
    if path.suffix == ".onnx":
        yield from _model(path, recorded=record is not None)
    elif path.suffix == ".zip":
        yield from _zip(path)
    elif record is None:
        rule = f"has no {path.name}.{PROVENANCE} beside it and is in no record of its directory"
        raise ArtifactError(f"file {path}", rule, "name the directory or file that a stage wrote")


def _directory(path: Path) -> Iterator[Finding]:
    """Check all records in a directory and below it, then list what is in none of them."""
    records = [record for folder in _folders(path) if (record := folder_record(folder)) is not None]
    beside = [file for file in path.rglob(f"*.{PROVENANCE}") if file.is_file()]
    records += [file_record(file.with_name(file.name.removesuffix(f".{PROVENANCE}"))) for file in beside]
    unfinished = [file.parent for file in path.rglob(STARTED)]
    if not records and not unfinished:
        rule = f"has no {PROVENANCE}, so it was not written to its end"
        raise ArtifactError(f"directory {path}", rule, "name a directory that a stage wrote")
    for folder in unfinished:
        yield Finding(str(folder / PROVENANCE), "missing", "was begun and not written to its end")
    known = {record.path for record in records}
    for record in records:
        yield from _recorded(record)
        known |= {record.home / name for name in record.outputs}
        if record.command == "export" and (model := record.home / _primary(record)).is_file():
            yield from _model(model, recorded=True)
    for file in sorted(path.rglob("*")):
        if file.is_file() and file not in known and not is_marker(file) and not _is_journal(file):
            yield Finding(str(file), "not recorded")


def _folders(path: Path) -> list[Path]:
    return [path, *sorted(folder for folder in path.rglob("*") if folder.is_dir())]


def _is_journal(file: Path) -> bool:
    """Tell whether a file holds a person's decisions, which come after the audit's record."""
    return file.name == JOURNAL or (file.name.startswith("decisions-") and file.suffix == ".jsonl")


def _recorded(record: Recorded, only: str | None = None) -> Iterator[Finding]:
    """Check the files that a record lists, or one of them."""
    for name, expected in record.outputs.items():
        if only is not None and name != only:
            continue
        file = record.home / name
        if not file.is_file():
            yield Finding(str(file), "missing", f"recorded in {record.path}")
        elif (digest := sha256_file(file)) == expected:
            yield Finding(str(file), "ok")
        elif note := _good_reason(record, name, digest):
            yield Finding(str(file), "ok", note)
        else:
            yield Finding(str(file), "differs", f"from what '{record.command}' recorded in {record.path}")


def _good_reason(record: Recorded, name: str, digest: str) -> str:
    """Return why another hash than the recorded one is as it should be; empty where it is not."""
    file = record.home / name
    if file.stem == "issues":
        try:
            read_issues(file.parent)
        except UserError:
            return ""
        return "a person's decisions alone were changed"
    if record.path.name != PROVENANCE and name != _primary(record):  # parity.json is of the last export into a folder
        for other in record.home.glob(f"*.{PROVENANCE}"):
            if file_record(other.with_name(other.name.removesuffix(f".{PROVENANCE}"))).outputs.get(name) == digest:
                return f"of a later output, see {other.name}"
    return ""


def _primary(record: Recorded) -> str:
    """Return the output that a record beside a file is named for."""
    return record.path.name.removesuffix(f".{PROVENANCE}")


def _model(path: Path, *, recorded: bool) -> Iterator[Finding]:
    """Check that a model and its sidecar name each other, and that ``parity.json`` is of this model if it says so."""
    note = "model and sidecar name each other"
    try:
        read_exported(path)
        yield Finding(str(path), "ok", note)
    except ArtifactError as error:
        yield Finding(str(path), "differs", f"{error.what}: {error.rule}")
        return
    parity = path.with_name("parity.json")
    if not recorded and parity.is_file():
        told = read_json(parity)
        if told.get("onnx") in (path.name, None):
            same = told.get("onnx_sha256") == sha256_file(path)
            yield Finding(
                str(parity), "ok" if same else "differs", "names the model's SHA-256" if same else "is of another model"
            )


def _signature(model: Path, public_key: Path) -> Finding:
    beside = signature_path(model)
    try:
        check_signature(model, public_key)
    except ArtifactError as error:
        return Finding(str(beside), "differs" if beside.exists() else "missing", error.rule)
    return Finding(str(beside), "ok", f"signed by the holder of {public_key.name}")


def _zip(path: Path) -> Iterator[Finding]:
    """Check the members of a zip that ``package`` wrote against the list of hashes inside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_members(path, members)
            names = [member.filename for member in members]
            if SUMS not in names:
                rule = f"holds no {SUMS}: its members were never recorded"
                raise ArtifactError(f"submission {path}", rule, "pack it again")
            listed = parse_sums(archive.read(SUMS), path)
            for name, expected in listed.items():
                if name not in names:
                    yield Finding(f"{path}:{name}", "missing", f"listed in {SUMS}")
                    continue
                same = _member_digest(archive, name) == expected
                yield Finding(f"{path}:{name}", "ok" if same else "differs", "" if same else f"from {SUMS}")
            for name in names:
                if name not in listed and name != SUMS and not name.endswith("/"):
                    yield Finding(f"{path}:{name}", "differs", f"is not in {SUMS}")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"submission {path}", f"is damaged or no zip ({error})", "pack it again") from error


def _member_digest(archive: zipfile.ZipFile, name: str) -> str:
    digest = sha256()
    with archive.open(name) as member:
        while block := member.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _accept(path: Path) -> None:
    """Recorded the files of one output as they are now, with the time and what they were."""
    above = (folder_record(folder) for folder in (path.absolute().parents if not path.is_dir() else [path]))
    record = (None if path.is_dir() else find_record(path)) or next((one for one in above if one is not None), None)
    if record is None:
        raise ArtifactError(f"path {path}", "has no record to accept it in", "name what a stage wrote")
    if record.command in _FIXED:
        rule = f"was written by '{record.command}', whose files belong together and are not changed by hand"
        raise ArtifactError(f"path {path}", rule, _FIXED[record.command])
    owner = record.home if record.path.name == PROVENANCE else record.home / _primary(record)
    with locked(owner, "verify"):
        outputs, now = dict(record.outputs), datetime.now(UTC).isoformat(timespec="seconds")
        changes = list(record.facts.get("accepted", []))
        for name in _names_to_accept(record, path):
            file = record.home / name
            after = sha256_file(file) if file.is_file() else None
            if after != outputs.get(name):
                changes.append({"file": name, "before": outputs.get(name), "after": after, "time": now})
                outputs = {key: value for key, value in outputs.items() if key != name}
                outputs |= {name: after} if after is not None else {}
        write_json(record.path, {**record.facts, "outputs": dict(sorted(outputs.items())), "accepted": changes})


def _names_to_accept(record: Recorded, path: Path) -> list[str]:
    """Return the files of a record, and those in its directory that nothing below it records."""
    if not path.is_dir():
        return [record.relative(path)]
    inner = [folder for folder in _folders(path)[1:] if folder_record(folder) is not None]
    strange = [
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not is_marker(file) and not file.name.endswith(PROVENANCE)
        if not any(file.is_relative_to(folder) for folder in inner) and find_record(file) in (None, record)
    ]
    return sorted({*record.outputs, *strange})
