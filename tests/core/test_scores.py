"""The distance from the training samples: that of pytorch-ood and scikit-learn, and large where a sample is strange."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import Mahalanobis
from sklearn.covariance import ledoit_wolf

from hemalens.core.scores import Gaussians, shrunk_covariance

WIDTH, CLASSES = 12, 4


def clusters(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features around one centre a class."""
    draw = np.random.default_rng(seed)
    mixing = 3 * np.eye(WIDTH) + np.random.default_rng(99).normal(0, 0.4, (WIDTH, WIDTH))
    centres = 6 * np.random.default_rng(98).normal(size=(CLASSES, WIDTH))
    labels = draw.integers(0, CLASSES, n)
    return (draw.normal(size=(n, WIDTH)) @ mixing + centres[labels]).astype(np.float32), labels


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


def test_the_score_is_higher_far_from_the_training_samples() -> None:
    features, labels = clusters(800)
    far = 40 * np.random.default_rng(7).normal(size=(200, WIDTH)).astype(np.float32)
    found = Gaussians.fit(features, labels)
    assert np.median(found.score(far)) > np.quantile(found.score(features), 0.95)
