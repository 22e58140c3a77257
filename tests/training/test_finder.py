"""The range test: finds where the loss falls fastest and leaves no trace of itself."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from hemalens.core.artifacts import read_provenance
from hemalens.core.config import TrainConfig
from hemalens.core.errors import ArtifactError, ConfigError, TrainingError
from hemalens.core.types import Progress
from hemalens.training.device import torch_threads
from hemalens.training.feed import MemoryFeed
from hemalens.training.finder import LrCurve, find_lr, range_test, suggest_rate
from hemalens.training.loop import fit
from hemalens.training.tensors import LabelledImages
from tests.training.kills import write_source

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]
SETTINGS = ("image_size=16", "batch_size=12", "balance=none", "threads=1", "device=cpu", "precision=fp32")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def feed(data: LabelledImages, config: TrainConfig) -> MemoryFeed:
    return MemoryFeed(data, config, torch.device("cpu"))


@pytest.mark.parametrize("turn", [0.001, 0.02, 0.3])
def test_the_suggestion_is_where_the_loss_itself_turns_and_not_where_the_smoothed_one_does(turn: float) -> None:
    rates = np.geomspace(1e-5, 10.0, 100)
    plain = 1.0 + 0.2 * np.abs(np.log10(rates / turn))
    smoothed, mean = [], 0.0
    for step, loss in enumerate(plain, 1):
        mean = 0.9 * mean + 0.1 * loss
        smoothed.append(mean / (1 - 0.9**step))
    assert suggest_rate(rates, np.array(smoothed)) == pytest.approx(turn, rel=0.5)
    assert rates[int(np.argmin(smoothed))] > 2 * turn


@pytest.mark.parametrize("losses", [[], [1.0, 0.5], [1.0] * 40, [*np.linspace(1, 2, 40)], [*np.linspace(1, 0.97, 40)]])
def test_a_loss_that_does_not_fall_is_said(losses: list[float]) -> None:
    with pytest.raises(TrainingError, match="must fall under some rate"):
        suggest_rate(np.geomspace(1e-5, 1.0, len(losses)), np.array(losses))


def test_plain_colours_give_a_rate_that_they_are_learned_with(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    data, told = coloured((24, 24, 24)), []
    config = quick(optimizer="adamw", dropout=0)

    def progress(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    curve = range_test(feed(data, config), 3, config, steps=60, progress=progress)
    assert isinstance(curve, LrCurve)
    assert len(curve.rates) == len(curve.losses) <= 60
    ratios = np.array(curve.rates[1:]) / np.array(curve.rates[:-1])
    np.testing.assert_allclose(ratios, (10.0 / 1e-5) ** (1 / 59))
    assert curve.losses[0] == pytest.approx(np.log(3), abs=0.6)
    assert curve.suggestion in curve.rates
    assert 1e-4 < curve.suggestion < 0.3
    assert told[-1] == ("searching a learning rate", 60, 60)
    config = quick(optimizer="adamw", dropout=0, epochs=6, lr=curve.suggestion)
    fitted = fit(feed(data, config), coloured((6, 6, 6), seed=1), 3, config, checkpoints=tmp_path)
    assert max(row["val_accuracy"] for row in fitted.history) > 0.95


def test_a_loss_that_explodes_ends_the_search_early(coloured: MakeSet, quick: MakeConfig) -> None:
    config = quick(model="baseline", optimizer="sgd")
    curve = range_test(feed(coloured(), config), 3, config, lowest=1e-3, highest=1e6, steps=80)
    assert len(curve.rates) < 80
    assert np.isfinite(curve.losses).all()
    assert max(curve.losses) <= 3.0 * min(curve.losses) + 1e-9


@pytest.mark.parametrize("balance", ["weights", "replicate"])
def test_the_same_seed_gives_the_same_curve(balance: str, coloured: MakeSet, quick: MakeConfig) -> None:
    config = quick(balance=balance, per_class=12, dropout=0.5, augment=[{"name": "flip"}, {"name": "rotate"}])
    curves = []
    for draws in (1, 2):
        torch.rand(draws)
        curves.append(range_test(feed(coloured((20, 8, 8)), config), 3, config, steps=40))
    assert curves[0] == curves[1]


def test_a_search_leaves_no_trace_in_the_training_after_it(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train, val, config = coloured(), coloured((4, 4, 4), seed=1), quick(epochs=1, dropout=0.5, ema=0.5)
    plain = fit(feed(train, config), val, 3, config, checkpoints=tmp_path / "a").module.state_dict()
    torch.manual_seed(5)
    before, files = (torch.get_rng_state(), np.random.get_state()[1].copy()), set(tmp_path.rglob("*"))  # noqa: NPY002  # the global one
    images, threads, surroundings = train.images.copy(), torch.get_num_threads(), dict(os.environ)
    shared = feed(train, config)
    range_test(shared, 3, config, steps=30)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert set(tmp_path.rglob("*")) == files
    assert np.array_equal(train.images, images)
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, surroundings)
    after = fit(shared, val, 3, config, checkpoints=tmp_path / "b").module.state_dict()
    assert all(torch.equal(plain[name], after[name]) for name in plain)


def test_the_command_writes_the_curve_where_it_is_asked_to_and_nothing_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path)
    monkeypatch.chdir(tmp_path)
    summary = find_lr(tmp_path / "cells.npz", settings=SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["cells.npz"]
    assert summary["steps"] == len(summary["curve"])
    assert find_lr(tmp_path / "cells.npz", tmp_path / "lr", settings=SETTINGS) == summary
    table = pl.read_csv(tmp_path / "lr" / "lr.csv")
    assert table["loss"].to_list() == [point["loss"] for point in summary["curve"]]
    assert table["lr"].to_list() == [point["lr"] for point in summary["curve"]]
    drawing = (tmp_path / "lr" / "lr.svg").read_text()
    assert f"suggested: {summary['suggestion']:.2g}" in drawing
    record = read_provenance(tmp_path / "lr")
    assert record is not None
    assert (record["command"], set(record["outputs"])) == ("find-lr", {"lr.csv", "lr.svg"})
    with pytest.raises(ArtifactError, match="exists already"):
        find_lr(tmp_path / "cells.npz", tmp_path / "lr", settings=SETTINGS)


def test_a_last_layer_that_is_fitted_at_once_has_no_rate_to_search(tmp_path: Path) -> None:
    write_source(tmp_path)
    with pytest.raises(ConfigError, match="freeze features"):
        find_lr(tmp_path / "cells.npz", settings=(*SETTINGS, "freeze=features"))


def test_only_training_samples_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(tmp_path)
    seen: list[int] = []

    def test(train: MemoryFeed, n_classes: int, _config: TrainConfig, *, progress: Progress) -> LrCurve:
        seen.extend(int(name.removeprefix("row-")) for name in train.sample_ids)
        return LrCurve((0.1,), (1.0,), 0.1)

    monkeypatch.setattr("hemalens.training.finder.range_test", test)
    find_lr(tmp_path / "cells.npz", settings=SETTINGS)
    assert seen == [row for row in range(42) if row % 7]
