"""Batched augmentation on the device: whole batches at once, every sample with its own draw.

A step gets pictures (N, 3, S, S) float in [0, 1] and uniform draws (N, k) float, and returns pictures of that shape.
Its draws depend on (seed, epoch, sample, step) alone, see ``training.random``. Geometric steps that follow each other
become one affine resampling, so that a picture is interpolated once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from hemalens.core.config import AugmentStep
from hemalens.core.errors import ConfigError
from hemalens.training.policies import (
    AUGMIX_DRAWS,
    RANDAUGMENT_DRAWS,
    TRIVIALAUGMENT_DRAWS,
    augmix,
    rand_augment,
    trivial_augment,
)
from hemalens.training.random import uniform

__all__ = ["COLOUR", "FIELD_LIKE", "GEOMETRY", "augment_batch", "check_steps"]

_BANK = 1 << 21


@dataclass(frozen=True, slots=True)
class _Geometry:
    """How a geometric step fills an affine matrix: ``fill`` maps draws (N, k) and strength to (N, 2, 2) and (N, 2)."""

    draws: int
    fill: Callable[[Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class _Colour:
    """How a step changes values: ``apply`` maps pictures, draws (N, k) and strength to pictures."""

    draws: int
    apply: Callable[[Tensor, Tensor, float], Tensor]


def augment_batch(
    pictures: Tensor, keys: Tensor, steps: Sequence[AugmentStep], *, seed: int, epoch: int, size: int = 0
) -> Tensor:
    """Return pictures (N, 3, S, S) float in [0, 1] after the steps, in their order.

    Args:
        pictures: (N, 3, R, R) float in [0, 1], R from S to 2 S: a larger R lets geometry sample without blurring.
        keys: (N,) int64, one a picture; equal keys get equal augmentation.
        steps: names of GEOMETRY and COLOUR with probability and strength; see ``check_steps``.
        seed: of the run.
        epoch: number of the pass.
        size: S; 0 for R.
    """
    size = size or pictures.shape[2]
    matrix: Tensor | None = None
    shift: Tensor | None = None
    if size != pictures.shape[2]:
        matrix = torch.eye(2, device=pictures.device).expand(len(pictures), 2, 2)
        shift = torch.zeros(len(pictures), 2, device=pictures.device)
    for place, step in enumerate(steps):
        kind = GEOMETRY.get(step.name) or COLOUR[step.name]
        draws = uniform(keys, seed=seed, epoch=epoch, stream=f"{place}:{step.name}", count=kind.draws + 1)
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
            pictures, matrix, shift = _resample(pictures, matrix, shift, size), None, None
        chosen = applied.nonzero()[:, 0]
        if len(chosen):
            changed = kind.apply(pictures[chosen], draws[chosen, 1:], step.strength)
            pictures = pictures.index_copy(0, chosen, changed)
    if matrix is not None and shift is not None:
        pictures = _resample(pictures, matrix, shift, size)
    return pictures.clamp_(0.0, 1.0)


def check_steps(steps: Sequence[AugmentStep]) -> None:
    """Raise ConfigError where a step has an unknown name."""
    for step in steps:
        if step.name not in GEOMETRY and step.name not in COLOUR:
            known = ", ".join(sorted([*GEOMETRY, *COLOUR]))
            raise ConfigError(f"augmentation {step.name}", "is not known", f"use one of: {known}")


def _resample(pictures: Tensor, matrix: Tensor, shift: Tensor, size: int) -> Tensor:
    """Sample (N, 3, size, size) bilinearly at matrix @ x + shift (coordinates -1..1), mirroring beyond the border."""
    theta = torch.cat([matrix, shift[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, [*pictures.shape[:2], size, size], align_corners=False)
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _signed(draws: Tensor) -> Tensor:
    """Map uniform draws from [0, 1) to [-1, 1)."""
    return draws * 2.0 - 1.0


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
    angle = _signed(draws[:, 0]) * math.pi * strength
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1), _no_shift(draws)


def _zoom(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Scale by up to 1.25 ** strength either way, evenly on a log scale."""
    factor = torch.exp(_signed(draws[:, 0]) * math.log(1.25) * strength)
    return torch.diag_embed(torch.stack([factor, factor], dim=1)), _no_shift(draws)


def _stretch(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Change the aspect ratio by up to 1.2 ** strength either way."""
    factor = torch.exp(_signed(draws[:, 0]) * 0.5 * math.log(1.2) * strength)
    return torch.diag_embed(torch.stack([factor, 1 / factor], dim=1)), _no_shift(draws)


def _shear(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Shear along x by up to 0.2 x strength."""
    amount = _signed(draws[:, 0]) * 0.2 * strength
    one, zero = torch.ones_like(amount), torch.zeros_like(amount)
    return torch.stack([torch.stack([one, amount], 1), torch.stack([zero, one], 1)], 1), _no_shift(draws)


def _translate(draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Move by up to a tenth of the side x strength along each axis."""
    eye = torch.eye(2, device=draws.device).expand(len(draws), 2, 2)
    return eye, _signed(draws[:, :2]) * 0.2 * strength


def _brightness(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Multiply by 1 plus or minus up to 0.3 x strength."""
    return pictures * (1.0 + 0.3 * strength * _signed(draws[:, :1, None, None])).clamp_(min=0.0)


def _contrast(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Stretch around the picture's mean by 1 plus or minus up to 0.3 x strength."""
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (pictures - mean) * (1.0 + 0.3 * strength * _signed(draws[:, :1, None, None])).clamp_(min=0.0)


def _saturation(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Stretch around each pixel's grey by 1 plus or minus up to 0.5 x strength."""
    grey = pictures.mean(dim=1, keepdim=True)
    return grey + (pictures - grey) * (1.0 + 0.5 * strength * _signed(draws[:, :1, None, None])).clamp_(min=0.0)


def _channels(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Add up to 0.1 x strength to each channel on its own: another lamp, another white balance."""
    return pictures + 0.1 * strength * _signed(draws[:, :3, None, None])


def _stain(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Scale the optical density of each channel by 1 plus or minus up to 0.3 x strength: a thicker or thinner dye."""
    factor = (1.0 + 0.3 * strength * _signed(draws[:, :3, None, None])).clamp_(min=0.0)
    offset = 1.0 / 256.0  # keeps black from having an endless density
    # An earlier step may have gone below black, where a power is not a number.
    return ((pictures.clamp(min=0.0) + offset) / (1.0 + offset)).pow(factor) * (1.0 + offset) - offset


def _blur(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Blur with a Gaussian of standard deviation up to 1.5 x strength pixels at 64 px, in proportion at other sizes."""
    n, channels, side = pictures.shape[:3]
    sigma = (draws[:, 0] * 1.5 * strength * side / 64.0).clamp(min=1e-2)
    radius = max(1, math.ceil(3.0 * 1.5 * strength * side / 64.0))
    offsets = torch.arange(-radius, radius + 1, device=pictures.device, dtype=pictures.dtype)
    kernel = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = functional.pad(pictures, (radius, radius, radius, radius), mode="replicate")
    planes = planes.reshape(1, n * channels, *planes.shape[2:])
    planes = functional.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    planes = functional.conv2d(planes, kernel[:, None, None, :], groups=n * channels)
    return planes.reshape(pictures.shape)


def _noise(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Add Gaussian noise of standard deviation up to 0.1 x strength: a drawn stretch of a fixed bank."""
    bank = _noise_bank(pictures.device)
    starts = (draws[:, 1:2] * _BANK).to(torch.int64)
    places = torch.arange(pictures[0].numel(), device=pictures.device)
    normal = bank[(starts + places) % _BANK].reshape(pictures.shape)
    return pictures + normal * (0.1 * strength * draws[:, :1, None, None])


@cache
def _noise_bank(device: torch.device) -> Tensor:
    """Return normal numbers (2 ** 21,) by Box and Muller 1958; drawing each pixel anew costs 20 times as much."""
    pairs = uniform(torch.arange(_BANK, device=device), seed=0, epoch=0, stream="noise", count=2)
    return torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0])) * torch.cos(2.0 * math.pi * pairs[:, 1])


def _rand_augment(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """RandAugment with two operations at torchvision's magnitude 9 x strength (of 30 at most)."""
    return _of_bytes(rand_augment(_bytes(pictures), draws, magnitude=min(round(9 * strength), 30)))


def _trivial_augment(pictures: Tensor, draws: Tensor, _strength: float) -> Tensor:
    """TrivialAugment: one operation of drawn, wide magnitude."""
    return _of_bytes(trivial_augment(_bytes(pictures), draws))


def _augmix(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """AugMix of three chains at severity 3 x strength (1 to 10)."""
    return _of_bytes(augmix(_bytes(pictures), draws, severity=min(max(round(3 * strength), 1), 10)))


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255.0).round_().clamp_(0, 255).to(torch.uint8)


def _of_bytes(pictures: Tensor) -> Tensor:
    return pictures.to(torch.float32).div_(255.0)


def _cutout(pictures: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Fill a square of 0.3 x strength of the side, anywhere, with the mean colour (DeVries and Taylor 2017)."""
    side = pictures.shape[2]
    half = 0.15 * strength * side
    places = torch.arange(side, device=pictures.device, dtype=pictures.dtype) + 0.5
    rows = (places[None] - draws[:, :1] * side).abs() < half
    columns = (places[None] - draws[:, 1:2] * side).abs() < half
    hole = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(hole, pictures.mean(dim=(2, 3), keepdim=True), pictures)


GEOMETRY = {
    "flip": _Geometry(1, _flip),
    "quarter": _Geometry(1, _quarter),
    "rotate": _Geometry(1, _rotate),
    "zoom": _Geometry(1, _zoom),
    "stretch": _Geometry(1, _stretch),
    "shear": _Geometry(1, _shear),
    "translate": _Geometry(2, _translate),
}
COLOUR = {
    "brightness": _Colour(1, _brightness),
    "contrast": _Colour(1, _contrast),
    "saturation": _Colour(1, _saturation),
    "channels": _Colour(3, _channels),
    "stain": _Colour(3, _stain),
    "blur": _Colour(1, _blur),
    "noise": _Colour(2, _noise),
    "cutout": _Colour(2, _cutout),
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
"""A stand-in for pictures from the field: strong, mixed, seeded. Validation under it picks checkpoints by key."""
