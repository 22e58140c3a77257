"""Images to logits and features under a network as it stands, and to their field-like distorted copies."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hemalens.core.config import AugmentStep
from hemalens.core.types import FloatArray, Progress, no_progress
from hemalens.training.augment.augment import FIELD_LIKE, augment_batch
from hemalens.training.models import last_layers
from hemalens.training.tensors import to_batch

__all__ = ["distort", "predict_features", "predict_logits", "vary"]

_BATCH = 256
# The field-like copy of a set is drawn from this seed, so that all runs are compared on the same images.
_FIELD_SEED = 2024


def predict_logits(
    module: nn.Module,
    images: Tensor,
    *,
    progress: Progress = no_progress,
) -> FloatArray:
    """Return logits (N, C) float32 of images (N, S, S, 3) uint8, in full precision; the module's mode is restored."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            progress("predicting", start, len(images))
            parts.append(module(to_batch(images[start : start + _BATCH].to(device))).float().cpu())
    module.train(training)
    progress("predicting", len(images), len(images))
    return torch.cat(parts).numpy() if parts else np.zeros((0, 0), np.float32)


def predict_features(
    module: nn.Module,
    images: Tensor,
    *,
    progress: Progress = no_progress,
) -> tuple[FloatArray, FloatArray]:
    """Return what the last layer sees (N, D) and logits (N, C), both float32, of images (N, S, S, 3) uint8.

    Where the last layer still sees a map, that is its mean over the places; of two last layers the first one counts.
    """
    parts: list[Tensor] = []
    hook = last_layers(module)[0].register_forward_pre_hook(lambda _, seen: parts.append(_pooled(seen[0])))
    try:
        logits = predict_logits(module, images, progress=progress)
    finally:
        hook.remove()
    return (torch.cat(parts).numpy() if parts else np.zeros((0, 0), np.float32)), logits


def distort(images: Tensor) -> Tensor:
    """Return a strongly distorted copy (N, S, S, 3) uint8 of images (N, S, S, 3) uint8, the same on every call.

    The distortions are ``augment.FIELD_LIKE``; the draw of an image depends on its index alone.
    """
    return vary(images, FIELD_LIKE, seed=_FIELD_SEED)


def vary(images: Tensor, steps: Sequence[AugmentStep], *, seed: int) -> Tensor:
    """Return images (N, S, S, 3) uint8 after augmentation; the draw of an image depends on seed and index alone."""
    parts = [torch.empty((0, *images.shape[1:]), dtype=torch.uint8)]
    for start in range(0, len(images), _BATCH):
        batch = to_batch(images[start : start + _BATCH])
        keys = torch.arange(start, start + len(batch))
        changed = augment_batch(batch, keys, steps, seed=seed, epoch=0)
        parts.append((changed * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).contiguous()


def _pooled(seen: Tensor) -> Tensor:
    found = seen.float().cpu()
    return found.mean(dim=(2, 3)) if found.ndim == 4 else found
