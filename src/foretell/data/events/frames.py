"""From two tables, entities and outcomes, to a log: every check and repair is made here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from foretell.data.columns import require_columns
from foretell.data.events.clock import checked_unit, duration, moments
from foretell.data.events.columns import EventColumns, Feature, FloatArray, IntArray, OutcomeTimes
from foretell.data.events.event_log import EventLog
from foretell.data.panel import Categorical, DataNote
from foretell.errors import DataError, ParameterError

_ROW = "\0row"  # no column of a table has this name


def build(
    entities: Any,
    outcomes: Any,
    *,
    attribution_window: Any,
    id: str,
    time: str,
    kind: str | None,
    outcome_time: str,
    unit: str | None,
    features: Sequence[str] | None,
    conversion: str,
    revocation: str | None,
    deadline: str | None,
    kinds: Sequence[str],
    max_early: float,
    source: str | None,
    outcome_source: str | None,
) -> EventLog:
    """What :meth:`EventLog.from_frames` does."""
    unit = checked_unit(unit)
    if revocation is not None and revocation == conversion:
        raise ParameterError(f"revocation and conversion are both {conversion!r}")
    if not 0 <= max_early <= 1:
        raise ParameterError(f"max_early is a share in [0, 1], not {max_early}")
    notes: list[DataNote] = []
    table = to_table(entities, "entities")
    named = [id, time, *([deadline] if deadline else [])]
    if features is None:
        features = [c for c in table.columns if c not in named]
    require_columns(table, [*named, *features], source)
    if table.height == 0 and table[time].dtype == pl.String:
        raise DataError(  # a CSV file of nothing but a header: its columns have no kind
            "the table has no rows", file=source, hint="Give a table with rows"
        )
    ids = id_column(table, id, source)
    _refuse_repeated(ids, id, source)
    times, calendar = moments(table, time, unit, source)
    if calendar and unit is None:
        unit = "s"
    window = duration(attribution_window, unit, "the attribution window")
    if window <= 0:
        raise ParameterError(f"the attribution window must be positive, not {window:g}")
    ends = None if deadline is None else deadlines(table, deadline, unit, times, calendar, source)
    key = pl.DataFrame({"t": times, "id": ids, _ROW: np.arange(len(times))})
    order = key.sort("t", "id")[_ROW].to_numpy()
    if np.any(order[1:] < order[:-1]):
        moved = int((np.diff(times) < 0).sum())
        notes.append(
            DataNote("unsorted", f"entities were sorted by time ({moved} steps back)", moved)
        )
    columns = {name: feature(table[name], order, source) for name in features}
    notes += [note for name in features if (note := _numbers_as_text(table[name])) is not None]
    ids, times = ids[order], times[order]
    read = _outcomes(
        outcomes, ids, times, calendar, unit, id, kind, outcome_time, conversion, max_early,
        outcome_source, notes,
    )  # fmt: skip
    for name in kinds:
        if name not in read:
            read[name] = OutcomeTimes.from_rows(np.zeros(0, np.int64), np.zeros(0), len(ids))
    arrow = ids.to_arrow()
    if not pa.types.is_integer(arrow.type):
        arrow = arrow.cast(pa.large_string())
    if isinstance(arrow, pa.ChunkedArray):
        arrow = arrow.combine_chunks()
    arrays = EventColumns(arrow, times, None if ends is None else ends[order], columns, read)
    log = EventLog(arrays, window, conversion, unit, calendar, revocation, notes=tuple(notes))
    return with_late_notes(log)


def with_late_notes(log: EventLog) -> EventLog:
    """The log with a note of each kind of outcome that comes after the window."""
    from dataclasses import replace

    notes = list(log.notes)
    for kind, found in log._columns.outcomes.items():
        owner, times = found.gather(log.rows)
        late = times > log.deadlines[owner]
        if late.any():
            name = str(log.ids[owner[int(np.argmax(late))]])
            text = f"{int(late.sum())} outcomes {kind!r} after the window do not count"
            notes.append(DataNote("after_window", text, int(late.sum()), name))
    return replace(log, notes=tuple(notes))


def to_table(table: Any, what: str) -> pl.DataFrame:
    """A polars table of a polars, pandas or pyarrow table, or of a dict of columns.

    Raises:
        ParameterError: it is none of these.
    """
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if isinstance(table, pa.Table | pa.RecordBatch):
        result = pl.from_arrow(table)
        assert isinstance(result, pl.DataFrame)
        return result
    if isinstance(table, Mapping):
        return pl.DataFrame(dict(table))
    if type(table).__module__.split(".")[0] == "pandas":
        return pl.from_pandas(table)
    raise ParameterError(
        f"{what} must be a polars, pandas or pyarrow table or a dict of columns, "
        f"not {type(table).__name__}"
    )


def feature(values: pl.Series, order: IntArray | None, source: str | None) -> Feature:
    """A feature column as numbers or as a category.

    Raises:
        DataError: it is neither.
    """
    dtype = values.dtype
    if dtype.is_numeric() and not values.null_count():
        # Most columns, and much faster for the small tables of a live stream.
        numbers = values.to_numpy().astype(np.float32 if dtype == pl.Float32 else np.float64)
    elif dtype == pl.Float32:
        numbers = values.fill_null(float("nan")).to_numpy()
    elif dtype.is_numeric() or dtype in (pl.Boolean, pl.Null):
        numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    elif dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum):
        return category(values.cast(pl.String), None, order)
    else:
        raise DataError(
            f"column {values.name!r} is {dtype}, neither numbers nor text",
            file=source,
            column=values.name,
            hint="Derive numbers from it, or name the features to use by features=",
        )
    return np.ascontiguousarray(numbers if order is None else numbers[order])


def _numbers_as_text(values: pl.Series) -> DataNote | None:
    """A note of a column that some words among numbers turn into a category.

    Codes are numbers too, but few: only columns with many different numbers are named.
    """
    if values.dtype != pl.String:
        return None
    numbers = values.cast(pl.Float64, strict=False)
    words = values.is_not_null() & numbers.is_null()
    given = len(values) - values.null_count()
    if not words.any() or int(words.sum()) > 0.1 * given or numbers.n_unique() <= 20:
        return None
    row = int(words.arg_max() or 0)
    text = (
        f"column {values.name!r} is read as a category since {int(words.sum())} of its values are "
        f"no numbers, the first {values[row]!r} in row {row} counted from 0; leave them empty to "
        "have numbers"
    )
    return DataNote("numbers_as_text", text, int(words.sum()))


def category(
    values: pl.Series, vocabulary: tuple[str, ...] | None, order: IntArray | None = None
) -> Categorical:
    """Codes of names under a vocabulary, or under the sorted names themselves."""
    if vocabulary is None:
        vocabulary = tuple(values.drop_nulls().unique().sort().to_list())
    codes = pl.Series(range(1, len(vocabulary) + 1), dtype=pl.Int32)
    found = values.replace_strict(
        pl.Series(vocabulary, dtype=pl.String), codes, default=0, return_dtype=pl.Int32
    )
    array = found.fill_null(0).to_numpy()
    return Categorical(np.ascontiguousarray(array if order is None else array[order]), vocabulary)


def id_column(table: pl.DataFrame, column: str, source: str | None) -> pl.Series:
    """A column of ids as Int64 or String.

    Raises:
        DataError: one is missing, or they are neither integers nor text.
    """
    values = table[column]
    if values.null_count():
        raise DataError(
            "the id is missing",
            file=source,
            column=column,
            row=int(values.is_null().arg_max() or 0),
            hint="Every entity and every outcome names its entity",
        )
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    if values.dtype.is_float() or values.dtype == pl.Boolean:
        raise DataError(
            f"ids are {values.dtype}, not integers or text",
            file=source,
            column=column,
            hint="Convert them first",
        )
    return values.cast(pl.String)


def _refuse_repeated(ids: pl.Series, column: str, source: str | None) -> None:
    if ids.n_unique() == len(ids):
        return
    again = ids.is_duplicated()
    names = ids.filter(again).unique(maintain_order=True)
    shown = ", ".join(repr(name) for name in names.head(5))
    rows = np.flatnonzero((ids == names[0]).to_numpy())[:5]
    raise DataError(
        f"{len(names)} ids name several entities: {shown}{', ...' if len(names) > 5 else ''} "
        f"(rows {', '.join(map(str, rows))} are {names[0]!r})",
        file=source,
        column=column,
        series=str(names[0]),
        row=int(rows[1]),
        hint="Give every exposure an id of its own",
    )


def deadlines(
    table: pl.DataFrame,
    column: str,
    unit: str | None,
    times: FloatArray,
    calendar: bool,
    source: str | None,
) -> FloatArray:
    """A column of absolute deadlines (n,) of entities exposed at ``times`` (n,).

    Raises:
        DataError: one lies before exposure, or the column is no clock like that of exposure.
    """
    ends, dates = moments(table, column, unit, source)
    same_clock(calendar, dates, column, source)
    wrong = ends < times
    if wrong.any():
        raise DataError(
            f"the deadline lies before exposure in {int(wrong.sum())} rows",
            file=source,
            column=column,
            row=int(np.argmax(wrong)),
            hint="It is the moment after which no outcome counts",
        )
    return ends


def same_clock(calendar: bool, dates: bool, column: str, source: str | None) -> None:
    """Checks that a column holds dates where exposure times are dates, and numbers else.

    Raises:
        DataError: it does not.
    """
    if calendar != dates:
        kinds = {True: "dates", False: "numbers"}
        raise DataError(
            f"exposure times are {kinds[calendar]}, these are {kinds[dates]}",
            file=source,
            column=column,
            hint="Use one clock for all times",
        )


def _outcomes(
    outcomes: Any,
    ids: pl.Series,
    times: FloatArray,
    calendar: bool,
    unit: str | None,
    id: str,
    kind: str | None,
    outcome_time: str,
    conversion: str,
    max_early: float,
    source: str | None,
    notes: list[DataNote],
) -> dict[str, OutcomeTimes]:
    nothing = np.zeros(0, np.int64)
    if outcomes is None:
        return {conversion: OutcomeTimes.from_rows(nothing, np.zeros(0), len(ids))}
    table = to_table(outcomes, "outcomes")
    require_columns(table, [id, outcome_time], source)
    if table.height == 0:
        return {conversion: OutcomeTimes.from_rows(nothing, np.zeros(0), len(ids))}
    names = id_column(table, id, source)
    if names.dtype != ids.dtype:
        raise DataError(
            f"the ids of outcomes are {names.dtype}, those of entities {ids.dtype}",
            file=source,
            column=id,
            hint="Use the same type in both tables",
        )
    moment, dates = moments(table, outcome_time, unit, source)
    same_clock(calendar, dates, outcome_time, source)
    if kind is None or kind not in table.columns:
        kinds = pl.repeat(conversion, table.height, dtype=pl.String, eager=True)
    else:
        kinds = table[kind].cast(pl.String)
        if kinds.null_count():
            raise DataError(
                "the kind of an outcome is missing",
                file=source,
                column=kind,
                row=int(kinds.is_null().arg_max() or 0),
                hint=f"Name it, e.g. {conversion!r}",
            )
    owners = pl.DataFrame({"id": ids, _ROW: np.arange(len(ids))})
    rows = (
        pl.DataFrame({"id": names})
        .join(owners, on="id", how="left", maintain_order="left")[_ROW]
        .fill_null(-1)
        .to_numpy()
    )
    unknown = rows < 0
    if unknown.any():
        count, first = int(unknown.sum()), str(names[int(np.argmax(unknown))])
        text = f"{count} outcomes of entities that are not in the log were dropped"
        notes.append(DataNote("unknown_entity", text, count, first))
    early = ~unknown & (moment < times[np.maximum(rows, 0)])
    result = {}
    for name in [conversion, *[k for k in kinds.unique().sort() if k != conversion]]:
        mine = (kinds == name).to_numpy() & ~unknown
        before = mine & early
        if before.any():
            _report_early(before, mine, rows, ids, name, outcome_time, max_early, source, notes)
        kept = mine & ~early
        result[name] = OutcomeTimes.from_rows(rows[kept], moment[kept], len(ids))
    return result


def _report_early(
    before: Any,
    mine: Any,
    rows: IntArray,
    ids: pl.Series,
    name: str,
    column: str,
    max_early: float,
    source: str | None,
    notes: list[DataNote],
) -> None:
    count, total = int(before.sum()), int(mine.sum())
    row = int(np.argmax(before))
    entity = str(ids[int(rows[row])])
    text = f"{count} of {total} outcomes {name!r} lie before the exposure of their entity"
    if count > max_early * total:
        raise DataError(
            f"{text}, more than {max_early:.3g} of them",
            file=source,
            column=column,
            series=entity,
            row=row,
            hint="Check the clocks and ids of both tables, or raise max_early to drop them",
        )
    notes.append(DataNote("early_outcome", f"{text} and were dropped", count, entity))
    warnings.warn(f"{text} and were dropped (first: entity {entity!r})", stacklevel=5)
