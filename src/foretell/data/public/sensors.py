"""Counts, loads and rates: hourly, half-hourly and daily series."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from foretell.data.frames import from_polars
from foretell.data.panel import Panel
from foretell.errors import ParameterError

CURRENCIES = (
    "Australia", "Britain", "Canada", "Switzerland", "China", "Japan", "New Zealand", "Singapore",
)  # fmt: skip


def exchange_rate(folder: Path) -> Panel:
    """Business-day rates of eight currencies against the US dollar, 1990 to 2016.

    The set has no dates: periods are plain numbers from 0 (a week has five).

    Args:
        folder: holds ``exchange_rate.parquet``.
    """
    data = pl.read_parquet(folder / "exchange_rate.parquet")
    values = [data[str(i)].to_numpy() for i in range(len(CURRENCIES))]
    return Panel.from_arrays(values, ids=CURRENCIES)


def pedestrian(folder: Path) -> Panel:
    """Hourly pedestrian counts of four Melbourne sensors, 2015 and 2016, in UTC hours.

    Known ahead are the local hour and whether the local day is on a weekend, which follow the
    clock changes that the UTC grid does not have. Hours without a reading are not observed.

    Args:
        folder: holds ``pedestrian.parquet``.
    """
    table = pl.read_parquet(folder / "pedestrian.parquet")
    moment = pl.col("Date_Time")
    hours = table.select(pl.datetime_range(moment.min(), moment.max(), "1h").alias("Date_Time"))
    local = moment.dt.replace_time_zone("UTC").dt.convert_time_zone("Australia/Melbourne")
    calendar = hours.with_columns(
        local.dt.hour().cast(pl.Float64).alias("local_hour"),
        (local.dt.weekday() >= 6).cast(pl.Float64).alias("weekend"),
    )
    return from_polars(
        table,
        id_column="Sensor",
        time_column="Date_Time",
        target_column="Count",
        known=["local_hour", "weekend"],
        future=calendar,
        frequency="h",
        source=f"{folder.name}/pedestrian.parquet",
    )


def vic_elec(folder: Path) -> Panel:
    """Half-hourly electricity demand of Victoria (MWh), 2012 to 2014, in UTC.

    Known ahead is the event ``holiday``; ``temperature`` (deg C) is known up to the present.

    Args:
        folder: holds ``vic_elec.parquet``.
    """
    table = pl.read_parquet(folder / "vic_elec.parquet").with_columns(
        pl.lit("victoria").alias("unique_id"),
        pl.col("Temperature").alias("temperature"),
        pl.col("Holiday").cast(pl.Float64).alias("holiday"),
    )
    return from_polars(
        table,
        time_column="Time",
        target_column="Demand",
        past=["temperature"],
        events=["holiday"],
        frequency="30min",
        source=f"{folder.name}/vic_elec.parquet",
    )


def ett(folder: Path, part: str = "ETTh1") -> Panel:
    """Hourly oil temperature of a transformer with its six loads as past covariates.

    The customary split is 12, 4 and 4 months.

    Args:
        folder: holds ``ETTh1.parquet`` and ``ETTh2.parquet``.
        part: ``"ETTh1"`` or ``"ETTh2"``.
    """
    if part not in ("ETTh1", "ETTh2"):
        raise ParameterError(f"part {part!r} is not known; known are ETTh1, ETTh2")
    table = pl.read_parquet(folder / f"{part}.parquet").with_columns(
        pl.lit(part).alias("unique_id")
    )
    loads = [c for c in table.columns if c not in ("date", "OT", "unique_id")]
    return from_polars(
        table,
        time_column="date",
        target_column="OT",
        past=loads,
        frequency="h",
        source=f"{folder.name}/{part}.parquet",
    )
