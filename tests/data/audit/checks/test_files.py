"""Findings about files: unreadable, converted, of an odd size."""

from collections.abc import Iterable

import numpy as np

from hemalens.data.audit.checks.files import find_converted, find_odd_sizes, find_unreadable
from hemalens.data.audit.checks.finding import Finding
from tests.data.measured import measured


def blanks(*sizes: tuple[int, int]) -> Iterable[np.ndarray]:
    return [np.zeros((height, width, 3), np.uint8) for width, height in sizes]


def odd_sizes(*sizes: tuple[int, int]) -> list[Finding]:
    return find_odd_sizes(measured(blanks(*sizes)))


def test_what_cannot_be_read_is_dropped_with_the_decoders_reason() -> None:
    findings = find_unreadable(measured([None, np.zeros((4, 4, 3), np.uint8), None]))
    assert [(f.index, f.suggestion, f.reason) for f in findings] == [
        (0, "drop", "is damaged"),
        (2, "drop", "is damaged"),
    ]


def test_what_was_converted_is_kept_and_grouped_by_the_rule() -> None:
    images = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
    findings = find_converted(measured(images))
    assert [(finding.index, finding.suggestion) for finding in findings] == [(1, "keep"), (2, "keep")]
    assert findings[0].reason == "grey repeated to three channels"
    assert findings[0].group != findings[1].group


def test_another_shape_or_another_scale_is_odd() -> None:
    findings = odd_sizes(*[(96, 96)] * 20, (96, 60), (40, 40), (200, 200))
    assert [finding.index for finding in findings] == [20, 21, 22]
    assert {finding.suggestion for finding in findings} == {"keep"}
    assert findings[0].reason == "96 x 60 pixels; most images have 96 x 96"
    assert findings[0].group == "96x60"


def test_a_few_pixels_more_or_less_are_not_odd() -> None:
    assert odd_sizes(*[(360, 363)] * 10, (360, 360), (366, 369), (400, 400)) == []


def test_where_no_size_is_usual_none_is_odd() -> None:
    assert odd_sizes(*[(10 * n, 10) for n in range(1, 12)]) == []


def test_nothing_readable_has_no_size() -> None:
    assert find_odd_sizes(measured([None, None])) == []
