"""An exported model against the network it was made of: logits and labels over images, and its resize against Pillow.

Needs onnx and torch (extra ``train``).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL
import torch
from torch import nn

from hemalens.core.types import FloatArray, Images, Progress, no_progress
from hemalens.data.reading.resize import resize
from hemalens.export.preprocessing import resize_model
from hemalens.inference.model import open_session
from hemalens.training.predicting import predict_logits

__all__ = ["TOLERANCE", "compare", "onnx_logits", "resize_parity"]

TOLERANCE = 1e-4
"""Allowed difference of logits, as a share of the largest one (at least 1)."""
_REASON = (
    "float32 keeps 24 bits: both runtimes add up to thousands of products a value in another order, through tens of "
    "layers, and the export folds batch normalisation into the weights; measured up to 1e-5 of the largest logit"
)
_BATCH = 32
_SIDES = 24  # random sizes to try the resize on, beside those at its corners


def compare(
    module: nn.Module,
    data: bytes,
    images: Callable[[], Iterable[Images]],
    *,
    size: int,
    total: int,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], FloatArray, FloatArray]:
    """Return what differs between a network and its export, and the logits (N, C) of both.

    The export sees the images in their own sizes, torch sees them resized by Pillow: both ways as they are used.

    Args:
        module: the network, (N, 3, S, S) in [0, 1] to logits.
        data: the ONNX model.
        images: called for images (H, W, 3) uint8, one after the other, the same each time.
        size: S.
        total: N.
        progress: called for the images.
    """
    ours = onnx_logits(data, images(), total=total, progress=progress)
    resized = np.empty((total, size, size, 3), np.uint8)
    for index, image in enumerate(images()):
        resized[index] = resize(image, size)
    theirs = predict_logits(module, torch.from_numpy(resized), progress=progress)
    equal = int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    largest = float(np.abs(theirs).max())
    found = {
        "labels_equal": equal,
        "labels_equal_share": equal / total,
        "logits_max_difference": float(np.abs(ours - theirs).max()),
        "logits_largest": largest,
        "logits_tolerance": TOLERANCE * max(1.0, largest),
        "logits_tolerance_reason": _REASON,
    }
    return found, ours, theirs


def onnx_logits(data: bytes, images: Iterable[Images], *, total: int, progress: Progress = no_progress) -> FloatArray:
    """Return an exported model's logits (N, C) of images of any sizes, resized inside the model."""
    session = open_session(data, threads=0, name="exported")
    parts, done = [], 0
    for batch in _batches(images):
        progress("comparing with torch", done, total)
        parts.append(session.run(["logits"], {"images": np.stack(batch)})[0])
        done += len(batch)
    progress("comparing with torch", total, total)
    logits: FloatArray = np.concatenate(parts)
    return logits


def resize_parity(size: int, *, seed: int = 0) -> dict[str, Any]:
    """Return how far the resize inside a model is from Pillow's, over noise of many sizes; 0 is wanted.

    Noise of 0 and 255 alone is the hardest there is: every weight counts, and both passes are cut to 0-255.
    """
    draw = np.random.default_rng(seed)
    session = open_session(resize_model(size).SerializeToString(), threads=0, name="resize")
    corners = [(1, 1), (1, 3 * size), (3 * size, 1), (size, size), (size, 2 * size), (2 * size, size), (4 * size, size)]
    sides = corners + [(int(height), int(width)) for height, width in draw.integers(1, 6 * size, (_SIDES, 2))]
    worst = values = differing = 0
    for index, (height, width) in enumerate(sides):
        noise = draw.integers(0, 256, (1, height, width, 3), np.uint8)
        noise = np.where(noise < 128, np.uint8(0), np.uint8(255)) if index % 2 else noise
        ours = session.run(None, {"images": noise})[0][0]
        difference = np.abs(ours.astype(np.int16) - resize(noise[0], size))
        worst, values = max(worst, int(difference.max())), values + difference.size
        differing += int((difference > 0).sum())
    return {
        "sizes": len(sides),
        "values": values,
        "values_differing": differing,
        "max_difference": worst,
        "tolerance": 0,
        "tolerance_reason": "the same weights of 22 bits, summed without rounding, the passes in the same order",
        "pillow": PIL.__version__,
    }


def _batches(images: Iterable[Images]) -> Iterator[Sequence[Images]]:
    """Cut images into runs of one shape."""
    batch: list[Images] = []
    for image in images:
        if batch and (len(batch) == _BATCH or batch[0].shape != image.shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch
