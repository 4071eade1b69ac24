"""The best split of every node of a level, from histograms of the entries that are present.

Absent rows are never visited: their statistics are the node's totals less those of its present
rows, and both directions are tried for them.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _scores(left, first, absent, total, labels, out):
    """Purity of the left side plus that of what it leaves of the total, for many cuts at once.

    Of labels: sum of W_k^2 over W; of the mean: S^2 over W.

    ``left`` is ``(n_stats, 256)`` and ``absent`` is added to it. The layout, and a loop of its own
    for four labels, let the compiler score several cuts in one instruction.
    """
    n_stats = left.shape[0]
    last = first + out.size
    if labels and n_stats == 4:
        column_0 = left[0][first:last]
        column_1 = left[1][first:last]
        column_2 = left[2][first:last]
        column_3 = left[3][first:last]
        absent_0, absent_1, absent_2, absent_3 = absent[0], absent[1], absent[2], absent[3]
        total_0, total_1, total_2, total_3 = total[0], total[1], total[2], total[3]
        for i in range(out.size):
            a = column_0[i] + absent_0
            b = column_1[i] + absent_1
            c = column_2[i] + absent_2
            d = column_3[i] + absent_3
            score = (a * a + b * b + c * c + d * d) / (a + b + c + d)
            a = total_0 - a
            b = total_1 - b
            c = total_2 - c
            d = total_3 - d
            out[i] = score + (a * a + b * b + c * c + d * d) / (a + b + c + d)
    elif labels:
        for i in range(out.size):
            mass = 0.0
            squares = 0.0
            other_mass = 0.0
            other_squares = 0.0
            for k in range(n_stats):
                a = left[k, first + i] + absent[k]
                mass += a
                squares += a * a
                a = total[k] - a
                other_mass += a
                other_squares += a * a
            out[i] = squares / mass + other_squares / other_mass
    else:
        column_0 = left[0][first:last]
        column_1 = left[1][first:last]
        absent_0, absent_1 = absent[0], absent[1]
        total_0, total_1 = total[0], total[1]
        for i in range(out.size):
            a = column_0[i] + absent_0
            b = column_1[i] + absent_1
            score = b * b / a
            a = total_0 - a
            b = total_1 - b
            out[i] = score + b * b / a


@njit(cache=True, nogil=True)
def _accumulate(histogram, bin_of, left):
    """Running sums over the bins with entries, which are emptied."""
    n_stats = left.shape[0]
    k = 0
    while k + 4 <= n_stats:  # sums of their own do not wait for one another
        a = b = c = d = 0.0
        for i in range(bin_of.size):
            at = np.uint64(bin_of[i])
            a += histogram[at, k]
            b += histogram[at, k + 1]
            c += histogram[at, k + 2]
            d += histogram[at, k + 3]
            left[k, i] = a
            left[k + 1, i] = b
            left[k + 2, i] = c
            left[k + 3, i] = d
            histogram[at, k] = 0.0
            histogram[at, k + 1] = 0.0
            histogram[at, k + 2] = 0.0
            histogram[at, k + 3] = 0.0
        k += 4
    while k < n_stats:
        a = 0.0
        for i in range(bin_of.size):
            at = np.uint64(bin_of[i])
            a += histogram[at, k]
            left[k, i] = a
            histogram[at, k] = 0.0
        k += 1


@njit(cache=True, nogil=True)
def best_splits(
    pair_node,
    pair_lo,
    pair_count,
    selected,
    rows,
    bins,
    node_size,
    totals,
    y,
    weight,
    label,
    labels,
    min_leaf,
    best_score,
):
    """Best split of every node over its drawn features, with both directions for absent rows.

    Returns pair (-1 without a split better than ``best_score``, which is overwritten), bin and the
    side of absent rows of every node.
    """
    best_pair = np.full(node_size.size, -1, np.int64)
    best_bin = np.zeros(node_size.size, np.uint8)
    best_left = np.zeros(node_size.size, np.uint8)
    n_stats = totals.shape[1]
    histogram = np.zeros((256, n_stats), np.float64)
    histogram_count = np.zeros(256, np.int32)
    bin_of = np.empty(257, np.uint8)
    n_left = np.empty(256, np.int32)
    left = np.empty((n_stats, 256), np.float64)
    nothing = np.zeros(n_stats, np.float64)
    absent = np.empty(n_stats, np.float64)
    scores = np.empty(256, np.float64)
    for p in range(pair_node.size):
        if selected[p] == 0:
            continue
        a = pair_node[p]
        size = node_size[a]
        n_absent = size - pair_count[p]
        lowest = 255
        highest = 0
        if labels:
            for e in range(pair_lo[p], pair_lo[p] + pair_count[p]):
                b = np.uint64(bins[e])
                r = np.uint32(rows[e])
                lowest = min(lowest, np.int64(b))
                highest = max(highest, np.int64(b))
                histogram_count[b] += 1
                histogram[b, np.uint64(label[r])] += weight[r]
        else:
            for e in range(pair_lo[p], pair_lo[p] + pair_count[p]):
                b = np.uint64(bins[e])
                r = np.uint32(rows[e])
                lowest = min(lowest, np.int64(b))
                highest = max(highest, np.int64(b))
                histogram_count[b] += 1
                histogram[b, 0] += weight[r]
                histogram[b, 1] += weight[r] * y[r]
        m = 0
        for b in range(lowest, highest + 1):
            bin_of[m] = b
            m += histogram_count[b] > 0
        so_far = 0
        for i in range(m):
            at = np.uint64(bin_of[i])
            so_far += histogram_count[at]
            n_left[i] = so_far
            histogram_count[at] = 0
        _accumulate(histogram, bin_of[:m], left)
        # cuts that leave enough rows on both sides, absent rows going right and then left
        first = 0
        while first < m and n_left[first] < min_leaf:
            first += 1
        last = m
        while last > first and size - n_left[last - 1] < min_leaf:
            last -= 1
        top = -np.inf
        at = -1
        absent_left = False
        if last > first:
            _scores(left, first, nothing, totals[a], labels, scores[: last - first])
            for i in range(last - first):
                if scores[i] > top:
                    top = scores[i]
                    at = first + i
        if n_absent > 0:
            first = 0
            while first < m - 1 and n_left[first] + n_absent < min_leaf:
                first += 1
            last = m - 1
            while last > first and pair_count[p] - n_left[last - 1] < min_leaf:
                last -= 1
            if last > first:
                for k in range(n_stats):
                    absent[k] = totals[a, k] - left[k, m - 1]
                _scores(left, first, absent, totals[a], labels, scores[: last - first])
                for i in range(last - first):
                    if scores[i] > top or (scores[i] == top and first + i < at):
                        top = scores[i]
                        at = first + i
                        absent_left = True
        if top > best_score[a]:
            best_score[a] = top
            best_pair[a] = p
            best_bin[a] = bin_of[at]
            # without absent rows here, later ones follow the majority
            best_left[a] = absent_left or (n_absent == 0 and 2 * n_left[at] >= size)
    return best_pair, best_bin, best_left
