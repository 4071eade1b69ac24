"""Cohorts in the layout of YAIB: three Parquet files of dynamic, outcome and static data.

van de Water et al., Yet Another ICU Benchmark, ICLR 2024: ``dyn.parquet`` has one row a stay and
hour with the 48 channels of its concept dictionary, ``outc.parquet`` the label of hours or stays,
``sta.parquet`` age, sex, height and weight.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from foretell.data.clinical.frames import stays_from_frame
from foretell.data.clinical.labels import CHALLENGE_LEAD
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError

_FILES = {"dynamic": "dyn.parquet", "outcome": "outc.parquet", "static": "sta.parquet"}
_STATIC = ("age", "height", "weight")


def read_yaib(
    folder: str | Path,
    *,
    hospital: str | None = None,
    schema: Schema | None = None,
    lead: float | None = CHALLENGE_LEAD,
) -> Stays:
    """Stays of a folder with ``dyn.parquet``, ``outc.parquet`` and ``sta.parquet``.

    The row of ``time`` t holds what was measured from hour t to hour t + 1 in the unit; it is known
    at the end of it, so it becomes hour t + 1. Inspired oxygen, a percentage there, becomes a
    fraction. Labels of hours that are 1 around an onset (6 hours before to 6 after, in the sepsis
    cohorts) give the onset: ``lead`` hours after the first 1. They may fall back to 0 afterwards.
    A label of whole stays (mortality, say) becomes the number ``outcome``.

    Args:
        folder: holds the three files; ``outc.parquet`` may be missing.
        hospital: put before every id and kept as a category.
        schema: the channels that are wanted, ``Schema.default().channels("yaib")`` by default.
        lead: hours by which the hourly label precedes the onset; None leaves the onset unknown.

    Raises:
        DataError: a file or column is missing, or a table cannot be read; the file is named.
    """
    folder = Path(folder)
    tables = {kind: _read(folder / name, kind != "outcome") for kind, name in _FILES.items()}
    dynamic, static, outcome = tables["dynamic"], tables["static"], tables["outcome"]
    assert dynamic is not None and static is not None
    schema = Schema.default().channels("yaib") if schema is None else schema
    frame = _keyed(dynamic, folder / _FILES["dynamic"], timed=True)
    for column in frame.columns:
        variable = schema.find(column)
        if variable is not None and variable.name == "FiO2":
            frame = frame.with_columns(_fraction(pl.col(column).cast(pl.Float64)))
    frame = frame.join(_described(static, folder / _FILES["static"]), on="id", how="left")
    label = onset = None
    if outcome is not None:
        file = folder / _FILES["outcome"]
        told = _keyed(outcome, file, timed="time" in outcome.columns)
        if "label" not in told.columns:
            raise DataError("the label is missing", file=str(file), column="label")
        if "hour" in told.columns:
            told = told.select("id", "hour", pl.col("label").cast(pl.Float64).fill_nan(None))
            frame = frame.join(told, on=["id", "hour"], how="left")
            label = "label"
            if lead is not None:
                first = told.filter(pl.col("label") == 1).group_by("id").agg(pl.col("hour").min())
                first = first.select("id", (pl.col("hour") + lead).cast(pl.Float64).alias("onset"))
                frame = frame.join(first, on="id", how="left")
                onset = "onset"
        else:
            told = told.select("id", pl.col("label").cast(pl.Float64).alias("outcome"))
            frame = frame.join(told, on="id", how="left")
    return stays_from_frame(
        frame, label_column=label, onset_column=onset, hospital=hospital, schema=schema,
        numbers=(*_STATIC, "outcome"), label_lead=None, source=str(folder),
    )  # fmt: skip


def _read(file: Path, needed: bool) -> pl.DataFrame | None:
    if not file.is_file():
        if not needed:
            return None
        raise DataError(
            "a file of the cohort is missing",
            file=str(file),
            hint=f"The folder holds {', '.join(_FILES.values())}",
        )
    try:
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"this is no readable Parquet file: {error}", file=str(file)) from error


def _keyed(frame: pl.DataFrame, file: Path, *, timed: bool) -> pl.DataFrame:
    """The table with ``id`` and, where it has times, ``hour``."""
    for column in ("stay_id", *(["time"] if timed else [])):
        if column not in frame.columns:
            raise DataError(
                "a needed column is missing",
                file=str(file),
                column=column,
                hint=f"The columns are {', '.join(frame.columns[:60])}",
            )
    stay = pl.col("stay_id")
    if frame["stay_id"].dtype.is_float():
        stay = stay.cast(pl.Int64)
    columns: list[pl.Expr | pl.Series] = [stay.cast(pl.String).alias("id")]
    if timed:
        columns.append((_hours(frame["time"], file) + 1).alias("hour"))
    return frame.select(*columns, pl.exclude("stay_id", "time"))


def _hours(time: pl.Series, file: Path) -> pl.Series:
    """Whole hours of a column of numbers, durations, or their text."""
    if time.dtype == pl.Duration:
        return (time.dt.total_minutes() / 60).floor().cast(pl.Int64)
    numbers = time.cast(pl.Float64, strict=False)
    if numbers.null_count() > time.null_count() or (time.null_count() and len(time)):
        raise DataError("a time is missing or no number of hours", file=str(file), column="time")
    return numbers.floor().cast(pl.Int64)


def _fraction(values: pl.Expr) -> pl.Expr:
    """Percentages as fractions; what is a fraction already stays."""
    return pl.when(values > 1).then(values / 100).otherwise(values)


def _described(static: pl.DataFrame, file: Path) -> pl.DataFrame:
    frame = _keyed(static, file, timed=False)
    columns = [pl.col("id")]
    for name in _STATIC:
        if name in frame.columns:
            columns.append(pl.col(name))
    if "sex" in frame.columns:
        sex = pl.col("sex").cast(pl.String).str.to_lowercase().str.slice(0, 1)
        columns.append(sex.replace_strict({"m": "male", "f": "female"}, default=None).alias("sex"))
    found = frame.select(columns)
    if found["id"].n_unique() != found.height:
        twice = str(found.filter(pl.col("id").is_duplicated())["id"][0])
        raise DataError("a stay is there twice", file=str(file), series=twice)
    return found
