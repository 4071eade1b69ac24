"""Nodes of a level and their rows: statistics, and the division between the children.

Rows are renumbered at each level so that a node's rows are neighbours in ascending order of the
response: what an entry looks up lies close together, and node quantiles cost one scan.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit


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
def node_statistics(y, weight, node_lo, node_hi, grid, label, tolerance):
    """Labels of the rows; every node's totals, score before any split, and score to be beaten."""
    labels = grid.size > 0
    totals = np.zeros((node_lo.size, grid.size + 1 if labels else 2), np.float64)
    parent = np.empty(node_lo.size, np.float64)
    bound = np.empty(node_lo.size, np.float64)
    thresholds = np.empty(grid.size, np.float64)
    for a in range(node_lo.size):
        lo = node_lo[a]
        hi = node_hi[a]
        if labels:
            _relabel(y[lo:hi], weight[lo:hi], grid, thresholds, label[lo:hi])
            for i in range(lo, hi):
                totals[a, label[i]] += weight[i]
            mass = 0.0
            squares = 0.0
            for k in range(totals.shape[1]):
                mass += totals[a, k]
                squares += totals[a, k] * totals[a, k]
            parent[a] = squares / mass
            bound[a] = parent[a] + 1e-10 * mass
        else:
            for i in range(lo, hi):
                totals[a, 0] += weight[i]
                totals[a, 1] += weight[i] * y[i]
            parent[a] = totals[a, 1] * totals[a, 1] / totals[a, 0]
            bound[a] = parent[a] + tolerance
    return totals, parent, bound


@njit(cache=True, nogil=True)
def divide_nodes(
    node_id,
    node_lo,
    node_hi,
    parent,
    best_score,
    best_pair,
    best_bin,
    best_left,
    pair_feature,
    pair_lo,
    pair_count,
    rows,
    bins,
    order,
    y,
    weight,
    next_order,
    next_y,
    next_weight,
    new_row,
    goes_left,
    last_level,
    min_split,
    min_leaf,
    feature,
    split_bin,
    default_left,
    child,
    gain,
    leaf_ptr,
    leaf_rows,
    n_nodes,
    n_leaves,
):
    """Divides every node's rows by its best split, writes the tree and closes leaves.

    Returns ``(n_nodes, n_leaves, next_id, next_lo, next_hi, left_node, right_node)``: the counts so
    far, the nodes of the next level, and each node's children among them, -1 where closed.
    """
    level = node_id.size
    left_node = np.full(level, -1, np.int32)
    right_node = np.full(level, -1, np.int32)
    next_id = np.empty(2 * level, np.int64)
    next_lo = np.empty(2 * level, np.int64)
    next_hi = np.empty(2 * level, np.int64)
    n_next = 0
    t = 0
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
                last_level
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
    return (
        n_nodes,
        n_leaves,
        next_id[:n_next],
        next_lo[:n_next],
        next_hi[:n_next],
        left_node,
        right_node,
    )


@njit(cache=True, nogil=True)
def _close_leaf(members, leaf_ptr, leaf_rows, leaf):
    t = leaf_ptr[leaf]
    leaf_rows[t : t + members.size] = members
    leaf_ptr[leaf + 1] = t + members.size
