"""Features and logits of known and unknown images to how well each score tells them apart, and what abstaining gains.

Scores are high where an image is strange. Needs numpy, SciPy and scikit-learn; neither torch nor training.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import rankdata

from hemalens.core.metrics import Interval
from hemalens.core.scores import Gaussians, Neighbours, VirtualLogit, energy, least_confidence
from hemalens.core.types import FloatArray, IntArray

__all__ = ["Detectors", "aurc", "auroc", "false_acceptance", "risk_coverage"]


@dataclass(frozen=True, slots=True)
class Detectors:
    """Five scores of strangeness fitted on the same training features, to be compared."""

    gaussians: Gaussians
    neighbours: Neighbours
    virtual: VirtualLogit

    @classmethod
    def fit(
        cls, features: FloatArray, labels: IntArray, weight: FloatArray, bias: FloatArray, *, per_class: int, k: int
    ) -> Self:
        """Fit to training features (N, D) with labels (N,) before a last layer of weight (C, D) and bias (C,).

        Args:
            features: (N, D).
            labels: (N,).
            weight: (C, D).
            bias: (C,).
            per_class: how many features of each class the neighbours are chosen from.
            k: which neighbour counts.
        """
        return cls(
            Gaussians.fit(features, labels),
            Neighbours.fit(features, labels, per_class=per_class, k=k),
            VirtualLogit.fit(features, weight, bias, rank=features.shape[1] // 2),
        )

    def scores(self, features: FloatArray, logits: FloatArray) -> dict[str, FloatArray]:
        """Return each score (N,) of features (N, D) and logits (N, C)."""
        return {
            "least_confidence": least_confidence(logits),
            "energy": energy(logits),
            "mahalanobis": self.gaussians.score(features),
            "neighbours": self.neighbours.score(features),
            "vim": self.virtual.score(features, logits),
        }


def auroc(known: FloatArray, unknown: FloatArray) -> Interval:
    """Return the chance that an unknown sample scores higher than a known one, (N,) against (M,), ties counting half.

    The interval is that of DeLong et al. (1988), cut off at 0 and 1; where nothing overlaps it has no width.

    >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0])).value
    0.875
    """
    together = rankdata(np.concatenate([known, unknown]))
    above = (together[len(known) :] - rankdata(unknown)) / len(known)  # of each unknown: share of known ones below it
    below = 1.0 - (together[: len(known)] - rankdata(known)) / len(unknown)
    value = float(above.mean())
    spread = sum(float(part.var(ddof=1)) / len(part) for part in (above, below) if len(part) > 1)
    margin = 1.959964 * spread**0.5
    return Interval(value, max(value - margin, 0.0), min(value + margin, 1.0))


def false_acceptance(known: FloatArray, unknown: FloatArray, *, kept: float = 0.95) -> float:
    """Return the share of unknown samples (M,) that stay where ``kept`` of the known ones (N,) do (FPR95)."""
    return float((unknown <= np.quantile(known, kept, method="inverted_cdf")).mean())


def risk_coverage(strangeness: FloatArray, wrong: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return coverages and risks (N,): the error among the 1, 2, ... N least strange samples (El-Yaniv, Wiener 2010).

    Args:
        strangeness: (N,), what is abstained on first is highest; ties keep their order.
        wrong: (N,), 1 where the answer is wrong.
    """
    order = np.argsort(strangeness, kind="stable")
    counts = np.arange(1, len(order) + 1)
    return counts / max(len(order), 1), wrong[order].cumsum() / counts


def aurc(strangeness: FloatArray, wrong: FloatArray) -> float:
    """Return the mean risk over all coverages (Geifman et al. 2019), 0 where no answer is wrong.

    >>> aurc(np.array([0.0, 1.0]), np.array([0, 1]))
    0.25
    """
    return float(risk_coverage(strangeness, wrong)[1].mean())
