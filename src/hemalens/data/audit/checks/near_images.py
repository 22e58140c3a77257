"""Distinct images to groups that show the same thing: candidates from hashes, each confirmed on its pixels.

The limit comes from the set itself: images of one laboratory are alike, and only what is far nearer than neighbours
usually are may be called a copy. numpy and SciPy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hemalens.core.types import FloatArray, Images, IntArray
from hemalens.data.audit.checks.alignment import residual
from hemalens.data.audit.checks.hash_search import near_hashes
from hemalens.data.audit.checks.structure_hash import BITS, STORED, oriented, structure_hashes

__all__ = ["Link", "NearImages", "near_images", "usual_residuals"]

# Hashes this far apart are compared on pixels: 99.9 % of real cells cropped by 2 pixels of 96 are nearer.
_RADIUS = 8
# Never called a copy beyond the first, always within the second, whatever the set: of 800 real cells a crop of 2 pixels
# leaves 2.6 % open (99th percentile), JPEG of quality 60 0.8 %; the nearest other cell of 400 leaves 8 % or more.
_MOST, _LEAST = 0.05, 0.01
# The limit as a share of the residual that a quarter of the neighbours stay under: 3.9 % in the real cells, where the
# nearest two different ones leave 6.0 % open, 2.5 % in the synthetic ones, where it is 6.3 %.
_QUANTILE, _SHARE = 0.25, 0.22
_SAMPLE = 400
_FEWEST = 20
# Thumbnails whose luminance varies less than this (grey levels, standard deviation) have no structure to compare.
_BLANK = 2.0
# Copies are alike before they are aligned too: of the same 800 none correlates by less than 0.94; of the pairs whose
# hashes are near and that show different cells nine tenths do by less than 0.9, and need no fit.
_ALIKE = 0.9
# How often two groups are compared before they are left apart.
_LOOKS = 4


@dataclass(frozen=True, slots=True)
class Link:
    """What makes an image a copy: the other image, what the fit leaves open, how the other was turned."""

    other: int
    residual: float
    turn: int


@dataclass(frozen=True, slots=True)
class NearImages:
    """Groups of images that show the same thing.

    Attributes:
        groups: indices of two or more images each, ascending.
        links: the nearest confirmed neighbour of every image in a group.
        limit: the residual up to which two images are called copies.
    """

    groups: tuple[tuple[int, ...], ...]
    links: dict[int, Link]
    limit: float


def near_images(thumbnails: Images, indices: IntArray, *, seed: int = 0) -> NearImages:
    """Group images that are copies of each other up to encoding, size, light, a narrow crop and orientation.

    Args:
        thumbnails: images (N, 16, 16, 3) uint8.
        indices: the different images among them, ascending (M,): only these are looked at.
        seed: draws the sample that the limit is taken from.
    """
    structured = indices[_contrast(thumbnails[indices]) >= _BLANK]
    images = thumbnails[structured]
    limit = _limit(usual_residuals(images, seed=seed))
    linking = _Linking(images, limit)
    for pairs in _candidates(images):
        linking.add(*pairs)
    return linking.result(structured)


def usual_residuals(thumbnails: Images, *, seed: int = 0) -> FloatArray:
    """Return the residual (M,) between images and their likeliest neighbours in a random sample of at most 400.

    Certain copies are taken out of the sample first. Under 20 images there is none.
    """
    count = min(len(thumbnails), _SAMPLE)
    sample = thumbnails[np.random.default_rng(seed).choice(len(thumbnails), count, replace=False)]
    while len(sample) >= _FEWEST:
        nearest, turns = _likeliest(sample)
        found = residual(_turned(sample, turns), sample[nearest])
        copied = (found <= _LEAST) & (nearest < np.arange(len(sample)))
        if not copied.any():
            return found
        sample = sample[~copied]
    return np.zeros(0)


def _likeliest(images: Images) -> tuple[IntArray, IntArray]:
    """Return which other image each (N, S, S, 3) is most like, and turned how, both (N,)."""
    rows, flat = np.arange(len(images)), _standardised(images)
    nearest, turns, likeness = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf)
    for turn in range(8):
        alike = _standardised(oriented(images, turn)) @ flat.T
        np.fill_diagonal(alike, -np.inf)
        best = alike.argmax(axis=1)
        better = alike[rows, best] > likeness
        nearest[better], turns[better], likeness[better] = best[better], turn, alike[rows, best][better]
    return nearest, turns


def _limit(usual: FloatArray) -> float:
    return float(np.clip(_SHARE * np.quantile(usual, _QUANTILE), _LEAST, _MOST)) if len(usual) else _MOST


def _candidates(images: Images) -> Iterator[tuple[IntArray, IntArray, IntArray, IntArray]]:
    """Yield (first, second, turn of the first, distance) of images whose hashes are near; some come several times."""
    stored, asked = structure_hashes(images)
    for query, index, distance in near_hashes(stored.ravel(), asked.ravel(), bits=BITS, radius=_RADIUS):
        first, second = query // 8, index // STORED
        other = np.flatnonzero(first != second)
        yield first[other], second[other], query[other] % 8, distance[other]


@dataclass(slots=True)
class _Linking:
    """Joins images as candidates come, asking for each pair once and only while its two groups are apart."""

    images: Images
    limit: float
    component: IntArray = field(init=False)
    asked: IntArray = field(init=False)
    confirmed: list[tuple[IntArray, IntArray, IntArray, FloatArray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.component = np.arange(len(self.images))
        self.asked = np.zeros(0, np.int64)

    def add(self, first: IntArray, second: IntArray, turn: IntArray, distance: IntArray) -> None:
        """Look at candidate pairs, the nearest of each image first, then of each two groups."""
        order = np.argsort(distance, kind="stable")
        code = np.minimum(first, second) * len(self.images) + np.maximum(first, second)
        _, index = np.unique(code[order], return_index=True)
        pending = order[np.sort(index)]
        pending = pending[~np.isin(code[pending], self.asked)]
        for look in range(_LOOKS):
            one, other = self.component[first[pending]], self.component[second[pending]]
            apart = one != other
            pending, one, other = pending[apart], one[apart], other[apart]
            if not len(pending):
                return
            groups = np.minimum(one, other) * len(self.images) + np.maximum(one, other)
            # Before anything is joined every pair is of two groups: then one pair an image is enough.
            key = first[pending] if look == 0 else groups
            chosen = np.sort(np.unique(key, return_index=True)[1])
            now = pending[chosen]
            self.asked = np.concatenate([self.asked, code[now]])
            self._confirm(first[now], second[now], turn[now])
            pending = np.delete(pending, chosen)

    def _confirm(self, first: IntArray, second: IntArray, turn: IntArray) -> None:
        turned, other = _turned(self.images[first], turn), self.images[second]
        alike = np.vecdot(_standardised(turned), _standardised(other)) >= _ALIKE
        first, second, turn = first[alike], second[alike], turn[alike]
        found = residual(turned[alike], other[alike])
        near = found <= self.limit
        if not near.any():
            return
        self.confirmed.append((first[near], second[near], turn[near], found[near]))
        self.component = _components(len(self.images), (pairs[:2] for pairs in self.confirmed))

    def result(self, indices: IntArray) -> NearImages:
        """Return the groups and links in the caller's ``indices`` (N,) of the images."""
        links: dict[int, Link] = {}
        for first, second, turns, found in self.confirmed:
            for row, (one, other, turn) in enumerate(zip(indices[first], indices[second], turns.tolist(), strict=True)):
                # Turning by 90 degrees is undone by 270, every other turn by itself.
                back = {5: 6, 6: 5}.get(turn, turn)
                for image, link in (
                    (int(one), Link(int(other), float(found[row]), back)),
                    (int(other), Link(int(one), float(found[row]), turn)),
                ):
                    if image not in links or link.residual < links[image].residual:
                        links[image] = link
        linked = np.array(sorted(links), np.int64)
        component = self.component[np.searchsorted(indices, linked)]
        order = np.argsort(component, kind="stable")
        parts = np.split(linked[order], np.flatnonzero(np.diff(component[order])) + 1) if len(linked) else []
        groups = sorted(tuple(part.tolist()) for part in parts)
        return NearImages(tuple(groups), links, self.limit)


def _components(count: int, edges: Iterable[tuple[IntArray, IntArray]]) -> IntArray:
    first, second = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _turned(images: Images, turns: IntArray) -> Images:
    """Return images (N, S, S, 3), each in an orientation of its own."""
    turned = np.empty_like(images)
    for turn in range(8):
        rows = turns == turn
        turned[rows] = oriented(images[rows], turn)
    return turned


def _contrast(thumbnails: Images) -> FloatArray:
    """Return the standard deviation of the mean of the colours of (N, S, S, 3) uint8 -> (N,), in blocks."""
    blocks = [
        thumbnails[start : start + 4096].mean(axis=3, dtype=np.float32) for start in range(0, len(thumbnails), 4096)
    ]
    return np.concatenate([block.std(axis=(1, 2)) for block in blocks]) if blocks else np.zeros(0)


def _standardised(thumbnails: npt.NDArray[np.generic]) -> FloatArray:
    """Return luminance of mean 0 and length 1 of (N, S, S, 3) uint8 -> (N, S * S) float32."""
    values = thumbnails.astype(np.float32).mean(axis=3).reshape(len(thumbnails), -1)
    values -= values.mean(axis=1, keepdims=True)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6))
