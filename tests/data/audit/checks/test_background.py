"""Images of another background are found as a batch; one background is no batch."""

import numpy as np
import pytest

from hemalens.core.types import Images
from hemalens.data.audit.checks.background import background_colours, cluster_backgrounds, find_background_batches
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet
from tests.data.measured import measured


def bluish(images: Images) -> list[Images]:
    """The same cells under a lamp that makes their background bluish."""
    return list(np.clip(images * np.array([0.875, 0.945, 1.17]), 0, 255).astype(np.uint8))


def test_one_background_is_no_batch(measured_cells: Statistics) -> None:
    assert find_background_batches(measured_cells) == []


def test_a_second_background_is_found_whole_named_once_and_kept(cells: SyntheticSet) -> None:
    batch = bluish(cells.images[::8])
    findings = find_background_batches(measured([*cells.images, *batch]))
    assert [finding.index for finding in findings] == list(range(len(cells.images), len(cells.images) + len(batch)))
    assert {(finding.issue, finding.group, finding.suggestion) for finding in findings} == {
        ("background_batch", "colour-1", "keep")
    }
    assert f"as in {len(batch)} images" in findings[0].reason


def test_copies_of_one_image_are_no_batch(cells: SyntheticSet) -> None:
    assert find_background_batches(measured([*cells.images, *bluish(cells.images[:1]) * 40])) == []


def test_unreadable_samples_do_not_shift_the_rows(cells: SyntheticSet) -> None:
    batch = bluish(cells.images[::8])
    findings = find_background_batches(measured([None, *batch, *cells.images]))
    assert [finding.index for finding in findings] == list(range(1, len(batch) + 1))


def cloud(centre: tuple[float, float, float], count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 1.5, (count, 3))


def test_of_two_batches_the_larger_comes_first() -> None:
    colours = np.concatenate(
        [cloud((250, 228, 202), 300, 0), cloud((220, 215, 236), 30, 1), cloud((200, 240, 180), 60, 2)]
    )
    clusters = cluster_backgrounds(colours)
    assert clusters[:300].tolist() == [0] * 300
    assert set(clusters[300:330]) == {2}
    assert set(clusters[330:]) == {1}


def test_a_cloud_that_thins_out_slowly_is_one() -> None:
    spread = np.linspace(0, 1, 400)[:, None] ** 2
    colours = cloud((250, 228, 202), 400, 3) + spread * np.array([-30, -12, 34])
    assert not cluster_backgrounds(colours).any()


@pytest.mark.parametrize("count", [0, 1, 39, 60])
def test_small_and_single_coloured_sets_have_no_batch(count: int) -> None:
    assert cluster_backgrounds(np.full((count, 3), 200.0)).tolist() == [0] * count


def test_a_set_larger_than_the_fit_is_assigned_whole() -> None:
    colours = np.concatenate([cloud((250, 228, 202), 8000, 4), cloud((220, 215, 236), 400, 5)])
    clusters = cluster_backgrounds(colours)
    assert (clusters[8000:] == 1).mean() > 0.99
    assert (clusters[:8000] == 0).mean() > 0.999


def test_the_background_is_that_of_the_glass_and_zero_where_nothing_was_read(cells: SyntheticSet) -> None:
    image = np.full((32, 32, 3), (250, 230, 200), np.uint8)
    image[8:24, :20] = (90, 30, 120)  # a cell that touches the border
    assert background_colours(measured([image, None])).tolist() == [[250, 230, 200], [0, 0, 0]]
