"""Leakage: the same image, nearly the same, or the same group on two sides is named on both."""

import numpy as np
import pytest
from PIL import Image

from hemalens.core.types import Sample
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.checks.leakage import Against, find_leakage
from hemalens.data.audit.checks.near_duplicates import near_duplicates
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet
from tests.data.measured import measured


@pytest.fixture(scope="module")
def rows(cells: SyntheticSet) -> list[np.ndarray]:
    """Six cells; the seventh is the first again, the eighth the second, mirrored and a little darker."""
    several = [np.asarray(Image.fromarray(pixels).resize((96, 96))) for pixels in cells.images[:48:8]]
    return [*several, several[0], (several[1][:, ::-1] * 0.9).astype(np.uint8)]


def leaks(rows: list[np.ndarray], sides: list[str | None], groups: list[str | None] | None = None) -> list[Finding]:
    statistics = measured(rows)
    samples = [Sample(f"{index}.png", group=group) for index, group in enumerate(groups or [None] * len(rows))]
    return find_leakage(near_duplicates(statistics), statistics, samples, sides)


def test_equal_and_nearly_equal_images_on_two_sides_are_named_on_both(rows: list[np.ndarray]) -> None:
    found = {f.index: f for f in leaks(rows, ["train"] * 4 + ["val"] * 2 + ["test"] * 2)}
    assert set(found) == {0, 6, 1, 7}
    assert found[0].reason == "in train, the same pixels as 6.png in test"
    assert found[6].reason == "in test, the same pixels as 0.png in train"
    assert found[7].reason == "in test, nearly the same image as 1.png in train"
    assert found[0].group == found[6].group != found[1].group == found[7].group
    assert found[0].score == 1 > found[1].score > 0.5
    assert {finding.suggestion for finding in found.values()} == {"review"}
    assert [found[index].counterpart for index in (0, 1, 6, 7)] == [6, 7, 0, 1]


def test_copies_on_one_side_or_without_a_split_are_no_leak(rows: list[np.ndarray]) -> None:
    assert leaks(rows, ["train", "test", "val", "val", "val", "val", "train", "test"]) == []
    assert leaks(rows, [None] * 8) == []
    assert leaks(rows, ["train"] * 6 + [None, None]) == []


def test_a_group_on_two_sides_is_for_review_and_counted(rows: list[np.ndarray]) -> None:
    found = leaks(rows[:6], ["train", "train", "test", "test", "val", "val"], ["p1", "p2", "p1", "p1", None, "p3"])
    assert {finding.index: finding.reason for finding in found} == {
        0: "in train, of the same group p1 as 2.png in test and 1 more elsewhere",
        2: "in test, of the same group p1 as 0.png in train",
        3: "in test, of the same group p1 as 0.png in train",
    }
    assert {(finding.suggestion, finding.group) for finding in found} == {("review", "leak-group-p1")}


def of(rows: list[np.ndarray], prefix: str, groups: list[str | None] | None = None) -> tuple[Statistics, list[Sample]]:
    names = groups or [None] * len(rows)
    return measured(rows), [Sample(f"{prefix}{index}.png", group=group) for index, group in enumerate(names)]


def test_what_another_source_has_too_is_dropped_here_and_groups_are_for_review(rows: list[np.ndarray]) -> None:
    statistics, samples = of(rows[:6], "a", [None, None, "p1", None, None, None])
    other_statistics, others = of([*rows[6:], rows[5][:50]], "b", [None, None, "p1"])
    against = Against("other.tar", other_statistics, others)
    near = near_duplicates(statistics)
    found = {f.index: f for f in find_leakage(near, statistics, samples, [None] * 6, against=against)}
    assert {index: finding.suggestion for index, finding in found.items()} == {0: "drop", 1: "drop", 2: "review"}
    assert found[0].reason == "the same pixels as b0.png in source other.tar"
    assert found[1].reason == "nearly the same image as b1.png in source other.tar"
    assert found[2].reason == "of the same group p1 as b2.png in source other.tar"
    assert [found[index].counterpart for index in range(3)] == [6, 7, 8]
    assert find_leakage(near, statistics, samples, [None] * 6) == []


def test_a_copy_of_a_copy_in_the_other_source_is_named_nearly_the_same(rows: list[np.ndarray]) -> None:
    statistics, samples = of([rows[1], rows[1], rows[2]], "a")
    against = Against("b", *of([rows[7]], "b"))
    found = find_leakage(near_duplicates(statistics), statistics, samples, [None] * 3, against=against)
    assert [finding.index for finding in found] == [0, 1]
    assert {finding.reason for finding in found} == {"nearly the same image as b0.png in source b"}
    assert all(finding.score < 1 for finding in found)
