"""Texts and what they are to be turned into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from foretell.data.text.table import TextTable, required, words_of_text
from foretell.errors import DataError


class PairSet(TextTable):
    """Sources and targets; made by :meth:`from_frame`, :meth:`from_texts` or :meth:`from_jsonl`.

    Args:
        frame: checked columns ``source``, ``target`` (text) and, where several targets are right,
            ``references`` (lists of texts); any others stay.
        notes: what is unusual and was left as it is.
    """

    rows_are: ClassVar[str] = "pair"
    content: ClassVar[tuple[str, ...]] = ("source", "target", "references")

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, *, file: str | None = None) -> PairSet:
        """Reads a table with a row a pair; without ``target``, sources only.

        Raises:
            DataError: no source, or a blank text; names the row.
        """
        required(frame, ("source",), file)
        for name in ("source", "target"):
            if name in frame.columns:
                words_of_text(frame, name, file)
        return cls(frame)

    @classmethod
    def from_texts(cls, sources: Sequence[str], targets: Sequence[str] | None = None) -> PairSet:
        """Reads lists of texts.

        Raises:
            DataError: lists of different lengths, or a blank text.
        """
        if targets is not None and len(targets) != len(sources):
            raise DataError(f"there are {len(sources)} sources but {len(targets)} targets")
        columns = {"source": list(sources)} | ({} if targets is None else {"target": list(targets)})
        return cls.from_frame(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)))

    @classmethod
    def from_jsonl(
        cls,
        file: str | Path,
        *,
        source: str = "source",
        target: str = "target",
        split: str | None = None,
    ) -> PairSet:
        """Reads a file with a JSON object a line.

        Args:
            file: where it lies.
            source: key of the text to read.
            target: key of the text to write.
            split: name of the part that the file is.

        Raises:
            DataError: no such file, a line that is no object or lacks a key; names the line.
        """
        name = str(file)
        try:
            lines = Path(file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the file cannot be read: {error}", file=name) from error
        pairs: dict[str, list[str]] = {"source": [], "target": []}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                given = json.loads(line)
                for role, key in (("source", source), ("target", target)):
                    value = given[key]
                    if not isinstance(value, str) or not value.strip():
                        raise ValueError(f"{key!r} is no text or blank")
                    pairs[role].append(value)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"line {number} (counted from 1) is no pair: {error}", file=name,
                    hint=f"A line is a JSON object with the texts {source!r} and {target!r}",
                ) from error  # fmt: skip
        frame = pl.DataFrame(pairs, schema=dict.fromkeys(pairs, pl.String))
        if split is not None:
            frame = frame.with_columns(pl.lit(split).alias("split"))
        return cls.from_frame(frame, file=name)

    def __repr__(self) -> str:
        parts = [f"{len(self):,} pairs"]
        if self.splits:
            parts.append("parts " + ", ".join(self.splits))
        return f"PairSet({', '.join(parts)})"

    @property
    def sources(self) -> list[str]:
        """Texts to read."""
        return self.frame["source"].to_list()

    @property
    def has_targets(self) -> bool:
        """Whether targets are known."""
        return "target" in self.frame.columns

    @property
    def references(self) -> list[list[str]]:
        """Every right target of each source.

        Raises:
            DataError: there are none.
        """
        if "references" in self.frame.columns:
            return self.frame["references"].to_list()
        if not self.has_targets:
            raise DataError("the pairs have no targets", column="target")
        return [[target] for target in self.frame["target"]]
