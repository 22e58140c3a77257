"""How long it takes to find the pairs of near hashes among a million, how much memory, and how both grow.

The hashes are random 64-bit numbers; 2,000 of them get a copy with one to four bits flipped, 500 of each distance.
Every size runs in a process of its own, so that its peak memory is its own. faiss, its multi-index hashing, runs
beside in turn where it is installed (pip install faiss-cpu).
"""

import importlib
import importlib.util
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from conditions import record
from hemalens.data.audit.checks.hash_search import CERTAIN, Hashes, near_hashes

SIZES = (10_000, 100_000, 1_000_000)
EACH = 500
BLOCK = 100_000


def near_hashes_faiss(stored: Hashes, queries: Hashes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield what ``near_hashes`` yields, each pair once: three tables of 21 bits, one bit flipped in each."""
    faiss = importlib.import_module("faiss")
    different, indices = np.unique(stored, return_index=True)
    index = faiss.IndexBinaryMultiHash(64, 3, 21)
    index.nflip = 1
    index.add(different.view(np.uint8).reshape(-1, 8))
    for start in range(0, len(queries), BLOCK):
        asked = np.ascontiguousarray(queries[start : start + BLOCK]).view(np.uint8).reshape(-1, 8)
        limits, distances, found = index.range_search(asked, CERTAIN + 1)  # the first distance that is too large
        yield start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))), indices[found], distances


SEARCHES = {"hemalens": near_hashes, "faiss": near_hashes_faiss}


def planted(count: int) -> tuple[Hashes, np.ndarray]:
    """Return hashes (count,) and the distance at which the last 4 x 500 were planted to the first 4 x 500."""
    draw = np.random.default_rng(count)
    hashes = draw.integers(0, 2**64, count, dtype=np.uint64)
    distances = np.repeat(np.arange(1, CERTAIN + 1), EACH)
    for index, distance in enumerate(distances):
        bits = draw.choice(64, distance, replace=False).astype(np.uint64)
        hashes[count - len(distances) + index] = hashes[index] ^ np.bitwise_xor.reduce(np.uint64(1) << bits)
    return hashes, distances


def search(name: str, count: int) -> dict[str, object]:
    hashes, distances = planted(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, cpu = time.perf_counter(), time.process_time()
    found: set[tuple[int, int]] = set()
    for query, index, _ in SEARCHES[name](hashes, hashes):
        apart = query < index
        found.update(zip(query[apart].tolist(), index[apart].tolist(), strict=True))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    first = count - len(distances)
    hits = np.array([(index, first + index) in found for index in range(len(distances))])
    return {
        "hashes": count,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "memory_before_mib": round(before, 1),
        "recall_by_distance": {int(d): float(hits[distances == d].mean()) for d in np.unique(distances)},
        "pairs_by_chance": len(found) - int(hits.sum()),
    }


def main() -> None:
    figures = {}
    names = [name for name in SEARCHES if name != "faiss" or importlib.util.find_spec("faiss")]
    for name in names:
        rows = []
        for count in SIZES:
            words = [sys.executable, __file__, name, str(count)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
        growth = [round(b["cpu_seconds"] / max(a["cpu_seconds"], 0.01), 1) for a, b in itertools.pairwise(rows)]
        figures[name] = {"sizes": rows, "growth_of_cpu_seconds_for_ten_times_the_hashes": growth}
    record("hash_search", figures, bits=64, farthest=CERTAIN, planted=CERTAIN * EACH)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(search(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
