"""Compiled growth of one tree, level by level, from the entries that are present.

At each level three passes run over the present entries only: count where a feature is present,
build the statistics of the features drawn in each node, send the rows to their children. Absent
rows are never visited: their statistics are the node's totals less those of its present rows. Rows
are numbered in ascending order of the response, and every pass keeps that order, so node quantiles
and sorted leaves cost one scan.

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
    total = 0
    for e in range(rows.size):
        if position[rows[e]] >= 0:
            total += 1
    new_rows = np.empty(total, np.int32)
    new_bins = np.empty(total, np.uint8)
    t = 0
    for f in range(n_columns):
        start[f] = t
        for e in range(column_ptr[f], column_ptr[f + 1]):
            r = position[rows[e]]
            if r >= 0:
                new_rows[t] = r
                new_bins[t] = bins[e]
                t += 1
        end[f] = t
    return start, end, new_rows, new_bins


@njit(cache=True, nogil=True)
def _relabel(order, lo, hi, y, weight, grid, label):
    """Labels of a node's rows: intervals of the node's quantiles (Athey et al. 2019, sec. 5)."""
    total = 0.0
    for i in range(lo, hi):
        total += weight[order[i]]
    thresholds = np.empty(grid.size, np.float64)
    mass = 0.0
    k = 0
    for i in range(lo, hi):
        r = order[i]
        mass += weight[r]
        while k < grid.size and mass >= grid[k] * total:
            thresholds[k] = y[r]
            k += 1
        if k == grid.size:
            break
    while k < grid.size:
        thresholds[k] = y[order[hi - 1]]
        k += 1
    k = 0
    for i in range(lo, hi):
        r = order[i]
        while k < grid.size and y[r] > thresholds[k]:
            k += 1
        label[r] = k


@njit(cache=True, nogil=True)
def _count_presence(
    active,
    start,
    end,
    rows,
    bins,
    node_of_row,
    node_size,
    min_leaf,
    pair_ptr,
    pair_node,
    pair_count,
):
    """Lists the (feature, node) pairs that can split, and drops entries and features that are done.

    A feature can split a node only if enough rows have it and either its values differ or enough
    rows lack it. What cannot split a node cannot split its descendants either.
    """
    n_nodes = node_size.size
    count = np.zeros(n_nodes, np.int32)
    first_bin = np.zeros(n_nodes, np.uint8)
    varies = np.zeros(n_nodes, np.uint8)
    touched = np.empty(n_nodes, np.int32)
    n_pairs = 0
    n_active = 0
    for index in range(active.size):
        f = active[index]
        n_touched = 0
        t = start[f]
        for e in range(start[f], end[f]):
            r = rows[e]
            a = node_of_row[r]
            if a >= 0:
                b = bins[e]
                rows[t] = r
                bins[t] = b
                t += 1
                if count[a] == 0:
                    touched[n_touched] = a
                    n_touched += 1
                    first_bin[a] = b
                    varies[a] = 0
                elif b != first_bin[a]:
                    varies[a] = 1
                count[a] += 1
        end[f] = t
        before = n_pairs
        for k in range(n_touched):
            a = touched[k]
            if count[a] >= min_leaf and (varies[a] == 1 or node_size[a] - count[a] >= min_leaf):
                pair_node[n_pairs] = a
                pair_count[n_pairs] = count[a]
                n_pairs += 1
            count[a] = 0
        if n_pairs > before:
            active[n_active] = f
            pair_ptr[n_active] = before
            n_active += 1
    pair_ptr[n_active] = n_pairs
    return n_active, n_pairs


@njit(cache=True, nogil=True)
def _draw_features(
    active,
    pair_ptr,
    n_pairs,
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
    for index in range(active.size):
        f = active[index]
        for p in range(pair_ptr[index], pair_ptr[index + 1]):
            a = pair_node[p]
            if f == always:
                key[p] = 0.0
            else:
                presence = max(pair_count[p] / node_size[a], min_presence)
                key[p] = -math.log(_uniform(seed, node_id[a], f)) / presence
            bucket[fill[a]] = key[p]
            fill[a] += 1
    limit = np.full(n_nodes, np.inf)
    for a in range(n_nodes):
        drawn = _n_drawn(eligible[a + 1], fraction, at_most)
        if drawn < eligible[a + 1]:
            keys = np.sort(bucket[offset[a] : offset[a + 1]])
            limit[a] = keys[drawn - 1]
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
def _best_splits(
    active,
    pair_ptr,
    selected,
    pair_node,
    pair_count,
    start,
    end,
    rows,
    bins,
    node_of_row,
    node_size,
    totals,
    y,
    weight,
    label,
    labels,
    min_leaf,
    best_score,
    best_feature,
    best_bin,
    best_left,
):
    """Best split of every node over its drawn features, with both directions for absent rows."""
    n_nodes = node_size.size
    n_stats = totals.shape[1]
    longest = 0
    for index in range(active.size):
        f = active[index]
        longest = max(longest, end[f] - start[f])
    buffer_row = np.empty(longest, np.int32)
    buffer_bin = np.empty(longest, np.uint8)
    slot_of_node = np.full(n_nodes, -1, np.int32)
    slot_pair = np.empty(n_nodes, np.int64)
    slot_end = np.empty(n_nodes, np.int64)
    histogram = np.zeros((256, n_stats), np.float64)
    histogram_count = np.zeros(256, np.int32)
    left = np.empty(n_stats, np.float64)
    right = np.empty(n_stats, np.float64)
    absent = np.empty(n_stats, np.float64)
    for index in range(active.size):
        f = active[index]
        n_slots = 0
        filled = 0
        for p in range(pair_ptr[index], pair_ptr[index + 1]):
            if selected[p] == 1:
                slot_of_node[pair_node[p]] = n_slots
                slot_pair[n_slots] = p
                slot_end[n_slots] = filled
                filled += pair_count[p]
                n_slots += 1
        if n_slots == 0:
            continue
        for e in range(start[f], end[f]):
            r = rows[e]
            s = slot_of_node[node_of_row[r]]
            if s >= 0:
                t = slot_end[s]
                buffer_row[t] = r
                buffer_bin[t] = bins[e]
                slot_end[s] = t + 1
        for s in range(n_slots):
            p = slot_pair[s]
            a = pair_node[p]
            slot_of_node[a] = -1
            hi = slot_end[s]
            lo = hi - pair_count[p]
            size = node_size[a]
            n_absent = size - pair_count[p]
            lowest = 255
            highest = 0
            for t in range(lo, hi):
                b = buffer_bin[t]
                r = buffer_row[t]
                lowest = min(lowest, b)
                highest = max(highest, b)
                histogram_count[b] += 1
                if labels:
                    histogram[b, label[r]] += weight[r]
                else:
                    histogram[b, 0] += weight[r]
                    histogram[b, 1] += weight[r] * y[r]
            for k in range(n_stats):
                absent[k] = totals[a, k]
                left[k] = 0.0
            if n_absent > 0:
                for b in range(lowest, highest + 1):
                    if histogram_count[b] > 0:
                        for k in range(n_stats):
                            absent[k] -= histogram[b, k]
            n_left = 0
            for b in range(lowest, highest + 1):
                if histogram_count[b] == 0:
                    continue
                n_left += histogram_count[b]
                for k in range(n_stats):
                    left[k] += histogram[b, k]
                    histogram[b, k] = 0.0
                histogram_count[b] = 0
                if n_left >= min_leaf and size - n_left >= min_leaf:
                    for k in range(n_stats):
                        right[k] = totals[a, k] - left[k]
                    score = _score(left, labels) + _score(right, labels)
                    if score > best_score[a]:
                        best_score[a] = score
                        best_feature[a] = f
                        best_bin[a] = b
                        # without absent rows here, later ones follow the majority
                        best_left[a] = 1 if n_absent == 0 and 2 * n_left >= size else 0
                if n_absent > 0 and b < highest:
                    if n_left + n_absent >= min_leaf and size - n_left - n_absent >= min_leaf:
                        for k in range(n_stats):
                            left[k] += absent[k]
                            right[k] = totals[a, k] - left[k]
                        score = _score(left, labels) + _score(right, labels)
                        for k in range(n_stats):
                            left[k] -= absent[k]
                        if score > best_score[a]:
                            best_score[a] = score
                            best_feature[a] = f
                            best_bin[a] = b
                            best_left[a] = 1


@njit(cache=True, nogil=True)
def _route(start, end, rows, bins, node_of_row, best_feature, best_bin, goes_left):
    """Sends the rows in which the chosen feature is present to the side of their value."""
    order = np.argsort(best_feature)
    previous = -1
    for i in range(order.size):
        f = best_feature[order[i]]
        if f < 0 or f == previous:
            continue
        previous = f
        for e in range(start[f], end[f]):
            r = rows[e]
            a = node_of_row[r]
            if best_feature[a] == f:
                goes_left[r] = 1 if bins[e] <= best_bin[a] else 0


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
    ``start``, ``end``, ``rows`` and ``bins`` are overwritten.
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
    new_order = np.empty(n, np.int32)
    node_of_row = np.zeros(n, np.int32)
    goes_left = np.zeros(n, np.uint8)
    label = np.zeros(n, np.uint8)
    active = np.arange(start.size).astype(np.int32)
    node_id = np.zeros(1, np.int64)
    node_lo = np.zeros(1, np.int64)
    node_hi = np.full(1, n, np.int64)
    n_nodes = 1
    n_leaves = 0
    depth = 0
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
    while node_id.size > 0:
        level = node_id.size
        size = node_hi - node_lo
        totals = np.zeros((level, n_stats), np.float64)
        best_score = np.empty(level, np.float64)
        parent = np.empty(level, np.float64)
        for a in range(level):
            if labels:
                _relabel(order, node_lo[a], node_hi[a], y, weight, grid, label)
            for i in range(node_lo[a], node_hi[a]):
                r = order[i]
                if labels:
                    totals[a, label[r]] += weight[r]
                else:
                    totals[a, 0] += weight[r]
                    totals[a, 1] += weight[r] * y[r]
            parent[a] = _score(totals[a], labels)
            slack = tolerance if not labels else 1e-10 * np.sum(totals[a])
            best_score[a] = parent[a] + slack
        room = 0
        for index in range(active.size):
            f = active[index]
            room += min(level, (end[f] - start[f]) // min_leaf)
        pair_ptr = np.zeros(active.size + 1, np.int64)
        pair_node = np.empty(room, np.int32)
        pair_count = np.empty(room, np.int32)
        n_active, n_pairs = _count_presence(
            active,
            start,
            end,
            rows,
            bins,
            node_of_row,
            size,
            min_leaf,
            pair_ptr,
            pair_node,
            pair_count,
        )
        active = active[:n_active].copy()
        selected = _draw_features(
            active,
            pair_ptr,
            n_pairs,
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
        best_feature = np.full(level, -1, np.int32)
        best_bin = np.zeros(level, np.uint8)
        best_left = np.zeros(level, np.uint8)
        _best_splits(
            active,
            pair_ptr,
            selected,
            pair_node,
            pair_count,
            start,
            end,
            rows,
            bins,
            node_of_row,
            size,
            totals,
            y,
            weight,
            label,
            labels,
            min_leaf,
            best_score,
            best_feature,
            best_bin,
            best_left,
        )
        for a in range(level):
            for i in range(node_lo[a], node_hi[a]):
                goes_left[order[i]] = best_left[a]
        _route(start, end, rows, bins, node_of_row, best_feature, best_bin, goes_left)
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
            if best_feature[a] < 0:
                _close_leaf(order, lo, hi, leaf_ptr, leaf_rows, n_leaves, node_of_row)
                child[node] = n_leaves
                n_leaves += 1
                continue
            feature[node] = best_feature[a]
            split_bin[node] = best_bin[a]
            default_left[node] = best_left[a]
            gain[node] = best_score[a] - parent[a]
            child[node] = n_nodes
            for side in range(2):
                lo_side = t
                for i in range(lo, hi):
                    r = order[i]
                    if goes_left[r] == 1 - side:
                        new_order[t] = r
                        t += 1
                below = n_nodes + side
                first = y[new_order[lo_side]]
                last = y[new_order[t - 1]]
                rows_here = t - lo_side
                if (
                    depth == max_depth
                    or rows_here < min_split
                    or rows_here < 2 * min_leaf
                    or first == last
                ):
                    _close_leaf(new_order, lo_side, t, leaf_ptr, leaf_rows, n_leaves, node_of_row)
                    child[below] = n_leaves
                    n_leaves += 1
                else:
                    for i in range(lo_side, t):
                        node_of_row[new_order[i]] = n_next
                    next_id[n_next] = below
                    next_lo[n_next] = lo_side
                    next_hi[n_next] = t
                    n_next += 1
            n_nodes += 2
        order, new_order = new_order, order
        node_id = next_id[:n_next].copy()
        node_lo = next_lo[:n_next].copy()
        node_hi = next_hi[:n_next].copy()
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
def _close_leaf(order, lo, hi, leaf_ptr, leaf_rows, leaf, node_of_row):
    t = leaf_ptr[leaf]
    for i in range(lo, hi):
        leaf_rows[t] = order[i]
        node_of_row[order[i]] = -1
        t += 1
    leaf_ptr[leaf + 1] = t


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
