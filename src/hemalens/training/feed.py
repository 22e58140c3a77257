"""From a training set to its batches, epoch by epoch: what a loop asks for, and the set that lives on the device.

Sets larger than memory are streamed (``streaming``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hemalens.core.config import TrainConfig
from hemalens.core.types import Images, IntArray
from hemalens.training.schedule import epoch_order, epoch_steps
from hemalens.training.tensors import LabelledImages

__all__ = ["Batch", "Feed", "MemoryFeed"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process trains on in one step.

    Attributes:
        images: (B, S, S, 3) uint8, on the device.
        labels: (B,) int64, on the device.
        keys: (B,) int64, on the device; what the augmentation draws from.
        indices: (B,) int64, on the CPU; the indices in the training set.
        size: the images of this step over all processes.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    indices: Tensor
    size: int


class Feed(ABC):
    """The batches of a training set.

    Used in a ``with`` statement, it lets go of its processes and images at the end.

    Attributes:
        labels: (N,) int64, the classes of the training set.
        sample_ids: the N ids of its samples.
        window: how many images are shuffled among at a time, 0 where that is all of them.
    """

    def __init__(
        self, labels: IntArray, sample_ids: Sequence[str], config: TrainConfig, device: torch.device, *, window: int = 0
    ) -> None:
        self.labels, self.sample_ids, self.window = labels, tuple(sample_ids), window
        self._config, self._device = config, device
        self._classes = torch.from_numpy(labels)

    def __enter__(self) -> Self:
        """Return the feed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the feed."""
        self.close()

    def steps(self) -> int:
        """Return the steps of an epoch."""
        return epoch_steps(self.labels, self._config)

    @abstractmethod
    def epoch(self, number: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 1; of several processes each takes every ``world``-th image.

        One epoch at a time is under way. Raises DecodeError or SourceError naming a sample that cannot be read.
        """

    @abstractmethod
    def images(self, indices: Tensor) -> Tensor:
        """Return the images (B, S, S, 3) uint8, on the device, of any indices (B,) of the training set."""

    def sample(self, count: int) -> Images:
        """Return so many images (count, S, S, 3) uint8, or all where there are fewer, evenly spaced over the set."""
        kept = min(count, len(self.labels))
        return self.images(torch.arange(kept) * len(self.labels) // max(kept, 1)).cpu().numpy()

    def close(self) -> None:  # noqa: B027  # most kinds have nothing to let go of
        """Let go of processes and images decoded ahead."""

    def _shares(self, rank: int, world: int, *columns: IntArray) -> Iterator[tuple[int, list[IntArray]]]:
        """Yield for each step its size over all processes, and this process's share of each column."""
        for start in range(0, self.steps() * self._config.batch_size, self._config.batch_size):
            batch = [column[start : start + self._config.batch_size] for column in columns]
            yield len(batch[0]), [column[rank::world] for column in batch]

    def _batch(self, images: Tensor, indices: IntArray, keys: IntArray, size: int) -> Batch:
        chosen = torch.from_numpy(indices)
        labels, own = self._classes[chosen].to(self._device), torch.from_numpy(keys).to(self._device)
        return Batch(images, labels, own, chosen, size)


class MemoryFeed(Feed):
    """A training set that lives on the device as a whole."""

    def __init__(self, data: LabelledImages, config: TrainConfig, device: torch.device) -> None:
        super().__init__(data.labels, data.sample_ids, config, device)
        self._images = torch.from_numpy(data.images).to(device)

    def epoch(self, number: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch, in the order of ``epoch_order``."""
        order = epoch_order(self.labels, self._config, epoch=number)
        for size, (indices, keys) in self._shares(rank, world, *order):
            yield self._batch(self.images(torch.from_numpy(indices)), indices, keys, size)

    def images(self, indices: Tensor) -> Tensor:
        """Return the images (B, S, S, 3) uint8, on the device, of any indices (B,)."""
        return self._images[indices.to(self._device)]
