"""What a date says by itself: phases of the day, week, month and year, and moving holidays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.data.calendar import easter_sunday
from foretell.data.frequency import Frequency
from foretell.errors import ParameterError

_DAY = 86_400_000_000


GROUPS = ("day", "week", "month", "year", "easter")
"""What a calendar may say: phases of the day, week, month and year, and the date of Easter."""


def default_groups(frequency: Frequency, periods: int) -> tuple[str, ...]:
    """The groups that a history of so many periods can teach.

    Phases of a cycle that was seen less than three times name single dates, and a network learns
    them by heart: on two years of weekly sales they make a forecast worse by a quarter.
    """
    if frequency.kind == "integer":
        return ()
    step = frequency.step if frequency.kind == "fixed" else 30 * _DAY * frequency.step
    cycles = {"day": _DAY, "week": 7 * _DAY, "year": 365 * _DAY}
    groups = [n for n, c in cycles.items() if step < c and periods * step >= 3 * c]
    # Days of a month matter to daily sales; to weekly ones they hardly do, and name the date.
    if step <= _DAY and periods * step >= 90 * _DAY:
        groups.append("month")
    return (*groups, "easter") if _DAY <= step <= 7 * _DAY else tuple(groups)


def calendar_features(
    frequency: Frequency, periods: NDArray[np.int64], groups: Sequence[str] = GROUPS
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Calendar features of period numbers.

    Phases come as sine and cosine of one or more harmonics, only those that the frequency can
    resolve. Easter, the one big holiday that a phase of the year cannot tell, comes as bumps
    around its date, for periods of up to a week.

    Args:
        frequency: the time grid; an integer one has no calendar and gives no feature.
        periods: (P,) period numbers.
        groups: which of :data:`GROUPS` are wanted.

    Returns:
        (P, C) float32 and the names of the C features.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ParameterError(f"unknown calendar group {unknown[0]!r}: one of {', '.join(GROUPS)}")
    if frequency.kind == "integer" or not groups:
        return np.zeros((len(periods), 0), np.float32), ()
    times = frequency.time(periods).astype("datetime64[us]")
    micros = times.astype(np.int64)
    step = frequency.step if frequency.kind == "fixed" else 28 * _DAY * frequency.step
    days = times.astype("datetime64[D]")
    years = days.astype("datetime64[Y]")
    length = ((years + 1).astype("datetime64[D]") - years.astype("datetime64[D]")).astype(int)
    year = ((days - years.astype("datetime64[D]")).astype(int) + 0.5) / length
    features: dict[str, NDArray] = {}

    def add(name: str, phase: NDArray, harmonics: int) -> None:
        for harmonic in range(1, harmonics + 1):
            angle = 2 * np.pi * harmonic * phase
            features[f"{name}_sin{harmonic}"] = np.sin(angle)
            features[f"{name}_cos{harmonic}"] = np.cos(angle)

    if "day" in groups and step < _DAY:
        add("day", micros % _DAY / _DAY, 3)
    if "week" in groups and step < 7 * _DAY:
        add("week", (micros // _DAY + 3) % 7 / 7, 3 if step <= _DAY else 1)
    if "month" in groups and step <= 7 * _DAY:
        months = days.astype("datetime64[M]")
        add("month", (days - months.astype("datetime64[D]")).astype(int) / 31, 1)
    if "year" in groups and step < 365 * _DAY:
        add("year", year, 4 if step <= 7 * _DAY else 3)
    if "easter" in groups and _DAY <= step <= 7 * _DAY:
        offset = _days_to_easter(days)
        for shift in (-7, 0, 7):
            features[f"easter{shift:+d}"] = np.maximum(0, 1 - np.abs(offset - shift) / 7)
    names = tuple(features)
    if not names:
        return np.zeros((len(periods), 0), np.float32), ()
    return np.stack([features[n] for n in names], 1).astype(np.float32), names


def _days_to_easter(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Signed days from the nearest Easter Sunday (negative before it)."""
    years = days.astype("datetime64[Y]").astype(int) + 1970
    best = np.full(len(days), 10_000, np.int64)
    for delta in (-1, 0, 1):
        dates = np.array([easter_sunday(int(y)) for y in years + delta], "datetime64[D]")
        distance = (days - dates).astype(np.int64)
        best = np.where(np.abs(distance) < np.abs(best), distance, best)
    return best
