"""The training loop: one screen, one path. What varies (precision, balancing, averaging) enters as values.

The order of the pictures is a function of (seed, epoch), their augmentation of (seed, epoch, sample), dropout of
(seed, step): a run that was killed and resumed ends with the same weights as one that was not.
"""

import copy
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ConfigError, TrainingError
from hemalens.core.types import FloatArray, IntArray, Progress, no_progress
from hemalens.data.parallel import available_cores
from hemalens.training.augment import FIELD_LIKE, augment_batch, check_steps
from hemalens.training.checkpoint import (
    latest_checkpoint,
    optimizer_tensors,
    read_tensors,
    restore_optimizer,
    save_checkpoint,
    write_tensors,
)
from hemalens.training.schedule import class_weights, epoch_order, epoch_size, learning_rate
from hemalens.training.tensors import LabelledImages, to_batch
from hemalens.training.transfer import parameter_groups, prepare
from hemalens.training.weights import starting_module

__all__ = ["Fitted", "choose_device", "fit", "perturb", "predict_logits", "torch_threads"]

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PREDICT_BATCH = 256
# The field-like copy of a set is drawn from this seed, so that all runs are compared on the same pictures.
_FIELD_SEED = 2024
_BEST = "best.safetensors"
_LOWER = "lower lr or use --set precision=fp32; --resume goes on from the last epoch"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training gives: the network with the weights of its best epoch, that epoch, and all epochs' scores.

    ``validation`` holds the logits (N, C) and labels (N,) of the clean validation set under those weights.
    """

    module: nn.Module
    best_epoch: int
    history: tuple[dict[str, float], ...]
    validation: tuple[FloatArray, IntArray]


@dataclass(slots=True)
class _Course:
    """The part of a run's state that is no tensor: it travels in the checkpoint as JSON."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    """All that changes during a run: resumed as a whole or not at all."""

    module: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    course: _Course

    def save(self, directory: Path) -> None:
        """Write a checkpoint of the epoch that has ended."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(self.optimizer).items()}
        if self.averaged is not self.module:
            tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        plain = {name: getattr(self.course, name) for name in _Course.__slots__}
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
        if scaler := plain.pop("scaler"):
            self.scaler.load_state_dict(scaler)
        self.course = _Course(**plain)


def fit(
    train: LabelledImages,
    val: LabelledImages,
    n_classes: int,
    config: TrainConfig,
    *,
    checkpoints: Path,
    progress: Progress = no_progress,
) -> Fitted:
    """Train a network; go on from ``checkpoints`` where a run of the same configuration was cut off.

    Args:
        train: pictures with labels 0..C-1.
        val: the pictures that choose the epoch, clean or perturbed by ``config.select_on``.
        n_classes: C.
        config: everything else.
        checkpoints: directory for the state after each epoch and the best weights.
        progress: told after each step.

    Raises:
        TrainingError: a loss is not finite; names the step and samples, or the epoch. Nothing of that epoch is kept.
    """
    check_steps(config.augment)
    device = choose_device(config.device)
    state = _start(train, val, n_classes, config, checkpoints, progress)
    state.resume(checkpoints)
    pictures, labels = torch.from_numpy(train.images).to(device), torch.from_numpy(train.labels).to(device)
    clean = torch.from_numpy(val.images)
    field_like = perturb(clean)
    per_class = torch.from_numpy(class_weights(train.labels, n_classes)).float().to(device)
    weights = per_class if config.balance == "weights" else None
    steps = max(epoch_size(train.labels, config) // config.batch_size, 1)
    module, optimizer, scaler, course = state.module, state.optimizer, state.scaler, state.course
    for epoch in range(course.epoch + 1, config.epochs + 1):
        if config.patience and epoch - 1 - course.best_epoch >= config.patience:
            break
        started, losses, hits, shown = time.monotonic(), [], 0, 0
        module.train()
        for step, (places, keys) in enumerate(_batches(train.labels, config, epoch, steps), (epoch - 1) * steps):
            progress("training", step, config.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.epochs * steps, config)
            batch = to_batch(pictures[places])
            batch = augment_batch(batch, keys.to(device), config.augment, seed=config.seed, epoch=epoch)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with _drawn_from(config.seed, step), _autocast(device, config.precision):
                logits = module(batch).float()
                loss = functional.cross_entropy(logits, labels[places], weights, label_smoothing=config.label_smoothing)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise _not_finite(losses[-1], step, [train.sample_ids[place] for place in places.tolist()])
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            scaler.step(optimizer)
            scaler.update()
            _average(state.averaged, module, config.ema)
            hits, shown = hits + int((logits.argmax(dim=1) == labels[places]).sum()), shown + len(places)
        row = {"epoch": epoch, "lr": float(optimizer.param_groups[0]["lr"]), "train_loss": float(np.mean(losses))}
        row |= {"train_accuracy": hits / shown}
        row |= _validate(state.averaged, clean, field_like, val.labels)
        if not math.isfinite(row["val_loss"]):  # the epoch's last step may be the one that broke the weights
            raise TrainingError(f"validation loss {row['val_loss']} after epoch {epoch}", "must be finite", _LOWER)
        _close_epoch(state, row | {"seconds": time.monotonic() - started}, config, checkpoints)
    progress("training", config.epochs * steps, config.epochs * steps)
    best, _ = read_tensors(checkpoints / _BEST)
    state.averaged.load_state_dict(best)
    chosen = state.averaged.cpu().eval()
    return Fitted(chosen, course.best_epoch, tuple(course.history), (predict_logits(chosen, clean), val.labels))


def predict_logits(
    module: nn.Module,
    pictures: Tensor,
    *,
    progress: Progress = no_progress,
) -> FloatArray:
    """Return logits (N, C) float32 of pictures (N, S, S, 3) uint8, in full precision; the module's mode is restored."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), _PREDICT_BATCH):
            progress("predicting", start, len(pictures))
            parts.append(module(to_batch(pictures[start : start + _PREDICT_BATCH].to(device))).float().cpu())
    module.train(training)
    progress("predicting", len(pictures), len(pictures))
    return torch.cat(parts).numpy() if parts else np.zeros((0, 0), np.float32)


def perturb(pictures: Tensor) -> Tensor:
    """Return a strongly distorted copy (N, S, S, 3) uint8 of pictures (N, S, S, 3) uint8, the same on every call.

    The distortions are ``augment.FIELD_LIKE``; the draw of a picture depends on its place alone.
    """
    parts = [torch.empty((0, *pictures.shape[1:]), dtype=torch.uint8)]
    for start in range(0, len(pictures), _PREDICT_BATCH):
        batch = to_batch(pictures[start : start + _PREDICT_BATCH])
        keys = torch.arange(start, start + len(batch))
        changed = augment_batch(batch, keys, FIELD_LIKE, seed=_FIELD_SEED, epoch=0)
        parts.append((changed * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).contiguous()


def choose_device(name: str) -> torch.device:
    """Return the device of a configuration: ``auto`` takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device {name}", "must be auto, cpu, cuda or cuda:N", "use --set device=auto")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name}", "no GPU is available to torch", "use --set device=cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"device {name}", f"there are {count}, counted from 0", "use --set device=cuda")
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use so many CPU threads (0: one a core) and deterministic kernels inside; put back what was set."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(count or available_cores())
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _start(
    train: LabelledImages,
    val: LabelledImages,
    n_classes: int,
    config: TrainConfig,
    checkpoints: Path,
    progress: Progress,
) -> _State:
    """Return the state before the first step: weights given or drawn from the seed, made ready to be trained on."""
    device = choose_device(config.device)
    module = starting_module(train.images, n_classes, config)
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    prepare(module, train, val, config, cache=checkpoints, progress=progress)
    groups = parameter_groups(module, config)
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True),
        "adamw": lambda: torch.optim.AdamW(groups, lr=config.lr),
    }
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    averaged = copy.deepcopy(module) if config.ema else module
    return _State(module, averaged, make[config.optimizer](), scaler, _Course())


def _batches(labels: IntArray, config: TrainConfig, epoch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    places, keys = (torch.from_numpy(array) for array in epoch_order(labels, config, epoch=epoch))
    for step in range(steps):
        part = slice(step * config.batch_size, (step + 1) * config.batch_size)
        yield places[part], keys[part]


@contextmanager
def _drawn_from(seed: int, step: int) -> Iterator[None]:
    """Let dropout draw from (seed, step); the global random state is put back."""
    with torch.random.fork_rng():
        torch.manual_seed((seed << 32) + step)
        yield


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=_AUTOCAST[precision], enabled=precision != "fp32")


def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    """Move averaged weights towards the current ones; buffers (batch statistics) are taken over."""
    if averaged is module:
        return
    with torch.no_grad():
        for mean, value in zip(averaged.parameters(), module.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)
        for kept, current in zip(averaged.buffers(), module.buffers(), strict=True):
            kept.copy_(current)


def _validate(module: nn.Module, clean: Tensor, field_like: Tensor, labels: IntArray) -> dict[str, float]:
    logits = torch.from_numpy(predict_logits(module, clean))
    loss = functional.cross_entropy(logits, torch.from_numpy(labels)).item()
    distorted = predict_logits(module, field_like).argmax(axis=1)
    return {
        "val_loss": loss,
        "val_accuracy": float((logits.argmax(dim=1).numpy() == labels).mean()),
        "val_perturbed_accuracy": float((distorted == labels).mean()),
    }


def _close_epoch(state: _State, row: dict[str, float], config: TrainConfig, checkpoints: Path) -> None:
    """Note an epoch's scores, keep its weights if they are the best so far, and write the checkpoint last."""
    course = state.course
    course.epoch = int(row["epoch"])
    course.history.append(row)
    score = row["val_accuracy" if config.select_on == "clean" else "val_perturbed_accuracy"]
    # Ties go to the later epoch: its learning rate was lower.
    if score >= course.best_score:
        course.best_epoch, course.best_score = course.epoch, score
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_tensors(checkpoints / _BEST, state.averaged.state_dict())
    state.save(checkpoints)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _not_finite(loss: float, step: int, ids: list[str]) -> TrainingError:
    what = f"loss {loss} at step {step} (samples {', '.join(ids[:4])}, ... {len(ids)} in all)"
    return TrainingError(what, "must be finite", _LOWER)
