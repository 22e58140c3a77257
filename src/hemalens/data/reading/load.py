"""Samples to uint8 images of one size, all at once or ahead of need in worker processes.

Needs numpy and Pillow; no torch, which would cost each worker 1.7 s of processor time to import.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np

from hemalens.core.types import Images, IntArray, Progress, no_progress
from hemalens.data.reading.decode import decode, decode_array
from hemalens.data.reading.mapping import every, map_images
from hemalens.data.reading.parallel import begin_worker
from hemalens.data.reading.resize import resize
from hemalens.data.scale import zoomed
from hemalens.data.sources import Source

__all__ = ["Begun", "Decoder", "cancel", "load_images", "read_sized", "resize"]

_CHUNK = 128
# Of images decoded ahead: what is lost to waiting at the end of a window, against the cost of handing one over.
_SMALL_CHUNK = 32
# Decoding ahead takes the cores that training leaves: torch's threads slow down together when one of them has to wait.
_NICENESS = 10

Begun = deque[tuple[IntArray, "Future[Images] | None"]]
"""Images under way: the samples of each chunk, and where its images will arrive (None: decoded when asked for)."""


def load_images(
    source: Source,
    indices: Sequence[int],
    *,
    size: int,
    zoom: float = 1.0,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Images:
    """Return the chosen samples (N, size, size, 3) uint8, decoded, zoomed and resized in worker processes.

    Raises DecodeError naming the sample that cannot be read: clean the source first.
    """
    images = np.empty((len(indices), size, size, 3), np.uint8)
    done = 0
    progress("loading images", 0, len(indices))
    load = partial(_load_part, size, zoom)
    for results in map_images(source, indices, load, chunk=_CHUNK, workers=workers):
        for image in every(results):
            images[done] = image
            done += 1
        progress("loading images", done, len(indices))
    return images


def read_sized(source: Source, index: int, size: int, *, zoom: float = 1.0) -> Images:
    """Return one sample (size, size, 3) uint8, decoded and zoomed; raises what ``Source.image`` raises."""
    raw, name = source.read(index), source.samples[index].sample_id
    if isinstance(raw, np.ndarray):
        return zoomed(decode_array(raw, name=name).pixels, zoom, size)
    side = size if zoom == 1.0 else None  # then decoded and resized in one step
    return zoomed(decode(raw, name=name, side=side).pixels, zoom, size)


class Decoder:
    """Decodes images ahead of need: what was begun first is ready first.

    Files are decoded in spawned processes that hold the listing of the source; arrays, which are in memory anyway, in
    threads. A process that dies costs its time alone, and the sample that kills it is named.

    Not ``map_images``, which is done when its images are: these workers stay for a whole training, are handed samples
    that nobody knew at the start (the next batches of a shuffled epoch), give up what is no longer wanted, and leave
    the cores to the training. Where one of them dies, ``map_images`` takes over.
    """

    def __init__(self, source: Source, size: int, *, workers: int) -> None:
        self._source, self._size, self._workers = source, size, workers
        self._pool: Executor | None = None

    def begin(self, indices: IntArray) -> Begun:
        """Hand samples to the workers; without workers they are decoded by ``finish``."""
        chunks = [indices[start : start + _SMALL_CHUNK] for start in range(0, len(indices), _SMALL_CHUNK)]
        if not self._workers:
            return deque((chunk, None) for chunk in chunks)
        try:
            return self._submit(chunks)
        except BrokenProcessPool:  # a worker has died since it was last asked
            self.close()
            return self._submit(chunks)

    def finish(self, begun: Begun) -> Images:
        """Wait for images (N, size, size, 3) uint8 in the order of their samples; ``begun`` is emptied.

        Raises DecodeError naming the sample that cannot be read.
        """
        images = np.empty((sum(len(chunk) for chunk, _ in begun), self._size, self._size, 3), np.uint8)
        done = 0
        while begun:
            chunk, future = begun.popleft()
            try:
                part = _read(self._source, chunk, self._size) if future is None else future.result()
            except BrokenProcessPool:
                chunk = np.concatenate([chunk, *(later for later, _ in begun)])
                begun.clear()
                part = load_images(self._source, chunk.tolist(), size=self._size, workers=self._workers)
            images[done : done + len(part)] = part
            done += len(part)
            del part, future  # they hold their images as long as they live
        return images

    def close(self) -> None:
        """Drop what is begun and end the workers; they start anew where they are needed again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, chunks: Sequence[IntArray]) -> Begun:
        if self._pool is None:
            self._pool = self._start()
        if isinstance(self._pool, ThreadPoolExecutor):
            return deque((chunk, self._pool.submit(_read, self._source, chunk, self._size)) for chunk in chunks)
        return deque((chunk, self._pool.submit(_read_opened, chunk, self._size)) for chunk in chunks)

    def _start(self) -> Executor:
        if self._source.in_memory:
            return ThreadPoolExecutor(self._workers, "decoding")
        spawn = multiprocessing.get_context("spawn")  # as in parallel
        return ProcessPoolExecutor(self._workers, spawn, initializer=_begin_work, initargs=(self._source,))


def cancel(begun: Begun) -> None:
    """Give up images that were begun; those under way are let go when they are done."""
    for _, future in begun:
        if future is not None:
            future.cancel()
    begun.clear()


def _load_part(size: int, zoom: float, source: Source, _: Sequence[int]) -> list[Images]:
    return [read_sized(source, index, size, zoom=zoom) for index in range(len(source))]


# The source of a worker process, sent once: a listing of a million samples is 100 MB and more.
_opened: list[Source] = []


def _begin_work(source: Source) -> None:
    _opened[:] = [source]
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    begin_worker()


def _read_opened(indices: IntArray, size: int) -> Images:
    return _read(_opened[0], indices, size)


def _read(source: Source, indices: IntArray, size: int) -> Images:
    images = np.empty((len(indices), size, size, 3), np.uint8)
    for row, index in enumerate(indices.tolist()):
        images[row] = read_sized(source, index, size)
    return images
