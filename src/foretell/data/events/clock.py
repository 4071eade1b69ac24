"""Moments and durations of a log as plain numbers of one unit."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.columns import with_times
from foretell.errors import DataError, ParameterError

FloatArray = NDArray[np.float64]

_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
_LONG = {
    "sec": "s",
    "second": "s",
    "m": "min",
    "minute": "min",
    "hour": "h",
    "day": "d",
    "week": "w",
}
_DURATION = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]+)\s*")


def checked_unit(unit: str | None) -> str | None:
    """The unit under its short name, or None for plain numbers.

    Raises:
        ParameterError: the unit is not known.
    """
    if unit is None:
        return None
    name = unit if unit in _SECONDS else unit.lower()
    name = name if name in _SECONDS else name.rstrip("s") or name
    name = _LONG.get(name, name)
    if name not in _SECONDS:
        raise ParameterError(f"the unit {unit!r} is not one of {', '.join(_SECONDS)}")
    return name


def duration(value: Any, unit: str | None, name: str = "the duration") -> float:
    """A duration as a number of the log's unit.

    Args:
        value: a number (of that unit), text such as ``"96h"``, or a timedelta.
        unit: of the log; None where its times are plain numbers.
        name: for messages.

    Raises:
        ParameterError: it cannot be read, is not finite, or names a unit while the log has none.
    """
    seconds: float | None = None
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ParameterError(f"{name} {value!r} is not a duration; write e.g. '96h' or '7d'")
        seconds = float(match.group(1)) * _SECONDS[str(checked_unit(match.group(2)))]
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, np.timedelta64):
        seconds = float(value / np.timedelta64(1, "us")) * 1e-6
    if seconds is not None:
        if unit is None:
            raise ParameterError(
                f"{name} {value!r} names a unit, but the times are plain numbers: pass unit= to "
                "say what one of them means, or give a number"
            )
        result = seconds / _SECONDS[unit]
    elif isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ParameterError(f"{name} must be a number, text such as '96h' or a timedelta")
    else:
        result = float(value)
    if not math.isfinite(result):
        raise ParameterError(f"{name} must be finite, not {value!r}")
    return result


def moment(value: Any, unit: str | None, calendar: bool, name: str = "now") -> float:
    """A moment as a number of the log's unit; infinities pass.

    Args:
        value: a number, or a date, datetime or ISO text where the log has dates.
        unit: of the log.
        calendar: whether the log's times were dates.
        name: for messages.

    Raises:
        ParameterError: it cannot be read, or is a date while the log's times are numbers.
    """
    if isinstance(value, str | date | datetime | np.datetime64):
        if not calendar or unit is None:
            raise ParameterError(f"{name} is {value!r}, but the times of this log are numbers")
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.timestamp() / _SECONDS[unit]
        try:
            instant = np.datetime64(value).astype("datetime64[us]")  # type: ignore[arg-type]
        except ValueError as error:
            raise ParameterError(f"{name} {value!r} is not a date: {error}") from error
        if np.isnat(instant):
            raise ParameterError(f"{name} is not a time")
        return float(instant.astype(np.int64)) * 1e-6 / _SECONDS[unit]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ParameterError(f"{name} must be a number or a date, not {value!r}")
    if math.isnan(value):
        raise ParameterError(f"{name} is NaN")
    return float(value)


def moments(
    table: pl.DataFrame, column: str, unit: str | None, source: str | None
) -> tuple[FloatArray, bool]:
    """A column of moments as numbers (n,) of the unit, and whether they were dates.

    Dates become seconds since 1970 (UTC), or the unit where one is given.

    Raises:
        DataError: a moment is missing, not finite or cannot be read.
    """
    values = table[column]
    if values.dtype.is_numeric():
        if values.null_count():
            numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        else:
            numbers = values.to_numpy().astype(np.float64)
        wrong = ~np.isfinite(numbers)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"the time is {values[row]}" if values[row] is not None else "the time is missing",
                file=source,
                column=column,
                row=row,
                hint="Every row needs a finite time",
            )
        return np.ascontiguousarray(numbers, np.float64), False
    _refuse_words(values, column, source)
    dates = with_times(table.select(column), column, source, within_days=True)[column]
    seconds = dates.to_physical().cast(pl.Float64).to_numpy() * 1e-6
    return np.ascontiguousarray(seconds / _SECONDS[unit or "s"]), True


def _refuse_words(values: pl.Series, column: str, source: str | None) -> None:
    """Names the word that made text of a column of numbers.

    Raises:
        DataError: most of the column are numbers, some are not.
    """
    if values.dtype != pl.String:
        return
    words = values.is_not_null() & values.cast(pl.Float64, strict=False).is_null()
    if not 0 < int(words.sum()) < len(values) / 2:
        return
    row = int(words.arg_max() or 0)
    raise DataError(
        f"the time {values[row]!r} is no number, but most others are",
        file=source,
        column=column,
        row=row,
        hint="Write all times as numbers of one unit, or all as dates",
    )


def to_datetimes(times: FloatArray, unit: str | None) -> pl.Series:
    """Numbers of a log with dates as polars datetimes without zone (UTC), microseconds."""
    micro = np.rint(times * _SECONDS[unit or "s"] * 1e6)
    return pl.Series("t", micro.astype(np.int64)).cast(pl.Datetime("us"))
