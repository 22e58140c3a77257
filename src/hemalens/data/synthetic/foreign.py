"""Two images that are no cells, drawn by code: a landscape and a test chart, to be planted among the cells.

Needs numpy and scipy.ndimage.
"""

import numpy as np
from scipy import ndimage

from hemalens.core.types import FloatArray, Images
from hemalens.data.synthetic.fields import SIDE, coverage, grain_noise, lay_over, make_plane, smoothstep

__all__ = ["colour_chart", "landscape"]

_SKY = ((70, 120, 190), (250, 200, 140))
_RIDGES = (((126, 142, 170), 4, 7.0, 17), ((72, 104, 96), 18, 6.0, 23), ((38, 62, 34), 33, 4.0, 13))
"""Colour, height of the crest, its roughness, width of its hills; from far to near."""
_BARS = ((235, 235, 235), (230, 220, 40), (40, 200, 210), (50, 190, 60), (200, 50, 190), (210, 40, 40), (40, 50, 200))


def landscape(size: int, seed: int) -> Images:
    """Return an image (size, size, 3) uint8 of hills under a low sun.

    >>> landscape(32, seed=0).shape
    (32, 32, 3)
    """
    rng = np.random.default_rng([seed, 1])
    plane = make_plane(size)
    high, low = _colour(_SKY[0]), _colour(_SKY[1])
    image: FloatArray = low + smoothstep(0.1 - plane.y / SIDE * 1.6) * (high - low)
    clouds = smoothstep(0.5 * grain_noise(plane, rng, 16) + 0.2 * grain_noise(plane, rng, 5) - 0.3)
    image = lay_over(image, 0.7 * clouds, _colour((245, 236, 230)))
    from_sun = np.hypot(plane.x - 20, plane.y + 14)
    image = lay_over(image, 0.6 * np.exp(-from_sun / 12), _colour((255, 226, 150)))
    image = lay_over(image, coverage(plane, from_sun - 7, 1.5), _colour((255, 247, 214)))
    for colour, crest, rough, width in _RIDGES:
        profile = crest + rough * grain_noise(plane, rng, width)[0] + 0.8 * grain_noise(plane, rng, 3)[0]
        texture = 1 + 0.10 * grain_noise(plane, rng, 2) + 0.10 * grain_noise(plane, rng, 8)
        image = lay_over(image, coverage(plane, profile - plane.y, 1.0), _colour(colour) * texture)
    return _photograph(image, rng, blur=0.5 / plane.pixel)


def colour_chart(size: int, seed: int) -> Images:
    """Return an image (size, size, 3) uint8 of a camera's test chart: bars, a board of squares, lines like text.

    >>> colour_chart(32, seed=0).dtype
    dtype('uint8')
    """
    rng = np.random.default_rng([seed, 2])
    plane = make_plane(size)
    column, row = (plane.x + SIDE / 2) / SIDE, (plane.y + SIDE / 2) / SIDE
    bars = np.array(_BARS, np.float32)[(column * len(_BARS)).astype(int)].transpose(2, 0, 1)
    board = ((column * 16).astype(int) + (row * 16).astype(int)) % 2 * 210.0 + 20
    line = (row * 32).astype(int)
    written = (np.sin(column * 151 + 9 * line) > -0.5) & (line % 2 == 1) & (column > 0.54) & (column < 0.96)
    text = np.where(written, 35.0, 242.0)
    wedge = np.floor(column * 10) / 9 * 255
    grey = np.where(row > 0.86, wedge, np.where(column < 0.5, board, text))
    rings = np.hypot(plane.x + 24, plane.y - 12)
    grey = np.where(rings < 14, np.floor(rings / 2.5) % 2 * 255, grey)
    image = np.where((row > 0.4) | (rings < 14), grey, bars)
    vignette = 1 - 0.25 * (np.hypot(plane.x, plane.y) / SIDE * 1.4) ** 2
    return _photograph(image * vignette, rng, blur=0.6 / plane.pixel)


def _colour(rgb: tuple[int, int, int]) -> FloatArray:
    return np.array(rgb, np.float32)[:, None, None]


def _photograph(image: FloatArray, rng: np.random.Generator, *, blur: float) -> Images:
    """Return (3, H, W) light as an image (H, W, 3) uint8: slightly out of focus, with a sensor's noise."""
    blurred = ndimage.gaussian_filter(image, blur, axes=(1, 2), mode="nearest")
    noisy = blurred + rng.normal(0, 2.5, image.shape)
    return np.ascontiguousarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8).transpose(1, 2, 0))
