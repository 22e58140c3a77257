"""Logits to probabilities that mean what they say: a temperature, a least confidence, and sets that hold the truth.

All is fitted on validation samples, which the network was not trained on. Needs numpy and SciPy; no torch.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from hemalens.core.metrics import cross_entropy, softmax
from hemalens.core.types import FloatArray, IntArray

__all__ = [
    "abstention_threshold",
    "aps_scores",
    "conformal_quantile",
    "fit_temperature",
    "lac_scores",
    "prediction_sets",
    "set_thresholds",
]

_ABSTAINED = 0.05


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


def abstention_threshold(confidence: FloatArray, *, share: float = _ABSTAINED) -> float:
    """Return the confidence that a ``share`` of the validation samples stays below (N,) -> threshold."""
    return float(np.quantile(confidence, share)) if len(confidence) else 0.0


def lac_scores(probabilities: FloatArray) -> FloatArray:
    """Return how badly each class fits (N, C), in [0, 1]: one minus its probability (Sadinle et al. 2019)."""
    return np.asarray(1.0 - probabilities)


def aps_scores(probabilities: FloatArray, draws: FloatArray) -> FloatArray:
    """Return how badly each class fits (N, C), in [0, 1], adaptively (Romano et al. 2020, equations 5 to 8).

    A class's score is the probability of all classes before it in falling order, and of itself the part 1 - u.

    Args:
        probabilities: (N, C), rows summing to 1.
        draws: u of each sample (N,), uniform in [0, 1); zeros give the sets without chance, which cover too much.

    >>> aps_scores(np.array([[0.5, 0.25, 0.25]]), np.zeros(1)).tolist()
    [[0.5, 0.75, 1.0]]
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    falling = np.take_along_axis(probabilities, order, axis=1)
    reached = falling.cumsum(axis=1) - draws[:, None] * falling
    scores = np.empty(probabilities.shape)
    np.put_along_axis(scores, order, reached, axis=1)
    return scores


def conformal_quantile(scores: FloatArray, *, coverage: float) -> float:
    """Return the score (N,) -> that a new sample stays at or below with at least the chance ``coverage``.

    The ceil((N + 1) coverage)-th smallest score; infinity where there are too few to say (Vovk et al. 2005).

    >>> conformal_quantile(np.arange(9.0), coverage=0.9), conformal_quantile(np.arange(8.0), coverage=0.9)
    (8.0, inf)
    """
    # Rounded first: 0.9 * 10 must not become the tenth for a last bit.
    index = int(np.ceil(np.round((len(scores) + 1) * coverage, 9)))
    return float(np.sort(scores)[index - 1]) if index <= len(scores) else float("inf")


def set_thresholds(scores: FloatArray, labels: IntArray, *, coverage: float, by_class: bool = False) -> FloatArray:
    """Return the score (C,) up to which each class belongs into the set of a sample.

    Args:
        scores: of validation samples and all classes (N, C), as ``lac_scores`` or ``aps_scores`` give them.
        labels: (N,), 0..C-1.
        coverage: the share of sets that are to hold the truth, in (0, 1).
        by_class: one threshold a class, so that the promise holds for each class by itself (Vovk's Mondrian sets).
    """
    own = scores[np.arange(len(labels)), labels]
    groups = [labels == index for index in range(scores.shape[1])] if by_class else [np.full(len(labels), True)]
    found = [conformal_quantile(own[group], coverage=coverage) for group in groups]
    return np.array(found if by_class else found * scores.shape[1])


def prediction_sets(scores: FloatArray, thresholds: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which classes are in the set of each sample (N, C); a set may be empty."""
    return np.asarray(scores <= thresholds)
