"""What occlusions hide, counted against their papers' ranges."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from hemalens.training.augment.occlude import BLOTS_DRAWS, blots, cutout, erase, gridmask


def draws(count: int, n: int = 400) -> Tensor:
    return torch.rand(n, count, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images() -> Tensor:
    return torch.full((400, 3, 42, 42), 2.0)  # no occlusion fills with a value like this


def test_erase_hides_one_rectangle_of_the_drawn_area_and_shape(images: Tensor) -> None:
    drawn = draws(5)
    hidden = (erase(images, drawn, 1.0) != 2.0).any(dim=1)
    for hole, (area, aspect, *_) in zip(hidden, drawn.tolist(), strict=True):
        rows, columns = int(hole.any(dim=1).sum()), int(hole.any(dim=0).sum())
        assert int(hole.sum()) == rows * columns
        wanted, shape = (0.02 + 0.31 * area) * 42 * 42, 0.3 * 11**aspect
        assert rows == min(round(math.sqrt(wanted * shape)), 42)
        assert columns == min(round(math.sqrt(wanted / shape)), 42)


def test_erase_hides_as_much_as_torchvision_does(images: Tensor) -> None:
    ours = (erase(images, draws(5), 1.0) != 2.0).float().mean()
    torch.manual_seed(0)
    theirs = torch.stack([v2.RandomErasing(p=1.0)(image) for image in images]).ne(2.0).float().mean()
    # The mean of 400 areas of 2 to 33 % has a standard error of 0.5 %.
    assert float(ours) == pytest.approx(float(theirs), abs=0.02)


def test_erase_reaches_every_border_and_fills_evenly(images: Tensor) -> None:
    erased = erase(images, draws(5), 1.0)
    hidden = (erased != 2.0).any(dim=1)
    for border in (hidden[:, 0], hidden[:, -1], hidden[:, :, 0], hidden[:, :, -1]):
        assert border.any()
    values = erased[erased != 2.0]
    assert values.min() >= 0
    assert values.max() < 1
    assert float(values.mean()) == pytest.approx(0.5, abs=0.01)


def test_gridmask_hides_squares_at_the_drawn_distance(images: Tensor) -> None:
    drawn = draws(3)
    hidden = (gridmask(images, drawn, 1.0) == 0.0).all(dim=1)
    for hole, (unit, down, across) in zip(hidden, drawn.tolist(), strict=True):
        length = (3 + 4 * unit) / 7 * 42
        for row in range(0, 42, 5):
            for column in range(0, 42, 5):
                wanted = all(
                    (index + 0.5 + shift * length) % length < 0.4 * length
                    for index, shift in ((row, down), (column, across))
                )
                assert bool(hole[row, column]) == wanted


def test_gridmask_keeps_what_the_paper_says(images: Tensor) -> None:
    hidden = float((gridmask(images, draws(3), 1.0) == 0).float().mean())
    # Equation 1 of the paper: 1 - (1 - r)^2 = 84 % kept with r = 0.6.
    assert 1 - hidden == pytest.approx(0.84, abs=0.02)


def test_blots_are_one_to_three_dark_spots_of_the_drawn_size(images: Tensor) -> None:
    large = torch.nn.functional.interpolate(images[:60], size=200)
    drawn = draws(BLOTS_DRAWS, 60)
    spots = drawn[:, 2:].view(60, 6, 3)
    spots[:, :2] = 0.25 + 0.5 * spots[:, :2]  # none is cut by the border
    spots[:, 3] = 0.0  # round
    after = blots(large, drawn, 1.0)
    found = set()
    for image, (count, dark, *_), own in zip(after, drawn.tolist(), spots.transpose(1, 2).tolist(), strict=True):
        hidden = image[0] != 2.0
        assert float(image[:, hidden].max()) == pytest.approx(2.0 * 0.3 * dark, abs=1e-6)
        indices = torch.arange(200) + 0.5
        wanted = torch.zeros(200, 200, dtype=torch.bool)
        for x, y, size, *_ in own[: int(count * 3) + 1]:
            radius = (0.03 + 0.05 * size) * 200
            wanted |= (indices[:, None] - y * 200) ** 2 + (indices - x * 200) ** 2 < radius**2
        assert (hidden != wanted).float().mean() < 1e-3
        found.add(int(count * 3))
    assert found == {0, 1, 2}


def test_a_ragged_blot_is_no_disc(images: Tensor) -> None:
    drawn = draws(BLOTS_DRAWS)
    ragged = blots(images, drawn, 2.0)
    drawn[:, 2:].view(400, 6, 3)[:, 3] = 0.0
    assert not torch.equal(ragged, blots(images, drawn, 2.0))


@pytest.mark.parametrize("step", [blots, cutout, erase, gridmask])
def test_by_no_strength_nothing_is_hidden(step, images: Tensor) -> None:
    assert torch.equal(step(images, draws(BLOTS_DRAWS), 0.0), images)


@pytest.mark.parametrize("step", [blots, cutout, erase, gridmask])
def test_a_stronger_step_hides_more(step) -> None:
    images = torch.rand(400, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def hidden(strength: float) -> float:
        return float((step(images, draws(BLOTS_DRAWS), strength) != images).float().mean())

    assert hidden(1.5) > hidden(0.5) > 0
