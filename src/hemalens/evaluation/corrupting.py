"""Samples to their corrupted copies at the network's size, made in worker processes; one decoding serves all of them.

Images are brought to 224 px, where the parameters of MedMNIST-C are meant, corrupted there and then resized, so that
a network of any size is asked about the same damage as those of the paper. Needs numpy and Pillow: what this imports
every worker imports.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from hemalens.core.types import Images
from hemalens.data.reading.mapping import every, map_images
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
    make = partial(_corrupt_part, size, seed)
    chunk = max(1, _CHUNK_BYTES // (len(SETS) * size * size * 3))
    for results in map_images(source, indices, make, chunk=chunk, workers=workers):
        yield np.stack(every(results), axis=1)


def _corrupt_part(size: int, seed: int, source: Source, indices: Sequence[int]) -> list[Images]:
    """Return every corrupted copy (sets, size, size, 3) of each image."""
    made = []
    for row, index in enumerate(indices):
        image = resize(source.image(row).pixels, REFERENCE_SIDE)
        damaged = (corrupt(image, name, severity, index=int(index), seed=seed) for name, severity in SETS)
        made.append(np.stack([resize(copy, size) for copy in damaged]))
    return made
