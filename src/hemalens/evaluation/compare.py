"""From the answers of two models to whether they differ: a difference with its interval and a p-value.

Each model may have been trained several times. Models scored on the same images are compared pair by pair, which sees
far smaller differences than two intervals side by side. Needs numpy and SciPy; no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, fisher_exact
from scipy.stats import t as student

from hemalens.core.types import FloatArray, IntArray

__all__ = [
    "Difference",
    "bootstrap_scores",
    "drawn_difference",
    "holm",
    "paired_difference",
    "seeded_difference",
    "unpaired_difference",
]

_RESAMPLES = 2000
_BLOCK = 1 << 24  # weights drawn at a time: 64 MiB of float32


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of a first model, or its mean over trainings, less that of a second.

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


def bootstrap_scores(
    labels: IntArray,
    predicted: Sequence[IntArray],
    n_classes: int,
    score: Callable[[IntArray], FloatArray],
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> FloatArray:
    """Return a score of several models (R, resamples) on the same draws of the samples, to be compared pair by pair.

    Args:
        labels: of the samples (N,).
        predicted: for each of the R models the answers (N,) for these samples.
        n_classes: C; labels and answers lie in 0..C-1.
        score: one of ``core.metrics`` that takes matrices (..., C, C).
        resamples: draws of N samples with replacement.
        seed: of the draws.
    """
    total = len(labels)
    cells = [np.eye(n_classes**2, dtype=np.float32)[labels * n_classes + answers] for answers in predicted]
    generator = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(total, 1))
    found: list[list[FloatArray]] = [[] for _ in cells]
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(total, size=(count, total)) + total * np.arange(count)[:, None]
        weights = np.bincount(drawn.reshape(-1), minlength=count * total).reshape(count, total).astype(np.float32)
        for scores, one in zip(found, cells, strict=True):
            matrices = np.rint(weights @ one).astype(np.int64)
            scores.append(score(matrices.reshape(-1, n_classes, n_classes)))
    return np.stack([np.concatenate(scores) for scores in found])


def drawn_difference(value: float, draws: FloatArray) -> Difference:
    """Judge a difference by its bootstrap draws over the same samples (B,): percentile interval, two-sided p-value.

    The p-value counts the draws beyond zero, one more than there are (Davison and Hinkley 1997, section 4.2.5).
    """
    low, high = np.quantile(draws, [0.025, 0.975])
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (1 + beyond) / (1 + len(draws))), paired=True)


def seeded_difference(first: Sequence[float], second: Sequence[float], *, samples: float, paired: bool) -> Difference:
    """Compare the mean scores of two recipes trained several times each, by the spread of seeds and of samples.

    The variance of the difference is that of the samples plus that of the seeds of each recipe over their number; a
    recipe trained once is taken to spread like the other one. Student's t with Welch's degrees of freedom (Welch 1947)
    gives the interval and the p-value.

    Args:
        first: a score of each training of the first recipe, at least one.
        second: the same of the second; at least one of the two has several.
        samples: the variance that comes from the choice of the samples alone.
        paired: whether all were scored on the same samples and ``samples`` is of their difference.

    >>> round(seeded_difference([0.9, 0.92], [0.8, 0.82], samples=0.0, paired=True).p, 3)
    0.019
    """
    value = float(np.mean(first) - np.mean(second))
    spread = [float(np.var(one, ddof=1)) for one in (first, second) if len(one) > 1]
    if not spread:
        raise ValueError("recipes trained once each: their spread over seeds is not known")
    parts = [(float(np.var(one, ddof=1)) if len(one) > 1 else spread[0]) / len(one) for one in (first, second)]
    free = [len(one) - 1 if len(one) > 1 else max(len(first), len(second)) - 1 for one in (first, second)]
    variance = samples + sum(parts)
    if variance == 0:
        return Difference(value, value, value, float(value == 0), paired)
    weight = sum(part**2 / degrees for part, degrees in zip(parts, free, strict=True))
    law = student(variance**2 / weight if weight else np.inf)
    error = variance**0.5
    reach = float(law.ppf(0.975)) * error
    return Difference(value, value - reach, value + reach, float(2 * law.sf(abs(value) / error)), paired)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons adjusted so that one false claim among them stays rare (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = highest
    return adjusted
