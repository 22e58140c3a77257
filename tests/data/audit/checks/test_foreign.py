"""What is no cell is found even where it occurs once; cells, however rare, are left alone."""

import numpy as np
import pytest

from hemalens.core.types import Images
from hemalens.data.audit.checks.foreign import find_foreign, foreignness, isolation
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet, synthetic_set
from hemalens.data.synthetic.foreign import colour_chart, landscape
from tests.data.measured import bar_chart, measured, noise, page_of_text

SIDE = 48
STRANGERS: dict[str, Images] = {
    "landscape": landscape(SIDE, 4),
    "test chart": colour_chart(SIDE, 4),
    "noise": noise(SIDE),
    "white": np.full((SIDE, SIDE, 3), 255, np.uint8),
    "grey": np.full((SIDE, SIDE, 3), 128, np.uint8),
    "black": np.zeros((SIDE, SIDE, 3), np.uint8),
    "text": page_of_text(SIDE),
    "bar chart": bar_chart(SIDE),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_that_occurs_once_among_304_cells_is_found_and_no_cell_with_it(
    cells: SyntheticSet, name: str
) -> None:
    findings = find_foreign(measured([*cells.images, STRANGERS[name]]))
    assert [finding.index for finding in findings if finding.suggestion == "drop"] == [len(cells.images)]
    assert len(findings) <= 2
    assert findings[-1].group == ""


def test_strangers_do_not_vouch_for_each_other(cells: SyntheticSet) -> None:
    findings = find_foreign(measured([*cells.images, *STRANGERS.values()]))
    dropped = {finding.index for finding in findings if finding.suggestion == "drop"}
    assert dropped == set(range(len(cells.images), len(cells.images) + len(STRANGERS)))


def test_clean_cells_are_not_called_foreign(measured_cells: Statistics) -> None:
    assert len(find_foreign(measured_cells)) <= 1


def test_a_rare_class_of_cells_is_not_foreign() -> None:
    made = synthetic_set({"neutrophil": 150, "lymphocyte": 100, "platelet": 6}, size=32, contamination=False)
    assert not [finding for finding in find_foreign(measured(made.images)) if finding.suggestion == "drop"]


def test_all_copies_of_a_stranger_are_reported_as_one_group(cells: SyntheticSet) -> None:
    copies = [landscape(SIDE, 4)] * 30
    findings = find_foreign(measured([*cells.images, *copies]))
    dropped = [finding for finding in findings if finding.suggestion == "drop"]
    assert [finding.index for finding in dropped] == list(range(len(cells.images), len(cells.images) + 30))
    assert {finding.group for finding in dropped} == {f"foreign-{len(cells.images)}"}


def test_fewer_than_20_different_images_tell_nothing(cells: SyntheticSet) -> None:
    few = [*cells.images[:18], STRANGERS["landscape"]]
    assert find_foreign(measured(few)) == []
    assert find_foreign(measured([*few, *[STRANGERS["landscape"]] * 20])) == []


def test_unreadable_samples_are_passed_over(cells: SyntheticSet) -> None:
    findings = find_foreign(measured([None, *cells.images, STRANGERS["noise"], None]))
    assert [finding.index for finding in findings if finding.suggestion == "drop"] == [len(cells.images) + 1]


def test_a_set_without_any_stain_is_judged_by_loneliness_alone(cells: SyntheticSet) -> None:
    grey = [np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8) for image in cells.images]
    findings = find_foreign(measured([*grey, STRANGERS["test chart"]]))
    assert findings[-1].index == len(grey)
    assert len(findings) <= 3


def test_images_with_one_thumbnail_have_finite_scores() -> None:
    alike = np.full((30, 16, 16, 3), 90, np.uint8)
    isolated, stained, score = foreignness(alike)
    assert np.isfinite(isolated).all()
    assert np.isfinite(score).all()
    assert not stained.any()


def test_loneliness_is_large_far_from_all_others_and_small_beside_five() -> None:
    rng = np.random.default_rng(0)
    crowd, pocket, hermit = rng.normal(size=(400, 4)), rng.normal(size=(8, 4)) * 0.2 + 7, np.full((1, 4), -9.0)
    isolated = isolation(np.concatenate([crowd, pocket, hermit]))
    assert int(np.argmax(isolated)) == 408
    assert isolated[400:408].max() < isolated[408] - 2
    assert abs(np.median(isolated)) < 1e-9
