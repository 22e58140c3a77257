"""Telling known from unknown: areas are those of scikit-learn, curves what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hemalens.evaluation.openset import aurc, auroc, risk_coverage


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 60), st.booleans())
def test_the_area_is_that_of_scikit_learn(seed: int, n: int, m: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    known, unknown = draw.normal(size=n), draw.normal(0.7, 1.5, size=m)
    if ties:
        known, unknown = known.round(), unknown.round()
    found = auroc(known, unknown)
    wanted = roc_auc_score(np.repeat([0, 1], [n, m]), np.concatenate([known, unknown]))
    assert found.value == pytest.approx(wanted)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    truth = 0.76024993890652  # of normal distributions one deviation apart: the normal distribution at 1 / sqrt(2)
    held = [
        found.low <= truth <= found.high
        for found in (auroc(draw.normal(size=80), draw.normal(1, 1, 60)) for _ in range(400))
    ]
    assert 0.91 < np.mean(held) < 0.985


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80))
def test_the_risk_at_a_coverage_is_the_error_of_what_is_kept(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    doubt, wrong = draw.permutation(n).astype(float), draw.integers(0, 2, n)
    coverage, risk = risk_coverage(doubt, wrong)
    for count in range(1, n + 1):
        assert coverage[count - 1] == pytest.approx(count / n)
        assert risk[count - 1] == pytest.approx(wrong[doubt < count].mean())
    assert risk[-1] == pytest.approx(wrong.mean())
    assert aurc(wrong, wrong) <= aurc(doubt, wrong) <= aurc(-wrong, wrong)
