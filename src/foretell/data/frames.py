"""From a long table to a panel and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.columns import (
    grid_of,
    require_columns,
    with_flags,
    with_ids,
    with_numbers,
    with_times,
)
from foretell.data.covariates import with_known, with_static
from foretell.data.frequency import Frequency
from foretell.data.panel import DataNote, Panel, flat_steps
from foretell.data.quality import with_notes
from foretell.errors import DataError


def from_polars(
    table: pl.DataFrame,
    *,
    id_column: str = "unique_id",
    time_column: str = "ds",
    target_column: str = "y",
    past: Sequence[str] = (),
    known: Sequence[str] = (),
    events: Sequence[str] = (),
    censored: str | None = None,
    future: pl.DataFrame | None = None,
    static: pl.DataFrame | None = None,
    frequency: str | Frequency | None = None,
    source: str | None = None,
) -> Panel:
    """Builds a panel from a long table, one row a series and period.

    Gaps within a series become unobserved steps, never zeros.

    Args:
        table: columns id, time, target and covariates.
        id_column: names the series.
        time_column: a date, datetime or integer column.
        target_column: a numeric column; null means not observed.
        past: numeric columns that are known only up to the present.
        known: numeric columns that are known ahead.
        events: the columns among ``known`` that are 0/1 indicators of named events; they are
            added to ``known`` where they are missing from it.
        censored: boolean column, true where a stock-out cut the sales.
        future: further rows of the ``known`` columns, by id and time, or by time alone when they
            are the same for all series. They also fill the known columns within gaps.
        static: one row a series: the id column and attributes; text is categorical, numbers real.
        frequency: a pandas-style alias; inferred from the dates when ``None``.
        source: file or table name for messages.

    Raises:
        DataError: a column is missing or has the wrong type, dates repeat or lie off the grid,
            values are infinite. It names the column, the series and the row.
    """
    known = [*known, *[e for e in events if e not in known]]
    numeric = [target_column, *past, *known]
    needed = [id_column, time_column, *numeric, *([censored] if censored else [])]
    elsewhere = [] if future is None else [c for c in known if c in future.columns]
    require_columns(table, needed, source, elsewhere=elsewhere)
    if table.height == 0:
        raise DataError("the table has no rows", file=source, hint="Give at least one observation")
    columns = [c for c in needed if c in table.columns]
    table = table.select(columns)
    table = with_ids(table, id_column, source)
    present = [c for c in numeric if c in table.columns]
    table = with_numbers(table, present, source, id_column=id_column)
    table = with_times(table, time_column, source, within_days=_finer_than_days(frequency))
    if censored is not None:
        table = with_flags(table, censored, source)
    # Row and series numbers get names that no column of the table has.
    row, number = "\0row", "\0series"
    table = table.with_row_index(row)
    order = table.select(pl.col(id_column).unique(maintain_order=True)).with_row_index(number)
    table = table.join(order, on=id_column).sort(number, time_column)
    series = table[number].to_numpy().astype(np.int64)
    times = table[time_column].to_numpy()
    rows = table[row].to_numpy()
    names = order[id_column].to_numpy().astype(object)
    grid = grid_of(frequency, times, series, rows, names, time_column, source)
    periods = grid.index(times)

    first = np.flatnonzero(np.r_[True, series[1:] != series[:-1]])
    last = np.r_[first[1:], len(series)] - 1
    starts = periods[first]
    lengths = periods[last] - starts + 1
    begins = np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
    place = begins[series] + periods - starts[series]
    total = int(lengths.sum())

    def flat(column: str) -> NDArray[np.float32]:
        values = np.full(total, np.nan, np.float32)
        values[place] = table[column].to_numpy()
        return values

    flags = None
    if censored is not None:
        flags = np.zeros(total, bool)
        flags[place] = table[censored].to_numpy()
    notes = []
    gaps = total - len(series)
    if gaps:
        concerned = int((np.bincount(series) < lengths).sum())
        text = f"{gaps} missing periods in {concerned} series are treated as not observed"
        example = str(names[int(np.argmax(np.bincount(series) < lengths))])
        notes.append(DataNote("gap", text, gaps, example))
    unobserved = table[target_column].null_count()
    if unobserved:
        text = f"{unobserved} rows without {target_column} are treated as not observed"
        notes.append(DataNote("missing_target", text, unobserved))

    panel = Panel(
        names,
        grid,
        starts,
        begins,
        lengths,
        flat(target_column),
        censored=flags,
        past={name: flat(name) for name in past},
        notes=tuple(notes),
    )
    if known:
        history = table.select(id_column, time_column, *[c for c in known if c in table.columns])
        panel = with_known(
            panel, history, future, known, id_column, time_column, events=events, source=source
        )
    if static is not None:
        panel = with_static(panel, static, id_column, source="static table")
    return with_notes(panel)


def to_polars(
    panel: Panel,
    *,
    id_column: str = "unique_id",
    time_column: str = "ds",
    target_column: str = "y",
) -> pl.DataFrame:
    """The panel as a long table, unobserved steps as null.

    What is known beyond the target's end is in :func:`future_to_polars`, the attributes of the
    series in :func:`static_to_polars`: the three tables make the same panel again.
    """
    flat, within = flat_steps(panel.begins, panel.lengths)
    rows = np.repeat(np.arange(len(panel)), panel.lengths)
    columns: dict[str, object] = {
        **_keys(panel, rows, within, id_column, time_column),
        target_column: panel.target[flat],
    }
    if panel.censored is not None:
        columns["censored"] = panel.censored[flat]
    for name, values in panel.past.items():
        columns[name] = values[flat]
    for name, values in panel.known.items():
        columns[name] = values[panel.known_begins[rows] + within]
    numeric = [target_column, *panel.past, *panel.known]
    return pl.DataFrame(columns).with_columns(pl.col(numeric).fill_nan(None))


def future_to_polars(
    panel: Panel, *, id_column: str = "unique_id", time_column: str = "ds"
) -> pl.DataFrame:
    """What is known of each series beyond the target's end: id, time and known covariates."""
    ahead = np.maximum(panel.known_lengths - panel.lengths, 0) if panel.known else 0 * panel.lengths
    flat, within = flat_steps(panel.known_begins + panel.lengths, ahead)
    rows = np.repeat(np.arange(len(panel)), ahead)
    columns: dict[str, object] = {
        **_keys(panel, rows, panel.lengths[rows] + within, id_column, time_column),
        **{name: values[flat] for name, values in panel.known.items()},
    }
    return pl.DataFrame(columns).with_columns(pl.col(list(panel.known)).fill_nan(None))


def static_to_polars(panel: Panel, *, id_column: str = "unique_id") -> pl.DataFrame:
    """The attributes of the series, one row each, unknown ones as null."""
    categories = {
        name: pl.Series(category.values, dtype=pl.String)
        for name, category in panel.static_categorical.items()
    }
    return pl.DataFrame(
        {
            id_column: pl.Series([str(i) for i in panel.ids], dtype=pl.String),
            **categories,
            **dict(panel.static_real),
        }
    ).with_columns(pl.col(list(panel.static_real)).fill_nan(None))


def _keys(
    panel: Panel,
    rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    id_column: str,
    time_column: str,
) -> dict[str, object]:
    names = pl.Series([str(i) for i in panel.ids], dtype=pl.String)
    return {
        id_column: names.gather(rows),
        time_column: panel.frequency.time(panel.starts[rows] + steps),
    }


def _finer_than_days(frequency: str | Frequency | None) -> bool | None:
    if frequency is None:
        return None
    grid = Frequency.parse(frequency) if isinstance(frequency, str) else frequency
    return grid.kind == "fixed" and grid.step < 86_400_000_000
