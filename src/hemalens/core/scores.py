"""How unlike the training samples a sample is: the distance of its features from the nearest class of theirs.

Features (N, D) are what the last linear layer sees. Needs numpy only.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from hemalens.core.types import FloatArray, IntArray

__all__ = ["Gaussians", "shrunk_covariance"]

_TINY = 1e-12


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
