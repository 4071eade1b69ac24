"""A set of utterances, with their intents, slots and splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import DataNote
from foretell.data.text.spans import Tagged, spans_of
from foretell.data.text.table import TextTable
from foretell.errors import DataError

_TAG = r"^(O|[BI]-.+)$"


class TextSet(TextTable):
    """Utterances as tokens; made by :meth:`from_frame` or :meth:`from_texts`, which check them.

    Args:
        frame: checked columns ``tokens`` (lists of strings) and, where there are such, ``slots``
            (lists of tags ``O``, ``B-kind``, ``I-kind``), ``intent``, ``split``, and any others.
        notes: what is unusual and was left as it is.
    """

    rows_are: ClassVar[str] = "utterance"
    content: ClassVar[tuple[str, ...]] = ("tokens", "slots", "intent")

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        tokens: str = "tokens",
        slots: str | None = "slots",
        intent: str | None = "intent",
        split: str | None = "split",
        file: str | None = None,
    ) -> TextSet:
        """Reads a table with a row an utterance.

        Args:
            frame: polars, pandas or pyarrow.
            tokens: column of lists of words, or of text that is cut at whitespace.
            slots: column of tags in the same form; None, or a column that is not there, for none.
            intent: column of intents, or of any label of the whole text; the same holds.
            split: column of the part (``train``, ``test``); the same holds.
            file: what errors name.

        Raises:
            DataError: a column is missing or of another type, an utterance is empty, tags are not
                as many as tokens or not of BIO form, a label is missing; names the row.
        """
        table = _polars(frame)
        names = {"tokens": tokens, "slots": slots, "intent": intent, "split": split}
        if tokens not in table.columns:
            raise DataError(
                f"there is no column {tokens!r} with the utterances", file=file, column=tokens,
                hint=f"The columns are {', '.join(table.columns)}",
            )  # fmt: skip
        given = {role: name for role, name in names.items() if name in table.columns}
        rest = [name for name in table.columns if name not in given.values()]
        clash = [name for name in rest if name in given]
        if clash:
            raise DataError(
                f"column {clash[0]!r} would be written over", file=file, column=clash[0]
            )
        columns = [_words(table, given["tokens"], "tokens", file)]
        notes: list[DataNote] = []
        if "slots" in given:
            columns.append(_words(table, given["slots"], "slots", file))
            notes += _check_slots(pl.DataFrame(columns), given["slots"], file)
        for role in ("intent", "split"):
            if role in given:
                columns.append(_labels(table, given[role], role, file))
        if table.height == 0:
            raise DataError("there is no utterance", file=file)
        return cls(pl.DataFrame(columns).hstack(table.select(rest)), tuple(notes))

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str | Sequence[str]],
        intents: Sequence[str] | None = None,
        slots: Sequence[str | Sequence[str]] | None = None,
        splits: Sequence[str] | None = None,
        *,
        tokenize: Callable[[str], list[str]] = str.split,
    ) -> TextSet:
        """Reads utterances as strings or lists of tokens.

        Args:
            texts: the utterances.
            intents: one an utterance.
            slots: tags, as lists or separated by whitespace.
            splits: part of each.
            tokenize: cuts a string into tokens.

        Raises:
            DataError: see :meth:`from_frame`; also lists of different lengths.
        """
        if isinstance(texts, str):
            raise DataError("texts is one string", hint="Give a list of utterances")
        columns: dict[str, Any] = {
            "tokens": [tokenize(t) if isinstance(t, str) else t for t in texts]
        }
        if slots is not None:
            columns["slots"] = [s.split() if isinstance(s, str) else s for s in slots]
        for name, values in (("intent", intents), ("split", splits)):
            if values is not None:
                columns[name] = list(values)
        for name, values in columns.items():
            if len(values) != len(texts):
                raise DataError(
                    f"there are {len(texts)} utterances but {len(values)} values of {name!r}"
                )
        try:
            parts = [_column(name, values) for name, values in columns.items()]
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(f"utterances and labels must be strings: {error}") from error
        return cls.from_frame(pl.DataFrame(parts))

    def __repr__(self) -> str:
        parts = [f"{len(self):,} utterances"]
        if self.has_intents:
            parts.append(f"{len(self.intent_names)} intents")
        if self.has_slots:
            parts.append(f"{len(self.slot_names)} slot tags")
        if self.splits:
            parts.append("parts " + ", ".join(self.splits))
        return f"TextSet({', '.join(parts)})"

    @property
    def has_intents(self) -> bool:
        """Whether utterances have intents."""
        return "intent" in self.frame.columns

    @property
    def has_slots(self) -> bool:
        """Whether tokens have tags."""
        return "slots" in self.frame.columns

    @property
    def tokens(self) -> list[list[str]]:
        """Tokens of each utterance."""
        return self.frame["tokens"].to_list()

    @property
    def slots(self) -> list[list[str]]:
        """Tags of each utterance's tokens.

        Raises:
            DataError: there are none.
        """
        self._require("slots")
        return self.frame["slots"].to_list()

    @property
    def intents(self) -> NDArray[np.str_]:
        """Intent of each utterance ``(n,)``.

        Raises:
            DataError: there are none.
        """
        self._require("intent")
        return self.frame["intent"].to_numpy().astype(str)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each utterance ``(n,)``."""
        return self.frame["tokens"].list.len().cast(pl.Int64).to_numpy()

    @property
    def intent_names(self) -> tuple[str, ...]:
        """Different intents, sorted."""
        return tuple(self.frame["intent"].unique().sort()) if self.has_intents else ()

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Different tags, sorted."""
        if not self.has_slots:
            return ()
        return tuple(self.frame["slots"].explode().unique().sort())

    def spans(self) -> list[list[Tagged]]:
        """Tagged spans of each utterance."""
        return [spans_of(tags) for tags in self.slots]

    def _require(self, column: str) -> None:
        if column not in self.frame.columns:
            raise DataError(f"the utterances have no column {column!r}")


def _column(name: str, values: Any) -> pl.Series:
    if name in ("tokens", "slots"):
        return pl.Series(name, [list(v) for v in values], pl.List(pl.String), strict=True)
    return pl.Series(name, [str(v) for v in values], pl.String)


def _polars(frame: Any) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    try:
        result = pl.from_pandas(frame) if hasattr(frame, "iloc") else pl.from_arrow(frame)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"a table of utterances is needed, not a {type(frame).__name__}",
            hint="Give a polars or pandas frame or a pyarrow table",
        ) from error
    assert isinstance(result, pl.DataFrame)
    return result


def _first(mask: pl.Series) -> int | None:
    """Row of the first true value."""
    return int(mask.arg_true()[0]) if mask.any() else None


def _words(table: pl.DataFrame, name: str, role: str, file: str | None) -> pl.Series:
    """A column of lists of strings without gaps."""
    column = table[name]
    if column.dtype == pl.String:
        column = column.str.extract_all(r"\S+")
    if column.dtype != pl.List(pl.String):
        raise DataError(
            f"{role} must be text or lists of strings, not {column.dtype}", file=file, column=name
        )
    row = _first(column.is_null() | (column.list.len() == 0))
    if row is not None:
        what = "an utterance has no token" if role == "tokens" else "an utterance has no tags"
        raise DataError(what, file=file, column=name, row=row, hint="Leave the row out")
    row = _first(
        column.list.eval((pl.element().is_null() | (pl.element() == "")).any()).list.first()
    )
    if row is not None:
        raise DataError("a token is empty", file=file, column=name, row=row)
    return column.alias(role)


def _labels(table: pl.DataFrame, name: str, role: str, file: str | None) -> pl.Series:
    column = table[name]
    if column.dtype in (pl.Categorical, pl.Enum) or column.dtype.is_integer():
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        raise DataError(f"{role} must be strings, not {column.dtype}", file=file, column=name)
    row = _first(column.is_null() | (column == ""))
    if row is not None:
        raise DataError(f"an utterance has no {role}", file=file, column=name, row=row)
    return column.alias(role)


def _check_slots(frame: pl.DataFrame, name: str, file: str | None) -> list[DataNote]:
    """Refuses tags that do not fit; counts those that begin a span with ``I-``."""
    tokens, tags = frame["tokens"].list.len(), frame["slots"].list.len()
    row = _first(tokens != tags)
    if row is not None:
        raise DataError(
            f"an utterance of {tokens[row]} tokens has {tags[row]} tags", file=file, column=name,
            row=row, hint="Every token needs one tag",
        )  # fmt: skip
    known = frame["slots"].explode().unique().to_list()
    odd = [tag for tag in known if not pl.Series([tag]).str.contains(_TAG)[0]]
    if odd:
        row = _first(frame["slots"].list.contains(odd[0]))
        raise DataError(
            f"{odd[0]!r} is not a tag", file=file, column=name, row=row,
            hint="Tags are O, B-kind and I-kind",
        )  # fmt: skip
    loose = 0
    first: int | None = None
    for position, given in enumerate(frame["slots"]):
        before = "O"
        for tag in given:
            if tag.startswith("I-") and before[2:] != tag[2:]:
                loose += 1
                first = position if first is None else first
            before = tag
    if not loose:
        return []
    message = f"{loose} spans begin with I- in column {name!r}; they are read as spans"
    return [DataNote("loose_tags", f"{message} (first in row {first})", loose)]
