"""From a folder of pictures, or a list of paths, to a source that reads one file at a time.

Never opens what is not a regular file inside the folder: links out of it, pipes and devices are listed with their
reason. Needs the standard library only.
"""

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from hemalens.core.errors import ArtifactError, DecodeError, SourceError
from hemalens.data.sources.entries import Entry, arrange, escape, refuse_size
from hemalens.data.sources.source import Source, digest_facts

__all__ = ["FileSource", "open_folder", "read_bytes", "walk"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSource(Source):
    """Pictures in files of their own.

    Attributes:
        root: absolute folder that ``paths`` start from.
        paths: each sample's path as the operating system knows it.
        stamps: each sample's (bytes, modification time in ns) when listed.
        origin: SHA-256 of the manifest that lists them, empty for a folder.
        recorded: what each must be, SHA-256 of its bytes, in a folder that ``clean`` wrote; empty elsewhere.
    """

    root: str
    paths: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    origin: str = ""
    recorded: tuple[str, ...] = ()
    listed: ClassVar[tuple[str, ...]] = ("paths", "stamps", "recorded")

    def fingerprint(self) -> str:
        """Return the SHA-256 over sorted (id, label, group, split, bytes, modification time), and over the manifest."""
        facts = zip(self.samples, self.stamps, strict=True)
        records = sorted((s.sample_id, s.label or "", s.group or "", s.split or "", *stamp) for s, stamp in facts)
        return digest_facts([(self.origin,), *records])

    def _read(self, index: int) -> bytes:
        try:
            data = read_bytes(Path(self.root, self.paths[index]))
        except OSError as error:
            what = f"picture {self.samples[index].sample_id!r}"
            raise DecodeError(what, f"cannot be read ({error.strerror or error})", "was it moved?") from error
        if self.recorded:
            _check(data, self.recorded[index], Path(self.root), self.paths[index])
        return data


def open_folder(
    root: Path,
    *,
    spec: str,
    entries: Sequence[Entry],
    classes: Sequence[str] | None,
    recorded: Mapping[str, str] | None = None,
) -> FileSource:
    """Make a source of a folder that ``walk`` has listed; raises SourceError where it holds no picture.

    Where ``recorded`` (file -> SHA-256) is given, a picture or label file that is not among them, or another, is
    refused: ArtifactError.
    """
    base = os.fspath(root.absolute())

    def read(entry: Entry) -> bytes:
        data = read_bytes(Path(base, entry.place))
        if recorded:
            _check(data, recorded.get(entry.path, ""), root, entry.path)
        return data

    found = arrange(
        entries,
        read=read,
        classes=classes,
        what=spec,
    )
    for entry in found.entries if recorded else ():
        if recorded and entry.path not in recorded:
            _check(b"", "", root, entry.path)
    return FileSource(
        spec=spec,
        kind="folder",
        samples=found.samples,
        classes=found.classes,
        ignored=found.ignored,
        root=base,
        paths=tuple(entry.place for entry in found.entries),
        stamps=tuple((entry.size, entry.time) for entry in found.entries),
        recorded=tuple(recorded[entry.path] for entry in found.entries) if recorded else (),
    )


def _check(data: bytes, expected: str, root: Path, name: str) -> None:
    """Raise ArtifactError where a file's bytes are not those that ``clean`` recorded ("" where it recorded none)."""
    if sha256(data).hexdigest() != expected:
        rule = "is not what 'clean' wrote: its SHA-256 is not the one" if expected else "is not listed"
        step = f"put the folder back, clean again, or accept it as it is: hemalens verify {root} --accept"
        raise ArtifactError(f"file {root / name}", f"{rule} in provenance.json", step)


def read_bytes(path: Path) -> bytes:
    """Read a whole regular file; a pipe or device put in its place meanwhile is not waited for."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read()


def walk(root: Path) -> list[Entry]:
    """List every file below a folder, sorted by path, following links to files inside it only.

    ``Entry.place`` is the path below ``root``. Raises SourceError where ``root`` itself cannot be listed.
    """
    real = os.path.realpath(root)
    entries: list[Entry] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            # One child at a time: those of a large folder take more memory than what is kept of them.
            with os.scandir(Path(real, folder)) as children:
                for child in children:
                    place = f"{folder}{os.sep}{child.name}" if folder else child.name
                    if not child.is_dir(follow_symlinks=False):
                        entries.append(_file(child, place, real))
                    elif child.name.startswith(".") or child.name == "__MACOSX":
                        entries.append(Entry(f"{_inside(place)}/", place, ignored="hidden folder, not looked into"))
                    else:
                        folders.append(place)
        except OSError as error:
            if not folder:
                step = "check the path and its permissions"
                raise SourceError(f"source {root}", f"cannot be listed ({error.strerror})", step) from error
            entries.append(Entry(f"{_inside(folder)}/", folder, ignored=f"folder cannot be listed ({error.strerror})"))
    entries.sort(key=lambda entry: entry.path)
    return entries


def _inside(place: str) -> str:
    return escape(place if os.sep == "/" else place.replace(os.sep, "/"))


def _file(child: os.DirEntry[str], place: str, root: str) -> Entry:
    path = _inside(place)
    if child.is_symlink():
        return _link(child, path, place, root)
    try:
        status = child.stat(follow_symlinks=False)
    except OSError as error:
        return Entry(path, place, refused=f"cannot be read ({error.strerror})")
    return _regular(path, place, status, child.path)


def _link(child: os.DirEntry[str], path: str, place: str, root: str) -> Entry:
    try:
        target = Path(os.path.realpath(child.path, strict=True))
        status = target.stat()
    except OSError as error:
        loop = error.errno == errno.ELOOP
        return Entry(path, place, refused="links in a loop" if loop else f"links to nothing ({error.strerror})")
    inside = target.is_relative_to(root)
    if stat.S_ISDIR(status.st_mode):
        upwards = Path(child.path).is_relative_to(target)
        kind = "back up (a loop)" if upwards else "to a folder" if inside else "out of the source"
        return Entry(path, place, ignored=f"links {kind}, not followed")
    if not inside:
        return Entry(path, place, refused="links out of the source")
    return _regular(path, place, status, target)


def _regular(path: str, place: str, status: os.stat_result, full: str | Path) -> Entry:
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, place, ignored="a pipe, socket or device, never opened")
    refused = refuse_size(status.st_size)
    if refused is None and not os.access(full, os.R_OK):
        refused = "cannot be read (Permission denied)"
    return Entry(path, place, status.st_size, status.st_mtime_ns, refused=refused)
