"""Dark, bright and blurry images are for review; sound ones are not reported."""

import numpy as np
from PIL import Image, ImageFilter

from hemalens.core.types import Images
from hemalens.data.audit.checks.quality import find_blurry, find_bright, find_dark
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet
from tests.data.measured import measured


def blurred(image: Images, radius: float) -> Images:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def test_sound_cells_are_neither_dark_nor_bright_nor_blurry(measured_cells: Statistics) -> None:
    assert find_dark(measured_cells) == find_bright(measured_cells) == find_blurry(measured_cells) == []


def test_a_image_without_light_is_dark_the_darker_the_surer(cells: SyntheticSet) -> None:
    images = [cells.images[0], cells.images[0] // 3, cells.images[0] // 10, None]
    findings = find_dark(measured(images))
    assert [(finding.index, finding.suggestion) for finding in findings] == [(1, "review"), (2, "review")]
    assert 0 < findings[0].score < findings[1].score <= 1


def test_a_washed_out_image_is_bright(cells: SyntheticSet) -> None:
    washed = 255 - (255 - cells.images[0]) // 6
    findings = find_bright(measured([cells.images[0], washed, np.full((48, 48, 3), 255, np.uint8)]))
    assert [(finding.index, finding.suggestion) for finding in findings] == [(1, "review"), (2, "review")]
    assert 0 < findings[0].score <= findings[1].score <= 1


def test_a_blurred_cell_stands_out_of_sharp_ones(cells: SyntheticSet) -> None:
    images = [*cells.images[:150], blurred(cells.images[150], 3), None, *cells.images[151:]]
    findings = find_blurry(measured(images))
    assert [(finding.index, finding.suggestion) for finding in findings] == [(150, "review")]
    assert "times less sharp" in findings[0].reason


def test_a_third_of_blurred_cells_does_not_hide_itself(cells: SyntheticSet) -> None:
    images = [blurred(image, 3) if index % 3 == 0 else image for index, image in enumerate(cells.images[:150])]
    found = {finding.index for finding in find_blurry(measured(images))}
    assert len(found) >= 45
    assert all(index % 3 == 0 for index in found)


def test_under_20_images_nothing_is_relatively_blurry(cells: SyntheticSet) -> None:
    assert find_blurry(measured([*cells.images[:18], blurred(cells.images[20], 4)])) == []
