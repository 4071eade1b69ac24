"""The recent past of many series side by side, and numbers read off it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel


@dataclass(frozen=True, eq=False)
class History:
    """The last T steps of N series, right-aligned at each series' own end.

    Args:
        values: (N, T) float64, NaN where nothing usable was observed: before the series began,
            in gaps, and where a stock-out cut the sales.
        ends: (N,) period number of the last column.
        lengths: (N,) steps of each series, which may exceed T.
    """

    values: NDArray[np.float64]
    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, panel: Panel, longest: int) -> History:
        """The last steps of a panel's series, at most ``longest``."""
        width = int(min(max(int(panel.lengths.max(initial=1)), 1), longest))
        rows = np.arange(len(panel))
        values = panel.windows(rows, panel.lengths, width).astype(np.float64)
        if panel.censored is not None:
            values[panel.censored_windows(rows, panel.lengths, width)] = np.nan
        return cls(values, panel.ends, panel.lengths)

    @property
    def periods(self) -> NDArray[np.int64]:
        """Period numbers (N, T)."""
        width = self.values.shape[1]
        return self.ends[:, None] - width + 1 + np.arange(width)

    def future(self, h: int) -> NDArray[np.int64]:
        """Period numbers (N, h) after the end."""
        return self.ends[:, None] + 1 + np.arange(h)

    def __len__(self) -> int:
        return len(self.values)


def last_values(values: NDArray) -> NDArray[np.float64]:
    """The last observed value of each row (N,), NaN for an empty row."""
    seen = np.isfinite(values)
    place = values.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    return np.where(seen.any(axis=1), values[np.arange(len(values)), place], np.nan)


def trailing_mean(
    values: NDArray, window: int, weights: NDArray | None = None
) -> NDArray[np.float64]:
    """(Weighted) mean of the observed values among the last ``window``; else the last value."""
    recent = values[:, -window:]
    if weights is None:
        mean = row_mean(recent)
    else:
        weight = np.where(np.isfinite(recent), weights[:, -window:], 0.0)
        total = weight.sum(axis=1)
        top = (weight * np.nan_to_num(recent)).sum(axis=1)
        mean = np.where(total > 0, top / np.where(total > 0, total, 1.0), np.nan)
    return np.where(np.isfinite(mean), mean, last_values(values))


def row_mean(values: NDArray) -> NDArray[np.float64]:
    """Mean of the observed values of each row, NaN without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=1) if values.shape[1] else np.full(len(values), np.nan)


def moving_mean(values: NDArray, window: int, least: int) -> NDArray[np.float64]:
    """Centred moving mean (N, T) of observed values; an even window gets half-weight ends.

    NaN where the window leaves the array or holds fewer than ``least`` observed values.
    """
    n, width = values.shape
    result = np.full((n, width), np.nan)
    half = window // 2
    if width < 2 * half + 1:
        return result
    kernel = np.ones(2 * half + 1)
    if window % 2 == 0:
        kernel[0] = kernel[-1] = 0.5
    seen = np.isfinite(values)
    total = _slide(np.where(seen, values, 0.0), kernel)
    count = _slide(seen.astype(np.float64), kernel)
    enough = count >= least
    result[:, half : width - half] = np.where(enough, total / np.maximum(count, 1e-9), np.nan)
    return result


def _slide(values: NDArray, kernel: NDArray) -> NDArray:
    size = len(kernel)
    summed = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    full = summed[:, size:] - summed[:, :-size]
    if kernel[0] == 1.0:
        return full
    stop = values.shape[1] - size + 1
    return full - 0.5 * values[:, :stop] - 0.5 * values[:, size - 1 :]


def seasonal_strength(values: NDArray, season: int) -> NDArray[np.float64]:
    """Seasonal strength ``F_s = max(0, 1 - Var(R) / Var(S + R))`` of each row (N,).

    The trend is the line through year-on-year differences, the season the mean of each phase.
    ``Var(R)`` is divided by its degrees of freedom: with two seasons, the phase means of pure
    noise explain half of its variance, and the uncorrected strength would call it seasonal.
    Rows in which fewer than an eighth of the phases (or 4) were seen twice get 0. After Hyndman &
    Athanasopoulos, "Forecasting: Principles and Practice", section 6.7.
    """
    n, width = values.shape
    cycles = width // season
    if season < 2 or cycles < 1:
        return np.zeros(n)
    if width % season:
        pad = np.full((n, (cycles + 1) * season - width), np.nan)
        values = np.concatenate([pad, values], axis=1)
    cycles = values.shape[1] // season
    if cycles < 2:
        return np.zeros(n)
    cube = values.reshape(n, cycles, season)
    steps = row_mean((cube[:, 1:] - cube[:, :-1]).reshape(n, -1)) / season
    steps = np.nan_to_num(steps)
    time = np.arange(values.shape[1]).reshape(cycles, season)
    detrended = cube - steps[:, None, None] * time
    seen = np.isfinite(detrended)
    count = seen.sum(axis=1)
    repeated = seen & (count >= 2)[:, None, :]
    filled = np.where(repeated, detrended, 0.0)
    number = repeated.sum(axis=(1, 2))
    centre = filled.sum(axis=(1, 2)) / np.maximum(number, 1)
    deviation = np.where(repeated, detrended - centre[:, None, None], 0.0)
    phase = deviation.sum(axis=1) / np.maximum(repeated.sum(axis=1), 1)
    rest = np.where(repeated, deviation - phase[:, None, :], 0.0)
    phases = (count >= 2).sum(axis=1)
    freedom = number - phases
    total = (deviation**2).sum(axis=(1, 2)) / np.maximum(number - 1, 1)
    noise = (rest**2).sum(axis=(1, 2)) / np.maximum(freedom, 1)
    enough = (freedom >= max(4, season // 8)) & (total > 1e-12)
    return np.where(enough, np.maximum(0.0, 1 - noise / np.maximum(total, 1e-12)), 0.0)


def phase_of(
    frequency: Frequency, periods: NDArray[np.int64], season: int
) -> tuple[NDArray[np.int64], int]:
    """Phase of each period within the season, and the number of phases.

    Weeks of a 52-week season get their ISO week (phase 0..52, the last for week 53); months and
    quarters the calendar's; everything else the period number modulo the season.
    """
    if season <= 1:
        return np.zeros(periods.shape, np.int64), 1
    if is_weekly_year(frequency, season):
        first, last = int(periods.min()), int(periods.max())
        days = frequency.time(np.arange(first, last + 1)).astype("datetime64[D]")
        return (iso_week(days) - 1)[periods - first], 53
    return np.asarray(periods % season, np.int64), season


def is_weekly_year(frequency: Frequency, season: int) -> bool:
    """Whether the season is a year of weeks."""
    return frequency.kind == "fixed" and frequency.step == 7 * 86_400_000_000 and season == 52


def iso_week(days: NDArray) -> NDArray[np.int64]:
    """ISO 8601 week number 1..53 of dates: the week belongs to the year of its Thursday."""
    number = days.astype("datetime64[D]").astype(np.int64)
    thursday = number - (number + 3) % 7 + 3
    dates = thursday.astype("datetime64[D]")
    new_year = dates.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    return (thursday - new_year) // 7 + 1
