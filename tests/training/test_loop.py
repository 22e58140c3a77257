"""The training loop: learns, picks its epoch by the score asked for, and ends the same however often it was killed."""

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ConfigError, TrainingError
from hemalens.core.types import Progress
from hemalens.training import loop
from hemalens.training.augment.views import make_views
from hemalens.training.checkpoint import latest_checkpoint
from hemalens.training.device import choose_device, torch_threads
from hemalens.training.feed import MemoryFeed
from hemalens.training.loop import Fitted
from hemalens.training.models import build_model
from hemalens.training.predicting import distort, predict_logits
from hemalens.training.tensors import LabelledImages

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def fit(train: LabelledImages, val: LabelledImages, n_classes: int, config: TrainConfig, **keys: Any) -> Fitted:
    """Train on a set that is in memory."""
    return loop.fit(MemoryFeed(train, config, torch.device("cpu")), val, n_classes, config, **keys)


def kill_at(step: int) -> Progress:
    """Tell progress to somebody who pulls the plug at a step."""

    def progress(_what: str, done: int, total: int) -> None:
        if done == step and done < total:
            raise KeyboardInterrupt

    return progress


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    states = one.state_dict(), two.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def scores(fitted: Fitted, column: str) -> list[float]:
    return [row[column] for row in fitted.history]


VARIANTS = {
    "plain": {},
    "bf16": {"precision": "bf16", "optimizer": "adamw", "lr": 0.003},
    "averaged": {"ema": 0.9, "augment": [{"name": "flip"}, {"name": "rotate"}, {"name": "noise", "probability": 0.5}]},
    "adamw": {"model": "baseline", "optimizer": "adamw", "lr": 0.001, "dropout": 0.5, "balance": "sampler"},
    "replicated": {"balance": "replicate", "per_class": 12, "dropout": 0.3, "select_on": "distorted", "ema": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_weights(
    variant: str, tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    train, val, config = coloured(), coloured((4, 4, 4), seed=1), quick(**VARIANTS[variant])
    whole = fit(train, val, 3, config, checkpoints=tmp_path / "whole")
    for steps in ((1, 5, 8), (3,), (6, 7)):  # 3 epochs of 3 steps; one kill falls on an epoch's first step
        checkpoints = tmp_path / f"killed-{steps[0]}"
        for step in steps:
            torch.rand(step)  # what others drew from the global stream must not matter
            with pytest.raises(KeyboardInterrupt):
                fit(train, val, 3, config, checkpoints=checkpoints, progress=kill_at(step))
        resumed = fit(train, val, 3, config, checkpoints=checkpoints)
        assert same_weights(resumed.module, whole.module)
        assert resumed.best_epoch == whole.best_epoch
        for column in ("train_loss", "val_loss", "val_distorted_accuracy"):
            assert scores(resumed, column) == scores(whole, column)
        assert np.array_equal(resumed.validation[0], whole.validation[0])


def test_a_finished_run_resumed_does_nothing_more(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    train, val, config = coloured(), coloured((4, 4, 4), seed=1), quick(epochs=2)
    first = fit(train, val, 3, config, checkpoints=tmp_path)
    stamps = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = fit(train, val, 3, config, checkpoints=tmp_path)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == stamps
    assert same_weights(first.module, again.module)


def test_a_damaged_checkpoint_costs_an_epoch_and_changes_nothing(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    train, val, config = coloured(), coloured((4, 4, 4), seed=1), quick()
    whole = fit(train, val, 3, config, checkpoints=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(train, val, 3, config, checkpoints=tmp_path / "cut", progress=kill_at(7))
    with (tmp_path / "cut" / "epoch-0002.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xaa\x55")
    with caplog.at_level(logging.WARNING):
        resumed = fit(train, val, 3, config, checkpoints=tmp_path / "cut")
    assert "epoch-0002.safetensors" in caplog.text
    assert same_weights(resumed.module, whole.module)


def test_the_seed_alone_decides_the_weights(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    train, val = coloured(), coloured((4, 4, 4), seed=1)
    runs = [
        fit(train, val, 3, quick(epochs=1, seed=seed), checkpoints=tmp_path / str(index)).module
        for index, seed in enumerate((0, 0, 2**32 - 1))
    ]
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_the_global_random_state_is_left_alone(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # the global one
    fit(coloured(), coloured(seed=1), 3, quick(epochs=1, dropout=0.5), checkpoints=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_averaged_weights_follow_by_their_decay_and_take_over_the_batch_statistics(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(epochs=1, ema=0.75, batch_size=36)  # a single step
    fitted = fit(coloured(), coloured(seed=1), 3, config, checkpoints=tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    first = build_model(config.model, 3, seed=config.seed).state_dict()
    learned = {f"network.{name}" for name, _ in build_model(config.model, 3).named_parameters()}
    for name, value in fitted.module.state_dict().items():
        now = found[0][f"module.{name}"]
        wanted = 0.75 * first[name.removeprefix("network.")] + 0.25 * now if name in learned else now
        torch.testing.assert_close(value, wanted)


def test_dropout_differs_from_step_to_step(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    with_dropout = fit(coloured(), coloured(), 3, quick(epochs=1, dropout=0.5), checkpoints=tmp_path / "a")
    without = fit(coloured(), coloured(), 3, quick(epochs=1, dropout=0.0), checkpoints=tmp_path / "b")
    assert not same_weights(with_dropout.module, without.module)


@pytest.mark.parametrize(("count", "deterministic", "warn_only"), [(1, False, False), (2, True, True)])
def test_threads_and_determinism_are_put_back_even_after_an_error(
    count: int, deterministic: bool, warn_only: bool
) -> None:
    def found() -> tuple[int, bool, bool]:
        enabled = torch.are_deterministic_algorithms_enabled()
        return torch.get_num_threads(), enabled, torch.is_deterministic_algorithms_warn_only_enabled()

    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    inside = []

    def fail() -> None:
        inside.extend(found())
        raise KeyError

    with pytest.raises(KeyError), torch_threads(3):
        fail()
    assert inside[:2] == [3, True]
    assert found() == (count, deterministic, warn_only)


@pytest.mark.parametrize("model", ["compact", "baseline"])
def test_plain_colours_are_learned_in_a_few_epochs(
    model: str, tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(model=model, epochs=6, optimizer="adamw", lr=0.003, dropout=0)
    fitted = fit(coloured((24, 24, 24)), coloured((6, 6, 6), seed=1), 3, config, checkpoints=tmp_path)
    assert fitted.history[-1]["train_accuracy"] > 0.95
    assert max(scores(fitted, "val_accuracy")) > 0.95
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]


@pytest.mark.parametrize("balance", ["none", "replicate", "weights", "sampler"])
def test_every_way_of_balancing_trains_even_where_a_class_has_no_sample(
    balance: str, tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(epochs=1, balance=balance, per_class=10)
    fitted = fit(coloured((20, 4)), coloured((3, 3), seed=1), 4, config, checkpoints=tmp_path)
    assert fitted.validation[0].shape == (6, 4)
    assert np.isfinite(fitted.history[0]["train_loss"])


def test_train_accuracy_counts_what_was_shown_where_the_set_is_smaller_than_a_batch(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(epochs=8, batch_size=64, optimizer="adamw", lr=0.003, dropout=0)
    fitted = fit(coloured((5, 5)), coloured((2, 2), seed=1), 2, config, checkpoints=tmp_path)
    assert max(scores(fitted, "train_accuracy")) == 1.0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "learning_rate", lambda step, *_: 0.01 if step < 4 else 1e30)
    with pytest.raises(TrainingError, match=r"step 5 \(samples row-\d{6}, .* 12 in all\): must be finite"):
        fit(coloured(), coloured(seed=1), 3, quick(model="baseline"), checkpoints=tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in found[0].values())


def test_an_epoch_whose_last_step_breaks_the_weights_is_not_kept(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "learning_rate", lambda step, *_: 0.01 if step < 5 else 1e30)
    with pytest.raises(TrainingError, match=r"validation loss \S+ after epoch 2: must be finite"):
        fit(coloured(), coloured(seed=1), 3, quick(model="baseline"), checkpoints=tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["epoch"] == 1


def rigged(monkeypatch: pytest.MonkeyPatch, clean: list[float], distorted: list[float]) -> None:
    """Let validation answer with made-up scores, one an epoch."""
    answers = itertools.chain(zip(clean, distorted, strict=True))

    def validate(*_: object) -> dict[str, float]:
        one, other = next(answers)
        return {"val_loss": 1.0, "val_accuracy": one, "val_distorted_accuracy": other}

    monkeypatch.setattr(loop, "_validate", validate)


@pytest.mark.parametrize(("select_on", "best"), [("clean", 2), ("distorted", 4)])
def test_the_epoch_is_chosen_by_the_score_asked_for_and_ties_go_to_the_later(
    select_on: str, best: int, tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigged(monkeypatch, [0.5, 0.9, 0.8, 0.8], [0.1, 0.2, 0.7, 0.7])
    config = quick(epochs=4, select_on=select_on)
    chosen = fit(coloured(), coloured(seed=1), 3, config, checkpoints=tmp_path / "all")
    assert chosen.best_epoch == best
    # The weights are those at the end of that epoch: a run cut off right after it has them too.
    rigged(monkeypatch, [0.5, 0.9, 0.8, 0.8], [0.1, 0.2, 0.7, 0.7])
    if best < 4:
        with pytest.raises(KeyboardInterrupt):
            fit(coloured(), coloured(seed=1), 3, config, checkpoints=tmp_path / "cut", progress=kill_at(best * 3))
        found = latest_checkpoint(tmp_path / "cut")
        assert found is not None
        weights = chosen.module.state_dict()
        assert all(torch.equal(found[0][f"module.{name}"], value) for name, value in weights.items())


def test_patience_stops_after_so_many_epochs_without_a_better_score(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigged(monkeypatch, [0.5, 0.9, 0.8, 0.7, 0.6, 0.6], [0.0] * 6)
    fitted = fit(coloured(), coloured(seed=1), 3, quick(epochs=6, patience=2), checkpoints=tmp_path)
    assert (fitted.best_epoch, len(fitted.history)) == (2, 4)


def test_history_has_a_row_an_epoch_and_validation_is_that_of_the_chosen_weights(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    val = coloured((4, 4, 4), seed=1)
    fitted = fit(coloured(), val, 3, quick(), checkpoints=tmp_path)
    assert scores(fitted, "epoch") == [1, 2, 3]
    logits, labels = fitted.validation
    assert np.array_equal(labels, val.labels)
    assert np.array_equal(logits, predict_logits(fitted.module, torch.from_numpy(val.images)))
    best = fitted.history[fitted.best_epoch - 1]
    assert best["val_accuracy"] == (logits.argmax(axis=1) == labels).mean()


def test_predictions_do_not_depend_on_the_batch_and_leave_the_mode_alone(coloured: MakeSet) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2), nn.Dropout(0.5))
    images = torch.from_numpy(coloured((150, 150)).images)
    module.train()
    together = predict_logits(module, images)
    assert module.training
    assert together.dtype == np.float32
    np.testing.assert_allclose(predict_logits(module, images[280:]), together[280:], atol=1e-5)
    assert predict_logits(module, images[:0]).size == 0


def test_the_field_like_copy_is_always_the_same_and_far_from_the_original(coloured: MakeSet) -> None:
    images = torch.from_numpy(coloured((150, 150)).images)
    before = images.clone()
    first = distort(images)
    assert torch.equal(images, before)
    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    torch.manual_seed(9)
    assert torch.equal(distort(images), first)
    assert torch.equal(distort(images[:7]), first[:7])
    changed = (first.float() - images.float()).abs().mean(dim=(1, 2, 3))
    assert (changed > 5).float().mean() > 0.9
    assert distort(images[:0]).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "meta", "cuda:-1", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device cuda:0: no GPU is available"):
        choose_device("cuda:0")


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="device cuda:2: there are 2"):
        choose_device("cuda:2")


def test_an_unknown_augmentation_is_refused_before_anything_is_trained(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(augment=[{"name": "twirl"}])
    with pytest.raises(ConfigError, match="augmentation twirl"):
        fit(coloured(), coloured(), 3, config, checkpoints=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = itertools.chain([torch.tensor(1.0), torch.tensor(float("inf"))])
    monkeypatch.setattr(loop, "_gradient_norm", lambda *_: next(norms))
    with pytest.raises(TrainingError, match=r"gradient at step 1 \(samples row-\d{6}.*must be finite"):
        fit(coloured(), coloured(seed=1), 3, quick(), checkpoints=tmp_path)
    assert latest_checkpoint(tmp_path) is None


def test_an_input_that_is_not_finite_stops_the_run_before_the_step(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*args: Any, **keys: Any) -> Any:
        views = make_views(*args, **keys)
        views.images[3, 0, 0, 0] = float("nan")
        return views

    monkeypatch.setattr(loop, "make_views", poisoned)
    with pytest.raises(TrainingError, match=r"input at step 0 \(samples row-\d{6}.*must be finite"):
        fit(coloured(), coloured(seed=1), 3, quick(), checkpoints=tmp_path)


def test_fp16_trains_with_a_scaled_loss_and_passes_over_steps_that_overflow(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(model="baseline", epochs=2, precision="fp16", optimizer="adamw", lr=0.001)
    fit(coloured(), coloured(seed=1), 3, config, checkpoints=tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["scaler"]["scale"] > 0
    assert all(torch.isfinite(value).all() for value in found[0].values())


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    config = quick(model="baseline", epochs=1, batch_size=36, lr=1.0, weight_decay=0, clip=1e-3)
    fit(coloured(), coloured(seed=1), 3, config, checkpoints=tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    start = build_model(config.model, 3, image_size=16, seed=config.seed).state_dict()
    moved = [found[0][f"module.network.{name}"] - value for name, value in start.items()]
    # One step of Nesterov's momentum moves by lr x (1 + 0.9) x gradient.
    assert torch.cat([one.flatten() for one in moved]).norm() == pytest.approx(1.9e-3, rel=0.02)


def test_a_row_of_the_history_is_noted_each_epoch_and_again_after_a_resumption(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    noted: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        fit(
            coloured(),
            coloured(seed=1),
            3,
            quick(),
            checkpoints=tmp_path,
            progress=kill_at(4),
            note=lambda row: noted.append(row["epoch"]),
        )
    assert noted == [1]
    fit(coloured(), coloured(seed=1), 3, quick(), checkpoints=tmp_path, note=lambda row: noted.append(row["epoch"]))
    assert noted == [1, 1, 2, 3]
