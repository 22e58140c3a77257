"""From .npz and .npy files of images to a source that reads one row at a time.

Labels are read when the file is opened, images when the first row is asked for; nothing pickled is ever loaded.
Needs numpy.
"""

import math
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from hemalens.core.errors import SourceError
from hemalens.core.provenance import sha256_file
from hemalens.core.types import Sample
from hemalens.data.reading.memory import available_memory
from hemalens.data.sources.entries import escape, number_repeats
from hemalens.data.sources.given import GivenSource
from hemalens.data.sources.labels import SPLITS, name_labels
from hemalens.data.sources.source import Source

__all__ = ["ArraySource", "open_arrays"]

_MEDMNIST = ("train", "val", "test")
# What zipfile, zlib and numpy raise for damaged files and for sizes that cannot be.
_DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, OverflowError, MemoryError),
    *(zlib.error, zipfile.BadZipFile, RuntimeError),
)
_NAME_DIGITS = 6
_LONGEST_HEADER = 10_000
_HEADER = re.compile(
    rb"\{\s*'descr'\s*:\s*'([<>|=][biufcSU]\d*|\|O)'\s*,\s*'fortran_order'\s*:\s*(?:True|False)\s*,"
    rb"\s*'shape'\s*:\s*\(([\d,\s]*)\)\s*,?\s*\}\s*"
)


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Arrays:
    """The images of a file, loaded once a process, left behind when pickled."""

    def __init__(self) -> None:
        self.loaded: dict[str, npt.NDArray[Any]] = {}
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type["_Arrays"], tuple[()]]:
        return type(self), ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ArraySource(Source):
    """Images in rows of arrays.

    Attributes:
        path: the file.
        parts: (name of the array, rows) in the order of the samples; the name is empty for a lone .npy.
    """

    path: str
    parts: tuple[tuple[str, int], ...]
    in_memory: ClassVar[bool] = True
    _arrays: _Arrays = field(default_factory=_Arrays, repr=False)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256_file(Path(self.path))

    def part(self, indices: Sequence[int]) -> GivenSource:
        """Return some samples with their rows, so that whoever is sent them does not load the file."""
        samples, rows = tuple(self.samples[index] for index in indices), [self._read(index) for index in indices]
        return GivenSource(spec=self.spec, kind=self.kind, samples=samples, classes=self.classes, images=rows)

    def _read(self, index: int) -> npt.NDArray[Any]:
        for key, rows in self.parts:
            if index < rows:
                return np.array(self._load(key)[index])
            index -= rows
        raise IndexError(index)

    def _load(self, key: str) -> npt.NDArray[Any]:
        with self._arrays.lock:
            if key not in self._arrays.loaded:
                self._arrays.loaded[key] = _File(Path(self.path), self.spec).load(key)
            return self._arrays.loaded[key]


def open_arrays(path: Path, *, spec: str, classes: Sequence[str] | None = None) -> ArraySource:
    """Open a ``.npy`` of images, a ``.npz`` with ``images`` and ``labels``, or a MedMNIST ``.npz``.

    The ``.npz`` may also hold ``classes`` (names by class number) and, one a row, ``ids``, ``groups`` and ``splits``
    (empty where unknown), so that a cleaned file keeps what its source knew. Raises SourceError for missing arrays,
    shapes, types or numbers of labels that do not fit.
    """
    file = _File(path, spec)
    if path.suffix.lower() == ".npy":
        rows = _check_images(file.header(""), "array", spec)
        samples = tuple(Sample(name) for name in _row_names(rows))
        return ArraySource(
            spec=spec, kind="npz", samples=samples, classes=(), path=os.fspath(path.absolute()), parts=(("", rows),)
        )
    names = file.names()
    splits = [split for split in _MEDMNIST if f"{split}_images" in names]
    if splits and "images" not in names:
        return _open_medmnist(file, splits, classes)
    if "images" not in names:
        held = ", ".join(sorted(names)) or "nothing"
        raise SourceError(f"source {spec}", f"lacks the array 'images' (it holds {held})", "save images and labels")
    return _open_npz(file, names, classes)


def _open_npz(file: "_File", names: frozenset[str], classes: Sequence[str] | None) -> ArraySource:
    rows = _check_images(file.header("images"), "array 'images'", file.spec)
    if "labels" not in names:
        step = "add them, or save unlabelled images as .npy"
        raise SourceError(f"source {file.spec}", "lacks the array 'labels'", step)
    raw = _check_labels(file.load("labels"), rows, "array 'labels'", file.spec)
    if classes is None and "classes" in names:
        classes = [name or "" for name in _texts(file.load("classes"), None, "classes", file.spec)]
    labels, order = name_labels(raw, classes, what=file.spec)
    column = {
        key: _texts(file.load(key), rows, key, file.spec) if key in names else [None] * rows
        for key in ("ids", "groups", "splits")
    }
    ids, repeated = number_repeats(
        [escape(given or own) for given, own in zip(column["ids"], _row_names(rows), strict=True)]
    )
    samples = tuple(
        Sample(ids[row], labels[row], column["groups"][row], _split(column["splits"][row], row, file.spec), unreadable)
        for row, unreadable in enumerate(
            "has the id of an earlier row (duplicate id)" if again else None for again in repeated
        )
    )
    return ArraySource(
        spec=file.spec, kind="npz", samples=samples, classes=order, path=file.absolute, parts=(("images", rows),)
    )


def _open_medmnist(file: "_File", splits: Sequence[str], classes: Sequence[str] | None) -> ArraySource:
    raw: list[int | str | None] = []
    named: list[tuple[str, str]] = []
    parts = []
    for split in splits:
        rows = _check_images(file.header(f"{split}_images"), f"array '{split}_images'", file.spec)
        if f"{split}_labels" not in file.names():
            raise SourceError(f"source {file.spec}", f"lacks the array '{split}_labels'", "fetch it again")
        raw += _check_labels(file.load(f"{split}_labels"), rows, f"array '{split}_labels'", file.spec)
        named += [(f"{split}/{name}", split) for name in _row_names(rows)]
        parts.append((f"{split}_images", rows))
    labels, order = name_labels(raw, classes, what=file.spec)
    samples = tuple(Sample(name, label, None, split) for (name, split), label in zip(named, labels, strict=True))
    return ArraySource(
        spec=file.spec, kind="medmnist", samples=samples, classes=order, path=file.absolute, parts=tuple(parts)
    )


class _File:
    """The arrays of one .npz or .npy file, by name (the empty name in a .npy)."""

    def __init__(self, path: Path, spec: str) -> None:
        self.path, self.spec = path, spec
        self.absolute = os.fspath(path.absolute())

    def names(self) -> frozenset[str]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return frozenset(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
        except _DAMAGE as error:
            raise self._damaged("", error) from error

    def header(self, key: str) -> _Header:
        """Read shape and type alone, and check that as many bytes are there as they announce."""
        try:
            if not key:
                with self.path.open("rb") as plain:
                    return _read_header(plain, self.path.stat().st_size)
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as member:
                info = archive.getinfo(f"{key}.npy")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("packed otherwise than numpy does")  # such are unpacked without a limit
                return _read_header(member, info.file_size)
        except _DAMAGE as error:
            raise self._damaged(key, error) from error

    def load(self, key: str) -> npt.NDArray[Any]:
        """Load a whole array (a .npy is mapped rather than read)."""
        header = self.header(key)
        if header.dtype.hasobject:
            rule = "holds Python objects, which are never unpickled"
            step = "save it as one array of numbers or of fixed-width text"
            raise SourceError(f"array {key!r} of {self.spec}" if key else f"array {self.spec}", rule, step)
        needed, free = math.prod(header.shape) * header.dtype.itemsize, available_memory()
        if key and needed > free:  # a file of 100 MB may unpack to 100 GB
            rule = f"needs {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} are free"
            raise SourceError(f"array {key!r} of {self.spec}", rule, "save the images as files or tar shards")
        try:
            if not key:
                mapped: npt.NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
                return mapped
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as member:
                return np.lib.format.read_array(member, allow_pickle=False)
        except _DAMAGE as error:
            raise self._damaged(key, error) from error

    def _damaged(self, key: str, error: BaseException) -> SourceError:
        what = f"array {key!r} of {self.spec}" if key else f"source {self.spec}"
        kind = "array" if key or self.path.suffix.lower() == ".npy" else "npz file"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return SourceError(what, f"is no readable {kind} ({reason})", "fetch or save it again")


def _read_header(file: IO[bytes], size: int) -> _Header:
    """Read shape and type as the format's definition writes them (numpy's reader also warns and guesses)."""
    start = file.read(8)
    width = 2 if start[6:] == b"\x01\x00" else 4
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError("it does not begin as one of format 1 or 2")
    found = _HEADER.fullmatch(file.read(min(int.from_bytes(file.read(width), "little"), _LONGEST_HEADER)))
    if found is None:
        raise ValueError("its header is damaged or describes no plain array")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(side) for side in found[2].replace(b",", b" ").split())
    announced, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and announced != held:
        raise ValueError(f"{held:,} bytes of data for the shape {shape} {dtype}, {announced:,} are needed")
    return _Header(shape, dtype)


def _check_images(header: _Header, what: str, spec: str) -> int:
    """Return the number of images."""
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:
        step = "save images of one size as one uint8 array, images of several sizes as files"
        raise SourceError(f"{what} of {spec}", "holds Python objects, which are never unpickled", step)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)) or 0 in shape:
        step = "move the channels to the last axis" if len(shape) == 4 and shape[1] in (1, 3, 4) else "reshape it"
        raise SourceError(f"{what} of {spec}", f"has the shape {shape}, images are (N, H, W, 3) or (N, H, W)", step)
    if not (dtype == np.uint8 or dtype == np.uint16 or dtype.kind in "bf"):
        rule = f"has the type {dtype}, images are uint8, uint16, bool or float"
        raise SourceError(f"{what} of {spec}", rule, "save it as uint8")
    return shape[0]


def _check_labels(labels: npt.NDArray[Any], rows: int, what: str, spec: str) -> list[int | str | None]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        step = "save class numbers (of one-hot rows: labels.argmax(axis=1))"
        raise SourceError(f"{what} of {spec}", f"has the shape {labels.shape}, labels are (N,) or (N, 1)", step)
    if len(labels) != rows:
        rule = f"has {len(labels)} rows for {rows} images"
        raise SourceError(f"{what} of {spec}", rule, "save one label for each image")
    if labels.dtype.kind in "iu":
        return [int(label) for label in labels]
    if labels.dtype.kind in "US":
        return list(_texts(labels, rows, what, spec))
    rule = f"has the type {labels.dtype}, labels are whole numbers or names"
    raise SourceError(f"{what} of {spec}", rule, "save class numbers from 0 as int64, or class names")


def _texts(values: npt.NDArray[Any], rows: int | None, what: str, spec: str) -> list[str | None]:
    """Return a column of text, None for the empty one."""
    if values.ndim != 1 or (rows is not None and len(values) != rows) or values.dtype.kind not in "USiu":
        expected = "text (N,)" if rows is None else f"text ({rows},)"
        rule = f"has the shape {values.shape} and type {values.dtype}, it must be {expected}"
        raise SourceError(f"array {what!r} of {spec}", rule, "save it again")
    if values.dtype.kind == "S":
        return [item.decode("utf-8", "backslashreplace") or None for item in values.tolist()]
    return [str(item) or None for item in values.tolist()]


def _split(value: str | None, row: int, spec: str) -> str | None:
    if value is None:
        return None
    if value.lower() not in SPLITS:
        raise SourceError(f"split {value!r} in row {row} of {spec}", "is none of train, val, test", "correct it")
    return SPLITS[value.lower()]


def _row_names(rows: int) -> list[str]:
    digits = max(_NAME_DIGITS, len(str(rows - 1)))
    return [f"row-{row:0{digits}d}" for row in range(rows)]
