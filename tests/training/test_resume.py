"""Training killed by SIGKILL at every step ends as if it had never been; what is damaged on disk is never taken."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ArtifactError
from hemalens.training import loop
from hemalens.training.feed import MemoryFeed
from hemalens.training.loop import Fitted
from hemalens.training.tensors import LabelledImages
from hemalens.training.train import train
from tests.forking import said_by
from tests.training.kills import write_source

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]

PLAIN = [
    *("image_size=16", "epochs=3", "batch_size=12", "threads=1", "device=cpu", "lr=0.02", "dropout=0.3"),
    "augment=[{name='flip'}, {name='rotate'}, {name='stain', probability=0.5}]",
]
VARIANTS = {
    "fp32": ["precision=fp32", "balance=none", "ema=0.9"],
    "bf16": ["precision=bf16", "epochs=2", "balance=replicate", "per_class=12", "optimizer=adamw"],
}


def killed(folder: Path, variant: str, *, workers: int, moments: list[int]) -> dict[str, Any]:
    """Train in processes that are killed at the moments (every one where none is named) and resumed."""
    words = [json.dumps([*PLAIN, *VARIANTS[variant]]), str(workers), json.dumps(moments)]
    script = Path(__file__).with_name("kills.py")
    outcome: dict[str, Any] = said_by(script, "training", folder, *words)
    return outcome


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_at_any_step_and_resumed_is_bit_for_bit_the_run_that_was_not(variant: str, tmp_path: Path) -> None:
    outcome = killed(tmp_path, variant, workers=0, moments=[])
    assert outcome["moments"] >= 11  # six steps or nine, told one by one, the loading and the end
    ends = outcome["ends"]
    assert ends.pop("whole") == "done"
    assert set(ends.values()) == {"killed, done"}
    assert len(ends) == outcome["moments"]
    assert outcome["best_epoch"] in (1, 2, 3)
    assert outcome["wrong"] == []


def test_images_loaded_by_two_processes_make_no_difference_to_a_killed_run(tmp_path: Path) -> None:
    outcome = killed(tmp_path, "fp32", workers=2, moments=[9])
    assert outcome["ends"] == {"whole": "done", "9": "killed, done"}
    assert outcome["wrong"] == []


def fit(train: LabelledImages, val: LabelledImages, n_classes: int, config: TrainConfig, **keys: Any) -> Fitted:
    return loop.fit(MemoryFeed(train, config, torch.device("cpu")), val, n_classes, config, **keys)


def same(one: Fitted, two: Fitted) -> bool:
    states = one.module.state_dict(), two.module.state_dict()
    return one.best_epoch == two.best_epoch and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def cut(step: int) -> Callable[[str, int, int], None]:
    def progress(_what: str, done: int, total: int) -> None:
        if done == step and done < total:
            raise KeyboardInterrupt

    return progress


def test_where_every_checkpoint_is_damaged_training_starts_anew_and_says_so(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    train_set, val, config = coloured(), coloured((4, 4, 4), seed=1), quick()
    whole = fit(train_set, val, 3, config, checkpoints=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(train_set, val, 3, config, checkpoints=tmp_path / "cut", progress=cut(7))
    names = ["epoch-0001.safetensors", "epoch-0002.safetensors"]
    for name in names:
        (tmp_path / "cut" / name).write_bytes((tmp_path / "cut" / name).read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        resumed = fit(train_set, val, 3, config, checkpoints=tmp_path / "cut")
    for name in names:
        assert f"{name}: is damaged" in caplog.text
    assert f"no checkpoint in {tmp_path / 'cut'} is whole: training starts from the beginning" in caplog.text
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    assert same(resumed, whole)


def test_the_best_weights_travel_in_every_checkpoint(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {1: 0.9, 2: 0.5, 3: 0.4}
    told = iter([*scores.values(), scores[3]])

    def validate(*_: object) -> dict[str, float]:
        return {"val_loss": 1.0, "val_accuracy": next(told), "val_distorted_accuracy": 0.0}

    monkeypatch.setattr("hemalens.training.loop._validate", validate)
    train_set, val, config = coloured(), coloured((4, 4, 4), seed=1), quick()
    whole = fit(train_set, val, 3, config, checkpoints=tmp_path)
    assert whole.best_epoch == 1
    # The newest is damaged: epoch 3 is trained again from the one before, and the weights of epoch 1 are still there.
    (tmp_path / "epoch-0003.safetensors").unlink()
    assert {file.name.removesuffix(".sha256") for file in tmp_path.iterdir()} == {
        "epoch-0002.safetensors",
        "epoch-0003.safetensors",
    }
    assert same(fit(train_set, val, 3, config, checkpoints=tmp_path), whole)


def test_checkpoints_without_the_plan_they_belong_to_are_not_thrown_away_unasked(tmp_path: Path) -> None:
    write_source(tmp_path)
    run, settings = tmp_path / "run", [*PLAIN, "balance=none"]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cells.npz", run, settings=settings, progress=cut(7))
    (run / "checkpoints" / "plan.json").unlink()
    with pytest.raises(ArtifactError, match=r"plan\.json: is missing beside checkpoints"):
        train(tmp_path / "cells.npz", run, settings=settings, resume=True)
    assert len(list((run / "checkpoints").glob("epoch-*.safetensors"))) == 2
    train(tmp_path / "cells.npz", run, settings=settings, resume=True, overwrite=True)
