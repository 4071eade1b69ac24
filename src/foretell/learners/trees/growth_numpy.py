"""Growth of one tree in plain numpy: the same algorithm, draws and ties as the compiled kernels.

It serves where numba is not available and is what the kernels are tested against. Histograms of all
drawn (feature, node) pairs of a level are made with one ``bincount``, in blocks that bound memory.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 4096


def _mix(state: NDArray[np.uint64], value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = state + (value + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _uniform(seed: np.uint64, first: Any, second: Any) -> NDArray[np.float64]:
    first = np.atleast_1d(np.asarray(first)).astype(np.uint64)
    second = np.atleast_1d(np.asarray(second)).astype(np.uint64)
    z = _mix(_mix(np.array([seed], dtype=np.uint64), first), second)
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * (1.0 / 9007199254740992.0)


def take_rows(
    column_ptr: NDArray[np.int64],
    rows: NDArray[np.int32],
    bins: NDArray[np.uint8],
    position: NDArray[np.int32],
) -> tuple[NDArray[Any], ...]:
    """Entries of the rows with ``position >= 0``, rows renumbered by it."""
    new = position[rows]
    kept = new >= 0
    offset = np.concatenate(([0], np.cumsum(kept)))[column_ptr].astype(np.int64)
    return offset[:-1].copy(), offset[1:].copy(), new[kept], bins[kept]


def _labels(
    y: NDArray[np.float64], weight: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Interval between a node's own quantiles, of its rows in ascending order."""
    mass = np.cumsum(weight)
    first = np.minimum(np.searchsorted(mass, grid * mass[-1], side="left"), len(y) - 1)
    return np.searchsorted(y[first], y, side="left")


def _score(stats: NDArray[Any], labels: bool) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        if labels:
            total = np.zeros(stats.shape[:-1])
            squares = np.zeros(stats.shape[:-1])
            for k in range(stats.shape[-1]):
                total = total + stats[..., k]
                squares = squares + stats[..., k] * stats[..., k]
            return squares / total
        return stats[..., 1] * stats[..., 1] / stats[..., 0]


def _n_drawn(eligible: int, fraction: float, at_most: int) -> int:
    if at_most > 0:
        return min(at_most, eligible)
    return max(1, min(eligible, math.ceil(fraction * eligible - 1e-9)))


def _select(
    pair_feature: NDArray[np.int64],
    pair_node: NDArray[np.int64],
    pair_count: NDArray[np.int64],
    size: NDArray[np.int64],
    node_id: NDArray[np.int64],
    fraction: float,
    at_most: int,
    min_presence: float,
    always: int,
    seed: np.uint64,
) -> NDArray[np.bool_]:
    presence = np.maximum(pair_count / size[pair_node], min_presence)
    key = -np.log(_uniform(seed, node_id[pair_node], pair_feature)) / presence
    key[pair_feature == always] = 0.0
    selected = np.zeros(len(key), dtype=bool)
    order = np.lexsort((key, pair_node))
    starts = np.searchsorted(pair_node[order], np.arange(len(size)), side="left")
    ends = np.append(starts[1:], len(key))
    for lo, hi in zip(starts, ends, strict=True):
        if hi > lo:
            selected[order[lo : lo + _n_drawn(int(hi - lo), fraction, at_most)]] = True
    return selected


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
    """Grows one tree; see ``growth.grow_tree``."""
    n = len(y)
    labels = len(grid) > 0
    n_stats = len(grid) + 1 if labels else 2
    entry_feature = np.repeat(np.arange(len(start)), end - start)
    entry_row = rows.astype(np.int64)
    entry_bin = bins.astype(np.int64)
    feature, split_bin, default_left, child, gain = [-1], [0], [0], [0], [0.0]
    leaves: list[NDArray[np.int64]] = []
    node_of_row = np.zeros(n, dtype=np.int64)
    level: list[tuple[int, NDArray[np.int64]]] = [(0, np.arange(n))]
    depth = 0

    def is_leaf(members: NDArray[np.int64]) -> bool:
        return (
            depth == max_depth
            or len(members) < max(min_split, 2 * min_leaf)
            or y[members[0]] == y[members[-1]]
        )

    if is_leaf(level[0][1]):
        leaves.append(level[0][1])
        level = []
    while level:
        node_id = np.array([node for node, _ in level], dtype=np.int64)
        size = np.array([len(members) for _, members in level], dtype=np.int64)
        stats = np.zeros((n, n_stats))
        totals = np.zeros((len(level), n_stats))
        for a, (_, members) in enumerate(level):
            if labels:
                stats[members, _labels(y[members], weight[members], grid)] = weight[members]
            else:
                stats[members, 0] = weight[members]
                stats[members, 1] = weight[members] * y[members]
            for k in range(n_stats):
                totals[a, k] = np.bincount(np.zeros(len(members), int), stats[members, k])[0]
        parent = _score(totals, labels)
        slack = 1e-10 * totals.sum(axis=1) if labels else tolerance
        kept = node_of_row[entry_row] >= 0
        entry_feature, entry_row, entry_bin = entry_feature[kept], entry_row[kept], entry_bin[kept]
        best = _level_splits(
            entry_feature,
            entry_row,
            entry_bin,
            node_of_row,
            node_id,
            size,
            stats,
            totals,
            labels,
            parent + slack,
            min_leaf,
            fraction,
            at_most,
            min_presence,
            always,
            seed,
        )
        best_score, best_feature, best_bin, best_left = best
        goes_left = np.zeros(n, dtype=bool)
        for a, (_, members) in enumerate(level):
            goes_left[members] = best_left[a]
        node = node_of_row[entry_row]
        here = best_feature[node] == entry_feature
        goes_left[entry_row[here]] = entry_bin[here] <= best_bin[node[here]]
        following: list[tuple[int, NDArray[np.int64]]] = []
        depth += 1
        for a, (node_number, members) in enumerate(level):
            if best_feature[a] < 0:
                child[node_number] = len(leaves)
                leaves.append(members)
                node_of_row[members] = -1
                continue
            feature[node_number] = int(best_feature[a])
            split_bin[node_number] = int(best_bin[a])
            default_left[node_number] = int(best_left[a])
            gain[node_number] = float(best_score[a] - parent[a])
            child[node_number] = len(feature)
            for side in (goes_left[members], ~goes_left[members]):
                below = members[side]
                number = len(feature)
                feature.append(-1)
                split_bin.append(0)
                default_left.append(0)
                gain.append(0.0)
                if is_leaf(below):
                    child.append(len(leaves))
                    leaves.append(below)
                    node_of_row[below] = -1
                else:
                    child.append(-1)
                    node_of_row[below] = len(following)
                    following.append((number, below))
        level = following
    leaf_ptr = np.concatenate(([0], np.cumsum([len(members) for members in leaves])))
    return (
        np.array(feature, np.int32),
        np.array(split_bin, np.uint8),
        np.array(default_left, np.uint8),
        np.array(child, np.int32),
        np.array(gain),
        leaf_ptr.astype(np.int64),
        np.concatenate(leaves).astype(np.int32),
    )


def _level_splits(
    entry_feature: NDArray[np.int64],
    entry_row: NDArray[np.int64],
    entry_bin: NDArray[np.int64],
    node_of_row: NDArray[np.int64],
    node_id: NDArray[np.int64],
    size: NDArray[np.int64],
    stats: NDArray[np.float64],
    totals: NDArray[np.float64],
    labels: bool,
    best_score: NDArray[np.float64],
    min_leaf: int,
    fraction: float,
    at_most: int,
    min_presence: float,
    always: int,
    seed: np.uint64,
) -> tuple[NDArray[Any], ...]:
    """Best split of every node of a level; nodes without one keep feature -1."""
    n_level = len(size)
    best_score = best_score.copy()
    best_feature = np.full(n_level, -1, dtype=np.int64)
    best_bin = np.zeros(n_level, dtype=np.int64)
    best_left = np.zeros(n_level, dtype=bool)
    pair_key = entry_feature * n_level + node_of_row[entry_row]
    # the kernels visit a column's nodes one by one, ties go to the lower feature in both
    keys, pair_of_entry, counts = np.unique(pair_key, return_inverse=True, return_counts=True)
    pair_feature, pair_node = keys // n_level, keys % n_level
    low = np.full(len(keys), 256)
    high = np.zeros(len(keys), dtype=np.int64)
    np.minimum.at(low, pair_of_entry, entry_bin)
    np.maximum.at(high, pair_of_entry, entry_bin)
    can_split = (counts >= min_leaf) & ((low < high) | (size[pair_node] - counts >= min_leaf))
    chosen = np.flatnonzero(can_split)
    if len(chosen) == 0:
        return best_score, best_feature, best_bin, best_left
    chosen = chosen[
        _select(
            pair_feature[chosen],
            pair_node[chosen],
            counts[chosen],
            size,
            node_id,
            fraction,
            at_most,
            min_presence,
            always,
            seed,
        )
    ]
    for begin in range(0, len(chosen), _PAIRS_AT_ONCE):
        block = chosen[begin : begin + _PAIRS_AT_ONCE]
        slot = np.full(len(keys), -1)
        slot[block] = np.arange(len(block))
        entry_slot = slot[pair_of_entry]
        used = entry_slot >= 0
        cell = entry_slot[used] * 256 + entry_bin[used]
        cells = len(block) * 256
        number = np.bincount(cell, minlength=cells).reshape(-1, 256)
        histogram = np.stack(
            [
                np.bincount(cell, stats[entry_row[used], k], minlength=cells).reshape(-1, 256)
                for k in range(stats.shape[1])
            ],
            axis=-1,
        )
        nodes = pair_node[block]
        n_left = np.cumsum(number, axis=1)
        left = np.cumsum(histogram, axis=1)
        total = totals[nodes][:, None, :]
        rows_here = size[nodes][:, None]
        n_absent = rows_here - counts[block][:, None]
        absent = np.where(n_absent[:, :, None] > 0, total - left[:, -1:, :], 0.0)
        scores = np.full((len(block), 256, 2), -np.inf)
        filled = number > 0
        right_ok = filled & (n_left >= min_leaf) & (rows_here - n_left >= min_leaf)
        value = _score(left, labels) + _score(total - left, labels)
        scores[..., 0][right_ok] = value[right_ok]
        with_absent = left + absent
        n_with = n_left + n_absent
        left_ok = (
            filled
            & (n_absent > 0)
            & (np.arange(256) < high[block][:, None])
            & (n_with >= min_leaf)
            & (rows_here - n_with >= min_leaf)
        )
        value = _score(with_absent, labels) + _score(total - with_absent, labels)
        scores[..., 1][left_ok] = value[left_ok]
        flat = scores.reshape(len(block), -1)
        top = flat.argmax(axis=1)
        score = flat[np.arange(len(block)), top]
        for k in range(len(block)):
            a = nodes[k]
            if score[k] > best_score[a]:
                best_score[a] = score[k]
                best_feature[a] = pair_feature[block[k]]
                best_bin[a] = top[k] // 2
                full = n_absent[k, 0] == 0
                best_left[a] = 2 * n_left[k, top[k] // 2] >= size[a] if full else bool(top[k] % 2)
    return best_score, best_feature, best_bin, best_left


def summarize_leaves(
    leaf_ptr: NDArray[np.int64],
    leaf_rows: NDArray[np.int32],
    code: NDArray[np.int32],
    weight: NDArray[np.float64],
    cap: int,
    seed: np.uint64,
) -> tuple[NDArray[Any], ...]:
    """Distribution of each leaf; see ``growth.summarize_leaves``."""
    pieces: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for leaf, (lo, hi) in enumerate(itertools.pairwise(leaf_ptr)):
        members = leaf_rows[lo:hi]
        mass = np.cumsum(weight[members])
        share = weight[members] / mass[-1]
        if 0 < cap < hi - lo:
            points = (_uniform(seed, leaf, 0)[0] + np.arange(cap)) * (mass[-1] / cap)
            drawn = np.searchsorted(mass, points, side="right")
            share = np.bincount(drawn, minlength=len(members))[: len(members)] / cap
        kept = share > 0
        codes, inverse = np.unique(code[members][kept], return_inverse=True)
        pieces.append((codes, np.bincount(inverse, share[kept])))
    sizes = [len(codes) for codes, _ in pieces]
    return (
        np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        np.concatenate([codes for codes, _ in pieces]).astype(np.int32),
        np.concatenate([shares for _, shares in pieces]).astype(np.float32),
    )
