"""Recursions over time that numpy cannot do at once, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def exponential_smoothing(values: NDArray, alphas: NDArray) -> tuple[NDArray, NDArray]:
    """Level of simple exponential smoothing (N,), each row with its best alpha (N,).

    The alpha with the least squared one-step error is chosen; gaps leave the level as it is.
    """
    n, width = values.shape
    level = np.full(n, np.nan)
    chosen = np.full(n, np.nan)
    for i in range(n):
        best = np.inf
        for alpha in alphas:
            state, total, started = 0.0, 0.0, False
            for t in range(width):
                y = values[i, t]
                if np.isnan(y):
                    continue
                if not started:
                    state, started = y, True
                    continue
                error = y - state
                total += error * error
                state += alpha * error
            if started and total < best:
                best, level[i], chosen[i] = total, state, alpha
    return level, chosen


@njit(cache=True)
def croston(values: NDArray, alpha: float, kind: int) -> NDArray:
    """Demand rate (N,): kind 0 Croston, 1 Syntetos-Boylan approximation, 2 Teunter-Syntetos-Babai.

    Croston and SBA smooth size and interval at each demand; TSB smooths the probability of a
    demand at every period, so that a dying item fades.
    """
    n, width = values.shape
    rate = np.full(n, np.nan)
    for i in range(n):
        size, interval, probability = np.nan, 0.0, 0.0
        gap, seen = 0, 0
        first_seen = 0
        for t in range(width):
            y = values[i, t]
            if np.isnan(y):
                continue
            seen += 1
            gap += 1
            if y > 0:
                if np.isnan(size):
                    size, interval, first_seen = y, float(gap), seen
                    probability = 1.0 / gap
                else:
                    size += alpha * (y - size)
                    interval += alpha * (gap - interval)
                    probability += alpha * (1.0 - probability)
                gap = 0
            elif not np.isnan(size):
                probability -= alpha * probability
        if seen == 0:
            continue
        if np.isnan(size) or first_seen == 0:
            rate[i] = 0.0
        elif kind == 2:
            rate[i] = probability * size
        elif kind == 1:
            rate[i] = (1.0 - alpha / 2.0) * size / interval
        else:
            rate[i] = size / interval
    return rate
