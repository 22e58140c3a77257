"""All that changes during a run, as one thing: saved as a whole after each epoch, resumed as a whole or not at all."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hemalens.core.config import TrainConfig
from hemalens.core.types import Images
from hemalens.training.checkpoint import (
    latest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from hemalens.training.muon import Muon
from hemalens.training.transfer import parameter_groups
from hemalens.training.weights import starting_module

__all__ = ["Course", "State", "start"]


@dataclass(slots=True)
class Course:
    """The part of a run's state that is no tensor: it travels in the checkpoint as JSON."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class State:
    """What a run consists of.

    Attributes:
        module: the network that learns, behind its input normalisation.
        averaged: its averaged weights; the same object where none are kept.
        optimizer: with its momenta.
        scaler: of the loss under fp16; switched off otherwise.
        course: epochs done, scores, the best epoch.
        best: the weights of the best epoch, on the CPU. They travel in every checkpoint, so that no file of their own
            can be damaged or be of another epoch.
    """

    module: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    course: Course
    best: dict[str, Tensor] = field(default_factory=dict)

    def average(self, decay: float) -> None:
        """Move averaged weights towards the current ones; buffers (batch statistics) are taken over."""
        if self.averaged is self.module:
            return
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.module.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)
            for kept, current in zip(self.averaged.buffers(), self.module.buffers(), strict=True):
                kept.copy_(current)

    def close_epoch(self, row: dict[str, float], config: TrainConfig, checkpoints: Path, *, writes: bool) -> None:
        """Note an epoch's scores, keep its weights if they are the best so far, and write the checkpoint."""
        course = self.course
        course.epoch = int(row["epoch"])
        course.history.append(row)
        score = row["val_accuracy" if config.select_on == "clean" else "val_distorted_accuracy"]
        # Ties go to the later epoch: its learning rate was lower.
        if score >= course.best_score:
            course.best_epoch, course.best_score = course.epoch, score
            weights = self.averaged.state_dict()
            self.best = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
        if writes:
            self.save(checkpoints)

    def save(self, directory: Path) -> None:
        """Write a checkpoint of the epoch that has ended."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(self.optimizer).items()}
        if self.averaged is not self.module:
            tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        plain = {name: getattr(self.course, name) for name in Course.__slots__}
        save_checkpoint(directory, tensors, plain | {"scaler": self.scaler.state_dict()}, epoch=self.course.epoch)

    def resume(self, directory: Path) -> None:
        """Take the state from the newest checkpoint that is whole; leave it as it is where there is none."""
        if (found := latest_checkpoint(directory)) is None:
            return
        tensors, plain = found
        self.module.load_state_dict(_under("module.", tensors))
        restore_optimizer(self.optimizer, _under("optimizer.", tensors))
        if self.averaged is not self.module:
            self.averaged.load_state_dict(_under("averaged.", tensors))
        self.best = _under("best.", tensors)
        if scaler := plain.pop("scaler"):
            self.scaler.load_state_dict(scaler)
        self.course = Course(**plain)

    def best_module(self) -> nn.Module:
        """Return the network with the weights of the best epoch, on the CPU, in evaluation mode."""
        self.averaged.load_state_dict(self.best)
        return self.averaged.cpu().eval()


def start(sample: Images, n_classes: int, config: TrainConfig, device: torch.device) -> State:
    """Return the state before the first step: weights given or drawn from the seed, inputs normalised as fits them."""
    module = starting_module(sample, n_classes, config)
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    groups = parameter_groups(module, config)
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True),
        "adamw": lambda: torch.optim.AdamW(groups, lr=config.lr),
        "muon": lambda: Muon(groups, lr=config.lr),
    }
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    averaged = copy.deepcopy(module) if config.ema else module
    return State(module, averaged, make[config.optimizer](), scaler, Course())


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
