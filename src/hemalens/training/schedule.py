"""The order of the images and the course of the learning rate, as pure functions of (seed, epoch) and of the step."""

import math
from collections.abc import Sequence

import numpy as np

from hemalens.core.config import TrainConfig
from hemalens.core.types import FloatArray, IntArray

__all__ = ["class_weights", "epoch_order", "epoch_size", "epoch_steps", "learning_rate", "windowed_order"]

_WARM_UP = 0.25
_RISE, _FALL = 0.1, 0.6
_LEAST = 1e-4
_COPY = 1 << 32
# Neighbours are read together, a megabyte or so of encoded images, if a window holds at least as many such blocks:
# neighbours are often of one class, and the share of a class in a window varies with one over the root of its blocks.
_BLOCK = 64
_FEWEST_BLOCKS = 64
_BLOCKS = 1  # after (seed, epoch): the stream of draws that orders blocks


def epoch_size(labels: IntArray, config: TrainConfig) -> int:
    """Return how many images an epoch shows."""
    if config.balance == "replicate":
        return len(np.unique(labels)) * config.per_class
    return len(labels)


def epoch_steps(labels: IntArray, config: TrainConfig) -> int:
    """Return how many steps an epoch has: as many as it fills batches, at least one."""
    return max(epoch_size(labels, config) // config.batch_size, 1)


def epoch_order(labels: IntArray, config: TrainConfig, *, epoch: int) -> tuple[IntArray, IntArray]:
    """Return indices (M,) in the training set and augmentation keys (M,), shuffled, for one epoch.

    ``replicate``: each class gives exactly ``per_class`` images, a small one whole as often as it fits plus a drawn
    rest, a large one a fresh draw each epoch. ``sampler``: as many as the set has, classes even, drawn with
    replacement. The key tells the copies of one image apart, so that they are augmented differently.
    """
    generator = np.random.default_rng([config.seed, epoch])
    if config.balance == "replicate":
        parts = []
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            parts.append(np.resize(members, config.per_class))
        indices = np.concatenate(parts)
    elif config.balance == "sampler":
        chance = class_weights(labels)[labels]
        indices = generator.choice(len(labels), len(labels), p=chance / chance.sum())
    else:
        indices = np.arange(len(labels))
    keys = indices + _COPY * _occurrence(indices)
    order = generator.permutation(len(indices))
    return indices[order], keys[order]


def windowed_order(
    labels: IntArray, config: TrainConfig, *, epoch: int, window: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the indices and keys (M,) that an epoch's steps show, sorted so that few images are needed at a time.

    They are those of ``epoch_order``. The third array (M,), which never falls, numbers the window that each belongs to:
    at most ``window`` distinct indices, taken from blocks of neighbours that are drawn anew each epoch, and shuffled in
    the window as in the whole. A window that has room for all leaves the order of ``epoch_order`` as it is.
    """
    indices, keys = epoch_order(labels, config, epoch=epoch)
    shown = epoch_steps(labels, config) * config.batch_size
    indices, keys = indices[:shown], keys[:shown]
    side = min(max(window // _FEWEST_BLOCKS, 1), _BLOCK)
    blocks = np.random.default_rng([config.seed, epoch, _BLOCKS]).permutation(-(-len(labels) // side))
    needed = np.bincount(np.unique(indices) // side, minlength=len(blocks))
    # Blocks that end in one stretch of ``window - side + 1`` indices begin at most ``side - 1`` before it.
    stretch = window if needed.sum() <= window else window - side + 1
    numbers = np.empty(len(blocks), np.int64)
    numbers[blocks] = np.maximum(np.cumsum(needed[blocks]) - 1, 0) // stretch
    windows = numbers[indices // side]
    order = np.argsort(windows, kind="stable")
    return indices[order], keys[order], windows[order]


def class_weights(labels: IntArray, n_classes: int = 0) -> FloatArray:
    """Return a weight per class (C,), inverse to its count, that averages 1 over the samples; 0 where it is empty.

    C is the highest label + 1, or ``n_classes`` where that is more.
    """
    counts = np.bincount(labels, minlength=n_classes)
    filled = np.maximum(counts, 1)
    return np.where(counts > 0, len(labels) / ((counts > 0).sum() * filled), 0.0)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of a step in 0..total-1.

    ``onecycle`` rises along a cosine over the first quarter and falls to nearly nothing (Smith and Topin 2018);
    ``cosine`` only falls; ``trapezoid`` rises over the first tenth, stays, and falls over the last three fifths, all in
    straight lines.
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "trapezoid":
        rise, fall = (step + 1) / max(_RISE * total, 1), (total - step) / max(_FALL * total, 1)
        return config.lr * max(min(rise, fall, 1.0), _LEAST)
    warm = _WARM_UP * total if config.schedule == "onecycle" else 0.0
    if step < warm:
        return config.lr * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * min((step + 1) / max(warm, 1), 1.0))))
    progress = (step - warm) / max(total - warm, 1)
    return config.lr * max(0.5 * (1 + math.cos(math.pi * progress)), _LEAST)


def _occurrence(indices: Sequence[int] | IntArray) -> IntArray:
    """Return for each entry how often it occurred before (M,)."""
    array = np.asarray(indices)
    order = np.argsort(array, kind="stable")
    ordered = array[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.arange(len(array)) - np.repeat(starts, np.diff(np.r_[starts, len(array)]))
    result = np.empty_like(counts)
    result[order] = counts
    return result
