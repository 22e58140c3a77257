"""Each batched operation against torchvision's own, on the same images and magnitudes."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from hemalens.data.synthetic import render_cell
from hemalens.training.augment.geometry import MOVES
from hemalens.training.augment.operations import OPERATIONS, apply_operations

MAGNITUDES = {
    "shear_x": (-0.3, 0.1, 0.99),
    "shear_y": (-0.3, 0.1, 0.99),
    "translate_x": (-14.5, 3.0, 30.0),
    "translate_y": (-14.5, 3.0, 30.0),
    "rotate": (-30.0, 9.0, 135.0),
    "brightness": (-0.9, 0.27, 0.9),
    "color": (-0.9, 0.27, 0.9),
    "contrast": (-0.9, 0.27, 0.9),
    "sharpness": (-0.9, 0.27, 0.9),
    "posterize": (8.0, 5.0, 2.0),
    "solarize": (1.0, 0.7, 0.0),
    "autocontrast": (0.0,),
    "equalize": (0.0,),
    "identity": (0.0,),
}
# Curves round where torchvision's float arithmetic rounds, and blends may differ in the last bit before truncation.
TOLERANCE = {"color": 1, "sharpness": 1, "contrast": 1, "autocontrast": 1}
# A nearest pixel is a matter of rounding at exact halves: two float orders may choose either neighbour.
OTHER_PIXELS = 0.002


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    cells = [render_cell(name, size=48, seed=1) for name in ("neutrophil", "platelet", "basophil")]
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    flat = np.full((48, 48, 3), 77, np.uint8)
    return torch.from_numpy(np.stack([*cells, noise, flat])).permute(0, 3, 1, 2).contiguous()


def expected(name: str, image: torch.Tensor, m: float, interpolation: str = "nearest") -> torch.Tensor:
    mode = InterpolationMode(interpolation)

    def affine(translate, shear, center):
        return reference.affine(image, 0.0, translate, 1.0, shear, mode, None, center)

    return {
        "identity": lambda: image,
        "shear_x": lambda: affine([0, 0], [math.degrees(math.atan(m)), 0.0], [0, 0]),
        "shear_y": lambda: affine([0, 0], [0.0, math.degrees(math.atan(m))], [0, 0]),
        "translate_x": lambda: affine([int(m), 0], [0.0, 0.0], None),
        "translate_y": lambda: affine([0, int(m)], [0.0, 0.0], None),
        "rotate": lambda: reference.rotate(image, m, mode),
        "brightness": lambda: reference.adjust_brightness(image, 1.0 + m),
        "color": lambda: reference.adjust_saturation(image, 1.0 + m),
        "contrast": lambda: reference.adjust_contrast(image, 1.0 + m),
        "sharpness": lambda: reference.adjust_sharpness(image, 1.0 + m),
        "posterize": lambda: reference.posterize(image, int(m)),
        "solarize": lambda: reference.solarize(image, 255 * m),
        "autocontrast": lambda: reference.autocontrast(image),
        "equalize": lambda: reference.equalize(image),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_torchvisions(name: str, images: torch.Tensor) -> None:
    for magnitude in MAGNITUDES[name]:
        number = torch.full((len(images), 1), OPERATIONS.index(name))
        ours = apply_operations(images, number, torch.full((len(images), 1), magnitude))
        theirs = torch.stack([expected(name, image, magnitude) for image in images])
        difference = (ours.int() - theirs.int()).abs()
        if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
            assert (difference > 0).float().mean() <= OTHER_PIXELS, f"{name} {magnitude}"
        else:
            assert difference.max() <= TOLERANCE.get(name, 0), f"{name} {magnitude}"


@pytest.mark.parametrize("name", MOVES)
def test_moves_between_pixels_are_torchvisions(name: str, images: torch.Tensor) -> None:
    for magnitude in MAGNITUDES[name]:
        number = torch.full((len(images), 1), OPERATIONS.index(name))
        ours = apply_operations(images, number, torch.full((len(images), 1), magnitude), interpolation="bilinear")
        theirs = torch.stack([expected(name, image, magnitude, "bilinear") for image in images])
        difference = (ours.int() - theirs.int()).abs()
        # Weights such as 3/4 put values on exact halves, where the last bit of a weight decides: one level, 1 in 70.
        assert difference.max() <= 1, f"{name} {magnitude}"
        assert (difference > 0).float().mean() <= 0.02, f"{name} {magnitude}"


def test_operations_follow_each_other_on_one_sample(images: torch.Tensor) -> None:
    turns = [("rotate", 30.0), ("solarize", 0.7), ("color", 0.27), ("shear_y", 0.1)]
    number = torch.tensor([[OPERATIONS.index(name) for name, _ in turns]]).expand(len(images), -1)
    together = apply_operations(images, number, torch.tensor([[m for _, m in turns]]).expand(len(images), -1))
    in_turn = images
    for name, magnitude in turns:
        own = torch.full((len(images), 1), OPERATIONS.index(name))
        in_turn = apply_operations(in_turn, own, torch.full((len(images), 1), magnitude))
    assert torch.equal(together, in_turn)


def test_several_chains_share_the_images(images: torch.Tensor) -> None:
    number = torch.arange(2 * len(images))[:, None] + 2
    magnitude = torch.full_like(number, 0.3, dtype=torch.float32)
    both = apply_operations(images, number, magnitude)
    assert torch.equal(both, apply_operations(images.repeat(2, 1, 1, 1), number, magnitude))


def test_no_images_give_no_images(images: torch.Tensor) -> None:
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    assert apply_operations(images[:0], nothing, nothing.float()).shape == (0, 3, 48, 48)


def test_each_sample_gets_its_own_operation(images: torch.Tensor) -> None:
    many = images[:1].expand(len(OPERATIONS), -1, -1, -1)
    magnitude = torch.tensor([MAGNITUDES[name][-1] for name in OPERATIONS])[:, None]
    together = apply_operations(many, torch.arange(len(OPERATIONS))[:, None], magnitude)
    for index in range(len(OPERATIONS)):
        alone = apply_operations(many[:1], torch.tensor([[index]]), magnitude[index : index + 1])
        assert torch.equal(together[index], alone[0]), OPERATIONS[index]


def test_the_input_is_left_as_it_was(images: torch.Tensor) -> None:
    before = images.clone()
    apply_operations(images, torch.arange(1, 11).reshape(len(images), 2), torch.full((len(images), 2), 0.2))
    assert torch.equal(images, before)


def test_mirrored_geometry_shows_no_black(images: torch.Tensor) -> None:
    bright = images.clamp(min=50)
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        number = torch.full((len(bright), 1), OPERATIONS.index(name))
        moved = apply_operations(bright, number, torch.full((len(bright), 1), MAGNITUDES[name][-1]), beyond="mirror")
        assert moved.min() >= 50
