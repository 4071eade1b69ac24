"""Data sets that a user brings: their organisers' terms do not let others hand them on.

Each loader takes the folder in which the organiser's own files were unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from foretell.data.covariates import fill_known, with_static
from foretell.data.frames import from_polars
from foretell.data.frequency import Frequency
from foretell.data.panel import DataNote, Panel
from foretell.errors import DataError

M5_EVENTS = ("cultural", "national", "religious", "sporting")


def m5(folder: Path, *, stores: Sequence[str] | None = None) -> Panel:
    """Daily unit sales of the M5 competition: 3,049 products in 10 stores, 2011 to 2016.

    Each series begins with its product's first price in the store. Known ahead are ``price``,
    ``snap`` (food stamps accepted in the store's state) and events by type.

    Args:
        folder: holds ``sales_train_evaluation.csv`` (or ``_validation``), ``calendar.csv`` and
            ``sell_prices.csv``.
        stores: names such as ``"CA_3"``; all when ``None`` (then about 2 GB of memory).
    """
    file = next(
        (f for f in ("sales_train_evaluation.csv", "sales_train_validation.csv")
         if (folder / f).is_file()),
        "sales_train_evaluation.csv",
    )  # fmt: skip
    sales = _csv(folder / file)
    calendar = _csv(folder / "calendar.csv")
    prices = _csv(folder / "sell_prices.csv")
    if stores is not None:
        sales = sales.filter(pl.col("store_id").is_in(list(stores)))
        prices = prices.filter(pl.col("store_id").is_in(list(stores)))
    if sales.height == 0:
        raise DataError(
            "no series is left", file=str(folder / file), column="store_id", hint="Name M5 stores"
        )
    days = [c for c in sales.columns if c.startswith("d_")]
    observed, known_days = len(days), calendar.height
    weeks = calendar["wm_yr_wk"].to_numpy()
    first_week, week_of_day = int(weeks.min()), np.unique(weeks, return_inverse=True)[1]
    week_rank = {int(w): i for i, w in enumerate(np.unique(weeks))}
    names = (sales["item_id"] + "_" + sales["store_id"]).alias("unique_id")
    rows = {n: i for i, n in enumerate(names)}
    by_week = np.full((sales.height, len(week_rank)), np.nan, np.float32)
    priced = prices.filter(pl.col("wm_yr_wk") >= first_week).with_columns(
        (pl.col("item_id") + "_" + pl.col("store_id"))
        .replace_strict(rows, default=-1, return_dtype=pl.Int64)
        .alias("row"),
        pl.col("wm_yr_wk")
        .replace_strict(week_rank, default=-1, return_dtype=pl.Int64)
        .alias("week"),
    )
    priced = priced.filter((pl.col("row") >= 0) & (pl.col("week") >= 0))
    by_week[priced["row"].to_numpy(), priced["week"].to_numpy()] = priced["sell_price"].to_numpy()
    price = by_week[:, week_of_day][:, :known_days]
    begin = np.minimum(np.isnan(price).argmin(1), observed - 1)
    kinds = [calendar[c].str.to_lowercase() for c in ("event_type_1", "event_type_2")]
    flags = {
        kind: np.any([(k == kind).fill_null(False).to_numpy() for k in kinds], axis=0)
        for kind in M5_EVENTS
    }
    snap = np.stack([calendar[f"snap_{state}"].to_numpy() for state in sales["state_id"].to_list()])
    inside = np.arange(known_days)[None, :] >= begin[:, None]
    values = sales.select(days).to_numpy().astype(np.float32)
    grid = Frequency.parse("D")
    start = int(grid.index(np.array([str(calendar["date"][0])], "datetime64[us]"))[0])
    lengths, known_lengths = observed - begin, known_days - begin
    known = {"price": price[inside], "snap": snap[inside].astype(np.float32)}
    for kind, flag in flags.items():
        known[kind] = np.broadcast_to(flag, inside.shape)[inside].astype(np.float32)
    panel = Panel(
        names.to_numpy().astype(object),
        grid,
        start + begin,
        np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64),
        lengths,
        values[inside[:, :observed]],
        known=known,
        known_begins=np.r_[0, np.cumsum(known_lengths)[:-1]].astype(np.int64),
        known_lengths=known_lengths,
        events=M5_EVENTS,
    )
    attributes = sales.select(names, "item_id", "dept_id", "cat_id", "store_id", "state_id")
    return fill_known(with_static(panel, attributes))


def rossmann(folder: Path) -> Panel:
    """Daily sales of 1,115 drug stores, 2013 to 2015.

    Known ahead are ``open``, ``promo``, ``school_holiday`` and the events ``public_holiday``,
    ``easter`` and ``christmas``; ``customers`` is known up to the present.

    Args:
        folder: holds ``train.csv`` and ``store.csv``.
    """
    table = _csv(folder / "train.csv")
    holiday = pl.col("StateHoliday").cast(pl.String)
    table = table.select(
        pl.col("Store").cast(pl.String).alias("unique_id"),
        pl.col("Date").cast(pl.String).alias("ds"),
        pl.col("Sales").cast(pl.Float64).alias("y"),
        pl.col("Customers").cast(pl.Float64).alias("customers"),
        pl.col("Open").cast(pl.Float64).alias("open"),
        pl.col("Promo").cast(pl.Float64).alias("promo"),
        pl.col("SchoolHoliday").cast(pl.Float64).alias("school_holiday"),
        *((holiday == mark).cast(pl.Float64).alias(event) for mark, event in
          (("a", "public_holiday"), ("b", "easter"), ("c", "christmas"))),
    )  # fmt: skip
    stores = _csv(folder / "store.csv").select(
        pl.col("Store").cast(pl.String).alias("unique_id"),
        "StoreType",
        "Assortment",
        pl.col("CompetitionDistance").cast(pl.Float64),
    )
    panel = from_polars(
        table,
        past=["customers"],
        known=["open", "promo", "school_holiday"],
        events=["public_holiday", "easter", "christmas"],
        static=stores,
        frequency="D",
        source=str(folder / "train.csv"),
    )
    return fill_known(panel)


def uci_electricity(folder: Path) -> Panel:
    """Hourly load (kWh) of 370 clients, 2011 to 2014, from quarter-hourly mean power (kW).

    Times are Portuguese local time as the source gives them. Each series begins with its first
    reading above zero: the zeros before mean that the client was not yet measured.

    Args:
        folder: holds ``LD2011_2014.txt``.
    """
    file = folder / "LD2011_2014.txt"
    data = _csv(file, separator=";", decimal_comma=True)
    time = data.columns[0]
    clients = data.columns[1:]
    # A stamp ends its quarter of an hour: 01:00 belongs to the hour that began at 00:00.
    moment = pl.col(time).cast(pl.String).str.to_datetime(time_unit="us").dt.offset_by("-15m")
    hourly = (
        data.with_columns(moment.dt.truncate("1h").alias("hour"))
        .group_by("hour", maintain_order=True)
        .agg(pl.col(clients).cast(pl.Float64).sum() / 4)
        .sort("hour")
    )
    grid = Frequency.parse("h")
    periods = grid.index(hourly["hour"].to_numpy())
    if len(periods) != periods[-1] - periods[0] + 1:
        raise DataError("an hour is missing", file=str(file), hint="Use the original file")
    values = hourly.select(clients).to_numpy().T.astype(np.float32)
    begin = np.minimum((values > 0).argmax(1), values.shape[1] - 1)
    return Panel.from_arrays(
        [row[b:] for row, b in zip(values, begin, strict=True)],
        ids=clients,
        frequency=grid,
        start=(int(periods[0]) + begin).tolist(),
    )


def favorita_full(
    folder: Path, *, stores: Sequence[int] | None = None, since: str = "2013-01-01"
) -> Panel:
    """Daily unit sales of the full Favorita set, read lazily so that a part of it fits in memory.

    Days without a row mean that nothing was sold: they become zeros, and the notes say how many.
    Returns stay negative. Known ahead is ``onpromotion``.

    Args:
        folder: holds ``train.csv``, ``items.csv`` and ``stores.csv``.
        stores: store numbers; all when ``None`` (125 million rows).
        since: first day.
    """
    for name in ("train.csv", "items.csv", "stores.csv"):
        _there(folder / name)
    types = {"store_nbr": pl.Int64, "item_nbr": pl.Int64, "unit_sales": pl.Float64,
             "onpromotion": pl.String}  # fmt: skip
    rows = pl.scan_csv(folder / "train.csv", schema_overrides=types).filter(pl.col("date") >= since)
    if stores is not None:
        rows = rows.filter(pl.col("store_nbr").is_in(list(stores)))
    flag = pl.col("onpromotion").str.to_lowercase() == "true"
    table = rows.select(
        pl.format("{}_{}", "store_nbr", "item_nbr").alias("unique_id"),
        pl.col("date").cast(pl.String).alias("ds"),
        pl.col("unit_sales").alias("y"),
        flag.fill_null(False).cast(pl.Float64).alias("onpromotion"),
        "store_nbr",
        "item_nbr",
    ).collect(engine="streaming")
    items = _csv(folder / "items.csv").select(
        "item_nbr", "family", pl.col("class").cast(pl.String), pl.col("perishable").cast(pl.String)
    )
    places = _csv(folder / "stores.csv").select(
        "store_nbr", "city", "state", "type", pl.col("cluster").cast(pl.String)
    )
    attributes = (
        table.select("unique_id", "store_nbr", "item_nbr")
        .unique("unique_id", maintain_order=True)
        .join(items, on="item_nbr", how="left", maintain_order="left")
        .join(places, on="store_nbr", how="left", maintain_order="left")
        .with_columns(pl.col("store_nbr", "item_nbr").cast(pl.String))
    )
    panel = from_polars(
        table,
        events=["onpromotion"],
        static=attributes,
        frequency="D",
        source=str(folder / "train.csv"),
    )
    absent = np.isnan(panel.target)
    note = DataNote(
        "absent_is_zero", f"{absent.sum()} days without a row count as no sale", int(absent.sum())
    )
    notes = (*(n for n in panel.notes if n.kind != "gap"), note)
    return fill_known(
        replace(panel, target=np.where(absent, np.float32(0), panel.target), notes=notes)
    )


def _there(file: Path) -> Path:
    if not file.is_file():
        raise DataError(
            "the file is missing",
            file=str(file),
            hint="Unpack the organiser's files into this folder",
        )
    return file


def _csv(file: Path, *, separator: str = ",", decimal_comma: bool = False) -> pl.DataFrame:
    return pl.read_csv(
        _there(file),
        separator=separator,
        decimal_comma=decimal_comma,
        infer_schema_length=100_000,
        null_values=["", "NA"],
        schema_overrides={"StateHoliday": pl.String} if file.name == "train.csv" else None,
    )
