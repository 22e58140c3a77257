"""Steps that hide parts of images (N, 3, S, S) float in [0, 1], every sample by its own draws (N, k)."""

import math
from functools import cache

import torch
from torch import Tensor

from hemalens.training.augment.random import uniform

__all__ = ["BLOTS_DRAWS", "blots", "cutout", "erase", "gridmask"]

_BANK = 1 << 20
_BLOTS = 3
_OF_BLOT = 6
BLOTS_DRAWS = 2 + _BLOTS * _OF_BLOT


def blots(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Put one to three dark, ragged blots of 3 to 8 % x strength of the side in radius anywhere: dirt, deposited dye.

    All blots of an image multiply it by one factor of 0 to 0.3; their borders waver by up to 30 % in 2 to 5 lobes.
    """
    side = images.shape[2]
    places = _centres(images)
    count = torch.floor(draws[:, :1] * _BLOTS)
    own = draws[:, 2:].reshape(len(draws), _OF_BLOT, _BLOTS)
    hidden = torch.zeros(len(images), side, side, dtype=torch.bool, device=images.device)
    for number in range(_BLOTS):
        x, y, size, wave, lobes, phase = own[:, :, number].unbind(1)
        rows, columns = (places - y[:, None] * side)[:, :, None], (places - x[:, None] * side)[:, None, :]
        angle = torch.atan2(rows, columns) * torch.floor(2.0 + 4.0 * lobes)[:, None, None]
        waver = 1.0 + 0.3 * wave[:, None, None] * torch.cos(angle + 2.0 * math.pi * phase[:, None, None])
        radius = (0.03 + 0.05 * size)[:, None, None] * strength * side * waver
        hidden |= (rows.square() + columns.square() < radius.square()) & (number <= count[:, :, None])
    return torch.where(hidden[:, None], images * (0.3 * draws[:, 1, None, None, None]), images)


def cutout(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Fill a square of 0.3 x strength of the side, anywhere, with the mean colour (DeVries and Taylor 2017)."""
    side = images.shape[2]
    half = 0.15 * strength * side
    places = _centres(images)
    hole = _box((places - draws[:, :1] * side).abs() < half, (places - draws[:, 1:2] * side).abs() < half)
    return torch.where(hole, images.mean(dim=(2, 3), keepdim=True), images)


def erase(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Fill a rectangle inside the image with random values (Zhong et al. 2020).

    Its area is 2 to 33 % x strength of the image's, its height 0.3 to 3.3 times its width, evenly on a log scale:
    torchvision's ranges. A side longer than the image's is cut to it, where torchvision would draw again.
    """
    side = images.shape[2]
    area = (0.02 + 0.31 * draws[:, :1]) * strength * side * side
    aspect = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * draws[:, 1:2])
    places = _centres(images)
    inside = []
    for length, draw in ((area * aspect, draws[:, 2:3]), (area / aspect, draws[:, 3:4])):
        span = length.sqrt().round().clamp(max=side)
        first = torch.floor(draw * (side - span + 1))
        inside.append((places > first) & (places < first + span))
    starts = (draws[:, 4:5] * _BANK).to(torch.int64)
    values = torch.arange(images[0].numel(), device=images.device)
    noise = _uniform_bank(images.device)[(starts + values) % _BANK].reshape(images.shape)
    return torch.where(_box(*inside), noise, images)


def gridmask(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Blacken a grid of squares (Chen et al. 2020).

    A unit of the grid is 3/7 to all of the side (96 to 224 px of 224), and its square has 0.4 x strength of the unit's
    edge: the paper's r = 0.6 for ImageNet, which keeps 84 %. At most 0.9 of the edge is hidden.
    """
    side = images.shape[2]
    unit = (3.0 + 4.0 * draws[:, :1]) / 7.0 * side
    edge = unit * min(0.4 * strength, 0.9)
    places = _centres(images)
    rows, columns = ((places + draw * unit).remainder(unit) < edge for draw in (draws[:, 1:2], draws[:, 2:3]))
    return images.masked_fill(_box(rows, columns), 0.0)


def _centres(images: Tensor) -> Tensor:
    """Return the centres of the pixels along a side (1, S)."""
    return torch.arange(images.shape[2], device=images.device, dtype=images.dtype)[None] + 0.5


def _box(rows: Tensor, columns: Tensor) -> Tensor:
    """Return where both a row and a column are chosen (N, 1, S, S)."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]


@cache
def _uniform_bank(device: torch.device) -> Tensor:
    """Return uniform numbers (2 ** 20,), from which a drawn stretch is taken."""
    return uniform(torch.arange(_BANK, device=device), seed=0, epoch=0, stream="erase")[:, 0]
