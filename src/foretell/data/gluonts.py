"""GluonTS' idiom: an iterable of dicts with ``start``, ``target`` and feature arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.data.quality import with_notes
from foretell.errors import DataError

_ROWS_KNOWN = "feat_dynamic_real"
_ROWS_PAST = "past_feat_dynamic_real"


def from_gluonts(
    entries: Iterable[Mapping[str, Any]], *, frequency: str | Frequency | None = None
) -> Panel:
    """A panel of dicts ``{"start", "target", ...}``.

    ``feat_dynamic_real`` (C, T + K) becomes the known covariates ``known_0``, ``known_1``, ...,
    ``past_feat_dynamic_real`` (C, T) ``past_0``, ..., ``feat_static_cat`` ``static_cat_0``, ...
    (the numbers as names) and ``feat_static_real`` ``static_real_0``, ... .

    Args:
        entries: one dict a series; ``start`` is a pandas Period, a Timestamp, a date or text;
            ``item_id`` names the series (else its number does).
        frequency: a pandas-style alias; taken from the Periods when ``None``.

    Raises:
        DataError: a series lacks ``start`` or ``target``, or arrays differ in length or number.
    """
    series = list(entries)
    if not series:
        raise DataError("there is no series", hint="Give at least one dict")
    ids = [str(entry.get("item_id", i)) for i, entry in enumerate(series)]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise DataError("item_id is used twice", series=twice, hint="Name every series once")
    for name, entry in zip(ids, series, strict=True):
        for key in ("start", "target"):
            if key not in entry:
                raise DataError(f"the dict has no {key!r}", series=name, hint="Add it")
    grid = _grid(series, frequency)
    targets = [
        _array(entry["target"], name, "target", 1) for name, entry in zip(ids, series, strict=True)
    ]
    lengths = np.array([len(t) for t in targets], np.int64)
    starts = np.array(
        [_start(entry["start"], grid, name) for name, entry in zip(ids, series, strict=True)]
    )
    past, past_lengths = _features(series, ids, _ROWS_PAST, "past")
    known, known_lengths = _features(series, ids, _ROWS_KNOWN, "known")
    if past and np.any(past_lengths != lengths):
        i = int(np.argmax(past_lengths != lengths))
        raise DataError(
            f"{_ROWS_PAST} has {past_lengths[i]} steps, the target {lengths[i]}",
            series=ids[i],
            hint="Give both the same length",
        )
    if known and np.any(known_lengths < lengths):
        i = int(np.argmax(known_lengths < lengths))
        raise DataError(
            f"{_ROWS_KNOWN} has {known_lengths[i]} steps, the target {lengths[i]}: it ends too "
            "early",
            series=ids[i],
            hint="Give it at least the target's length, and the horizon for forecasting",
        )
    panel = Panel(
        np.array(ids, object),
        grid,
        starts.astype(np.int64),
        _begins(lengths),
        lengths,
        np.concatenate(targets) if targets else np.zeros(0, np.float32),
        past=past,
        known=known,
        known_begins=_begins(known_lengths),
        known_lengths=known_lengths,
        static_categorical={
            f"static_cat_{j}": Categorical.from_values([str(int(v)) for v in column])
            for j, column in enumerate(_static(series, ids, "feat_static_cat"))
        },
        static_real={
            f"static_real_{j}": column.astype(np.float32)
            for j, column in enumerate(_static(series, ids, "feat_static_real"))
        },
    )
    return with_notes(panel)


def to_gluonts(panel: Panel) -> Iterator[dict[str, Any]]:
    """The panel as GluonTS dicts, one a series, lazily.

    ``start`` is a pandas Period (GluonTS' own), a plain number for integer time. Categories are
    their codes, 0 for unknown. Censoring flags and names of covariates have no place there.
    """
    import pandas as pd

    alias = None if panel.frequency.kind == "integer" else _period_alias(panel.frequency)
    for i in range(len(panel)):
        begin, length = panel.begins[i], panel.lengths[i]
        when = panel.frequency.time(panel.starts[i : i + 1])[0]
        entry: dict[str, Any] = {
            "item_id": str(panel.ids[i]),
            "start": int(when) if alias is None else pd.Period(when, freq=alias),
            "target": np.array(panel.series(i)),
        }
        if panel.past:
            rows = [flat[begin : begin + length] for flat in panel.past.values()]
            entry[_ROWS_PAST] = np.stack(rows)
        if panel.known:
            first, size = panel.known_begins[i], panel.known_lengths[i]
            entry[_ROWS_KNOWN] = np.stack(
                [flat[first : first + size] for flat in panel.known.values()]
            )
        if panel.static_categorical:
            codes = [c.codes[i] for c in panel.static_categorical.values()]
            entry["feat_static_cat"] = np.array(codes, np.int64)
        if panel.static_real:
            values = [v[i] for v in panel.static_real.values()]
            entry["feat_static_real"] = np.array(values, np.float32)
        yield entry


def _period_alias(frequency: Frequency) -> str:
    """The alias pandas gives a Period: quarters and years are named by their last month."""
    if frequency.kind == "fixed":
        return frequency.alias
    names = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
    for months, letter in ((12, "Y"), (3, "Q"), (1, "M")):
        if frequency.step % months == 0:
            count = frequency.step // months
            last = frequency.phase if frequency.month_end else frequency.phase - 1
            anchor = "" if months == 1 else f"-{names[last % 12]}"
            return f"{count if count > 1 else ''}{letter}{anchor}"
    raise AssertionError("every step in months is a number of months")


def _grid(series: list[Mapping[str, Any]], frequency: str | Frequency | None) -> Frequency:
    if isinstance(frequency, Frequency):
        return frequency
    start = series[0]["start"]
    if frequency is None and hasattr(start, "freqstr"):
        frequency = start.freqstr
    if frequency is None and isinstance(start, (int, np.integer)):
        return Frequency()
    if frequency is None:
        raise DataError(
            f"the start {start!r} does not tell the frequency",
            hint="Pass frequency=, e.g. 'h' or 'W-SUN'",
        )
    if frequency in ("integer", "1"):
        return Frequency()
    moment = start.start_time if hasattr(start, "start_time") else start
    if str(frequency).startswith("W") and hasattr(start, "end_time"):
        moment = start.end_time.normalize()
    name = str(series[0].get("item_id", 0))
    grid = Frequency.parse(str(frequency), example=_moment(moment, name)[0])
    if grid.kind == "fixed" and grid.step in (86_400_000_000, 3_600_000_000, 60_000_000):
        grid = Frequency("fixed", grid.step)  # days begin at midnight, hours at minute 0
    return grid


def _start(start: Any, grid: Frequency, name: str) -> int:
    if grid.kind == "integer":
        if not isinstance(start, (int, np.integer)):
            raise DataError(
                f"the start {start!r} is not a period number",
                series=name,
                hint="Pass frequency= for dates",
            )
        return int(start)
    if hasattr(start, "end_time"):  # a Period: weeks and month ends are named by their last day
        weeks = grid.kind == "fixed" and grid.step % 604_800_000_000 == 0
        start = start.end_time.normalize() if weeks or grid.month_end else start.start_time
        return int(grid.index(np.array([_text(start)], "datetime64[us]"))[0])
    moment = _moment(start, name)
    if not grid.aligned(moment).all():
        raise DataError(
            f"the start {start!r} lies off the grid {grid.alias!r}",
            series=name,
            hint="Pass the frequency= of the data",
        )
    return int(grid.index(moment)[0])


def _moment(start: Any, name: str) -> NDArray[np.datetime64]:
    try:
        if isinstance(start, (int, np.integer)):
            raise ValueError("a number is no date")
        return np.array([_text(start)], "datetime64[us]")
    except ValueError as error:
        raise DataError(
            f"the start {start!r} is not a date", series=name, hint="Use ISO 8601"
        ) from error


def _text(moment: Any) -> str:
    if getattr(moment, "tzinfo", None) is not None:
        moment = moment.replace(tzinfo=None)
    return moment.isoformat() if hasattr(moment, "isoformat") else str(moment)


def _array(values: Any, name: str, key: str, dimensions: int) -> NDArray[np.float32]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            "the values are not numbers", column=key, series=name, hint="Use NaN for unknown"
        ) from error
    if array.ndim != dimensions:
        raise DataError(
            f"the array has {array.ndim} dimensions, not {dimensions}",
            column=key,
            series=name,
            hint="The target is (T,), dynamic features are (C, T)",
        )
    if np.isinf(array).any():
        row = int(np.isinf(array.ravel()).argmax())
        raise DataError(
            "the value is infinite", column=key, series=name, row=row, hint="Use NaN for unknown"
        )
    return array.astype(np.float32)


def _features(
    series: list[Mapping[str, Any]], ids: list[str], key: str, prefix: str
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    if key not in series[0]:
        extra = next((n for n, e in zip(ids, series, strict=True) if key in e), None)
        if extra is not None:
            raise DataError(
                f"the first series has no {key}, this one has",
                series=extra,
                hint="Give all series the same features",
            )
        return {}, np.array([len(np.asarray(e["target"])) for e in series], np.int64)
    arrays = []
    for name, entry in zip(ids, series, strict=True):
        if key not in entry:
            raise DataError(f"the series has no {key}", series=name, hint="All others have")
        arrays.append(_array(entry[key], name, key, 2))
        if arrays[-1].shape[0] != arrays[0].shape[0]:
            raise DataError(
                f"{key} has {arrays[-1].shape[0]} rows, the first series {arrays[0].shape[0]}",
                series=name,
                hint="Give all series the same features",
            )
    lengths = np.array([a.shape[1] for a in arrays], np.int64)
    flat = np.concatenate(arrays, axis=1)
    return {f"{prefix}_{j}": np.ascontiguousarray(flat[j]) for j in range(len(flat))}, lengths


def _static(series: list[Mapping[str, Any]], ids: list[str], key: str) -> list[NDArray]:
    if not any(key in entry for entry in series):
        return []
    rows: list[NDArray] = []
    for name, entry in zip(ids, series, strict=True):
        row = np.asarray(entry.get(key, []), np.float64)
        if rows and row.shape != rows[0].shape:
            raise DataError(
                f"{key} has {row.size} values, the first series {rows[0].size}",
                series=name,
                hint="Give all series the same attributes",
            )
        rows.append(row)
    return list(np.stack(rows).T)


def _begins(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
