"""Forecasting competitions and hierarchies: M3, tourism, and bottom levels of hierarchies."""

from __future__ import annotations

import ast
from pathlib import Path

import polars as pl

from foretell.data.frames import from_polars
from foretell.data.panel import Panel
from foretell.errors import ParameterError

HIERARCHIES = {
    "labour": "MS",
    "tourism": "QE",
    "tourismlarge": "MS",
    "traffic": "D",
    "wiki2": "D",
}
"""Hierarchies of the benchmark folder and their frequency."""


def m3(folder: Path, part: str = "monthly") -> Panel:
    """The M3 competition's series of one frequency, training and test part joined.

    Periods are plain numbers from 1 (the starts printed in the source are not reliable): name the
    season, 12 months or 4 quarters. Cut by 18 months, 8 quarters or others, 6 years.

    Args:
        folder: holds ``m3_values.parquet`` and ``m3_meta.parquet``.
        part: ``"monthly"`` (1,428 series), ``"quarterly"`` (756), ``"yearly"`` (645) or
            ``"other"`` (174).
    """
    return _competition(folder, "m3", part, ("monthly", "quarterly", "yearly", "other"))


def tourism(folder: Path, part: str = "monthly") -> Panel:
    """The tourism competition's series of one frequency, laid as in :func:`m3`.

    Cut by 24 months, 8 quarters, 4 years.

    Args:
        folder: holds ``tourism_values.parquet`` and ``tourism_meta.parquet``.
        part: ``"monthly"`` (366 series), ``"quarterly"`` (427) or ``"yearly"`` (518).
    """
    return _competition(folder, "tourism", part, ("monthly", "quarterly", "yearly"))


def _competition(folder: Path, name: str, part: str, parts: tuple[str, ...]) -> Panel:
    if part not in parts:
        raise ParameterError(f"part {part!r} is not known; known are {', '.join(parts)}")
    meta = pl.read_parquet(folder / f"{name}_meta.parquet")
    meta = meta.filter(pl.col("period") == part.upper())
    values = pl.read_parquet(folder / f"{name}_values.parquet").join(
        meta.select("series", "n"), on="series"
    )
    test = pl.col("part").cast(pl.String) == "test"
    table = values.select(
        pl.col("series").alias("unique_id"),
        (pl.col("t").cast(pl.Int64) + pl.when(test).then(pl.col("n")).otherwise(0)).alias("ds"),
        "y",
    )
    static = meta.select(pl.col("series").alias("unique_id"), "type")
    return from_polars(table, static=static, source=f"{folder.name}/{name}_values.parquet")


def hierarchical_bottom(folder: Path, name: str = "tourism") -> Panel:
    """The bottom series of a hierarchical benchmark; their sums are the levels above.

    Args:
        folder: holds ``{name}_data.parquet`` and ``{name}_agg_mat.parquet``.
        name: one of :data:`HIERARCHIES`.
    """
    if name not in HIERARCHIES:
        raise ParameterError(f"{name!r} is not known; known are {', '.join(HIERARCHIES)}")
    data = pl.read_parquet(folder / f"{name}_data.parquet")
    size = len(pl.read_parquet_schema(folder / f"{name}_agg_mat.parquet")) - 1
    bottom = data.columns[-size:]
    long = data.select("index", *bottom).unpivot(index="index", variable_name="unique_id")
    names = {c: " / ".join(ast.literal_eval(c)) if c.startswith("[") else c for c in bottom}
    long = long.select(
        pl.col("unique_id").replace(names),
        pl.col("index").str.slice(0, 10).alias("ds"),
        pl.col("value").alias("y"),
    )
    return from_polars(
        long, frequency=HIERARCHIES[name], source=f"{folder.name}/{name}_data.parquet"
    )


def tourism_australia(folder: Path) -> Panel:
    """Quarterly trips (thousands) to 76 regions for four purposes, 1998 to 2017.

    Args:
        folder: holds ``tourism.parquet``.
    """
    table = pl.read_parquet(folder / "tourism.parquet").with_columns(
        pl.format("{} / {} / {}", "State", "Region", "Purpose").alias("unique_id")
    )
    static = table.select("unique_id", "State", "Region", "Purpose").unique(
        "unique_id", maintain_order=True
    )
    return from_polars(
        table,
        time_column="Quarter",
        target_column="Trips",
        static=static,
        frequency="QS",
        source=f"{folder.name}/tourism.parquet",
    )
