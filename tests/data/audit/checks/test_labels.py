"""Confident learning: thresholds, the joint and the ranking by hand and against a plain loop; planted errors found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.core.types import FloatArray, IntArray
from hemalens.data.audit.checks.labels import (
    check_labels,
    class_thresholds,
    confident_classes,
    confident_joint,
    doubt,
    suspects,
)
from tests.data.measured import samples_of

CLASSES = ("ig", "monocyte", "platelet")


def drawn(seed: int, n: int = 300, n_classes: int = 3, sureness: float = 3.0) -> tuple[IntArray, FloatArray]:
    """Labels and the probabilities of a model that is mostly right."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, n_classes, n)
    logits = draw.normal(0, 1, (n, n_classes)) + sureness * np.eye(n_classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def joint_by_loops(labels: IntArray, chances: FloatArray) -> FloatArray:
    """Equations 1 to 3 of Northcutt et al. 2021, sample by sample."""
    n, c = chances.shape
    thresholds = [np.mean([chances[x, j] for x in range(n) if labels[x] == j] or [np.inf]) for j in range(c)]
    counts = np.zeros((c, c))
    for x in range(n):
        over = [j for j in range(c) if chances[x, j] >= thresholds[j]]
        if over:
            counts[labels[x], max(over, key=lambda j: chances[x, j])] += 1
    for i in range(c):
        if not counts[i].sum():
            counts[i, i] = 1
        counts[i] *= (labels == i).sum() / counts[i].sum()
    return counts


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_the_joint_is_that_of_the_paper_and_keeps_the_class_counts(seed: int, n: int, n_classes: int) -> None:
    labels, chances = drawn(seed, n, n_classes, sureness=1.0)
    joint = confident_joint(labels, chances)
    np.testing.assert_allclose(joint, joint_by_loops(labels, chances))
    np.testing.assert_allclose(joint.sum(axis=1), np.bincount(labels, minlength=n_classes))


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_doubt_lies_in_0_to_1_and_is_above_a_half_where_another_class_is_likelier(seed: int) -> None:
    labels, chances = drawn(seed, 50, sureness=0.5)
    score = doubt(labels, chances)
    assert ((score >= 0) & (score <= 1)).all()
    assert ((score > 0.5) == (chances.argmax(axis=1) != labels)).all()


def test_as_many_are_suspected_as_the_joint_counts_those_with_the_largest_margins() -> None:
    labels = np.zeros(40, np.int64)
    labels[20:] = 1
    sure = np.r_[np.linspace(0.80, 0.99, 17), [0.1, 0.2, 0.3]]
    chances = np.stack([np.r_[sure, np.full(20, 0.1)], np.r_[1 - sure, np.full(20, 0.9)]], axis=1)
    # One sample of class 0 reaches the threshold 0.9 of class 1, 17 reach their own of 0.79: 20 * 1 / 18 is about 1.
    assert confident_joint(labels, chances).round().tolist() == [[19.0, 1.0], [0.0, 20.0]]
    assert suspects(labels, chances).tolist() == [17]


def test_a_class_without_samples_has_no_threshold_that_could_be_reached() -> None:
    labels = np.array([0, 0, 1])
    chances = np.array([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    assert class_thresholds(labels, chances).tolist() == pytest.approx([0.4, 0.8, np.inf])
    assert confident_classes(labels, chances).tolist() == [-1, 0, 1]


def test_exchanged_labels_are_reported_for_review_with_what_they_look_like() -> None:
    labels, chances = drawn(0, 600, sureness=6.0)
    wrong = np.arange(0, 600, 30)
    labels[wrong] = (labels[wrong] + 1) % 3
    checked = check_labels(samples_of(CLASSES[label] for label in labels), CLASSES, chances)
    assert checked is not None
    found = {finding.index for finding in checked.findings}
    assert len(found & set(wrong.tolist())) >= 18
    assert len(found - set(wrong.tolist())) <= 12
    assert [f.score for f in checked.findings] == sorted((f.score for f in checked.findings), reverse=True)
    assert {(f.issue, f.suggestion, f.group) for f in checked.findings} == {("label_issue", "review", "")}
    first = checked.findings[0]
    likely = CLASSES[int(chances[first.index].argmax())]
    assert first.reason.startswith(f"looks like {likely} (")
    assert f"rather than {CLASSES[labels[first.index]]} (" in first.reason
    assert sum(count for _, _, count in checked.pairs) == len(found)
    assert checked.noise == pytest.approx(20 / 600, abs=0.02)
    assert checked.agreement == pytest.approx((chances.argmax(axis=1) == labels).mean())


def test_samples_without_probabilities_or_labels_and_those_left_out_take_no_part() -> None:
    labels, chances = drawn(1, 300, sureness=6.0)
    names: list[str | None] = [CLASSES[(label + (index < 4)) % 3] for index, label in enumerate(labels)]
    names[1] = None
    chances[2] = np.nan
    checked = check_labels(samples_of(names), CLASSES, chances, without={3})
    assert checked is not None
    assert checked.samples == 297
    assert {1, 2, 3}.isdisjoint(finding.index for finding in checked.findings)
    assert 0 in {finding.index for finding in checked.findings}


@pytest.mark.parametrize("labels", [[None] * 3, ["ig"] * 3, []])
def test_fewer_than_two_classes_cannot_be_checked(labels: list[str | None]) -> None:
    assert check_labels(samples_of(labels), CLASSES, np.full((len(labels), 3), 1 / 3)) is None
