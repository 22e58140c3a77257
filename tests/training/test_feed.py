"""The batches of a set in memory: those of the epoch's order, and shared out among processes without loss."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.core.config import TrainConfig
from hemalens.training.feed import Batch, Feed, MemoryFeed
from hemalens.training.schedule import epoch_order
from hemalens.training.tensors import LabelledImages

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]
CPU = torch.device("cpu")
BALANCES = ("none", "replicate", "sampler", "weights")


def rows(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.indices.tolist(), batch.keys.tolist(), strict=True))


def numbered(counts: tuple[int, ...]) -> LabelledImages:
    """Images of 2 px that carry their place."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    return LabelledImages(images, labels, tuple(f"row-{row}" for row in range(len(labels))))


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("batch_size", [7, 12, 64])  # 64: more than the set has
def test_batches_are_the_epochs_order_cut_into_steps(
    coloured: MakeSet, quick: MakeConfig, balance: str, batch_size: int
) -> None:
    data, config = coloured((20, 9, 6)), quick(balance=balance, per_class=10, batch_size=batch_size, seed=4)
    feed = MemoryFeed(data, config, CPU)
    indices, keys = epoch_order(data.labels, config, epoch=2)
    batches = list(feed.epoch(2))
    assert len(batches) == feed.steps() == max(len(indices) // batch_size, 1)
    for step, batch in enumerate(batches):
        part = slice(step * batch_size, (step + 1) * batch_size)
        assert batch.indices.tolist() == indices[part].tolist()
        assert batch.keys.tolist() == keys[part].tolist()
        assert batch.labels.tolist() == data.labels[indices[part]].tolist()
        assert np.array_equal(batch.images, data.images[indices[part]])
        assert batch.size == len(indices[part])
        assert (batch.images.dtype, batch.labels.dtype, batch.keys.dtype) == (torch.uint8, torch.int64, torch.int64)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    balance=st.sampled_from(BALANCES),
    batch_size=st.integers(2, 30),
    world=st.integers(1, 5),
)
def test_the_shares_of_all_processes_are_the_batch_of_one(
    counts: tuple[int, ...], balance: str, batch_size: int, world: int
) -> None:
    config = TrainConfig(balance=balance, per_class=25, batch_size=batch_size)
    feed = MemoryFeed(numbered(counts), config, CPU)
    alone = list(feed.epoch(1))
    shares = [list(feed.epoch(1, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {feed.steps()}
    for step, batch in enumerate(alone):
        parts = [share[step] for share in shares]
        assert sorted(row for part in parts for row in rows(part)) == sorted(rows(batch))
        assert {part.size for part in parts} == {len(batch.indices)}
        assert max(len(part.indices) for part in parts) - min(len(part.indices) for part in parts) <= 1


def test_any_images_are_given_in_the_order_asked_for() -> None:
    data = numbered((300,))
    feed = MemoryFeed(data, TrainConfig(), CPU)
    indices = [299, 0, 299, 17]
    assert np.array_equal(feed.images(torch.tensor(indices)), data.images[indices])


@pytest.mark.parametrize(("count", "wanted"), [(4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))])
def test_a_sample_is_spread_evenly_over_the_set(count: int, wanted: list[int]) -> None:
    data = numbered((10,))
    assert np.array_equal(MemoryFeed(data, TrainConfig(), CPU).sample(count), data.images[wanted])


def test_a_feed_says_whose_batches_it_gives_and_closes_with_its_block() -> None:
    data = numbered((3, 4))
    with MemoryFeed(data, TrainConfig(batch_size=2, balance="none"), CPU) as feed:
        assert isinstance(feed, Feed)
        assert feed.sample_ids == data.sample_ids
        assert np.array_equal(feed.labels, data.labels)
        assert (feed.window, feed.steps()) == (0, 3)
