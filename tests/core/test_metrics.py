import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle
from torchmetrics.functional.classification import multiclass_calibration_error

from hemalens.core.metrics import (
    accuracy,
    balanced_accuracy,
    bootstrap_interval,
    confusion_matrix,
    cross_entropy,
    expected_calibration_error,
    macro_f1,
    per_class_scores,
    reliability_bins,
    softmax,
)

CLASSES = 5
answers = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60)
matrices = hnp.arrays(np.int64, (CLASSES, CLASSES), elements=st.integers(0, 30)).filter(lambda matrix: matrix.sum() > 0)


@st.composite
def predictions(draw):
    """Draw logits (N, C) without ties, and labels (N,)."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, scale = draw(st.integers(1, 80)), draw(st.sampled_from([0.1, 1.0, 8.0]))
    return generator.normal(0, scale, (n, CLASSES)), generator.integers(0, CLASSES, n)


@given(answers)
def test_scores_agree_with_scikit_learn(pairs):
    labels, predicted = np.array(pairs).T
    matrix = confusion_matrix(labels, predicted, CLASSES)
    every = list(range(CLASSES))
    assert matrix.tolist() == oracle.confusion_matrix(labels, predicted, labels=every).tolist()
    assert float(accuracy(matrix)) == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert float(macro_f1(matrix)) == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    recalls = oracle.recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert float(balanced_accuracy(matrix)) == pytest.approx(recalls)
    found = per_class_scores(matrix)
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for key, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found[key], column)


@given(predictions())
def test_cross_entropy_agrees_with_scikit_learn_and_torch(drawn):
    logits, labels = drawn
    probabilities = softmax(logits)
    clipped = np.maximum(probabilities, np.finfo(np.float64).eps)  # as scikit-learn clips
    expected = oracle.log_loss(labels, probabilities, labels=list(range(CLASSES)))
    assert cross_entropy(clipped, labels) == pytest.approx(expected)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert cross_entropy(probabilities, labels) == pytest.approx(float(expected))


def test_a_certain_and_wrong_answer_costs_much_but_not_infinitely():
    assert 700 < cross_entropy(np.array([[1.0, 0.0]]), np.array([1])) < 710


@given(predictions(), st.sampled_from([5, 10, 15]))
def test_calibration_error_agrees_with_torchmetrics(drawn, bins):
    logits, labels = drawn
    probabilities = softmax(logits)
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), CLASSES, n_bins=bins, norm="l1"
    )
    assert expected_calibration_error(probabilities, labels, bins=bins) == pytest.approx(float(expected), abs=1e-6)


@given(hnp.arrays(np.float64, (7, 4), elements=st.floats(-1e4, 1e4)), st.floats(-1e4, 1e4))
def test_softmax_is_a_distribution_that_ignores_shifts_and_keeps_the_order(logits, shift):
    found = softmax(logits)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(softmax(logits + shift), found, atol=1e-9)
    rows = np.arange(len(logits))
    np.testing.assert_allclose(found[rows, logits.argmax(axis=1)], found.max(axis=1))


def test_softmax_of_half_precision_does_not_overflow():
    assert softmax(np.array([[60000.0, -60000.0]], np.float16)).tolist() == [[1.0, 0.0]]


@given(matrices)
def test_scores_lie_between_zero_and_one_and_no_order_of_classes_changes_them(matrix):
    order = np.random.default_rng(int(matrix.sum())).permutation(CLASSES)
    for score in (accuracy, balanced_accuracy, macro_f1):
        assert 0 <= float(score(matrix)) <= 1
        assert float(score(matrix[np.ix_(order, order)])) == pytest.approx(float(score(matrix)))


@given(st.lists(matrices, min_size=1, max_size=4))
def test_a_stack_of_matrices_is_scored_one_by_one(stack):
    for score in (accuracy, balanced_accuracy, macro_f1):
        np.testing.assert_allclose(score(np.stack(stack)), [float(score(matrix)) for matrix in stack])


@given(hnp.arrays(np.float64, 40, elements=st.floats(0, 1)), st.integers(1, 20))
def test_reliability_bins_lose_no_sample(confidence, bins):
    correct = (confidence > 0.5).astype(np.int64)
    table = reliability_bins(confidence, correct, bins=bins)
    assert table["count"].sum() == 40
    assert float(table["count"] @ table["confidence"]) == pytest.approx(confidence.sum())
    assert float(table["count"] @ table["accuracy"]) == pytest.approx(correct.sum())
    assert (table["accuracy"][table["count"] == 0] == 0).all()


def test_bins_are_closed_above_and_the_first_holds_zero():
    table = reliability_bins(np.array([0.0, 0.25, 0.250001, 1.0]), np.array([0, 0, 1, 1]), bins=4)
    assert table["count"].tolist() == [2, 1, 0, 1]


@given(matrices, st.integers(0, 5))
def test_an_interval_is_ordered_inside_zero_and_one_and_repeatable(matrix, seed):
    found = bootstrap_interval(matrix, accuracy, resamples=100, seed=seed)
    assert 0 <= found.low <= found.high <= 1
    assert found.value == float(accuracy(matrix))
    assert found == bootstrap_interval(matrix, accuracy, resamples=100, seed=seed)


def test_the_interval_agrees_with_a_bootstrap_over_samples():
    matrix = np.array([[40, 6, 1], [3, 30, 2], [0, 4, 14]])
    labels, predicted = (np.repeat(axis.ravel(), matrix.ravel()) for axis in np.indices(matrix.shape))
    generator, scores = np.random.default_rng(1), []
    for _ in range(500):
        draw = generator.integers(0, len(labels), len(labels))
        scores.append(oracle.f1_score(labels[draw], predicted[draw], average="macro", labels=[0, 1, 2]))
    low, high = np.quantile(scores, [0.025, 0.975])
    found = bootstrap_interval(matrix, macro_f1, resamples=4000)
    assert found.low == pytest.approx(low, abs=0.015)
    assert found.high == pytest.approx(high, abs=0.015)


def test_a_larger_sample_narrows_the_interval():
    small = bootstrap_interval(np.array([[9, 1], [1, 9]]), accuracy)
    large = bootstrap_interval(np.array([[900, 100], [100, 900]]), accuracy)
    assert large.high - large.low < (small.high - small.low) / 5


def test_nothing_evaluated_is_nothing_known():
    found = bootstrap_interval(np.zeros((3, 3), np.int64), accuracy)
    assert (found.value, found.low, found.high) == (0, 0, 1)
