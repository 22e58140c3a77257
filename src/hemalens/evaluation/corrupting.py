"""Samples to their corrupted copies at the network's size, made in worker processes; one decoding serves all of them.

Images are brought to 224 px, where the parameters of MedMNIST-C are meant, corrupted there and then resized, so that
a network of any size is asked about the same damage as those of the paper. Needs numpy and Pillow: what this imports
every worker imports.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from hemalens.core.errors import SourceError
from hemalens.core.types import Images
from hemalens.data.reading.parallel import map_chunks
from hemalens.data.reading.resize import resize
from hemalens.data.sources import Source
from hemalens.evaluation.corruptions import CORRUPTIONS, REFERENCE_SIDE, SEVERITIES, corrupt

__all__ = ["SETS", "corrupted_copies"]

SETS = tuple((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)
"""The sets: (corruption, severity), in the order of the copies."""

_CHUNK_BYTES = 12_000_000  # of corrupted images a task: 17 samples at 64 px, a few seconds of work


def corrupted_copies(
    source: Source, indices: Sequence[int], *, size: int, seed: int = 0, workers: int | None = None
) -> Iterator[Images]:
    """Yield all copies (sets, n, size, size, 3) uint8 of the next n samples, until every index was served.

    Args:
        source: where the samples are.
        indices: their numbers in the source, which decide what is drawn for them.
        size: of the copies, in pixels per side.
        seed: of what is drawn.
        workers: processes; None for one a core, 0 for this process.

    Raises DecodeError naming the sample that cannot be read: clean the source first.
    """
    # Workers get the listing of the source once, tasks carry numbers; of arrays they carry the images.
    make = partial(_corrupt_chunk, None if source.in_memory else source, size, seed)
    tasks = _tasks(source, indices, size)
    yield from map_chunks(make, tasks, halve=_singly, lost=partial(_crashed, source), workers=workers)


_Task = tuple[list[int], list[Images] | None]


def _tasks(source: Source, indices: Sequence[int], size: int) -> Iterator[_Task]:
    step = max(1, _CHUNK_BYTES // (len(SETS) * size * size * 3))
    for start in range(0, len(indices), step):
        chosen = [int(index) for index in indices[start : start + step]]
        yield chosen, [source.image(index).pixels for index in chosen] if source.in_memory else None


def _corrupt_chunk(source: Source | None, size: int, seed: int, task: _Task) -> Images:
    """Return every corrupted copy (11 x 5, N, size, size, 3) of a task's samples."""
    indices, images = task
    copies = np.empty((len(SETS), len(indices), size, size, 3), np.uint8)
    for row, index in enumerate(indices):
        if images is None:
            assert source is not None
            image = source.image(index).pixels
        else:
            image = images[row]
        image = resize(image, REFERENCE_SIDE)
        for number, (name, severity) in enumerate(SETS):
            copies[number, row] = resize(corrupt(image, name, severity, index=index, seed=seed), size)
    return copies


def _singly(task: _Task) -> list[_Task]:
    indices, images = task
    if len(indices) == 1:
        return []
    return [([index], None if images is None else [images[row]]) for row, index in enumerate(indices)]


def _crashed(source: Source, task: _Task) -> Images:
    name = source.samples[task[0][0]].sample_id
    raise SourceError(f"image {name}", "crashed its worker", "audit and clean the source first")
