"""Several processes train as one: the same weights within rounding, resumed by any number of them."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ConfigError
from hemalens.core.records import open_record
from hemalens.core.types import CELL_CLASSES
from hemalens.data.synthetic import write_synthetic
from hemalens.training.checkpoint import load_model
from hemalens.training.device import torch_threads
from hemalens.training.distributed import ALONE, World, share_batch_statistics, world_from_environment
from hemalens.training.feed import MemoryFeed
from hemalens.training.loop import Fitted, fit
from hemalens.training.models import build_model
from hemalens.training.tensors import LabelledImages
from hemalens.training.train import train

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def train_in(
    world: World, train: LabelledImages, val: LabelledImages, config: TrainConfig, out: Path, stop: int = -1
) -> Fitted:
    def progress(_what: str, done: int, total: int) -> None:
        if done == stop and done < total:
            raise KeyboardInterrupt

    feed = MemoryFeed(train, config, torch.device("cpu"))
    with torch_threads(1):
        return fit(feed, val, 3, config, checkpoints=out, world=world, progress=progress)


def _process(
    rank: int, port: int, train: LabelledImages, val: LabelledImages, config: TrainConfig, out: Path, stop: int
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with world_from_environment("cpu") as world:
        try:
            fitted = train_in(world, train, val, config, out, stop)
        except KeyboardInterrupt:
            return
        state = fitted.module.state_dict()
        torch.save(
            {name: value.numpy() for name, value in state.items()} | {"epoch": fitted.best_epoch}, out / f"{rank}.pt"
        )
        rows = np.array([[row["train_loss"], row["train_accuracy"], row["val_loss"]] for row in fitted.history])
        np.save(out / f"history-{rank}.npy", rows)


def in_two_processes(
    train: LabelledImages, val: LabelledImages, config: TrainConfig, out: Path, stop: int = -1
) -> None:
    out.mkdir(exist_ok=True)
    port = free_port()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_process, args=(rank, port, train, val, config, out, stop)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


@pytest.mark.parametrize(
    "keys",
    [
        {"model": "compact", "ema": 0.5, "augment": [{"name": "flip"}, {"name": "noise"}]},
        {"model": "baseline", "balance": "weights", "batch_size": 11, "mix": "both", "clip": 1.0},
    ],
    ids=["batch-statistics", "uneven-shares"],
)
def test_two_processes_end_with_the_weights_of_one(
    keys: dict[str, object], tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    train, val, config = (
        coloured((14, 12, 10)),
        coloured((4, 4, 3), seed=1),
        quick(epochs=2, dropout=0, lr=0.01, **keys),
    )
    alone = train_in(ALONE, train, val, config, tmp_path / "alone")
    in_two_processes(train, val, config, tmp_path / "two")
    for rank in range(2):
        found = torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=False)
        assert found.pop("epoch") == alone.best_epoch
        for name, value in alone.module.state_dict().items():
            # Sums in another order differ in the last bits of float32; six steps of SGD carry them on.
            np.testing.assert_allclose(found[name], value.numpy(), atol=2e-5, rtol=2e-4, err_msg=name)
        rows = np.array([[row["train_loss"], row["train_accuracy"], row["val_loss"]] for row in alone.history])
        np.testing.assert_allclose(np.load(tmp_path / "two" / f"history-{rank}.npy"), rows, rtol=1e-4)


def test_one_process_goes_on_where_two_were_stopped(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    train, val, config = coloured(), coloured((4, 4, 4), seed=1), quick(epochs=2, dropout=0, lr=0.01)
    whole = train_in(ALONE, train, val, config, tmp_path / "whole")
    in_two_processes(train, val, config, tmp_path / "cut", stop=4)
    assert [path.name for path in sorted((tmp_path / "cut").glob("epoch-*.safetensors"))] == ["epoch-0001.safetensors"]
    resumed = train_in(ALONE, train, val, config, tmp_path / "cut")
    assert len(resumed.history) == 2
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(resumed.module.state_dict()[name], value, atol=2e-5, rtol=2e-4)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world_from_environment("cpu") as world:
        assert world == ALONE
        assert world.leads
        world.wait()
        rows = torch.arange(6.0).reshape(3, 2)
        assert torch.equal(world.gather(rows, 3), rows)
        assert torch.equal(world.total(rows), rows)
        module = nn.Linear(2, 2)
        assert world.share(module) is module


def test_variables_that_are_no_numbers_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE.*must be numbers"), world_from_environment("cpu"):
        pass


def test_shared_batch_statistics_keep_names_values_and_the_mode() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    module(torch.rand(2, 3, 5, 5))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    shared = share_batch_statistics(module.eval())
    assert shared.state_dict().keys() == before.keys()
    assert all(torch.equal(shared.state_dict()[name], value) for name, value in before.items())
    assert not any(child.training for child in shared.modules())
    assert isinstance(shared[1][0], nn.BatchNorm2d)


def test_an_activation_inside_a_normalisation_is_kept() -> None:
    module = build_model("mobilenetv2_100", 3, image_size=32).eval()
    pictures = torch.rand(2, 3, 32, 32)
    before = module(pictures)
    names = list(module.state_dict())
    shared = share_batch_statistics(module)
    assert list(shared.state_dict()) == names
    assert torch.equal(shared(pictures), before)


def test_a_batch_too_small_for_the_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_synthetic(tmp_path / "cells.npz", 4, size=32)

    @contextmanager
    def many(_device: str) -> Iterator[World]:
        yield World(rank=0, size=8)

    monkeypatch.setattr("hemalens.training.train.world_from_environment", many)
    with pytest.raises(ConfigError, match="batch_size 12: must be at least twice the 8 processes"):
        train(tmp_path / "cells.npz", tmp_path / "run", settings=["batch_size=12"])


def test_torchrun_trains_one_run_and_its_first_process_speaks(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "cells.npz", 6, size=32, contamination=False)
    port = free_port()
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    words += ["--master-addr=127.0.0.1", f"--master-port={port}", "-m", "hemalens.cli", "train"]
    words += [str(tmp_path / "cells.npz"), "--out", str(tmp_path / "run"), "--json"]
    for setting in ("epochs=2", "image_size=16", "batch_size=16", "balance=none", "device=cpu"):
        words += ["--set", setting]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)  # a second voice would make it no JSON
    assert summary["processes"] == 2
    assert open_record(tmp_path / "run", "train").facts["command"] == "train"
    assert load_model(tmp_path / "run").classes == CELL_CLASSES
