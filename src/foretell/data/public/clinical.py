"""Public data sets of intensive care as :class:`~foretell.data.clinical.Stays`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from foretell.data.clinical.binning import bin_observations
from foretell.data.clinical.psv import challenge_stays, read_psv
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays, concatenate
from foretell.data.panel import DataNote
from foretell.errors import DataError, ParameterError

HOSPITALS = ("A", "B")
FOUR_SITES = ("A-MICU", "A-SICU", "B-MICU", "B-SICU")
"""Hospital and type of unit: the natural sites of the 2019 challenge with a known unit."""


def physionet2019(
    folder: Path, *, hospitals: tuple[str, ...] = HOSPITALS, schema: Schema | None = None,
    stays: int | None = None,
) -> Stays:  # fmt: skip
    """40,336 stays in intensive care of two hospitals, hourly, labelled with sepsis.

    ``stays.of("site", *FOUR_SITES)`` are the four natural sites, ``stays.by("site")`` all six with
    those whose unit is unknown.

    Args:
        folder: holds ``training_setA.parquet`` and ``training_setB.parquet``, or the folders
            ``training_setA`` and ``training_setB`` with the original ``.psv`` files.
        hospitals: which of them.
        schema: the channels that are wanted, the challenge's 34 by default.
        stays: only the first so many, without reading the others; all by default.
    """
    if stays is not None and stays < 1:
        raise ParameterError(f"stays must be at least 1, or None for all, not {stays}")
    if not hospitals or not set(hospitals) <= set(HOSPITALS):
        raise ParameterError(f"hospitals must be among {HOSPITALS}, not {hospitals}")
    parts: list[Stays] = []
    for hospital in hospitals:
        left = None if stays is None else stays - sum(len(part) for part in parts)
        if left is not None and left < 1:
            break
        table, texts = (folder / f"training_set{hospital}{end}" for end in (".parquet", ""))
        if table.is_file():
            rows = pl.scan_parquet(table)
            if left is not None:
                names = rows.select(pl.col("patient_id").unique(maintain_order=True)).collect()
                rows = rows.filter(pl.col("patient_id").is_in(names["patient_id"][:left].implode()))
            frame = rows.collect()
            parts.append(
                challenge_stays(frame, hospital=hospital, schema=schema, source=str(table))
            )
        elif texts.is_dir():
            files: Path | list[Path] = texts
            if left is not None:
                files = sorted(texts.glob("*.psv"))[:left] or texts
            parts.append(read_psv(files, hospital=hospital, schema=schema))
        else:
            raise DataError(
                f"hospital {hospital} is not here",
                file=str(folder),
                hint=f"Put {table.name} or the folder {texts.name} there",
            )
    return concatenate(parts)


_ICU_TYPES = {1.0: "CCU", 2.0: "CSRU", 3.0: "MICU", 4.0: "SICU"}
_DESCRIBED = ("Age", "Gender", "Height", "ICUType", "RecordID", "MechVent", "Weight")
# Where a stay has both, the arterial line is the better instrument.
_CUFF = {"NISysABP": "SysABP", "NIDiasABP": "DiasABP", "NIMAP": "MAP"}


def physionet2012(
    folder: Path, *, sets: tuple[str, ...] = ("a", "b", "c"), schema: Schema | None = None
) -> Stays:
    """12,000 stays in intensive care: the first 48 hours, with death in hospital.

    Values of one hour become their median, urine its sum; invasive and cuff pressures are one
    channel, the invasive ones first. ``stays.by("unit")`` are four types of unit: CCU, CSRU, MICU,
    SICU; ``stays.number("died")`` is death in hospital (0 or 1), ``length_of_stay`` in days;
    ``age``, ``height`` (cm) and ``weight`` (kg, at admission) are NaN where not known. There is no
    onset: the label is one of the stay.

    Args:
        folder: holds ``set_a.parquet`` and ``Outcomes-a.txt``, and so on.
        sets: which of them.
        schema: the channels that are wanted, those of this data set by default.
    """
    if not sets or not set(sets) <= {"a", "b", "c"}:
        raise ParameterError(f"sets must be among 'a', 'b' and 'c', not {sets}")
    schema = Schema.default().channels("p12") if schema is None else schema
    parts = []
    for name in sets:
        long = pl.read_parquet(folder / f"set_{name}.parquet").select(
            pl.col("RecordID").cast(pl.String).alias("id"),
            pl.col("Parameter").cast(pl.String).alias("channel"),
            (pl.col("Time_min") / 60).alias("time"),
            pl.col("Value").alias("value"),
        )
        parts.append(_set_2012(folder, name, long, schema))
    return concatenate(parts)


def _set_2012(folder: Path, name: str, long: pl.DataFrame, schema: Schema) -> Stays:
    def once(channel: str, unknown: float = -1) -> pl.DataFrame:
        rows = long.filter(pl.col("channel") == channel, pl.col("time") == 0)
        rows = rows.filter(pl.col("value") != unknown)
        return rows.group_by("id", maintain_order=True).agg(pl.col("value").first())

    outcomes = pl.read_csv(folder / f"Outcomes-{name}.txt").select(
        pl.col("RecordID").cast(pl.String).alias("id"),
        pl.col("In-hospital_death").cast(pl.Float64).alias("died"),
        pl.when(pl.col("Length_of_stay") >= 0)
        .then(pl.col("Length_of_stay").cast(pl.Float64))
        .alias("length_of_stay"),
    )
    table = long.select("id").unique(maintain_order=True)
    for channel, column in (
        ("Age", "age"),
        ("Height", "height"),
        ("Weight", "weight"),
        ("Gender", "sex"),
        ("ICUType", "unit"),
    ):
        table = table.join(
            once(channel).rename({"value": column}), on="id", how="left", maintain_order="left"
        )
    words = {"sex": {0.0: "female", 1.0: "male"}, "unit": _ICU_TYPES}
    table = table.with_columns(
        pl.col(c).replace_strict(w, default=None, return_dtype=pl.String) for c, w in words.items()
    ).with_columns(pl.lit(48).alias("hours"), pl.lit(f"set {name}").alias("hospital"))
    table = table.join(outcomes, on="id", how="left", maintain_order="left")
    unnamed = long.filter(pl.col("channel").is_null() | (pl.col("channel") == "")).height
    charted = long.filter(
        pl.col("channel").is_not_null()
        & (pl.col("channel") != "")
        & ~pl.col("channel").is_in(_DESCRIBED)
        & (pl.col("value") != -1)
    ).with_columns(pl.col("time").ceil().clip(1, None).alias("hour"))
    cuff = charted.filter(pl.col("channel").is_in(list(_CUFF)))
    cuff = cuff.with_columns(pl.col("channel").replace(_CUFF))
    line = charted.filter(~pl.col("channel").is_in(list(_CUFF)))
    keys = ["id", "channel", "hour"]
    spare = cuff.join(line.select(keys).unique(), on=keys, how="anti")
    urine = pl.col("channel") == "Urine"
    sums = (
        line.filter(urine)
        .group_by(keys, maintain_order=True)
        .agg(pl.col("value").sum(), pl.col("time").max())
    )
    columns = ["id", "channel", "time", "value"]
    observations = pl.concat(
        [line.filter(~urine).select(columns), spare.select(columns), sums.select(columns)]
    )
    stays = bin_observations(
        observations,
        table,
        schema=schema,
        categories=("sex", "unit", "hospital"),
        numbers=("age", "height", "weight", "died", "length_of_stay"),
    )
    notes = stays.notes
    if unnamed:
        text = f"{unnamed:,} measurements without a name were left out"
        notes += (DataNote("unnamed", text, unnamed),)
    died = stays.number("died")
    if np.isnan(died).any():
        at = str(stays.ids[int(np.argmax(np.isnan(died)))])
        raise DataError(
            "a stay has no outcome", file=str(folder / f"Outcomes-{name}.txt"), series=at
        )
    return replace(stays, notes=notes)
