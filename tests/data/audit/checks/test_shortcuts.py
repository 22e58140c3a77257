"""Shortcuts: what leaks is named with the class it gives away, what does not is left in peace, p-values hold."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from hemalens.core.audit_summary import Shortcut
from hemalens.core.types import IntArray
from hemalens.data.audit.checks.shortcuts import ATTRIBUTES, find_shortcuts, permutation_p_value, rank_test
from hemalens.data.audit.statistics import Measurement, Statistics
from tests.data.measured import samples_of

NAMES = ("basophil", "ig", "monocyte")
PLAIN = Measurement(96, 96, "RGB", 9_000, "", "", "", 150.0, 30.0, 80.0, 220.0, 0.1, 240.0, 225.0, 200.0, "")


def made(count: int = 900, seed: int = 0, **leaks: object) -> tuple[Statistics, list[str]]:
    """Rows of three classes that differ in nothing but noise; ``leaks`` are what every second ig has."""
    draw = np.random.default_rng(seed)
    labels = [NAMES[number] for number in draw.integers(0, 3, count)]
    rows = []
    for index, label in enumerate(labels):
        red, green, blue = (float(value) for value in draw.normal((240, 225, 200), 3))
        row = replace(PLAIN, pixel_sha256=f"{index}", background_red=red, background_green=green, background_blue=blue)
        row = replace(row, bytes=int(draw.integers(8_000, 10_000)), sharpness=float(draw.random()))
        row = replace(row, brightness=float(draw.normal(150, 5)), contrast=float(draw.normal(30, 2)))
        rows.append(replace(row, **leaks) if label == "ig" and draw.random() < 0.5 else row)
    return Statistics(tuple(rows), ("",) * count, np.zeros((count, 16, 16, 3), np.uint8)), labels


def found_in(statistics: Statistics, labels: list[str], **options: object) -> dict[str, Shortcut]:
    found = find_shortcuts(statistics, samples_of(labels), **{"ordered": True, **options})
    return {one.attribute: one for one in found}


@pytest.mark.parametrize(
    ("attribute", "leak", "words"),
    [
        ("image size", {"width": 90}, "width 90"),
        ("colour mode", {"mode": "L"}, "L"),
        ("background colour", {"background_blue": 240.0, "background_red": 215.0}, "red - green"),
        ("file size", {"bytes": 20_000}, "bytes 20000"),
        ("brightness", {"brightness": 90.0}, "brightness 90"),
        ("sharpness", {"sharpness": 3.0}, "sharpness 3"),
    ],
)
def test_what_half_of_a_class_has_gives_it_away_and_nothing_else_does(
    attribute: str, leak: dict[str, object], words: str
) -> None:
    found = found_in(*made(**leak))
    one = found.pop(attribute)
    assert [leak.label for leak in one.leaks][:1] == ["ig"]
    assert one.leaks[0].auroc > 0.7
    assert one.p_value < 1e-6
    assert one.accuracy.low > one.chance == pytest.approx(1 / 3)
    assert words in one.where
    most = one.shares[0]
    assert (most.label, most.share > 0.9, 0.25 < most.usual < 0.4) == ("ig", True, True)
    assert 100 < one.samples < 200
    assert [other.attribute for other in found.values() if other.leaks] == []


def test_noise_alone_gives_nothing_away_whatever_the_seed() -> None:
    claims = [one for seed in range(12) for one in found_in(*made(300, seed)).values() if one.leaks]
    assert claims == []


def test_a_source_in_the_order_of_its_classes_is_told_where_order_is_its_own() -> None:
    statistics, labels = made()
    order = np.argsort(labels, kind="stable")
    ordered = Statistics(
        tuple(statistics.measurements[index] for index in order), statistics.reasons, statistics.thumbnails
    )
    found = found_in(ordered, sorted(labels))
    assert found["order in the source"].accuracy.value > 0.95
    assert {leak.label for leak in found["order in the source"].leaks} == set(NAMES)
    assert "order in the source" not in found_in(ordered, sorted(labels), ordered=False)


def test_what_never_varies_is_not_spoken_of() -> None:
    assert set(found_in(*made())) == set(ATTRIBUTES) - {"image size", "colour mode"}


def test_copies_drops_and_samples_that_cannot_be_read_or_have_no_label_take_no_part() -> None:
    statistics, labels = made(600)
    rows = list(statistics.measurements)
    for index in range(200):
        rows[index] = replace(PLAIN, width=50, pixel_sha256="one image")
        labels[index] = "ig"
    rows += [replace(PLAIN, width=51, pixel_sha256=f"dropped {n}") for n in range(50)] + [None] * 5
    rows += [replace(PLAIN, width=52, pixel_sha256=f"unlabelled {n}") for n in range(50)]
    names = [*labels, *["ig"] * 55, *[None] * 50]
    whole = Statistics(tuple(rows), ("",) * len(rows), np.zeros((len(rows), 16, 16, 3), np.uint8))
    found = find_shortcuts(whole, samples_of(names), ordered=False, without=set(range(600, 650)))
    size = [one for one in found if one.attribute == "image size"]
    assert not size or not size[0].leaks


@pytest.mark.parametrize("labels", [[], [None] * 30, ["ig"] * 30, ["ig"] * 27 + ["monocyte"] * 3])
def test_fewer_than_two_classes_of_ten_are_not_looked_at(labels: list[str | None]) -> None:
    rows = tuple(replace(PLAIN, width=80 + n, pixel_sha256=f"{n}") for n in range(len(labels)))
    statistics = Statistics(rows, ("",) * len(rows), np.zeros((len(rows), 16, 16, 3), np.uint8))
    assert find_shortcuts(statistics, samples_of(labels), ordered=True) == ()


def confusion(labels: IntArray, predicted: IntArray, n_classes: int) -> IntArray:
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def test_the_rank_test_is_that_of_scipy_and_folds_are_compared_within_themselves() -> None:
    draw = np.random.default_rng(3)
    own = draw.random(200) < 0.3
    scores = np.round(draw.normal(0, 1, 200) + 0.5 * own, 1)
    auroc, p_value = rank_test([scores], [own])
    options = {"alternative": "greater", "method": "asymptotic", "use_continuity": False}
    expected = mannwhitneyu(scores[own], scores[~own], **options)
    assert p_value == pytest.approx(expected.pvalue)
    assert auroc == pytest.approx(roc_auc_score(own, scores))
    twice = rank_test([scores, scores + 100], [own, own])
    assert twice[0] == pytest.approx(auroc)
    assert twice[1] < p_value
    assert rank_test([np.ones(9)], [own[:9]]) == (0.5, 1.0)


def test_the_p_value_in_closed_form_is_that_of_shuffling() -> None:
    draw = np.random.default_rng(5)
    for strength in (0.0, 0.06, 0.12):
        labels = draw.choice(4, 300, p=[0.5, 0.25, 0.15, 0.1])
        predicted = np.where(draw.random(300) < strength, labels, draw.integers(0, 4, 300))
        reached = balanced_accuracy_score(labels, predicted)
        shuffled = [balanced_accuracy_score(draw.permutation(labels), predicted) for _ in range(500)]
        p_value = permutation_p_value(confusion(labels, predicted, 4))
        assert p_value == pytest.approx(np.mean(np.array(shuffled) >= reached - 1e-12), abs=0.05)
