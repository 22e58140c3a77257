"""Unusual images by the classical way: PCA of the thumbnails, robust covariance, Mahalanobis distance, chi-square.

The same principal components are the map that the report draws.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA

from hemalens.core.types import FloatArray, Images, IntArray
from hemalens.data.audit.checks.duplicates import distinct
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.statistics import Statistics

__all__ = ["OutlierAnalysis", "analyse_outliers", "find_outliers"]

_COMPONENTS = 10
# Real cells have heavier tails than a normal cloud: the 99.9 % limit would call 3.8 % of them outliers, this one 2.2 %.
_QUANTILE = 0.9999
# The fits use at most these many images: their error is far below the spread of the images themselves.
_FIT_PCA, _FIT_COVARIANCE = 10_000, 1_000
# Three quarters of the images shape the covariance. With half of them (the most robust choice) the rare classes fall
# outside: 16 % of the real cells became outliers.
_SUPPORT = 0.75
_BLOCK = 2  # thumbnail pixels averaged per side
_FEWEST = 50
_PART = 8_192
# What rounding to whole grey levels, then averaging four, leaves of error; see _dithered.
_ROUNDING = 12**-0.5 / 2


@dataclass(frozen=True, slots=True)
class OutlierAnalysis:
    """What the PCA and the robust distances say.

    Attributes:
        scores: principal components (N, K); zeros where a sample is unreadable or the set is too small.
        explained: share of the variance that each component explains (K,).
        distances: squared Mahalanobis distances (N,) under the robust covariance.
        threshold: the 99.99 % quantile of chi-square with K degrees of freedom, 0 where the set is too small.
        findings: the samples beyond it, for review.
    """

    scores: FloatArray
    explained: FloatArray
    distances: FloatArray
    threshold: float
    findings: tuple[Finding, ...]


def analyse_outliers(statistics: Statistics, *, seed: int = 0) -> OutlierAnalysis:
    """Return principal components, robust distances and the outliers among a source's readable samples.

    Location and scatter come from the minimum covariance determinant (Rousseeuw and Van Driessen 1999); a squared
    distance beyond the 99.99 % quantile of chi-square is an outlier. Sets under 50 different images have none.
    """
    total = len(statistics.measurements)
    readable = np.flatnonzero(statistics.readable)
    # Equal images count once in the fit, or 1,600 copies of one would be the centre of the world.
    first = np.searchsorted(readable, distinct(statistics))
    if len(first) < _FEWEST:
        return OutlierAnalysis(np.zeros((total, 2)), np.zeros(2), np.zeros(total), 0.0, ())
    generator = np.random.default_rng(seed)
    components = min(_COMPONENTS, max(2, len(first) // 10))
    fitted = readable[_some(first, _FIT_PCA, generator)]
    pca = PCA(components, svd_solver="covariance_eigh").fit(_dithered(_reduced(statistics.thumbnails[fitted]), seed))
    # A few thousand at a time: all at once they would take 3 KiB an image, twice of what an audit keeps of each.
    parts = np.array_split(readable, -(-len(readable) // _PART))
    scores = np.concatenate([pca.transform(_reduced(statistics.thumbnails[part])) for part in parts])
    central = _dithered(scores[_some(first, _FIT_COVARIANCE, generator)], seed)
    robust = MinCovDet(random_state=seed, support_fraction=_SUPPORT).fit(central)
    squared = robust.mahalanobis(scores)
    threshold = float(chi2.ppf(_QUANTILE, components))
    findings = tuple(
        Finding(
            int(readable[index]),
            "outlier",
            round(float(1 - threshold / squared[index]), 4),
            "",
            "review",
            f"far from most images: squared Mahalanobis distance {squared[index]:.0f}, the limit is {threshold:.1f}",
            brief=f"distance {squared[index]:.0f}",
        )
        for index in np.flatnonzero(squared > threshold)
    )
    all_scores, all_squared = np.zeros((total, components)), np.zeros(total)
    all_scores[readable], all_squared[readable] = scores, squared
    return OutlierAnalysis(all_scores, np.asarray(pca.explained_variance_ratio_), all_squared, threshold, findings)


def find_outliers(analysis: OutlierAnalysis) -> tuple[Finding, ...]:
    """Report the samples beyond the limit of the robust distance, for review."""
    return analysis.findings


def _reduced(thumbnails: Images) -> FloatArray:
    """Average thumbnails (N, 16, 16, 3) uint8 to (N, 192) float32: the same map, eigenvectors 50 times cheaper."""
    n, side = len(thumbnails), thumbnails.shape[1] // _BLOCK
    means: FloatArray = thumbnails.reshape(n, side, _BLOCK, side, _BLOCK, 3).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(n, -1)


def _dithered(values: FloatArray, seed: int) -> FloatArray:
    """Add the thumbnails' rounding error, so that images alike to the last level still span a space to fit in."""
    noise = np.random.default_rng([seed, 1]).standard_normal(values.shape, np.float32)
    return np.asarray(values + np.float32(_ROUNDING) * noise)


def _some(indices: IntArray, most: int, generator: np.random.Generator) -> IntArray:
    return indices if len(indices) <= most else generator.choice(indices, most, replace=False)
