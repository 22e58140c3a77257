"""One image to its corrupted copies: the eleven corruptions of MedMNIST-C for blood cells at five severities.

Names, parameters and meaning are those of the package medmnistc 0.1.0 (Di Salvo et al. 2024, "MedMNIST-C:
Comprehensive benchmark and improved classifier robustness by simulating realistic image corruptions"; registry entry
``bloodmnist``), which corrupts images of 224 px. What is random is drawn from (seed, name, severity, sample index),
so an image's copy depends on nothing else. Needs numpy and Pillow; neither ImageMagick nor torch.
"""

import io
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance

from hemalens.core.types import Images

__all__ = [
    "CORRUPTIONS",
    "REFERENCE_SIDE",
    "SEVERITIES",
    "Bubble",
    "Stain",
    "blow_bubbles",
    "blur_disc",
    "blur_motion",
    "compress_jpeg",
    "corrupt",
    "deposit_stains",
    "draw_bubbles",
    "draw_stains",
    "pixelate",
    "saturate",
    "scale_brightness",
    "scale_contrast",
]

REFERENCE_SIDE = 224
"""Pixels per side at which the parameters are meant; a network of another size sees the corrupted image resized."""

SEVERITIES = (1, 2, 3, 4, 5)

_LARGEST_ANGLE = 45.0  # degrees to either side of the horizontal
_FEWEST_BUBBLES, _SMALLEST_BUBBLE = 7, 3
_BUBBLE_RIM = 2  # pixels
_BUBBLE_ALPHA, _RIM_ALPHA = 100, 130  # of 255, white
_STAIN_MARGIN = 10  # pixels kept free at the image's edge
_SMALLEST_SIDE = 64  # below this the largest stain has no room between the margins


@dataclass(frozen=True, slots=True)
class Bubble:
    """A pale disc: its radius without the rim and its centre, in pixels."""

    radius: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Stain:
    """A black blot: its shape (S, S) bool and the place of its upper left corner, in pixels."""

    shape: npt.NDArray[np.bool_]
    x: int
    y: int


def corrupt(image: Images, name: str, severity: int, *, index: int, seed: int = 0) -> Images:
    """Return a corrupted copy (H, W, 3) uint8 of an image (H, W, 3) uint8.

    Args:
        image: at the size the parameters are meant for, ``REFERENCE_SIDE``; at least 64 px per side.
        name: a key of ``CORRUPTIONS``.
        severity: 1 to 5.
        index: the sample's number; with seed, name and severity it decides all that is random.
        seed: of the whole set.

    Raises KeyError for an unknown name and ValueError for a severity or image out of range.

    >>> corrupt(np.full((224, 224, 3), 100, np.uint8), "brightness_up", 1, index=0)[0, 0].tolist()
    [110, 110, 110]
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity}: must be one of {SEVERITIES}")
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _SMALLEST_SIDE:
        raise ValueError(f"image {image.shape}: must be (H, W, 3) of at least {_SMALLEST_SIDE} px per side")
    found = CORRUPTIONS[name]
    generator = np.random.default_rng((seed, zlib.crc32(name.encode()), severity, index))
    return found.apply(image, found.parameters[severity - 1], generator)


def pixelate(image: Images, factor: float) -> Images:
    """Return an image reduced by a factor in (0, 1] and enlarged again, both by area averages."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def compress_jpeg(image: Images, quality: int) -> Images:
    """Return an image after JPEG compression at a quality in 1-100."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def blur_disc(image: Images, radius: int) -> Images:
    """Return an image averaged over discs of a radius in pixels, mirrored at its edges without repeating them.

    The package smooths the disc by a Gaussian of 0.01 or 0.1 px, which changes its values by less than 1e-20.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((radius, radius), (radius + 1, radius), (0, 0)), mode="reflect")
    padded[:, 0] = 0  # the running sum begins before the first pixel
    running = padded.cumsum(axis=1, dtype=np.int32)
    total = np.zeros((height, width, 3), np.int32)
    area = 0
    for row in range(-radius, radius + 1):  # a disc is a stack of horizontal runs
        half = math.isqrt(radius * radius - row * row)
        rows = running[radius + row : radius + row + height]
        total += rows[:, radius + half + 1 : radius + half + 1 + width]
        total -= rows[:, radius - half : radius - half + width]
        area += 2 * half + 1
    return (total // area).astype(np.uint8)


def blur_motion(image: Images, radius: int, sigma: float, angle: float) -> Images:
    """Return an image smeared to one side along an angle in degrees, its edge pixels repeated outwards.

    The weights are the falling half of a Gaussian of ``sigma`` px over 2 ``radius`` + 1 pixels, as in ImageMagick.
    """
    length = 2 * radius + 1
    steps = np.arange(length)
    weights = np.exp(-(steps**2) / (2 * sigma * sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    turned = math.radians(angle)
    across = np.ceil(steps * math.cos(turned) - 0.5).astype(int)
    down = np.ceil(steps * math.sin(turned) - 0.5).astype(int)
    height, width = image.shape[:2]
    padded = np.pad(image, ((length, length), (length, length), (0, 0)), mode="edge").astype(np.float32)
    # It rounds to 16 bits (257 steps for one of 8 bits) and cuts the lower 8 off.
    total = np.full(image.shape, 0.5 / 257, np.float32)
    for weight, x, y in zip(weights, across.tolist(), down.tolist(), strict=True):
        total += weight * padded[length + y : length + y + height, length + x : length + x + width]
    return total.astype(np.uint8)


def scale_brightness(image: Images, factor: float) -> Images:
    """Return an image whose values are multiplied by a factor and clipped."""
    return np.array(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def scale_contrast(image: Images, factor: float) -> Images:
    """Return an image whose distances from its mean luminance are multiplied by a factor, clipped."""
    return np.array(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def saturate(image: Images, added: float) -> Images:
    """Return an image with a share added to its saturation in the HSV model, at most 1; hue and value stay.

    With v the largest and u the smallest value of a pixel, its channel c becomes v - v min(s + added, 1) p, where
    s = (v - u) / v and p = (v - c) / (v - u). Grey has no hue; the package takes it for red, and so does this.
    """
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    largest = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    span = largest - np.minimum(np.minimum(planes[0], planes[1]), planes[2])
    grey = span == 0
    index = (largest - planes) / np.where(grey, np.float32(1), span)
    index[1:, grey] = 1
    # v min(s + added, 1) without the division by v, which may be 0
    changed: npt.NDArray[np.float32] = largest - np.minimum(span + np.float32(added) * largest, largest) * index
    return np.ascontiguousarray(changed.astype(np.uint8).transpose(1, 2, 0))


def draw_stains(generator: np.random.Generator, side: int, most: int, shape: tuple[int, int]) -> list[Stain]:
    """Draw 1 to ``most`` blots of ``side`` px for images of a shape (H, W); none comes near their edge."""
    stains = []
    for _ in range(int(generator.integers(1, most + 1))):
        blot = _blot(generator, side)
        x = int(generator.integers(_STAIN_MARGIN, shape[1] - side - _STAIN_MARGIN + 1))
        stains.append(Stain(blot, x, int(generator.integers(_STAIN_MARGIN, shape[0] - side - _STAIN_MARGIN + 1))))
    return stains


def deposit_stains(image: Images, stains: list[Stain]) -> Images:
    """Return an image with black blots."""
    stained = image.copy()
    for stain in stains:
        height, width = stain.shape.shape
        stained[stain.y : stain.y + height, stain.x : stain.x + width][stain.shape] = 0
    return stained


def draw_bubbles(generator: np.random.Generator, largest: int, most: int, shape: tuple[int, int]) -> list[Bubble]:
    """Draw 7 to ``most`` bubbles of radius 3 to ``largest`` px that lie inside an image of a shape (H, W)."""
    bubbles = []
    for _ in range(int(generator.integers(_FEWEST_BUBBLES, most + 1))):
        radius = int(generator.integers(_SMALLEST_BUBBLE, largest + 1))
        x = int(generator.integers(radius, shape[1] - radius + 1))
        bubbles.append(Bubble(radius, x, int(generator.integers(radius, shape[0] - radius + 1))))
    return bubbles


def blow_bubbles(image: Images, bubbles: list[Bubble]) -> Images:
    """Return an image with half-transparent white discs, denser at the rim; a later one hides the earlier ones."""
    veil = Image.new("L", (image.shape[1], image.shape[0]), 0)
    draw = ImageDraw.Draw(veil)
    for bubble in bubbles:
        for radius, alpha in ((bubble.radius + _BUBBLE_RIM, _RIM_ALPHA), (bubble.radius, _BUBBLE_ALPHA)):
            box = (bubble.x - radius, bubble.y - radius, bubble.x + radius, bubble.y + radius)
            draw.ellipse(box, fill=alpha)
    veiled = Image.fromarray(image)
    veiled.paste((255, 255, 255), (0, 0), veil)
    return np.array(veiled)


def _blot(generator: np.random.Generator, side: int) -> npt.NDArray[np.bool_]:
    """Draw one ragged blot (side, side) that reaches the edge of its square somewhere and fills some 60 % of it.

    The package brings ten drawn blots of either size; these are drawn anew each time, alike in size and area.
    """
    middle = (side - 1) / 2
    rows, columns = np.mgrid[:side, :side] - middle
    angle, distance = np.arctan2(rows, columns), np.hypot(rows, columns)
    reach = np.ones_like(angle)
    for waves in range(2, 7):
        size, phase = generator.normal(0, 0.15 / (waves - 1)), generator.uniform(0, 2 * math.pi)
        reach += size * np.cos(waves * angle + phase)
    return np.asarray(distance <= reach * (side / 2 + 0.5) / reach.max())


@dataclass(frozen=True, slots=True)
class Corruption:
    """A corruption: what it does with an image, a severity's parameters and random numbers; its five parameters.

    ``alexnet_error`` is the balanced error of the paper's AlexNet under it, mean over the severities (medmnistc 0.1.0,
    ``utils/baselines.py``).
    """

    apply: Callable[[Images, tuple[float, ...], np.random.Generator], Images]
    parameters: tuple[tuple[float, ...], ...]
    alexnet_error: float


def _motion(image: Images, parameters: tuple[float, ...], generator: np.random.Generator) -> Images:
    radius, sigma = parameters
    return blur_motion(image, int(radius), sigma, generator.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE))


def _stain(image: Images, parameters: tuple[float, ...], generator: np.random.Generator) -> Images:
    side, most = parameters
    return deposit_stains(image, draw_stains(generator, int(side), int(most), image.shape[:2]))


def _bubble(image: Images, parameters: tuple[float, ...], generator: np.random.Generator) -> Images:
    largest, most = parameters
    return blow_bubbles(image, draw_bubbles(generator, int(largest), int(most), image.shape[:2]))


def _fixed(function: Callable[[Images, float], Images], *values: float, alexnet: float) -> Corruption:
    return Corruption(lambda image, parameters, _: function(image, parameters[0]), tuple((v,) for v in values), alexnet)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "pixelate": _fixed(pixelate, 0.6, 0.5, 0.4, 0.3, 0.25, alexnet=0.05976),
        "jpeg_compression": _fixed(
            lambda image, quality: compress_jpeg(image, int(quality)), 50, 30, 15, 10, 7, alexnet=0.13976
        ),
        "defocus_blur": _fixed(lambda image, radius: blur_disc(image, int(radius)), 2, 3, 4, 5, 6, alexnet=0.22400),
        "motion_blur": Corruption(_motion, ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)), 0.18452),  # radius, sigma
        "brightness_up": _fixed(scale_brightness, 1.1, 1.2, 1.3, 1.35, 1.4, alexnet=0.06946),
        "brightness_down": _fixed(scale_brightness, 0.9, 0.8, 0.7, 0.6, 0.5, alexnet=0.07901),
        "contrast_up": _fixed(scale_contrast, 1.1, 1.15, 1.2, 1.25, 1.3, alexnet=0.05215),
        "contrast_down": _fixed(scale_contrast, 0.9, 0.8, 0.7, 0.6, 0.5, alexnet=0.07966),
        "saturate": _fixed(saturate, 0.05, 0.10, 0.15, 0.17, 0.20, alexnet=0.03479),
        "stain_deposit": Corruption(_stain, ((24, 1), (24, 2), (24, 3), (24, 3), (32, 3)), 0.18536),  # side, most
        "bubble": Corruption(
            _bubble, ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)), 0.12899
        ),  # largest radius, most
    }
)
"""Name -> corruption, in the package's order. A corruption is one function and one row."""
