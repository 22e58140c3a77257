"""Samples to one uint8 tensor on the training device: decoded once, resized once, kept there.

12,000 pictures of 96 px are 330 MB, so a set lives where it is augmented; nothing is decoded during training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hemalens.core.errors import SourceError
from hemalens.core.types import Images, IntArray, Progress, no_progress
from hemalens.data.parallel import map_chunks
from hemalens.data.sources import Source

__all__ = ["LabelledImages", "encode_labels", "load_images", "resize", "to_batch"]

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """A set held in memory: pictures (N, S, S, 3) uint8, labels (N,) int64 or -1, and the ids of its samples."""

    images: Images
    labels: IntArray
    sample_ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)


def resize(picture: Images, size: int) -> Images:
    """Return a picture (H, W, 3) uint8 as (size, size, 3) by Pillow's antialiased bicubic filter."""
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def load_images(
    source: Source, indices: Sequence[int], *, size: int, workers: int | None = None, progress: Progress = no_progress
) -> Images:
    """Return the chosen samples (N, size, size, 3) uint8, decoded and resized in worker processes.

    Raises DecodeError naming the sample that cannot be read: clean the source first.
    """
    images = np.empty((len(indices), size, size, 3), np.uint8)
    done = 0
    progress("loading pictures", 0, len(indices))
    tasks = _tasks(source, indices, size)
    for part in map_chunks(_load, tasks, halve=_whole, lost=_crashed, workers=workers):
        images[done : done + len(part)] = part
        done += len(part)
        progress("loading pictures", done, len(indices))
    return images


def encode_labels(labels: Sequence[str | None], classes: Sequence[str]) -> IntArray:
    """Return the class number of each label (N,) int64, -1 where there is none or it is not one of the classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([-1 if label is None else numbers.get(label, -1) for label in labels], np.int64)


def to_batch(images: Tensor) -> Tensor:
    """Return uint8 pictures (N, S, S, 3) as floats in [0, 1] (N, 3, S, S), channels last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)


_Task = tuple[Source | None, Sequence[int], Sequence[Images] | None, int]


def _tasks(source: Source, indices: Sequence[int], size: int) -> Iterator[_Task]:
    for start in range(0, len(indices), _CHUNK):
        chosen = [int(index) for index in indices[start : start + _CHUNK]]
        if source.in_memory:
            yield None, chosen, [source.picture(index).pixels for index in chosen], size
        else:
            yield source, chosen, None, size


def _load(task: _Task) -> Images:
    source, indices, pictures, size = task
    if pictures is None:
        assert source is not None
        pictures = [source.picture(index).pixels for index in indices]
    return np.stack([resize(picture, size) for picture in pictures])


def _whole(task: _Task) -> list[_Task]:
    source, indices, pictures, size = task
    if len(indices) == 1:
        return []
    singly = [None] * len(indices) if pictures is None else [[picture] for picture in pictures]
    return [(source, [index], alone, size) for index, alone in zip(indices, singly, strict=True)]


def _crashed(task: _Task) -> Images:
    name = task[0].samples[task[1][0]].sample_id if task[0] is not None else str(task[1][0])
    raise SourceError(f"picture {name}", "crashed its decoder", "audit and clean the source first")
