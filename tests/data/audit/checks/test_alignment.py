"""What a fit leaves open: nothing of a copy, little of a crop, much of another cell, whatever the light."""

import numpy as np
import pytest
from PIL import Image

from hemalens.core.types import Images
from hemalens.data.audit.checks.alignment import residual
from hemalens.data.audit.statistics import THUMBNAIL
from hemalens.data.synthetic import SyntheticSet


def thumbnail(image: Image.Image) -> Images:
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


@pytest.fixture(scope="module")
def images(cells: SyntheticSet) -> list[Image.Image]:
    return [Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC) for pixels in cells.images[::4]]


@pytest.fixture(scope="module")
def plain(images: list[Image.Image]) -> Images:
    return np.stack([thumbnail(image) for image in images])


def test_a_image_explains_itself_and_a_darker_copy(plain: Images) -> None:
    assert residual(plain, plain).max() < 1e-4
    darker = (plain * 0.6 + 20).round().astype(np.uint8)
    assert residual(plain, darker).max() < 0.01


def test_a_copy_that_lost_light_beyond_white_is_explained(plain: Images) -> None:
    brighter = np.minimum(plain * 1.15, 255).astype(np.uint8)
    assert (brighter == 255).mean() > 0.1
    assert np.quantile(residual(plain, brighter), 0.98) < 0.02
    assert np.allclose(residual(plain, brighter), residual(brighter, plain))


@pytest.mark.parametrize("box", [(2, 2, 94, 94), (2, 2, 96, 96), (0, 0, 94, 96)])
def test_a_narrow_crop_is_explained(images: list[Image.Image], plain: Images, box: tuple[int, int, int, int]) -> None:
    cropped = np.stack([thumbnail(image.crop(box)) for image in images])
    assert np.quantile(residual(plain, cropped), 0.95) < 0.03


def test_another_cell_a_negative_and_a_far_shift_are_not(plain: Images) -> None:
    others = residual(plain, np.roll(plain, 1, axis=0))
    assert others.min() > 0.05
    assert np.median(others) > 0.3
    assert residual(plain, 255 - plain).min() > 0.5
    assert np.quantile(residual(plain, np.roll(plain, 3, axis=1)), 0.05) > 0.05


def test_blanks_and_shapes_on_white_paper_are_no_copies_of_each_other() -> None:
    paper = np.full((2, THUMBNAIL, THUMBNAIL, 3), 255, np.uint8)
    paper[0, 3:9, 3:9] = paper[1, 7:13, 6:14] = (120, 60, 140)
    assert residual(paper[:1], paper[1:])[0] > 0.3
    assert residual(paper[:1], np.full_like(paper[:1], 255))[0] >= 0
    assert len(residual(paper[:0], paper[:0])) == 0
