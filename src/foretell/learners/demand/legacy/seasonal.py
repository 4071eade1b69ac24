"""The seasonal add-on: a group's multiplicative index, shrunk to its parent's."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.frequency import Frequency
from foretell.errors import ParameterError
from foretell.learners.demand.legacy.history import (
    History,
    is_weekly_year,
    moving_mean,
    phase_of,
    row_mean,
)


class SeasonalAddon(BaseEstimator):
    """Seasonal index of every group (and series), by ratio to a centred moving average.

    For group g and phase w: ``s_gw`` is the weighted mean of ``y / level`` over the series and
    years of the group, shrunk in logarithms to the parent's index with weight ``lam`` and brought
    to a mean of one. Parents: all series, then the group, then, with ``lam_series``,
    the series itself. Two passes: the level of the first is the moving average over a whole
    season (the mean of the last season where history is too short for one); the second smooths
    what the first index leaves, so that the half seasons at both ends count too.

    Args:
        group: name of a static category; ``"auto"`` takes the one whose groups' seasons differ
            most; ``None`` for one index of all series.
        lam: (series x years) for which the parent counts.
        lam_series: years for which the group counts in a series' own index; ``None`` to give
            series the index of their group.
        window: width of the second pass' smoother in periods; a quarter season when ``None``.
        floor: least value of an index.
    """

    def __init__(
        self,
        group: str | None = "auto",
        *,
        lam: float = 5.0,
        lam_series: float | None = 2.0,
        window: int | None = None,
        floor: float = 1e-3,
    ) -> None:
        self.group = group
        self.lam = lam
        self.lam_series = lam_series
        self.window = window
        self.floor = floor

    def fit(
        self,
        history: History,
        frequency: Frequency,
        season: int,
        groups: NDArray[np.int64],
    ) -> Self:
        """Learns the indices.

        Args:
            history: past of N series, freed of events and price effects.
            frequency: the time grid.
            season: periods a season.
            groups: (N,) group codes; 0 means unknown and counts for the parent only.
        """
        if self.lam < 0 or (self.lam_series is not None and self.lam_series < 0):
            raise ParameterError("the seasonal add-on's lam and lam_series must not be negative")
        if not 0 < self.floor < 1:
            raise ParameterError(f"floor must lie in (0, 1), not {self.floor}")
        self.season_, self.frequency_ = season, frequency
        self.groups_ = int(groups.max(initial=0)) + 1
        phases, self.phases_ = phase_of(frequency, history.periods, season)
        count = len(history)
        self.log_root_ = np.zeros(self.phases_)
        self.log_group_ = np.zeros((self.groups_, self.phases_))
        self.log_series_ = np.zeros((0, self.phases_), np.float32)
        if season < 2 or history.values.shape[1] < season:
            return self
        values = history.values
        level = moving_mean(values, season, season // 2)
        short = ~np.isfinite(level).any(axis=1)
        if short.any():
            # One season only: the ratio is to its mean, trend and season cannot be told apart.
            recent = np.isfinite(values[short, -season:]).sum(axis=1) >= 0.75 * season
            mean = np.where(recent, row_mean(values[short, -season:]), np.nan)
            flat = np.full((int(short.sum()), values.shape[1]), np.nan)
            flat[:, -season:] = mean[:, None]
            level[short] = flat
        self._estimate(values, level, phases, groups, count, final=False)
        index = self._of_rows(groups, np.arange(count), phases)
        index[~np.isfinite(values)] = np.nan
        window = self.window or max(3, season // 4)
        # Ratio of sums: a value divided by a small index must not carry the level.
        second = _smooth(values, window) / _smooth(index, window)
        usable = np.isfinite(row_mean(level))
        second[~usable] = np.nan
        self._estimate(values, second, phases, groups, count, final=True)
        return self

    def _estimate(
        self,
        values: NDArray,
        level: NDArray,
        phases: NDArray[np.int64],
        groups: NDArray[np.int64],
        count: int,
        *,
        final: bool,
    ) -> None:
        use = np.isfinite(values) & np.isfinite(level) & (level > 0)
        row = np.nonzero(use)[0]
        phase, y, base = phases[use], values[use], level[use]
        # Root weights: between equal series and equal units.
        root = np.sqrt(base)
        share, weight = np.maximum(y, 0) / root, root
        everything = np.zeros((1, self.phases_))
        self.log_root_ = self._index(phase, share, weight, 1, everything, 0.0)[0]
        cell = groups[row] * self.phases_ + phase
        parent = np.broadcast_to(self.log_root_, (self.groups_, self.phases_))
        self.log_group_ = self._index(cell, share, weight, self.groups_, parent, self.lam)
        self.log_group_[0] = self.log_root_
        if self.lam_series is None or not final:
            return
        cell = row * self.phases_ + phase
        parent = self.log_group_[groups]
        self.log_series_ = self._index(cell, share, weight, count, parent, self.lam_series).astype(
            np.float32
        )

    def _index(
        self,
        cell: NDArray[np.int64],
        share: NDArray,
        weight: NDArray,
        count: int,
        parent: NDArray,
        lam: float,
    ) -> NDArray[np.float64]:
        size = count * self.phases_
        top = np.bincount(cell, share, size).reshape(count, -1)
        bottom = np.bincount(cell, weight, size).reshape(count, -1)
        number = np.bincount(cell, minlength=size).reshape(count, -1)
        ratio = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 1.0)
        log = np.log(np.maximum(ratio, self.floor))
        shrunk = (number * log + lam * parent) / np.maximum(number + lam, 1e-9)
        log = np.where(number > 0, shrunk, parent)
        if is_weekly_year(self.frequency_, self.season_):
            log[:, 52] = (log[:, 51] + log[:, 0]) / 2  # week 53: the mean of weeks 52 and 1
            core = slice(0, 52)
        else:
            core = slice(0, self.phases_)
        # A mean of one over all phases: those not seen carry the parent's value.
        log -= np.log(np.mean(np.exp(log[:, core]), axis=1, keepdims=True))
        return np.maximum(log, np.log(self.floor))

    def _of_rows(
        self, groups: NDArray[np.int64], rows: NDArray[np.int64], phases: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        groups = np.where((groups >= 0) & (groups < self.groups_), groups, 0)
        if len(self.log_series_):
            own = np.where(rows >= 0, rows, 0)
            table = np.where((rows >= 0)[:, None], self.log_series_[own], self.log_group_[groups])
        else:
            table = self.log_group_[groups]
        return np.exp(np.take_along_axis(table, phases, axis=1))

    def factor(
        self, periods: NDArray[np.int64], groups: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Multiplicative season (B, L) of given periods.

        Args:
            periods: (B, L) period numbers.
            groups: (B,) group codes; unknown ones get the parent's index.
            rows: (B,) position of each series in the fit, -1 for one that was not there.
        """
        phases, _ = phase_of(self.frequency_, periods, self.season_)
        return self._of_rows(groups, rows, phases)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """What was learned, as JSON values and arrays."""
        return (
            {
                "season": self.season_,
                "phases": self.phases_,
                "groups": self.groups_,
                "frequency": self.frequency_.to_dict(),
            },
            {"root": self.log_root_, "group": self.log_group_, "series": self.log_series_},
        )

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        self.season_, self.phases_ = int(state["season"]), int(state["phases"])
        self.groups_ = int(state["groups"])
        self.frequency_ = Frequency(**state["frequency"])
        self.log_root_, self.log_group_ = arrays["root"], arrays["group"]
        self.log_series_ = arrays["series"]
        return self


def _smooth(values: NDArray, window: int) -> NDArray[np.float64]:
    """Centred moving mean whose window shrinks at the edges; NaN outside a series' span."""
    half = window // 2
    seen = np.isfinite(values)
    padded = np.pad(np.where(seen, values, 0.0), ((0, 0), (half + 1, half)))
    counts = np.pad(seen.astype(np.float64), ((0, 0), (half + 1, half)))
    total = np.cumsum(padded, axis=1)
    number = np.cumsum(counts, axis=1)
    size = 2 * half + 1
    top = total[:, size:] - total[:, :-size]
    bottom = number[:, size:] - number[:, :-size]
    return np.where(bottom > 0, top / np.maximum(bottom, 1), np.nan)


def strongest_group(
    history: History,
    frequency: Frequency,
    season: int,
    categories: dict[str, NDArray[np.int64]],
) -> str | None:
    """The category whose groups' seasonal indices differ most, counted against their number.

    For each category the variance of the series' seasonal ratios that group means explain, with
    the degrees of freedom taken off (adjusted R squared); ``None`` where none explains anything.
    """
    width = history.values.shape[1]
    if season < 2 or width < season:
        return None
    rows = np.linspace(0, len(history) - 1, min(len(history), 4000)).astype(np.int64)
    values = history.values[rows][:, -min(width, 3 * season) :]
    phases, number = phase_of(frequency, history.periods[rows][:, -values.shape[1] :], season)
    base = row_mean(values)
    use = np.isfinite(values) & (base > 0)[:, None]
    ratio = np.log(np.maximum(values / np.where(base > 0, base, 1)[:, None], 0.05))[use]
    phase, row = phases[use], np.nonzero(use)[0]
    best, chosen = 0.02, None
    for name, codes in categories.items():
        code = codes[rows][row]
        size = int(codes.max(initial=0)) + 1
        if size < 3 or size > len(history) // 4:
            continue
        common = _explained(ratio, phase, number)
        cell = code * number + phase
        grouped = _explained(ratio, cell, size * number)
        cells = len(np.unique(cell))
        if len(ratio) <= cells:
            continue
        everything = float(ratio @ ratio)
        noise = (everything - grouped) / (len(ratio) - cells)
        gain = (grouped - common - (cells - number) * noise) / max(everything - common, 1e-12)
        if gain > best:
            best, chosen = gain, name
    return chosen


def _explained(values: NDArray, cell: NDArray[np.int64], size: int) -> float:
    total = np.bincount(cell, values, size)
    number = np.bincount(cell, minlength=size)
    return float(np.sum(total**2 / np.maximum(number, 1)))
