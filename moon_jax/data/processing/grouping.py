"""Groups of like rows: runs of equal keys, near hashes by bands, and who stands for whom."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

Array = np.ndarray
PAIRS_AT_ONCE = 1 << 20  # candidate pairs held at a time


def mix64(values: Array, seed: int = 0) -> Array:
    """uint64, any shape: a well-mixed hash of integers (SplitMix64's finaliser), the same on every machine."""
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % (1 << 64))
    x = np.asarray(values).astype(np.uint64, copy=False) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def firsts(key_N: Array) -> Array:
    """int64 N: for each row the first row with an equal key."""
    _, first, inverse = np.unique(key_N, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.reshape(-1)])


def pairs_in_runs(key_N: Array) -> Iterator[tuple[Array, Array]]:
    """All pairs of rows (low, high) with equal keys, a bounded number at a time."""
    order = np.argsort(key_N, kind="stable")
    ordered = key_N[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    after_N = ends - np.arange(key_N.size) - 1  # later members of the same run
    members = np.flatnonzero(after_N > 0)
    if not members.size:
        return
    blocks = np.cumsum(after_N[members]) // PAIRS_AT_ONCE
    for block in np.split(members, np.flatnonzero(np.diff(blocks)) + 1):
        count = after_N[block]
        first = np.repeat(block, count)
        second = first + 1 + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        one, other = order[first], order[second]
        yield np.minimum(one, other), np.maximum(one, other)


def near_hashes(hash_N: Array, distance: int) -> Iterator[tuple[Array, Array]]:
    """Each pair (low, high) of 64-bit hashes at most `distance` bits apart, once; exact, not approximate.

    Of `distance + 2` bands at least two agree (pigeonhole), so buckets of two bands hold every pair; it is told in the
    first of them alone.
    """
    edges = np.linspace(0, 64, distance + 3).astype(int)
    bands = [(hash_N >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for low, high in pairwise(edges)]
    for a, b in combinations(range(len(bands)), 2):
        key_N = (bands[a] << np.uint64(edges[b + 1] - edges[b])) | bands[b]
        for low, high in pairs_in_runs(key_N):
            near = np.bitwise_count(hash_N[low] ^ hash_N[high]) <= distance
            low, high = low[near], high[near]
            # Equal bands before b other than a would have told this pair already.
            first = np.ones(low.size, bool)
            for band in range(b):
                if band != a:
                    first &= bands[band][low] != bands[band][high]
            yield low[first], high[first]


def leaders(count: int, low_E: Array, high_E: Array) -> Array:
    """int64 N: who stands for each row, given the pairs (low, high) of rows that are alike.

    Greedy in row order: a row stands for itself unless an earlier row that does is like it; the first such row stands
    for it. So no two that stand for themselves are alike, and everyone is like the one who stands for it (no drift
    along chains, as connected components have).
    """
    kept_N, open_N = np.zeros(count, bool), np.ones(count, bool)
    low, high = low_E, high_E
    while low.size:
        waiting = np.zeros(count, bool)
        waiting[high] = True
        settled = open_N & ~waiting
        kept_N |= settled
        open_N &= waiting
        open_N[high[settled[low]]] = False
        still = open_N[low] & open_N[high]
        low, high = low[still], high[still]
    kept_N |= open_N
    leader_N = np.arange(count)
    counts = kept_N[low_E] & ~kept_N[high_E]
    best_N = np.full(count, count)
    np.minimum.at(best_N, high_E[counts], low_E[counts])
    return np.where(kept_N, leader_N, best_N)
