"""A network's last map to heat maps of classes, at an image's size, drawn over it.

Needs numpy and Pillow; no torch.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemalens.core.types import FloatArray, Images, IntArray

__all__ = ["class_activation_map", "colour_heat", "enlarge", "normalise", "overlay"]

# Colours of heat 0, 1/4, ..., 1: yellow and green are what stained cells never are, and light stands out on them.
_HEAT_COLOURS = np.array([[30, 40, 90], [20, 100, 130], [30, 160, 110], [150, 210, 50], [255, 240, 60]], np.float32)
_MOST_OPAQUE = 0.75


def class_activation_map(feature_map: FloatArray, weight: FloatArray, classes: IntArray) -> FloatArray:
    """Return what speaks for a class, place by place (N, h, w): 0 where nothing does (Zhou et al. 2016, equation 2).

    Args:
        feature_map: the last map before pooling (N, D, h, w).
        weight: of the linear layer on its mean (C, D).
        classes: the class asked about, of each image (N,).

    >>> class_activation_map(np.ones((1, 2, 1, 1)), np.array([[1.0, 2.0], [-1.0, 0.0]]), np.array([0])).tolist()
    [[[3.0]]]
    """
    return np.asarray(np.maximum(np.einsum("ndhw,nd->nhw", feature_map, weight[classes]), 0))


def normalise(maps: FloatArray) -> FloatArray:
    """Return maps (N, h, w), each divided by its largest value; a map of zeros stays one."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(largest > 0, largest, 1))


def enlarge(heat: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Return one map (h, w) interpolated bicubically to a shape (H, W), not below 0, float32."""
    large = Image.fromarray(heat.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(np.maximum(np.asarray(large), 0))


def overlay(image: Images, heat: FloatArray) -> Images:
    """Return an image (H, W, 3) uint8 under the colours of a map (h, w) in [0, 1]; where it is 0 it stays as it is."""
    large = np.minimum(enlarge(heat, image.shape[:2]), 1)[..., None]
    opacity = _MOST_OPAQUE * large
    blended = (1 - opacity) * image + opacity * colour_heat(large[..., 0])
    return np.asarray(np.round(blended), np.uint8)


def colour_heat(heat: FloatArray) -> npt.NDArray[np.float32]:
    """Return the colours (..., 3) in 0-255 of heat (...) in [0, 1]."""
    stops = np.linspace(0, 1, len(_HEAT_COLOURS))
    channels = [np.interp(heat, stops, _HEAT_COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
