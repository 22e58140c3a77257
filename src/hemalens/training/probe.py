"""The linear probe: a network with given weights, of which the last layer alone is fitted, in one pass over the set."""

import time
from pathlib import Path

import torch
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.core.types import Progress, no_progress
from hemalens.training.heads import VIEWS, train_head
from hemalens.training.loop import Fitted, choose_device, perturb, predict_logits
from hemalens.training.tensors import LabelledImages
from hemalens.training.weights import starting_module

__all__ = ["fit_probe"]

_TURNS = {"flip", "quarter", "rotate"}


def fit_probe(
    train: LabelledImages,
    val: LabelledImages,
    n_classes: int,
    config: TrainConfig,
    *,
    checkpoints: Path,
    progress: Progress = no_progress,
) -> Fitted:
    """Fit a network's last layer by logistic regression on the features before it; its history is one row.

    Where the recipe flips or turns pictures, each is seen in the 8 exact positions of a square; other augmentation
    takes no part. Features are kept in ``checkpoints``, so a run that is resumed does not compute them again.
    """
    started = time.monotonic()
    module = starting_module(train.images, n_classes, config)
    module.to(choose_device(config.device), memory_format=torch.channels_last)  # type: ignore[call-overload]  # no stub
    views = VIEWS if _TURNS & {step.name for step in config.augment} else 1
    head = train_head(module, train, val, config, views=views, cache=checkpoints, progress=progress)
    pictures, labels = torch.from_numpy(val.images), torch.from_numpy(val.labels)
    module.eval()
    logits = predict_logits(module, pictures, progress=progress)
    distorted = predict_logits(module, perturb(pictures), progress=progress).argmax(axis=1)
    row = {
        "epoch": 1.0,
        "lr": 0.0,
        "train_loss": head.train_loss,
        "train_accuracy": head.train_accuracy,
        "val_loss": functional.cross_entropy(torch.from_numpy(logits), labels).item(),
        "val_accuracy": float((logits.argmax(axis=1) == val.labels).mean()),
        "val_perturbed_accuracy": float((distorted == val.labels).mean()),
        "seconds": time.monotonic() - started,
    }
    return Fitted(module.cpu(), 1, (row,), (logits, val.labels))
