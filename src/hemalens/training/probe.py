"""The linear probe: a network with given weights, of which the last layer alone is fitted, in one pass over the set."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.core.types import Progress, no_progress
from hemalens.training.device import choose_device
from hemalens.training.distributed import ALONE, World
from hemalens.training.feed import Feed
from hemalens.training.heads import VIEWS, train_head
from hemalens.training.loop import NORMALISED_BY, Fitted, no_note
from hemalens.training.predicting import distort, predict_logits
from hemalens.training.tensors import LabelledImages
from hemalens.training.weights import starting_module

__all__ = ["fit_probe"]

_TURNS = {"flip", "quarter", "rotate"}


def fit_probe(
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
    """Fit a network's last layer by logistic regression on the features before it; its history is one row.

    Where the recipe flips or turns images, each is seen in the 8 exact positions of a square; other augmentation
    takes no part. Features are kept in ``checkpoints``, so a run that is resumed does not compute them again. Of
    several processes each does the same; the first one writes.
    """
    started = time.monotonic()
    module = starting_module(train.sample(NORMALISED_BY), n_classes, config)
    device = choose_device(config.device, local_rank=world.local_rank)
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    views = VIEWS if _TURNS & {step.name for step in config.augment} else 1
    cache = checkpoints if world.leads else None
    head = train_head(module, train, val, config, views=views, cache=cache, progress=progress)
    images, labels = torch.from_numpy(val.images), torch.from_numpy(val.labels)
    module.eval()
    logits = predict_logits(module, images, progress=progress)
    distorted = predict_logits(module, distort(images), progress=progress).argmax(axis=1)
    row = {
        "epoch": 1.0,
        "lr": 0.0,
        "train_loss": head.train_loss,
        "train_accuracy": head.train_accuracy,
        "val_loss": functional.cross_entropy(torch.from_numpy(logits), labels).item(),
        "val_accuracy": float((logits.argmax(axis=1) == val.labels).mean()),
        "val_distorted_accuracy": float((distorted == val.labels).mean()),
        "seconds": time.monotonic() - started,
    }
    note(row)
    return Fitted(module.cpu(), 1, (row,), (logits, val.labels))
