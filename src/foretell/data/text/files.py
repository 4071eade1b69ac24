"""Tables of texts, read with errors that name the file and the column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from foretell.errors import DataError


def read_table(file: Path, columns: Sequence[str] = ()) -> pl.DataFrame:
    """A Parquet file that must have some columns.

    Raises:
        DataError: the file cannot be read, or a column is missing.
    """
    try:
        table = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the file cannot be read: {error}", file=str(file)) from error
    for column in columns:
        if column not in table.columns:
            raise DataError(
                f"there is no column {column!r}", file=str(file), column=column,
                hint=f"The columns are {', '.join(table.columns)}",
            )  # fmt: skip
    return table
