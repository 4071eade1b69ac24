"""Entries of a tree in growth, kept apart by (feature, node) pair.

A pair's count is the length of its run of entries, and its statistics come from reading that run
alone. At each level every run is divided between the node's children; a run that can split neither
child any more is left behind for good.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def take_rows(column_ptr, rows, bins, position):
    """Entries of the rows with ``position >= 0``, rows renumbered by it."""
    n_columns = column_ptr.size - 1
    start = np.zeros(n_columns, np.int64)
    end = np.zeros(n_columns, np.int64)
    # room for all: pages that are not written to take no memory
    new_rows = np.empty(rows.size + 1, np.int32)
    new_bins = np.empty(rows.size + 1, np.uint8)
    t = 0
    for f in range(n_columns):
        start[f] = t
        for e in range(column_ptr[f], column_ptr[f + 1]):
            r = position[np.uint32(rows[e])]
            new_rows[t] = r
            new_bins[t] = bins[e]
            t += r >= 0
        end[f] = t
    return start, end, new_rows[:t], new_bins[:t]


@njit(cache=True, nogil=True)
def _varies(bins, lo, hi):
    first = bins[lo]
    for e in range(lo + 1, hi):
        if bins[e] != first:
            return True
    return False


@njit(cache=True, nogil=True)
def first_pairs(start, end, bins, n, min_leaf):
    """The (feature, root) pairs that can split, as arrays of pairs: see `divide_pairs`.

    A feature can split a node only if enough rows have it and either its values differ or enough
    rows lack it. What cannot split a node cannot split its descendants either.
    """
    feature = np.empty(start.size, np.int32)
    lo = np.empty(start.size, np.int64)
    count = np.empty(start.size, np.int32)
    varies = np.empty(start.size, np.uint8)
    k = 0
    for f in range(start.size):
        present = end[f] - start[f]
        if present >= min_leaf:
            varied = _varies(bins, start[f], end[f])
            if varied or n - present >= min_leaf:
                feature[k] = f
                lo[k] = start[f]
                count[k] = present
                varies[k] = varied
                k += 1
    return feature[:k], np.zeros(k, np.int32), lo[:k], count[:k], varies[:k]


@njit(cache=True, nogil=True)
def divide_pairs(
    pair_feature,
    pair_node,
    pair_lo,
    pair_count,
    pair_varies,
    rows,
    bins,
    new_row,
    left_node,
    right_node,
    next_lo,
    next_hi,
    min_leaf,
):
    """Divides each pair's run of entries between the node's children, in place and in order.

    A pair is a feature and a node with the feature's entries in it: ``count`` of them from ``lo``,
    ascending by row; ``varies`` tells whether their bins differ. Pairs are sorted by feature.
    ``new_row`` is a row's number at the next level, -1 in a node that is closed; ``left_node`` and
    ``right_node`` are the children's numbers there, -1 where closed.
    """
    room = 0
    longest = 0
    for p in range(pair_node.size):
        a = pair_node[p]
        here = (left_node[a] >= 0) + (right_node[a] >= 0)
        room += min(here, pair_count[p] // min_leaf)
        if here == 2:
            longest = max(longest, pair_count[p])
    feature = np.empty(room, np.int32)
    node = np.empty(room, np.int32)
    first = np.empty(room, np.int64)
    count = np.empty(room, np.int32)
    varies = np.empty(room, np.uint8)
    buffer_row = np.empty(longest, np.int32)
    buffer_bin = np.empty(longest, np.uint8)
    k = 0
    for p in range(pair_node.size):
        a = pair_node[p]
        lo = pair_lo[p]
        hi = lo + pair_count[p]
        t = lo
        n_right = 0
        if left_node[a] >= 0 and right_node[a] >= 0:
            middle = next_lo[right_node[a]]
            for e in range(lo, hi):
                r = new_row[np.uint32(rows[e])]
                b = bins[e]
                right = r >= middle
                rows[t] = r
                bins[t] = b
                buffer_row[n_right] = r
                buffer_bin[n_right] = b
                n_right += right
                t += not right
            for i in range(n_right):
                rows[t + i] = buffer_row[i]
                bins[t + i] = buffer_bin[i]
        elif left_node[a] >= 0 or right_node[a] >= 0:
            for e in range(lo, hi):
                r = new_row[np.uint32(rows[e])]
                rows[t] = r
                bins[t] = bins[e]
                t += r >= 0
            if left_node[a] < 0:
                n_right = t - lo
                t = lo
        else:
            continue
        for side in range(2):
            child = left_node[a] if side == 0 else right_node[a]
            begin = lo if side == 0 else t
            present = t - lo if side == 0 else n_right
            if child < 0 or present < min_leaf:
                continue
            varied = pair_varies[p] == 1 and _varies(bins, begin, begin + present)
            if varied or next_hi[child] - next_lo[child] - present >= min_leaf:
                feature[k] = pair_feature[p]
                node[k] = child
                first[k] = begin
                count[k] = present
                varies[k] = varied
                k += 1
    return feature[:k], node[:k], first[:k], count[:k], varies[:k]
