"""Public data sets of utterances with intents and slots."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import polars as pl

from foretell.data.text import TextSet
from foretell.data.text.files import read_table
from foretell.errors import DataError, ParameterError

_ENTITY = re.compile(r"\[\s*([^:\[\]]+?)\s*:\s*([^\[\]]*?)\s*\]")


def nlu_atis_snips(folder: Path, *, corpus: Literal["snips", "atis"] = "snips") -> TextSet:
    """Snips (13,084 / 700 / 700, 7 intents) or ATIS (4,478 / 500 / 893, 26 intents).

    Parts ``train``, ``valid`` and ``test`` as published. ATIS asks two things at once in 41
    utterances; their intents stay joined by ``#``, as in the source, and count as one of their own.

    Raises:
        ParameterError: another corpus.
        DataError: the file is not as expected.
    """
    if corpus not in ("snips", "atis"):
        raise ParameterError(f"corpus must be 'snips' or 'atis', not {corpus!r}")
    file = folder / f"{corpus}.parquet"
    return TextSet.from_frame(read_table(file), file=str(file))


def snips(folder: Path) -> TextSet:
    """Snips; see :func:`nlu_atis_snips`."""
    return nlu_atis_snips(folder, corpus="snips")


def atis(folder: Path) -> TextSet:
    """ATIS; see :func:`nlu_atis_snips`."""
    return nlu_atis_snips(folder, corpus="atis")


def nlu_evaluation(folder: Path, *, fold: int = 1) -> TextSet:
    """11,036 utterances to a home assistant, 64 intents (with their scenario), 54 entities.

    Tags are read off annotations such as ``wake me [date : this week] at [time : five am]``.
    Columns ``scenario`` and ``answerid`` stay.

    Args:
        folder: where it lies.
        fold: the fold, 1 to 10, that is part ``test``; the others are ``train``.

    Raises:
        ParameterError: a fold that there is not.
        DataError: the file is not as expected, or an annotation cannot be read.
    """
    if fold not in range(1, 11):
        raise ParameterError(f"fold must be 1 to 10, not {fold!r}")
    file = folder / "nlu_eval_11k.parquet"
    table = read_table(file)
    tokens, slots = [], []
    for row, text in enumerate(table["answer_annotation"]):
        words, tags = read_annotation(text or "")
        if not words:
            raise DataError(
                "an annotation has no word", file=str(file), column="answer_annotation", row=row
            )
        tokens.append(words)
        slots.append(tags)
    frame = table.select(
        pl.Series("tokens", tokens, pl.List(pl.String)),
        pl.Series("slots", slots, pl.List(pl.String)),
        pl.concat_str("scenario", "intent", separator="_").alias("intent"),
        pl.when(pl.col("test_fold") == fold)
        .then(pl.lit("test"))
        .otherwise(pl.lit("train"))
        .alias("split"),
        "scenario",
        "answerid",
    )
    return TextSet.from_frame(frame, file=str(file))


def read_annotation(text: str) -> tuple[list[str], list[str]]:
    """Tokens and tags of ``words [kind : words] words``."""
    words: list[str] = []
    tags: list[str] = []

    def add(part: str, kind: str | None = None) -> None:
        for position, word in enumerate(part.split()):
            words.append(word)
            tags.append("O" if kind is None else f"{'I' if position else 'B'}-{kind}")

    end = 0
    for found in _ENTITY.finditer(text):
        add(text[end : found.start()])
        add(found.group(2), re.sub(r"\s+", "_", found.group(1)))
        end = found.end()
    add(text[end:])
    return words, tags
