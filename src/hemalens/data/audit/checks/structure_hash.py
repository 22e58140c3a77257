"""Thumbnails to hashes of their structure that a search can compare in any of the eight orientations.

A hash holds the signs of 60 low coefficients of the luminance's cosine transform. Brightness and contrast do not change
signs; a mirror or a quarter turn changes signs and places in a known way; a narrow crop flips a few bits, so every
image is stored as it is and cropped five ways. numpy only.
"""

import numpy as np
import numpy.typing as npt

from hemalens.core.types import FloatArray, Images
from hemalens.data.audit.checks.hash_search import Hashes

__all__ = ["BITS", "ORIENTATIONS", "STORED", "oriented", "structure_hashes"]

BITS = 60
ORIENTATIONS = (
    "as it is",
    "mirrored",
    "flipped",
    "turned by 180 degrees",
    "transposed",
    "turned by 90 degrees",
    "turned by 270 degrees",
    "transposed across",
)
"""What ``oriented`` does for 0 to 7: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 transposes first."""

_SIDE, _FREQUENCIES = 16, 10
_BLOCK = 2048
# The 2 pixels of 96 that a careless crop takes from a side.
_CROP = 2 / 96
_SIDES = ((0.0, 0.0), (_CROP, _CROP), (_CROP, 0.0), (0.0, _CROP))
# As it is, cropped all around, cropped towards each corner: places in _SIDES for rows and columns.
_DEFORMATIONS = ((0, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3))
STORED = len(_DEFORMATIONS)
"""How many hashes are stored of each image."""

# These three say only that something lies in the middle: of the real cells 74-99 % have the same sign.
_DULL = frozenset({(0, 0), (0, 2), (2, 0), (2, 2)})


def structure_hashes(thumbnails: Images) -> tuple[Hashes, Hashes]:
    """Return what to store (N, 6) and what to ask for (N, 8) of thumbnails (N, 16, 16, 3) uint8.

    The asked hash of orientation g of an image is near a stored hash of its copy turned by g, cropped a little or not.
    """
    stored, asked = np.zeros((len(thumbnails), STORED), np.uint64), np.zeros((len(thumbnails), 8), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        part = slice(start, start + _BLOCK)
        luminance = thumbnails[part].astype(np.float32) @ _LUMINANCE
        by_row = [matrix @ luminance for matrix in _TRANSFORMS]
        for index, (rows, columns) in enumerate(_DEFORMATIONS):
            stored[part, index] = _pack(by_row[rows] @ _TRANSFORMS[columns].T)
        plain = by_row[0] @ _TRANSFORMS[0].T
        for turn in range(8):
            asked[part, turn] = _pack(_turned(plain, turn))
    return stored, asked


def oriented(images: npt.NDArray[np.generic], turn: int) -> npt.NDArray[np.generic]:
    """Return square images (N, S, S, ...) in one of the eight orientations, a view."""
    if turn & 4:
        images = images.swapaxes(1, 2)
    if turn & 2:
        images = images[:, ::-1]
    return images[:, :, ::-1] if turn & 1 else images


def _turned(coefficients: FloatArray, turn: int) -> FloatArray:
    """Return the transform (N, K, K) of images in another orientation: a mirror negates the odd waves."""
    if turn & 4:
        coefficients = coefficients.swapaxes(1, 2)
    rows = _ALTERNATING if turn & 2 else np.abs(_ALTERNATING)
    columns = _ALTERNATING if turn & 1 else np.abs(_ALTERNATING)
    return np.asarray(coefficients * (rows[:, None] * columns))


def _pack(coefficients: FloatArray) -> Hashes:
    """Return the signs of the chosen coefficients of (N, K, K) as (N,) uint64."""
    bits = np.zeros((len(coefficients), 64), bool)
    bits[:, :BITS] = coefficients[:, *_CHOSEN] > 0
    return np.packbits(bits, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)


def _chosen() -> tuple[list[int], list[int]]:
    """Return rows and columns of the 60 lowest coefficients, dealt out so that each sixth of the hash has of all."""
    waves = [(row, column) for row in range(_FREQUENCIES) for column in range(_FREQUENCIES)]
    lowest = sorted(set(waves) - _DULL, key=lambda wave: (wave[0] ** 2 + wave[1] ** 2, wave))[:BITS]
    dealt = [lowest[index] for first in range(6) for index in range(first, BITS, 6)]
    return [row for row, _ in dealt], [column for _, column in dealt]


def _transform(low: float, high: float) -> FloatArray:
    """Return the cosine transform (K, 16) of a line that lost these shares at its ends and was resized by cubics."""
    frequency, index = np.mgrid[:_FREQUENCIES, :_SIDE]
    cosines = np.cos(np.pi * frequency * (2 * index + 1) / (2 * _SIDE))
    centres = (low + (np.arange(_SIDE) + 0.5) / _SIDE * (1 - low - high)) * _SIDE - 0.5
    far = np.abs(np.clip(centres, 0, _SIDE - 1)[:, None] - np.arange(_SIDE))
    # Keys 1981, eq. 4 and a = -1/2.
    weights = np.where(
        far < 1, (1.5 * far - 2.5) * far**2 + 1, np.where(far < 2, ((2.5 - far / 2) * far - 4) * far + 2, 0)
    )
    return np.asarray(cosines @ (weights / weights.sum(axis=1, keepdims=True)), np.float32)


_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_ALTERNATING = np.where(np.arange(_FREQUENCIES) % 2, -1, 1).astype(np.float32)
_CHOSEN = _chosen()
_TRANSFORMS = [_transform(*ends) for ends in _SIDES]
