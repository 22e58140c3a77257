"""RandAugment, TrivialAugment and AugMix on whole batches, with torchvision's operations, ranges and bins.

A policy turns uniform draws into an operation and a magnitude for each sample; ``training.operations`` applies them.
The draws come from the caller, so a sample's augmentation does not depend on its batch.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from hemalens.training.augment.geometry import Beyond, store
from hemalens.training.augment.operations import OPERATIONS, apply_operations

__all__ = ["AUGMIX_DRAWS", "RANDAUGMENT_DRAWS", "TRIVIALAUGMENT_DRAWS", "augmix", "rand_augment", "trivial_augment"]

_RAND_BINS, _MIX_BINS = 31, 10
_RAND_OPS = 2
_STRETCH = 1 << 21
_WIDTH, _DEPTH = 3, 3
RANDAUGMENT_DRAWS = 2 * _RAND_OPS
TRIVIALAUGMENT_DRAWS = 3
AUGMIX_DRAWS = 1 + _WIDTH + _WIDTH + 3 * _WIDTH * _DEPTH
_SIGNED = frozenset({*OPERATIONS[1:6], "brightness", "color", "contrast", "sharpness"})


def rand_augment(images: Tensor, draws: Tensor, *, magnitude: int = 9, beyond: Beyond = "mirror") -> Tensor:
    """Apply two of the fourteen operations to each image (Cubuk et al. 2020).

    Args:
        images: (N, 3, H, W) uint8.
        draws: (N, 4) uniform in [0, 1): operation and sign, twice.
        magnitude: bin 0-30 of torchvision's 31.
        beyond: what geometry shows beyond the border.
    """
    tables = _tables(_RAND_BINS, *images.shape[2:], shear=0.3, shift=150.0 / 331.0, turn=30.0, bits=(8, 4))
    operation, sign = _operation(draws[:, ::2]), draws[:, 1::2]
    level = torch.full_like(operation, magnitude)
    return apply_operations(images, operation, _magnitude(tables, operation, level, sign), beyond=beyond)


def trivial_augment(images: Tensor, draws: Tensor, *, beyond: Beyond = "mirror") -> Tensor:
    """Apply one operation of drawn, wide magnitude to each image (Mueller and Hutter 2021).

    Args:
        images: (N, 3, H, W) uint8.
        draws: (N, 3) uniform in [0, 1): operation, magnitude, sign.
        beyond: what geometry shows beyond the border.
    """
    side = min(images.shape[2:])
    tables = _tables(
        _RAND_BINS, *images.shape[2:], shear=0.99, shift=32.0 / side, turn=135.0, bits=(8, 2), enhance=0.99
    )
    level = (draws[:, 1:2] * _RAND_BINS).to(torch.int64)
    operation = _operation(draws[:, :1])
    return apply_operations(images, operation, _magnitude(tables, operation, level, draws[:, 2:]), beyond=beyond)


def augmix(images: Tensor, draws: Tensor, *, severity: int = 3, beyond: Beyond = "mirror") -> Tensor:
    """Mix each image with three chains of one to three operations (Hendrycks et al. 2020, algorithm 1; alpha 1).

    Args:
        images: (N, 3, H, W) uint8.
        draws: (N, 34) uniform in [0, 1).
        severity: magnitudes are drawn from the first so many of ten bins.
        beyond: what geometry shows beyond the border.
    """
    tables = _tables(_MIX_BINS, *images.shape[2:], shear=0.3, shift=1.0 / 3.0, turn=30.0, bits=(4, 0))
    # With alpha 1 the beta distribution is uniform, and normalised exponentials are Dirichlet.
    share = draws[:, :1]
    weights = -torch.log1p(-draws[:, 1 : 1 + _WIDTH])
    weights = share * weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
    weights = torch.cat([1.0 - share, weights], dim=1)
    depths = (draws[:, 1 + _WIDTH : 1 + 2 * _WIDTH] * _DEPTH).to(torch.int64) + 1
    steps = draws[:, 1 + 2 * _WIDTH :].reshape(-1, _WIDTH, _DEPTH, 3)
    operation = 1 + _operation(steps[..., 0], len(OPERATIONS) - 1)
    magnitude = _magnitude(tables, operation, (steps[..., 1] * severity).to(torch.int64), steps[..., 2])
    inside = depths[:, :, None] > torch.arange(_DEPTH, device=draws.device)
    operation = torch.where(inside, operation, 0)
    result = torch.empty_like(images)
    for own in _stretches(images):
        # The chains of a stretch are one batch: all first chains, all second ones, all third ones.
        chains = apply_operations(
            images[own],
            operation[own].transpose(0, 1).flatten(0, 1),
            magnitude[own].transpose(0, 1).flatten(0, 1),
            beyond=beyond,
            interpolation="bilinear",
        ).view(_WIDTH, -1, *images.shape[1:])
        _mix([images[own], *chains], weights[own], result[own])
    return result


def _stretches(images: Tensor) -> list[slice]:
    """Cut a batch into even stretches of at most two megabytes; larger buffers are faulted in anew each time."""
    count = len(images)
    if images.device.type != "cpu" or not count:
        return [slice(0, count)]
    stretches = -(-images.numel() // _STRETCH)
    size = -(-count // stretches)
    return [slice(start, start + size) for start in range(0, count, size)]


def _mix(parts: Sequence[Tensor], weights: Tensor, result: Tensor) -> None:
    """Write the weighted sum of parts (n, 3, H, W) uint8 with weights (n, parts) that add up to 1."""
    size = max(1, _STRETCH // 8 // max(1, result[0].numel())) if result.device.type == "cpu" else len(result)
    for start in range(0, len(result), size):
        own = slice(start, start + size)
        total = parts[0][own] * weights[own, 0, None, None, None]
        for index, part in enumerate(parts[1:], start=1):
            total.addcmul_(part[own].to(torch.float32), weights[own, index, None, None, None])
        store(result[own], total.clamp_(max=255))


def _operation(draw: Tensor, count: int = len(OPERATIONS)) -> Tensor:
    """Choose evenly among the first ``count`` operations (N,)."""
    return (draw * count).to(torch.int64)


def _magnitude(tables: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Return the magnitude of each sample's operation at its bin, negative with an even chance where it has a sign."""
    table = tables.to(operation.device)
    signed = torch.tensor([name in _SIGNED for name in OPERATIONS], device=operation.device)[operation]
    value = table[operation, level]
    return torch.where(signed & (sign < 0.5), -value, value)


@cache
def _tables(
    bins: int,
    height: int,
    width: int,
    *,
    shear: float,
    shift: float,
    turn: float,
    bits: tuple[int, int],
    enhance: float = 0.9,
) -> Tensor:
    """Return each operation's magnitudes (14, bins) from the weakest bin to the strongest."""
    zero, up = torch.zeros(bins), torch.linspace(0.0, 1.0, bins)
    posterize = bits[0] - torch.round(torch.arange(bins) / ((bins - 1) / (bits[0] - bits[1])))
    by_name = {
        "shear_x": shear * up,
        "shear_y": shear * up,
        "translate_x": shift * width * up,
        "translate_y": shift * height * up,
        "rotate": turn * up,
        "brightness": enhance * up,
        "color": enhance * up,
        "contrast": enhance * up,
        "sharpness": enhance * up,
        "posterize": posterize,
        "solarize": 1.0 - up,
    }
    return torch.stack([by_name.get(name, zero) for name in OPERATIONS])
