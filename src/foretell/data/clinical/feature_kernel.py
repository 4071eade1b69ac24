"""The one step from an hour's row to its features, compiled; batch and stream both call it.

Every feature of hour t is a function of the rows up to t through a state of fixed size, so that
looking ahead is impossible by construction, and carrying the state is all that streaming needs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from foretell.data.clinical.feature_spec import LOG_SINCE, SHARE, SINCE_CAP, STANDARD

LAST, CHANGE, SINCE, SEEN, SUM, COUNT = range(6)
"""Columns of a channel's state: last value, its change, hours since, measurements seen (up to 2),
sum and number of the measurements in the window of the mean."""


@njit(cache=True)
def reset(state, ring, clock):
    """Nothing was measured yet."""
    state[:] = 0.0
    state[:, LAST] = np.nan
    state[:, CHANGE] = np.nan
    ring[:] = np.nan
    clock[0] = 0


@njit(cache=True)
def advance(values, low, high, windows, blocks, ratios, ratio_column, state, ring, clock, out):
    """Takes successive hours of one stay and writes their features.

    Args:
        values: (R, C) float32 rows, NaN where nothing was measured.
        low: (C,) float32, below which a value counts as not measured.
        high: (C,) float32, above which it does.
        windows: (3,) hours of mean, min and max, count.
        blocks: (8,) first column in ``out`` of each block of a feature spec, -1 where not wanted.
        ratios: (K, 2) channels whose last values are divided.
        ratio_column: first column of the ratios in ``out``.
        state: (C, 6) float64, carried.
        ring: (C, W) float32 of the last W hours, carried.
        clock: (1,) hours taken so far, carried.
        out: (R, F) float32.
    """
    hours, channels = values.shape
    width = ring.shape[1]
    mean_hours, extreme_hours, count_hours = windows[0], windows[1], windows[2]
    extremes = blocks[5] >= 0 or blocks[6] >= 0
    for r in range(hours):
        now = clock[0]
        for c in range(channels):
            value = values[r, c]
            measured = np.isfinite(value) and value >= low[c] and value <= high[c]
            if blocks[4] >= 0:
                gone = ring[c, (now - mean_hours) % width]
                if not np.isnan(gone):
                    state[c, COUNT] -= 1.0
                    state[c, SUM] = state[c, SUM] - gone if state[c, COUNT] > 0 else 0.0
            if measured:
                ring[c, now % width] = value
                if state[c, SEEN] > 0:
                    state[c, CHANGE] = value - state[c, LAST]
                    state[c, SEEN] = 2.0
                else:
                    state[c, SEEN] = 1.0
                state[c, LAST] = value
                state[c, SINCE] = 0.0
                state[c, SUM] += value
                state[c, COUNT] += 1.0
            else:
                ring[c, now % width] = np.nan
                state[c, SINCE] += 1.0
            seen = state[c, SEEN] > 0
            last = state[c, LAST]
            if blocks[0] >= 0:
                out[r, blocks[0] + c] = last
            if blocks[1] >= 0:
                out[r, blocks[1] + c] = state[c, CHANGE]
            if blocks[2] >= 0:
                out[r, blocks[2] + c] = state[c, SINCE] if seen else np.nan
            if blocks[3] >= 0:
                out[r, blocks[3] + c] = 0.0 if seen else 1.0
            if blocks[4] >= 0:
                count = state[c, COUNT]
                out[r, blocks[4] + c] = state[c, SUM] / count if count > 0 else last
            if extremes:
                # Where nothing was measured in the window, the value that is carried stands.
                smallest, largest = np.inf, -np.inf
                for back in range(min(extreme_hours, now + 1)):
                    x = ring[c, (now - back) % width]
                    if not np.isnan(x):
                        smallest = min(smallest, x)
                        largest = max(largest, x)
                if smallest > largest:
                    smallest = largest = last
                if blocks[5] >= 0:
                    out[r, blocks[5] + c] = smallest
                if blocks[6] >= 0:
                    out[r, blocks[6] + c] = largest
            if blocks[7] >= 0:
                count = 0.0
                for back in range(min(count_hours, now + 1)):
                    if not np.isnan(ring[c, (now - back) % width]):
                        count += 1.0
                out[r, blocks[7] + c] = count
        for k in range(ratios.shape[0]):
            below = state[ratios[k, 1], LAST]
            above = state[ratios[k, 0], LAST]
            out[r, ratio_column + k] = np.nan if below == 0 else above / below
        clock[0] = now + 1


@njit(cache=True)
def advance_stays(
    values, lengths, low, high, windows, blocks, ratios, ratio_column, state, ring, clock, out
):
    """:func:`advance` for stay after stay, each from nothing; ``values`` and ``out`` are flat."""
    begin = 0
    for i in range(lengths.shape[0]):
        end = begin + lengths[i]
        reset(state, ring, clock)
        advance(
            values[begin:end], low, high, windows, blocks, ratios, ratio_column,
            state, ring, clock, out[begin:end],
        )  # fmt: skip
        begin = end


@njit(cache=True)
def scale(features, kinds, mean, std):
    """Scales (R, F) float32 features in place; what is missing becomes the mean, 0.

    Hours since a measurement become log(1 + h) / log(201), capped at 200 h, never = 1.
    """
    top = np.log1p(SINCE_CAP)
    for r in range(features.shape[0]):
        for f in range(features.shape[1]):
            x = np.float64(features[r, f])
            kind = kinds[f]
            if kind == LOG_SINCE:
                x = 1.0 if np.isnan(x) else np.log1p(min(x, SINCE_CAP)) / top
            elif kind == STANDARD:
                x = 0.0 if np.isnan(x) else (x - mean[f]) / std[f]
            elif np.isnan(x):
                x = 0.0
            elif kind == SHARE:
                x = x / std[f]
            features[r, f] = x
