"""Compiled prediction: the weighted distribution of the response in the leaves a row falls into."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

_BLOCK = 32  # codes that share one "touched" flag


@njit(cache=True, nogil=True)
def _leaf(feature, threshold, default_left, child, root, scratch):
    node = root
    while feature[node] >= 0:
        value = scratch[feature[node]]
        if np.isnan(value):
            left = default_left[node] == 1
        else:
            left = value <= threshold[node]
        node = root + child[node] + (0 if left else 1)
    return child[node]


@njit(cache=True, nogil=True)
def apply(indptr, indices, data, used, n_used, roots, feature, threshold, default_left, child):
    """Leaf of each row in each tree: ``(n, B)`` int32."""
    n = indptr.size - 1
    n_trees = roots.size
    leaves = np.empty((n, n_trees), np.int32)
    scratch = np.full(max(n_used, 1), np.nan, np.float32)
    for i in range(n):
        for e in range(indptr[i], indptr[i + 1]):
            f = used[indices[e]]
            if f >= 0:
                scratch[f] = data[e]
        for b in range(n_trees):
            leaves[i, b] = _leaf(feature, threshold, default_left, child, roots[b], scratch)
        for e in range(indptr[i], indptr[i + 1]):
            f = used[indices[e]]
            if f >= 0:
                scratch[f] = np.nan
    return leaves


@njit(cache=True, nogil=True)
def distributions(leaves, first_leaf, leaf_ptr, codes, weights, values, atom):
    """Distribution of each row from its leaves; a leaf of -1 leaves its tree out.

    Returns ``(ptr, y, w, flat)``: ascending distinct responses of row ``i`` and their weights,
    which add up to one, in ``ptr[i]:ptr[i + 1]``; ``flat`` marks responses that are atoms.
    """
    n, n_trees = leaves.shape
    n_codes = values.size
    mass = np.zeros(n_codes, np.float64)
    n_blocks = (n_codes + _BLOCK - 1) // _BLOCK
    touched = np.zeros(n_blocks, np.uint8)
    ptr = np.zeros(n + 1, np.int64)
    room = 0
    for i in range(n):
        entries = 0
        for b in range(n_trees):
            if leaves[i, b] >= 0:
                g = first_leaf[b] + leaves[i, b]
                entries += leaf_ptr[g + 1] - leaf_ptr[g]
        room += min(entries, n_codes)
    out_y = np.empty(room, np.float64)
    out_w = np.empty(room, np.float64)
    flat = np.empty(room, np.uint8)
    t = 0
    for i in range(n):
        first = t
        total = 0.0
        for b in range(n_trees):
            if leaves[i, b] < 0:
                continue
            g = first_leaf[b] + leaves[i, b]
            for e in range(leaf_ptr[g], leaf_ptr[g + 1]):
                c = np.int64(codes[e])
                mass[c] += weights[e]
                touched[c // _BLOCK] = 1
                total += weights[e]
        for block in range(n_blocks):
            if touched[block] == 0:
                continue
            touched[block] = 0
            for c in range(block * _BLOCK, min(n_codes, (block + 1) * _BLOCK)):
                if mass[c] > 0.0:
                    if t > first and out_y[t - 1] == values[c]:
                        out_w[t - 1] += mass[c] / total
                    else:
                        out_y[t] = values[c]
                        out_w[t] = mass[c] / total
                        flat[t] = atom[c]
                        t += 1
                    mass[c] = 0.0
        ptr[i + 1] = t
    return ptr, out_y[:t], out_w[:t], flat[:t]


@njit(cache=True, nogil=True)
def quantiles(ptr, y, w, flat, levels, mode, result):
    """Quantiles of each row's distribution at ascending levels ``(n or 1, Q)``, into ``result``.

    ``mode`` 0 is the inverse of the distribution function; 1 interpolates linearly and 2 takes the
    middle between neighbouring responses. For 1 and 2 a response stands at the middle of its step,
    except an atom (a response that occurs repeatedly in the training data), which keeps its whole
    step.
    """
    n_levels = levels.shape[1]
    for i in range(ptr.size - 1):
        lo = ptr[i]
        hi = ptr[i + 1]
        if lo == hi:
            for k in range(n_levels):
                result[i, k] = np.nan
            continue
        row = i if levels.shape[0] > 1 else 0
        j = lo
        below = 0.0
        for k in range(n_levels):
            q = levels[row, k]
            if mode == 0:
                while j < hi - 1 and below + w[j] < q * (1.0 - 1e-12):
                    below += w[j]
                    j += 1
                result[i, k] = y[j]
            else:
                while j < hi - 1 and q > below + w[j] + (0.0 if flat[j + 1] else 0.5 * w[j + 1]):
                    below += w[j]
                    j += 1
                # now q <= left knot of j + 1
                right = below + (w[j] if flat[j] else 0.5 * w[j])
                if q <= right or j == hi - 1:
                    result[i, k] = y[j]
                else:
                    knot = below + w[j] + (0.0 if flat[j + 1] else 0.5 * w[j + 1])
                    if q >= knot:
                        result[i, k] = y[j + 1]
                    elif mode == 1:
                        share = (q - right) / (knot - right)
                        result[i, k] = y[j] + share * (y[j + 1] - y[j])
                    else:
                        result[i, k] = 0.5 * (y[j] + y[j + 1])


@njit(cache=True, nogil=True)
def cumulative(ptr, y, w, points, strict, result):
    """Distribution function of each row at ascending points ``(n or 1, M)``, into ``result``.

    ``strict`` gives the probability of less than the point, otherwise of at most the point.
    """
    n_points = points.shape[1]
    for i in range(ptr.size - 1):
        row = i if points.shape[0] > 1 else 0
        j = ptr[i]
        hi = ptr[i + 1]
        mass = 0.0
        for k in range(n_points):
            while j < hi and (y[j] < points[row, k] or (not strict and y[j] == points[row, k])):
                mass += w[j]
                j += 1
            result[i, k] = min(1.0, mass) if j < hi else 1.0
