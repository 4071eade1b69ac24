"""Totals of groups of series by period, from which causal group features are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel

Values = NDArray[np.float64]
BLOCK = 2_000_000
QUANTITIES = ("value", "count", "now", "before", "change")


@dataclass(frozen=True)
class GroupTables:
    """Running totals over periods of the groups of one grouping.

    ``value``, ``count``: sum and number of observed values. ``now``, ``before``, ``change``: over
    the series that were observed both in a period and a season earlier, the sums of the value, of
    the value a season earlier and of the absolute difference; comparing only pairs keeps entering
    and leaving series from looking like growth.

    Args:
        first: period number of the first column.
        running: name -> (G, P + 1) running sums; group 0 is the unknown one.
    """

    first: int
    running: dict[str, Values]

    def total(
        self, name: str, groups: NDArray, first: NDArray, last: NDArray
    ) -> NDArray[np.float64]:
        """Sum (B,) over periods ``first`` to ``last`` inclusive for groups (B,)."""
        table = self.running[name]
        size = table.shape[1] - 1
        end = np.clip(last - self.first + 1, 0, size)
        begin = np.minimum(np.clip(first - self.first, 0, size), end)
        return table[groups, end] - table[groups, begin]

    def continued(self, newer: GroupTables) -> GroupTables:
        """These totals, and another panel's where these have no observation.

        So the features of a few series still rest on all that were trained on; only periods after
        the fit come from the series at hand.
        """
        first = min(self.first, newer.first)
        last = max(t.first + t.running["count"].shape[1] - 1 for t in (self, newer))
        mine, theirs = self._sums(first, last), newer._sums(first, last)
        missing = (mine["count"] == 0) & (theirs["count"] > 0)
        if not missing.any():
            return self
        return GroupTables(
            first, {n: _running(np.where(missing, theirs[n], mine[n])) for n in mine}
        )

    def _sums(self, first: int, last: int) -> dict[str, Values]:
        """Totals (G, last - first) of single periods."""
        return {
            name: np.pad(
                np.diff(table, axis=1),
                ((0, 0), (self.first - first, last - self.first - table.shape[1] + 1)),
            )
            for name, table in self.running.items()
        }

    def to_arrays(self, prefix: str) -> dict[str, NDArray]:
        """The tables by name, for saving."""
        tables = {f"{prefix}.{name}": table for name, table in self.running.items()}
        return {f"{prefix}.first": np.array([self.first]), **tables}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], prefix: str) -> GroupTables:
        """The inverse of :meth:`to_arrays`."""
        return cls(
            int(arrays[f"{prefix}.first"][0]),
            {name: np.asarray(arrays[f"{prefix}.{name}"]) for name in QUANTITIES},
        )


def group_tables(
    panel: Panel, codes: dict[str, tuple[NDArray[np.int32], int]], season: int
) -> dict[str, GroupTables]:
    """Totals of every grouping, in one pass over the panel.

    Args:
        panel: whose observations up to its ends are summed.
        codes: name -> (codes (N,), number of codes including 0).
        season: m.
    """
    filled = panel.lengths > 0
    first = int(panel.starts[filled].min()) if filled.any() else 0
    size = int(panel.ends[filled].max()) - first + 1 if filled.any() else 1
    tables = {key: {n: np.zeros((g, size)) for n in QUANTITIES} for key, (_, g) in codes.items()}
    length = max(1, int(panel.lengths.max(initial=1)))
    block = max(1, BLOCK // length)
    for begin in range(0, len(panel), block):
        rows = np.arange(begin, min(begin + block, len(panel)))
        stops = np.full(len(rows), length, np.int64)
        y = panel.windows(rows, stops, length).astype(np.float64)
        if panel.censored is not None:
            y[panel.censored_windows(rows, stops, length)] = np.nan
        before = np.full_like(y, np.nan)
        before[:, season:] = y[:, : max(0, length - season)]
        seen, both = np.isfinite(y), np.isfinite(y) & np.isfinite(before)
        parts = {
            "value": (seen, y), "count": (seen, np.ones_like(y)), "now": (both, y),
            "before": (both, before), "change": (both, np.abs(y - before)),
        }  # fmt: skip
        columns = panel.starts[rows][:, None] - first + np.arange(length)[None, :]
        for key, (code, groups) in codes.items():
            cells = code[rows][:, None].astype(np.int64) * size + columns
            for name, (where, values) in parts.items():
                added = np.bincount(cells[where], values[where], minlength=groups * size)
                tables[key][name] += added.reshape(groups, size)
    return {
        key: GroupTables(first, {n: _running(values) for n, values in table.items()})
        for key, table in tables.items()
    }


def _running(values: Values) -> Values:
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
