"""Pairs of thumbnails to how badly one explains the other, once light, contrast and a small crop are taken off.

numpy only.
"""

import numpy as np
import numpy.typing as npt

from hemalens.core.types import FloatArray, Images

__all__ = ["residual"]

_BLOCK = 512
_SIDE = 16
# From here on a mean of pixels may have lost light that the image could not hold.
_SATURATED = 250
# Thumbnail pixels that a copy may be shifted and, at its border, stretched: 4 pixels of 96.
_FARTHEST = 0.7
_RIDGE = 1e-2


def residual(first: Images, second: Images) -> FloatArray:
    """Return the share of structure (P,) that the better of two fits leaves open, of thumbnails (P, 16, 16, 3) uint8.

    One image is explained by the other, its gradients and its gradients times their distance from the middle (a shift
    and a stretch to first order, as Lucas and Kanade 1981), with one gain and an offset for each colour. 0 is a copy;
    unrelated images have nearly 1. Light beyond white, which a brighter copy lost, is not held against it. It does
    not matter which image is first.
    """
    found = np.ones(len(first))
    for start in range(0, len(first), _BLOCK):
        one, other = (part[start : start + _BLOCK].astype(np.float32) for part in (first, second))
        found[start : start + _BLOCK] = np.minimum(_explained(one, other), _explained(other, one))
    return found


def _explained(known: FloatArray, wanted: FloatArray) -> FloatArray:
    """Return which share of ``wanted`` (P, S, S, 3) float32 the best fit of ``known`` leaves open (P,)."""
    count = len(known)
    whole = (known < _SATURATED) & (wanted < _SATURATED)
    weight = whole.astype(np.float32)
    down, across = (np.asarray(np.gradient(known, axis=axis)) for axis in (1, 2))
    columns = [known, down, across, down * _OFFSETS[:, None, None], across * _OFFSETS[:, None]]
    means = [_means(values, weight) for values in (*columns, wanted)]
    design = np.stack(
        [(values - mean).reshape(count, -1) for values, mean in zip(columns, means, strict=False)], axis=1
    )
    target = (wanted - means[-1]).reshape(count, -1)
    seen = design * weight.reshape(count, 1, -1)
    normal = seen @ design.swapaxes(1, 2) + _RIDGE * np.eye(len(columns), dtype=np.float32)
    fit = np.linalg.solve(normal, seen @ target[:, :, None])[:, :, 0]
    gain = np.maximum(fit[:, :1], 1e-3)  # a negative has its light and dark exchanged: no copy
    fit = np.concatenate([gain, np.clip(fit[:, 1:] / gain, -_FARTHEST, _FARTHEST) * gain], axis=1)
    left = (target - (fit[:, None] @ design)[:, 0]).reshape(known.shape)
    # What is beyond white may be any brighter: too bright a guess of it is right, and so is one made from it too dark.
    excused = ((wanted >= _SATURATED) & (left < 0)) | ((known >= _SATURATED) & (left > 0))
    left[excused] = 0
    spread = np.square(wanted - wanted.mean(axis=(1, 2), keepdims=True)).sum(axis=(1, 2, 3))
    return np.asarray(np.square(left).sum(axis=(1, 2, 3)) / np.maximum(spread, 1.0))


def _means(values: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted mean of each colour of (P, S, S, 3) as (P, 1, 1, 3)."""
    total = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1)
    return np.asarray((values * weight).sum(axis=(1, 2), keepdims=True) / total)


def _offsets() -> npt.NDArray[np.float32]:
    """Return the distance of each of 16 places from the middle, 1 at the border."""
    return ((np.arange(_SIDE) - (_SIDE - 1) / 2) / (_SIDE / 2)).astype(np.float32)


_OFFSETS = _offsets()
