"""Keyed uniform numbers: a function of seed, epoch, stream and key alone, and as even as numbers drawn by chance."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hemalens.training.augment.random import stream_id, uniform

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """The finaliser of splitmix64, in Python's unbounded integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def expected(key: int, *, seed: int, epoch: int, stream: str, index: int) -> float:
    state = seed
    for part in (epoch, zlib.crc32(stream.encode())):
        state = mix((state + _GOLDEN + part) & _MASK)
    state = mix((key * _GOLDEN + state) & _MASK)
    return (mix(mix((state + (index + 1) * _GOLDEN) & _MASK)) >> 40) / 2**24


def draw(keys: list[int], *, seed: int = 0, epoch: int = 1, stream: str = "test", count: int = 4) -> np.ndarray:
    return uniform(torch.tensor(keys), seed=seed, epoch=epoch, stream=stream, count=count).numpy()


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.integers(0, 2**62), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 10_000),
    stream=st.text(max_size=8),
)
def test_numbers_are_those_of_splitmix64_in_plain_integers(keys: list[int], seed: int, epoch: int, stream: str) -> None:
    found = draw(keys, seed=seed, epoch=epoch, stream=stream, count=3)
    wanted = [[expected(key, seed=seed, epoch=epoch, stream=stream, index=index) for index in range(3)] for key in keys]
    assert found.tolist() == wanted


def test_the_mixing_is_the_published_one() -> None:
    # First outputs of splitmix64 seeded with 1234567, as its reference implementation prints them.
    assert [mix((1234567 + n * _GOLDEN) & _MASK) for n in (1, 2)] == [6457827717110365317, 3203168211198807973]


def test_a_sample_gets_its_numbers_in_any_order_and_company() -> None:
    keys = [5, 0, 2**40 + 3, 17, 1]
    together = draw(keys)
    alone = np.concatenate([draw([key]) for key in keys])
    assert np.array_equal(together, alone)
    assert np.array_equal(draw(keys[::-1]), together[::-1])
    assert np.array_equal(draw(keys, count=2), together[:, :2])


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 2}, {"stream": "tess"}])
def test_another_seed_epoch_or_stream_gives_other_numbers(other: dict[str, object]) -> None:
    keys = list(range(100))
    assert (draw(keys) != draw(keys, **other)).mean() > 0.99


def test_numbers_are_even_and_independent_over_keys_and_places() -> None:
    numbers = draw(list(range(5000)), seed=3, count=8).astype(np.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    flat = numbers.ravel()
    assert flat.mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / flat.size))
    assert flat.var() == pytest.approx(1 / 12, abs=1e-3)
    assert stats.kstest(flat, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(np.hstack([numbers[:-1], numbers[1:]]).T) - np.eye(16)
    assert np.abs(correlations).max() < 5 / np.sqrt(5000)


def test_streams_of_seeds_in_a_row_are_not_shifted_copies() -> None:
    by_seed = np.stack([draw(list(range(200)), seed=seed, count=1)[:, 0] for seed in range(20)])
    assert len(np.unique(by_seed)) > 0.99 * by_seed.size


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw([1, 2])
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert np.array_equal(first, draw([1, 2]))


def test_a_stream_has_a_number_that_does_not_change_between_processes() -> None:
    assert stream_id("0:flip") == zlib.crc32(b"0:flip")
