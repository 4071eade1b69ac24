"""Turns running text into sequences of codes for language models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.text import PADDING, TextSet, Vocabulary
from foretell.errors import ParameterError
from foretell.learners.language.pair_reader import BEGIN, END
from foretell.learners.language.reader import IGNORED, LETTERS, steps_of

PRINTABLE = (*LETTERS, " ", "\n", "\t")

Level = Literal["character", "word"]


def raw_texts(text: TextSet) -> list[str]:
    """Column ``text`` where there is one, as it stands; else the tokens with spaces between."""
    if "text" in text.frame.columns:
        return text.frame["text"].to_list()
    return text.frame["tokens"].list.join(" ").to_list()


@dataclass(frozen=True)
class StreamReader:
    """What is read of running text.

    Args:
        units: characters or words, the marks of begin and end included.
        level: which of both.
        length: codes of an example; longer texts become several.
    """

    units: Vocabulary
    level: Level = "character"
    length: int = 128

    def __post_init__(self) -> None:
        if self.level not in ("character", "word") or self.length < 1:
            raise ParameterError(
                f"level must be 'character' or 'word' and length positive, not {self.level!r} and "
                f"{self.length}"
            )

    @classmethod
    def learn(
        cls,
        text: TextSet,
        *,
        level: Level = "character",
        vocabulary: Sequence[str] | None = None,
        min_count: int = 1,
        length: int = 128,
    ) -> StreamReader:
        """Characters or words of a training part.

        Args:
            text: the training part.
            level: ``character`` or ``word``.
            vocabulary: to use instead of the text's own; :data:`PRINTABLE` needs no text.
            min_count: occurrences that a character or word needs.
            length: codes of an example.
        """
        if vocabulary is None:
            flat = (unit for each in raw_texts(text) for unit in _units(each, level))
            vocabulary = Vocabulary.build(flat, min_count=min_count).words
        kept = [unit for unit in vocabulary if unit not in (BEGIN, END)]
        return cls(Vocabulary([BEGIN, END, *kept]), level, length)

    @property
    def begin(self) -> int:
        """Code before the first unit of a text."""
        return 2

    @property
    def end(self) -> int:
        """Code after the last unit of a text."""
        return 3

    def encode(self, text: str) -> NDArray[np.int64]:
        """Codes of a text, without marks."""
        return self.units.encode(_units(text, self.level))

    def write(self, codes: Sequence[int]) -> str:
        """Text of codes."""
        names = self.units.decode(codes)
        return "".join(names) if self.level == "character" else " ".join(names)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"units": list(self.units.words), "level": self.level, "length": self.length}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StreamReader:
        """The inverse of :meth:`to_dict`."""
        return cls(Vocabulary(values["units"]), values["level"], int(values["length"]))


def _units(text: str, level: Level) -> list[str]:
    if level == "character":
        return list(text)
    # Ends of lines are words: verses and paragraphs have them.
    return text.replace("\n", " \n ").replace("  ", " ").strip(" ").split(" ")


class LanguageModelExamples:
    """Stretches of texts as examples; each text ends with a mark of its own.

    Args:
        text: a text a row.
        reader: units and length.
    """

    def __init__(self, text: TextSet, reader: StreamReader) -> None:
        self.reader, self._source = reader, text
        given = [reader.encode(each) for each in raw_texts(text)]
        sizes = np.array([len(codes) + 1 for codes in given])  # the end counts
        marked = [np.concatenate([[reader.begin], codes, [reader.end]]) for codes in given]
        self._codes = np.concatenate(marked).astype(np.int64)
        firsts = np.cumsum(sizes + 1) - (sizes + 1)
        parts = -(-sizes // reader.length)
        self.rows = np.repeat(np.arange(len(text)), parts)
        offsets = steps_of(parts) * reader.length
        self._begins = firsts[self.rows] + offsets
        self.lengths = np.minimum(reader.length, sizes[self.rows] - offsets)
        order = np.argsort(self.lengths, kind="stable")
        self.rows, self.lengths, self._begins = (
            self.rows[order], self.lengths[order], self._begins[order],
        )  # fmt: skip

    def __len__(self) -> int:
        """Number of stretches."""
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the texts and what is read of them, for resuming."""
        digest = hashlib.sha256(self._codes.tobytes())
        digest.update(repr(self.reader.to_dict()).encode())
        return digest.hexdigest()

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """``tokens``, ``mask`` and ``labels`` (what follows; -100 is padding), all ``(B, T)``."""
        indices = np.asarray(indices, np.int64)
        lengths = self.lengths[indices]
        steps = np.arange(int(lengths.max(initial=1)))
        mask = steps < lengths[:, None]
        places = np.where(mask, self._begins[indices, None] + steps, 0)
        return {
            "tokens": torch.from_numpy(np.where(mask, self._codes[places], PADDING)),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(
                np.where(mask, self._codes[np.where(mask, places + 1, 0)], IGNORED)
            ),
        }
