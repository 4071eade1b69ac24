"""What the last hours of a few series looked like, compiled; batch and stream both call it.

Every series is a track of carried-forward values. Of each, the last 24 hours are held in a ring,
so that all features of an hour follow from a state of fixed size.
"""

from __future__ import annotations

import numpy as np
from numba import njit

WIDTH = 24
"""Hours that the ring holds."""

MEAN_GAP, SPREAD, SLOPE, LOWEST, HIGHEST = range(5)
"""Columns of a track: distance of the last value from the mean of 24 hours; standard deviation and
least-squares slope over 12 hours; distances of the last value from least and most of 24 hours."""

PER_TRACK = 5
TREND_HOURS = 12

SIGNATURE_TERMS = 14
"""Terms of a two-dimensional signature up to depth 3: 2 + 4 + 8."""


@njit(cache=True)
def advance(values, lengths, fresh, look_back, ring, clock, out):
    """Writes the trends, and signatures, of successive hours.

    Args:
        values: (R, K) tracks, NaN before the first value, stay after stay.
        lengths: (N,) hours of each stay; they add up to R.
        fresh: whether a stay begins with an empty ring; False goes on with the one given.
        look_back: hours of the signatures; 0 for none.
        ring: (24, K) carried.
        clock: (1,) hours taken so far, carried.
        out: (R, K * 5) or (R, K * 19).
    """
    tracks = values.shape[1]
    first = np.zeros(2)
    second = np.zeros((2, 2))
    third = np.zeros((2, 2, 2))
    begin = 0
    for i in range(lengths.shape[0]):
        if fresh:
            ring[:] = np.nan
            clock[0] = 0
        for r in range(begin, begin + lengths[i]):
            now = clock[0]
            held = min(now + 1, WIDTH)
            for k in range(tracks):
                value = values[r, k]
                ring[now % WIDTH, k] = value
                _trend(ring, now, held, k, value, out[r])
            if look_back > 0:
                for k in range(tracks):
                    at = tracks * PER_TRACK + k * SIGNATURE_TERMS
                    _signature(ring, now, min(held, look_back), k, first, second, third, out[r], at)
            clock[0] = now + 1
        begin += lengths[i]


@njit(cache=True)
def _trend(ring, now, held, k, value, out):
    at = k * PER_TRACK
    for j in range(PER_TRACK):
        out[at + j] = np.nan
    if np.isnan(value):
        return
    total, count = 0.0, 0
    low, high = value, value
    t_sum, x_sum, n = 0.0, 0.0, 0
    for back in range(held):
        x = ring[(now - back) % WIDTH, k]
        if np.isnan(x):
            break
        total += x
        count += 1
        low, high = min(low, x), max(high, x)
        if back < TREND_HOURS:
            t_sum -= back
            x_sum += x
            n += 1
    out[at + MEAN_GAP] = value - total / count
    out[at + LOWEST] = value - low
    out[at + HIGHEST] = value - high
    t_mean, x_mean = t_sum / n, x_sum / n
    tt, tx, xx = 0.0, 0.0, 0.0
    for back in range(n):
        x = ring[(now - back) % WIDTH, k] - x_mean
        t = -back - t_mean
        tt += t * t
        tx += t * x
        xx += x * x
    out[at + SPREAD] = np.sqrt(xx / n)
    out[at + SLOPE] = tx / tt if tt > 0 else 0.0


@njit(cache=True)
def _signature(ring, now, held, k, first, second, third, out, at):
    """Signature to depth 3 of a track's lead-lag path, by Chen's identity."""
    first[:] = 0.0
    second[:] = 0.0
    third[:] = 0.0
    known = 0
    for back in range(held):
        if np.isnan(ring[(now - back) % WIDTH, k]):
            break
        known += 1
    if known == 0:
        out[at : at + SIGNATURE_TERMS] = np.nan
        return
    for back in range(known - 1, 0, -1):
        step = ring[(now - back + 1) % WIDTH, k] - ring[(now - back) % WIDTH, k]
        # The leading coordinate moves first, the lagging one follows.
        _append(first, second, third, 0, step)
        _append(first, second, third, 1, step)
    j = at
    for a in range(2):
        out[j] = first[a]
        j += 1
    for a in range(2):
        for b in range(2):
            out[j] = second[a, b]
            j += 1
    for a in range(2):
        for b in range(2):
            for c in range(2):
                out[j] = third[a, b, c]
                j += 1


@njit(cache=True)
def _append(first, second, third, axis, step):
    """Multiplies the signature by that of a segment along one axis."""
    if step == 0:
        return
    for a in range(2):
        for b in range(2):
            third[a, b, axis] += second[a, b] * step
        third[a, axis, axis] += first[a] * step * step / 2
    third[axis, axis, axis] += step * step * step / 6
    for a in range(2):
        second[a, axis] += first[a] * step
    second[axis, axis] += step * step / 2
    first[axis] += step
