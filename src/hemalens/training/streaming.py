"""From a training set larger than memory to its batches: a window of images at a time, decoded ahead of need.

What an epoch shows is what it shows of a set in memory; its order is a function of (seed, epoch) and of the window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hemalens.core.config import TrainConfig
from hemalens.core.types import Images, IntArray, Progress, no_progress
from hemalens.data.reading.load import Begun, Decoder, cancel, load_images
from hemalens.data.reading.memory import available_memory
from hemalens.data.reading.parallel import available_cores
from hemalens.data.sources import Source
from hemalens.training.feed import Batch, Feed, MemoryFeed
from hemalens.training.schedule import windowed_order
from hemalens.training.tensors import LabelledImages

__all__ = ["StreamFeed", "choose_window", "open_feed"]

# The first step waits for a whole window, so it is not as large as memory allows.
_LARGEST_WINDOW = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """An epoch of one process: its order, and for each window it needs (number, distinct indices, ascending)."""

    name: tuple[int, int, int]
    order: tuple[IntArray, IntArray, IntArray]
    needed: tuple[tuple[int, IntArray], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """Decoded images: of which window, and of which indices in ascending order."""

    number: int
    indices: IntArray
    images: Images


class StreamFeed(Feed):
    """A training set of which two windows are in memory: one is trained on while the next is decoded.

    Args:
        source: where the images are read, one by one in any order.
        indices: the sample of each index; ascending ones, so that neighbours lie together in a folder or shard.
        labels: the class of each index.
        config: everything else.
        device: where batches go.
        window: distinct images at a time.
        workers: processes that decode (threads for arrays); 0 to decode where a window is needed.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | IntArray,
        labels: IntArray,
        config: TrainConfig,
        device: torch.device,
        *,
        window: int,
        workers: int,
    ) -> None:
        super().__init__(labels, [source.samples[index].sample_id for index in indices], config, device, window=window)
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self._few = None if workers else 0  # None: in processes of its own only where there is much to decode
        self._decoder = Decoder(source, config.stored, workers=workers)
        self._held: _Window | None = None
        self._ahead: tuple[_Plan, int, Begun] | None = None

    def epoch(self, number: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch, in the order of ``windowed_order``."""
        self._held = None
        plan = self._begun_plan((number, rank, world))
        windows = self._windows(plan)
        for size, (indices, keys, numbers) in self._shares(rank, world, *plan.order):
            images = np.empty((len(indices), *self._shape()), np.uint8)
            for needed in np.unique(numbers):
                if self._held is None or self._held.number != needed:
                    self._held = None  # before the one after the next is begun
                    self._held = next(windows)
                here = numbers == needed
                images[here] = self._held.images[np.searchsorted(self._held.indices, indices[here])]
            yield self._batch(torch.from_numpy(images).to(self._device), indices, keys, size)
        self._held = None

    def images(self, indices: Tensor) -> Tensor:
        """Return the images (B, S, S, 3) uint8, on the device, of any indices (B,); what is not at hand is decoded."""
        distinct, back = np.unique(indices.cpu().numpy(), return_inverse=True)
        known = np.isin(distinct, self._held.indices) if self._held is not None else np.zeros(len(distinct), bool)
        found = np.empty((len(distinct), *self._shape()), np.uint8)
        if self._held is not None:
            found[known] = self._held.images[np.searchsorted(self._held.indices, distinct[known])]
        missing = self._indices[distinct[~known]]
        found[~known] = load_images(self._source, missing.tolist(), size=self._config.stored, workers=self._few)
        return torch.from_numpy(found[back]).to(self._device)

    def close(self) -> None:
        """End the workers, and let go of what is decoded."""
        self._held = self._ahead = None
        self._decoder.close()

    def _shape(self) -> tuple[int, int, int]:
        return self._config.stored, self._config.stored, 3

    def _windows(self, plan: _Plan) -> Iterator[_Window]:
        """Yield the windows of a plan; while one is used the next is decoded, after the last the next epoch's first."""
        for index, (number, indices) in enumerate(plan.needed):
            begun = self._take(plan, index)
            if index + 1 < len(plan.needed):
                self._begin(plan, index + 1)
            elif plan.name[0] < self._config.epochs:
                self._begin(self._plan((plan.name[0] + 1, *plan.name[1:])), 0)
            yield _Window(number, indices, self._decoder.finish(begun))

    def _begun_plan(self, name: tuple[int, int, int]) -> _Plan:
        """Return the plan of an epoch; what was begun of another one is given up."""
        if self._ahead is not None:
            plan, index, begun = self._ahead
            if (plan.name, index) == (name, 0):
                return plan
            cancel(begun)
            self._ahead = None
        return self._plan(name)

    def _plan(self, name: tuple[int, int, int]) -> _Plan:
        number, rank, world = name
        order = windowed_order(self.labels, self._config, epoch=number, window=self.window)
        indices, _, windows = order
        own = np.arange(len(indices)) % self._config.batch_size % world == rank
        numbers, starts = np.unique(windows[own], return_index=True)
        parts = np.split(indices[own], starts[1:])[: len(numbers)]
        return _Plan(name, order, tuple(zip(numbers.tolist(), map(np.unique, parts), strict=True)))

    def _begin(self, plan: _Plan, index: int) -> None:
        if index < len(plan.needed):
            self._ahead = plan, index, self._decoder.begin(self._indices[plan.needed[index][1]])

    def _take(self, plan: _Plan, index: int) -> Begun:
        if self._ahead is None:
            self._begin(plan, index)
        assert self._ahead is not None
        assert self._ahead[:2] == (plan, index)
        begun, self._ahead = self._ahead[2], None
        return begun


def choose_window(count: int, config: TrainConfig, device: torch.device, *, processes: int = 1) -> int:
    """Return how many images of a set are to be decoded at a time: 0, all of them, where memory has room for them.

    Two windows take what ``config.memory_gb`` allows, or half of what is free now on the machine and the device; a
    window is no smaller than a batch and no larger than 16,384 images.

    Args:
        count: images of the training set.
        config: everything else.
        device: where the set would be held.
        processes: how many share the memory.
    """
    allowed = config.memory_gb * 1e9
    if not allowed:
        free = available_memory()
        if device.type == "cuda":
            free = min(free, torch.cuda.mem_get_info(device)[0] * processes)  # each process has a device of its own
        allowed = free / 2
    room = int(allowed / processes) // (3 * config.stored**2)
    return 0 if count <= room else max(min(room // 2, _LARGEST_WINDOW), config.batch_size)


def open_feed(
    source: Source,
    indices: Sequence[int],
    labels: IntArray,
    config: TrainConfig,
    device: torch.device,
    *,
    progress: Progress = no_progress,
    window: int | None = None,
) -> Feed:
    """Load the training set, or get ready to stream it where it is larger than memory.

    Args:
        source: where the images are.
        indices: the samples of the training set.
        labels: their classes (N,) int64.
        config: everything else.
        device: where batches go.
        progress: called while the set is loaded.
        window: that of an earlier run to go on from, or one that several processes agreed on; ``choose_window``'s where
            None.
    """
    chosen = choose_window(len(indices), config, device) if window is None else window
    if chosen:
        workers = available_cores()
        return StreamFeed(source, indices, labels, config, device, window=chosen, workers=workers)
    images = load_images(source, indices, size=config.stored, progress=progress)
    ids = tuple(source.samples[index].sample_id for index in indices)
    return MemoryFeed(LabelledImages(images, labels, ids), config, device)
