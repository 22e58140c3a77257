"""Batches by background colour: groups of images taken on another microscope or day, kept and compared later."""

import numpy as np
import numpy.typing as npt
from sklearn.cluster import HDBSCAN

from hemalens.core.types import FloatArray, IntArray
from hemalens.data.audit.checks.duplicates import distinct
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.statistics import Statistics

__all__ = ["background_colours", "cluster_backgrounds", "find_background_batches"]

_FEWEST_SHARE, _FEWEST = 0.004, 20
_FIT = 8_000
# A batch is apart where the stretch halfway between it and the main cloud is empty: under a tenth of what it would
# hold if the batch were spread evenly over it.
_VALLEY = 0.1


def find_background_batches(statistics: Statistics, *, seed: int = 0) -> list[Finding]:
    """Report images whose background belongs to a smaller, separate background batch; kept."""
    # Copies of one image are no batch: each different image counts once.
    images = distinct(statistics)
    colours = background_colours(statistics)[images]
    clusters = cluster_backgrounds(colours, seed=seed)
    findings = []
    for cluster in range(1, int(clusters.max(initial=0)) + 1):
        members = np.flatnonzero(clusters == cluster)
        red, green, blue = np.median(colours[members], axis=0).round().astype(int)
        usual = ", ".join(str(value) for value in np.median(colours[clusters == 0], axis=0).round().astype(int))
        reason = f"background colour ({red}, {green}, {blue}), as in {len(members)} images; usual is ({usual})"
        findings += [
            Finding(int(images[m]), "background_batch", 1.0, f"colour-{cluster}", "keep", reason) for m in members
        ]
    return sorted(findings, key=lambda finding: finding.index)


def background_colours(statistics: Statistics) -> FloatArray:
    """Return the background colour (N, 3) of 0-255, zeros where unreadable."""
    names = ("background_red", "background_green", "background_blue")
    return np.array(
        [
            (0.0, 0.0, 0.0) if row is None else tuple(getattr(row, name) for name in names)
            for row in statistics.measurements
        ]
    ).reshape(-1, 3)


def cluster_backgrounds(colours: FloatArray, *, seed: int = 0) -> IntArray:
    """Return a cluster per background colour (N, 3): 0 for the main cloud and strays, 1, 2, ... for separate batches.

    HDBSCAN (Campello et al. 2013) on red - green and green - blue proposes groups of at least 0.4 % and 20 images; a
    group stands if a sparse valley lies between it and the main cloud. Larger batches come first.
    """
    chroma = np.stack([colours[:, 0] - colours[:, 1], colours[:, 1] - colours[:, 2]], axis=1)
    assigned = np.zeros(len(chroma), np.int64)
    smallest = max(_FEWEST, round(_FEWEST_SHARE * min(len(chroma), _FIT)))
    if len(chroma) < 2 * smallest:
        return assigned
    sampled = np.arange(len(chroma))
    if len(chroma) > _FIT:
        sampled = np.random.default_rng(seed).choice(len(chroma), _FIT, replace=False)
    labels = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(chroma[sampled])
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(names) < 2:
        return assigned
    order = names[np.argsort(-counts, kind="stable")]
    main = np.median(chroma[sampled][labels == order[0]], axis=0)
    number = 0
    for name in order[1:]:
        members = chroma[sampled][labels == name]
        inside = _beyond_valley(chroma, main, np.median(members, axis=0), members)
        if inside is not None and (fresh := inside & (assigned == 0)).sum() >= _FEWEST:
            number += 1
            assigned[fresh] = number
    return assigned


def _beyond_valley(
    chroma: FloatArray, main: FloatArray, centre: FloatArray, members: FloatArray
) -> npt.NDArray[np.bool_] | None:
    """Return who lies on the batch's side of the valley and near its line, None where there is no valley."""
    axis = centre - main
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        return None
    along = (chroma - main) @ axis / length**2
    aside = np.linalg.norm((chroma - main) - along[:, None] * axis, axis=1)
    reach = max(3 * float(np.quantile(np.linalg.norm(members - centre, axis=1), 0.9)), 0.3 * length)
    batch = (along > 0.6) & (along < 1.8) & (aside < reach)
    valley = int(((along > 0.4) & (along < 0.6)).sum())
    return batch if valley < _VALLEY * batch.sum() else None
