"""What a feature may look at: the history of a block of series, seen from many origins.

Every accessor of :class:`RowView` answers NaN for a step after the origin, so that a feature
written with them cannot look ahead by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.learners.demand.features.calendar import easter_periods
from foretell.learners.demand.features.groups import GroupTables

Values = NDArray[np.float64]
Steps = NDArray[np.int64]
FAR = 1_000_000_000


class History:
    """Dense, left-aligned copies (S, T) of a few series, with running sums over time.

    Censored steps count as not observed: their sales are not the demand.

    Args:
        panel: where the series come from.
        series: (S,) positions in the panel.
        horizon: steps after the last one at which known covariates are asked for.
    """

    def __init__(self, panel: Panel, series: Steps, horizon: int) -> None:
        self.panel, self.series, self.horizon = panel, series, horizon
        self.lengths = panel.lengths[series]
        self.starts = panel.starts[series]
        self.length = int(self.lengths.max(initial=1)) or 1
        self.stops = np.full(len(series), self.length, np.int64)
        self.y = panel.windows(series, self.stops, self.length).astype(np.float64)
        if panel.censored is not None:
            self.y[panel.censored_windows(series, self.stops, self.length)] = np.nan
        self._sums: dict[str, Values] = {}
        self._known: dict[str, Values] = {}
        self._past: dict[str, Values] = {}
        self._events: dict[str, tuple[Steps, Steps]] = {}

    def sums(self, name: str) -> Values:
        """Running sums (S, T + 1) of a per-step quantity, zero where it is not observed.

        ``y``, ``count``, ``absolute``, ``positive``, ``step`` and ``step2`` (of observed steps),
        ``step_y``, ``square``, ``change`` (absolute, from one step to the next) and
        ``change:m`` / ``change_count:m`` (over m steps).
        """
        if name not in self._sums:
            self._sums[name] = _running(self._quantity(name))
        return self._sums[name]

    def _quantity(self, name: str) -> Values:
        seen = np.isfinite(self.y)
        steps = np.arange(self.length, dtype=np.float64)[None, :]
        if name == "count":
            return seen.astype(np.float64)
        if name == "step":
            return np.where(seen, steps, 0.0)
        if name == "step2":
            return np.where(seen, steps**2, 0.0)
        y = np.where(seen, self.y, 0.0)
        if name == "y":
            return y
        if name == "absolute":
            return np.abs(y)
        if name == "positive":
            return (y > 0).astype(np.float64)
        if name == "step_y":
            return steps * y
        if name == "square":
            return y * y
        kind, lag = name.split(":")
        shift = int(lag)
        change = np.full(self.y.shape, np.nan)
        change[:, shift:] = np.abs(self.y[:, shift:] - self.y[:, : max(0, self.length - shift)])
        both = np.isfinite(change)
        return both.astype(np.float64) if kind == "change_count" else np.where(both, change, 0.0)

    def known(self, name: str) -> Values:
        """A known covariate (S, T + horizon)."""
        if name not in self._known:
            stop = self.length + self.horizon
            stops = np.full(len(self.series), stop, np.int64)
            self._known[name] = self.panel.known_windows(name, self.series, stops, stop).astype(
                np.float64
            )
        return self._known[name]

    def past(self, name: str) -> Values:
        """A past covariate (S, T)."""
        if name not in self._past:
            window = self.panel.past_windows(name, self.series, self.stops, self.length)
            self._past[name] = window.astype(np.float64)
        return self._past[name]

    def event(self, name: str, reach: int) -> tuple[Steps, Steps]:
        """Last occurrence at or before and first at or after each step, two (S, T + h + reach).

        ``easter`` is computed from the calendar unless the panel brings an event of that name.
        Far outside the series where there is none.
        """
        key = f"{name}/{reach}"
        if key not in self._events:
            size = self.length + self.horizon + reach
            steps = np.arange(size)[None, :]
            if name in self.panel.known:
                stops = np.full(len(self.series), size, np.int64)
                flags = self.panel.known_windows(name, self.series, stops, size) > 0.5
            else:
                first, last = int(self.starts.min()), int(self.starts.max()) + size
                dates = easter_periods(self.panel.frequency, first, last)
                flags = np.isin(self.starts[:, None] + steps, dates)
            before = np.maximum.accumulate(np.where(flags, steps, -FAR), axis=1)
            after = np.minimum.accumulate(np.where(flags, steps, FAR)[:, ::-1], axis=1)[:, ::-1]
            self._events[key] = (before, after)
        return self._events[key]

    def running(self, key: str, values: Values) -> tuple[Values, Values]:
        """Running sums and counts (S, T + 1) of any array (S, T) with NaN, kept under ``key``."""
        if key not in self._sums:
            seen = np.isfinite(values)
            self._sums[key] = _running(np.where(seen, values, 0.0))
            self._sums[f"{key}/count"] = _running(seen.astype(np.float64))
        return self._sums[key], self._sums[f"{key}/count"]


class RowView:
    """B rows (series, origin, horizon) and everything that was known at their origins.

    Args:
        history: of the block of series.
        local: (B,) position of each row's series in the block.
        origins: (B,) last known step of each row.
        horizons: (B,) k >= 1; the target is step ``origins + horizons``.
        seasons: season lengths in steps, the main one first.
        windows: lengths of the level windows, ascending.
        scale_window: steps over which a row's scale is taken.
        floor: smallest scale.
        fallback: (S,) scale of each series of the block where nothing was observed yet.
        event_names: the events to look for.
        reach: farthest distance in steps at which an event is felt.
        groups: causal tables of group totals.
        codes: name -> (S,) category codes of the block's series, 0 unknown.
        ranks: name -> (C + 1,) category code to a meaningful order.
    """

    def __init__(
        self,
        history: History,
        local: Steps,
        origins: Steps,
        horizons: Steps,
        *,
        seasons: tuple[int, ...],
        windows: tuple[int, ...],
        scale_window: int,
        floor: float,
        fallback: Values,
        event_names: tuple[str, ...],
        reach: int,
        groups: Mapping[str, GroupTables],
        codes: Mapping[str, NDArray[np.int32]],
        ranks: Mapping[str, Values],
    ) -> None:
        self.history, self.local = history, local
        self.origins, self.horizons = origins, horizons
        self.targets = origins + horizons
        self.seasons, self.windows = seasons, windows
        self.scale_window, self.floor, self._fallback = scale_window, floor, fallback
        self.event_names, self.reach = event_names, reach
        self.groups, self.codes, self.ranks = groups, codes, ranks

    def __len__(self) -> int:
        return len(self.local)

    @property
    def season(self) -> int:
        """The main season length m."""
        return self.seasons[0]

    @property
    def panel(self) -> Panel:
        """The panel: for names of columns; its values are read through the accessors."""
        return self.history.panel

    def periods(self, steps: Steps) -> Steps:
        """Absolute period numbers (B,) of steps (B,)."""
        return self.history.starts[self.local] + steps

    def at(self, values: Values, steps: Steps) -> Values:
        """Entries (B,) of an array over time (S, T), NaN after the origin and off the ends."""
        return self.ahead(values, np.where(steps <= self.origins, steps, -1))

    def ahead(self, values: Values, steps: Steps) -> Values:
        """As :meth:`at` for what is known ahead: also after the origin."""
        inside = (steps >= 0) & (steps < values.shape[1])
        return np.where(inside, values[self.local, np.where(inside, steps, 0)], np.nan)

    def value(self, steps: Steps) -> Values:
        """The series' own values (B,) at steps (B,)."""
        return self.at(self.history.y, steps)

    def sum(self, name: str, stops: Steps, window: int | Steps) -> Values:
        """Sum (B,) of a :meth:`History.sums` quantity over the ``window`` steps up to ``stops``.

        ``stops`` is included; what lies after the origin is left out.
        """
        return self.between(self.history.sums(name), stops - window + 1, stops)

    def between(self, running: Values, first: Steps, last: Steps) -> Values:
        """Difference (B,) of running sums (S, T + 1): steps ``first`` to ``last`` inclusive."""
        end = np.clip(np.minimum(last, self.origins) + 1, 0, running.shape[1] - 1)
        begin = np.minimum(np.clip(first, 0, running.shape[1] - 1), end)
        return running[self.local, end] - running[self.local, begin]

    def mean(self, stops: Steps, window: int | Steps, name: str = "y") -> Values:
        """Mean (B,) of the observed values in a window; NaN without one."""
        return ratio(self.sum(name, stops, window), self.sum("count", stops, window))

    @cached_property
    def scale(self) -> Values:
        """The row's scale s (B,): mean absolute value of the last steps, at least the floor.

        Of the whole past where the window holds nothing, of the fallback where the past does not.
        """
        scale = self.mean(self.origins, self.scale_window, "absolute")
        whole = self.mean(self.origins, self.origins + 1, "absolute")
        scale = np.where(np.isnan(scale) | (scale <= 0), whole, scale)
        scale = np.where(np.isnan(scale), self._fallback[self.local], scale)
        return np.maximum(scale, self.floor)

    def lagged(self, season: int, shift: int = 0) -> Steps:
        """The step (B,) a known multiple of a season before the target, moved by ``shift``.

        The smallest multiple that is not after the origin.
        """
        multiple = -(-(self.horizons + max(shift, 0)) // season)
        return self.targets - multiple * season + shift

    @cached_property
    def reference_step(self) -> Steps:
        """The k-aligned step (B,) a season before the target.

        A season further back where that step was not observed but an earlier one was.
        """
        step = self.lagged(self.season)
        for _ in range(2):
            earlier = step - self.season
            missing = np.isnan(self.value(step)) & ~np.isnan(self.value(earlier))
            step = np.where(missing, earlier, step)
        return step

    @cached_property
    def reference(self) -> Values:
        """The seasonal reference (B,), NaN where no season was observed."""
        return self.value(self.reference_step)

    @cached_property
    def level(self) -> Values:
        """A recent level (B,): mean of a quarter season; the scale where nothing was observed."""
        level = self.mean(self.origins, self.windows[len(self.windows) // 2])
        return np.where(np.isnan(level), self.scale, level)

    @cached_property
    def anchor(self) -> Values:
        """What the forecast is a correction of (B,): the seasonal reference, else the level."""
        return np.where(np.isnan(self.reference), self.level, self.reference)

    def event_distance(self, name: str, steps: Steps) -> Values:
        """Signed steps (B,) from the nearest occurrence to a step; NaN farther than the reach."""
        before, after = self.history.event(name, self.reach)
        inside = np.clip(steps, 0, before.shape[1] - 1)
        back = steps - before[self.local, inside]
        ahead = steps - after[self.local, inside]
        distance = np.where(back <= -ahead, back, ahead).astype(np.float64)
        return np.where(np.abs(distance) <= self.reach, distance, np.nan)

    def event_before(self, name: str, steps: Steps) -> Steps:
        """The last occurrence (B,) strictly before a step; negative where there is none."""
        before, _ = self.history.event(name, self.reach)
        inside = np.clip(steps - 1, 0, before.shape[1] - 1)
        return np.where(steps >= 1, before[self.local, inside], -FAR)

    @cached_property
    def aligned_step(self) -> Steps:
        """The step (B,) as far from its event's previous occurrence as the target is from it.

        Of the event nearest to the target; -1 where none is near or none was seen before.
        """
        result = np.full(len(self), -1, np.int64)
        nearest = np.full(len(self), np.inf)
        for name in self.event_names:
            distance = self.event_distance(name, self.targets)
            near = np.where(np.isnan(distance), np.inf, np.abs(distance))
            shift = np.nan_to_num(distance).astype(np.int64)
            occurrence = self.event_before(name, self.targets - shift)
            for _ in range(3):  # with frequent events the previous one may also lie ahead
                late = occurrence + shift > self.origins
                occurrence = np.where(late, self.event_before(name, occurrence), occurrence)
            step = occurrence + shift
            good = (near < nearest) & (step >= 0) & (step <= self.origins)
            result = np.where(good, step, np.where(near < nearest, -1, result))
            nearest = np.minimum(nearest, near)
        return result


def ratio(numerator: Values, denominator: Values) -> Values:
    """Quotient with NaN where the denominator is not positive: never infinite."""
    good = denominator > 0
    return np.where(good, numerator / np.where(good, denominator, 1.0), np.nan)


def _running(values: Values) -> Values:
    result = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=result[:, 1:])
    return result
