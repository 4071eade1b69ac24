"""Readers of the public demand data sets: folder in, panel out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from foretell.data.frames import from_polars
from foretell.data.frequency import Frequency
from foretell.data.panel import Panel

WALMART_HOLIDAYS = {2: "super_bowl", 9: "labor_day", 11: "thanksgiving", 12: "christmas"}
"""Month of a flagged week in the Walmart set -> the holiday it holds."""

FAVORITA_FIRST_WEEK = "2013-01-01"


def walmart(folder: Path, *, min_observed: int = 79) -> Panel:
    """Weekly sales of 45 stores x 81 departments, 2010-02-05 to 2012-10-26.

    Each series spans its own first to last week; weeks without a row are not observed. Known
    ahead are the four holidays; markdowns, temperature, fuel price, CPI and unemployment are known
    only up to the present. The default keeps the 2,936 series of the fev-bench task.

    Args:
        folder: holds ``train.parquet``, ``features.parquet`` and ``stores.csv``.
        min_observed: series with fewer observed weeks are left out.
    """
    sales = pl.read_parquet(folder / "train.parquet")
    features = pl.read_parquet(folder / "features.parquet").drop("IsHoliday")
    stores = pl.read_csv(folder / "stores.csv", eol_char="\r")
    stores = stores.rename({c: c.strip() for c in stores.columns})
    store, department = pl.col("Store").cast(pl.Int64), pl.col("Dept").cast(pl.Int64)
    name = pl.format("{}_{}", store, department).alias("unique_id")
    sales = sales.with_columns(name)
    sales = sales.filter(pl.len().over("unique_id") >= min_observed)
    measures = [c for c in features.columns if c not in ("Store", "Date")]
    sales = sales.join(features, on=["Store", "Date"], how="left")
    calendar = (
        pl.read_parquet(folder / "features.parquet")
        .group_by("Date")
        .agg(pl.col("IsHoliday").max())
        .sort("Date")
        .with_columns(
            (pl.col("IsHoliday") & (pl.col("Date").dt.month() == month)).alias(holiday)
            for month, holiday in WALMART_HOLIDAYS.items()
        )
    )
    attributes = (
        sales.select("unique_id", store, department)
        .unique("unique_id", maintain_order=True)
        .join(stores.select(store, "Type", "Size"), on="Store")
        .with_columns(pl.col("Store", "Dept").cast(pl.String), pl.col("Size").cast(pl.Float64))
    )
    return from_polars(
        sales,
        time_column="Date",
        target_column="Weekly_Sales",
        past=measures,
        events=tuple(WALMART_HOLIDAYS.values()),
        future=calendar.drop("IsHoliday"),
        static=attributes,
        frequency="W-FRI",
        source="walmart_store_sales/train.parquet",
    )


def favorita(folder: Path) -> Panel:
    """Weekly unit sales of 288 products in 21 stores over 171 weeks, returns clipped at zero.

    The weeks are laid on the calendar from 2013-01-01, so that the event ``christmas`` is known
    ahead.

    Args:
        folder: holds ``weekly_sales.parquet`` and ``dates_with_info.csv``.
    """
    first = np.datetime64(FAVORITA_FIRST_WEEK)
    sales = pl.read_parquet(folder / "weekly_sales.parquet").with_columns(
        pl.format("{}_{}", "product", "store").alias("unique_id"),
        pl.lit(first).cast(pl.Date).dt.offset_by(pl.format("{}w", "week")).alias("ds"),
        pl.col("sales").clip(lower_bound=0.0),
    )
    weeks = pl.read_csv(folder / "dates_with_info.csv")
    calendar = pl.DataFrame(
        {
            "ds": first + 7 * np.arange(len(weeks)).astype("timedelta64[D]"),
            "christmas": weeks["christmas"].cast(pl.Float64),
        }
    )
    attributes = sales.select("unique_id", pl.col("product", "store").cast(pl.String)).unique(
        "unique_id", maintain_order=True
    )
    return from_polars(
        sales,
        target_column="sales",
        events=("christmas",),
        future=calendar,
        static=attributes,
        frequency=Frequency.parse("W", example=first),
        source="favorita_weekly_21_stores/weekly_sales.parquet",
    )


def m4(folder: Path, part: str = "hourly") -> Panel:
    """The M4 competition's hourly (414) or weekly (359) series, training and test part joined.

    The set has no dates: periods are plain numbers from 1, and seasons must be named (24 or 168
    hours, 52 weeks). Cut by the horizon (48 hours, 13 weeks) to get the training part.

    Args:
        folder: holds ``{part}_train.parquet`` and ``{part}_test.parquet``.
        part: ``"hourly"`` or ``"weekly"``.
    """
    train = pl.read_parquet(folder / f"{part}_train.parquet")
    test = pl.read_parquet(folder / f"{part}_test.parquet")
    lengths = train.group_by("unique_id").agg(pl.col("t").max().alias("length"))
    test = test.join(lengths, on="unique_id").with_columns(pl.col("t") + pl.col("length"))
    table = pl.concat([train, test.select(train.columns)])
    return from_polars(table, time_column="t", source=f"m4/{part}")
