"""Distribution of the response in each leaf of a grown tree."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def summarize_leaves(leaf_ptr, leaf_rows, code, weight, cap, starts):
    """Distribution of each leaf: ascending codes and weights that add up to one.

    A leaf with more than ``cap`` rows keeps ``cap`` of them by systematic resampling on its sorted
    responses (one random start, equal steps of weight): unbiased for every row's weight, and with
    less variance than a reservoir of the same size. ``starts`` are uniform numbers, one a leaf.
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
        u = starts[leaf] if thin else 0.0
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
