"""Scores of known and unknown images to how well they tell the two apart, and what abstaining by them gains.

Scores are high where an image is strange. Needs numpy and SciPy; neither torch nor training.
"""

import numpy as np
from scipy.stats import rankdata

from hemalens.core.metrics import Interval
from hemalens.core.types import FloatArray

__all__ = ["aurc", "auroc", "risk_coverage"]


def auroc(known: FloatArray, unknown: FloatArray) -> Interval:
    """Return the probability that an unknown sample (M,) scores higher than a known one (N,), ties counting half.

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
