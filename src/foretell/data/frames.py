"""From a long table to a panel and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, DataNote, Panel
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
    absent = [c for c in needed if c not in table.columns]
    if future is not None:
        absent = [c for c in absent if not (c in known and c in future.columns)]
    if absent:
        raise DataError(
            f"columns {absent} are missing",
            file=source,
            hint=f"The table has {table.columns}; name others by argument",
        )
    if table.height == 0:
        raise DataError("the table has no rows", file=source, hint="Give at least one observation")
    columns = [c for c in needed if c in table.columns]
    table = table.select(columns).with_row_index("__row")
    table = _with_numbers(table, [c for c in numeric if c in table.columns], source)
    table = _with_times(table, time_column, source)
    if table[id_column].null_count():
        row = int(table.filter(pl.col(id_column).is_null())["__row"][0])
        raise DataError(
            "the series has no name", file=source, column=id_column, row=row, hint="Fill the id"
        )
    table = table.with_columns(pl.col(id_column).cast(pl.String))
    order = table.select(pl.col(id_column).unique(maintain_order=True)).with_row_index("__series")
    table = table.join(order, on=id_column).sort("__series", time_column)
    series = table["__series"].to_numpy().astype(np.int64)
    times = table[time_column].to_numpy()
    rows = table["__row"].to_numpy()
    names = order[id_column].to_numpy().astype(object)
    _refuse_duplicates(series, times, rows, names, time_column, source)
    grid = _grid(frequency, times, series)
    _refuse_off_grid(grid, times, series, rows, names, time_column, source)
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
        flags[place] = table[censored].cast(pl.Boolean).fill_null(False).to_numpy()
    notes = []
    gaps = total - len(series)
    if gaps:
        concerned = int((np.bincount(series) < lengths).sum())
        text = f"{gaps} missing periods in {concerned} series are treated as not observed"
        notes.append(DataNote("gap", text, gaps))
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
        panel = with_static(panel, static, id_column, source=source)
    return panel


def with_known(
    panel: Panel,
    history: pl.DataFrame,
    future: pl.DataFrame | None,
    names: Sequence[str],
    id_column: str,
    time_column: str,
    *,
    events: Sequence[str] = (),
    source: str | None = None,
) -> Panel:
    """Lays known covariates on the panel's grid, history and future together.

    Args:
        panel: the panel they belong to.
        history: id, time and the covariates of the observed rows.
        future: as in :func:`from_polars`.
        names: the covariates.
        id_column: names the series.
        time_column: a column of dates of the panel's grid.
        events: those of ``names`` that are event indicators.
        source: file or table name for messages.
    """
    lengths = panel.lengths.copy()
    everywhere: pl.DataFrame | None = None
    parts = [history]
    if future is not None:
        future = _with_numbers(future, [n for n in names if n in future.columns], source)
        future = _with_times(future, time_column, source)
        periods = panel.frequency.index(future[time_column].to_numpy())
        if id_column in future.columns:
            future = future.with_columns(pl.col(id_column).cast(pl.String))
            rows = _rows(panel, future[id_column])
            held = rows >= 0
            np.maximum.at(lengths, rows[held], periods[held] - panel.starts[rows[held]] + 1)
            parts = [future, history]
        else:
            everywhere = future
            lengths = np.maximum(lengths, periods.max() - panel.starts + 1)
    begins = np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
    flats = {name: np.full(int(lengths.sum()), np.nan, np.float32) for name in names}
    if everywhere is not None:
        periods = panel.frequency.index(everywhere[time_column].to_numpy())
        first, size = periods.min(), int(periods.max() - periods.min() + 1)
        step_periods = np.repeat(panel.starts - begins, lengths) + np.arange(len(flats[names[0]]))
        inside = (step_periods >= first) & (step_periods < first + size)
        for name in set(names) & set(everywhere.columns):
            by_period = np.full(size, np.nan, np.float32)
            by_period[periods - first] = everywhere[name].to_numpy()
            flats[name][inside] = by_period[step_periods[inside] - first]
    for frame in parts:
        rows = _rows(panel, frame[id_column])
        steps = panel.frequency.index(frame[time_column].to_numpy()) - panel.starts[rows]
        inside = (rows >= 0) & (steps >= 0) & (steps < lengths[rows])
        place = begins[rows] + steps
        for name in set(names) & set(frame.columns):
            values = frame[name].to_numpy().astype(np.float32)
            use = inside & ~np.isnan(values)
            flats[name][place[use]] = values[use]
    return replace(
        panel, known=flats, known_begins=begins, known_lengths=lengths, events=tuple(events)
    )


def _rows(panel: Panel, ids: pl.Series) -> NDArray[np.int64]:
    names = pl.DataFrame({"id": pl.Series([str(i) for i in panel.ids], dtype=pl.String)})
    names = names.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"))
    found = ids.alias("id").to_frame().join(names, on="id", how="left", maintain_order="left")
    return found["row"].fill_null(-1).to_numpy()


def with_static(
    panel: Panel, static: pl.DataFrame, id_column: str, *, source: str | None = None
) -> Panel:
    """Adds attributes of the series: text becomes categorical, numbers real.

    Raises:
        DataError: an id repeats or a series of the panel is missing.
    """
    static = static.with_columns(pl.col(id_column).cast(pl.String))
    repeated = static.filter(pl.col(id_column).is_duplicated())
    if repeated.height:
        raise DataError(
            "the static table has a series twice",
            file=source,
            column=id_column,
            series=str(repeated[id_column][0]),
            hint="Give one row a series",
        )
    frame = pl.DataFrame({id_column: [str(i) for i in panel.ids]})
    missing = frame.join(static, on=id_column, how="anti")
    if missing.height:
        raise DataError(
            f"{missing.height} series are missing from the static table",
            file=source,
            column=id_column,
            series=str(missing[id_column][0]),
            hint="Give one row a series",
        )
    frame = frame.join(static, on=id_column, how="left", maintain_order="left")
    categorical, real = dict(panel.static_categorical), dict(panel.static_real)
    for name in frame.columns:
        if name == id_column:
            continue
        if frame[name].dtype.is_numeric():
            real[name] = frame[name].cast(pl.Float32).to_numpy()
        else:
            categorical[name] = Categorical.from_values(frame[name].cast(pl.String).to_list())
    return replace(panel, static_categorical=categorical, static_real=real)


def to_polars(
    panel: Panel,
    *,
    id_column: str = "unique_id",
    time_column: str = "ds",
    target_column: str = "y",
) -> pl.DataFrame:
    """The panel as a long table, unobserved steps as null."""
    rows = np.repeat(np.arange(len(panel)), panel.lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(panel.lengths) - panel.lengths, panel.lengths)
    flat = panel.begins[rows] + within
    columns: dict[str, object] = {
        id_column: panel.ids[rows].astype(str),
        time_column: panel.frequency.time(panel.starts[rows] + within),
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


def _with_numbers(
    table: pl.DataFrame, columns: Sequence[str], source: str | None
) -> pl.DataFrame:
    for column in columns:
        dtype = table[column].dtype
        if dtype == pl.Boolean or dtype.is_decimal():
            table = table.with_columns(pl.col(column).cast(pl.Float64))
        elif dtype == pl.Null:
            table = table.with_columns(pl.col(column).cast(pl.Float64))
        elif not dtype.is_numeric():
            numbers = table[column].cast(pl.String).cast(pl.Float64, strict=False)
            wrong = numbers.is_null() & table[column].is_not_null()
            row = int(wrong.arg_max() or 0)
            value = table[column][row] if wrong.any() else table[column].drop_nulls()[0]
            raise DataError(
                f"column {column!r} holds text ({value!r}) where numbers are needed",
                file=source,
                column=column,
                row=row,
                hint="Convert it to numbers first; leave unknown values empty",
            )
        table = table.with_columns(pl.col(column).cast(pl.Float64).fill_nan(None))
        infinite = table[column].is_infinite().fill_null(False)
        if infinite.any():
            raise DataError(
                "the value is infinite",
                file=source,
                column=column,
                row=int(infinite.arg_max() or 0),
                hint="Leave it empty if it is not known",
            )
    return table


def _with_times(table: pl.DataFrame, column: str, source: str | None) -> pl.DataFrame:
    times = table[column]
    if times.dtype == pl.String:
        parsed = times.str.to_datetime(time_unit="us", strict=False, time_zone=None)
        wrong = parsed.is_null() & times.is_not_null()
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise DataError(
                f"{times[row]!r} is not a date",
                file=source,
                column=column,
                row=row,
                hint="Use ISO 8601, e.g. 2012-10-26 or 2012-10-26 13:00",
            )
        times = parsed
    if times.dtype == pl.Date:
        times = times.cast(pl.Datetime("us"))
    elif isinstance(times.dtype, pl.Datetime):
        if times.dtype.time_zone is not None:
            local = times.dt.replace_time_zone(None)
            whole_days = (local.dt.truncate("1d") == local).all()
            times = local if whole_days else times.dt.convert_time_zone("UTC")
            times = times.dt.replace_time_zone(None)
        times = times.dt.cast_time_unit("us")
    elif not times.dtype.is_integer():
        raise DataError(
            f"column {column!r} is {times.dtype}, not a date, a datetime or an integer",
            file=source,
            column=column,
            hint="Convert it first",
        )
    if times.null_count():
        raise DataError(
            "the date is missing",
            file=source,
            column=column,
            row=int(times.is_null().arg_max() or 0),
            hint="Every row needs one",
        )
    return table.with_columns(times.alias(column))


def _grid(
    frequency: str | Frequency | None, times: NDArray, series: NDArray[np.int64]
) -> Frequency:
    if isinstance(frequency, Frequency):
        return frequency
    if np.issubdtype(times.dtype, np.integer):
        return Frequency()
    if frequency is not None:
        return Frequency.parse(frequency, example=times[0])
    return Frequency.infer(times, series)


def _refuse_duplicates(
    series: NDArray[np.int64],
    times: NDArray,
    rows: NDArray,
    names: NDArray,
    column: str,
    source: str | None,
) -> None:
    same = np.flatnonzero((series[1:] == series[:-1]) & (times[1:] == times[:-1]))
    if same.size:
        i = int(same[0]) + 1
        raise DataError(
            f"{same.size} rows repeat a date of their series, first {times[i]}",
            file=source,
            column=column,
            series=str(names[series[i]]),
            row=int(rows[i]),
            hint="Sum or drop the repeated rows first",
        )


def _refuse_off_grid(
    grid: Frequency,
    times: NDArray,
    series: NDArray[np.int64],
    rows: NDArray,
    names: NDArray,
    column: str,
    source: str | None,
) -> None:
    off = np.flatnonzero(~grid.aligned(times))
    if off.size:
        i = int(off[0])
        raise DataError(
            f"{off.size} dates lie off the grid {grid.alias!r}, first {times[i]}",
            file=source,
            column=column,
            series=str(names[series[i]]),
            row=int(rows[i]),
            hint="Use one frequency for the whole table, or pass freq=",
        )
