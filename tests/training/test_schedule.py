"""Order of the images and course of the learning rate: exact counts, even draws, the same for the same epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from hemalens.core.config import TrainConfig
from hemalens.training.schedule import (
    class_weights,
    epoch_order,
    epoch_size,
    epoch_steps,
    learning_rate,
    windowed_order,
)


def labels_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    per_class=st.integers(1, 50),
    epoch=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_replicate_shows_per_class_of_each_class_as_evenly_as_can_be(
    counts: list[int], per_class: int, epoch: int, seed: int
) -> None:
    labels = labels_of(counts)
    config = TrainConfig(balance="replicate", per_class=per_class, seed=seed)
    indices, keys = epoch_order(labels, config, epoch=epoch)
    assert len(indices) == len(keys) == epoch_size(labels, config) == per_class * len(counts)
    shown = np.bincount(indices, minlength=len(labels))
    for number, count in enumerate(counts):
        times = shown[labels == number]
        assert times.sum() == per_class
        assert set(times.tolist()) <= {per_class // count, -(-per_class // count)}
    assert len(np.unique(keys)) == len(keys)


def test_the_copies_of_a_sample_have_keys_of_their_own_and_the_first_is_its_place() -> None:
    indices, keys = epoch_order(labels_of([3, 7]), TrainConfig(balance="replicate", per_class=20), epoch=2)
    for index in range(10):
        mine = np.sort(keys[indices == index])
        assert mine[0] == index
        assert len(set(mine.tolist())) == len(mine)
        assert set((mine % 2**32).tolist()) == {index}


def test_a_large_class_gives_another_draw_each_epoch_until_all_are_seen() -> None:
    labels, config = labels_of([40, 10]), TrainConfig(balance="replicate", per_class=10)
    draws = [set(epoch_order(labels, config, epoch=epoch)[0].tolist()) for epoch in range(1, 40)]
    assert draws[0] != draws[1]
    assert set.union(*draws) == set(range(50))


@pytest.mark.parametrize("balance", ["none", "weights"])
def test_without_replication_every_sample_is_shown_once(balance: str) -> None:
    labels = labels_of([5, 20])
    config = TrainConfig(balance=balance)
    indices, keys = epoch_order(labels, config, epoch=1)
    assert sorted(indices.tolist()) == list(range(25))
    assert np.array_equal(indices, keys)
    assert epoch_size(labels, config) == 25


def test_the_sampler_draws_classes_evenly_with_replacement() -> None:
    labels, config = labels_of([10, 90, 900]), TrainConfig(balance="sampler")
    drawn = [epoch_order(labels, config, epoch=epoch)[0] for epoch in range(1, 11)]
    shown = np.bincount(labels[np.concatenate(drawn)], minlength=3)
    assert all(len(indices) == 1000 for indices in drawn)
    np.testing.assert_allclose(shown / shown.sum(), 1 / 3, atol=0.02)


@pytest.mark.parametrize("balance", ["none", "replicate", "sampler", "weights"])
def test_the_order_is_a_function_of_seed_and_epoch(balance: str) -> None:
    labels = labels_of([20, 30])
    config = TrainConfig(balance=balance, per_class=25, seed=1)
    first, again = epoch_order(labels, config, epoch=3), epoch_order(labels, config, epoch=3)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    others = (epoch_order(labels, config, epoch=4), epoch_order(labels, TrainConfig(balance=balance), epoch=3))
    assert all(not np.array_equal(first[0], other[0]) for other in others)
    assert (np.diff(labels[first[0]]) != 0).sum() > 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_class_weights_are_those_of_scikit_learn_and_average_one(counts: list[int]) -> None:
    labels = labels_of(counts)
    weights = class_weights(labels)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.unique(labels), y=labels))
    assert weights[labels].mean() == pytest.approx(1)


def test_a_class_without_samples_weighs_nothing() -> None:
    assert class_weights(np.array([0, 0, 2, 2])).tolist() == [1.0, 0.0, 1.0]
    assert class_weights(np.array([0, 0, 2, 2]), 5).tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]


@settings(max_examples=80, deadline=None)
@given(total=st.integers(1, 400), schedule=st.sampled_from(["onecycle", "cosine", "trapezoid", "constant"]))
def test_the_learning_rate_rises_at_most_once_and_then_only_falls(total: int, schedule: str) -> None:
    config = TrainConfig(schedule=schedule, lr=0.4)
    rates = [learning_rate(step, total, config) for step in range(total)]
    assert min(rates) > 0
    assert max(rates) <= 0.4 + 1e-12
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_ends_of_each_course() -> None:
    def ends(schedule: str) -> tuple[float, float, float]:
        rates = [learning_rate(step, 200, TrainConfig(schedule=schedule, lr=1.0)) for step in range(200)]
        return rates[0], max(rates), rates[-1]

    assert ends("constant") == (1.0, 1.0, 1.0)
    assert ends("trapezoid") == (pytest.approx(0.05), 1.0, pytest.approx(1 / 120))
    start, top, end = ends("cosine")
    assert (start, top) == (1.0, 1.0)
    assert end < 0.01
    start, top, end = ends("onecycle")
    assert start < 0.1
    assert top == pytest.approx(1.0)
    assert end < 0.01


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    balance=st.sampled_from(["none", "replicate", "sampler"]),
    per_class=st.integers(1, 80),
    batch_size=st.integers(2, 40),
    window=st.integers(1, 250),
    epoch=st.integers(1, 3),
)
def test_windows_show_what_the_epoch_shows_and_need_few_images_each(
    counts: list[int], balance: str, per_class: int, batch_size: int, window: int, epoch: int
) -> None:
    labels = labels_of(counts)
    config = TrainConfig(balance=balance, per_class=per_class, batch_size=batch_size, seed=3)
    indices, keys, windows = windowed_order(labels, config, epoch=epoch, window=window)
    wanted = [array[: epoch_steps(labels, config) * batch_size] for array in epoch_order(labels, config, epoch=epoch)]
    assert sorted(zip(indices, keys, strict=True)) == sorted(zip(*wanted, strict=True))
    assert (np.diff(windows) >= 0).all()
    parts = [set(indices[windows == number].tolist()) for number in np.unique(windows)]
    assert max(map(len, parts)) <= window
    assert sum(map(len, parts)) == len(set(indices.tolist()))  # no image is decoded twice in an epoch
    if len(set(indices.tolist())) <= window:
        assert np.array_equal(keys, wanted[1])


def test_windows_hold_blocks_of_neighbours_and_yet_all_classes() -> None:
    labels, config = labels_of([5000, 5000, 5000, 5000]), TrainConfig(balance="none")
    indices, _, windows = windowed_order(labels, config, epoch=1, window=4096)
    assert windows.max() == 4
    for number in range(5):
        inside = np.sort(indices[windows == number])
        assert (np.diff(inside) > 1).sum() < len(inside) / 64
        assert np.bincount(labels[inside]).min() > len(inside) / 8  # of 1/4 each
    other = windowed_order(labels, config, epoch=2, window=4096)
    assert set(indices[windows == 0].tolist()) != set(other[0][other[2] == 0].tolist())


def test_an_epoch_has_as_many_steps_as_it_fills_batches_and_at_least_one() -> None:
    labels = labels_of([20, 30])
    sizes = {2: 25, 16: 3, 50: 1, 64: 1}
    found = {size: epoch_steps(labels, TrainConfig(balance="none", batch_size=size)) for size in sizes}
    assert found == sizes


def test_the_trapezoid_has_its_corners_at_a_tenth_and_two_fifths() -> None:
    rates = [learning_rate(step, 200, TrainConfig(schedule="trapezoid", lr=2.0)) for step in range(200)]
    assert rates[9] == pytest.approx(1.0)
    assert set(rates[19:81]) == {2.0}
    assert rates[140] == pytest.approx(1.0)
