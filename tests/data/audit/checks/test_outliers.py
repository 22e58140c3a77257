"""Outliers by robust distance: what is far from the bulk, and nothing of a set that has no bulk."""

import numpy as np
import pytest

from hemalens.core.types import Images
from hemalens.data.audit.checks.outliers import analyse_outliers
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet
from hemalens.data.synthetic.foreign import landscape
from tests.data.hostile import cell
from tests.data.measured import measured, noise


def test_sound_cells_are_seldom_outliers(measured_cells: Statistics) -> None:
    analysis = analyse_outliers(measured_cells)
    assert len(analysis.findings) <= 0.03 * len(measured_cells.measurements)
    assert analysis.scores.shape == (304, 10)
    assert 0.5 < analysis.explained.sum() <= 1
    assert analysis.threshold == pytest.approx(35.56, abs=0.01)  # chi-square table: 10 degrees, 0.9999


def test_a_dark_and_a_foreign_image_lie_beyond_the_limit_for_review(cells: SyntheticSet) -> None:
    strange = [landscape(48, 4), (cells.images[0] * 0.2).astype(np.uint8)]
    analysis = analyse_outliers(measured([*cells.images, *strange]))
    found = {finding.index: finding for finding in analysis.findings}
    assert {304, 305} <= set(found)
    assert {finding.suggestion for finding in found.values()} == {"review"}
    assert all(0 < finding.score < 1 for finding in found.values())
    assert analysis.distances[304] > analysis.threshold


def test_many_copies_of_one_image_do_not_become_the_centre(cells: SyntheticSet) -> None:
    copies = [landscape(48, 4)] * 400
    analysis = analyse_outliers(measured([*cells.images, *copies]))
    found = {finding.index for finding in analysis.findings}
    assert set(range(304, 704)) <= found
    assert len(found) <= 400 + 0.03 * 304


def test_unreadable_samples_keep_their_row(cells: SyntheticSet) -> None:
    analysis = analyse_outliers(measured([None, *cells.images[:100], None, landscape(48, 4)]))
    assert analysis.scores.shape[0] == analysis.distances.shape[0] == 103
    assert not analysis.scores[[0, 101]].any()
    assert 102 in {finding.index for finding in analysis.findings}


def test_the_same_set_gives_the_same_analysis(measured_cells: Statistics) -> None:
    first, second = analyse_outliers(measured_cells), analyse_outliers(measured_cells)
    assert np.array_equal(first.distances, second.distances)
    assert np.array_equal(first.scores, second.scores)


def copies() -> list[Images]:
    return [cell(8)] * 60


def flat() -> list[Images]:
    return [np.full((8, 8, 3), level, np.uint8) for level in range(60, 130)]


def equal_but_for_a_pixel() -> list[Images]:
    images = [np.full((200, 200, 3), 100, np.uint8) for _ in range(60)]
    for index, image in enumerate(images):
        image[0, index, 0] = 101
    return images


@pytest.mark.parametrize("images", [copies, flat, equal_but_for_a_pixel])
def test_images_that_span_no_space_are_analysed_without_a_warning(images) -> None:
    analysis = analyse_outliers(measured(images()))
    assert np.isfinite(analysis.distances).all()
    assert np.isfinite(analysis.explained).all()
    assert len(analysis.findings) <= 2


def test_one_image_among_frames_that_are_all_but_equal_is_an_outlier() -> None:
    analysis = analyse_outliers(measured([*equal_but_for_a_pixel(), noise(64)]))
    assert [finding.index for finding in analysis.findings] == [60]


def test_under_50_different_images_there_is_no_bulk() -> None:
    analysis = analyse_outliers(measured([cell(8, seed) for seed in range(49)] + [cell(8, 0)] * 30))
    assert analysis.findings == ()
    assert analysis.threshold == 0
    assert analysis.scores.shape[0] == 79
