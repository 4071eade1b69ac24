"""Scales that never look ahead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def causal_mean_scale(
    values: NDArray, observed: NDArray[np.bool_], window: int, floor: float, default: float
) -> NDArray[np.float32]:
    """Mean size of the last observed values at every time: the unit each fork thinks in.

    ``scale[t] = max(mean |y[j]| over the last `window` observed j <= t, floor)``. A scale over the
    whole context, as in public code, tells early forks the later level.

    Args:
        values: (B, T); anything where not observed.
        observed: (B, T).
        window: number of observed values.
        floor: smallest scale, for series that are zero.
        default: scale where nothing has been observed yet.

    Returns:
        (B, T) float32, positive.
    """
    mean, count = trailing_mean(np.abs(values), observed, window)
    return np.where(count > 0, np.maximum(mean, floor), default).astype(np.float32)


def trailing_mean(
    values: NDArray, observed: NDArray[np.bool_], window: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean of the last ``window`` observed values up to each time, and how many there were so far.

    Args:
        values: (B, T); anything where not observed.
        observed: (B, T).
        window: number of observed values.

    Returns:
        (B, T) means, 0 where nothing has been observed yet, and (B, T) counts.
    """
    sizes = np.where(observed, values, 0).astype(np.float64)
    batch, length = sizes.shape
    totals = np.zeros((batch, length + 1))
    np.cumsum(sizes, axis=1, out=totals[:, 1:])
    counts = np.zeros((batch, length + 1), np.int64)
    np.cumsum(observed, axis=1, out=counts[:, 1:])
    now = counts[:, 1:]
    # Where the count was `window` lower: position of the last step before the window. The first
    # `c` observations end at step number `ends[c]`.
    ends = np.zeros((batch, length + 1), np.int64)
    rows, steps = np.nonzero(observed)
    ends[rows, counts[rows, steps + 1]] = steps + 1
    before = np.take_along_axis(ends, np.maximum(now - window, 0), axis=1)
    sums = totals[:, 1:] - np.take_along_axis(totals, before, axis=1)
    return sums / np.maximum(np.minimum(now, window), 1), now
