"""What was known of each series at a forecast's origin: the denominators and segments of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import ParameterError

_CELLS_AT_ONCE = 4_000_000


class History(NamedTuple):
    """Statistics of (M,) series up to and including their cutoffs.

    ``scale`` is the mean ``|y[t] - y[t - m]|`` over pairs that are both observed, ``mean`` the mean
    observed value, both NaN without one; ``observed`` the number of observed steps.
    """

    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    observed: NDArray[np.int64]


def rows_of(panel: Panel, ids: Sequence[str] | NDArray) -> NDArray[np.int64]:
    """Positions of series in the panel (M,).

    Raises:
        ParameterError: lists the names that the panel does not hold.
    """
    rows = np.array([panel.positions.get(str(i), -1) for i in ids], np.int64)
    if np.any(rows < 0):
        names = sorted({str(i) for i in np.asarray(ids, object)[rows < 0]})
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ParameterError(f"{len(names)} series of the forecast are not in the panel: {shown}")
    return rows


def history_at(
    panel: Panel, rows: NDArray[np.int64], cutoffs: NDArray[np.int64], season: int
) -> History:
    """Statistics of series ``rows`` (M,) up to period numbers ``cutoffs`` (M,).

    Args:
        panel: the series, which may go on after the cutoffs.
        rows: positions in the panel; one position may come with several cutoffs.
        cutoffs: last period that counts as known.
        season: the lag m of the scale, in periods.
    """
    if season < 1:
        raise ParameterError(f"the season must be at least 1 period, not {season}")
    size = len(rows)
    scale, mean = np.full(size, np.nan), np.full(size, np.nan)
    observed = np.zeros(size, np.int64)
    stops = np.clip(np.asarray(cutoffs, np.int64) - panel.starts[rows] + 1, 0, panel.lengths[rows])
    for part in _parts(panel.lengths[rows]):
        series, where = np.unique(rows[part], return_inverse=True)
        length = int(panel.lengths[series].max(initial=0))
        if length == 0:
            continue
        # Left-aligned, so that column s - 1 of a running sum holds the first s steps.
        full = np.full(len(series), length, np.int64)
        values = panel.windows(series, full, length).astype(np.float64)
        count = np.cumsum(~np.isnan(values), axis=1)
        total = np.cumsum(np.nan_to_num(values), axis=1)
        column = np.maximum(stops[part] - 1, 0)
        begun = stops[part] > 0
        seen = np.where(begun, count[where, column], 0)
        observed[part] = seen
        mean[part] = _ratio(total[where, column], seen)
        if length > season:
            steps = np.abs(values[:, season:] - values[:, :-season])
            pairs = np.cumsum(~np.isnan(steps), axis=1)
            sums = np.cumsum(np.nan_to_num(steps), axis=1)
            column = np.maximum(stops[part] - season - 1, 0)
            paired = np.where(stops[part] > season, pairs[where, column], 0)
            scale[part] = _ratio(sums[where, column], paired)
    return History(scale, mean, observed)


def _parts(lengths: NDArray[np.int64]) -> list[slice]:
    """Cuts (M,) rows into slices whose padded cells stay within the memory set aside."""
    longest = max(1, int(lengths.max(initial=1)))
    step = max(1, _CELLS_AT_ONCE // longest)
    return [slice(i, i + step) for i in range(0, len(lengths), step)]


def _ratio(total: NDArray, count: NDArray) -> NDArray[np.float64]:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
