"""How unlike the training samples a sample is: five scores from a network's features and logits, higher is stranger.

Features (N, D) are what the last linear layer sees. Needs numpy only.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from hemalens.core.metrics import softmax
from hemalens.core.types import FloatArray, IntArray

__all__ = ["Gaussians", "Neighbours", "VirtualLogit", "energy", "least_confidence", "shrunk_covariance"]

_BLOCK = 2048
_TINY = 1e-12


def least_confidence(logits: FloatArray) -> FloatArray:
    """Return one minus the largest softmax probability (N,) of logits (N, C) (Hendrycks and Gimpel 2017)."""
    return np.asarray(1.0 - softmax(logits).max(axis=1))


def energy(logits: FloatArray) -> FloatArray:
    """Return the free energy (N,) of logits (N, C), minus the log of their summed exponentials (Liu et al. 2020)."""
    largest = logits.max(axis=1).astype(np.float64)
    return np.asarray(-largest - np.log(np.exp(logits - largest[:, None]).sum(axis=1)))


def shrunk_covariance(centred: FloatArray) -> FloatArray:
    """Return the covariance (D, D) of centred samples (N, D), drawn towards equal variances as far as they are few.

    (Ledoit and Wolf 2004, section 3.)
    """
    count, width = centred.shape
    sample = centred.T @ centred / count
    even = float(np.trace(sample)) / width
    apart = float(((sample - even * np.eye(width)) ** 2).sum())
    squares = centred**2
    scatter = (float((squares.T @ squares).sum()) / count - float((sample**2).sum())) / count
    share = min(scatter / apart, 1.0) if apart > 0 else 0.0
    return np.asarray((1.0 - share) * sample + share * even * np.eye(width))


@dataclass(frozen=True, slots=True)
class Gaussians:
    """A normal distribution a class with one covariance for all, for the distance to the nearest (Lee et al. 2018).

    The covariance is that of the samples around their class means, shrunk (Ledoit and Wolf 2004). Where it would take
    much room, only its leading directions are kept; the others share their mean variance.

    Attributes:
        means: (C, D).
        basis: orthonormal directions (D, R).
        precisions: one over the variances along them (R,).
        rest: one over the variance of every other direction.
    """

    means: FloatArray
    basis: FloatArray
    precisions: FloatArray
    rest: float

    @classmethod
    def fit(
        cls, features: FloatArray, labels: IntArray, *, varied: FloatArray | None = None, rank: int | None = None
    ) -> Self:
        """Fit to the features of samples.

        Args:
            features: (N, D).
            labels: (N,), of C values.
            varied: (N, D), of the same samples after changes that are to count for little; half the covariance is of
                them, around the means of the unchanged ones.
            rank: R, all D where not given.
        """
        present, indices = np.unique(labels, return_inverse=True)
        parts = [part.astype(np.float64) for part in (features, varied) if part is not None]
        means = np.stack([parts[0][indices == index].mean(axis=0) for index in range(len(present))])
        centred = np.concatenate([part - means[indices] for part in parts])
        variances, directions = np.linalg.eigh(shrunk_covariance(centred))
        kept = min(rank or len(variances), len(variances))
        # Some features may never change (dead units): their variance is as good as none, and any change tells.
        variances = np.maximum(variances, 1e-6 * variances[-1] + _TINY)[::-1]
        rest = 1.0 / float(variances[kept:].mean()) if kept < len(variances) else 0.0
        return cls(means, directions[:, ::-1][:, :kept], 1.0 / variances[:kept], rest)

    def distances(self, features: FloatArray) -> FloatArray:
        """Return the Mahalanobis distance of features (N, D) to each class's mean, (N, C)."""
        found = np.empty((len(features), len(self.means)))
        features, means = features.astype(np.float64), self.means.astype(np.float64)
        turned, centres = features @ self.basis, means @ self.basis
        for index, mean in enumerate(means):
            along = turned - centres[index]
            squared = (along**2 * self.precisions).sum(axis=1)
            if self.rest:
                outside = ((features - mean) ** 2).sum(axis=1) - (along**2).sum(axis=1)
                squared += self.rest * np.maximum(outside, 0.0)
            found[:, index] = np.sqrt(squared)
        return found

    def score(self, features: FloatArray) -> FloatArray:
        """Return the distance (N,) of features (N, D) to the nearest class."""
        return np.asarray(self.distances(features).min(axis=1))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Training features of length 1, for the distance to the k-th nearest of them (Sun et al. 2022).

    Attributes:
        bank: (M, D), rows of length 1.
        k: which neighbour counts.
    """

    bank: FloatArray
    k: int

    @classmethod
    def fit(cls, features: FloatArray, labels: IntArray, *, per_class: int, k: int, seed: int = 0) -> Self:
        """Keep at most ``per_class`` features (N, D) of each class in labels (N,), drawn from the seed."""
        draw = np.random.default_rng(seed)
        chosen = [draw.permutation(np.flatnonzero(labels == index))[:per_class] for index in np.unique(labels)]
        indices = np.sort(np.concatenate(chosen))
        return cls(_unit(features[indices]), min(k, len(indices)))

    def score(self, features: FloatArray) -> FloatArray:
        """Return the distance (N,), in [0, 2], of features (N, D), scaled to length 1, to the k-th nearest."""
        found = [np.zeros(0)]
        for start in range(0, len(features), _BLOCK):
            likeness = _unit(features[start : start + _BLOCK]) @ self.bank.T
            kth = np.partition(likeness, -self.k, axis=1)[:, -self.k]
            found.append(np.sqrt(np.maximum(2.0 - 2.0 * kth, 0.0)))
        return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class VirtualLogit:
    """The subspace in which training features vary, for ViM: what lies outside it stands for one more class.

    (Wang et al. 2022, section 4.)

    Attributes:
        origin: (D,).
        basis: orthonormal directions of the subspace (D, R).
        scale: from the length outside the subspace to the virtual logit.
    """

    origin: FloatArray
    basis: FloatArray
    scale: float

    @classmethod
    def fit(cls, features: FloatArray, weight: FloatArray, bias: FloatArray, *, rank: int) -> Self:
        """Fit to features (N, D) before a last layer with weight (C, D) and bias (C,); ``rank`` is R, below D."""
        weight, bias = weight.astype(np.float64), bias.astype(np.float64)
        origin = -np.linalg.pinv(weight) @ bias
        centred = features.astype(np.float64) - origin
        _, directions = np.linalg.eigh(centred.T @ centred / len(centred))
        basis = directions[:, ::-1][:, :rank]
        largest = (features @ weight.T + bias).max(axis=1).mean()
        return cls(origin, basis, float(largest / max(_outside(centred, basis).mean(), _TINY)))

    def score(self, features: FloatArray, logits: FloatArray) -> FloatArray:
        """Return the virtual logit plus the energy (N,) of features (N, D) and their logits (N, C)."""
        return np.asarray(self.scale * _outside(features.astype(np.float64) - self.origin, self.basis) + energy(logits))


def _outside(centred: FloatArray, basis: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.norm(centred - (centred @ basis) @ basis.T, axis=1))


def _unit(features: FloatArray) -> FloatArray:
    features = features.astype(np.float64)
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _TINY))
