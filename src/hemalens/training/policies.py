"""RandAugment, TrivialAugment and AugMix on whole batches, with torchvision's operations, ranges and bins.

A policy turns uniform draws into an operation and a magnitude for each sample; ``training.operations`` applies them.
The draws come from the caller, so a sample's augmentation does not depend on its batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hemalens.training.operations import OPERATIONS, Beyond, apply_operations

__all__ = ["AUGMIX_DRAWS", "RANDAUGMENT_DRAWS", "TRIVIALAUGMENT_DRAWS", "augmix", "rand_augment", "trivial_augment"]

_RAND_BINS, _MIX_BINS = 31, 10
_RAND_OPS = 2
_WIDTH, _DEPTH = 3, 3
RANDAUGMENT_DRAWS = 2 * _RAND_OPS
TRIVIALAUGMENT_DRAWS = 3
AUGMIX_DRAWS = 1 + _WIDTH + _WIDTH + 3 * _WIDTH * _DEPTH
_SIGNED = frozenset({*OPERATIONS[1:6], "brightness", "color", "contrast", "sharpness"})


def rand_augment(pictures: Tensor, draws: Tensor, *, magnitude: int = 9, beyond: Beyond = "mirror") -> Tensor:
    """Apply two of the fourteen operations to each picture (Cubuk et al. 2020).

    Args:
        pictures: (N, 3, H, W) uint8.
        draws: (N, 4) uniform in [0, 1): operation and sign, twice.
        magnitude: bin 0-30 of torchvision's 31.
        beyond: what geometry shows beyond the border.
    """
    tables = _tables(_RAND_BINS, pictures.shape[2:], shear=0.3, shift=150.0 / 331.0, turn=30.0, bits=(8, 4))
    level = torch.full((len(pictures),), magnitude, device=pictures.device)
    for place in range(_RAND_OPS):
        operation, sign = _operation(draws[:, 2 * place]), draws[:, 2 * place + 1]
        pictures = apply_operations(pictures, operation, _magnitude(tables, operation, level, sign), beyond=beyond)
    return pictures


def trivial_augment(pictures: Tensor, draws: Tensor, *, beyond: Beyond = "mirror") -> Tensor:
    """Apply one operation of drawn, wide magnitude to each picture (Mueller and Hutter 2021).

    Args:
        pictures: (N, 3, H, W) uint8.
        draws: (N, 3) uniform in [0, 1): operation, magnitude, sign.
        beyond: what geometry shows beyond the border.
    """
    side = min(pictures.shape[2:])
    tables = _tables(
        _RAND_BINS, pictures.shape[2:], shear=0.99, shift=32.0 / side, turn=135.0, bits=(8, 2), enhance=0.99
    )
    level = (draws[:, 1] * _RAND_BINS).to(torch.int64)
    operation = _operation(draws[:, 0])
    return apply_operations(pictures, operation, _magnitude(tables, operation, level, draws[:, 2]), beyond=beyond)


def augmix(pictures: Tensor, draws: Tensor, *, severity: int = 3, beyond: Beyond = "mirror") -> Tensor:
    """Mix each picture with three chains of one to three operations (Hendrycks et al. 2020, algorithm 1; alpha 1).

    Args:
        pictures: (N, 3, H, W) uint8.
        draws: (N, 34) uniform in [0, 1).
        severity: magnitudes are drawn from the first so many of ten bins.
        beyond: what geometry shows beyond the border.
    """
    tables = _tables(_MIX_BINS, pictures.shape[2:], shear=0.3, shift=1.0 / 3.0, turn=30.0, bits=(4, 0))
    # With alpha 1 the beta distribution is uniform, and normalised exponentials are Dirichlet.
    share = draws[:, :1]
    weights = -torch.log1p(-draws[:, 1 : 1 + _WIDTH])
    weights = share * weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
    depths = (draws[:, 1 + _WIDTH : 1 + 2 * _WIDTH] * _DEPTH).to(torch.int64) + 1
    steps = draws[:, 1 + 2 * _WIDTH :].reshape(len(draws), _WIDTH, _DEPTH, 3)
    mixed = pictures.to(torch.float32) * (1.0 - share)[:, :, None, None]
    for chain in range(_WIDTH):
        changed = pictures
        for depth in range(_DEPTH):
            draw = steps[:, chain, depth]
            operation = torch.where(depths[:, chain] > depth, 1 + _operation(draw[:, 0], len(OPERATIONS) - 1), 0)
            level = (draw[:, 1] * severity).to(torch.int64)
            magnitude = _magnitude(tables, operation, level, draw[:, 2])
            changed = apply_operations(changed, operation, magnitude, beyond=beyond)
        mixed += changed.to(torch.float32) * weights[:, chain, None, None, None]
    return mixed.clamp_(0, 255).to(torch.uint8)


def _operation(draw: Tensor, count: int = len(OPERATIONS)) -> Tensor:
    """Choose evenly among the first ``count`` operations (N,)."""
    return (draw * count).to(torch.int64)


def _magnitude(tables: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Return the magnitude of each sample's operation at its bin, negative with an even chance where it has a sign."""
    table = tables.to(operation.device)
    signed = torch.tensor([name in _SIGNED for name in OPERATIONS], device=operation.device)[operation]
    value = table[operation, level]
    return torch.where(signed & (sign < 0.5), -value, value)


def _tables(
    bins: int,
    size: Sequence[int],
    *,
    shear: float,
    shift: float,
    turn: float,
    bits: tuple[int, int],
    enhance: float = 0.9,
) -> Tensor:
    """Return each operation's magnitudes (14, bins) from the weakest bin to the strongest."""
    height, width = size
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
