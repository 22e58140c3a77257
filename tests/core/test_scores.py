"""Scores of strangeness: equal to those of pytorch-ood and scikit-learn, and high where a sample is strange."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN, EnergyBased, Mahalanobis, MaxSoftmax, ViM
from sklearn.covariance import ledoit_wolf

from hemalens.core.scores import Gaussians, Neighbours, VirtualLogit, energy, least_confidence, shrunk_covariance

WIDTH, CLASSES = 12, 4


def clusters(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features around one centre a class."""
    draw = np.random.default_rng(seed)
    mixing = 3 * np.eye(WIDTH) + np.random.default_rng(99).normal(0, 0.4, (WIDTH, WIDTH))
    centres = 6 * np.random.default_rng(98).normal(size=(CLASSES, WIDTH))
    labels = draw.integers(0, CLASSES, n)
    return (draw.normal(size=(n, WIDTH)) @ mixing + centres[labels]).astype(np.float32), labels


def head() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    return draw.normal(size=(CLASSES, WIDTH)).astype(np.float32), draw.normal(size=CLASSES).astype(np.float32)


def test_confidence_and_energy_are_those_of_pytorch_ood() -> None:
    logits = np.random.default_rng(0).normal(0, 8, (50, 6)).astype(np.float32)
    scaled = torch.from_numpy(logits)
    np.testing.assert_allclose(least_confidence(logits) - 1, MaxSoftmax.score(scaled), atol=1e-6)
    np.testing.assert_allclose(energy(logits), EnergyBased.score(scaled), atol=1e-4)
    assert np.isfinite(energy(np.array([[1e4, -1e4]]))).all()


def test_distance_is_that_of_pytorch_ood_where_little_is_shrunk() -> None:
    (features, labels), (others, _) = clusters(20_000), clusters(60, seed=1)
    oracle = Mahalanobis(None).fit_features(torch.from_numpy(features), torch.from_numpy(labels))
    # It leaves out the division by the number of samples and halves the square.
    wanted = np.sqrt(2 * len(features) * oracle.predict_features(torch.from_numpy(others)).numpy())
    np.testing.assert_allclose(Gaussians.fit(features, labels).score(others), wanted, rtol=2e-3)


def test_a_direction_in_which_samples_are_varied_counts_for_less_and_the_means_stay() -> None:
    features, labels = clusters(4000)
    varied = features.copy()
    varied[:, 2] += np.random.default_rng(7).normal(10, 20, len(varied)).astype(np.float32)
    plain, found = Gaussians.fit(features, labels), Gaussians.fit(features, labels, varied=varied)
    np.testing.assert_array_equal(found.means, plain.means)
    moved, other = features.copy(), features.copy()
    moved[:, 2] += 30
    other[:, 5] += 30
    assert found.score(moved).mean() < 0.4 * plain.score(moved).mean()
    assert found.score(other).mean() > 0.8 * plain.score(other).mean()


@pytest.mark.parametrize("n", [5, 40, 4000])
def test_the_covariance_is_shrunk_as_scikit_learn_does(n: int) -> None:
    centred = np.random.default_rng(n).normal(size=(n, WIDTH)) * np.arange(1, WIDTH + 1)
    np.testing.assert_allclose(shrunk_covariance(centred), ledoit_wolf(centred, assume_centered=True)[0], rtol=1e-9)


def test_leading_directions_alone_keep_the_order_of_distances() -> None:
    (features, labels), (others, _) = clusters(2000), clusters(100, seed=2)
    whole, some = (Gaussians.fit(features, labels, rank=rank).score(others) for rank in (None, WIDTH - 2))
    assert np.corrcoef(whole, some)[0, 1] > 0.9
    np.testing.assert_allclose(Gaussians.fit(features, labels, rank=WIDTH).score(others), whole)


def test_a_feature_that_never_changes_in_training_gives_a_stranger_away() -> None:
    features, labels = clusters(5000)
    features[:, 3] = 0.0
    strange = features[:1].copy()
    strange[0, 3] = 5.0
    found = Gaussians.fit(features, labels)
    assert np.isfinite(found.score(features)).all()
    assert found.score(strange) > 1.5 * found.score(features).max()


def test_the_nearest_neighbours_are_those_of_pytorch_ood() -> None:
    (features, labels), (others, _) = clusters(300), clusters(40, seed=3)
    oracle = KNN(None, k=7).fit_features(torch.from_numpy(features), torch.from_numpy(labels))
    mine = Neighbours.fit(features, labels, per_class=300, k=7)
    np.testing.assert_allclose(mine.score(others), oracle.predict_features(torch.from_numpy(others)), atol=1e-3)


def test_a_bank_holds_as_many_of_each_class_and_is_the_same_again() -> None:
    features, labels = clusters(400)
    bank = Neighbours.fit(features, labels, per_class=9, k=3)
    assert bank.bank.shape == (9 * CLASSES, WIDTH)
    np.testing.assert_array_equal(bank.bank, Neighbours.fit(features, labels, per_class=9, k=3).bank)
    assert Neighbours.fit(features[:5], labels[:5], per_class=9, k=50).k == 5


def test_vim_is_that_of_pytorch_ood() -> None:
    (features, labels), (others, _), (weight, bias) = clusters(500), clusters(40, seed=4), head()
    oracle = ViM(None, 5, torch.from_numpy(weight), torch.from_numpy(bias))
    oracle.fit_features(torch.from_numpy(features), torch.from_numpy(labels))
    mine = VirtualLogit.fit(features, weight, bias, rank=5).score(others, others @ weight.T + bias)
    np.testing.assert_allclose(mine, oracle.predict_features(torch.from_numpy(others)), rtol=1e-3, atol=1e-3)


def test_every_score_is_higher_far_from_the_training_samples() -> None:
    (features, labels), (weight, bias) = clusters(800), head()
    far = 40 * np.random.default_rng(7).normal(size=(200, WIDTH)).astype(np.float32)
    for score in (Gaussians.fit(features, labels), Neighbours.fit(features, labels, per_class=100, k=5)):
        assert np.median(score.score(far)) > np.quantile(score.score(features), 0.95)
    vim = VirtualLogit.fit(features, weight, bias, rank=5)
    assert vim.scale > 0
