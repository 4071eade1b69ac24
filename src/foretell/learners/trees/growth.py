"""Growth of one tree, level by level, from the entries that are present.

At each level the features of every node are drawn, the runs of the drawn (feature, node) pairs are
read into histograms, and rows and runs are divided between the children. The kernels are compiled
and release the interpreter lock; between them this file only hands them on.

Each file of kernels calls none of another file: numba's cache on disk notices changes of the file
of the kernel that is called, not of files that it calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.learners.trees.growth_draws import draw_features, uniforms
from foretell.learners.trees.growth_leaves import summarize_leaves as _summarize
from foretell.learners.trees.growth_nodes import divide_nodes, node_statistics
from foretell.learners.trees.growth_pairs import divide_pairs, first_pairs, take_rows
from foretell.learners.trees.growth_splits import best_splits

__all__ = ["grow_tree", "summarize_leaves", "take_rows"]


def grow_tree(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    rows: NDArray[np.int32],
    bins: NDArray[np.uint8],
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    grid: NDArray[np.float64],
    max_depth: int,
    min_split: int,
    min_leaf: int,
    fraction: float,
    at_most: int,
    min_presence: float,
    always: int,
    seed: np.uint64,
    tolerance: float,
) -> tuple[NDArray[Any], ...]:
    """Grows one tree; rows are numbered in ascending order of ``y``.

    Returns ``(feature, bin, default_left, child, gain, leaf_ptr, leaf_rows)``: ``feature`` is -1 at
    a leaf; ``child`` is the left child (the right one follows it), at a leaf the leaf's number.
    ``rows`` and ``bins`` are overwritten.
    """
    n = len(y)
    labels = len(grid) > 0
    tree = _room(max(1, 2 * (n // min_leaf)))
    order = np.arange(n, dtype=np.int32)
    if n < max(min_split, 2 * min_leaf) or y[0] == y[n - 1] or max_depth == 0:
        tree[3][0] = 0
        return (*(part[:1] for part in tree), np.array([0, n], np.int64), order)
    leaf_ptr = np.zeros(len(tree[0]) + 1, np.int64)
    leaf_rows = np.empty(n, np.int32)
    # The rows of this level and of the next: places are taken in turn.
    here = (order, y.copy(), weight.copy())
    there = (np.empty(n, np.int32), np.empty(n, np.float64), np.empty(n, np.float64))
    new_row = np.empty(n, np.int32)
    goes_left = np.empty(n, np.uint8)
    label = np.zeros(n, np.uint8)
    number = np.zeros(1, np.int64)
    lo, hi = np.zeros(1, np.int64), np.full(1, n, np.int64)
    n_nodes, n_leaves, depth = 1, 0, 0
    pairs = first_pairs(start, end, bins, n, min_leaf)
    while len(number):
        depth += 1
        totals, parent, score = node_statistics(here[1], here[2], lo, hi, grid, label, tolerance)
        feature, node, first, count, varies = pairs
        size = hi - lo
        selected = draw_features(
            feature, node, count, size, number, fraction, at_most, min_presence, always, seed
        )
        pair, cut, default = best_splits(
            node, first, count, selected, rows, bins, size, totals, here[1], here[2], label,
            labels, min_leaf, score,
        )  # fmt: skip
        n_nodes, n_leaves, number, lo, hi, left, right = divide_nodes(
            number, lo, hi, parent, score, pair, cut, default, feature, first, count, rows, bins,
            *here, *there, new_row, goes_left, depth == max_depth, min_split, min_leaf, *tree,
            leaf_ptr, leaf_rows, n_nodes, n_leaves,
        )  # fmt: skip
        here, there = there, here
        if len(number):
            pairs = divide_pairs(
                feature, node, first, count, varies, rows, bins, new_row, left, right, lo, hi,
                min_leaf,
            )  # fmt: skip
    return (*(part[:n_nodes] for part in tree), leaf_ptr[: n_leaves + 1], leaf_rows)


def summarize_leaves(
    leaf_ptr: NDArray[np.int64],
    leaf_rows: NDArray[np.int32],
    code: NDArray[np.int32],
    weight: NDArray[np.float64],
    cap: int,
    seed: np.uint64,
) -> tuple[NDArray[Any], ...]:
    """Codes and weights of each leaf, at most ``cap`` of them; see :mod:`.growth_leaves`."""
    starts = uniforms(seed, len(leaf_ptr) - 1)
    return _summarize(leaf_ptr, leaf_rows, code, weight, cap, starts)


def _room(
    capacity: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Feature, bin, side of absent rows, child and gain of so many nodes."""
    return (
        np.full(capacity, -1, np.int32),
        np.zeros(capacity, np.uint8),
        np.zeros(capacity, np.uint8),
        np.full(capacity, -1, np.int32),
        np.zeros(capacity, np.float64),
    )
