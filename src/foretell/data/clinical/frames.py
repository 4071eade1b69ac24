"""From a table with one row an hour to :class:`Stays`: what is odd is counted or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.clinical.columns import Notes, numeric, stay_numbers
from foretell.data.clinical.labels import CHALLENGE_LEAD, onset_from_label
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import LONGEST_STAY, Stays
from foretell.data.panel import Categorical
from foretell.data.readers import read_table
from foretell.errors import DataError

CATEGORIES = ("site", "hospital", "unit", "sex")
NUMBERS = ("age", "admission")
_ROW = "__row"


def stays_from_frame(
    table: Any,
    *,
    id_column: str = "id",
    hour_column: str = "hour",
    label_column: str | None = None,
    onset_column: str | None = None,
    hospital: str | None = None,
    schema: Schema | None = None,
    categories: Sequence[str] = CATEGORIES,
    numbers: Sequence[str] = NUMBERS,
    label_lead: float | None = CHALLENGE_LEAD,
    source: str | None = None,
) -> Stays:
    """Stays from a table with one row a stay and hour.

    Columns are found by the names and aliases of the schema; ``patient`` and the columns of
    ``categories`` and ``numbers`` describe a stay. Hours without a row become hours without a
    measurement; several rows of one hour become one with the median of each channel; rows out of
    order are sorted; text is read as :func:`~foretell.data.clinical.tokens.read_token` does, with
    its unit. Values outside the possible bounds stay, for a quality monitor to judge. Everything
    of this kind is counted in :attr:`Stays.notes`.

    Args:
        table: polars, pandas or Arrow, or the path of a Parquet or CSV file.
        id_column: name of the stay.
        hour_column: whole hours on the unit's clock, 1 = the first hour.
        label_column: 0 or 1 an hour; from it follows the onset.
        onset_column: hour of onset, the same in all rows of a stay.
        hospital: put before every id (``"A/1"``) and kept as a category, so that stays of two
            hospitals are never taken for one.
        schema: the channels that are wanted, ``Schema.default().channels("p19")`` by default.
        categories: columns that describe a stay in words.
        numbers: columns that describe a stay in numbers.
        label_lead: hours by which the label precedes the onset; None leaves the onset unknown.
        source: named in errors.

    Raises:
        DataError: a needed column is missing, an id or hour is missing or not whole, two columns
            are the same variable, a label is not 0 or 1 or falls back to 0, two hospitals have
            given one id.
    """
    frame = read_table(table) if not isinstance(table, pl.DataFrame) else table
    schema = Schema.default().channels("p19") if schema is None else schema
    notes = Notes()
    for needed in (id_column, hour_column, label_column, onset_column):
        if needed is not None and needed not in frame.columns:
            raise DataError(
                "a needed column is missing",
                file=source,
                column=needed,
                hint=f"The columns are {', '.join(frame.columns[:60])}",
            )
    if frame.height == 0:
        raise DataError("the table has no row", file=source)
    given = {id_column, hour_column, label_column, onset_column, "patient", *categories, *numbers}
    channels = _channels(frame, schema, given, notes, source)
    frame = frame.with_row_index(_ROW)
    hours = _whole_hours(frame, hour_column, source)
    if frame[id_column].null_count():
        row = int(frame[id_column].is_null().arg_max() or 0)
        raise DataError("a row has no id", file=source, column=id_column, row=row)
    described = [c for c in ("patient", *categories, *numbers) if c in frame.columns]
    columns = [
        pl.col(_ROW),
        pl.col(id_column).cast(pl.String).alias("id"),
        pl.Series("hour", hours),
        *(numeric(frame[column], schema, name, notes) for name, column in channels.items()),
        *(
            (stay_numbers(frame[c], c, notes) if c in numbers else frame[c]).alias(f"stay_{c}")
            for c in described
        ),
    ]
    if label_column is not None:
        columns.append(_label(frame[label_column], source).alias("label"))
    if onset_column is not None:
        columns.append(stay_numbers(frame[onset_column], onset_column, notes).alias("stay_onset"))
    frame = frame.select(columns)
    if "hospital" in described:
        _one_hospital_each(frame, source)
    frame = _ordered(frame, list(channels), label_column is not None, notes)
    return _assemble(
        frame, schema, channels, described, categories, hospital, label_lead, notes, source
    )


def _channels(
    frame: pl.DataFrame, schema: Schema, given: set[str | None], notes: Notes, source: str | None
) -> dict[str, str]:
    found: dict[str, str] = {}
    unknown = []
    for column in frame.columns:
        if column in given:
            continue
        variable = schema.find(column)
        if variable is None:
            unknown.append(column)
            continue
        if variable.name in found:
            raise DataError(
                f"columns {found[variable.name]!r} and {column!r} are both {variable.name}",
                file=source,
                hint="Keep one of them",
            )
        found[variable.name] = column
    text = f"{{n}} columns are not among the variables and were left out: {', '.join(unknown[:20])}"
    notes.add("unknown_column", text, len(unknown))
    if not found:
        raise DataError(
            "no column is a variable of the schema",
            file=source,
            hint=f"Name columns as {', '.join(schema.names[:8])}, ...",
        )
    return {name: found[name] for name in schema.names if name in found}


def _whole_hours(frame: pl.DataFrame, column: str, source: str | None) -> NDArray[np.int64]:
    numbers = frame[column].cast(pl.Float64, strict=False).to_numpy()
    bad = ~np.isfinite(numbers) | (numbers != np.round(numbers)) | (np.abs(numbers) > 1e9)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"an hour is missing or not whole: {frame[column][row]!r}",
            file=source,
            column=column,
            row=row,
            hint="Bin irregular times first, with bin_observations",
        )
    return numbers.astype(np.int64)


def _label(label: pl.Series, source: str | None) -> pl.Series:
    numbers = label.cast(pl.Float64, strict=False)
    # NaN is no label, as a gap is none; another word is not taken for one.
    bad = ~numbers.is_in([0.0, 1.0]).fill_null(label.is_null()) & ~numbers.is_nan().fill_null(False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"a label is {label[row]!r}, not 0 or 1", file=source, column=label.name, row=row
        )
    return numbers.fill_nan(None).cast(pl.Int8)


def _one_hospital_each(frame: pl.DataFrame, source: str | None) -> None:
    """Refuses an id that two hospitals have given: their patients would become one."""
    # What is no hospital's name is not known, as where stays take it.
    named = frame["stay_hospital"].cast(pl.String)
    hospital = named.set(named.is_in(["", "NaN"]), None)
    kinds = (
        frame.select("id", hospital)
        .group_by("id", maintain_order=True)
        .agg(pl.col("stay_hospital").drop_nulls().n_unique())
    )
    shared = kinds.filter(pl.col("stay_hospital") > 1)
    if shared.height:
        raise DataError(
            f"{shared.height:,} ids are of stays of two hospitals",
            file=source,
            series=shared["id"][0],
            hint="Write the hospital before the id ('A/1'), or read each with hospital=...",
        )


def _ordered(
    frame: pl.DataFrame, channels: list[str], labelled: bool, notes: Notes
) -> pl.DataFrame:
    """Stays in order of appearance, hours ascending and unique."""
    codes = frame["id"].to_physical() if frame["id"].dtype != pl.String else frame["id"]
    same = (codes == codes.shift(1)).fill_null(False)
    backwards = same & (frame["hour"] < frame["hour"].shift(1)).fill_null(False)
    runs = int((~same).sum())
    stays = frame["id"].n_unique()
    series = frame["id"].filter(backwards)
    notes.add(
        "out_of_order",
        "{n} rows come before an earlier hour of their stay and were sorted",
        int(backwards.sum()),
        str(series[0]) if len(series) else None,
    )
    notes.add("split_stay", "{n} pieces of stays apart from each other were joined", runs - stays)
    if runs != stays or backwards.any():
        order = frame.group_by("id", maintain_order=True).agg(pl.col(_ROW).first().alias("__at"))
        frame = frame.join(order, on="id", how="left").sort("__at", "hour", _ROW).drop("__at")
    again = (frame["id"] == frame["id"].shift(1)) & (frame["hour"] == frame["hour"].shift(1))
    count = int(again.fill_null(False).sum())
    if count:
        first = str(frame["id"].filter(again.fill_null(False))[0])
        text = "{n} further rows of an hour that is there already: channels take the median"
        notes.add("duplicate_hour", text, count, first)
        values = [pl.col(f"channel_{c}").fill_nan(None).median() for c in channels]
        told = [pl.col(c).drop_nulls().first() for c in frame.columns if c.startswith("stay_")]
        label = [pl.col("label").max()] if labelled else []
        frame = frame.group_by("id", "hour", maintain_order=True).agg(
            pl.col(_ROW).first(),
            *(v.cast(pl.Float32).fill_null(np.nan) for v in values),
            *told,
            *label,
        )
    return frame


def _assemble(
    frame: pl.DataFrame,
    schema: Schema,
    channels: dict[str, str],
    described: list[str],
    categories: Sequence[str],
    hospital: str | None,
    label_lead: float | None,
    notes: Notes,
    source: str | None,
) -> Stays:
    ids = frame["id"]
    new = (ids != ids.shift(1)).fill_null(True).to_numpy()
    first = np.flatnonzero(new)
    last = np.concatenate([first[1:], [frame.height]]) - 1
    hours = frame["hour"].to_numpy()
    starts = hours[first].astype(np.int64)
    lengths = hours[last] - starts + 1
    names = ids.gather(first)
    if lengths.max() > LONGEST_STAY:
        at = int(np.argmax(lengths))
        raise DataError(
            f"a stay spans {lengths[at]:,} hours, from {starts[at]} to {hours[last[at]]}",
            file=source,
            series=str(names[at]),
            hint="Check its hours: they count hours since admission",
        )
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    stay = np.cumsum(new) - 1
    place = begins[stay] + hours - starts[stay]
    total = int(lengths.sum())
    notes.add("gap", "{n} hours without a row are hours without a measurement", total - len(place))
    columns: dict[str, NDArray[np.float32]] = {}
    measured = np.zeros(total, bool)
    for name in schema.names:
        column = np.full(total, np.nan, np.float32)
        if name in channels:
            column[place] = frame[f"channel_{name}"].to_numpy()
        measured |= ~np.isnan(column)
        columns[name] = column
    never = [name for name, column in columns.items() if np.isnan(column).all()]
    notes.add(
        "never_measured", f"{{n}} channels are never measured: {', '.join(never)}", len(never)
    )
    silent = np.add.reduceat(measured, begins) == 0
    mute = str(names[int(np.argmax(silent))]) if silent.any() else None
    notes.add(
        "no_measurement", "{n} stays without any measurement are kept", int(silent.sum()), mute
    )
    prefix = "" if hospital is None else f"{hospital}/"
    full = np.array([f"{prefix}{n}" for n in names], object)
    label = None
    onset = np.full(len(names), np.nan)
    if "label" in frame.columns:
        label = _spread(frame["label"], place, total, begins, lengths)
        if label_lead is not None and (label >= 0).any():
            known = _carried(label, begins, lengths, notes)
            onset = _onset(known, starts, lengths, label_lead, full, source)
    told = _per_stay(frame, described, stay, notes)
    if "stay_onset" in frame.columns:
        given = _per_stay(frame, ["onset"], stay, notes)["onset"]
        onset = given.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
    words = {c: Categorical.from_values(_words(told[c])) for c in categories if c in told}
    if hospital is not None:
        words["hospital"] = Categorical(np.ones(len(names), np.int32), (hospital,))
    numbers = {
        c: told[c].cast(pl.Float64).to_numpy().astype(np.float64)
        for c in described
        if c not in categories and c != "patient"
    }
    patients = full
    if "patient" in told:
        # Stays whose patient is not known must not become one patient.
        patients = np.array(
            [own if p is None else f"{prefix}{p}" for p, own in zip(told["patient"], full,
                                                                   strict=True)], object
        )  # fmt: skip
    return Stays(
        full, patients, begins, lengths, starts, columns, schema, label, onset, words, numbers,
        tuple(notes.found),
    )  # fmt: skip


def _spread(
    label: pl.Series,
    place: NDArray[np.int64],
    total: int,
    begins: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.int8]:
    """The label on the full grid; hours that were inserted take the one before."""
    result = np.full(total, -1, np.int8)
    result[place] = label.fill_null(-1).to_numpy()
    if len(place) < total:
        inserted = np.ones(total, bool)
        inserted[place] = False
        last = np.where(inserted, 0, np.arange(total))
        # A stay's first row is never inserted, so nothing is carried across stays.
        result = result[np.maximum.accumulate(last)]
    return result


def _carried(
    label: NDArray[np.int8],
    begins: NDArray[np.int64],
    lengths: NDArray[np.int64],
    notes: Notes,
) -> NDArray[np.int8]:
    """The label where every hour that has none takes that of the hour before, 0 at first."""
    unknown = label < 0
    if not unknown.any():
        return label
    wholly = np.add.reduceat(~unknown, begins) == 0
    inside = unknown & ~np.repeat(wholly, lengths)
    text = "{n} hours without a label take that of the hour before for the onset"
    notes.add("no_label", text, int(inside.sum()))
    text = "{n} stays without any label count as stays without an onset"
    notes.add("unlabelled_stay", text, int(wholly.sum()))
    last = np.where(unknown, np.repeat(begins, lengths), np.arange(len(label)))
    return np.maximum(label[np.maximum.accumulate(last)], 0)


def _onset(
    label: NDArray[np.int8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    lead: float,
    names: NDArray[np.object_],
    source: str | None,
) -> NDArray[np.float64]:
    try:
        return onset_from_label(label, starts, lengths, lead)
    except DataError as error:
        row = error.row or 0
        at = int(np.searchsorted(np.cumsum(lengths), row, side="right"))
        raise DataError(
            error.problem,
            file=source,
            column="label",
            series=str(names[at]),
            hint=error.hint,
        ) from None


def _per_stay(
    frame: pl.DataFrame,
    described: list[str],
    stay: NDArray[np.int64],
    notes: Notes,
) -> dict[str, pl.Series]:
    """What describes each stay: its first known value; contradictions are counted."""
    told = {}
    for name in described:
        values = frame[f"stay_{name}"]
        if values.dtype.is_float():
            values = values.fill_nan(None)
        grouped = (
            pl.DataFrame({"stay": stay, "value": values})
            .group_by("stay", maintain_order=True)
            .agg(
                pl.col("value").drop_nulls().first(),
                pl.col("value").drop_nulls().n_unique().alias("kinds"),
            )
        )
        text = f"{{n}} stays contradict themselves in {name}: the first entry counts"
        notes.add("contradiction", text, int((grouped["kinds"] > 1).sum()))
        told[name] = grouped["value"]
    return told


def _words(values: pl.Series) -> list[str | None]:
    return [None if v is None or v == "" else str(v) for v in values.to_list()]
