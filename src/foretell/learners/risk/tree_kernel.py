"""Walks through trees, compiled: sums of leaves, and Shapley values by dynamic programming."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def deepest(feature, children):
    """Splits on the longest way from a root to a leaf."""
    depth = np.zeros(len(feature), np.int64)
    deepest = 0
    for node in range(len(feature)):
        if feature[node] >= 0:
            for side in range(2):
                depth[children[node, side]] = depth[node] + 1
            deepest = max(deepest, depth[node] + 1)
    return deepest


@njit(cache=True, nogil=True)
def _side(value, node, threshold, missing_left):
    if np.isnan(value):
        return 0 if missing_left[node] == 1 else 1
    return 0 if value <= threshold[node] else 1


@njit(cache=True, nogil=True)
def sums(X, roots, feature, threshold, children, missing_left):
    """(R,) sums of the leaves that rows (R, d) fall into."""
    result = np.zeros(len(X))
    for b in range(len(roots)):
        for i in range(len(X)):
            node = roots[b]
            while feature[node] >= 0:
                side = _side(np.float64(X[i, feature[node]]), node, threshold, missing_left)
                node = children[node, side]
            result[i] += threshold[node]
    return result


@njit(cache=True, nogil=True)
def shapley(X, roots, feature, threshold, children, missing_left, cover, size):
    """(R, d) Shapley values; ``size`` exceeds the depth of every tree by 2."""
    phi = np.zeros((len(X), X.shape[1]))
    # One row a level of the tree: the features of the path so far, the share of training rows
    # that goes this way (zero), whether the hour itself does (one), and permutation weights.
    column = np.zeros((size, size), np.int64)
    zero, one, weight = np.zeros((size, size)), np.zeros((size, size)), np.zeros((size, size))
    stack = np.zeros((2 * size, 4), np.int64)
    shares = np.zeros((2 * size, 2))
    for i in range(len(X)):
        for b in range(len(roots)):
            stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = roots[b], 0, 0, -1
            shares[0, 0], shares[0, 1] = 1.0, 1.0
            top = 1
            while top > 0:
                top -= 1
                node, level = stack[top, 0], stack[top, 1]
                length, came = stack[top, 2], stack[top, 3]
                if level > 0:
                    for j in range(length):
                        column[level, j] = column[level - 1, j]
                        zero[level, j], one[level, j] = zero[level - 1, j], one[level - 1, j]
                        weight[level, j] = weight[level - 1, j]
                f, z, o, w = column[level], zero[level], one[level], weight[level]
                _extend(f, z, o, w, length, came, shares[top, 0], shares[top, 1])
                if feature[node] < 0:
                    for j in range(1, length + 1):
                        total = _unwound(z, o, w, length, j)
                        phi[i, f[j]] += total * (o[j] - z[j]) * threshold[node]
                    continue
                side = _side(np.float64(X[i, feature[node]]), node, threshold, missing_left)
                share, follows = 1.0, 1.0
                for j in range(1, length + 1):
                    if f[j] == feature[node]:
                        share, follows = z[j], o[j]
                        _unwind(f, z, o, w, length, j)
                        length -= 1
                        break
                for hot in range(2):
                    child = children[node, side if hot == 1 else 1 - side]
                    stack[top, 0], stack[top, 1] = child, level + 1
                    stack[top, 2], stack[top, 3] = length + 1, feature[node]
                    shares[top, 0] = share * cover[child] / cover[node]
                    shares[top, 1] = follows if hot == 1 else 0.0
                    top += 1
    return phi


@njit(cache=True, nogil=True)
def _extend(f, z, o, w, length, came, zero, one):
    f[length], z[length], o[length] = came, zero, one
    w[length] = 1.0 if length == 0 else 0.0
    for j in range(length - 1, -1, -1):
        w[j + 1] += one * w[j] * (j + 1) / (length + 1)
        w[j] = zero * w[j] * (length - j) / (length + 1)


@njit(cache=True, nogil=True)
def _unwind(f, z, o, w, length, at):
    one, zero, following = o[at], z[at], w[length]
    for j in range(length - 1, -1, -1):
        if one != 0:
            before = w[j]
            w[j] = following * (length + 1) / ((j + 1) * one)
            following = before - w[j] * zero * (length - j) / (length + 1)
        else:
            w[j] = w[j] * (length + 1) / (zero * (length - j))
    for j in range(at, length):
        f[j], z[j], o[j] = f[j + 1], z[j + 1], o[j + 1]


@njit(cache=True, nogil=True)
def _unwound(z, o, w, length, at):
    one, zero, following = o[at], z[at], w[length]
    total = 0.0
    for j in range(length - 1, -1, -1):
        if one != 0:
            part = following * (length + 1) / ((j + 1) * one)
            total += part
            following = w[j] - part * zero * (length - j) / (length + 1)
        else:
            total += w[j] * (length + 1) / (zero * (length - j))
    return total
