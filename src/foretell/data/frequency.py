"""A regular time grid: which moments a series may have, as whole period numbers.

Everything inside foretell counts periods with integers; dates appear only where data come in and
results go out. A period number is absolute: two series of one frequency agree on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError

Kind = Literal["integer", "fixed", "months"]

_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "D": 86_400_000_000,
    "W": 604_800_000_000,
}
_MONTHS = {"MS": 1, "ME": 1, "M": 1, "QS": 3, "QE": 3, "Q": 3, "YS": 12, "YE": 12, "Y": 12}
_MONTH_NAMES = (
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
)  # fmt: skip
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_DAY = _MICROSECONDS["D"]
_WEEK = _MICROSECONDS["W"]
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday
_SEASONS = {
    _MICROSECONDS["s"]: 60,
    _MICROSECONDS["min"]: 60,
    _MICROSECONDS["h"]: 24,
    _MICROSECONDS["D"]: 7,
    _MICROSECONDS["W"]: 52,
}


@dataclass(frozen=True)
class Frequency:
    """The distance between two periods and where the first one lies.

    Args:
        kind: ``"integer"`` (periods are plain numbers), ``"fixed"`` (a fixed number of
            microseconds) or ``"months"`` (a number of calendar months).
        step: 1 for integers, else microseconds or months per period.
        phase: for ``"fixed"`` microseconds after the epoch modulo ``step``; for ``"months"`` the
            months after January 1970 modulo ``step``.
        month_end: for ``"months"``: dates are the last day of their month instead of the first.
    """

    kind: Kind = "integer"
    step: int = 1
    phase: int = 0
    month_end: bool = False

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ParameterError(f"a frequency needs a step of at least 1, not {self.step}")

    @classmethod
    def parse(cls, alias: str, example: np.datetime64 | None = None) -> Frequency:
        """Reads a pandas-style alias such as ``"h"``, ``"D"``, ``"W-FRI"``, ``"30min"``, ``"QS"``.

        An anchor (``W-FRI``, ``QE-NOV``) holds whatever the example says; a plain ``W`` ends on
        Sundays and a plain ``QE`` in March, June, ... unless an example says otherwise.

        Args:
            alias: the alias; a leading number multiplies it; ``"1"`` or ``"integer"`` means plain
                period numbers.
            example: a date on the grid, which fixes the phase where the alias leaves it open.

        Raises:
            ParameterError: the alias is not known.
        """
        if alias in ("integer", "1"):
            return cls()
        match = re.fullmatch(r"(\d*)([A-Za-z]+)(?:-([A-Z]{3}))?", alias)
        if match is None or match[1].strip("0") == "" != match[1]:
            raise _unknown(alias)
        count = int(match[1] or 1)
        unit = {"d": "D", "w": "W", "H": "h", "T": "min", "S": "s", "A": "Y"}.get(
            match[2], match[2]
        )
        if unit in _MONTHS:
            return cls._parse_months(alias, count, unit, match[3], example)
        if unit not in _MICROSECONDS or (match[3] is not None and unit != "W"):
            raise _unknown(alias)
        step = count * _MICROSECONDS[unit]
        phase = 0 if example is None else int(_to_micros(np.asarray([example]))[0] % step)
        if unit == "W" and (match[3] is not None or example is None):
            day = match[3] or "SUN"
            if day not in _WEEKDAYS:
                raise _unknown(alias)
            anchored = ((_WEEKDAYS.index(day) - _EPOCH_WEEKDAY) % 7) * _DAY
            # With several weeks a period the example tells which weeks are meant.
            if example is None or phase % _WEEK != anchored:
                phase = anchored
        return cls("fixed", step, phase)

    @classmethod
    def _parse_months(
        cls, alias: str, count: int, unit: str, anchor: str | None, example: np.datetime64 | None
    ) -> Frequency:
        unit_months = _MONTHS[unit]
        step = count * unit_months
        month_end = unit.endswith("E")
        if unit in ("M", "Q", "Y") and example is not None:
            month_end = bool(_is_month_end(_to_micros(np.asarray([example])))[0])
        month = (
            0
            if example is None
            else int(np.asarray(example).astype("datetime64[M]").astype(np.int64))
        )
        if anchor is not None or example is None:
            last = {"MS": "JAN", "M": "JAN", "ME": "JAN"}.get(unit, "DEC" if month_end else "JAN")
            if (anchor or last) not in _MONTH_NAMES or (anchor is not None and unit_months == 1):
                raise _unknown(alias)
            anchored = _MONTH_NAMES.index(anchor or last)
            if unit in ("Q", "Y") and anchor is not None and not month_end:
                anchored += 1  # a period that ends in November begins in December
            if example is None or (month - anchored) % unit_months:
                month = anchored
        return cls("months", step, month % step, month_end)

    @classmethod
    def infer(cls, times: NDArray[np.datetime64], series: NDArray[np.int64]) -> Frequency:
        """Finds the grid of sorted series.

        Args:
            times: dates (R,), sorted within each series.
            series: number of the series of each row (R,), in blocks.

        Raises:
            DataError: no series has two dates, or the distances fit no single grid.
        """
        micros = _to_micros(times)
        same = series[1:] == series[:-1]
        steps = (micros[1:] - micros[:-1])[same]
        steps = steps[steps > 0]
        if steps.size == 0:
            raise DataError(
                "the frequency cannot be inferred: no series has two different dates",
                hint="Pass frequency=, e.g. frequency='W-FRI'",
            )
        days_only = bool(np.all(micros % _DAY == 0))
        if days_only and steps.min() >= 28 * _DAY:
            months = times.astype("datetime64[M]").astype(np.int64)
            starts = bool(np.all(times.astype("datetime64[D]") == times.astype("datetime64[M]")))
            ends = bool(np.all(_is_month_end(micros)))
            if starts or ends:
                distances = np.unique((months[1:] - months[:-1])[same])
                step = gcd(*[int(d) for d in distances if d > 0])
                return cls("months", step, int(months[0] % step), month_end=ends and not starts)
            if steps.max() <= 31 * _DAY and len(np.unique(steps)) > 1:
                raise DataError(
                    f"the dates are months apart but neither first nor last days, e.g. {times[0]}",
                    hint="Move each date to the first day of its month",
                )
        values, counts = np.unique(steps, return_counts=True)
        step = int(values[np.argmax(counts)])
        return cls("fixed", step, int(micros[0] % step))

    def index(self, times: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """Period numbers (R,) of dates (R,); dates off the grid give the period they fall in."""
        if self.kind == "integer":
            return np.asarray(times).astype(np.int64)
        if self.kind == "months":
            months = times.astype("datetime64[M]").astype(np.int64)
            return (months - self.phase) // self.step
        return (_to_micros(times) - self.phase) // self.step

    def aligned(self, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """Whether each date lies exactly on the grid (R,)."""
        if self.kind == "integer":
            return np.ones(len(times), bool)
        return _to_micros(self.time(self.index(times))) == _to_micros(times)

    def time(self, index: NDArray[np.int64]) -> NDArray[np.datetime64] | NDArray[np.int64]:
        """Dates (R,) of period numbers (R,): datetime64[us], or int64 for integer frequency."""
        index = np.asarray(index, np.int64)
        if self.kind == "integer":
            return index
        if self.kind == "months":
            months = index * self.step + self.phase
            if self.month_end:
                last = (months + 1).astype("datetime64[M]").astype("datetime64[D]") - 1
                return last.astype("datetime64[us]")
            return months.astype("datetime64[M]").astype("datetime64[us]")
        return (index * self.step + self.phase).astype("datetime64[us]")

    @property
    def season(self) -> int:
        """The usual season in periods: 24 hours, 7 days, 52 weeks, 12 months, 4 quarters, or 1."""
        if self.kind == "integer":
            return 1
        if self.kind == "months":
            return max(1, 12 // self.step)
        if self.step in _SEASONS:
            return _SEASONS[self.step]
        if self.step % _WEEK == 0:
            return max(1, 52 * _WEEK // self.step)
        second, minute = _MICROSECONDS["s"], _MICROSECONDS["min"]
        span = second if self.step < second else minute if self.step < minute else _DAY
        for longer in (span, _WEEK):
            if self.step < longer and longer % self.step == 0:
                return longer // self.step
        return 1

    @property
    def alias(self) -> str:
        """A pandas-style name such as ``"W-FRI"``, ``"30min"`` or ``"MS"``."""
        if self.kind == "integer":
            return "integer"
        if self.kind == "months":
            ending = "E" if self.month_end else "S"
            for months, letter in ((12, "Y"), (3, "Q"), (1, "M")):
                if self.step % months == 0:
                    count = self.step // months
                    name = f"{'' if count == 1 else count}{letter}{ending}"
                    month = self.phase % months
                    usual = (months - 1 if self.month_end else 0) % months
                    return name if month == usual else f"{name}-{_MONTH_NAMES[month]}"
        for unit in ("W", "D", "h", "min", "s", "ms", "us"):
            if self.step % _MICROSECONDS[unit] == 0:
                count = self.step // _MICROSECONDS[unit]
                name = f"{'' if count == 1 else count}{unit}"
                if unit == "W" and self.phase % _DAY == 0:
                    weekday = (self.phase // _DAY + _EPOCH_WEEKDAY) % 7
                    return f"{name}-{_WEEKDAYS[weekday]}"
                return name
        raise AssertionError("every fixed step is a number of microseconds")

    def to_dict(self) -> dict[str, str | int | bool]:
        """The frequency as JSON values; ``Frequency(**d)`` reads it back."""
        return {
            "kind": self.kind,
            "step": self.step,
            "phase": self.phase,
            "month_end": self.month_end,
        }


def _unknown(alias: str) -> ParameterError:
    if alias.lstrip("0123456789") in ("B", "C", "b"):
        return ParameterError(
            f"frequency {alias!r} (business days) is not a regular grid; use 'D': days without "
            "trade count as not observed"
        )
    known = ", ".join(
        [*_MICROSECONDS, "W-MON...W-SUN", *_MONTHS, "QS-JAN...QE-DEC, YS-JAN...YE-DEC", "integer"]
    )
    return ParameterError(f"frequency {alias!r} is not known; known are {known}")


def _to_micros(times: NDArray) -> NDArray[np.int64]:
    return np.asarray(times).astype("datetime64[us]").astype(np.int64)


def _is_month_end(micros: NDArray[np.int64]) -> NDArray[np.bool_]:
    days = micros.astype("datetime64[us]").astype("datetime64[D]")
    return (days + 1) == (days + 1).astype("datetime64[M]")
