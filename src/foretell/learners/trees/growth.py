"""Compiled growth of one tree, level by level, from the entries that are present.

Entries are kept apart by (feature, node) pair, so that a pair's count is the length of its run and
its statistics come from reading that run alone. At each level the features of every node are drawn,
the runs of the drawn pairs are read into histograms, and then each run is divided between the
node's children; a run that can split neither child any more is left behind for good. Absent rows
are never visited: their statistics are the node's totals less those of its present rows. Rows are
renumbered at each level so that a node's rows are neighbours in ascending order of the response:
what an entry looks up lies close together, and node quantiles and sorted leaves cost one scan.

All kernels of a tree stand in this one file: numba's cache on disk notices changes of the file of
the kernel that is called, not of files that it calls.
"""

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
def _relabel(y, weight, grid, thresholds, label):
    """Labels of a node's rows: intervals of the node's quantiles (Athey et al. 2019, sec. 5)."""
    total = 0.0
    for i in range(y.size):
        total += weight[i]
    mass = 0.0
    k = 0
    for i in range(y.size):
        mass += weight[i]
        while k < grid.size and mass >= grid[k] * total:
            thresholds[k] = y[i]
            k += 1
        if k == grid.size:
            break
    while k < grid.size:
        thresholds[k] = y[y.size - 1]
        k += 1
    k = 0
    for i in range(y.size):
        while k < grid.size and y[i] > thresholds[k]:
            k += 1
        label[i] = k


@njit(cache=True, nogil=True)
def _varies(bins, lo, hi):
    first = bins[lo]
    for e in range(lo + 1, hi):
        if bins[e] != first:
            return True
    return False


@njit(cache=True, nogil=True)
def _first_pairs(start, end, bins, n, min_leaf):
    """The (feature, root) pairs that can split, as arrays of pairs: see `_divide_pairs`.

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
def _divide_pairs(
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
def _draw_features(
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


@njit(cache=True, nogil=True)
def _score(stats, labels):
    """Between-group purity: sum of W_k^2 / W for labels, S^2 / W for the mean."""
    if labels:
        total = 0.0
        squares = 0.0
        for k in range(stats.size):
            total += stats[k]
            squares += stats[k] * stats[k]
        return squares / total
    return stats[1] * stats[1] / stats[0]


@njit(cache=True, nogil=True)
def _scores(left, first, absent, total, labels, out):
    """`_score` of the left side and of what it leaves of the total, for many cuts at once.

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
def _best_splits(
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
    best_pair,
    best_bin,
    best_left,
):
    """Best split of every node over its drawn features, with both directions for absent rows."""
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


@njit(cache=True, nogil=True)
def grow_tree(
    start,
    end,
    rows,
    bins,
    y,
    weight,
    grid,
    max_depth,
    min_split,
    min_leaf,
    fraction,
    at_most,
    min_presence,
    always,
    seed,
    tolerance,
):
    """Grows one tree; rows are numbered in ascending order of ``y``.

    Returns ``(feature, bin, default_left, child, gain, leaf_ptr, leaf_rows)``: ``feature`` is -1 at
    a leaf; ``child`` is the left child (the right one follows it), at a leaf the leaf's number.
    ``rows`` and ``bins`` are overwritten.
    """
    n = y.size
    labels = grid.size > 0
    n_stats = grid.size + 1 if labels else 2
    capacity = max(1, 2 * (n // min_leaf))
    feature = np.full(capacity, -1, np.int32)
    split_bin = np.zeros(capacity, np.uint8)
    default_left = np.zeros(capacity, np.uint8)
    child = np.full(capacity, -1, np.int32)
    gain = np.zeros(capacity, np.float64)
    leaf_ptr = np.zeros(capacity + 1, np.int64)
    leaf_rows = np.empty(n, np.int32)
    order = np.arange(n).astype(np.int32)
    if n < max(min_split, 2 * min_leaf) or y[0] == y[n - 1] or max_depth == 0:
        child[0] = 0
        leaf_ptr[1] = n
        return (
            feature[:1],
            split_bin[:1],
            default_left[:1],
            child[:1],
            gain[:1],
            leaf_ptr[:2],
            order,
        )
    y = y.copy()
    weight = weight.copy()
    next_order = np.empty(n, np.int32)
    next_y = np.empty(n, np.float64)
    next_weight = np.empty(n, np.float64)
    new_row = np.empty(n, np.int32)
    goes_left = np.empty(n, np.uint8)
    label = np.zeros(n, np.uint8)
    thresholds = np.empty(grid.size, np.float64)
    node_id = np.zeros(1, np.int64)
    node_lo = np.zeros(1, np.int64)
    node_hi = np.full(1, n, np.int64)
    n_nodes = 1
    n_leaves = 0
    depth = 0
    pair_feature, pair_node, pair_lo, pair_count, pair_varies = _first_pairs(
        start, end, bins, n, min_leaf
    )
    while node_id.size > 0:
        level = node_id.size
        size = node_hi - node_lo
        totals = np.zeros((level, n_stats), np.float64)
        best_score = np.empty(level, np.float64)
        parent = np.empty(level, np.float64)
        for a in range(level):
            lo = node_lo[a]
            hi = node_hi[a]
            if labels:
                _relabel(y[lo:hi], weight[lo:hi], grid, thresholds, label[lo:hi])
                for i in range(lo, hi):
                    totals[a, label[i]] += weight[i]
            else:
                for i in range(lo, hi):
                    totals[a, 0] += weight[i]
                    totals[a, 1] += weight[i] * y[i]
            parent[a] = _score(totals[a], labels)
            slack = tolerance if not labels else 1e-10 * np.sum(totals[a])
            best_score[a] = parent[a] + slack
        selected = _draw_features(
            pair_feature,
            pair_node,
            pair_count,
            size,
            node_id,
            fraction,
            at_most,
            min_presence,
            always,
            seed,
        )
        best_pair = np.full(level, -1, np.int64)
        best_bin = np.zeros(level, np.uint8)
        best_left = np.zeros(level, np.uint8)
        _best_splits(
            pair_node,
            pair_lo,
            pair_count,
            selected,
            rows,
            bins,
            size,
            totals,
            y,
            weight,
            label,
            labels,
            min_leaf,
            best_score,
            best_pair,
            best_bin,
            best_left,
        )
        left_node = np.full(level, -1, np.int32)
        right_node = np.full(level, -1, np.int32)
        next_id = np.empty(2 * level, np.int64)
        next_lo = np.empty(2 * level, np.int64)
        next_hi = np.empty(2 * level, np.int64)
        n_next = 0
        t = 0
        depth += 1
        for a in range(level):
            lo = node_lo[a]
            hi = node_hi[a]
            node = node_id[a]
            p = best_pair[a]
            if p < 0:
                _close_leaf(order[lo:hi], leaf_ptr, leaf_rows, n_leaves)
                child[node] = n_leaves
                n_leaves += 1
                continue
            goes_left[lo:hi] = best_left[a]
            for e in range(pair_lo[p], pair_lo[p] + pair_count[p]):
                goes_left[np.uint32(rows[e])] = bins[e] <= best_bin[a]
            feature[node] = pair_feature[p]
            split_bin[node] = best_bin[a]
            default_left[node] = best_left[a]
            gain[node] = best_score[a] - parent[a]
            child[node] = n_nodes
            for side in range(2):
                below = n_nodes + side
                lo_side = t
                for i in range(lo, hi):
                    if goes_left[i] == 1 - side:
                        next_order[t] = order[i]
                        next_y[t] = y[i]
                        next_weight[t] = weight[i]
                        new_row[i] = t
                        t += 1
                rows_here = t - lo_side
                if (
                    depth == max_depth
                    or rows_here < min_split
                    or rows_here < 2 * min_leaf
                    or next_y[lo_side] == next_y[t - 1]
                ):
                    _close_leaf(next_order[lo_side:t], leaf_ptr, leaf_rows, n_leaves)
                    child[below] = n_leaves
                    n_leaves += 1
                    for i in range(lo, hi):
                        if goes_left[i] == 1 - side:
                            new_row[i] = -1
                    t = lo_side
                else:
                    if side == 0:
                        left_node[a] = n_next
                    else:
                        right_node[a] = n_next
                    next_id[n_next] = below
                    next_lo[n_next] = lo_side
                    next_hi[n_next] = t
                    n_next += 1
            n_nodes += 2
        order, next_order = next_order, order
        y, next_y = next_y, y
        weight, next_weight = next_weight, weight
        node_id = next_id[:n_next].copy()
        node_lo = next_lo[:n_next].copy()
        node_hi = next_hi[:n_next].copy()
        if n_next > 0:
            pair_feature, pair_node, pair_lo, pair_count, pair_varies = _divide_pairs(
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
                node_lo,
                node_hi,
                min_leaf,
            )
    return (
        feature[:n_nodes],
        split_bin[:n_nodes],
        default_left[:n_nodes],
        child[:n_nodes],
        gain[:n_nodes],
        leaf_ptr[: n_leaves + 1],
        leaf_rows,
    )


@njit(cache=True, nogil=True)
def _close_leaf(members, leaf_ptr, leaf_rows, leaf):
    t = leaf_ptr[leaf]
    leaf_rows[t : t + members.size] = members
    leaf_ptr[leaf + 1] = t + members.size


@njit(cache=True, nogil=True)
def summarize_leaves(leaf_ptr, leaf_rows, code, weight, cap, seed):
    """Distribution of each leaf: ascending codes and weights that add up to one.

    A leaf with more than ``cap`` rows keeps ``cap`` of them by systematic resampling on its sorted
    responses (one random start, equal steps of weight): unbiased for every row's weight, and with
    less variance than a reservoir of the same size.
    """
    n_leaves = leaf_ptr.size - 1
    out_ptr = np.zeros(n_leaves + 1, np.int64)
    out_code = np.empty(leaf_rows.size, np.int32)
    out_weight = np.empty(leaf_rows.size, np.float32)
    t = 0
    for leaf in range(n_leaves):
        lo = leaf_ptr[leaf]
        hi = leaf_ptr[leaf + 1]
        total = 0.0
        for i in range(lo, hi):
            total += weight[leaf_rows[i]]
        thin = cap > 0 and hi - lo > cap
        u = _uniform(seed, np.uint64(leaf), np.uint64(0)) if thin else 0.0
        step = total / cap if thin else 0.0
        drawn = 0
        mass = 0.0
        kept = 0.0
        open_code = -1
        for i in range(lo, hi):
            r = leaf_rows[i]
            if thin:
                mass += weight[r]
                share = 0.0
                while drawn < cap and (u + drawn) * step < mass:
                    share += 1.0 / cap
                    drawn += 1
                if share == 0.0:
                    continue
            else:
                share = weight[r] / total
            if code[r] == open_code:
                kept += share
            else:
                if open_code >= 0:
                    out_code[t] = open_code
                    out_weight[t] = kept
                    t += 1
                open_code = code[r]
                kept = share
        out_code[t] = open_code
        out_weight[t] = kept
        t += 1
        out_ptr[leaf + 1] = t
    return out_ptr, out_code[:t], out_weight[:t]
