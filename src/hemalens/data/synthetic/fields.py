"""Smooth fields on an image's pixels: coordinates, noise of a given grain, soft-edged masks, stain over stain.

All lengths are in units of a 96th of the image's side, so one scene can be rendered at any size. Colours are planes,
(3, H, W): a last axis of three makes numpy's inner loops three long, and the whole twice as slow. Needs numpy only.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hemalens.core.types import FloatArray

__all__ = ["SIDE", "Plane", "coverage", "distance_to_discs", "grain_noise", "lay_over", "make_plane", "smoothstep"]

SIDE = 96.0
_SUBSAMPLES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The pixels' places.

    Attributes:
        x: (H, W) float32, to the right, 0 at the image's centre.
        y: (H, W) float32, downwards.
        pixel: side of one pixel in the same unit.
    """

    x: FloatArray
    y: FloatArray
    pixel: float

    @property
    def size(self) -> int:
        """Return the pixels a side."""
        return int(self.x.shape[0])


def make_plane(size: int, *, zoom: float = 1.0) -> Plane:
    """Return the places of ``size`` x ``size`` pixels; at a zoom of 2 the middle half fills the image."""
    pixel = SIDE / zoom / size
    line = ((np.arange(size) + 0.5) * pixel - SIDE / zoom / 2).astype(np.float32)
    return Plane(*np.meshgrid(line, line), pixel=pixel)


def grain_noise(plane: Plane, rng: np.random.Generator, grain: float) -> FloatArray:
    """Return smooth noise, (H, W) float32, mean 0, standard deviation about 1, whose grains are ``grain`` wide.

    White noise on a lattice is blended by cubic B-splines and averaged over each pixel. The lattice does not depend on
    the size, so the numbers drawn do not either, and a small image is the large one shrunk, without aliasing.
    """
    knots = int(np.ceil(SIDE / grain)) + 3
    lattice = rng.standard_normal((knots, knots), dtype=np.float32)
    basis = _spline_basis(plane.size, knots, grain)
    # The squared weights of a cubic B-spline sum to 0.479 on average, on each of the two axes.
    smooth: FloatArray = basis @ lattice @ basis.T / np.float32(0.479)
    return smooth


@lru_cache(maxsize=64)
def _spline_basis(size: int, knots: int, grain: float) -> FloatArray:
    """Return the weight of each knot in each pixel, (size, knots) float32; rows sum to 1."""
    places = (np.arange(size * _SUBSAMPLES) + 0.5) * SIDE / (size * _SUBSAMPLES) / grain + 1
    away = np.abs(places[:, None] - np.arange(knots))
    near = (4 - 6 * away**2 + 3 * away**3) / 6
    far = np.clip(2 - away, 0, None) ** 3 / 6
    weights = np.where(away < 1, near, far)
    basis: FloatArray = weights.reshape(size, _SUBSAMPLES, knots).mean(axis=1).astype(np.float32)
    return basis


def smoothstep(values: FloatArray) -> FloatArray:
    """Return 3t^2 - 2t^3 of the values clipped to [0, 1]: a step from 0 to 1 without corners."""
    t = np.clip(values, 0, 1)
    return t * t * (3 - 2 * t)


def coverage(plane: Plane, distance: FloatArray, soft: float) -> FloatArray:
    """Return how much a shape covers each pixel, [0, 1], from its signed distance (negative inside).

    The edge is ``soft`` wide, and never less than a pixel: that is what antialiases it.
    """
    return smoothstep(0.5 - distance / max(soft, plane.pixel))


def distance_to_discs(x: FloatArray, y: FloatArray, discs: FloatArray) -> FloatArray:
    """Return the signed distance to a union of discs, (H, W); ``discs`` is (K, 3): centre x, y and radius."""
    centre_x, centre_y, radius = discs.astype(np.float32).T[:, :, None, None]
    apart: FloatArray = np.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2) - radius
    nearest: FloatArray = apart.min(axis=0)
    return nearest


def lay_over(density: FloatArray, alpha: FloatArray, stain: FloatArray) -> FloatArray:
    """Return the optical density (3, H, W) where ``stain``, (3, 1, 1) or (3, H, W), replaces it by ``alpha`` (H, W)."""
    return density + alpha * (stain - density)
