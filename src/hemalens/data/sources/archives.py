"""From a zip, a tar, or a folder of tar shards to a source that reads members in place, unpacking nothing to disk.

Members are listed once; reading seeks to one. Names that lead out of the archive, links, encrypted and oversized
members are listed as unreadable. Needs the standard library only.
"""

import itertools
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, ClassVar, cast

from hemalens.core.errors import DecodeError, SourceError
from hemalens.core.provenance import sha256_file
from hemalens.data.sources.entries import Entry, arrange, check_size, escape, set_aside
from hemalens.data.sources.source import Handles, Source, digest_facts

__all__ = ["DAMAGED_ZIP", "TarSource", "ZipSource", "leads_out", "open_shards", "open_tar", "open_zip"]

DAMAGED_ZIP = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, IndexError, RuntimeError),
)
"""What zipfile and zlib raise for damaged archives and members."""
_NAMELESS = "(no name)"
_OUTSIDE = "has a name that leads out of the archive"
# Bytes of headers before one member: a name has 4 KB at most. Longer ones are read into memory whole, and chains of
# them are followed by recursion.
_LONGEST_HEADER = 1 << 16
_DIGITS = re.compile(rb"\d{1000}")
_PACKED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


def _open_binary(path: str) -> IO[bytes]:
    return Path(path).open("rb")


_Packed = tuple[int, int, int, int, int]  # first byte of the header, bytes packed, bytes unpacked, CRC-32, method


@dataclass(frozen=True, eq=False, kw_only=True)
class ZipSource(Source):
    """Images in a zip; ``extents`` say where each lies and how it is packed, so that its directory is read once."""

    path: str
    extents: tuple[_Packed, ...]
    listed: ClassVar[tuple[str, ...]] = ("extents",)
    _handles: Handles[IO[bytes]] = field(default_factory=lambda: Handles(_open_binary), repr=False)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256_file(Path(self.path))

    def _read(self, index: int) -> bytes:
        try:
            with self._handles.use(self.path) as file:
                return _unpack(file, self.extents[index])
        except DAMAGED_ZIP as error:
            what = f"image {self.samples[index].sample_id!r}"
            raise DecodeError(what, f"cannot be unpacked ({error})", "pack it again") from error


@dataclass(frozen=True, eq=False, kw_only=True)
class TarSource(Source):
    """Images in one tar or in many.

    Attributes:
        tars: absolute paths of the archives.
        names: what they are called in ids.
        extents: each sample's (number of its archive, first byte, bytes).
    """

    tars: tuple[str, ...]
    names: tuple[str, ...]
    extents: tuple[tuple[int, int, int], ...]
    listed: ClassVar[tuple[str, ...]] = ("extents",)
    _handles: Handles[IO[bytes]] = field(default_factory=lambda: Handles(_open_binary), repr=False)

    def part(self, indices: Sequence[int]) -> "TarSource":
        """Return some samples as a source of their own, with the archives that they lie in."""
        extents = [self.extents[index] for index in indices]
        used = sorted({number for number, _, _ in extents})
        return replace(
            self,
            samples=tuple(self.samples[index] for index in indices),
            ignored=(),
            tars=tuple(self.tars[number] for number in used),
            names=tuple(self.names[number] for number in used),
            extents=tuple((used.index(number), offset, size) for number, offset, size in extents),
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file, or over (name, bytes, modification time) of the shards."""
        if self.kind == "tar":
            return sha256_file(Path(self.tars[0]))
        stamps = [(name, Path(tar).stat()) for name, tar in zip(self.names, self.tars, strict=True)]
        return digest_facts(sorted((name, status.st_size, status.st_mtime_ns) for name, status in stamps))

    def _read(self, index: int) -> bytes:
        number, offset, size = self.extents[index]
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
        what = f"image {self.samples[index].sample_id!r}"
        raise DecodeError(what, f"cannot be read ({reason})", "has the archive changed? open it again")


def open_zip(path: Path, *, spec: str, classes: Sequence[str] | None = None) -> ZipSource:
    """List a zip; raises SourceError where it is damaged or holds no image."""
    absolute, handles = os.fspath(path.absolute()), Handles(_open_binary)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.filename.endswith("/")]
    except DAMAGED_ZIP as error:
        step = "fetch or pack it again"
        raise SourceError(f"source {spec}", f"is no zip archive, or one cut short ({error})", step) from error
    overlapping = _overlapping(members)

    def read(entry: Entry) -> bytes:
        try:
            with handles.use(absolute) as file:
                return _unpack(file, entry.location)
        except DAMAGED_ZIP as error:
            raise SourceError(f"member {entry.path!r}", f"cannot be unpacked ({error})") from error

    entries = [_zip_entry(info, overlaps=number in overlapping) for number, info in enumerate(members)]
    found = arrange(entries, read=read, classes=classes, what=spec)
    return ZipSource(
        spec=spec,
        kind="zip",
        samples=found.samples,
        classes=found.classes,
        ignored=found.ignored,
        path=absolute,
        extents=tuple(entry.location for entry in found.entries),
        _handles=handles,
    )


def open_tar(path: Path, *, spec: str, classes: Sequence[str] | None = None) -> TarSource:
    """List an uncompressed tar; raises SourceError where it is compressed, damaged or holds no image."""
    entries = list(_tar_entries(path, 0, "", what=spec))
    return _tar_source("tar", spec, [(path, path.name)], entries, classes)


def open_shards(root: Path, shards: Sequence[Entry], *, spec: str, classes: Sequence[str] | None = None) -> TarSource:
    """List a folder of tars; one that is damaged becomes one unreadable sample, unless all are.

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
            entries.append(Entry(shard.path, (number, 0, 0), unreadable=f"shard cannot be opened: {error.rule}"))
    if len(failures) == len(tars):
        raise failures[0]
    return _tar_source("shards", spec, [(root / shard.location, shard.path) for shard in tars], entries, classes)


def _shard_entries(root: Path, shard: Entry, number: int, spec: str) -> list[Entry]:
    if shard.unreadable is not None:
        raise SourceError(f"shard {shard.path}", shard.unreadable)
    return list(_tar_entries(root / shard.location, number, f"{shard.path}/", what=f"{spec}: {shard.path}"))


def _tar_source(
    kind: str, spec: str, tars: Sequence[tuple[Path, str]], entries: Sequence[Entry], classes: Sequence[str] | None
) -> TarSource:
    paths = tuple(os.fspath(path.absolute()) for path, _ in tars)
    handles = Handles(_open_binary)

    def read(entry: Entry) -> bytes:
        number, offset, size = entry.location
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
        extents=tuple(entry.location for entry in found.entries),
        _handles=handles,
    )


def _unpack(file: IO[bytes], extent: _Packed) -> bytes:
    """Read a member and check it. One that unpacks to more than it announces costs no memory, as it does in zipfile."""
    offset, packed, size, crc, method = extent
    file.seek(offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("its header is not where the directory says")
    file.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)  # the name and what is added to it
    data = file.read(packed)
    if method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    if len(data) != size or zlib.crc32(data) != crc:
        raise zipfile.BadZipFile("Bad CRC-32 or size: the member is damaged")
    return data


def _overlapping(members: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Return the members whose data run into the next one: packed once and listed often, they are a bomb."""
    order = sorted(range(len(members)), key=lambda number: members[number].header_offset)
    found = set()
    for this, following in itertools.pairwise(order):
        if members[this].header_offset == members[following].header_offset:
            found.add(following)
        elif members[this].header_offset + members[this].compress_size > members[following].header_offset:
            found.add(this)
    return found


def _zip_entry(info: zipfile.ZipInfo, *, overlaps: bool) -> Entry:
    # The format knows "/" alone: a backslash is a separator that some Windows packers write.
    name = _plain(info.filename.replace("\\", "/"))
    unreadable = check_size(max(info.file_size, info.compress_size))
    if leads_out(name):
        unreadable = _OUTSIDE
    elif stat.S_ISLNK(info.external_attr >> 16):
        unreadable = "is a link, not a file"
    elif info.flag_bits & 1:
        unreadable = "is encrypted"
    elif info.compress_type not in _PACKED:
        unreadable = f"is packed by method {info.compress_type}, only plain and deflated members are read"
    elif overlaps:
        unreadable = "overlaps another member"
    extent = (info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)
    return Entry(escape(name) or _NAMELESS, extent, info.file_size, unreadable=unreadable)


def _tar_entries(path: Path, number: int, shard: str, *, what: str) -> Iterator[Entry]:
    """Yield the members of a tar; ``location`` is (number of the tar, first byte, bytes)."""
    step = "fetch or pack it again"
    try:
        with path.open("rb") as file:
            start = file.read(6)
            for magic, name in _COMPRESSED:
                if start.startswith(magic):
                    raise SourceError(f"source {what}", f"is a tar compressed with {name}", "decompress it first")
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            # typeshed asks for all of a file; tarfile only reads, seeks and tells
            reader = cast("IO[bytes]", headers := _Headers(file))
            with tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                last = 0
                for member in _members(tar, headers, length, what):
                    last = max(last, member.offset_data + member.size)
                    if not member.isdir():
                        yield _tar_entry(member, number, shard, length)
                if (note := _end_note(file, tar.offset, length, what)) is not None and last <= length:
                    yield Entry("(end of archive)", (number, 0, 0), shard=shard, ignored=note)
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise SourceError(f"source {what}", f"is no tar archive, or a damaged one ({error})", step) from error


class _Headers:
    """The file that tarfile sees: what it reads before one member is limited, as it keeps all of it in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, _LONGEST_HEADER
        self.seek, self.tell = file.seek, file.tell

    def next_member(self) -> None:
        """Give the next member its allowance."""
        self._left = _LONGEST_HEADER

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError(f"a member's header of more than {_LONGEST_HEADER:,} bytes")
        self._left -= size
        data = self._file.read(size)
        # tarfile searches for numbers in a way that is quadratic in their length until Python 3.12.6.
        if size > tarfile.BLOCKSIZE and _DIGITS.search(data):
            raise tarfile.ReadError("a member's header with a number of 1,000 digits")
        return data


def _members(tar: tarfile.TarFile, headers: _Headers, length: int, what: str) -> Iterator[tarfile.TarInfo]:
    last: tarfile.TarInfo | None = None
    while True:
        headers.next_member()
        try:
            member = tar.next()
            if member is not None and (member.size < 0 or (last is not None and member.offset <= last.offset)):
                # It would be met again and again: Python before 3.13.6 follows it for ever.
                raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        except tarfile.TarError as error:
            if last is not None and last.offset_data + last.size > length:
                return  # cut short inside the last member, which its own entry names unreadable
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
    unreadable = check_size(member.size)
    if leads_out(name):
        unreadable = _OUTSIDE
    elif member.islnk() or member.issym():
        unreadable = "is a link, not a file"
    elif not member.isreg() or member.issparse():
        unreadable = "is a sparse file, pipe or device, not a plain file"
    elif member.offset_data + member.size > length:
        unreadable = "is cut short: the archive ends inside it"
    extent = number, member.offset_data, member.size
    return Entry(escape(name) or _NAMELESS, extent, member.size, shard=shard, unreadable=unreadable)


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
