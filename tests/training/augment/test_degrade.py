"""Blocking and pixelation against Pillow and plain NumPy; blur and noise are checked as steps in test_augment."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hemalens.data.synthetic import render_cell
from hemalens.training.augment.degrade import _steps, blur, chroma, jpeg, jpeg_like, noise, pixelate


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return np.stack([render_cell(name, size=52, seed=1) for name in ("neutrophil", "platelet", "basophil")])


def as_images(cells: np.ndarray) -> Tensor:
    return torch.from_numpy(cells).permute(0, 3, 1, 2).float() / 255


def draws(count: int, n: int = 3) -> Tensor:
    return torch.rand(n, count, generator=torch.Generator().manual_seed(1))


def saved(cell: np.ndarray, quality: int) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(cell).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer


def pillow(cell: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(Image.open(saved(cell, quality)))


@pytest.mark.parametrize("quality", [5, 25, 49, 50, 75, 90, 100])
def test_jpeg_is_pillows_up_to_its_whole_numbered_transforms(quality: int, cells: np.ndarray) -> None:
    ours = jpeg_like(as_images(cells), torch.full((3,), float(quality))) * 255
    for cell, image in zip(cells, ours.permute(0, 2, 3, 1).numpy(), strict=True):
        gap = np.abs(image - pillow(cell, quality).astype(float))
        # libjpeg's integer cosine transform rounds on its way: a coefficient at half a step may fall to the next step
        # and take its block along. Measured: 0.7 levels on average at most.
        assert gap.mean() < 0.75


def test_quantisation_steps_are_those_pillow_writes(cells: np.ndarray) -> None:
    for quality in range(1, 101):
        written = Image.open(saved(cells[0], quality)).quantization
        ours = _steps(torch.tensor([float(quality)], dtype=torch.float64), torch.device("cpu"))[0].flatten(1).int()
        assert ours[0].tolist() == list(written[0])
        assert ours[1].tolist() == ours[2].tolist() == list(written[1])


def test_each_sample_has_its_own_quality(cells: np.ndarray) -> None:
    images = as_images(cells)
    qualities = torch.tensor([90.0, 10.0, 40.0])
    together = jpeg_like(images, qualities)
    for index in range(3):
        alone = jpeg_like(images[index : index + 1], qualities[index : index + 1])
        assert torch.equal(together[index], alone[0])


def test_jpeg_draws_qualities_down_to_its_strength(cells: np.ndarray) -> None:
    images, drawn = as_images(cells), torch.tensor([[0.0], [0.5], [0.999]])
    assert torch.equal(jpeg(images, drawn, 1.0), jpeg_like(images, torch.tensor([100.0, 62.0, 25.0])))
    assert torch.equal(jpeg(images, drawn, 0.0), images)


def test_pixelate_averages_over_blocks(cells: np.ndarray) -> None:
    images, drawn = as_images(cells), torch.tensor([[0.0], [0.4], [0.9]])
    for index, after in enumerate(pixelate(images, drawn, 2.0).numpy()):
        blocks = round(52 / (1 + float(drawn[index]) * 6 * 52 / 64))
        own = np.floor((np.arange(52) + 0.5) * blocks / 52)
        for row in np.unique(own):
            for column in np.unique(own):
                block = np.ix_(range(3), own == row, own == column)
                wanted = images[index].numpy()[block].mean(axis=(1, 2))
                np.testing.assert_allclose(
                    after[block], np.broadcast_to(wanted[:, None, None], after[block].shape), atol=1e-5
                )


def test_pixelate_is_pillows_box_and_back_where_blocks_are_whole(cells: np.ndarray) -> None:
    factor = 4
    draw = torch.full((3, 1), (factor - 1) / (6 * 52 / 64))
    ours = pixelate(as_images(cells), draw, 2.0) * 255
    for cell, image in zip(cells, ours.permute(0, 2, 3, 1).numpy(), strict=True):
        small = Image.fromarray(cell).resize((52 // factor,) * 2, Image.Resampling.BOX)
        wanted = np.asarray(small.resize((52, 52), Image.Resampling.NEAREST)).astype(float)
        # Pillow rounds the mean of a block to a whole level, in two passes.
        assert np.abs(image - wanted).max() <= 1.01


def test_chroma_keeps_lightness_and_makes_colour_coarse(cells: np.ndarray) -> None:
    images, drawn = as_images(cells), torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.25]])
    luma = torch.tensor([0.299, 0.587, 0.114])
    for index, after in enumerate(chroma(images, drawn, 1.0)):
        before = images[index]
        lightness = torch.einsum("chw,c->hw", after, luma)
        torch.testing.assert_close(lightness, torch.einsum("chw,c->hw", before, luma), rtol=0, atol=1e-5)
        blue = (after[2] - lightness) / 1.772  # Cb of JFIF
        step = 16 * float(drawn[index, 1]) / 255
        torch.testing.assert_close(torch.round(blue / step) * step, blue, rtol=0, atol=1e-5)
        blocks = round(64 / (3 + 3 * float(drawn[index, 0])))
        own = torch.floor((torch.arange(52) + 0.5) * blocks / 52)
        assert all(blue[own == block][:, own == block].std() < 1e-5 for block in range(blocks))


@pytest.mark.parametrize("step", [blur, chroma, jpeg, noise, pixelate])
def test_by_no_strength_nothing_gets_worse(step, cells: np.ndarray) -> None:
    images = as_images(cells)
    torch.testing.assert_close(step(images, draws(2), 0.0), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", [blur, chroma, jpeg, noise, pixelate])
def test_a_stronger_step_changes_more(step, cells: np.ndarray) -> None:
    images = as_images(cells)

    def change(strength: float) -> float:
        return float((step(images, draws(2), strength) - images).abs().mean())

    assert change(2.0) > change(0.5) > 0
