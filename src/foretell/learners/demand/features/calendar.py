"""Movable feasts, computed from the calendar."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from foretell.data.frequency import Frequency

WEEK = 7 * 86_400_000_000


@cache
def easter_sunday(year: int) -> np.datetime64:
    """Western Easter of a year (the anonymous Gregorian computus, Meeus 1991, chapter 8)."""
    a, b, c = year % 19, year // 100, year % 100
    h = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    rest = (32 + 2 * (b % 4) + 2 * (c // 4) - h - c % 4) % 7
    m = (a + 11 * h + 22 * rest) // 451
    month, day = divmod(h + rest - 7 * m + 114, 31)
    return np.datetime64(f"{year:04d}-{month:02d}-{day + 1:02d}")


def easter_periods(frequency: Frequency, first: int, last: int) -> NDArray[np.int64]:
    """Periods between two (inclusive) in which Easter Sunday falls; none without dates."""
    if frequency.kind != "fixed" or frequency.step > WEEK:
        return np.zeros(0, np.int64)
    ends = np.asarray(frequency.time(np.array([first, last]))).astype("datetime64[Y]")
    years = range(int(ends[0].astype(int)) + 1969, int(ends[1].astype(int)) + 1972)
    days = np.array([easter_sunday(year) for year in years]).astype("datetime64[us]")
    periods = frequency.index(days)
    return periods[(periods >= first) & (periods <= last)]
