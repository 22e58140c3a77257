"""Translations, shears and turns of uint8 images (n, 3, H, W) in place, each sample by its own amount (n, 1, 1, 1).

Same definitions as torchvision's affine and rotate on tensors. A shear slides each row as a whole, so it is a copy of
one stretch of a widened row: 5 microseconds an image of 96 px where sampling every pixel costs 25 (60 bilinear).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "MOVES",
    "Beyond",
    "Interpolation",
    "rotate",
    "shear_x",
    "shear_y",
    "store",
    "translate_x",
    "translate_y",
]

Beyond = Literal["black", "mirror"]
"""What geometry shows beyond the border: black, as torchvision does without a fill, or the image mirrored."""
Interpolation = Literal["nearest", "bilinear"]


def translate_x(images: Tensor, pixels: Tensor, beyond: Beyond, _interpolation: Interpolation) -> None:
    """Move to the right by whole pixels, a fraction is dropped; by one width at most."""
    start = -torch.trunc(pixels[:, :, :, 0]).expand(-1, 1, images.shape[2])
    wide = _widened(images, beyond, _reach(images, start))
    images.copy_(_windows(wide, start, images.shape[3]))


def translate_y(images: Tensor, pixels: Tensor, beyond: Beyond, _interpolation: Interpolation) -> None:
    """Move down by whole pixels, a fraction is dropped; by one height at most."""
    n, channels, height, width = images.shape
    move = torch.trunc(pixels[:, :, :, 0]).to(torch.int64).clamp_(-height, height)
    row = torch.arange(height, device=images.device) - move  # (n, 1, height)
    source = torch.where(row < 0, -1 - row, torch.where(row < height, row, 2 * height - 1 - row))
    first = torch.arange(n * channels, device=images.device).view(n, channels, 1) * height
    moved = images.view(-1, width).index_select(0, (first + source).view(-1)).view(images.shape)
    if beyond == "black":
        moved.mul_((row == source)[..., None])
    images.copy_(moved)


def shear_x(images: Tensor, slope: Tensor, beyond: Beyond, interpolation: Interpolation) -> None:
    """Slide the rows to the left by slope x their distance from the upper border; by one width at most."""
    row = torch.arange(images.shape[2], device=images.device)
    _slide(images, slope[:, :, :, 0] * (row + 0.5), beyond, interpolation)


def shear_y(images: Tensor, slope: Tensor, beyond: Beyond, interpolation: Interpolation) -> None:
    """Slide the columns up by slope x their distance from the left border; by one height at most."""
    turned = images.transpose(2, 3).contiguous()
    shear_x(turned, slope, beyond, interpolation)
    images.copy_(turned.transpose(2, 3))


def rotate(images: Tensor, degrees: Tensor, beyond: Beyond, interpolation: Interpolation) -> None:
    """Turn counter-clockwise around the centre."""
    height, width = images.shape[2:]
    angle = torch.deg2rad(degrees)[:, 0]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    # As points of the complex plane, scaled to -1 .. 1 along each axis: one sum writes both coordinates.
    cos, sin = torch.cos(angle), torch.sin(angle)
    by_x = torch.complex(cos * (2 / width), sin * (2 / height))
    by_y = torch.complex(-sin * (2 / width), cos * (2 / height))
    grid = torch.view_as_real(by_x * x + by_y * y)
    padding = "zeros" if beyond == "black" else "reflection"
    values = functional.grid_sample(images.to(torch.float32), grid, interpolation, padding, align_corners=False)
    store(images, values.round_() if interpolation == "bilinear" else values)


def store(images: Tensor, values: Tensor) -> None:
    """Write float values in [0, 256) over uint8 images, rounded down; by way of int16 it is vectorised (3 times)."""
    images.copy_(values.to(torch.int16))


def _slide(images: Tensor, offset: Tensor, beyond: Beyond, interpolation: Interpolation) -> None:
    """Show each row (n, 1, H) from its offset in pixels on."""
    width = images.shape[3]
    wide = _widened(images, beyond, _reach(images, offset))
    if interpolation == "nearest":
        images.copy_(_windows(wide, torch.round(offset), width))
        return
    whole = torch.floor(offset)
    near, far = (_windows(wide, whole + step, width).to(torch.float32) for step in (0, 1))
    store(images, far.sub_(near).mul_((offset - whole)[..., None]).add_(near).round_())


def _reach(images: Tensor, offset: Tensor) -> int:
    """Return how far beyond the border rows are shown, a width at most; on other devices that, as to ask would wait."""
    width = images.shape[3]
    if images.device.type != "cpu" or not offset.numel():
        return width
    return min(int(offset.abs().max()) + 2, width)


def _widened(images: Tensor, beyond: Beyond, reach: int) -> Tensor:
    """Return the images with so many columns more on their left and on their right."""
    left, right = images[..., :reach], images[..., -reach:]
    sides = (side.flip(3) if beyond == "mirror" else torch.zeros_like(side) for side in (left, right))
    return torch.cat([next(sides), images, next(sides)], dim=3)


def _windows(wide: Tensor, start: Tensor, width: int) -> Tensor:
    """Copy ``width`` values of each row from the whole-numbered start (n, 1, H) on; 0 is the image's own border."""
    n, channels, height, whole = wide.shape
    reach = (whole - width) // 2
    start = start.to(torch.int64).clamp_(-reach, reach) + reach
    rows = torch.arange(n * channels * height, device=wide.device).view(n, channels, height) * whole
    every = wide.as_strided((wide.numel() - width + 1, width), (1, 1))
    return every.index_select(0, (rows + start).view(-1)).view(n, channels, height, width)


MOVES: dict[str, Callable[[Tensor, Tensor, Beyond, Interpolation], None]] = {
    "translate_x": translate_x,
    "translate_y": translate_y,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "rotate": rotate,
}
"""Each movement: images, amounts in pixels, as slopes or in degrees, what lies beyond, how to read between pixels."""
