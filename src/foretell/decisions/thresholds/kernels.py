"""Compiled loops of the decision surfaces: isotonic blocks, dynamic programmes, cell look-up.

All stand in one file: numba's cache on disk notices changes of the file of the kernel that is
called, not of files that it calls.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

UNREACHED = -1


@njit(cache=True, nogil=True)
def isotonic_blocks(score, positive, weight):
    """Pool-adjacent-violators blocks of ``positive / weight``, non-decreasing in the score.

    Args:
        score: (n,) ascending.
        positive: (n,) weight of the row where its label is 1, else 0.
        weight: (n,) weight of the row, above 0.

    Returns:
        First row, positive weight and weight of each block, lowest scores first. Tied scores never
        fall into two blocks and rates rise strictly from block to block.
    """
    n = score.size
    start = np.empty(n, np.int64)
    hits = np.empty(n, np.float64)
    mass = np.empty(n, np.float64)
    top = 0
    i = 0
    while i < n:
        first = i
        p = 0.0
        w = 0.0
        while i < n and score[i] == score[first]:
            p += positive[i]
            w += weight[i]
            i += 1
        # rates are compared as cross products: no division, ties merge exactly for integers
        while top > 0 and hits[top - 1] * w >= p * mass[top - 1]:
            top -= 1
            first = start[top]
            p += hits[top]
            w += mass[top]
        start[top] = first
        hits[top] = p
        mass[top] = w
        top += 1
    return start[:top].copy(), hits[:top].copy(), mass[:top].copy()


@njit(cache=True, nogil=True)
def equal_weight_programme(gain):
    """Most positives for every number of positive bins (EW-DPMT).

    ``gain[k, j]`` (K, L + 1) are the positives in the top ``j`` bins of level ``k``.

    Returns:
        ``(K * L + 1,)`` best positives by number of bins and ``(K, K * L + 1)`` the bins taken in
        each level to get there, for walking back from the last level.
    """
    levels, width = gain.shape
    bins = width - 1
    best = np.full(levels * bins + 1, -1.0)
    best[0] = 0.0
    taken = np.zeros((levels, levels * bins + 1), np.int32)
    for k in range(levels):
        following = np.full(levels * bins + 1, -1.0)
        for j in range(width):
            more = gain[k, j]
            for m in range(k * bins + 1):
                value = best[m] + more
                if value > following[m + j]:
                    following[m + j] = value
                    taken[k, m + j] = j
        best = following
    return best, taken


@njit(cache=True, nogil=True)
def variable_weight_programme(gain, size):
    """Least weight that reaches every number of true positives (VW-DP).

    Args:
        gain: (K, L + 1) int64 true positives of level k if it takes its top ``j`` bins.
        size: (K, L + 1) float64 weight of those bins.

    Returns:
        ``(P + 1,)`` least weight (inf where out of reach) and ``(K, P + 1)`` bins taken.
    """
    levels, width = gain.shape
    reach = 0
    for k in range(levels):
        reach += gain[k, width - 1]
    best = np.full(reach + 1, np.inf)
    best[0] = 0.0
    taken = np.full((levels, reach + 1), UNREACHED, np.int16)
    limit = 0
    for k in range(levels):
        following = np.full(reach + 1, np.inf)
        for j in range(width):
            g = gain[k, j]
            s = size[k, j]
            for t in range(limit + 1):
                value = best[t] + s
                if value < following[t + g]:
                    following[t + g] = value
                    taken[k, t + g] = j
        limit += gain[k, width - 1]
        best = following
    return best, taken


@njit(cache=True, nogil=True)
def variable_weight_monotone_programme(gain, size, rank):
    """As `variable_weight_programme` with thresholds that never fall from level to level.

    ``rank[k, j]`` orders the thresholds of all levels: level ``k`` may take ``j`` bins after level
    ``k - 1`` took ``i`` only if ``rank[k, j] >= rank[k - 1, i]``. ``taken[k, j, t]`` is that ``i``.
    """
    levels, width = gain.shape
    reach = 0
    for k in range(levels):
        reach += gain[k, width - 1]
    best = np.full((width, reach + 1), np.inf)
    taken = np.full((levels, width, reach + 1), UNREACHED, np.int16)
    for j in range(width):
        if size[0, j] < best[j, gain[0, j]]:
            best[j, gain[0, j]] = size[0, j]
    limit = gain[0, width - 1]
    for k in range(1, levels):
        following = np.full((width, reach + 1), np.inf)
        ahead = np.full(reach + 1, np.inf)
        source = np.full(reach + 1, UNREACHED, np.int16)
        i = width - 1  # lowest threshold of the level before
        for j in range(width - 1, -1, -1):
            while i >= 0 and rank[k - 1, i] <= rank[k, j]:
                for t in range(limit + 1):
                    if best[i, t] < ahead[t]:
                        ahead[t] = best[i, t]
                        source[t] = i
                i -= 1
            g = gain[k, j]
            for t in range(limit + 1):
                if ahead[t] < np.inf:
                    following[j, t + g] = ahead[t] + size[k, j]
                    taken[k, j, t + g] = source[t]
        limit += gain[k, width - 1]
        best = following
    return best, taken


@njit(cache=True, nogil=True, inline="always")
def _cell(score, uncertainty, score_edges, level_edges):
    """Score bin and level of one pair; the level after the last one where u is NaN."""
    lo = 0
    hi = score_edges.size
    while lo < hi:
        middle = (lo + hi) >> 1
        if score_edges[middle] <= score:
            lo = middle + 1
        else:
            hi = middle
    n_edges = level_edges.shape[1]
    if uncertainty != uncertainty:
        return lo, n_edges + 1
    level = 0
    for e in range(n_edges):  # a handful of levels: counting beats halving
        level += level_edges[lo, e] <= uncertainty
    return lo, level


@njit(cache=True, nogil=True)
def locate(score, uncertainty, score_edges, level_edges, bins, levels):
    """Writes the score bin and the level of each pair."""
    for i in range(score.size):
        bins[i], levels[i] = _cell(score[i], uncertainty[i], score_edges, level_edges)


@njit(cache=True, nogil=True)
def decide(
    score, uncertainty, score_edges, level_edges, thresholds, floors, lowest, highest, decisions
):
    """Writes the decision of each pair; counts uncertainties out of range, NaN u and NaN scores."""
    clipped = 0
    missing = 0
    undefined = 0
    for i in range(score.size):
        s = score[i]
        u = uncertainty[i]
        _, level = _cell(s, u, score_edges, level_edges)
        clipped += (u < lowest) or (u > highest)
        missing += u != u
        undefined += s != s
        decisions[i] = 0
        if level < thresholds.size:
            if s >= thresholds[level] and thresholds[level] < np.inf:
                decisions[i] = 1
            elif s >= floors[level] and floors[level] < np.inf:
                decisions[i] = -1
    return clipped, missing, undefined


@njit(cache=True, nogil=True)
def best_monotone_chain(value):
    """One column a row, columns never falling from row to row, with the greatest sum.

    Args:
        value: (K, G) worth of threshold ``g`` in level ``k``.

    Returns:
        (K,) columns; of equally good ones the highest thresholds.
    """
    levels, width = value.shape
    best = value[0].copy()
    source = np.zeros((levels, width), np.int64)
    for k in range(1, levels):
        ahead = -np.inf
        at = 0
        following = np.empty(width, np.float64)
        for g in range(width):
            if best[g] >= ahead:
                ahead = best[g]
                at = g
            following[g] = ahead + value[k, g]
            source[k, g] = at
        best = following
    g = 0
    for h in range(width):
        if best[h] >= best[g]:
            g = h
    chain = np.empty(levels, np.int64)
    for k in range(levels - 1, -1, -1):
        chain[k] = g
        g = source[k, g]
    return chain
