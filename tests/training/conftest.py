"""Tiny sets and configurations that train in a moment."""

import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from hemalens.core.config import TrainConfig, load_config
from hemalens.training.tensors import LabelledImages

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def coloured() -> MakeSet:
    """Make images whose class is their colour, with noise over it."""

    def make(counts: tuple[int, ...] = (12, 12, 12), *, size: int = 16, seed: int = 0) -> LabelledImages:
        colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
        labels = np.repeat(np.arange(len(counts)), counts)
        noise = np.random.default_rng(seed).integers(-50, 51, (len(labels), size, size, 3))
        images = (colours[labels][:, None, None] + noise).astype(np.uint8)
        return LabelledImages(images, labels.astype(np.int64), tuple(f"row-{row:06d}" for row in range(len(labels))))

    return make


@pytest.fixture
def quick() -> MakeConfig:
    """Make a configuration of 16 px on one thread of the CPU; keywords go over it."""

    def make(**keys: object) -> TrainConfig:
        plain = {"model": "compact", "image_size": 16, "epochs": 3, "batch_size": 12, "balance": "none", "lr": 0.05}
        return load_config({**plain, "threads": 1, "device": "cpu", **keys})

    return make


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no name to be resolved and nothing in the hub's cache."""

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
