"""Colour steps against torchvision and plain NumPy formulas."""

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

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


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def draws(count: int, n: int = 8) -> Tensor:
    return torch.rand(n, count, generator=torch.Generator().manual_seed(1))


def test_signed_draws_reach_from_minus_one_to_one() -> None:
    assert signed(torch.tensor([0.0, 0.5, 0.75])).tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])
def test_hue_turns_as_torchvision_does(strength: float, images: Tensor) -> None:
    images[0] = 0.4  # grey has no hue
    images[1, :, 0] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    drawn = draws(1)
    for before, after, (draw,) in zip(images, hue(images, drawn, strength), drawn.tolist(), strict=True):
        wanted = vision.adjust_hue(before, 0.1 * strength * (2 * draw - 1))
        # Float32 on both sides, in another order of operations.
        torch.testing.assert_close(after, wanted, rtol=0, atol=1e-5)


def test_hue_of_one_colour_is_that_of_the_standard_library() -> None:
    turned = hue(torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1), torch.tensor([[1.0]]), 1.0).flatten()
    h, s, v = colorsys.rgb_to_hsv(0.2, 0.5, 0.9)
    np.testing.assert_allclose(turned.numpy(), colorsys.hsv_to_rgb((h + 0.1) % 1, s, v), atol=1e-6)


def test_permute_uses_all_six_orders_and_nothing_else(images: Tensor) -> None:
    drawn = (torch.arange(6) + 0.5)[:, None] / 6
    orders = set()
    for before, after in zip(images, permute(images[:6], drawn, 1.0), strict=False):
        order = [int(np.argmax([torch.equal(plane, source) for source in before])) for plane in after]
        assert torch.equal(after, vision.permute_channels(before, order))
        orders.add(tuple(order))
    assert len(orders) == 6


def test_hed_changes_the_amounts_of_three_dyes(images: Tensor) -> None:
    matrix = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    drawn, strength = draws(6), 2.0
    alpha = 1 + 0.05 * strength * (2 * drawn[:, :3].double().numpy() - 1)
    beta = 0.05 * strength * (2 * drawn[:, 3:].double().numpy() - 1)
    for index, after in enumerate(hed(images, drawn, strength)):
        values = (images[index].double().numpy() + 1 / 256) / (1 + 1 / 256)
        amounts = -np.log10(values).transpose(1, 2, 0) @ np.linalg.inv(matrix)
        density = (amounts * alpha[index] + beta[index]) @ matrix
        wanted = (10**-density * (1 + 1 / 256) - 1 / 256).transpose(2, 0, 1)
        # The inverse of the matrix is up to 6 in size, so float32 loses a digit.
        np.testing.assert_allclose(after.numpy(), wanted, atol=2e-5)


def test_vivid_adds_to_the_saturation_alone(images: Tensor) -> None:
    drawn = draws(1)
    for before, draw, after in zip(
        images.flatten(2), drawn[:, 0].tolist(), vivid(images, drawn, 2.0).flatten(2), strict=True
    ):
        for old, new in zip(before.T.tolist(), after.T.tolist(), strict=True):
            hue_, saturation_, value = colorsys.rgb_to_hsv(*old)
            wanted = colorsys.hsv_to_rgb(hue_, min(max(saturation_ + 0.5 * (2 * draw - 1), 0.0), 1.0), value)
            assert new == pytest.approx(wanted, abs=1e-5)


def test_vivid_leaves_grey_grey() -> None:
    grey = torch.full((8, 3, 2, 2), 0.4)
    assert torch.equal(vivid(grey, draws(1), 3.0), grey)


@pytest.mark.parametrize("step", [brightness, channels, contrast, hed, hue, saturation, stain, vivid])
def test_by_no_strength_colours_stay(step, images: Tensor) -> None:
    torch.testing.assert_close(step(images, draws(6), 0.0), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", [hed, stain])
def test_dyes_on_black_and_below_are_numbers(step) -> None:
    dark = torch.tensor([-0.5, 0.0, 1e-9]).view(1, 3, 1, 1).expand(8, 3, 2, 2)
    assert torch.isfinite(step(dark, draws(6), 10.0)).all()
