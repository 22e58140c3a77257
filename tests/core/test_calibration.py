"""Temperature, threshold and sets: a known scaling is found again, sets are those of MAPIE and crepes and keep word."""

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from hemalens.core.calibration import (
    abstention_threshold,
    aps_scores,
    fit_temperature,
    lac_scores,
    prediction_sets,
    set_thresholds,
)
from hemalens.core.metrics import cross_entropy, expected_calibration_error, softmax


def calibrated(n: int = 4000, n_classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the very chance of each label."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, n_classes))
    chances = softmax(logits).cumsum(axis=1)
    return logits, (generator.random((n, 1)) > chances).sum(axis=1).clip(0, n_classes - 1)


@pytest.mark.parametrize("scale", [0.2, 1.0, 2.5, 8.0])
def test_a_known_scaling_is_found_again(scale: float) -> None:
    logits, labels = calibrated()
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.06)


def test_the_fitted_temperature_calibrates_an_overconfident_network() -> None:
    logits, labels = calibrated()
    wild = logits * 4
    temperature = fit_temperature(wild, labels)
    assert expected_calibration_error(softmax(wild), labels) > 0.1
    assert expected_calibration_error(softmax(wild / temperature), labels) < 0.03


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_no_other_temperature_is_better_and_none_leaves_its_bounds(seed: int, scale: float) -> None:
    logits, labels = calibrated(40, 3, seed)
    fitted = fit_temperature(logits * scale, labels)
    assert 0.05 <= fitted <= 20
    best = cross_entropy(softmax(logits * scale / fitted), labels)
    others = (cross_entropy(softmax(logits * scale / other), labels) for other in np.geomspace(0.05, 20, 50))
    assert best <= min(others) + 1e-4


def test_there_is_a_temperature_for_sets_that_say_little() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0
    assert fit_temperature(np.array([[5.0, 0.0]]), np.array([1])) == 1.0
    assert 0.05 <= fit_temperature(np.eye(3) * 5, np.arange(3)) < 0.5  # nothing wrong: as sure as is allowed
    assert 10 < fit_temperature(np.eye(3) * 5, np.array([1, 2, 0])) <= 20  # all wrong: as unsure as is allowed


def test_the_share_asked_for_lies_below_the_threshold() -> None:
    confidence = np.random.default_rng(0).random(1000)
    for share in (0.0, 0.05, 0.5):
        threshold = abstention_threshold(confidence, share=share)
        assert (confidence < threshold).mean() == pytest.approx(share, abs=0.002)
    assert (confidence < abstention_threshold(confidence)).mean() == pytest.approx(0.05, abs=0.002)


def test_without_validation_samples_nothing_is_refused() -> None:
    assert abstention_threshold(np.zeros(0)) == 0.0


def chances_and_labels(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = calibrated(n, 5, seed)
    return softmax(logits), labels


class Told(ClassifierMixin, BaseEstimator):
    """A classifier whose samples are its probabilities."""

    def __init__(self) -> None:
        self.classes_ = np.arange(5)
        self.fitted_ = True

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Told":
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_lac_sets_are_those_of_mapie(coverage: float) -> None:
    (own, labels), (others, _) = chances_and_labels(501, 1), chances_and_labels(400, 2)
    oracle = SplitConformalClassifier(Told(), coverage, conformity_score="lac", prefit=True).conformalize(own, labels)
    mine = prediction_sets(lac_scores(others), set_thresholds(lac_scores(own), labels, coverage=coverage))
    np.testing.assert_array_equal(mine, oracle.predict_set(others)[1][:, :, 0])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_adaptive_sets_are_those_of_mapie(coverage: float) -> None:
    (own, labels), (others, _) = chances_and_labels(501, 1), chances_and_labels(400, 2)
    oracle = SplitConformalClassifier(Told(), coverage, conformity_score="aps", prefit=True, random_state=3)
    oracle.conformalize(own, labels)
    draws = np.random.RandomState(3).uniform(size=501), np.random.RandomState(3).uniform(size=400)  # MAPIE's stream
    thresholds = set_thresholds(aps_scores(own, draws[0]), labels, coverage=coverage)
    wanted = oracle.predict_set(others, conformity_score_params={"include_last_label": "randomized"})[1][:, :, 0]
    np.testing.assert_array_equal(prediction_sets(aps_scores(others, draws[1]), thresholds), wanted)


@pytest.mark.parametrize("by_class", [False, True])
def test_sets_are_those_of_crepes(by_class: bool) -> None:
    (own, labels), (others, _) = chances_and_labels(501, 1), chances_and_labels(400, 2)
    scores, new = lac_scores(own), lac_scores(others)
    mine = prediction_sets(new, set_thresholds(scores, labels, coverage=0.9, by_class=by_class))
    oracle = ConformalClassifier().fit(scores[np.arange(501), labels], bins=labels if by_class else None)
    for index in range(5):
        bins = np.full(400, index) if by_class else None
        wanted = oracle.predict_set(new[:, [index]], bins=bins, confidence=0.9, smoothing=False)[:, 0]
        np.testing.assert_array_equal(mine[:, index], wanted.astype(bool))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.8, 0.9]), st.booleans())
def test_sets_hold_the_truth_as_often_as_promised(seed: int, coverage: float, by_class: bool) -> None:
    (own, labels), (others, truth) = chances_and_labels(1000, seed), chances_and_labels(1000, seed + 20_000)
    draw = np.random.default_rng(seed)
    for one, other in (
        (lac_scores(own), lac_scores(others)),
        (aps_scores(own, draw.random(1000)), aps_scores(others, draw.random(1000))),
    ):
        sets = prediction_sets(other, set_thresholds(one, labels, coverage=coverage, by_class=by_class))
        held = sets[np.arange(1000), truth]
        # Thresholds and samples are both drawn: the spread of the share is that of 1,000 against 1,000, 5 deviations.
        assert held.mean() == pytest.approx(coverage, abs=5 * np.sqrt(2 * coverage * (1 - coverage) / 1000) + 0.01)


def test_a_class_with_too_few_samples_is_in_every_set() -> None:
    own, labels = chances_and_labels(300, 0)
    few = np.flatnonzero(labels != 2).tolist() + np.flatnonzero(labels == 2)[:8].tolist()
    thresholds = set_thresholds(lac_scores(own[few]), labels[few], coverage=0.9, by_class=True)
    assert np.isinf(thresholds[2])
    assert np.isfinite(np.delete(thresholds, 2)).all()
    assert prediction_sets(lac_scores(own), thresholds)[:, 2].all()


def test_adaptive_scores_without_chance_are_sums_in_falling_order() -> None:
    found = aps_scores(np.array([[0.2, 0.5, 0.3]]), np.zeros(1))
    np.testing.assert_allclose(found, [[1.0, 0.5, 0.8]])
    np.testing.assert_allclose(aps_scores(np.array([[0.2, 0.5, 0.3]]), np.array([0.5])), [[0.9, 0.25, 0.65]])
