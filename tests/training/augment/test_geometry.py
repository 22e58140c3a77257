"""Movements of uint8 images against NumPy's mirrored borders, and at the ends of their range."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hemalens.training.augment.geometry import MOVES, rotate, shear_x, shear_y, store, translate_x, translate_y


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def amounts(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None]


def mirrored(image: Tensor) -> np.ndarray:
    """The image with a whole mirrored one on every side."""
    height, width = image.shape[1:]
    return np.pad(image.numpy(), ((0, 0), (height, height), (width, width)), mode="symmetric")


def test_translations_show_the_mirrored_image_each_by_its_own_amount(images: Tensor) -> None:
    moves = (-24.0, -3.7, 0.4, 5.0, 19.9)
    right, down = images.clone(), images.clone()
    translate_x(right, amounts(*moves), "mirror", "nearest")
    translate_y(down, amounts(*(move / 24 * 20 for move in moves)), "mirror", "nearest")
    for index, move in enumerate(moves):
        wide = mirrored(images[index])
        first = 24 - int(move)
        assert np.array_equal(right[index].numpy(), wide[:, 20:40, first : first + 24])
        first = 20 - int(move / 24 * 20)
        assert np.array_equal(down[index].numpy(), wide[:, first : first + 20, 24:48])


def test_a_shear_slides_each_row_by_its_distance_from_the_corner(images: Tensor) -> None:
    slopes = (-0.9, -0.3, 0.0, 0.25, 1.0)
    sheared = images.clone()
    shear_x(sheared, amounts(*slopes), "mirror", "nearest")
    for index, slope in enumerate(slopes):
        wide = mirrored(images[index])
        for row in range(20):
            first = 24 + int(np.round(np.float32(slope) * np.float32(row + 0.5)))
            assert np.array_equal(sheared[index, :, row].numpy(), wide[:, 20 + row, first : first + 24])


def test_a_shear_down_is_a_shear_across_of_the_transposed_image(images: Tensor) -> None:
    slopes = amounts(-0.9, -0.3, 0.0, 0.25, 1.0)
    for interpolation in ("nearest", "bilinear"):
        down, across = images.clone(), images.transpose(2, 3).contiguous()
        shear_y(down, slopes, "mirror", interpolation)
        shear_x(across, slopes, "mirror", interpolation)
        assert torch.equal(down, across.transpose(2, 3))
        assert not torch.equal(down, images)


def test_between_pixels_a_shear_is_a_weighted_mean_of_two(images: Tensor) -> None:
    sheared = images.clone()
    shear_x(sheared, amounts(0.5, 0.5, 0.5, 0.5, 0.5), "black", "bilinear")
    # The first row slides by a quarter of a pixel.
    wanted = images[:, :, 0, :-1] * 0.75 + images[:, :, 0, 1:] * 0.25
    assert torch.equal(sheared[:, :, 0, :-1], wanted.round().to(torch.uint8))


def test_a_right_angle_is_a_quarter_turn(images: Tensor) -> None:
    square = images[..., :20].contiguous()
    wanted = torch.rot90(square, 1, (2, 3))
    rotate(square, amounts(90, 90, 90, 90, 90), "black", "nearest")
    assert torch.equal(square, wanted)


@pytest.mark.parametrize("name", MOVES)
def test_by_no_amount_nothing_moves(name: str, images: Tensor) -> None:
    for interpolation in ("nearest", "bilinear"):
        moved = images.clone()
        MOVES[name](moved, amounts(0, 0, 0, 0, 0), "mirror", interpolation)
        assert torch.equal(moved, images)


def test_stored_values_are_rounded_down() -> None:
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    store(images, torch.tensor([0.9, 128.5, 255.9]).view(1, 3, 1, 1))
    assert images.flatten().tolist() == [0, 128, 255]
