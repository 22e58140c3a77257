"""Equal images: the first is kept, the copies go; under several labels all go."""

import numpy as np

from hemalens.data.audit.checks.duplicates import distinct, duplicate_groups, find_duplicates, find_label_conflicts
from tests.data.hostile import cell
from tests.data.measured import measured, samples_of

ONE, TWO, THREE = (cell(8, seed) for seed in range(3))


def test_the_first_of_equal_images_is_kept_and_its_copies_are_dropped() -> None:
    findings = find_duplicates(measured([ONE, TWO, ONE, None, ONE]), samples_of(["ig"] * 5))
    assert [(f.index, f.suggestion, f.score) for f in findings] == [(0, "keep", 1), (2, "drop", 1), (4, "drop", 1)]
    assert len({finding.group for finding in findings}) == 1
    assert findings[1].reason == "same pixels as row-000000"


def test_each_set_of_copies_has_a_group_of_its_own() -> None:
    findings = find_duplicates(measured([ONE, TWO, TWO, ONE]), samples_of(["ig"] * 4))
    groups = {finding.index: finding.group for finding in findings}
    assert groups[0] == groups[3] != groups[1] == groups[2]


def test_one_image_under_two_labels_is_dropped_in_all_its_copies() -> None:
    findings = find_label_conflicts(measured([ONE, ONE, TWO, ONE]), samples_of(["ig", "platelet", "ig", "ig"]))
    assert [(finding.index, finding.suggestion) for finding in findings] == [(0, "drop"), (1, "drop"), (3, "drop")]
    assert findings[0].reason == "3 equal images carry 2 labels: ig, platelet"


def test_copies_under_one_label_or_beside_an_unlabelled_one_are_no_conflict() -> None:
    assert find_label_conflicts(measured([ONE, ONE, TWO, TWO]), samples_of(["ig", "ig", "ig", None])) == []


def test_one_bit_or_another_shape_makes_another_image() -> None:
    changed = ONE.copy()
    changed[7, 7, 2] ^= 1
    flat = np.full((4, 9, 3), 7, np.uint8)
    assert duplicate_groups(measured([ONE, changed, flat, flat.reshape(9, 4, 3)])) == []


def test_distinct_counts_each_readable_image_once() -> None:
    assert distinct(measured([None, ONE, TWO, ONE, THREE, TWO, None])).tolist() == [1, 2, 4]
    assert distinct(measured([None])).tolist() == []
