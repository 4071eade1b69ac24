"""Store demand with prices: the orange juice of Dominick's Finer Foods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from foretell.data.covariates import fill_known
from foretell.data.frames import from_polars
from foretell.data.panel import Panel

_FIRST_WEEK = "1989-09-14"  # week 1 of Dominick's calendar, a Thursday


def orange_juice(folder: Path) -> Panel:
    """Weekly units of 11 brands in 83 stores over about 121 weeks, with prices and promotions.

    Known ahead are the brand's own ``price`` (USD an ounce), ``deal`` (coupon, 0/1) and ``feat``
    (share of feature advertisement); in weeks without a row they are carried forward and the
    sales are not observed. Static: brand, store and the stores' demographics.

    Args:
        folder: holds ``yx.parquet`` and ``storedemo.parquet``.
    """
    table = pl.read_parquet(folder / "yx.parquet")
    prices = table.select(f"price{b}" for b in range(1, 12)).to_numpy()
    own = prices[np.arange(table.height), table["brand"].to_numpy() - 1]
    days = np.datetime64(_FIRST_WEEK) + 7 * (table["week"].to_numpy().astype(np.int64) - 1)
    table = table.select(
        pl.format("{}_{}", "store", "brand").alias("unique_id"),
        pl.Series("ds", days),
        pl.col("logmove").exp().alias("y"),
        pl.Series("price", own),
        pl.col("deal").cast(pl.Float64),
        "feat",
        "store",
        "brand",
    )
    stores = pl.read_parquet(folder / "storedemo.parquet").rename({"STORE": "store"})
    attributes = (
        table.select("unique_id", "store", "brand")
        .unique("unique_id", maintain_order=True)
        .join(stores, on="store", how="left", maintain_order="left")
        .with_columns(pl.col("store", "brand").cast(pl.String))
    )
    panel = from_polars(
        table,
        known=["price", "deal", "feat"],
        static=attributes,
        frequency="W-THU",
        source="orange_juice_dominicks/yx.parquet",
    )
    return fill_known(panel)
