"""From a zip, a tar, or a folder of tar shards to a source that reads members in place, unpacking nothing to disk.

Members are listed once; reading seeks to one. Names that lead out of the archive, links, encrypted and oversized
members are listed and refused. Needs the standard library only.
"""

import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hemalens.core.errors import DecodeError, SourceError
from hemalens.core.provenance import sha256_file
from hemalens.data.sources.entries import Entry, arrange, escape, refuse_size, set_aside
from hemalens.data.sources.source import Handles, Source, digest_facts

__all__ = ["DAMAGED_ZIP", "TarSource", "ZipSource", "leads_out", "open_shards", "open_tar", "open_zip"]

DAMAGED_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, IndexError, RuntimeError),
)
"""What zipfile and the decompressors below it raise for damaged archives and members."""
_NAMELESS = "(no name)"
_OUTSIDE = "has a name that leads out of the archive"
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


def _open_binary(path: str) -> IO[bytes]:
    return Path(path).open("rb")


def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True, eq=False, kw_only=True)
class ZipSource(Source):
    """Pictures in a zip; ``members`` are their numbers in its directory."""

    path: str
    members: tuple[int, ...]
    _handles: Handles[zipfile.ZipFile] = field(default_factory=lambda: Handles(_open_zip), repr=False)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256_file(Path(self.path))

    def _read(self, index: int) -> bytes:
        try:
            with self._handles.use(self.path) as archive:
                return archive.read(archive.infolist()[self.members[index]])
        except DAMAGED_ZIP as error:
            what = f"picture {self.samples[index].sample_id!r}"
            raise DecodeError(what, f"cannot be unpacked ({error})", "pack it again") from error


@dataclass(frozen=True, eq=False, kw_only=True)
class TarSource(Source):
    """Pictures in one tar or in many.

    Attributes:
        tars: absolute paths of the archives.
        names: what they are called in ids.
        places: each sample's (number of its archive, first byte, bytes).
    """

    tars: tuple[str, ...]
    names: tuple[str, ...]
    places: tuple[tuple[int, int, int], ...]
    _handles: Handles[IO[bytes]] = field(default_factory=lambda: Handles(_open_binary), repr=False)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file, or over (name, bytes, modification time) of the shards."""
        if self.kind == "tar":
            return sha256_file(Path(self.tars[0]))
        stamps = [(name, Path(tar).stat()) for name, tar in zip(self.names, self.tars, strict=True)]
        return digest_facts(sorted((name, status.st_size, status.st_mtime_ns) for name, status in stamps))

    def _read(self, index: int) -> bytes:
        number, offset, size = self.places[index]
        try:
            with self._handles.use(self.tars[number]) as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            reason = str(error.strerror or error)
        else:
            if len(data) == size:
                return data
            reason = f"the archive ends after {len(data):,} of its {size:,} bytes"
        what = f"picture {self.samples[index].sample_id!r}"
        raise DecodeError(what, f"cannot be read ({reason})", "has the archive changed? open it again")


def open_zip(path: Path, *, spec: str, classes: Sequence[str] | None = None) -> ZipSource:
    """List a zip; raises SourceError where it is damaged or holds no picture."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                _zip_entry(number, info)
                for number, info in enumerate(archive.infolist())
                if not info.filename.endswith("/")
            ]

            def read(entry: Entry) -> bytes:
                try:
                    return archive.read(archive.infolist()[entry.place])
                except DAMAGED_ZIP as error:
                    raise SourceError(f"member {entry.path!r}", f"cannot be unpacked ({error})") from error

            found = arrange(entries, read=read, classes=classes, what=spec)
    except DAMAGED_ZIP as error:
        step = "fetch or pack it again"
        raise SourceError(f"source {spec}", f"is no zip archive, or one cut short ({error})", step) from error
    return ZipSource(
        spec=spec,
        kind="zip",
        samples=found.samples,
        classes=found.classes,
        ignored=found.ignored,
        path=os.fspath(path.absolute()),
        members=tuple(entry.place for entry in found.entries),
    )


def open_tar(path: Path, *, spec: str, classes: Sequence[str] | None = None) -> TarSource:
    """List an uncompressed tar; raises SourceError where it is compressed, damaged or holds no picture."""
    entries = list(_tar_entries(path, 0, "", what=spec))
    return _tar_source("tar", spec, [(path, path.name)], entries, classes)


def open_shards(root: Path, shards: Sequence[Entry], *, spec: str, classes: Sequence[str] | None = None) -> TarSource:
    """List a folder of tars; one that is damaged becomes one refused sample, unless all are.

    Args:
        root: the folder.
        shards: its files as ``walk`` lists them; all that are not set aside are named ``.tar``.
        spec: how the user named it.
        classes: as for ``open_source``.
    """
    entries = [shard for shard in shards if shard.ignored is not None or set_aside(shard.path) is not None]
    tars = [shard for shard in shards if shard.ignored is None and set_aside(shard.path) is None]
    failures: list[SourceError] = []
    for number, shard in enumerate(tars):
        try:
            entries.extend(_shard_entries(root, shard, number, spec))
        except SourceError as error:
            failures.append(error)
            entries.append(Entry(shard.path, (number, 0, 0), refused=f"shard cannot be opened: {error.rule}"))
    if len(failures) == len(tars):
        raise failures[0]
    return _tar_source("shards", spec, [(root / shard.place, shard.path) for shard in tars], entries, classes)


def _shard_entries(root: Path, shard: Entry, number: int, spec: str) -> list[Entry]:
    if shard.refused is not None:
        raise SourceError(f"shard {shard.path}", shard.refused)
    return list(_tar_entries(root / shard.place, number, f"{shard.path}/", what=f"{spec}: {shard.path}"))


def _tar_source(
    kind: str, spec: str, tars: Sequence[tuple[Path, str]], entries: Sequence[Entry], classes: Sequence[str] | None
) -> TarSource:
    paths = tuple(os.fspath(path.absolute()) for path, _ in tars)
    handles = Handles(_open_binary)

    def read(entry: Entry) -> bytes:
        number, offset, size = entry.place
        with handles.use(paths[number]) as file:
            file.seek(offset)
            return file.read(size)

    found = arrange(entries, read=read, classes=classes, what=spec)
    return TarSource(
        spec=spec,
        kind=kind,
        samples=found.samples,
        classes=found.classes,
        ignored=found.ignored,
        tars=paths,
        names=tuple(name for _, name in tars),
        places=tuple(entry.place for entry in found.entries),
        _handles=handles,
    )


def _zip_entry(number: int, info: zipfile.ZipInfo) -> Entry:
    # The format knows "/" alone: a backslash is a separator that some Windows packers write.
    name = _plain(info.filename.replace("\\", "/"))
    refused = refuse_size(info.file_size)
    if leads_out(name):
        refused = _OUTSIDE
    elif stat.S_ISLNK(info.external_attr >> 16):
        refused = "is a link, not a file"
    elif info.flag_bits & 1:
        refused = "is encrypted"
    return Entry(escape(name) or _NAMELESS, number, info.file_size, refused=refused)


def _tar_entries(path: Path, number: int, shard: str, *, what: str) -> Iterator[Entry]:
    """Yield the members of a tar; ``place`` is (number of the tar, first byte, bytes)."""
    step = "fetch or pack it again"
    try:
        with path.open("rb") as file:
            start = file.read(6)
            for magic, name in _COMPRESSED:
                if start.startswith(magic):
                    raise SourceError(f"source {what}", f"is a tar compressed with {name}", "decompress it first")
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                last = 0
                for member in _members(tar, length, what):
                    last = max(last, member.offset_data + member.size)
                    if not member.isdir():
                        yield _tar_entry(member, number, shard, length)
                if (note := _end_note(file, tar.offset, length, what)) is not None and last <= length:
                    yield Entry("(end of archive)", (number, 0, 0), shard=shard, ignored=note)
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise SourceError(f"source {what}", f"is no tar archive, or a damaged one ({error})", step) from error


def _members(tar: tarfile.TarFile, length: int, what: str) -> Iterator[tarfile.TarInfo]:
    last: tarfile.TarInfo | None = None
    while True:
        try:
            member = tar.next()
        except tarfile.TarError as error:
            if last is not None and last.offset_data + last.size > length:
                return  # cut short inside the last member, which is refused by its own entry
            rule = f"is damaged after {tar.offset:,} bytes ({error})"
            raise SourceError(f"source {what}", rule, "fetch or pack it again") from error
        if member is None:
            return
        # A million members would be kept a second time otherwise; typeshed does not know the list.
        tar.members = []  # type: ignore[attr-defined]
        last = member
        yield member


def _tar_entry(member: tarfile.TarInfo, number: int, shard: str, length: int) -> Entry:
    name = _plain(member.name)
    refused = refuse_size(member.size)
    if leads_out(name):
        refused = _OUTSIDE
    elif member.islnk() or member.issym():
        refused = "is a link, not a file"
    elif not member.isreg() or member.issparse():
        refused = "is a sparse file, pipe or device, not a plain file"
    elif member.offset_data + member.size > length:
        refused = "is cut short: the archive ends inside it"
    return Entry(
        escape(name) or _NAMELESS, (number, member.offset_data, member.size), member.size, shard=shard, refused=refused
    )


def _end_note(file: IO[bytes], offset: int, length: int, what: str) -> str | None:
    """Check what follows the last member: tarfile stops silently at a damaged header and loses all behind it."""
    if offset >= length:
        return "no end mark: the archive may be cut short"
    file.seek(offset)
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            rule = f"holds an unreadable header or a second archive after {offset:,} bytes"
            raise SourceError(f"source {what}", rule, "pack it again as one archive")
    return None


def _plain(name: str) -> str:
    """Drop the leading ``./`` that packers of a current folder write."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def leads_out(name: str) -> bool:
    """Tell whether a member's name would lie outside of the folder that its archive is unpacked into.

    >>> leads_out("cells/a.png"), leads_out("../a.png"), leads_out("C:/a.png")
    (False, True, True)
    """
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) is not None
