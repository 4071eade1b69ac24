"""The features of a series' own past, of its season, its statics and its groups."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from foretell.learners.demand.features.groups import GroupTables
from foretell.learners.demand.features.rows import RowView, ratio

Columns = dict[str, NDArray[np.float64]]


class Feature(ABC):
    """One entry of a feature pack: a few columns that belong together.

    A product line adds its own by sub-classing: read through the accessors of
    :class:`RowView`, which answer NaN for what was not known at the origin.
    """

    @abstractmethod
    def compute(self, rows: RowView) -> Columns:
        """Columns (B,) by name, NaN where a feature does not apply.

        The names depend on the panel's columns only, never on the rows.
        """


class SeasonalLags(Feature):
    """Values k-aligned one season before the target, its neighbours, and two seasons before.

    In units of the row's scale. ``lag`` is the reference itself; ``lag_smooth`` the mean over the
    neighbourhood; ``lag_lift`` is the reference relative to the level around it. Each longer
    season (a week of hours) gives one more lag.
    """

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        m, scale = rows.season, rows.scale
        step = rows.reference_step
        columns = {
            "lag": rows.reference / scale,
            "lag_before": rows.value(step - 1) / scale,
            "lag_after": rows.value(rows.lagged(m, 1)) / scale,
            "lag_twice": rows.value(step - m) / scale,
        }
        columns["lag_smooth"] = rows.mean(step + 1, 3) / scale
        around = max(3, m // 4)
        columns["lag_lift"] = np.minimum(
            ratio(rows.reference, rows.mean(step + around // 2, around)), 20.0
        )
        for season in rows.seasons[1:]:
            columns[f"lag_{season}"] = rows.value(rows.lagged(season)) / scale
        return columns


class RecentLevels(Feature):
    """Means over recent windows, share of nonzero values and slope, in units of the scale."""

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        t, scale = rows.origins, rows.scale
        columns = {f"mean_{w}": rows.mean(t, w) / scale for w in rows.windows}
        middle = rows.windows[len(rows.windows) // 2]
        longest = rows.windows[-1]
        columns["nonzero_share"] = ratio(
            rows.sum("positive", t, longest), rows.sum("count", t, longest)
        )
        n = rows.sum("count", t, middle)
        x, xx = rows.sum("step", t, middle), rows.sum("step2", t, middle)
        y, xy = rows.sum("y", t, middle), rows.sum("step_y", t, middle)
        spread = n * xx - x * x
        slope = np.where(n >= 3, ratio(n * xy - x * y, np.where(spread > 0.5, spread, 0.0)), np.nan)
        columns["slope"] = slope * middle / scale
        columns["log_scale"] = np.log(np.maximum(scale, 1e-9))
        columns["age"] = rows.sum("count", t, t + 1)
        return columns


class YearOnYear(Feature):
    """How the level stands to that of a season earlier, and the reference carried along with it."""

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        t, m = rows.origins, rows.season
        columns: Columns = {}
        for window in _season_windows(rows):
            now, before = rows.mean(t, window), rows.mean(t - m, window)
            complete = rows.sum("count", t - m, window) >= window / 2
            growth = np.clip(ratio(np.where(complete, now, np.nan), before), 0.1, 10.0)
            columns[f"growth_{window}"] = growth
            columns[f"lag_grown_{window}"] = rows.reference * growth / rows.scale
        around = rows.mean(rows.reference_step + m // 8, 2 * (m // 8) + 1)
        columns["level_to_lag_level"] = np.minimum(ratio(rows.level, around), 20.0)
        return columns


class Volatility(Feature):
    """How far values stray: from one step to the next, from a season earlier, from their mean."""

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        t, m = rows.origins, rows.season
        window = max(8, m // 2)
        step = ratio(rows.sum("change:1", t, window), rows.sum("change_count:1", t, window))
        season = ratio(rows.sum(f"change:{m}", t, window), rows.sum(f"change_count:{m}", t, window))
        n = rows.sum("count", t, window)
        mean = ratio(rows.sum("y", t, window), n)
        square = ratio(rows.sum("square", t, window), n)
        deviation = np.sqrt(np.maximum(square - mean * mean, 0.0))
        return {
            "volatility_step": step / rows.scale,
            "volatility_season": season / rows.scale,
            "volatility_level": deviation / rows.scale,
        }


class Horizon(Feature):
    """The number of steps ahead k."""

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        return {"horizon": rows.horizons.astype(np.float64)}


class Statics(Feature):
    """Static attributes: categories by the rank of their mean log scale, and real values.

    Ranks come from the training data only; an unknown category is absent.
    """

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        columns: Columns = {}
        for name, codes in rows.codes.items():
            columns[f"static_{name}"] = rows.ranks[name][codes[rows.local]]
        for name, values in rows.panel.static_real.items():
            columns[f"static_{name}"] = values[rows.history.series][rows.local].astype(np.float64)
        return columns


class GroupFeatures(Feature):
    """What the groups (department, store, category, all) do, as known at the origin.

    Growth of the group's paired totals over a season, volatility of the pairs, and the group's
    seasonal index at the period of the reference: its mean value then relative to that over the
    season up to the origin.

    Args:
        least: groupings with fewer groups are left out. What few groups do together says little
            but which period it is, and a network learns such dates by heart.
    """

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        columns: Columns = {}
        now = rows.periods(rows.origins)
        reference = rows.periods(rows.reference_step)
        m = rows.season
        for name, tables in rows.groups.items():
            if max(1, len(tables.running["count"]) - 1) < self.least:
                continue
            codes = rows.codes[name][rows.local] if name in rows.codes else None
            groups = np.zeros(len(rows), np.int64) if codes is None else codes.astype(np.int64)
            absent = np.zeros(len(rows), bool) if codes is None else codes == 0

            def total(
                what: str,
                last: NDArray[np.int64],
                window: int,
                tables: GroupTables = tables,
                groups: NDArray[np.int64] = groups,
            ) -> NDArray[np.float64]:
                last = np.minimum(last, now)
                return tables.total(what, groups, last - window + 1, last)

            found: Columns = {}
            for window in _season_windows(rows)[:2]:
                found[f"growth_{window}"] = np.clip(
                    ratio(total("now", now, window), total("before", now, window)), 0.1, 10.0
                )
            half = max(4, m // 2)
            found["volatility"] = ratio(total("change", now, half), total("now", now, half))
            season = ratio(total("value", now, m), total("count", now, m))
            at = ratio(total("value", reference, 1), total("count", reference, 1))
            index = np.clip(ratio(at, season), 0.0, 20.0)
            found["index"] = index
            near = ratio(total("value", reference + 1, 3), total("count", reference + 1, 3))
            found["index_smooth"] = np.clip(ratio(near, season), 0.0, 20.0)
            step, local = rows.aligned_step, rows.scale
            aligned = rows.periods(step)
            held = ratio(total("value", aligned, 1), total("count", aligned, 1))
            found["index_aligned"] = np.where(
                step >= 0, np.clip(ratio(held, season), 0.0, 20.0), np.nan
            )
            found["level_index"] = index * rows.mean(rows.origins, m) / local
            for key, column in found.items():
                columns[f"{name}_{key}"] = np.where(absent, np.nan, column)
        return columns


def _season_windows(rows: RowView) -> list[int]:
    m = rows.season
    return sorted({max(1, round(m / 13)), max(2, m // 4), max(3, m)})
