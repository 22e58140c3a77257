"""The one face that every kind of source shows: samples in a stable order, read one by one.

Needs numpy and Pillow (to decode); the kinds themselves live in the modules beside this one.
"""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hemalens.core.errors import DecodeError
from hemalens.core.types import Sample
from hemalens.data.reading.decode import MAX_PIXELS, Decoded, decode, decode_array

__all__ = ["Handles", "Source", "content_sha256", "digest_facts"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(ABC):
    """A pile of images, listed when opened and read when asked for.

    Pickles as its listing alone: open files and loaded arrays stay behind and are opened again where they are needed.

    Attributes:
        spec: how the user named it.
        kind: "npz" (also a lone .npy), "medmnist", "folder", "zip", "tar", "shards" or "manifest".
        samples: one record an image; sorted by id in folders and archives, in row order in arrays and manifests.
        classes: the label names in their order; empty where nothing is labelled.
        ignored: (name, reason) of each entry that is no sample.
        listed: names of the other attributes that hold one entry a sample.
        in_memory: True where reading loads whole arrays, so that workers should be sent pixels, not the source.
        in_process: True where no worker processes are to be started: a program that hands over images it holds need
            not be written as starting them demands (below ``if __name__ == "__main__"``).
    """

    spec: str
    kind: str
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...] = ()
    listed: ClassVar[tuple[str, ...]] = ()
    in_memory: ClassVar[bool] = False
    in_process: ClassVar[bool] = False

    def __len__(self) -> int:
        """Count the samples, unreadable ones included."""
        return len(self.samples)

    def read(self, index: int) -> bytes | npt.NDArray[Any]:
        """Return a sample's encoded bytes, or its raw row of an array.

        Raises:
            DecodeError: where the sample cannot be read; the rest of the source is not affected.
            SourceError: where the whole source has become unreadable.
        """
        sample = self.samples[index]
        if sample.unreadable is not None:
            raise DecodeError(f"image {sample.sample_id!r}", sample.unreadable)
        return self._read(index % len(self.samples))

    def image(self, index: int, *, max_pixels: int = MAX_PIXELS) -> Decoded:
        """Read and decode one sample to (H, W, 3) uint8; raises what ``read`` and ``decode`` raise."""
        raw, name = self.read(index), self.samples[index].sample_id
        if isinstance(raw, np.ndarray):
            return decode_array(raw, name=name, max_pixels=max_pixels)
        return decode(raw, name=name, max_pixels=max_pixels)

    def part(self, indices: Sequence[int]) -> "Source":
        """Return some samples, in the order asked for, as a source of their own: what a process is sent with its task.

        Of a listing of a million samples each process would otherwise hold a copy. Raises SourceError where the source
        is held in memory and cannot be loaded.
        """
        facts: dict[str, Any] = {}
        for name in ("samples", *self.listed):
            values = getattr(self, name)
            facts[name] = tuple(values[index] for index in indices) if values else values  # optional ones may be empty
        return replace(self, **facts, ignored=())

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 that changes when the source does: of the file, or of names, sizes and times in a folder."""

    @abstractmethod
    def _read(self, index: int) -> bytes | npt.NDArray[Any]:
        """Read the sample at a valid, non-negative index that is not named unreadable."""


def content_sha256(data: bytes | npt.NDArray[Any]) -> str:
    """Return the SHA-256 of what ``Source.read`` returned: of the encoded bytes, or of an array row in C order."""
    return sha256(np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else data).hexdigest()


def digest_facts(facts: Iterable[tuple[object, ...]]) -> str:
    """Return the SHA-256 of records of plain values, in the order given, as 64 hexadecimal digits."""
    digest = sha256()
    for fact in facts:
        digest.update(repr(fact).encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Handles(Generic[T]):
    """A few files kept open, opened again after pickling or a fork, closed with their owner.

    One thread at a time uses them: a file has only one position to read from.
    """

    _LIMIT = 16  # open files; thousands of shards would meet the usual limit of 1,024 descriptors

    def __init__(self, opener: Callable[[str], T]) -> None:
        self._opener = opener
        self._open: dict[str, T] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, path: str) -> Iterator[T]:
        """Lend the open file of a path."""
        with self._lock:
            if self._process != os.getpid():  # a fork shares the parent's read positions
                self._open, self._process = {}, os.getpid()
            handle = self._open.pop(path, None) or self._opener(path)
            self._open[path] = handle  # last in, so the first is the one longest unused
            if len(self._open) > self._LIMIT:
                self._open.pop(next(iter(self._open))).close()
            yield handle

    def __reduce__(self) -> tuple[type["Handles[T]"], tuple[Callable[[str], T]]]:
        """Leave the open files behind."""
        return type(self), (self._opener,)

    def __del__(self) -> None:
        """Close what is open."""
        for handle in self._open.values():
            handle.close()
