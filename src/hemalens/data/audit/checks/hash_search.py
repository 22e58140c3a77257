"""Hashes to pairs that differ in few bits, by tables of equal pieces: no pass over all pairs.

Pigeonhole: of six pieces of a hash, four flipped bits leave two untouched, so in one of the 15 tables that are keyed by
two pieces both hashes lie in the same bucket (Norouzi et al. 2012, with pairs of pieces as keys). Needs numpy.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from hemalens.core.types import IntArray

__all__ = ["CERTAIN", "Hashes", "near_hashes"]

Hashes = npt.NDArray[np.uint64]
"""Hashes of up to 64 bits, (N,) uint64."""

CERTAIN = 4
"""Pairs up to this distance are found without exception, as long as no bucket overflows."""

_PIECES, _KEYED = 6, 2
# Of a crowded bucket a hash meets the 32 next to it in sorted order: buckets of 1,600 like images stay linear.
_WINDOW = 32
# Candidates compared at once: 16 MB for each of the arrays that hold them.
_BLOCK = 2_000_000

_Pairs = tuple[IntArray, IntArray, IntArray]


def near_hashes(stored: Hashes, queries: Hashes, *, bits: int = 64, radius: int = CERTAIN) -> Iterator[_Pairs]:
    """Yield (index in queries, index in stored, distance) of pairs that differ in at most ``radius`` bits.

    A pair may come several times, from several tables; those farther apart than ``CERTAIN`` come only where two pieces
    happen to agree. Time is linear in the hashes (but for sorting), memory too.

    Args:
        stored: hashes (S,).
        queries: hashes (Q,).
        bits: how many of the 64 are used, the lowest ones.
        radius: the largest distance yielded.
    """
    edges = np.linspace(0, bits, _PIECES + 1).round().astype(int).tolist()
    for chosen in combinations(range(_PIECES), _KEYED):
        indices = [(edges[piece], edges[piece + 1] - edges[piece]) for piece in chosen]
        rest = bits - sum(width for _, width in indices)
        yield from _table(_keyed(stored, indices, rest), _keyed(queries, indices, rest), rest, radius)


def _keyed(hashes: Hashes, indices: list[tuple[int, int]], rest: int) -> Hashes:
    """Move the pieces at (offset, width) above all other bits, so that sorting brings equal keys together."""
    key, left = np.zeros_like(hashes), hashes
    for offset, width in indices:
        key = key << np.uint64(width) | (hashes >> np.uint64(offset)) & np.uint64((1 << width) - 1)
    for offset, width in reversed(indices):
        below = left & np.uint64((1 << offset) - 1)
        left = left >> np.uint64(offset + width) << np.uint64(offset) | below
    return key << np.uint64(rest) | left


def _table(stored: Hashes, queries: Hashes, rest: int, radius: int) -> Iterator[_Pairs]:
    """Yield the pairs of one table, whose key is all above the ``rest`` lowest bits."""
    stored_order, query_order = np.argsort(stored), np.argsort(queries)
    sorted_stored, sorted_queries = stored[stored_order], queries[query_order]
    low = np.uint64((1 << rest) - 1)
    first = np.searchsorted(sorted_stored, sorted_queries & ~low)
    last = np.searchsorted(sorted_stored, sorted_queries | low, side="right")
    crowded = np.flatnonzero(last - first > _WINDOW)
    if len(crowded):
        middle = np.searchsorted(sorted_stored, sorted_queries[crowded]) - _WINDOW // 2
        first[crowded] = np.clip(middle, first[crowded], last[crowded] - _WINDOW)
        last[crowded] = first[crowded] + _WINDOW
    met = np.flatnonzero(last > first)
    ends = np.cumsum(last[met] - first[met])
    start = 0
    while start < len(met):
        done = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, done + _BLOCK, side="right")), start + 1)
        rows = met[start:stop]
        counts = last[rows] - first[rows]
        query = np.repeat(rows, counts)
        index = np.arange(len(query)) + np.repeat(first[rows] - (ends[start:stop] - done - counts), counts)
        # The order of the bits does not change how many differ.
        distance = np.bitwise_count(sorted_queries[query] ^ sorted_stored[index])
        near = np.flatnonzero(distance <= radius)
        yield query_order[query[near]], stored_order[index[near]], distance[near].astype(np.int64)
        start = stop
