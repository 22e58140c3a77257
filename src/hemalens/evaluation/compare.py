"""From which answers of two models are right to whether they differ: a difference with its interval and a p-value.

Models scored on the same pictures are compared pair by pair, which sees far smaller differences than two intervals
side by side. Needs numpy and SciPy; no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, fisher_exact

__all__ = ["Difference", "holm", "paired_difference", "unpaired_difference"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """The accuracy of a first model less that of a second.

    Attributes:
        value: in [-1, 1].
        low: lower end of its 95 % interval.
        high: upper end.
        p: probability of a difference at least as large between equally good models.
        paired: both were scored on the same samples and compared sample by sample.
    """

    value: float
    low: float
    high: float
    p: float
    paired: bool


def paired_difference(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], *, seed: int = 0) -> Difference:
    """Compare two models sample by sample; ``first`` and ``second`` (N,) say which answers are right.

    The p-value is McNemar's, exact (McNemar 1947: a binomial over the samples that only one of them names rightly), the
    interval a percentile bootstrap over pairs, drawn from the seed.

    >>> paired_difference(np.array([True, True, True]), np.array([True, False, True])).p
    1.0
    """
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"answers {first.shape} and {second.shape}: must be (N,) of one length and not empty")
    total = len(first)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    shares = np.array([gained, lost, total - gained - lost]) / total
    draws = np.random.default_rng(seed).multinomial(total, shares, size=_RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / total, [0.025, 0.975])
    return Difference((gained - lost) / total, float(low), float(high), p, paired=True)


def unpaired_difference(first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """Compare two models scored on different samples; each is given as (right answers, answers).

    The p-value is Fisher's, exact; the interval squares and adds Wilson intervals (Newcombe 1998, method 10).
    """
    (a, n), (b, m) = first, second
    if not (0 <= a <= n and 0 <= b <= m and n and m):
        raise ValueError(f"right answers {a} of {n} and {b} of {m}: must lie between none and all of at least one")
    p = float(fisher_exact([[a, n - a], [b, m - b]]).pvalue)
    (low_a, high_a), (low_b, high_b) = (
        binomtest(hits, count).proportion_ci(method="wilson") for hits, count in (first, second)
    )
    value = a / n - b / m
    below, above = np.hypot(a / n - low_a, high_b - b / m), np.hypot(high_a - a / n, b / m - low_b)
    return Difference(value, float(value - below), float(value + above), p, paired=False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons adjusted so that one false claim among them stays rare (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min((len(p_values) - rank) * p_values[place], 1.0))
        adjusted[place] = highest
    return adjusted
