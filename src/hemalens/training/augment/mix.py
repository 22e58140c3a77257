"""MixUp and CutMix as functions of (seed, epoch, key): an image's partner comes from the whole set, not its batch.

So an image is mixed the same way in whatever batch, process or resumed run it appears.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from hemalens.training.augment.random import uniform

__all__ = ["MixPlan", "mix_images", "mix_plan"]

_ALPHA = 0.2
"""Of MixUp's Beta(alpha, alpha); Zhang et al. 2018 use 0.1 to 0.4 for ImageNet."""
_QUANTILES = 4096


@dataclass(frozen=True, slots=True)
class MixPlan:
    """With whom and how each of N images is mixed.

    Attributes:
        partner: indices in the training set (N,) int64.
        mixed: (N,) bool.
        pasted: (N,) bool: by CutMix rather than MixUp.
        share: (N,) float32 in [0, 1], the drawn share of the own image; 1 where it is not mixed.
        centre: of CutMix's box (N, 2) float32 in [0, 1): row, column.
    """

    partner: Tensor
    mixed: Tensor
    pasted: Tensor
    share: Tensor
    centre: Tensor

    def of(self, chosen: Tensor) -> "MixPlan":
        """Return the plan of some images, given by their indices or as a mask."""
        return MixPlan(
            self.partner[chosen], self.mixed[chosen], self.pasted[chosen], self.share[chosen], self.centre[chosen]
        )


def mix_plan(
    keys: Tensor, *, seed: int, epoch: int, total: int, kind: Literal["mixup", "cutmix", "both"], probability: float
) -> MixPlan:
    """Draw with whom and how images are mixed.

    Args:
        keys: (N,) int64, one an image; equal keys are mixed alike.
        seed: of the run.
        epoch: number of the pass.
        total: images in the training set; each is an equally likely partner.
        kind: mixup (share of Beta(0.2, 0.2); Zhang et al. 2018), cutmix (share even; Yun et al. 2019), or both with
            even chances.
        probability: that an image is mixed.
    """
    drawn = uniform(keys, seed=seed, epoch=epoch, stream="mix", count=7)
    # Two draws of 24 bits: one would leave out partners in sets of more than 16 million.
    index = (drawn[:, 0].to(torch.float64) + drawn[:, 1].to(torch.float64) * 2.0**-24) * total
    mixed = drawn[:, 2] < probability
    pasted = drawn[:, 3] < {"mixup": 0.0, "cutmix": 1.0, "both": 0.5}[kind]
    share = torch.where(pasted, drawn[:, 4], _beta(drawn[:, 4]))
    share = torch.where(mixed, share, torch.ones_like(share))
    return MixPlan(index.to(torch.int64).clamp_(max=total - 1), mixed, pasted, share, drawn[:, 5:])


def mix_images(images: Tensor, partners: Tensor, plan: MixPlan) -> tuple[Tensor, Tensor]:
    """Return the mixed images (N, 3, S, S) and each one's share of its own label (N,) float32.

    MixUp blends: share x own + (1 - share) x partner. CutMix shows the partner in a box of the own image's shape and
    1 - share of its area; the box is cut at the border, and the share is the one that it leaves.

    Args:
        images: (N, 3, S, S) float.
        partners: the same, of the plan's partners.
        plan: of these images.
    """
    box, kept = _boxes(plan, images.shape[2])
    share = torch.where(plan.pasted, kept, plan.share)
    # One formula, exact at both ends: CutMix is a blend whose weight is 0 inside the box and 1 outside.
    weight = torch.where(plan.pasted[:, None, None], (~box).to(images.dtype), plan.share[:, None, None])[:, None]
    return images * weight + partners * (1.0 - weight), share


def _boxes(plan: MixPlan, side: int) -> tuple[Tensor, Tensor]:
    """Return CutMix's boxes (N, S, S) bool and the share of the image outside (N,), as the paper's code cuts them."""
    half = torch.floor(torch.floor(side * (1.0 - plan.share).sqrt()) / 2)[:, None]
    centre = torch.floor(plan.centre * side)
    indices = torch.arange(side, device=half.device)
    rows, columns = (
        (indices >= centre[:, axis, None] - half) & (indices < centre[:, axis, None] + half) for axis in (0, 1)
    )
    area = rows.sum(dim=1) * columns.sum(dim=1)
    return rows[:, :, None] & columns[:, None, :], 1.0 - area / (side * side)


def _beta(draws: Tensor) -> Tensor:
    """Map uniform draws (N,) to Beta(0.2, 0.2) by its quantiles."""
    table = _quantiles(draws.device)
    index = draws * _QUANTILES
    lower = index.to(torch.int64)
    return table[lower] + (table[lower + 1] - table[lower]) * (index - lower)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Return the quantiles of Beta(0.2, 0.2) at 0, 1/4096, ... 1 (4097,) float32."""
    levels = np.linspace(0.0, 1.0, _QUANTILES + 1)
    return torch.from_numpy(betaincinv(_ALPHA, _ALPHA, levels)).to(device, torch.float32)
