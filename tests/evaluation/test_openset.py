"""Telling known from unknown: areas and rates are those of scikit-learn and pytorch-ood, curves what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import FPRAtTPR
from sklearn.metrics import roc_auc_score

from hemalens.evaluation.openset import Detectors, aurc, auroc, false_acceptance, risk_coverage


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


def test_false_acceptance_is_that_of_pytorch_ood() -> None:
    draw = np.random.default_rng(1)
    known, unknown = draw.normal(size=1000), draw.normal(2, 1, size=800)
    # It asks how many of the others pass where 95 % of the unknown are found, so the roles and signs are changed.
    metrics = FPRAtTPR()
    metrics.update(torch.from_numpy(-np.concatenate([unknown, known])), torch.tensor([0] * 800 + [-1] * 1000))
    wanted = metrics.compute()["FPR95TPR"]
    assert false_acceptance(known, unknown) == pytest.approx(float(wanted), abs=0.01)
    assert false_acceptance(known, known + 100) == 0
    assert false_acceptance(known, known - 100) == 1


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


def test_five_scores_tell_a_far_stranger_from_the_training_samples() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(600) % 3
    weight, bias = np.eye(3, 8).astype(np.float32), np.zeros(3, np.float32)
    features = (draw.normal(size=(600, 8)) + 6 * weight[labels]).astype(np.float32)
    far = np.abs(draw.normal(size=(50, 8))).astype(np.float32)
    far[:, 4:] *= 30
    found = Detectors.fit(features, labels, weight, bias, per_class=100, k=5)
    known, unknown = (found.scores(one, one @ weight.T + bias) for one in (features, far))
    areas = {name: auroc(known[name], unknown[name]).value for name in known}
    assert areas.keys() == {"least_confidence", "energy", "mahalanobis", "neighbours", "vim"}
    assert min(areas.values()) > 0.9
