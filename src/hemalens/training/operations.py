"""The fourteen operations of AutoAugment's family on whole batches of uint8 pictures, each sample with its own.

Same definitions as torchvision's v2 functions on tensors, checked against them. The batch is sorted by operation, each
operation works on its own samples in one go, and they return to their places. Pieces of a quarter of a megabyte stay in
a core's cache, where most steps cost 0.5 to 2 microseconds a picture of 96 px.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OPERATIONS", "Beyond", "Interpolation", "apply_operations"]

OPERATIONS = (
    "identity",
    "translate_x",
    "translate_y",
    "shear_x",
    "shear_y",
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
Interpolation = Literal["nearest", "bilinear"]

_GEOMETRY, _FIRST_CHANGE = OPERATIONS[1:6], 6
_PADDING = {"black": "zeros", "mirror": "reflection"}
_PIECE = 1 << 18
"""Values that one core works on at a time: as uint8 and twice as float32 they fit its second cache."""


def apply_operations(
    pictures: Tensor,
    operation: Tensor,
    magnitude: Tensor,
    *,
    beyond: Beyond = "black",
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """Return pictures (N, 3, H, W) uint8 after R operations each, in turn.

    Args:
        pictures: as above; not changed.
        operation: places in OPERATIONS (N, R) int64.
        magnitude: (N, R) float in each operation's own unit: shear as a slope, translation in pixels, turns in degrees,
            enhancement as factor - 1, posterize in bits kept, solarize as a threshold in [0, 1]; others ignore it.
        beyond: what geometry shows beyond the border.
        interpolation: how geometry reads between pixels.
    """
    magnitude = magnitude.to(torch.float32)
    operation = torch.where(_idle(operation, magnitude), 0, operation)
    order = torch.argsort(operation, dim=0, stable=True)
    operation, magnitude = operation.gather(0, order), magnitude.gather(0, order)
    theta = _theta(operation, magnitude, pictures.shape[2:])
    numbers = torch.arange(len(OPERATIONS), device=operation.device)[:, None, None]
    counts = (operation == numbers).sum(dim=1).T.tolist()
    places = torch.argsort(order, dim=0)  # of each sample in each round
    result = pictures
    for turn in range(operation.shape[1]):
        result = result.index_select(0, places[:, turn - 1][order[:, turn]] if turn else order[:, turn])
        own = _Round(result, magnitude[:, turn], theta[:, turn], counts[turn])
        _change_values(own)
        _move_pixels(own, interpolation=interpolation, beyond=beyond)
    return result.index_select(0, places[:, -1])


class _Round(NamedTuple):
    """The batch sorted by the operation that is its turn, with what each sample's operation needs."""

    pictures: Tensor
    magnitude: Tensor
    theta: Tensor
    counts: list[int]


def _change_values(batch: _Round) -> None:
    """Apply the operations on values, each to its stretch of the batch, in place."""
    start = sum(batch.counts[:_FIRST_CHANGE])
    for name, count in zip(OPERATIONS[_FIRST_CHANGE:], batch.counts[_FIRST_CHANGE:], strict=True):
        own = slice(start, start + count)
        for piece, magnitude in _pieces(batch.pictures[own], batch.magnitude[own, None, None, None]):
            _CHANGE[name](piece, magnitude)
        start += count


def _move_pixels(batch: _Round, *, interpolation: Interpolation, beyond: Beyond) -> None:
    """Apply the geometry to its stretch of the batch, in place; whole pixels need no interpolation."""
    still, *moved = batch.counts[:_FIRST_CHANGE]
    shifted = still + sum(moved[:2])
    for own, mode in (
        (slice(still, shifted), "nearest"),
        (slice(shifted, still + sum(moved)), interpolation),
    ):
        for piece, theta in _pieces(batch.pictures[own], batch.theta[own]):
            grid = _grid(theta, *piece.shape[2:])
            values = functional.grid_sample(piece.to(torch.float32), grid, mode, _PADDING[beyond], align_corners=False)
            _store(piece, values.round_() if mode == "bilinear" else values)


def _idle(operation: Tensor, magnitude: Tensor) -> Tensor:
    """Say which samples (N, R) an operation would leave as they are: a third of AugMix's at its usual severity."""
    still = (operation <= OPERATIONS.index("translate_y")) & (magnitude.abs() < 1)
    return still | ((operation <= OPERATIONS.index("sharpness")) & (magnitude == 0))


def _pieces(pictures: Tensor, other: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut both along their samples into pieces that stay in the cache; another device gets all at once."""
    if not len(pictures):
        return []
    if pictures.device.type != "cpu":
        return [(pictures, other)]
    size = max(1, _PIECE // max(1, pictures[0].numel())) * torch.get_num_threads()
    return list(zip(pictures.split(size), other.split(size), strict=True))


def _store(pictures: Tensor, values: Tensor) -> None:
    """Write float values in [0, 256) over uint8 pictures, rounded down; by way of int16 it is vectorised (3 times)."""
    pictures.copy_(values.to(torch.int16))


def _theta(operation: Tensor, magnitude: Tensor, size: torch.Size) -> Tensor:
    """Return the affine maps (N, R, 2, 3) from centred pixels to where they come from, on a picture from -1 to 1.

    Shears pivot on the upper left corner, turns on the centre; translations drop the fraction of a pixel.
    """
    height, width = size
    move_x, move_y, shear_x, shear_y, turn = (
        torch.where(operation == OPERATIONS.index(name), magnitude, torch.zeros_like(magnitude)) for name in _GEOMETRY
    )
    angle = torch.deg2rad(turn)
    cos, sin = torch.cos(angle), torch.sin(angle)
    across = torch.stack([cos, shear_x - sin, shear_x * (height / 2) - torch.trunc(move_x)], dim=-1) / (width / 2)
    down = torch.stack([sin + shear_y, cos, shear_y * (width / 2) - torch.trunc(move_y)], dim=-1) / (height / 2)
    return torch.stack([across, down], dim=-2)


def _grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Return the sampling points (N, H, W, 2); as complex numbers x + iy, one sum writes both coordinates."""
    x = torch.arange(width, device=theta.device) - (width - 1) / 2
    y = torch.arange(height, device=theta.device) - (height - 1) / 2
    by_x, by_y, move = torch.view_as_complex(theta.transpose(1, 2).contiguous())[:, :, None].unbind(dim=1)
    return torch.view_as_real((by_x * x)[:, None, :] + (by_y * y + move)[:, :, None])


def _brightness(pictures: Tensor, magnitude: Tensor) -> None:
    """Multiply by 1 + magnitude."""
    _store(pictures, (pictures * (1.0 + magnitude)).clamp_(0, 255))


def _color(pictures: Tensor, magnitude: Tensor) -> None:
    """Blend each pixel with its grey."""
    values = pictures * (1.0 + magnitude)
    _store(pictures, values.sub_(_grey(pictures) * magnitude).clamp_(0, 255))


def _contrast(pictures: Tensor, magnitude: Tensor) -> None:
    """Blend each pixel with the picture's mean grey."""
    # Greys are whole numbers: their sums over rows are exact in float32, so no order of summation shows.
    total = _grey(pictures).sum(dim=3).sum(dim=2, dtype=torch.float64)
    mean = (total / pictures[0, 0].numel()).to(torch.float32)[:, :, None, None]
    values = pictures * (1.0 + magnitude)
    _store(pictures, values.sub_(mean * magnitude).clamp_(0, 255))


def _grey(pictures: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) float32, rounded down (Rec. 601 weights as torchvision writes them)."""
    red, green, blue = pictures.split(1, dim=1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).floor_()


def _sharpness(pictures: Tensor, magnitude: Tensor) -> None:
    """Blend each inner pixel with a 3 x 3 smoothing whose centre weighs 5 of 13; the border stays."""
    if min(pictures.shape[2:]) <= 2:
        return
    whole = pictures.to(torch.int16)
    inner = whole[:, :, 1:-1, 1:-1]
    rows = whole[:, :, :, :-2] + whole[:, :, :, 1:-1]
    rows += whole[:, :, :, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1]
    total += rows[:, :, 2:]
    total.add_(inner, alpha=4)
    difference = total.to(torch.float32).div_(13.0).round_().sub_(inner)
    _store(pictures[:, :, 1:-1, 1:-1], (inner - difference.mul_(magnitude)).clamp_(0, 255))


def _posterize(pictures: Tensor, magnitude: Tensor) -> None:
    """Keep the upper bits of each value."""
    lowest = torch.exp2(8.0 - torch.trunc(magnitude))
    pictures.bitwise_and_((256.0 - lowest).to(torch.int16).to(torch.uint8))


def _solarize(pictures: Tensor, magnitude: Tensor) -> None:
    """Invert the values from 255 x magnitude on."""
    below = torch.ceil(255.0 * magnitude).to(torch.int16) - 1
    # The sign of the difference, spread over all bits: 255 where a value is to be inverted, else 0.
    inverted = (below - pictures).bitwise_right_shift_(15)
    pictures.bitwise_xor_(inverted.to(torch.uint8))


def _autocontrast(pictures: Tensor, _magnitude: Tensor) -> None:
    """Map each channel's darkest value to 0 and its brightest to 255; a channel of one value stays."""
    flat = pictures.flatten(2)
    low = flat.amin(dim=2)[:, :, None, None].to(torch.float32)
    span = (flat.amax(dim=2)[:, :, None, None].to(torch.float32) - low) * (1.0 / 255.0)
    constant = span == 0
    low, span = torch.where(constant, 0.0, low), torch.where(constant, 1.0, span)
    _store(pictures, (pictures - low).div_(span).clamp_(0, 255))


def _equalize(pictures: Tensor, _magnitude: Tensor) -> None:
    """Flatten each channel's histogram, as Pillow's ImageOps.equalize does; a channel of one value stays."""
    flat = pictures.view(-1, pictures.shape[2] * pictures.shape[3])
    planes, pixels = flat.shape
    offsets = torch.arange(planes, device=pictures.device, dtype=torch.int32)[:, None] * 256
    # bincount takes int32 9 times as fast as int64.
    counts = torch.bincount((flat + offsets).view(-1), minlength=planes * 256).view(planes, 256)
    brightest = counts.gather(1, flat.amax(dim=1, keepdim=True).to(torch.int64))
    step = (pixels - brightest).div(255, rounding_mode="floor").to(torch.float64)
    # Whole numbers in float64: exact, and divided in vectors as integers are not.
    curve = counts.to(torch.float64).cumsum(dim=1).roll(1, dims=1)
    curve[:, 0] = 0.0
    curve.add_(torch.floor(step / 2)).div_(step).clamp_(max=255)
    curve = torch.where(step == 0, torch.arange(256, device=pictures.device), curve).to(torch.uint8)
    flat.copy_(curve.gather(1, flat.to(torch.int64)))


_CHANGE: dict[str, Callable[[Tensor, Tensor], None]] = {
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
"""Each change of values, in place, on pictures (n, 3, H, W) uint8 with magnitudes (n, 1, 1, 1)."""
