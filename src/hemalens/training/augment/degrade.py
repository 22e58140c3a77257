"""Steps that make images (N, 3, S, S) float in [0, 1] worse as cameras and files do, each sample by its own draws."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from hemalens.training.augment.random import uniform

__all__ = ["blur", "chroma", "jpeg", "jpeg_like", "noise", "pixelate"]

_BANK = 1 << 21
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""The steps of quality 50 (ITU T.81, tables K.1 and K.2)."""
_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""Luma and chroma of red, green and blue (JFIF 1.02)."""


def blur(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Blur with a Gaussian of standard deviation up to 1.5 x strength pixels at 64 px, in proportion at other sizes."""
    n, channels, side = images.shape[:3]
    sigma = (draws[:, 0] * 1.5 * strength * side / 64.0).clamp(min=1e-2)
    radius = max(1, math.ceil(3.0 * 1.5 * strength * side / 64.0))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = functional.pad(images, (radius, radius, radius, radius), mode="replicate")
    planes = planes.reshape(1, n * channels, *planes.shape[2:])
    planes = functional.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    planes = functional.conv2d(planes, kernel[:, None, None, :], groups=n * channels)
    return planes.reshape(images.shape)


def noise(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Add Gaussian noise of standard deviation up to 0.1 x strength: a drawn stretch of a fixed bank."""
    bank = _noise_bank(images.device)
    starts = (draws[:, 1:2] * _BANK).to(torch.int64)
    places = torch.arange(images[0].numel(), device=images.device)
    normal = bank[(starts + places) % _BANK].reshape(images.shape)
    return images + normal * (0.1 * strength * draws[:, :1, None, None])


@cache
def _noise_bank(device: torch.device) -> Tensor:
    """Return normal numbers (2 ** 21,) by Box and Muller 1958; drawing each pixel anew costs 20 times as much."""
    pairs = uniform(torch.arange(_BANK, device=device), seed=0, epoch=0, stream="noise", count=2)
    return torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0])) * torch.cos(2.0 * math.pi * pairs[:, 1])


def pixelate(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Average over blocks of 1 to 1 + 3 x strength pixels a side at 64 px, in proportion at other sizes."""
    side = images.shape[2]
    factor = 1.0 + draws[:, 0] * 3.0 * strength * side / 64.0
    blocks = torch.round(side / factor).clamp_(min=1.0)[:, None]
    average = _block_average(side, blocks, images)
    return average @ images @ average.transpose(2, 3)


def _block_average(side: int, blocks: Tensor, like: Tensor) -> Tensor:
    """Return the matrices (N, 1, S, S) that average rows over so many blocks a side (N, 1): columns from the right."""
    centres = torch.arange(side, device=like.device) + 0.5
    block = torch.floor(centres * (blocks / side))
    same = (block[:, :, None] == block[:, None, :]).to(like.dtype)
    return (same / same.sum(dim=2, keepdim=True))[:, None]


def chroma(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Keep colour only in blocks and coarse steps, lightness whole: what strong JPEG leaves of a larger image.

    Red and blue chroma are averaged over blocks of 3 to 6 pixels at 64 px (in proportion at other sizes), the 16 pixels
    of an image of 170 to 340 px with halved chroma, and rounded to steps of up to 16 x strength of 256 levels, those
    of a block's mean at quality 7.
    """
    if strength == 0:
        return images
    side = images.shape[2]
    matrix = torch.tensor(_YCC, dtype=images.dtype, device=images.device)
    ycc = torch.einsum("ij,njhw->nihw", matrix, images)
    blocks = torch.round(64.0 / (3.0 + 3.0 * draws[:, 0])).clamp_(max=side)[:, None]
    average = _block_average(side, blocks, images)
    step = ((draws[:, 1] * 16.0 * strength).clamp_(min=1.0) / 255.0)[:, None, None, None]
    ycc[:, 1:] = torch.round(average @ ycc[:, 1:] @ average.transpose(2, 3) / step) * step
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), ycc)


def jpeg(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Store as JPEG of a quality between 100 and 100 - 75 x strength (1 at least)."""
    if strength == 0:
        return images
    quality = torch.round(100.0 - draws[:, 0] * 75.0 * strength).clamp_(min=1.0)
    return jpeg_like(images, quality)


def jpeg_like(images: Tensor, quality: Tensor) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] as a JPEG without chroma subsampling keeps them.

    Colours in YCbCr, 8 x 8 cosine transform, coefficients rounded to the table that libjpeg derives from the quality
    (N,) of 1 to 100, and back.
    """
    height, width = images.shape[2:]
    values = functional.pad(
        torch.round(images * 255.0).clamp_(0, 255), (0, -width % 8, 0, -height % 8), mode="replicate"
    ).to(torch.float64)
    matrix = torch.tensor(_YCC, dtype=torch.float64, device=images.device)
    # Float64 and a margin at the halves: the order of a sum, which may depend on the batch, cannot decide a rounding.
    ycc = _rounded(torch.einsum("ij,njhw->nihw", matrix, values))  # luma lies 128 above, as libjpeg centres it
    ycc[:, 0] -= 128.0
    steps = _steps(quality.to(torch.float64), images.device)[:, :, None, :, None, :]
    transform = _cosines(images.device)
    blocks = ycc.reshape(*ycc.shape[:2], ycc.shape[2] // 8, 8, ycc.shape[3] // 8, 8)
    kept = _rounded(torch.einsum("ij,nchjwk,lk->nchiwl", transform, blocks, transform) / steps) * steps
    ycc = _rounded(torch.einsum("ji,nchjwk,kl->nchiwl", transform, kept, transform)).reshape(ycc.shape)
    ycc[:, 0] = (ycc[:, 0] + 128.0).clamp_(0, 255)
    ycc[:, 1:].clamp_(-128, 127)
    back = _rounded(torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), ycc)).clamp_(0, 255)
    return (back[:, :, :height, :width] / 255.0).to(images.dtype)


def _rounded(values: Tensor) -> Tensor:
    """Round to whole numbers, halves away from zero as libjpeg does."""
    return torch.floor(values.abs() + (0.5 + 1e-7)) * values.sign()


def _steps(quality: Tensor, device: torch.device) -> Tensor:
    """Return the quantisation steps (N, 3, 8, 8) of each quality, as libjpeg's jpeg_quality_scaling."""
    scale = torch.where(quality < 50, torch.floor(5000.0 / quality), 200.0 - 2.0 * quality)
    tables = torch.tensor((_LUMA, _CHROMA, _CHROMA), dtype=torch.float64, device=device)
    return torch.floor((tables * scale[:, None, None, None] + 50.0) / 100.0).clamp_(1.0, 255.0)


def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal cosine transform of 8 values (8, 8) float64."""
    places = torch.arange(8, dtype=torch.float64, device=device)
    waves = torch.cos((2 * places[None] + 1) * places[:, None] * (math.pi / 16)) / 2
    waves[0] /= math.sqrt(2)
    return waves
