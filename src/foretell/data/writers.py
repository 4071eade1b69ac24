"""Ways out: a panel as pandas, Arrow, Parquet and CSV tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from foretell.data.frames import future_to_polars, static_to_polars, to_polars
from foretell.data.panel import Panel
from foretell.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def to_pandas(panel: Panel, **columns: str) -> pd.DataFrame:
    """The panel as a long pandas table, unobserved steps as NaN.

    Args:
        panel: what to hand out.
        **columns: ``id_column``, ``time_column``, ``target_column``.
    """
    return to_polars(panel, **columns).to_pandas()


def to_arrow(panel: Panel, **columns: str) -> pa.Table:
    """The panel as a long Arrow table, unobserved steps as null."""
    return to_polars(panel, **columns).to_arrow()


def to_parquet(panel: Panel, path: str | Path, **columns: str) -> dict[str, Path]:
    """Writes the panel as Parquet; see :func:`to_csv` for the files."""
    return _write(panel, Path(path), "parquet", columns)


def to_csv(panel: Panel, path: str | Path, **columns: str) -> dict[str, Path]:
    """Writes the panel as CSV, with two more files beside it where they are needed.

    ``sales.csv`` holds the history; ``sales.future.csv`` what is known beyond it and
    ``sales.static.csv`` the attributes, for ``read_panel(..., future=, static=)``.

    Returns:
        The files written, by ``"history"``, ``"future"`` and ``"static"``.
    """
    return _write(panel, Path(path), "csv", columns)


def _write(panel: Panel, path: Path, kind: str, columns: dict[str, str]) -> dict[str, Path]:
    unknown = set(columns) - {"id_column", "time_column", "target_column"}
    if unknown:
        raise ParameterError(f"arguments {sorted(unknown)} are not known")
    keys: dict[str, Any] = {k: v for k, v in columns.items() if k != "target_column"}
    tables = {"history": to_polars(panel, **columns)}
    if panel.known and (panel.known_lengths > panel.lengths).any():
        tables["future"] = future_to_polars(panel, **keys)
    if panel.static_categorical or panel.static_real:
        keys.pop("time_column", None)
        tables["static"] = static_to_polars(panel, **keys)
    files = {}
    for name, table in tables.items():
        file = path if name == "history" else path.with_suffix(f".{name}{path.suffix}")
        if kind == "parquet":
            table.write_parquet(file)
        else:
            # Midnight needs no hour: daily and longer grids are written as dates.
            times = [c for c in table.columns if isinstance(table[c].dtype, pl.Datetime)]
            for c in times:
                if (table[c].dt.truncate("1d") == table[c]).all():
                    table = table.with_columns(pl.col(c).dt.date())
            table.write_csv(file)
        files[name] = file
    return files
