"""Temperature and threshold: a known scaling is found again, and confidence means what it says afterwards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.core.metrics import cross_entropy, expected_calibration_error, softmax
from hemalens.core.calibration import abstention_threshold, fit_temperature


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
    for refused in (0.0, 0.05, 0.5):
        threshold = abstention_threshold(confidence, refused=refused)
        assert (confidence < threshold).mean() == pytest.approx(refused, abs=0.002)
    assert (confidence < abstention_threshold(confidence)).mean() == pytest.approx(0.05, abs=0.002)


def test_without_validation_samples_nothing_is_refused() -> None:
    assert abstention_threshold(np.zeros(0)) == 0.0
