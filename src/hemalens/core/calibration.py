"""Logits to probabilities that mean what they say: one temperature, and a confidence below which nothing is claimed.

Both are fitted on validation samples, which the network was not trained on. Needs numpy and SciPy; no torch.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from hemalens.core.metrics import cross_entropy, softmax
from hemalens.core.types import FloatArray, IntArray

__all__ = ["abstention_threshold", "fit_temperature"]

_REFUSED = 0.05


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """Return the temperature in [0.05, 20] by which to divide logits (N, C) at least cross-entropy (Guo et al. 2017).

    With fewer than two samples there is nothing to fit, and it is 1.

    >>> fit_temperature(np.zeros((1, 8)), np.array([0]))
    1.0
    """
    if len(labels) < 2:
        return 1.0

    def loss(log_temperature: float) -> float:
        return cross_entropy(softmax(logits / np.exp(log_temperature)), labels)

    # On a log scale the minimum is as easily found at 0.2 as at 5.
    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def abstention_threshold(confidence: FloatArray, *, refused: float = _REFUSED) -> float:
    """Return the confidence that a share ``refused`` of the validation samples stays below (N,) -> threshold."""
    return float(np.quantile(confidence, refused)) if len(confidence) else 0.0
