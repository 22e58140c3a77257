"""Samples to one uint8 tensor on the training device: decoded once, resized once, kept there.

12,000 images of 96 px are 330 MB, so a set lives where it is augmented; only what is larger than memory is decoded
during training (``feed``). ``decoding`` reads and resizes, and needs no torch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hemalens.core.types import Images, IntArray
from hemalens.data.reading.load import load_images, resize

__all__ = ["LabelledImages", "load_images", "resize", "to_batch"]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """A set held in memory: images (N, S, S, 3) uint8, labels (N,) int64 or -1, and the ids of its samples."""

    images: Images
    labels: IntArray
    sample_ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


def to_batch(images: Tensor) -> Tensor:
    """Return uint8 images (N, S, S, 3) as floats in [0, 1] (N, 3, S, S), channels last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
