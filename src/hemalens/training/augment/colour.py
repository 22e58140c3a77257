"""Steps that change the colours of images (N, 3, H, W) float in [0, 1], every sample by its own draws (N, k).

Strength 0 leaves an image as it is. Values may leave [0, 1]; ``augment_batch`` clamps them at the end.
"""

import math

import torch
from torch import Tensor

__all__ = ["brightness", "channels", "contrast", "hed", "hue", "permute", "saturation", "signed", "stain", "vivid"]

_PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001)."""


def signed(draws: Tensor) -> Tensor:
    """Map uniform draws from [0, 1) to [-1, 1)."""
    return draws * 2.0 - 1.0


def brightness(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Multiply by 1 plus or minus up to 0.3 x strength."""
    return images * (1.0 + 0.3 * strength * signed(draws[:, :1, None, None])).clamp_(min=0.0)


def contrast(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Stretch around the image's mean by 1 plus or minus up to 0.3 x strength."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (1.0 + 0.3 * strength * signed(draws[:, :1, None, None])).clamp_(min=0.0)


def saturation(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Stretch around each pixel's grey by 1 plus or minus up to 0.5 x strength."""
    grey = images.mean(dim=1, keepdim=True)
    return grey + (images - grey) * (1.0 + 0.5 * strength * signed(draws[:, :1, None, None])).clamp_(min=0.0)


def vivid(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Add up to 0.25 x strength to the saturation of hue, saturation and value, or take it away; hue and value stay.

    Unlike a stretch around the grey it colours a pale background as much as the cell. Grey pixels have no hue and stay.
    """
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    wanted = (chroma + 0.25 * strength * signed(draws[:, :1, None, None]) * value).clamp_(min=0.0)
    factor = torch.minimum(wanted, value) / torch.where(chroma == 0, 1.0, chroma)
    return value - (value - images) * factor


def channels(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Add up to 0.1 x strength to each channel on its own: another lamp, another white balance."""
    return images + 0.1 * strength * signed(draws[:, :3, None, None])


def permute(images: Tensor, draws: Tensor, _strength: float) -> Tensor:
    """Put the channels into one of their six orders, evenly; it has no strength."""
    orders = torch.tensor(_PERMUTATIONS, device=images.device)[(draws[:, 0] * 6).to(torch.int64)]
    planes = orders + 3 * torch.arange(len(images), device=images.device)[:, None]
    return images.reshape(-1, *images.shape[2:]).index_select(0, planes.reshape(-1)).reshape(images.shape)


def hue(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Turn the hue by up to 0.1 x strength of the colour circle to either side; value and chroma stay."""
    shift = 0.6 * strength * signed(draws[:, :1, None])
    red, green, blue = images.unbind(dim=1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    span = torch.where(chroma == 0, 1.0, chroma)
    sector = torch.where(value == green, 2.0 + (blue - red) / span, 4.0 + (red - green) / span)
    sector = torch.where(value == red, (green - blue) / span, sector) + shift
    # Smith 1978 in one formula for all sectors: each channel is the value less chroma times a trapezoid of the hue.
    turned = []
    for start in (5.0, 3.0, 1.0):
        index = (sector + start).remainder_(6.0)
        turned.append(value - chroma * torch.minimum(index, 4.0 - index).clamp_(0.0, 1.0))
    return torch.stack(turned, dim=1)


def stain(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Scale the optical density of each channel by 1 plus or minus up to 0.3 x strength: a thicker or thinner dye."""
    factor = (1.0 + 0.3 * strength * signed(draws[:, :3, None, None])).clamp_(min=0.0)
    offset = 1.0 / 256.0  # keeps black from having an endless density
    # An earlier step may have gone below black, where a power is not a number.
    return ((images.clamp(min=0.0) + offset) / (1.0 + offset)).pow(factor) * (1.0 + offset) - offset


def hed(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Scale and shift the amounts of haematoxylin, eosin and DAB by up to 0.05 x strength each (Tellez et al. 2018).

    The amounts are those of the decimal optical density, -log10(value + 1/256), so that black has a finite one.
    """
    matrix = torch.tensor(_HED, dtype=torch.float64)
    apart = torch.linalg.inv(matrix).to(images)
    together = matrix.to(images)
    scale = 1.0 + 0.05 * strength * signed(draws[:, :3])
    move = 0.05 * strength * signed(draws[:, 3:6])
    # Apart, changed and together again is one 3 x 3 matrix and one shift for each sample.
    change = torch.einsum("ij,nj,jk->nki", apart, scale, together)
    offset = 1.0 / 256.0
    density = torch.log((images.flatten(2).clamp(min=0.0) + offset) / (1.0 + offset))
    moved = change @ density - math.log(10.0) * (move @ together)[:, :, None]
    return (torch.exp(moved) * (1.0 + offset) - offset).reshape(images.shape)
