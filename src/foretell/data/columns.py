"""Checks of a table's columns: numbers, dates and the grid they lie on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.frequency import Frequency
from foretell.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)
_OFFSET = r"\d{2}:\d{2}[:.\d]*\s*(Z|[+-]\d{2}:?\d{2})$"
_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S%.f")
_STEPS_A_ROW = 100  # a grid with more steps for each row is a wrong frequency, not a sparse table
_SUSPICIOUS = 8  # so many equal distances are no coincidence


def require_columns(
    table: pl.DataFrame, needed: Sequence[str], source: str | None, *, elsewhere: Sequence[str] = ()
) -> None:
    """Checks that columns are there and each is used once.

    Raises:
        DataError: names what is missing and what the table has instead.
    """
    twice = sorted({c for c in needed if list(needed).count(c) > 1})
    if twice:
        raise DataError(
            f"column {twice[0]!r} is used for two things",
            file=source,
            column=twice[0],
            hint="Name different columns for id, time, target, past, known and censored",
        )
    absent = [c for c in needed if c not in table.columns and c not in elsewhere]
    if absent:
        one = len(table.columns) == 1 and any(mark in table.columns[0] for mark in ";\t|")
        hint = (
            f"The table has {table.columns[:20]}; rename its columns, or name them by id_column, "
            "time_column, target_column (in a recipe data.target_column, ...)"
        )
        if one:
            hint = "The whole line was read as one column: name the delimiter, e.g. separator=';'"
        raise DataError(f"columns {absent} are missing", file=source, hint=hint)


def with_numbers(
    table: pl.DataFrame,
    columns: Sequence[str],
    source: str | None,
    *,
    id_column: str | None = None,
) -> pl.DataFrame:
    """The table with the given columns as Float64, unknown values as null.

    Raises:
        DataError: a value is text or infinite.
    """
    for column in columns:
        values = table[column]
        dtype = values.dtype
        if (
            dtype.is_numeric()
            or dtype in (pl.Boolean, pl.Null)
            or values.null_count() == len(values)
        ):
            numbers = values.cast(pl.Float64)
        else:
            if dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum):
                text = values.cast(pl.String)
                wrong = text.cast(pl.Float64, strict=False).is_null() & text.is_not_null()
            else:
                wrong = values.is_not_null()
            if not wrong.any():  # every value is a number written as text
                wrong = values.is_not_null()
            row = int(wrong.arg_max() or 0)
            hint = "Convert it to numbers first; leave unknown values empty"
            if "," in str(values[row]):
                hint += "; write decimals with a point (or set decimal_comma = true for CSV)"
            raise DataError(
                f"column {column!r} holds {_kind(dtype)} ({values[row]!r}), not numbers",
                file=source,
                column=column,
                series=_series(table, id_column, row),
                row=row,
                hint=hint,
            )
        numbers = numbers.fill_nan(None)
        outside = (numbers.abs() > _LARGEST).fill_null(False)
        if outside.any():
            row = int(outside.arg_max() or 0)
            infinite = np.isinf(numbers[row])
            raise DataError(
                "the value is infinite"
                if infinite
                else f"{numbers[row]:g} is beyond single precision",
                file=source,
                column=column,
                series=_series(table, id_column, row),
                row=row,
                hint="Leave it empty if it is not known" if infinite else "Use a larger unit",
            )
        table = table.with_columns(numbers.alias(column))
    return table


def with_flags(table: pl.DataFrame, column: str, source: str | None) -> pl.DataFrame:
    """The table with a column of yes and no (boolean, 0/1 or true/false) as Boolean."""
    values = table[column]
    if values.dtype == pl.String:
        lower = values.str.to_lowercase().str.strip_chars()
        words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        flags = lower.replace_strict(words, default=None, return_dtype=pl.Boolean)
        wrong = flags.is_null() & values.is_not_null()
    elif values.dtype == pl.Boolean or values.dtype.is_numeric() or values.dtype == pl.Null:
        flags = values.cast(pl.Boolean)
        wrong = (flags.cast(pl.Float64) != values.cast(pl.Float64)).fill_null(False)
    else:
        flags, wrong = values, values.is_not_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{values[row]!r} is neither true nor false",
            file=source,
            column=column,
            row=row,
            hint="Use true/false or 1/0",
        )
    return table.with_columns(flags.fill_null(False).alias(column))


def with_ids(table: pl.DataFrame, column: str, source: str | None) -> pl.DataFrame:
    """The table with its series' names as text.

    Raises:
        DataError: a name is missing.
    """
    if table[column].null_count():
        raise DataError(
            "the series has no name",
            file=source,
            column=column,
            row=int(table[column].is_null().arg_max() or 0),
            hint="Fill the id",
        )
    return table.with_columns(pl.col(column).cast(pl.String))


def with_times(
    table: pl.DataFrame, column: str, source: str | None, *, within_days: bool | None = None
) -> pl.DataFrame:
    """The table with its time column as Datetime("us") without zone, or as integers.

    Moments with a time zone become local dates when all are midnight there (daily and longer
    grids), else UTC, in which no hour is missing or repeated when clocks change.

    Args:
        table: holds the column.
        column: dates, datetimes, integers or ISO 8601 text.
        source: file or table name for messages.
        within_days: whether the grid is finer than days; ``None`` looks at the values.

    Raises:
        DataError: a date is missing, cannot be read, or time zones are mixed.
    """
    times = table[column]
    if times.null_count():
        raise DataError(
            "the date is missing",
            file=source,
            column=column,
            row=int(times.is_null().arg_max() or 0),
            hint="Every row needs one",
        )
    if times.dtype == pl.String:
        times = _parsed(times, column, source, within_days)
    elif times.dtype == pl.Date:
        times = times.cast(pl.Datetime("us"))
    elif isinstance(times.dtype, pl.Datetime):
        if times.dtype.time_zone is not None:
            local = times.dt.replace_time_zone(None)
            fine = within_days
            if fine is None:
                fine = not (local.dt.truncate("1d") == local).all()
            times = times.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if fine else local
        times = times.dt.cast_time_unit("us")
    elif not times.dtype.is_integer():
        raise DataError(
            f"column {column!r} is {times.dtype}, not a date, a datetime or an integer",
            file=source,
            column=column,
            hint="Convert it first",
        )
    return table.with_columns(times.alias(column))


def grid_of(
    frequency: str | Frequency | None,
    times: NDArray,
    series: NDArray[np.int64],
    rows: NDArray,
    names: NDArray,
    column: str,
    source: str | None,
) -> Frequency:
    """The grid of sorted series, inferred where none is given, and every date checked against it.

    Raises:
        DataError: dates repeat, lie off the grid, or the series have different frequencies.
    """

    def error(problem: str, i: int, hint: str) -> DataError:
        return DataError(
            problem,
            file=source,
            column=column,
            series=str(names[series[i]]),
            row=int(rows[i]),
            hint=hint,
        )

    same = series[1:] == series[:-1]
    repeated = np.flatnonzero(same & (times[1:] == times[:-1]))
    if repeated.size:
        i = int(repeated[0]) + 1
        raise error(
            f"{repeated.size} rows repeat a date of their series, first {shown(times[i])}",
            i,
            "Sum or drop the repeated rows first",
        )
    integers = np.issubdtype(times.dtype, np.integer)
    written = _calendar_number(times) if integers and same.any() else None
    if written is not None:
        raise error(
            f"the integers of column {column!r} are {written} written as numbers, e.g. {times[0]}: "
            "between December and January they jump",
            0,
            "Convert them to dates, or number the periods 1, 2, 3, ...",
        )
    if isinstance(frequency, Frequency):
        grid = frequency
    elif frequency is not None:
        grid = Frequency.parse(frequency, example=None if integers else times[0])
    elif integers:
        grid = Frequency()
    else:
        grid = Frequency.infer(times, series)
    if (grid.kind == "integer") != integers:
        have = "integers" if integers else "dates"
        raise error(
            f"the frequency is {grid.alias!r} but column {column!r} holds {have}",
            0,
            "Pass frequency='integer' for period numbers, a calendar frequency for dates",
        )
    off = np.flatnonzero(~grid.aligned(times))
    if off.size:
        i = int(off[0])
        raise error(
            f"{off.size} dates lie off the grid {grid.alias!r}, first {shown(times[i])}",
            i,
            "Use one frequency for the whole table, or name it (frequency=, in a recipe "
            "data.frequency)",
        )
    distances = np.diff(grid.index(times))
    if same.any():
        whole = int(distances[same].sum()) + int((~same).sum()) + 1
        if whole > _STEPS_A_ROW * (len(times) + 1000):
            i = int(np.argmax(np.where(same, distances, 0))) + 1
            raise error(
                f"the grid {grid.alias!r} would have {whole:,} periods for {len(times):,} rows",
                i,
                "Pass the right frequency=, or number integer periods 1, 2, 3, ...",
            )
        _refuse_mixed(grid, frequency, distances, same, series, error)
    return grid


def _calendar_number(times: NDArray[np.int64]) -> str | None:
    """What 202412 or 20241231 stand for, where all of many different numbers can be read so."""
    if len(np.unique(times)) < 3:
        return None
    months, days = times, np.ones_like(times)
    if times.min() >= 1900_01_01 and times.max() <= 2100_12_31:
        months, days = times // 100, times % 100
    if months.min() < 1900_01 or months.max() > 2100_12:
        return None
    month = months % 100
    if month.min() < 1 or month.max() > 12 or days.min() < 1 or days.max() > 31:
        return None
    return "months" if months is times else "days"


def _refuse_mixed(
    grid: Frequency,
    frequency: str | Frequency | None,
    distances: NDArray[np.int64],
    same: NDArray[np.bool_],
    series: NDArray[np.int64],
    error: Callable[[str, int, str], DataError],
) -> None:
    """A series all of whose distances are the same multiple of the grid is of another frequency."""
    block = series[1:][same]
    steps = distances[same]
    first = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
    smallest = np.minimum.reduceat(steps, first)
    largest = np.maximum.reduceat(steps, first)
    counts = np.diff(np.r_[first, len(steps)])
    other = (smallest == largest) & (smallest > 1) & (counts >= _SUSPICIOUS)
    if not other.any():
        return
    j = int(np.argmax(other))
    i = int(np.flatnonzero(same)[first[j]]) + 1
    given = "is given as" if frequency is not None else "of other series is"
    raise error(
        f"the series has a value every {int(smallest[j])} periods, while the frequency {given} "
        f"{grid.alias!r} ({int(other.sum())} series concerned)",
        i,
        "Bring all series to one frequency, or pass frequency= that fits",
    )


def _parsed(
    times: pl.Series, column: str, source: str | None, within_days: bool | None
) -> pl.Series:
    text = times.str.strip_chars()
    offsets = text.str.extract(_OFFSET, 1)
    kinds = offsets.fill_null("none").unique(maintain_order=True).to_list()
    if len(kinds) > 1:
        row = int((offsets.fill_null("none") != kinds[0]).arg_max() or 0)
        raise DataError(
            f"time zones are mixed: {times[0]!r} and {times[row]!r}",
            file=source,
            column=column,
            row=row,
            hint="Write all moments in one zone, e.g. UTC, or as local dates without zone",
        )
    if kinds != ["none"]:
        text = text.str.slice(0, text.str.len_chars() - len(kinds[0])).str.strip_chars()
    text = text.str.replace("T", " ", literal=True).str.replace_all("/", "-", literal=True)
    frame = text.alias("t").to_frame()
    parsed = frame.select(
        pl.coalesce(pl.col("t").str.to_datetime(f, strict=False, time_unit="us") for f in _FORMATS)
    )["t"]
    wrong = parsed.is_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{times[row]!r} is not a date",
            file=source,
            column=column,
            row=row,
            hint="Use ISO 8601, e.g. 2012-10-26 or 2012-10-26 13:00",
        )
    if kinds not in (["none"], ["Z"]):
        fine = within_days
        if fine is None:
            fine = not (parsed.dt.truncate("1d") == parsed).all()
        if fine:
            digits = kinds[0][1:].replace(":", "")
            minutes = (int(digits[:2]) * 60 + int(digits[2:])) * (-1 if kinds[0][0] == "-" else 1)
            parsed = parsed.dt.offset_by(f"{-minutes}m")
    return parsed


def shown(time: np.generic) -> str:
    """A moment as a planner writes it: 2012-10-26, with the hour only where there is one."""
    return str(time).removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")


def _series(table: pl.DataFrame, id_column: str | None, row: int) -> str | None:
    if id_column is None or id_column not in table.columns:
        return None
    return str(table[id_column][row])


def _kind(dtype: pl.DataType) -> str:
    return "text" if dtype in (pl.String, pl.Categorical) else str(dtype)
