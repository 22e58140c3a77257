"""Foreign images: what is no stained cell and resembles nothing else in the set, even where it occurs once.

Two independent criteria. Isolation: the distance to the fifth nearest other image in whitened appearance space
(Ramaswamy et al. 2000), on a log scale in robust deviations; a rare kind of cell has neighbours, a photograph of a cat
has none. Stain: a Romanowsky dye absorbs green most. Equal images count once, so 1,600 copies do not vouch for each
other.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from hemalens.core.types import FloatArray, Images
from hemalens.data.audit.checks.appearance import appearance, looks_stained
from hemalens.data.audit.checks.duplicates import distinct, duplicate_groups
from hemalens.data.audit.checks.finding import Finding, Suggestion
from hemalens.data.audit.statistics import Statistics

__all__ = ["find_foreign", "foreignness", "isolation"]

_NEIGHBOURS = 5
# Of 11,959 real cells none is more isolated than 5.9; of 137 foreign images none less than 7.4.
_ISOLATED = 6.0
# What a missing stain adds; and where dropping is certain: an unstained image more isolated than any cell, or one
# beyond all cells seen. Two real cells from another laboratory, cut by a black bar, reach 9.6 and stay for review.
_UNSTAINED = 3.0
_CERTAIN = 10.0
# The stain counts where the set as a whole is stained: grey or fluorescent sets do without it.
_STAINED_SHARE = 0.8
# Distances are taken to at most this many images, so that the cost grows linearly with the set.
_REFERENCE = 20_000
_FEWEST = 20


def find_foreign(statistics: Statistics) -> list[Finding]:
    """Report images that are no cells; the certain ones are suggested to drop, the others to review.

    Needs at least 20 different images to know what is usual; of fewer it reports none.
    """
    unique = distinct(statistics).tolist()
    if len(unique) < _FEWEST:
        return []
    isolated, stained, score = foreignness(statistics.thumbnails[unique])
    members_of = {members[0]: members for members in duplicate_groups(statistics)}
    findings = []
    for index in np.flatnonzero(score >= _ISOLATED).tolist():
        members = members_of.get(unique[index], [unique[index]])
        dye = "stained like a cell" if stained[index] else "no blood stain"
        reason = f"{isolated[index]:.1f} robust deviations farther from other images than usual; {dye}"
        group = f"foreign-{unique[index]}" if len(members) > 1 else ""
        findings += _findings(members, float(score[index]), group, reason)
    return sorted(findings, key=lambda finding: finding.index)


def foreignness(thumbnails: Images) -> tuple[FloatArray, npt.NDArray[np.bool_], FloatArray]:
    """Return isolation (N,), whether stained (N,) bool, and their joint score (N,) of thumbnails (N, S, S, 3) uint8.

    From 6 on an image is foreign, from 10 on certainly so. In sets under 400 the tail of the isolation is wider
    (fewer images to be near to), and half a deviation a halving is taken off.
    """
    isolated = isolation(appearance(thumbnails))
    stained = looks_stained(thumbnails)
    small = 0.5 * max(0.0, float(np.log2(400 / len(thumbnails))))
    score = isolated - small
    if stained.mean() >= _STAINED_SHARE:
        score = np.where(stained, score, np.maximum(score + small + _UNSTAINED, _ISOLATED))
    return isolated, stained, score


def isolation(features: FloatArray, *, seed: int = 0) -> FloatArray:
    """Return the log distance to the fifth nearest neighbour of features (N, F), in robust deviations."""
    points = _whiten(features)
    reference = points
    if len(points) > _REFERENCE:
        reference = points[np.random.default_rng(seed).choice(len(points), _REFERENCE, replace=False)]
    neighbours = min(_NEIGHBOURS, len(reference) - 1)
    index = NearestNeighbors(n_neighbors=neighbours + 1).fit(reference)
    # An image of the reference finds itself first, another does not: the fifth or sixth neighbour, no matter which.
    distances = np.log(index.kneighbors(points)[0][:, neighbours] + 1e-6)
    median = np.median(distances)
    deviation = (np.quantile(distances, 0.9) - median) / 1.2816
    return np.asarray((distances - median) / max(float(deviation), 1e-6))


def _whiten(features: FloatArray) -> FloatArray:
    """Scale features (N, F) robustly, clip them and decorrelate by the covariance of the central nine tenths."""
    median = np.median(features, axis=0)
    spread = np.median(np.abs(features - median), axis=0) * 1.4826
    low, high = np.quantile(features, [0.1, 0.9], axis=0)
    scale = np.maximum(spread, (high - low) / 2.56 / 2) + 1e-6
    # One feature must not outshout the others: beyond 15 deviations all is equally far.
    scaled = np.clip((features - median) / scale, -15, 15)
    norms = np.linalg.norm(scaled, axis=1)
    central = scaled[norms <= np.quantile(norms, 0.9)]
    values, vectors = np.linalg.eigh(np.cov(central.T))
    # A floor of 2 % of the largest variance keeps noise directions from ruling the distance.
    return np.asarray(
        (scaled - central.mean(axis=0)) @ (vectors / np.sqrt(np.maximum(values, 0) + 0.02 * values.max() + 1e-9))
    )


def _findings(members: Sequence[int], score: float, group: str, reason: str) -> list[Finding]:
    certainty = round(1 / (1 + float(np.exp(-(score - _ISOLATED) / 1.3))), 4)
    suggestion: Suggestion = "drop" if score >= _CERTAIN else "review"
    return [Finding(index, "foreign", certainty, group, suggestion, reason) for index in members]
