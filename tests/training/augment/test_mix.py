"""Mixing as a function of the key: the papers' distributions and boxes, and no dependence on the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from hemalens.training.augment.mix import MixPlan, mix_images, mix_plan


def plan_of(n: int, *, kind: str = "both", probability: float = 1.0, total: int = 1000, epoch: int = 1) -> MixPlan:
    return mix_plan(torch.arange(n), seed=3, epoch=epoch, total=total, kind=kind, probability=probability)


def pair(n: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, size, size, generator=generator), torch.rand(n, 3, size, size, generator=generator)


def fields(plan: MixPlan) -> tuple[Tensor, ...]:
    return plan.partner, plan.mixed, plan.pasted, plan.share, plan.centre


def test_shares_of_mixup_are_beta_distributed() -> None:
    share = plan_of(20_000, kind="mixup").share.double().numpy()
    # The half below 1/2, where float32 keeps every digit; close to 1 many shares round to 1.
    lower = share[share < 0.5]
    assert stats.kstest(2 * stats.beta(0.2, 0.2).cdf(lower), "uniform").pvalue > 1e-3
    assert len(lower) == pytest.approx(10_000, abs=300)
    assert 1 - share[share > 0.5].mean() == pytest.approx(lower.mean(), abs=0.01)
    assert share.min() >= 0
    assert share.max() <= 1


def test_shares_of_cutmix_are_even() -> None:
    assert stats.kstest(plan_of(20_000, kind="cutmix").share.numpy(), "uniform").pvalue > 1e-3


def test_partners_are_every_image_of_the_set_evenly() -> None:
    counts = torch.bincount(plan_of(20_000, total=50).partner, minlength=50).numpy()
    assert len(counts) == 50
    assert stats.chisquare(counts).pvalue > 1e-3
    assert int(plan_of(20_000, total=1).partner.max()) == 0


def test_partners_of_a_set_of_billions_are_not_on_a_grid() -> None:
    partners = plan_of(2000, total=2**33).partner
    assert len(torch.unique(partners % 512)) > 400  # 24 bits alone would leave only multiples of 512


def test_kinds_and_probability_are_kept() -> None:
    assert not plan_of(500, kind="mixup").pasted.any()
    assert plan_of(500, kind="cutmix").pasted.all()
    assert float(plan_of(4000).pasted.float().mean()) == pytest.approx(0.5, abs=0.03)
    some = plan_of(4000, probability=0.3)
    assert float(some.mixed.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(some.share[~some.mixed], torch.ones(int((~some.mixed).sum())))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 8), st.sampled_from(["mixup", "cutmix", "both"]))
def test_a_key_is_mixed_the_same_in_any_batch(order: list[int], count: int, kind: str) -> None:
    keys, (own, other) = torch.arange(8) * 977 + 2**40, pair(8)
    chosen = torch.tensor(order[:count])

    def plan(some: Tensor) -> MixPlan:
        return mix_plan(some, seed=1, epoch=2, total=99, kind=kind, probability=0.7)

    together, alone = plan(keys), plan(keys[chosen])
    for one, another in zip(fields(together.of(chosen)), fields(alone), strict=True):
        assert torch.equal(one, another)
    images, share = mix_images(own, other, together)
    part, own_share = mix_images(own[chosen], other[chosen], alone)
    assert torch.equal(images[chosen], part)
    assert torch.equal(share[chosen], own_share)


def test_another_epoch_mixes_with_others() -> None:
    assert (plan_of(200).partner != plan_of(200, epoch=2).partner).float().mean() > 0.9


def test_mixup_blends_by_its_share() -> None:
    own, other = pair(40)
    plan = plan_of(40, kind="mixup")
    mixed, share = mix_images(own, other, plan)
    assert torch.equal(share, plan.share)
    weight = share.numpy()[:, None, None, None]
    np.testing.assert_allclose(mixed.numpy(), own.numpy() * weight + other.numpy() * (1 - weight), atol=1e-6)


def test_cutmix_pastes_the_papers_box_and_shares_by_its_area() -> None:
    own, other = pair(200)
    plan = plan_of(200, kind="cutmix")
    mixed, share = mix_images(own, other, plan)
    for index in range(200):
        # rand_bbox of the paper's code.
        cut = int(16 * np.sqrt(1 - np.float32(plan.share[index])))
        row, column = (int(16 * float(value)) for value in plan.centre[index])
        top, bottom = np.clip([row - cut // 2, row + cut // 2], 0, 16)
        left, right = np.clip([column - cut // 2, column + cut // 2], 0, 16)
        wanted = own[index].clone()
        wanted[:, top:bottom, left:right] = other[index, :, top:bottom, left:right]
        assert torch.equal(mixed[index], wanted)
        assert float(share[index]) == pytest.approx(1 - (bottom - top) * (right - left) / 256, abs=1e-6)


def test_what_is_not_mixed_stays() -> None:
    own, other = pair(20)
    mixed, share = mix_images(own, other, plan_of(20, probability=0.0))
    assert torch.equal(mixed, own)
    assert torch.equal(share, torch.ones(20))
