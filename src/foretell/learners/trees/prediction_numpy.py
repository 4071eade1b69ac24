"""Prediction in plain numpy: the same results as the compiled kernels, row by row where need be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def apply(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float32],
    used: NDArray[np.int32],
    n_used: int,
    roots: NDArray[np.int64],
    feature: NDArray[np.int32],
    threshold: NDArray[np.float32],
    default_left: NDArray[np.uint8],
    child: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Leaf of each row in each tree: ``(n, B)`` int32."""
    n = len(indptr) - 1
    column = used[indices]
    kept = column >= 0
    dense = np.full((n, max(n_used, 1)), np.nan, dtype=np.float32)
    dense[np.repeat(np.arange(n), np.diff(indptr))[kept], column[kept]] = data[kept]
    leaves = np.empty((n, len(roots)), dtype=np.int32)
    every = np.arange(n)
    for b, root in enumerate(roots):
        node = np.full(n, root, dtype=np.int64)
        while True:
            split = feature[node]
            inner = split >= 0
            if not inner.any():
                break
            value = dense[every, np.maximum(split, 0)]
            left = np.where(np.isnan(value), default_left[node] == 1, value <= threshold[node])
            node = np.where(inner, root + child[node] + ~left, node)
        leaves[:, b] = child[node]
    return leaves


def distributions(
    leaves: NDArray[np.int32],
    first_leaf: NDArray[np.int64],
    leaf_ptr: NDArray[np.int64],
    codes: NDArray[Any],
    weights: NDArray[np.float32],
    values: NDArray[np.float64],
    atom: NDArray[np.uint8],
) -> tuple[NDArray[Any], ...]:
    """Distribution of each row from its leaves; a leaf of -1 leaves its tree out."""
    sizes, parts_y, parts_w, parts_flat = [0], [], [], []
    for row in leaves:
        seen = row >= 0
        leaf = first_leaf[seen] + row[seen]
        if len(leaf) == 0:
            sizes.append(0)
            continue
        entries = np.concatenate([np.arange(leaf_ptr[k], leaf_ptr[k + 1]) for k in leaf])
        code, inverse = np.unique(codes[entries].astype(np.int64), return_inverse=True)
        mass = np.bincount(inverse, weights[entries].astype(np.float64))
        y, same = np.unique(values[code], return_inverse=True)
        flat = np.zeros(len(y), dtype=np.uint8)
        np.maximum.at(flat, same, atom[code])
        sizes.append(len(y))
        parts_y.append(y)
        parts_w.append(np.bincount(same, mass) / mass.sum())
        parts_flat.append(flat)
    empty = np.empty(0)
    return (
        np.cumsum(sizes).astype(np.int64),
        np.concatenate(parts_y) if parts_y else empty,
        np.concatenate(parts_w) if parts_w else empty,
        np.concatenate(parts_flat) if parts_flat else empty.astype(np.uint8),
    )


def quantiles(
    ptr: NDArray[np.int64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    flat: NDArray[np.uint8],
    levels: NDArray[np.float64],
    mode: int,
    result: NDArray[np.float64],
) -> None:
    """Quantiles of each row at ascending levels, into ``result``; see the compiled version."""
    for i in range(len(ptr) - 1):
        values, weight = y[ptr[i] : ptr[i + 1]], w[ptr[i] : ptr[i + 1]]
        if len(values) == 0:
            result[i] = np.nan
            continue
        q = levels[i if len(levels) > 1 else 0]
        above = np.cumsum(weight)
        below = above - weight
        if mode == 0:
            j = np.searchsorted(above, q * (1 - 1e-12), side="left")
            result[i] = values[np.minimum(j, len(values) - 1)]
            continue
        solid = flat[ptr[i] : ptr[i + 1]] == 1
        left = np.where(solid, below, below + 0.5 * weight)
        right = np.where(solid, above, below + 0.5 * weight)
        # the step on whose right side, or after which, each level lies
        j = np.maximum(np.searchsorted(left, q, side="left") - 1, 0)
        after = np.minimum(j + 1, len(values) - 1)
        gap = left[after] - right[j]
        between = (q > right[j]) & (gap > 0) & (after > j)
        share = np.where(between, (q - right[j]) / np.where(gap > 0, gap, 1.0), 0.0)
        if mode == 2:
            share = np.where(between & (q < left[after]), 0.5, np.where(share >= 1, 1.0, 0.0))
        share = np.clip(share, 0.0, 1.0)
        result[i] = values[j] + share * (values[after] - values[j])


def cumulative(
    ptr: NDArray[np.int64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    points: NDArray[np.float64],
    strict: bool,
    result: NDArray[np.float64],
) -> None:
    """Distribution function of each row at ascending points, into ``result``."""
    for i in range(len(ptr) - 1):
        values, weight = y[ptr[i] : ptr[i + 1]], w[ptr[i] : ptr[i + 1]]
        here = points[i if len(points) > 1 else 0]
        count = np.searchsorted(values, here, side="left" if strict else "right")
        mass = np.concatenate(([0.0], np.cumsum(weight)))[count]
        result[i] = np.where(count == len(values), 1.0, np.minimum(mass, 1.0))
