"""Laying covariates that are known ahead, and attributes of the series, on a panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.columns import require_columns, shown, with_ids, with_numbers, with_times
from foretell.data.panel import Categorical, DataNote, Panel, flat_steps
from foretell.data.quality import with_notes
from foretell.errors import DataError, ParameterError


def with_known(
    panel: Panel,
    history: pl.DataFrame | None,
    future: pl.DataFrame | None,
    names: Sequence[str],
    id_column: str = "unique_id",
    time_column: str = "ds",
    *,
    events: Sequence[str] = (),
    source: str | None = None,
) -> Panel:
    """Lays known covariates on the panel's grid, history and future together.

    Where both give a value of a series and period, the history's holds.

    Args:
        panel: the panel they belong to; known covariates it had are replaced.
        history: id, time and the covariates of the observed rows.
        future: further rows, by id and time, or by time alone when they are the same for all
            series. They also fill the covariates within gaps.
        names: the covariates.
        id_column: names the series.
        time_column: a column of dates of the panel's grid.
        events: those of ``names`` that are event indicators.
        source: file or table name for messages.

    Raises:
        DataError: dates lie off the grid or repeat, values are no numbers, or a covariate is
            given nowhere.
    """
    given = set(history.columns if history is not None else ()) | set(
        future.columns if future is not None else ()
    )
    absent = [n for n in names if n not in given]
    if absent:
        raise DataError(
            f"the known covariates {absent} are given neither in the table nor in the future table",
            file=source,
            hint=f"The future table has {[] if future is None else future.columns}",
        )
    if future is not None and names and not set(names) & set(future.columns):
        raise DataError(
            f"the table has none of the known covariates {list(names)}",
            file="future table",
            hint=f"It has {future.columns[:20]}; call the columns there as in the history",
        )
    lengths = panel.lengths.copy()
    notes = []
    everywhere: tuple[pl.DataFrame, NDArray[np.int64]] | None = None
    by_series: list[tuple[pl.DataFrame, NDArray[np.int64], NDArray[np.int64]]] = []
    for frame, label in ((future, "future table"), (history, source)):
        if frame is None or frame.height == 0:
            continue
        frame, rows, periods = _placed(panel, frame, names, id_column, time_column, label)
        if rows is None:
            everywhere = (frame, periods)
            lengths = np.maximum(lengths, periods.max() - panel.starts + 1)
            continue
        held = rows >= 0
        if not held.all():
            count = frame.filter(pl.Series(~held))[id_column].n_unique()
            text = f"{count} series of the future table are not in the panel and were left out"
            notes.append(DataNote("unknown_series", text, count))
        np.maximum.at(lengths, rows[held], periods[held] - panel.starts[rows[held]] + 1)
        by_series.append((frame, rows, periods))
    begins = np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
    flats = {name: np.full(int(lengths.sum()), np.nan, np.float32) for name in names}
    if everywhere is not None:
        frame, periods = everywhere
        first, size = int(periods.min()), int(periods.max() - periods.min() + 1)
        step_periods = np.repeat(panel.starts - begins, lengths) + np.arange(lengths.sum())
        inside = (step_periods >= first) & (step_periods < first + size)
        for name in names:
            if name in frame.columns:
                by_period = np.full(size, np.nan, np.float32)
                by_period[periods - first] = frame[name].to_numpy()
                flats[name][inside] = by_period[step_periods[inside] - first]
    for frame, rows, periods in by_series:
        steps = periods - panel.starts[rows]
        inside = (rows >= 0) & (steps >= 0) & (steps < lengths[rows])
        place = begins[rows] + steps
        for name in names:
            if name in frame.columns:
                values = frame[name].to_numpy().astype(np.float32)
                use = inside & ~np.isnan(values)
                flats[name][place[use]] = values[use]
    return replace(
        panel,
        known=flats,
        known_begins=begins,
        known_lengths=lengths,
        events=tuple(events),
        notes=(*panel.notes, *notes),
    )


def _placed(
    panel: Panel,
    frame: pl.DataFrame,
    names: Sequence[str],
    id_column: str,
    time_column: str,
    source: str | None,
) -> tuple[pl.DataFrame, NDArray[np.int64] | None, NDArray[np.int64]]:
    """The checked frame, the panel's row of each of its rows (None: for all series), periods."""
    require_columns(frame, [time_column], source)
    grid = panel.frequency
    frame = with_numbers(
        frame, [n for n in names if n in frame.columns], source, id_column=id_column
    )
    fine = grid.kind == "fixed" and grid.step < 86_400_000_000
    frame = with_times(frame, time_column, source, within_days=fine)
    times = frame[time_column].to_numpy()
    own = id_column in frame.columns
    if own:
        frame = with_ids(frame, id_column, source)

    def error(problem: str, row: int, hint: str) -> DataError:
        return DataError(
            problem,
            file=source,
            column=time_column,
            series=str(frame[id_column][row]) if own else None,
            row=row,
            hint=hint,
        )

    if (grid.kind == "integer") != np.issubdtype(times.dtype, np.integer):
        raise error(
            f"column {time_column!r} does not match the panel's time",
            0,
            f"The panel has frequency {grid.alias!r}",
        )
    off = np.flatnonzero(~grid.aligned(times))
    if off.size:
        raise error(
            f"{off.size} dates lie off the panel's grid {grid.alias!r}, first "
            f"{shown(times[off[0]])}",
            int(off[0]),
            f"The panel ends at {shown(grid.time(panel.ends.max(keepdims=True))[0])}",
        )
    periods = grid.index(times)
    rows = rows_of(panel, frame[id_column]) if own else None
    repeated = _repeated(np.zeros_like(periods) if rows is None else rows, periods)
    if repeated.size:
        row = int(repeated[0])
        raise error(
            f"{repeated.size} rows repeat a date{' of their series' if own else ''}, "
            f"first {shown(times[row])}",
            row,
            "Give one row a period" if own else f"Give one row a period, or add {id_column!r}",
        )
    return frame, rows, periods


def _repeated(rows: NDArray[np.int64], periods: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places, in order, of what comes a second time; unknown series (row -1) do not count."""
    order = np.lexsort((periods, rows))
    rows, periods = rows[order], periods[order]
    same = (rows[1:] == rows[:-1]) & (periods[1:] == periods[:-1]) & (rows[1:] >= 0)
    return np.sort(order[1:][same])


def rows_of(panel: Panel, ids: pl.Series) -> NDArray[np.int64]:
    """Position in the panel of each name (R,), -1 where it is not there."""
    names = pl.DataFrame({"id": pl.Series([str(i) for i in panel.ids], dtype=pl.String)})
    names = names.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"))
    found = ids.alias("id").to_frame().join(names, on="id", how="left", maintain_order="left")
    return found["row"].fill_null(-1).to_numpy()


def with_static(
    panel: Panel,
    static: pl.DataFrame,
    id_column: str = "unique_id",
    *,
    source: str | None = None,
) -> Panel:
    """Adds attributes of the series: text becomes categorical, numbers real.

    An empty category becomes code 0 (unknown); an empty number stays NaN and is noted.

    Raises:
        DataError: an id repeats, a series of the panel is missing or a number is infinite.
    """
    require_columns(static, [id_column], source)
    static = with_ids(static, id_column, source)
    repeated = static.select(~pl.col(id_column).is_first_distinct()).to_series()
    if repeated.any():
        row = int(repeated.arg_max() or 0)
        raise DataError(
            "the static table has a series twice",
            file=source,
            column=id_column,
            series=str(static[id_column][row]),
            row=row,
            hint="Give one row a series",
        )
    frame = pl.DataFrame({id_column: pl.Series([str(i) for i in panel.ids], dtype=pl.String)})
    missing = frame.join(static, on=id_column, how="anti", maintain_order="left")
    if missing.height:
        raise DataError(
            f"{missing.height} series are missing from the static table",
            file=source,
            column=id_column,
            series=str(missing[id_column][0]),
            hint="Give one row a series; leave an attribute empty where it is not known",
        )
    numeric = [c for c in static.columns if c != id_column and static[c].dtype.is_numeric()]
    static = with_numbers(static, numeric, source, id_column=id_column)
    frame = frame.join(static, on=id_column, how="left", maintain_order="left")
    categorical, real = dict(panel.static_categorical), dict(panel.static_real)
    notes = list(panel.notes)
    for name in frame.columns:
        if name == id_column:
            continue
        column = frame[name]
        if name in numeric:
            real[name] = column.cast(pl.Float32).fill_null(np.nan).to_numpy()
        else:
            categorical[name] = Categorical.from_values(column.cast(pl.String).to_list())
        if column.null_count():
            count = column.null_count()
            text = f"{count} series have no {name}"
            notes.append(DataNote("missing_static", text, count))
    return replace(panel, static_categorical=categorical, static_real=real, notes=tuple(notes))


def fill_known(panel: Panel, method: Literal["forward"] = "forward") -> Panel:
    """Fills missing values of known covariates: events with 0, others with the last known value.

    Values before the first known one take that one. What was filled is counted in the notes; a
    covariate without any value in a series stays missing, so that training refuses it.

    Raises:
        ParameterError: the method is not known.
    """
    if method != "forward":
        raise ParameterError(f"method {method!r} is not known; known is 'forward'")
    flat, within = flat_steps(panel.known_begins, panel.known_lengths)
    begins = np.flatnonzero(within == 0)
    first_of = np.repeat(begins, np.diff(np.r_[begins, len(within)]))
    last_of = np.repeat(np.r_[begins[1:], len(within)] - 1, np.diff(np.r_[begins, len(within)]))
    known, notes = {}, list(panel.notes)
    for name, values in panel.known.items():
        values = values[flat]
        missing = np.isnan(values)
        if missing.any():
            if name in panel.events:
                values[missing] = 0
            else:
                at = np.arange(len(values))
                before = np.maximum.accumulate(np.where(missing, -1, at))
                after = np.minimum.accumulate(np.where(missing, len(values), at)[::-1])[::-1]
                source = np.where(before >= first_of, before, np.where(after <= last_of, after, at))
                values = values[source]
            count = int(missing.sum() - np.isnan(values).sum())
            notes.append(DataNote("filled_known", f"{count} missing {name} were filled", count))
        known[name] = values
    lengths = panel.known_lengths
    filled = replace(
        panel,
        known=known,
        known_begins=np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64),
        notes=tuple(notes),
    )
    return with_notes(filled)
