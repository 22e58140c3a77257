"""What surrounds the cell and what takes its image: plasma, red cells, stain, light, focus, sensor.

Everything stained is an optical density per channel (Beer-Lambert: light = plasma * exp(-density)), so overlapping
layers darken as they do under a microscope. Needs numpy and scipy.ndimage.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hemalens.core.types import FloatArray, Images
from hemalens.data.synthetic.fields import SIDE, Plane, coverage, grain_noise, smoothstep

__all__ = ["BLUISH_MICROSCOPE", "USUAL_MICROSCOPE", "Microscope", "density_of", "red_cells", "take_image"]

_PLASMA = (254.0, 229.0, 203.0)
_RED_CELL = (200.0, 162.0, 160.0)


@dataclass(frozen=True, slots=True)
class Microscope:
    """One laboratory's staining and camera: the colour of empty plasma, how much it varies, how sharp it is.

    Attributes:
        plasma: RGB of the empty background, 0-255.
        tint: density per channel relative to the usual stain.
        zoom: least and most magnification.
        blur: least and most standard deviation of the focus blur, 96ths of the side.
    """

    plasma: tuple[float, float, float]
    tint: tuple[float, float, float]
    zoom: tuple[float, float]
    blur: tuple[float, float]


USUAL_MICROSCOPE = Microscope(_PLASMA, (1.0, 1.0, 1.0), (0.94, 1.06), (0.3, 0.65))
BLUISH_MICROSCOPE = Microscope((222.0, 216.0, 238.0), (0.85, 0.95, 0.8), (0.95, 1.2), (0.9, 1.4))


def density_of(rgb: tuple[float, float, float]) -> FloatArray:
    """Return the optical density (3, 1, 1) float32 of a colour as it looks on the usual plasma."""
    return _planes(np.log(np.array(_PLASMA) / np.array(rgb)))


def red_cells(plane: Plane, rng: np.random.Generator, *, clear: float, most: int) -> FloatArray:
    """Return the density (3, H, W) of up to ``most`` red cells that leave a disc of radius ``clear`` free."""
    bend = 2.0 * grain_noise(plane, rng, 17)
    tone = 1 + 0.05 * grain_noise(plane, rng, 9)
    deepest, total = np.zeros_like(plane.x), np.zeros_like(plane.x)
    for x0, y0, radius, stretch, angle, pallor, depth in _place_red_cells(rng, clear=clear, most=most).tolist():
        box = _box(plane, x0, y0, 1.4 * radius)
        dx, dy = plane.x[box] - x0, plane.y[box] - y0
        cos, sin = math.cos(angle), math.sin(angle)
        reach = np.sqrt(((dx * cos + dy * sin) / stretch) ** 2 + ((dy * cos - dx * sin) * stretch) ** 2)
        hollow = 1 - pallor * smoothstep(1.25 - reach / (0.62 * radius))
        thick = coverage(plane, reach - radius + bend[box], 2.0) * depth * hollow
        deepest[box] = np.maximum(deepest[box], thick)
        total[box] += thick
    # Two cells on top of each other absorb more than one, yet less than both: they flatten.
    return (deepest + 0.3 * (total - deepest)) * tone * density_of(_RED_CELL)


def _box(plane: Plane, x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Return the rows and columns within ``reach`` of a place, maybe none: a red cell covers a tenth of the image."""
    column, row = ((place - float(plane.x[0, 0])) / plane.pixel for place in (x, y))
    half = reach / plane.pixel
    rows, columns = (slice(max(0, math.floor(at - half)), max(0, math.ceil(at + half) + 1)) for at in (row, column))
    return rows, columns


def _place_red_cells(rng: np.random.Generator, *, clear: float, most: int) -> FloatArray:
    """Return (K, 7): x, y, radius, stretch, angle, pallor, depth; neighbours touch or overlap a little."""
    tries = 40
    place = rng.uniform(-SIDE * 0.62, SIDE * 0.62, (tries, 2))
    radius = rng.uniform(13.5, 17.5) * rng.uniform(0.88, 1.12, tries)
    looks = [rng.uniform(*span, tries) for span in ((1.0, 1.1), (0.0, np.pi), (0.1, 1.0), (0.7, 1.1))]
    apart = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    crowded = apart < rng.uniform(0.7, 1.0) * (radius[:, None] + radius)
    free = np.hypot(*place.T) > clear + 0.85 * radius
    kept: list[int] = []
    for i in np.flatnonzero(free):
        if len(kept) < most and not crowded[i, kept].any():
            kept.append(int(i))
    return np.column_stack([place, radius, *looks])[kept]


def take_image(plane: Plane, density: FloatArray, microscope: Microscope, rng: np.random.Generator) -> Images:
    """Return the image (H, W, 3) uint8 of a density (3, H, W); stain strength, lamp, focus and sensor vary."""
    strength = rng.uniform(0.86, 1.12) * rng.normal(1, 0.035, 3) * np.array(microscope.tint)
    lamp = np.array(microscope.plasma) * rng.normal(1, 0.008) * rng.normal(1, 0.008, 3)
    lean_x, lean_y = rng.normal(0, 0.012, 2) / (SIDE / 2)
    blur = rng.uniform(*microscope.blur)
    grain = rng.uniform(0.8, 2.2)
    lean = 1 + np.float32(lean_x) * plane.x + np.float32(lean_y) * plane.y
    light = lean * _planes(lamp) * np.exp(-density * _planes(strength))
    light = ndimage.gaussian_filter(light, blur / plane.pixel, axes=(1, 2), mode="nearest", truncate=3.0)
    # The sensor's noise is the one thing drawn per pixel; it comes last, so the scene is the same at every size.
    light += np.float32(grain) * rng.standard_normal(light.shape, dtype=np.float32)
    return np.ascontiguousarray(np.clip(np.rint(light), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _planes(values: FloatArray) -> FloatArray:
    """Return three numbers as (3, 1, 1) float32."""
    return values.astype(np.float32)[:, None, None]
