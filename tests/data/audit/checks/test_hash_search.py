"""Hashes that differ in few bits meet, whichever bits those are; crowded buckets stay small."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.data.audit.checks.hash_search import CERTAIN, Hashes, near_hashes


def pairs(stored: Hashes, queries: Hashes, **options: int) -> set[tuple[int, int]]:
    found = set()
    for query, index, distance in near_hashes(stored, queries, **options):
        assert (np.bitwise_count(queries[query] ^ stored[index]) == distance).all()
        found |= set(zip(query.tolist(), index.tolist(), strict=True))
    return found


def drawn(count: int, seed: int, bits: int = 64) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint64)


@pytest.mark.parametrize("bits", [64, 60, 24])
def test_all_pairs_up_to_four_bits_apart_are_found_and_none_farther_than_asked(bits: int) -> None:
    stored = drawn(300, 1, bits)
    generator = np.random.default_rng(2)
    queries = stored.copy()
    for index in range(300):
        for bit in generator.choice(bits, index % 8, replace=False):
            queries[index] ^= np.uint64(1 << int(bit))
    apart = np.bitwise_count(queries[:, None] ^ stored[None])
    expected = {(int(a), int(b)) for a, b in np.argwhere(apart <= CERTAIN)}
    assert pairs(stored, queries, bits=bits) == expected
    assert len(expected) >= 180
    wider = pairs(stored, queries, bits=bits, radius=6)
    assert expected <= wider <= {(int(a), int(b)) for a, b in np.argwhere(apart <= 6)}


@settings(max_examples=100, deadline=None)
@given(value=st.integers(0, 2**64 - 1), flips=st.sets(st.integers(0, 63), max_size=CERTAIN))
def test_no_choice_of_four_bits_escapes(value: int, flips: set[int]) -> None:
    other = value ^ sum(1 << bit for bit in flips)
    assert pairs(np.array([value], np.uint64), np.array([other], np.uint64)) == {(0, 0)}


def test_every_four_of_the_bits_at_the_pieces_edges_are_covered() -> None:
    edges = [0, 10, 11, 20, 21, 31, 32, 42, 43, 52, 53, 63]
    flips = [sum(1 << bit for bit in chosen) for chosen in combinations(edges, CERTAIN)]
    assert len(pairs(np.zeros(1, np.uint64), np.array(flips, np.uint64))) == len(flips)


def test_thousands_of_like_hashes_are_joined_by_few_pairs() -> None:
    crowd = np.full(2_000, 2**63 + 12345, np.uint64) ^ (drawn(2_000, 3) & np.uint64(0b11))
    looked = sum(len(query) for query, _, _ in near_hashes(crowd, crowd))
    assert looked <= 15 * 32 * 2_000
    assert {query for query, index in pairs(crowd, crowd) if query != index} == set(range(2_000))


def test_nothing_is_found_among_nothing() -> None:
    assert pairs(np.zeros(0, np.uint64), drawn(3, 1)) == pairs(drawn(3, 1), np.zeros(0, np.uint64)) == set()
