"""The fourteen operations of AutoAugment's family on whole batches of uint8 images, each sample with its own.

Same definitions as torchvision's v2 functions on tensors, checked against them. The batch is sorted by operation, each
operation works on its own samples in one go, and they return to their places. Pieces of a quarter of a megabyte stay in
a core's cache, where most steps cost 0.5 to 2 microseconds an image of 96 px.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hemalens.training.augment.geometry import MOVES, Beyond, Interpolation, store

__all__ = ["OPERATIONS", "apply_operations"]

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
_PIECE = 1 << 18
"""Values that one core works on at a time: as uint8 and twice as float32 they fit its second cache."""


def apply_operations(
    images: Tensor,
    operation: Tensor,
    magnitude: Tensor,
    *,
    beyond: Beyond = "black",
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """Return images (M, 3, H, W) uint8 after R operations each, in turn.

    Args:
        images: (N, 3, H, W) uint8; not changed.
        operation: indices in OPERATIONS (M, R) int64; M may be several times N: all images come again for each.
        magnitude: (M, R) float in each operation's own unit: shear as a slope, translation in pixels, turns in degrees,
            enhancement as factor - 1, posterize in bits kept, solarize as a threshold in [0, 1]; others ignore it.
        beyond: what geometry shows beyond the border.
        interpolation: how geometry reads between pixels.
    """
    magnitude = magnitude.to(torch.float32)
    operation = torch.where(_idle(operation, magnitude), 0, operation)
    order = torch.argsort(operation, dim=0, stable=True)
    operation, magnitude = operation.gather(0, order), magnitude.gather(0, order)
    amounts = magnitude.T[:, :, None, None, None].contiguous()
    numbers = torch.arange(len(OPERATIONS), device=operation.device)[:, None, None]
    counts = (operation == numbers).sum(dim=1).T.tolist()
    indices = torch.argsort(order, dim=0)  # of each sample in each round
    values, device, result = images[:1].numel(), images.device, images
    for turn, sizes in enumerate(counts):
        source = indices[:, turn - 1][order[:, turn]] if turn else order[:, 0] % max(1, len(images))
        result = result.index_select(0, source)
        start = sizes[0]
        for name, size in zip(OPERATIONS[1:], sizes[1:], strict=True):
            for own in _pieces(start, size, values=values, device=device):
                if name in MOVES:
                    MOVES[name](result[own], amounts[turn, own], beyond, interpolation)
                else:
                    _CHANGES[name](result[own], amounts[turn, own])
            start += size
    return result.index_select(0, indices[:, -1])


def _idle(operation: Tensor, magnitude: Tensor) -> Tensor:
    """Say which samples (N, R) an operation would leave as they are: a third of AugMix's at its usual severity."""
    still = (operation <= OPERATIONS.index("translate_y")) & (magnitude.abs() < 1)
    return still | ((operation <= OPERATIONS.index("sharpness")) & (magnitude == 0))


def _pieces(start: int, count: int, *, values: int, device: torch.device) -> list[slice]:
    """Cut a stretch of samples into pieces that stay in the cache; another device gets all at once."""
    size = max(1, _PIECE // max(1, values)) * torch.get_num_threads() if device.type == "cpu" else max(1, count)
    return [slice(first, min(first + size, start + count)) for first in range(start, start + count, size)]


def _brightness(images: Tensor, magnitude: Tensor) -> None:
    """Multiply by 1 + magnitude."""
    store(images, (images * (1.0 + magnitude)).clamp_(0, 255))


def _color(images: Tensor, magnitude: Tensor) -> None:
    """Blend each pixel with its grey."""
    values = images * (1.0 + magnitude)
    store(images, values.sub_(_grey(images) * magnitude).clamp_(0, 255))


def _contrast(images: Tensor, magnitude: Tensor) -> None:
    """Blend each pixel with the image's mean grey."""
    # Greys are whole numbers: their sums over rows are exact in float32, so no order of summation shows.
    total = _grey(images).sum(dim=3).sum(dim=2, dtype=torch.float64)
    mean = (total / images[0, 0].numel()).to(torch.float32)[:, :, None, None]
    values = images * (1.0 + magnitude)
    store(images, values.sub_(mean * magnitude).clamp_(0, 255))


def _grey(images: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) float32, rounded down (Rec. 601 weights as torchvision writes them)."""
    red, green, blue = (images[:, index : index + 1] for index in range(3))
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).floor_()


def _sharpness(images: Tensor, magnitude: Tensor) -> None:
    """Blend each inner pixel with a 3 x 3 smoothing whose centre weighs 5 of 13; the border stays."""
    if min(images.shape[2:]) <= 2:
        return
    whole = images.to(torch.int16)
    inner = whole[:, :, 1:-1, 1:-1]
    rows = whole[:, :, :, :-2] + whole[:, :, :, 1:-1]
    rows += whole[:, :, :, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1]
    total += rows[:, :, 2:]
    total.add_(inner, alpha=4)
    difference = total.to(torch.float32).div_(13.0).round_().sub_(inner)
    store(images[:, :, 1:-1, 1:-1], (inner - difference.mul_(magnitude)).clamp_(0, 255))


def _posterize(images: Tensor, magnitude: Tensor) -> None:
    """Keep the upper bits of each value."""
    lowest = torch.exp2(8.0 - torch.trunc(magnitude))
    images.bitwise_and_((256.0 - lowest).to(torch.int16).to(torch.uint8))


def _solarize(images: Tensor, magnitude: Tensor) -> None:
    """Invert the values from 255 x magnitude on."""
    below = torch.ceil(255.0 * magnitude).to(torch.int16) - 1
    # The sign of the difference, spread over all bits: 255 where a value is to be inverted, else 0.
    inverted = (below - images).bitwise_right_shift_(15)
    images.bitwise_xor_(inverted.to(torch.uint8))


def _autocontrast(images: Tensor, _magnitude: Tensor) -> None:
    """Map each channel's darkest value to 0 and its brightest to 255; a channel of one value stays."""
    flat = images.flatten(2)
    low = flat.amin(dim=2)[:, :, None, None].to(torch.float32)
    span = (flat.amax(dim=2)[:, :, None, None].to(torch.float32) - low) * (1.0 / 255.0)
    constant = span == 0
    low, span = torch.where(constant, 0.0, low), torch.where(constant, 1.0, span)
    store(images, (images - low).div_(span).clamp_(0, 255))


def _equalize(images: Tensor, _magnitude: Tensor) -> None:
    """Flatten each channel's histogram, as Pillow's ImageOps.equalize does; a channel of one value stays."""
    flat = images.view(-1, images.shape[2] * images.shape[3])
    planes, pixels = flat.shape
    offsets = torch.arange(planes, device=images.device, dtype=torch.int32)[:, None] * 256
    # bincount takes int32 9 times as fast as int64.
    counts = torch.bincount((flat + offsets).view(-1), minlength=planes * 256).view(planes, 256)
    brightest = counts.gather(1, flat.amax(dim=1, keepdim=True).to(torch.int64))
    step = (pixels - brightest).div(255, rounding_mode="floor").to(torch.float64)
    # Whole numbers in float64: exact, and divided in vectors as integers are not.
    curve = counts.to(torch.float64).cumsum(dim=1).roll(1, dims=1)
    curve[:, 0] = 0.0
    curve.add_(torch.floor(step / 2)).div_(step).clamp_(max=255)
    curve = torch.where(step == 0, torch.arange(256, device=images.device), curve).to(torch.uint8)
    flat.copy_(curve.gather(1, flat.to(torch.int64)))


_CHANGES: dict[str, Callable[[Tensor, Tensor], None]] = {
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
"""Each change of values, in place, on images (n, 3, H, W) uint8 with magnitudes (n, 1, 1, 1)."""
