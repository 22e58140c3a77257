"""Batched augmentation on the device: whole batches at once, every sample with its own draw.

A step gets images (N, 3, S, S) float in [0, 1] and uniform draws (N, k) float, and returns images of that shape.
Its draws depend on (seed, epoch, sample, step) alone, see ``training.random``. Geometric steps that follow each other
become one affine resampling, so that an image is interpolated once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hemalens.core.config import AugmentStep
from hemalens.core.errors import ConfigError
from hemalens.training.augment.colour import (
    brightness,
    channels,
    contrast,
    hed,
    hue,
    permute,
    saturation,
    signed,
    stain,
    vivid,
)
from hemalens.training.augment.degrade import blur, chroma, jpeg, noise, pixelate
from hemalens.training.augment.occlude import BLOTS_DRAWS, blots, cutout, erase, gridmask
from hemalens.training.augment.policies import (
    AUGMIX_DRAWS,
    RANDAUGMENT_DRAWS,
    TRIVIALAUGMENT_DRAWS,
    augmix,
    rand_augment,
    trivial_augment,
)
from hemalens.training.augment.random import uniform

__all__ = ["COLOUR", "FIELD_LIKE", "GEOMETRY", "LIGHT", "augment_batch", "check_steps"]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """How a geometric step fills an affine matrix: ``fill`` maps draws (N, k) and strength to (N, 2, 2) and (N, 2)."""

    draws: int
    fill: Callable[[Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class _Colour:
    """How a step changes values: ``apply`` maps images, draws (N, k) and strength to images."""

    draws: int
    apply: Callable[[Tensor, Tensor, float], Tensor]


def augment_batch(
    images: Tensor, keys: Tensor, steps: Sequence[AugmentStep], *, seed: int, epoch: int, size: int = 0
) -> Tensor:
    """Return images (N, 3, S, S) float in [0, 1] after the steps, in their order.

    Args:
        images: (N, 3, R, R) float in [0, 1], R from S to 2 S: a larger R lets geometry sample without blurring.
        keys: (N,) int64, one an image; equal keys get equal augmentation.
        steps: names of GEOMETRY and COLOUR with probability and strength; see ``check_steps``.
        seed: of the run.
        epoch: number of the pass.
        size: S; 0 for R.
    """
    size = size or images.shape[2]
    if not len(images):
        return images.new_zeros((0, 3, size, size))
    matrix: Tensor | None = None
    shift: Tensor | None = None
    if size != images.shape[2]:
        matrix = torch.eye(2, device=images.device).expand(len(images), 2, 2)
        shift = torch.zeros(len(images), 2, device=images.device)
    for index, step in enumerate(steps):
        kind = GEOMETRY.get(step.name) or COLOUR[step.name]
        draws = uniform(keys, seed=seed, epoch=epoch, stream=f"{index}:{step.name}", count=kind.draws + 1)
        applied = draws[:, 0] < step.probability
        if isinstance(kind, _Geometry):
            turn, move = kind.fill(draws[:, 1:], step.strength)
            turn = torch.where(applied[:, None, None], turn, torch.eye(2, device=turn.device))
            move = torch.where(applied[:, None], move, torch.zeros((), device=move.device))
            # Sampling coordinates: the later step is applied to the output first, so it multiplies from the right.
            if matrix is None or shift is None:
                matrix, shift = turn, move
            else:
                shift = shift + (matrix @ move[:, :, None])[:, :, 0]
                matrix = matrix @ turn
            continue
        if matrix is not None and shift is not None:
            images, matrix, shift = _resample(images, matrix, shift, size), None, None
        chosen = applied.nonzero()[:, 0]
        if len(chosen) == len(images):
            images = kind.apply(images, draws[:, 1:], step.strength)
        elif len(chosen):
            changed = kind.apply(images.index_select(0, chosen), draws[chosen, 1:], step.strength)
            images = images.index_copy(0, chosen, changed)
    if matrix is not None and shift is not None:
        images = _resample(images, matrix, shift, size)
    return images.clamp_(0.0, 1.0)


def check_steps(steps: Sequence[AugmentStep]) -> None:
    """Raise ConfigError where a step has an unknown name."""
    for step in steps:
        if step.name not in GEOMETRY and step.name not in COLOUR:
            known = ", ".join(sorted([*GEOMETRY, *COLOUR]))
            raise ConfigError(f"augmentation {step.name}", "is not known", f"use one of: {known}")


def _resample(images: Tensor, matrix: Tensor, shift: Tensor, size: int) -> Tensor:
    """Sample (N, 3, size, size) bilinearly at matrix @ x + shift (coordinates -1..1), mirroring beyond the border."""
    # As points x + iy of the plane one sum writes both coordinates: 15 times as fast as affine_grid.
    by_x, by_y = torch.complex(matrix[:, 0], matrix[:, 1]).T[:, :, None, None].unbind()
    origin = torch.complex(shift[:, 0], shift[:, 1])[:, None, None]
    indices = (torch.arange(size, device=images.device) * 2 + 1) / size - 1
    grid = torch.view_as_real((by_x * indices + origin) + by_y * indices[:, None])
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _no_shift(draws: Tensor) -> Tensor:
    return torch.zeros(len(draws), 2, device=draws.device)


def _flip(draws: Tensor, _strength: float) -> tuple[Tensor, Tensor]:
    """Mirror left to right with an even chance."""
    sign = torch.where(draws[:, 0] < 0.5, -1.0, 1.0)
    return torch.diag_embed(torch.stack([sign, torch.ones_like(sign)], dim=1)), _no_shift(draws)


def _quarter(draws: Tensor, _strength: float) -> tuple[Tensor, Tensor]:
    """Turn by 0, 90, 180 or 270 degrees, evenly; exact, nothing is interpolated."""
    turns = torch.floor(draws[:, 0] * 4.0)
    cos, sin = torch.round(torch.cos(turns * math.pi / 2)), torch.round(torch.sin(turns * math.pi / 2))
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1), _no_shift(draws)


def _rotate(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Turn by an even angle within 180 degrees x strength to either side: a smear has no upright."""
    angle = signed(draws[:, 0]) * math.pi * strength
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1), _no_shift(draws)


def _zoom(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Scale by up to 1.25 ** strength either way, evenly on a log scale."""
    factor = torch.exp(signed(draws[:, 0]) * math.log(1.25) * strength)
    return torch.diag_embed(torch.stack([factor, factor], dim=1)), _no_shift(draws)


def _stretch(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Change the aspect ratio by up to 1.2 ** strength either way."""
    factor = torch.exp(signed(draws[:, 0]) * 0.5 * math.log(1.2) * strength)
    return torch.diag_embed(torch.stack([factor, 1 / factor], dim=1)), _no_shift(draws)


def _shear(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Shear along x by up to 0.2 x strength."""
    amount = signed(draws[:, 0]) * 0.2 * strength
    one, zero = torch.ones_like(amount), torch.zeros_like(amount)
    return torch.stack([torch.stack([one, amount], 1), torch.stack([zero, one], 1)], 1), _no_shift(draws)


def _translate(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Move by up to a tenth of the side x strength along each axis."""
    eye = torch.eye(2, device=draws.device).expand(len(draws), 2, 2)
    return eye, signed(draws[:, :2]) * 0.2 * strength


def _rand_augment(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """RandAugment with two operations at torchvision's magnitude 9 x strength (of 30 at most)."""
    return _of_bytes(rand_augment(_bytes(images), draws, magnitude=min(round(9 * strength), 30)))


def _trivial_augment(images: Tensor, draws: Tensor, _strength: float) -> Tensor:
    """TrivialAugment: one operation of drawn, wide magnitude."""
    return _of_bytes(trivial_augment(_bytes(images), draws))


def _augmix(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """AugMix of three chains at severity 3 x strength (1 to 10)."""
    return _of_bytes(augmix(_bytes(images), draws, severity=min(max(round(3 * strength), 1), 10)))


def _bytes(images: Tensor) -> Tensor:
    # By way of int16 the conversion is vectorised.
    return (images * 255.0).round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _of_bytes(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255.0)


GEOMETRY = {
    "flip": _Geometry(1, _flip),
    "quarter": _Geometry(1, _quarter),
    "rotate": _Geometry(1, _rotate),
    "zoom": _Geometry(1, _zoom),
    "stretch": _Geometry(1, _stretch),
    "shear": _Geometry(1, _shear),
    "translate": _Geometry(2, _translate),
}
LIGHT = {
    "brightness": _Colour(1, brightness),
    "contrast": _Colour(1, contrast),
    "saturation": _Colour(1, saturation),
    "vivid": _Colour(1, vivid),
    "channels": _Colour(3, channels),
    "permute": _Colour(1, permute),
    "hue": _Colour(1, hue),
    "stain": _Colour(3, stain),
    "hed": _Colour(6, hed),
}
"""Steps that change light, camera or dye and leave every detail."""
COLOUR = LIGHT | {
    "blur": _Colour(1, blur),
    "noise": _Colour(2, noise),
    "pixelate": _Colour(1, pixelate),
    "jpeg": _Colour(1, jpeg),
    "chroma": _Colour(2, chroma),
    "blots": _Colour(BLOTS_DRAWS, blots),
    "cutout": _Colour(2, cutout),
    "erase": _Colour(5, erase),
    "gridmask": _Colour(3, gridmask),
    "randaugment": _Colour(RANDAUGMENT_DRAWS, _rand_augment),
    "trivialaugment": _Colour(TRIVIALAUGMENT_DRAWS, _trivial_augment),
    "augmix": _Colour(AUGMIX_DRAWS, _augmix),
}

FIELD_LIKE = (
    AugmentStep(name="flip"),
    AugmentStep(name="rotate"),
    AugmentStep(name="zoom", strength=1.5),
    AugmentStep(name="shear"),
    AugmentStep(name="translate", strength=1.5),
    AugmentStep(name="stain", probability=0.5, strength=1.5),
    AugmentStep(name="channels", probability=0.5, strength=1.5),
    AugmentStep(name="saturation", probability=0.5, strength=1.5),
    AugmentStep(name="brightness", probability=0.5, strength=1.5),
    AugmentStep(name="contrast", probability=0.5, strength=1.5),
    AugmentStep(name="blur", probability=0.4, strength=1.0),
    AugmentStep(name="noise", probability=0.4, strength=1.0),
    AugmentStep(name="cutout", probability=0.5, strength=1.0),
)
"""A stand-in for images from the field: strong, mixed, seeded. Validation under it picks checkpoints by key."""
