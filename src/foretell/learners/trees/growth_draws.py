"""Random draws of a tree: from hashes, the same in any order and number of threads."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _mix(state, value):
    """SplitMix64 step: a hash of a pair, the same whatever the order of the calls."""
    z = state + (value + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _uniform(seed, first, second):
    z = _mix(_mix(seed, np.uint64(first)), np.uint64(second))
    return (np.float64(z >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True)
def uniforms(seed, n):
    """Uniform numbers (n,) in (0, 1), each from its place alone."""
    result = np.empty(n, np.float64)
    for i in range(n):
        result[i] = _uniform(seed, np.uint64(i), np.uint64(0))
    return result


@njit(cache=True, nogil=True)
def _smallest(keys, rank):
    """The key of that rank (0 is the least), by Hoare's selection; reorders the keys."""
    lo = 0
    hi = keys.size - 1
    while lo < hi:
        pivot = keys[(lo + hi) // 2]
        i = lo
        j = hi
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if rank <= j:
            hi = j
        elif rank >= i:
            lo = i
        else:
            break
    return keys[rank]


@njit(cache=True, nogil=True)
def draw_features(
    pair_feature,
    pair_node,
    pair_count,
    node_size,
    node_id,
    fraction,
    at_most,
    min_presence,
    always,
    seed,
):
    """Draws each node's features without replacement, with probability by presence in the node.

    Exponential keys divided by the presence, the smallest ``m`` of them (Efraimidis and Spirakis
    2006), from a hash of (tree, node, feature): no order of evaluation can change the draw.
    """
    n_nodes = node_size.size
    n_pairs = pair_node.size
    selected = np.ones(n_pairs, np.uint8)
    eligible = np.zeros(n_nodes + 1, np.int64)
    for p in range(n_pairs):
        eligible[pair_node[p] + 1] += 1
    everything = True
    for a in range(n_nodes):
        if _n_drawn(eligible[a + 1], fraction, at_most) < eligible[a + 1]:
            everything = False
    if everything:
        return selected
    offset = np.cumsum(eligible)
    key = np.empty(n_pairs, np.float64)
    bucket = np.empty(n_pairs, np.float64)
    fill = offset[:-1].copy()
    for p in range(n_pairs):
        a = pair_node[p]
        if pair_feature[p] == always:
            key[p] = 0.0
        else:
            presence = max(pair_count[p] / node_size[a], min_presence)
            key[p] = -math.log(_uniform(seed, node_id[a], pair_feature[p])) / presence
        bucket[fill[a]] = key[p]
        fill[a] += 1
    limit = np.full(n_nodes, np.inf)
    for a in range(n_nodes):
        drawn = _n_drawn(eligible[a + 1], fraction, at_most)
        if drawn < eligible[a + 1]:
            limit[a] = _smallest(bucket[offset[a] : offset[a + 1]], drawn - 1)
    for p in range(n_pairs):
        if key[p] > limit[pair_node[p]]:
            selected[p] = 0
    return selected


@njit(cache=True, nogil=True)
def _n_drawn(eligible, fraction, at_most):
    if eligible == 0:
        return 0
    if at_most > 0:
        return min(at_most, eligible)
    return max(1, min(eligible, math.ceil(fraction * eligible - 1e-9)))
