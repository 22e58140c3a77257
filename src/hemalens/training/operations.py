"""The fourteen operations of AutoAugment's family on whole batches of uint8 pictures, each sample with its own.

Same definitions as torchvision's v2 functions on tensors, checked against them. Every sample costs only its own
operation: geometry is one gather of pixels, and all operations that change values by a curve (brightness, contrast,
posterize, solarize, autocontrast, equalize) are one look-up in tables of 256 entries.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OPERATIONS", "Beyond", "apply_operations"]

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
Beyond = Literal["black", "mirror"]
"""What geometry shows beyond the border: black, as torchvision does without a fill, or the picture mirrored."""

_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_GEOMETRY = tuple(_NUMBER[name] for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"))
_TONE = tuple(_NUMBER[name] for name in ("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize"))


def apply_operations(pictures: Tensor, operation: Tensor, magnitude: Tensor, *, beyond: Beyond = "black") -> Tensor:
    """Return pictures (N, 3, H, W) uint8 after one operation each.

    Args:
        pictures: as above; not changed.
        operation: places in OPERATIONS (N,) int64.
        magnitude: (N,) float in each operation's own unit: shear as a slope, translation in pixels, turns in degrees,
            enhancement as factor - 1, posterize in bits kept, solarize as a threshold in [0, 1]; others ignore it.
        beyond: what geometry shows beyond the border.
    """
    result = pictures.clone(memory_format=torch.contiguous_format)
    magnitude = magnitude.to(torch.float32)
    if len(chosen := _members(operation, _GEOMETRY)):
        result[chosen] = _move(result[chosen], operation[chosen], magnitude[chosen], beyond=beyond)
    if len(chosen := _members(operation, _TONE)):
        result[chosen] = _tone(result[chosen], operation[chosen], magnitude[chosen])
    for name, enhance in (("color", _color), ("sharpness", _sharpness)):
        if len(chosen := _members(operation, (_NUMBER[name],))):
            factor = 1.0 + magnitude[chosen, None, None, None]
            result[chosen] = enhance(result[chosen].to(torch.float32), factor)
    return result


def _members(operation: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return the places of the samples whose operation is one of the numbers (M,)."""
    return torch.isin(operation, torch.tensor(numbers, device=operation.device)).nonzero()[:, 0]


def _move(pictures: Tensor, operation: Tensor, magnitude: Tensor, *, beyond: Beyond) -> Tensor:
    """Take each output pixel from its nearest source pixel; shears pivot on the corner, rotation on the centre."""
    height, width = pictures.shape[2:]
    device = pictures.device
    row = torch.arange(height, device=device, dtype=torch.float32)[None, :, None]
    column = torch.arange(width, device=device, dtype=torch.float32)[None, None, :]
    amount = {
        name: torch.where(operation == _NUMBER[name], magnitude, torch.zeros_like(magnitude))[:, None, None]
        for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    }
    angle = torch.deg2rad(amount["rotate"])
    cos, sin = torch.cos(angle), torch.sin(angle)
    down, across = row - (height - 1) / 2, column - (width - 1) / 2
    source_column = cos * across - sin * down + (width - 1) / 2
    source_row = sin * across + cos * down + (height - 1) / 2
    source_column = source_column + amount["shear_x"] * (row + 0.5) - torch.trunc(amount["translate_x"])
    source_row = source_row + amount["shear_y"] * (column + 0.5) - torch.trunc(amount["translate_y"])
    # A float32 sum may lie a rounding error off an exact half; a millionth of a pixel brings it back.
    source_column = torch.round(torch.round(source_column, decimals=4)).to(torch.int64)
    source_row = torch.round(torch.round(source_row, decimals=4)).to(torch.int64)
    inside = (source_row >= 0) & (source_row < height) & (source_column >= 0) & (source_column < width)
    source_row, source_column = _fold(source_row, height), _fold(source_column, width)
    places = (source_row * width + source_column).reshape(len(pictures), 1, -1).expand(-1, 3, -1)
    moved = pictures.reshape(len(pictures), 3, -1).gather(2, places).reshape(pictures.shape)
    return moved if beyond == "mirror" else moved * inside[:, None]


def _fold(index: Tensor, size: int) -> Tensor:
    """Mirror indices at the borders, the border pixel repeated, however far they lie beyond."""
    folded = index.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)


def _tone(pictures: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Look every value up in its channel's curve."""
    curves = _curves(pictures, operation, magnitude)
    flat = pictures.reshape(len(pictures) * 3, -1)
    return curves.reshape(-1, 256).gather(1, flat.to(torch.int64)).reshape(pictures.shape)


def _curves(pictures: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Return the curve of each channel (N, 3, 256) uint8."""
    levels = torch.arange(256, device=pictures.device, dtype=torch.float32)[None, None]
    factor = (1.0 + magnitude)[:, None, None]
    curves = levels.expand(len(pictures), 3, 256).clone()

    def put(name: str, values: Tensor) -> None:
        chosen = operation == _NUMBER[name]
        curves[chosen] = values[chosen].expand(-1, 3, -1)

    found = {OPERATIONS[number] for number in set(operation.tolist())}
    if "brightness" in found:
        put("brightness", (levels * factor).clamp(0, 255))
    if "contrast" in found:
        mean = _grey(pictures).mean(dim=(1, 2, 3))[:, None, None]
        put("contrast", (levels * factor + mean * (1.0 - factor)).clamp(0, 255))
    if "posterize" in found:
        step = 2.0 ** (8 - torch.trunc(magnitude))[:, None, None]
        put("posterize", torch.floor(levels / step) * step)
    if "solarize" in found:
        put("solarize", torch.where(levels >= 255.0 * magnitude[:, None, None], 255.0 - levels, levels))
    if "autocontrast" in found:
        put("autocontrast", _stretch_curve(pictures, levels))
    if "equalize" in found:
        put("equalize", _equalize_curve(pictures))
    return curves.to(torch.uint8)


def _stretch_curve(pictures: Tensor, levels: Tensor) -> Tensor:
    """Map each channel's darkest value to 0 and its brightest to 255; a channel of one value stays."""
    flat = pictures.flatten(2)
    low = flat.amin(dim=2, keepdim=True).to(torch.float32)
    span = (flat.amax(dim=2, keepdim=True).to(torch.float32) - low) * (1.0 / 255.0)
    constant = span == 0
    low, span = torch.where(constant, 0.0, low), torch.where(constant, 1.0, span)
    return ((levels - low) / span).clamp(0, 255)


def _equalize_curve(pictures: Tensor) -> Tensor:
    """Flatten each channel's histogram, as Pillow's ImageOps.equalize does; a channel of one value stays."""
    n = len(pictures)
    flat = pictures.reshape(n * 3, -1).to(torch.int64)
    offsets = torch.arange(n * 3, device=pictures.device)[:, None] * 256
    counts = torch.bincount((flat + offsets).reshape(-1), minlength=n * 3 * 256).reshape(n * 3, 256)
    total = counts.cumsum(dim=1)
    last = total.argmax(dim=1, keepdim=True)
    step = (flat.shape[1] - counts.gather(1, last)).div(255, rounding_mode="floor")
    safe = step.clamp(min=1)
    curve = (total[:, :-1] + safe // 2).div(safe, rounding_mode="floor").clamp(0, 255)
    curve = torch.cat([torch.zeros_like(curve[:, :1]), curve], dim=1)
    identity = torch.arange(256, device=pictures.device)[None]
    return torch.where(step == 0, identity, curve).reshape(n, 3, 256).to(torch.float32)


def _grey(pictures: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) float32, rounded down (Rec. 601 weights as torchvision writes them)."""
    red, green, blue = pictures.to(torch.float32).unbind(dim=1)
    return torch.floor(red * 0.2989 + green * 0.587 + blue * 0.114)[:, None]


def _color(pictures: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its grey."""
    return (pictures * factor + _grey(pictures) * (1.0 - factor)).clamp(0, 255).to(torch.uint8)


def _sharpness(pictures: Tensor, factor: Tensor) -> Tensor:
    """Blend each inner pixel with a 3 x 3 smoothing whose centre weighs 5 of 13; the border stays."""
    kernel = torch.ones(3, 1, 3, 3, device=pictures.device)
    kernel[:, :, 1, 1] = 5.0
    smooth = torch.round(functional.conv2d(pictures, kernel / 13.0, groups=3))
    inner = pictures[:, :, 1:-1, 1:-1]
    pictures[:, :, 1:-1, 1:-1] = inner + (smooth - inner) * (1.0 - factor)
    return pictures.clamp_(0, 255).to(torch.uint8)
