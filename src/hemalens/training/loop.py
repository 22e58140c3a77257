"""The training loop: one screen, one path. What varies (precision, balancing, mixing, processes) enters as values.

The order of the images is a function of (seed, epoch), their augmentation of (seed, epoch, sample), dropout of
(seed, step): a run that was killed and resumed ends with the same weights as one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.core.errors import TrainingError
from hemalens.core.types import FloatArray, IntArray, Progress, no_progress
from hemalens.training.augment.augment import check_steps
from hemalens.training.augment.views import make_views, views_loss
from hemalens.training.device import autocast, choose_device, drawn_from
from hemalens.training.distributed import ALONE, World, share_batch_statistics
from hemalens.training.feed import Batch, Feed
from hemalens.training.heads import train_head
from hemalens.training.predicting import distort, predict_logits
from hemalens.training.schedule import class_weights, learning_rate
from hemalens.training.state import State, start
from hemalens.training.tensors import LabelledImages
from hemalens.training.transfer import thaw

__all__ = ["NORMALISED_BY", "Fitted", "fit", "no_note"]

NORMALISED_BY = 4096
"""How many training images the channels' mean and spread are taken from."""

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


def no_note(_row: dict[str, float]) -> None:
    """Ignore a row of the history: the default where nobody keeps it."""


def fit(
    train: Feed,
    val: LabelledImages,
    n_classes: int,
    config: TrainConfig,
    *,
    checkpoints: Path,
    world: World = ALONE,
    progress: Progress = no_progress,
    note: Callable[[dict[str, float]], None] = no_note,
) -> Fitted:
    """Train a network; go on from ``checkpoints`` where a run of the same configuration was cut off.

    Args:
        train: batches of images with labels 0..C-1.
        val: the images that choose the epoch, clean or distorted by ``config.select_on``.
        n_classes: C.
        config: everything else.
        checkpoints: directory for the state after each epoch, the best weights within.
        world: the processes that train together; the first one writes.
        progress: called after each step.
        note: called with each epoch's row of the history, with those before a resumption again.

    Raises:
        TrainingError: an input, loss or gradient is not finite; names the step and samples, or the epoch. Nothing of
            that epoch is kept.
    """
    check_steps(config.augment)
    device = choose_device(config.device, local_rank=world.local_rank)
    state = start(train.sample(NORMALISED_BY), n_classes, config, device)
    if world.size > 1:
        share_batch_statistics(state.module)
    state.resume(checkpoints)
    for row in state.course.history:  # a kill may have come between a checkpoint and its note
        note(row)
    world.wait()  # nobody writes before all have read
    if config.freeze == "gradual" and not state.course.epoch:
        # A last layer of noise would send noise through all the others.
        train_head(state.module, train, val, config, cache=checkpoints if world.leads else None, progress=progress)
        state.average(0.0)
    clean = torch.from_numpy(val.images)
    field_like = distort(clean)
    weights = _loss_weights(train.labels, n_classes, config, device)
    steps, course = train.steps(), state.course
    total = config.epochs * steps
    for epoch in range(course.epoch + 1, config.epochs + 1):
        if config.patience and epoch - 1 - course.best_epoch >= config.patience:
            break
        started, tally = time.monotonic(), torch.zeros(3, dtype=torch.float64)
        thaw(state.module.train(), state.optimizer.param_groups, epoch)
        forward = world.share(_compiled(state.module, config))
        batches = train.epoch(epoch, rank=world.rank, world=world.size)
        for step, batch in enumerate(batches, (epoch - 1) * steps):
            progress("training", step, total)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(step, total, config) * group["lr_scale"]
            views = make_views(batch, train, config, epoch=epoch)
            with drawn_from(config.seed, step), autocast(device, config.precision):
                logits = forward(views.images).float()
            loss = views_loss(logits, views, config, weights)
            state.optimizer.zero_grad(set_to_none=True)
            # A process's mean counts by its share of the batch; DistributedDataParallel averages over the processes.
            share = len(batch.labels) * world.size / batch.size
            state.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            norm = _gradient_norm(state, config)
            _check_finite(views.images, loss, norm, step, batch, train, state)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.average(config.ema)
            tally += _tallied(batch, logits, loss)
        row = {"epoch": epoch} | _trained(world.total(tally.to(device)), state)
        row |= _validate(state.averaged, clean, field_like, val.labels, world)
        if not math.isfinite(row["val_loss"]):  # the epoch's last step may be the one that broke the weights
            raise TrainingError(f"validation loss {row['val_loss']} after epoch {epoch}", "must be finite", _LOWER)
        row |= {"seconds": time.monotonic() - started}
        state.close_epoch(row, config, checkpoints, writes=world.leads)
        note(row)
    progress("training", total, total)
    chosen = state.best_module()
    return Fitted(chosen, course.best_epoch, tuple(course.history), (predict_logits(chosen, clean), val.labels))


def _tallied(batch: Batch, logits: Tensor, loss: Tensor) -> Tensor:
    """Return how many images a step showed, the sum of their losses, and how many were right (3,) float64."""
    shown = len(batch.labels)
    hits = (logits[:shown].argmax(dim=1) == batch.labels).sum().item()
    return torch.tensor([shown, loss.item() * shown, hits], dtype=torch.float64)


def _trained(tally: Tensor, state: State) -> dict[str, float]:
    """Return an epoch's scores on what it trained on, and the highest learning rate of its last step."""
    shown, summed, right = tally.tolist()
    rates = [float(group["lr"]) for group in state.optimizer.param_groups]
    return {"lr": max(rates), "train_loss": summed / shown, "train_accuracy": right / shown}


def _loss_weights(labels: IntArray, n_classes: int, config: TrainConfig, device: torch.device) -> Tensor | None:
    if config.balance != "weights":
        return None
    return torch.from_numpy(class_weights(labels, n_classes)).float().to(device)


def _compiled(module: nn.Module, config: TrainConfig) -> nn.Module:
    if not config.compile:
        return module
    compiled: nn.Module = torch.compile(module)  # type: ignore[assignment]  # a module stays a module
    return compiled


def _gradient_norm(state: State, config: TrainConfig) -> Tensor:
    """Return the norm of the gradient, clipped to the configured one where there is one."""
    state.scaler.unscale_(state.optimizer)
    learned = [parameter for parameter in state.module.parameters() if parameter.grad is not None]
    return nn.utils.clip_grad_norm_(learned, config.clip or math.inf)


def _check_finite(
    images: Tensor, loss: Tensor, norm: Tensor, step: int, batch: Batch, train: Feed, state: State
) -> None:
    """Raise before the step where a number is not finite; a gradient too large for fp16 is the scaler's to skip."""
    finite = torch.stack([torch.isfinite(images).all(), torch.isfinite(loss), torch.isfinite(norm)])
    names = ("input", f"loss {loss.item()}", "gradient")
    for what, good in zip(names, finite.tolist(), strict=True):
        skipped = what == "gradient" and state.scaler.is_enabled() and state.scaler.get_scale() >= 1.0
        if not good and not skipped:
            ids = [train.sample_ids[index] for index in batch.indices.tolist()]
            shown = f"step {step} (samples {', '.join(ids[:4])}, ... {len(ids)} in all)"
            raise TrainingError(f"{what} at {shown}", "must be finite", _LOWER)


def _validate(module: nn.Module, clean: Tensor, field_like: Tensor, labels: IntArray, world: World) -> dict[str, float]:
    """Score clean and distorted images; each process predicts its share."""
    logits, distorted = (
        world.gather(torch.from_numpy(predict_logits(module, part[world.rank :: world.size])), len(labels))
        for part in (clean, field_like)
    )
    truth = torch.from_numpy(labels)
    return {
        "val_loss": functional.cross_entropy(logits, truth).item(),
        "val_accuracy": (logits.argmax(dim=1) == truth).double().mean().item(),
        "val_distorted_accuracy": (distorted.argmax(dim=1) == truth).double().mean().item(),
    }
