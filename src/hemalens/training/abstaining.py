"""A trained network and its set to what it abstains on: the features of training and validation images.

Other light, dye, size or position, as far as training showed them, are to make no cell strange: half of what the
distance is measured in comes from training images so changed. Steps that destroy detail take no part, for a blurred
cell may well get no answer (docs/decisions/0025).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hemalens.core.abstention import Abstention, fit_abstention
from hemalens.core.config import AugmentStep
from hemalens.core.types import IntArray, Progress, no_progress
from hemalens.data.selection import choose_split
from hemalens.data.sources import Source
from hemalens.training.augment.augment import GEOMETRY, LIGHT
from hemalens.training.predicting import predict_features, vary
from hemalens.training.tensors import LabelledImages, load_images

__all__ = ["learn_abstention"]

# From 250 on nothing changes for foreign images (docs/decisions/0018); a set of a million is not read once more.
_PER_CLASS = 1000


def learn_abstention(
    module: nn.Module,
    source: Source,
    assigned: Sequence[str],
    validation: LabelledImages,
    *,
    steps: Sequence[AugmentStep] = (),
    seed: int = 0,
    progress: Progress = no_progress,
) -> Abstention:
    """Return what ``core.abstention.judge`` needs to know of a network.

    Args:
        module: the trained network, as it will be used.
        source: the set it was trained on.
        assigned: the split of each of its samples.
        validation: images at the network's size; they set temperature and limits.
        steps: the augmentation it was trained under.
        seed: of the choice of training images, at most 1,000 a class, and of their changes.
        progress: called for the images.
    """
    labels, indices = choose_split(source, assigned, "train")
    chosen = _balanced(labels, seed)
    images = load_images(source, [indices[row] for row in chosen], size=validation.images.shape[1], progress=progress)
    seen = torch.from_numpy(images)
    features, _ = predict_features(module, seen, progress=progress)
    kept = [step for step in steps if step.name in GEOMETRY or step.name in LIGHT]
    varied = predict_features(module, vary(seen, kept, seed=seed), progress=progress)[0] if kept else None
    val_features, val_logits = predict_features(module, torch.from_numpy(validation.images), progress=progress)
    cells = val_features, val_logits, validation.labels
    return fit_abstention(features, labels[chosen], *cells, varied_features=varied)


def _balanced(labels: IntArray, seed: int) -> IntArray:
    """Return the indices of at most ``_PER_CLASS`` samples of each class, drawn from the seed, in ascending order."""
    draw = np.random.default_rng(seed)
    kept = [draw.permutation(np.flatnonzero(labels == name))[:_PER_CLASS] for name in np.unique(labels)]
    return np.sort(np.concatenate(kept))
