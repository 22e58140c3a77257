"""A competition zip to an unpacked directory, or to the reason why it is refused: nothing in it is run here.

Needs the standard library only.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from hemalens.core.artifacts import read_json
from hemalens.core.errors import ArtifactError
from hemalens.core.types import CELL_CLASSES

__all__ = ["FACTS", "SUMS", "check_members", "label_numbers", "list_sums", "parse_sums", "read_facts", "unpack"]

FACTS = "submission.json"
SUMS = "SHA256SUMS"
"""Member that lists the hashes of all others, as ``sha256sum -c`` reads them."""
_MAX_BYTES = 4 << 30
_MAX_RATIO = 200  # weights hardly shrink at all; deflate reaches 1,032 on zeros
_FREE_BYTES = 10 << 20  # small files of zeros are nobody's bomb
_MAX_MEMBERS = 10_000
_MAX_DIRECTORY = 4 << 20  # bytes that name the members: zipfile reads all of them before it can be asked how many
_HEADER_BYTES = 30  # before a member's name
_END_BYTES = 22 + (1 << 16)  # the record at the end, and the longest comment behind it
_MAX_CLASSES = 1000
_MAX_SIDE = 1024
_BLOCK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, RuntimeError)


def unpack(submission: Path, folder: Path) -> int:
    """Unpack a zip into an empty folder and return how many bytes that were.

    Raises ArtifactError where it is damaged, dangerous, or has no ``model.py`` at its root.
    """
    if not submission.is_file():
        raise ArtifactError(f"submission {submission}", "does not exist", "write one: hemalens package RUN --out FILE")
    try:
        _check_directory(submission)
        with zipfile.ZipFile(submission) as archive:
            members = archive.infolist()
            check_members(submission, members)
            return sum(_write(archive, member, folder, submission) for member in members)
    except _DAMAGED as error:
        raise _refused(submission, f"is damaged or no zip ({error})", "pack it again") from error


def read_facts(submission: Path, folder: Path) -> dict[str, Any] | None:
    """Return what ``hemalens package`` says of an unpacked submission, None where it is of other make.

    Raises ArtifactError where it says what cannot be: with labels of its own a zip could make every answer right.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
    except RecursionError as error:
        raise _refused(submission, f"its {FACTS} is nested too deep", "pack it again") from error
    if not facts.keys() >= {"classes", "labels", "image_sizes", "runtime"}:
        return None
    classes, sizes = facts["classes"], facts["image_sizes"]
    texts = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    right = {
        "classes": texts and 0 < len(set(classes)) == len(classes) <= _MAX_CLASSES,
        "labels": texts and facts["labels"] == label_numbers(classes),
        "image_sizes": isinstance(sizes, list) and len(sizes) > 0 and all(_is_side(side) for side in sizes),
        "runtime": isinstance(facts["runtime"], str),
    }
    for key, holds in right.items():
        if not holds:
            raise _refused(submission, f"its {FACTS} has a wrong {key}", "pack it again: hemalens package RUN")
    return facts


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= _MAX_SIDE


def list_sums(contents: Mapping[str, bytes]) -> bytes:
    """Return the member that lists the hashes of the others."""
    return "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items())).encode()


def parse_sums(data: bytes, submission: Path) -> dict[str, str]:
    """Return member -> SHA-256 from the list inside a zip."""
    try:
        lines = [line.split("  ", 1) for line in data.decode("utf-8").splitlines()]
        found = {name: digest for digest, name in lines}
    except ValueError as error:
        raise _refused(submission, f"has a damaged {SUMS}", "pack it again") from error
    if len(found) < len(lines) or not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in found.values()):
        raise _refused(submission, f"has a damaged {SUMS}", "pack it again")
    return found


def label_numbers(classes: Sequence[str]) -> list[int]:
    """Return the label of each class: the challenge's number where all are of its eight, else the place in the list.

    >>> label_numbers(["basophil", "platelet"]), label_numbers(["blast", "other"])
    ([0, 7], [0, 1])
    """
    if set(classes) <= set(CELL_CLASSES):
        return [CELL_CLASSES.index(name) for name in classes]
    return list(range(len(classes)))


def _check_directory(submission: Path) -> None:
    """Refuse a directory of members that is too long to be read, by the record at the end of the zip."""
    with submission.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise _refused(submission, "is damaged or no zip", "pack it again")
    count, length = struct.unpack_from("<HI", tail, place + 10)
    if tail[max(0, place - 20) : place].startswith(b"PK\x06\x07") or length > _MAX_DIRECTORY:
        rule = f"has a directory of {length:,} bytes for {count:,} members or more, or is a ZIP64"
        raise _refused(submission, rule, f"pack only what runs: {_MAX_DIRECTORY:,} bytes are allowed, and no ZIP64")


def check_members(submission: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise ArtifactError where a zip is dangerous to unpack or has no ``model.py`` at its root."""
    if len(members) > _MAX_MEMBERS:
        raise _refused(submission, f"has {len(members):,} members, {_MAX_MEMBERS:,} are allowed", "pack only what runs")
    for member in members:
        if rule := _member_rule(member):
            raise _refused(submission, rule, "pack it again: plain files only, model.py at the root")
    counts = Counter(member.filename.casefold() for member in members)
    for name, count in counts.items():
        if count > 1:
            rule = f"has {count} members named {name!r}: which one counts depends on who unpacks it"
            raise _refused(submission, rule, "pack each file once")
    unpacked, packed = (sum(getattr(one, key) for one in members) for key in ("file_size", "compress_size"))
    if unpacked > _MAX_BYTES or unpacked > max(_FREE_BYTES, _MAX_RATIO * packed):
        rule = f"is a zip bomb: {packed:,} bytes that unpack to {unpacked:,}"
        raise _refused(submission, rule, f"at most {_MAX_BYTES:,} bytes and {_MAX_RATIO} times the packed ones")
    end = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        if member.header_offset < end:
            rule = f"has a member {member.filename!r} that lies inside another one"
            raise _refused(submission, rule, "pack it again")
        end = member.header_offset + _HEADER_BYTES + len(member.orig_filename) + member.compress_size
    _check_root(submission, [member.filename for member in members])


def _member_rule(member: zipfile.ZipInfo) -> str | None:
    """Return why a member is refused."""
    name, shown = member.filename, repr(member.filename)
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or "\\" in name or ":" in parts[0] or ".." in parts or not name.isprintable():
        return f"has a member {shown} whose name leads out of its folder"
    if parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
        return f"holds {shown}, which macOS packs beside the files; pack with: zip -X -r submission.zip ."
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return f"has a member {shown} that is a link or device, not a plain file"
    if member.flag_bits & 1:
        return f"has an encrypted member {shown}"
    return None


def _check_root(submission: Path, names: Sequence[str]) -> None:
    if "model.py" in names:
        return
    nested = sorted(name for name in names if PurePosixPath(name).name == "model.py")
    if nested:
        folder = str(PurePosixPath(nested[0]).parent)
        rule = f"has its model.py in the folder {folder!r}, not at its root"
        raise _refused(submission, rule, "pack the folder's content, not the folder: cd FOLDER; zip -r ../FILE.zip .")
    raise _refused(submission, "has no model.py at its root", "the competition imports Model from it")


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, submission: Path) -> int:
    """Write a member; zipfile checks its CRC at the end. The size that counts is what comes out, not what is said."""
    path = folder.joinpath(*member.filename.split("/"))
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(member) as source, path.open("xb") as target:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > member.file_size:
                rule = f"holds more in {member.filename!r} than it says"
                raise _refused(submission, rule, "pack it again")
            target.write(block)
    return written


def _refused(submission: Path, rule: str, step: str) -> ArtifactError:
    return ArtifactError(f"submission {submission}", rule, step)
