"""What sets of texts of every kind share: rows, parts, a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import DataNote
from foretell.errors import DataError


class TextTable:
    """A checked table with a row an example.

    Args:
        frame: checked columns.
        notes: what is unusual and was left as it is.
    """

    rows_are: ClassVar[str] = "rows"
    content: ClassVar[tuple[str, ...]] = ()

    def __init__(self, frame: pl.DataFrame, notes: tuple[DataNote, ...] = ()) -> None:
        self.frame = frame
        self.notes = notes

    def __len__(self) -> int:
        """Number of examples."""
        return self.frame.height

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the parts in the order in which they come."""
        if "split" not in self.frame.columns:
            return ()
        return tuple(self.frame["split"].unique(maintain_order=True))

    def part(self, split: str) -> Self:
        """One part.

        Raises:
            DataError: nothing is in it; names those that are there.
        """
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise DataError(f"there is no part {split!r}", hint=f"The parts are: {known}")
        return type(self)(self.frame.filter(pl.col("split") == split), self.notes)

    def select(self, rows: Sequence[int] | NDArray[Any]) -> Self:
        """Examples by position, or by a mask ``(n,)``."""
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        return type(self)(self.frame[chosen.astype(np.int64)], self.notes)

    def divide(self, share: float, seed: int = 0) -> tuple[Self, Self]:
        """Two random parts, the second with a share of the examples.

        Raises:
            DataError: a part would be empty.
        """
        size = round(share * len(self))
        if not 0 < size < len(self):
            raise DataError(f"a share of {share} leaves no {self.rows_are} on one side")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.select(np.sort(order[size:])), self.select(np.sort(order[:size]))

    def to_polars(self) -> pl.DataFrame:
        """A row an example."""
        return self.frame

    def fingerprint(self) -> str:
        """Identifies the examples, in this order."""
        digest = hashlib.sha256()
        for name in self.content:
            if name not in self.frame.columns:
                continue
            column = self.frame[name]
            if isinstance(column.dtype, pl.List):
                digest.update(column.list.len().cast(pl.Int64).to_numpy().tobytes())
                column = column.explode()
            digest.update("\0".join(column.cast(pl.String).fill_null("")).encode())
        return digest.hexdigest()


def required(table: pl.DataFrame, names: Sequence[str], file: str | None) -> None:
    """Refuses a table without some columns, or without rows.

    Raises:
        DataError: naming the column.
    """
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"there is no column {name!r}", file=file, column=name,
                hint=f"The columns are {', '.join(table.columns)}",
            )  # fmt: skip
    if table.height == 0:
        raise DataError("there is no row", file=file)


def words_of_text(table: pl.DataFrame, name: str, file: str | None) -> pl.Series:
    """A column of texts, none of them blank.

    Raises:
        DataError: another type, or a blank text; names the row.
    """
    column = table[name]
    if column.dtype != pl.String:
        raise DataError(f"{name} must be text, not {column.dtype}", file=file, column=name)
    blank = (column.is_null() | (column.str.strip_chars() == "")).arg_true()
    if len(blank):
        raise DataError(
            f"{name} is blank", file=file, column=name, row=int(blank[0]), hint="Leave the row out"
        )
    return column
