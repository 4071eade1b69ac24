"""From irregular measurements to hours: the same rules for a table and for a live feed.

Hour k covers (k - 1, k] on the unit's clock: a value belongs to the hour at whose end it can be
used. Several values of one hour become their median. A measurement has two times, that of the
specimen and that of its arrival: what predicts goes by arrival, what looks back goes by specimen.
By arrival, a late result is the news of its hour even where a fresher specimen came before it, but
not if its specimen was older than two days by then: that says nothing of now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.columns import Notes, stay_numbers
from foretell.data.clinical.doubts import MAX_AGE, OLD_SPECIMEN
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import LONGEST_STAY, Stays
from foretell.data.panel import Categorical, DataNote
from foretell.errors import DataError, ParameterError

Clock = Literal["arrival", "specimen"]


class Observation(NamedTuple):
    """One measurement of one stay.

    Args:
        channel: name of the variable.
        value: in the canonical unit.
        time: hours since admission at which the specimen was taken.
        arrival: hours since admission at which the value became known; ``time`` where None.
        source: what tells one message from another; a repeated (channel, time, source) is one.
    """

    channel: str
    value: float
    time: float
    arrival: float | None = None
    source: str | None = None


def hour_of(time: float) -> int:
    """The hour k with time in (k - 1, k]; hour 1 also takes time 0, the admission itself."""
    return max(math.ceil(time), 1) if time >= 0 else math.ceil(time)


def bin_observations(
    observations: pl.DataFrame,
    stays: pl.DataFrame,
    *,
    schema: Schema | None = None,
    clock: Clock = "arrival",
    max_age: float | None = MAX_AGE,
    categories: tuple[str, ...] = ("site", "hospital", "unit", "sex"),
    numbers: tuple[str, ...] = ("age", "admission"),
) -> Stays:
    """Hourly stays from a long table of measurements.

    Args:
        observations: columns ``id``, ``channel`` (name or alias), ``value``, ``time`` (hours since
            admission), and if given ``arrival`` (hours), ``unit``, ``source``.
        stays: one row a stay: ``id``, and if given ``patient``, ``hours`` (length; else up to the
            last measurement), ``onset``, categories and numbers.
        schema: the channels that are wanted, the 34 of the 2019 challenge by default.
        clock: ``"arrival"`` bins values when they became known, as a prediction must;
            ``"specimen"`` when they were true, for looking back.
        max_age: hours after which a specimen is too old to count when its result arrives; None for
            no limit. Looking back, no specimen is too old.
        categories: columns of ``stays`` in words.
        numbers: columns of ``stays`` in numbers.

    Repeated rows (same stay, channel, specimen time, source and value) count once. Rows of unknown
    channels or stays, without a finite value or time, from before the first hour or that arrive
    before their specimen was taken are left out; everything of this kind is counted in the notes.

    Raises:
        DataError: a column is missing, or a stay is there twice.
    """
    schema = Schema.default().channels("p19") if schema is None else schema
    if clock not in ("arrival", "specimen"):
        raise ParameterError(f"clock must be 'arrival' or 'specimen', not {clock!r}")
    for name, table, needed in (
        ("observations", observations, ("id", "channel", "value", "time")),
        ("stays", stays, ("id",)),
    ):
        for column in needed:
            if column not in table.columns:
                raise DataError("a needed column is missing", file=name, column=column)
    ids = stays["id"].cast(pl.String)
    if ids.n_unique() != len(ids):
        again = str(ids.filter(ids.is_duplicated())[0])
        raise DataError("a stay is there twice", file="stays", series=again)
    if ids.null_count():
        raise DataError("a stay has no id", file="stays", row=int(ids.is_null().arg_max() or 0))
    notes: list[DataNote] = []
    told_notes = Notes()

    def told(name: str) -> NDArray[np.float64]:
        values = stay_numbers(stays[name], name, told_notes).fill_null(np.nan)
        return values.to_numpy().astype(np.float64)

    def drop(frame: pl.DataFrame, keep: pl.Expr, kind: str, text: str) -> pl.DataFrame:
        kept = frame.filter(keep)
        if lost := frame.height - kept.height:
            notes.append(DataNote(kind, text.format(n=f"{lost:,}"), lost))
        return kept

    table = _in_canonical_units(observations, schema, ids, notes)
    table = drop(
        table,
        pl.col("value").is_finite() & pl.col("time").is_finite() & pl.col("arrival").is_finite(),
        "not_finite",
        "{n} measurements without a value or a time were left out",
    )
    table = drop(
        table,
        pl.col("arrival") >= pl.col("time"),
        "before_specimen",
        "{n} measurements arrived before their specimen was taken and were left out",
    )
    keys = ["stay", "code", "time", "source", "value"]
    repeated = table.height - table.n_unique(keys)
    if repeated:
        text = f"{repeated:,} repeated measurements count once"
        notes.append(DataNote("duplicate", text, repeated))
        # The first arrival counts: by then the value was known.
        table = table.group_by(keys, maintain_order=True).agg(pl.col("arrival").min())
    if clock == "arrival" and max_age is not None:
        table = drop(
            table,
            pl.col("arrival") - pl.col("time") <= max_age,
            OLD_SPECIMEN,
            "{n} measurements were of a specimen too old when they arrived and were left out",
        )
    when = pl.col("arrival" if clock == "arrival" else "time")
    # Whole numbers end somewhere; times beyond are those of no stay.
    hour = when.clip(-(2.0**53), 2.0**53).ceil().cast(pl.Int64)
    table = table.with_columns(
        pl.when((hour == 0) & (when == 0)).then(1).otherwise(hour).alias("hour")
    )
    table = drop(
        table, pl.col("hour") >= 1, "before_start", "{n} measurements before the first hour"
    )
    lengths = _lengths(stays, table)
    ends = pl.DataFrame({"stay": np.arange(len(ids)), "last": lengths})
    table = table.join(ends, on="stay", how="left")
    table = drop(
        table, pl.col("hour") <= pl.col("last"), "after_end", "{n} measurements after the last hour"
    )
    binned = table.group_by("stay", "code", "hour").agg(pl.col("value").median())
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(ids)]
    place = begins[binned["stay"].to_numpy()] + binned["hour"].to_numpy() - 1
    codes, values = binned["code"].to_numpy(), binned["value"].to_numpy()
    channels = {}
    for i, name in enumerate(schema.names):
        filled = np.full(int(lengths.sum()), np.nan, np.float32)
        mine = codes == i
        filled[place[mine]] = values[mine]
        channels[name] = filled
    names = np.array([*ids.to_list(), None], object)[:-1]
    patients = names
    if "patient" in stays.columns:
        # Stays whose patient is not known must not become one patient.
        patients = np.array([*stays["patient"].cast(pl.String).fill_null(ids), None], object)[:-1]
    onset = np.full(len(ids), np.nan)
    if "onset" in stays.columns:
        onset = told("onset")
    return Stays(
        names,
        patients,
        begins,
        lengths,
        np.ones(len(ids), np.int64),
        channels,
        schema,
        None,
        onset,
        {
            c: Categorical.from_values(stays[c].cast(pl.String).to_list())
            for c in categories
            if c in stays.columns
        },
        {c: told(c) for c in numbers if c in stays.columns},
        (*notes, *told_notes.found),
    )


def _in_canonical_units(
    observations: pl.DataFrame, schema: Schema, ids: pl.Series, notes: list[DataNote]
) -> pl.DataFrame:
    """Columns stay, code, value, time, arrival, source; unknown channels and units left out."""
    frame = observations
    if "arrival" not in frame.columns:
        frame = frame.with_columns(pl.col("time").alias("arrival"))
    if "source" not in frame.columns:
        frame = frame.with_columns(pl.lit("").alias("source"))
    if "unit" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.String).alias("unit"))
    pairs = frame.select(pl.col("channel").cast(pl.String), pl.col("unit").cast(pl.String)).unique(
        maintain_order=True
    )
    order = {name: i for i, name in enumerate(schema.names)}
    codes, factors, offsets, unknown = [], [], [], set()
    for channel, unit in pairs.iter_rows():
        variable = None if channel is None else schema.find(channel)
        code = None if variable is None else order[variable.name]
        zero, one = 0.0, 1.0
        if variable is None:
            unknown.add(str(channel))
        else:
            try:
                zero, one = schema.convert(variable.name, [0.0, 1.0], unit)
            except DataError:
                unknown.add(f"{channel} in {unit}")
                code = None
        codes.append(code)
        offsets.append(float(zero))
        factors.append(float(one - zero))
    pairs = pairs.with_columns(
        pl.Series("code", codes, pl.Int64),
        pl.Series("factor", factors, pl.Float64),
        pl.Series("offset", offsets, pl.Float64),
    )
    where = pl.DataFrame({"id": ids, "stay": np.arange(len(ids))})
    joined = (
        frame.with_columns(
            pl.col("channel").cast(pl.String),
            pl.col("unit").cast(pl.String),
            pl.col("id").cast(pl.String),
        )
        .join(pairs, on=["channel", "unit"], how="left", nulls_equal=True, maintain_order="left")
        .join(where, on="id", how="left", maintain_order="left")
    )
    for column, kind, text in (
        ("code", "unknown_channel", f"measurements of no known channel: {sorted(unknown)[:12]}"),
        ("stay", "unknown_stay", "measurements of no known stay"),
    ):
        lost = joined[column].null_count()
        if lost:
            notes.append(DataNote(kind, f"{lost:,} {text} were left out", lost))
            joined = joined.filter(pl.col(column).is_not_null())
    number = pl.col("value").cast(pl.Float64, strict=False)
    time = pl.col("time").cast(pl.Float64, strict=False)
    return joined.select(
        "stay",
        "code",
        (number * pl.col("factor") + pl.col("offset")).fill_null(np.nan).alias("value"),
        time.fill_null(np.nan),
        # Without an arrival that of the specimen counts; one that cannot be read is not known.
        pl.when(pl.col("arrival").is_null())
        .then(time)
        .otherwise(pl.col("arrival").cast(pl.Float64, strict=False))
        .fill_null(np.nan)
        .alias("arrival"),
        pl.col("source").cast(pl.String).fill_null(""),
    )


def _lengths(stays: pl.DataFrame, table: pl.DataFrame) -> NDArray[np.int64]:
    """(N,) hours of each stay: as stated, else up to its last measurement, at least one."""
    last = np.ones(stays.height, np.int64)
    if "hours" in stays.columns:
        hours = stays["hours"].cast(pl.Float64, strict=False)
        known = hours.is_finite().fill_null(False)
        if not known.all():
            row = int(known.arg_min() or 0)
            raise DataError(
                f"the hours of a stay are {stays['hours'][row]!r}, no number",
                file="stays", column="hours", series=str(stays["id"][row]), row=row,
            )  # fmt: skip
        last = np.maximum(hours.to_numpy(), 0).clip(max=2.0**53).astype(np.int64)
    else:
        np.maximum.at(last, table["stay"].to_numpy(), table["hour"].to_numpy())
    if len(last) and last.max() > LONGEST_STAY:
        at = int(last.argmax())
        raise DataError(
            f"a stay spans {last[at]:,} hours",
            series=str(stays["id"][at]),
            hint="Check its times: they count hours since admission",
        )
    return last


class HourlyBinner:
    """The live form of :func:`bin_observations` for one stay, by arrival.

    Values are given in any order as they arrive; closing an hour gives its row. What arrives for
    an hour that is closed goes into the hour that is open: its arrival is now, whatever a late
    interface claims. The binner holds the values of open hours and the keys of all.

    Args:
        schema: of the channels.
        max_age: hours after which a specimen is too old to count when its result arrives.

    Attributes:
        stale: values that were left out because of that.
    """

    def __init__(self, schema: Schema, *, max_age: float | None = MAX_AGE) -> None:
        self._names = {name: i for i, name in enumerate(schema.names)}
        self._values: dict[int, dict[int, dict[tuple[float, str, float], None]]] = {}
        # Redeliveries may come days later, so keys of closed hours are kept, too.
        self._seen: set[tuple[int, float, str, float]] = set()
        self._max_age = math.inf if max_age is None else max_age
        self.closed = self.stale = 0

    def add(self, observation: Observation) -> bool:
        """Takes a value; False where it is left out.

        So are a redelivery, what is from before the first hour, and what is of too old a specimen.

        Raises:
            DataError: the channel is not known, or value or time is not finite.
        """
        channel = self._names.get(observation.channel)
        if channel is None:
            raise DataError("the channel is not known", column=observation.channel)
        arrival = observation.time if observation.arrival is None else observation.arrival
        numbers = (observation.value, observation.time, arrival)
        if not all(map(math.isfinite, numbers)):
            raise DataError("a value or a time is not finite", column=observation.channel)
        if arrival < observation.time:
            raise DataError(
                "a value arrived before its specimen was taken", column=observation.channel
            )
        source = observation.source or ""
        key = (channel, observation.time, source, observation.value)
        hour = hour_of(arrival)
        if key in self._seen or hour < 1:
            return False
        self._seen.add(key)
        if max(arrival, self.closed) - observation.time > self._max_age:
            self.stale += 1
            return False
        hour = max(hour, self.closed + 1)
        self._values.setdefault(hour, {}).setdefault(channel, {})[key[1:]] = None
        return True

    def close(self, hour: int) -> NDArray[np.float32]:
        """(C,) the row of the next hour, which must be ``closed + 1``.

        Raises:
            ParameterError: hours are closed out of order.
        """
        if hour != self.closed + 1:
            raise ParameterError(f"hour {hour} cannot be closed after hour {self.closed}")
        row = np.full(len(self._names), np.nan, np.float32)
        for channel, values in self._values.pop(hour, {}).items():
            row[channel] = np.median(np.array([value for _, _, value in values]))
        self.closed = hour
        return row


def as_row(values: Mapping[str, ArrayLike], schema: Schema) -> NDArray[np.float32]:
    """(C,) a row from values by channel name; the others are NaN.

    Raises:
        ParameterError: a name is not a channel.
    """
    order = {name: i for i, name in enumerate(schema.names)}
    row = np.full(len(schema), np.nan, np.float32)
    for name, value in values.items():
        if name not in order:
            schema[name]
        row[order[name]] = value
    return row
