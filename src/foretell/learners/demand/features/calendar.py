"""Movable feasts on a time grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.data.calendar import easter_sunday
from foretell.data.frequency import Frequency

WEEK = 7 * 86_400_000_000


def easter_periods(frequency: Frequency, first: int, last: int) -> NDArray[np.int64]:
    """Periods between two (inclusive) in which Easter Sunday falls; none without dates."""
    if frequency.kind != "fixed" or frequency.step > WEEK:
        return np.zeros(0, np.int64)
    ends = np.asarray(frequency.time(np.array([first, last]))).astype("datetime64[Y]")
    years = range(int(ends[0].astype(int)) + 1969, int(ends[1].astype(int)) + 1972)
    days = np.array([easter_sunday(year) for year in years]).astype("datetime64[us]")
    periods = frequency.index(days)
    return periods[(periods >= first) & (periods <= last)]
