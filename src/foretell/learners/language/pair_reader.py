"""Turns pairs of texts into numbers, and numbers into texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.text import PADDING, UNKNOWN, PairSet, Vocabulary
from foretell.data.text.words import join_words, split_words
from foretell.learners.language.reader import IGNORED, identify

BEGIN, END = "<begin>", "<end>"


@dataclass(frozen=True)
class PairReader:
    """What is read of sources and targets: one vocabulary for both, so that words can be copied.

    Args:
        words: vocabulary, the marks of begin and end included.
        lowercase: whether words are read and written in lower case.
        source_length: words of a source that are read.
        target_length: words of a target that are learned.
    """

    words: Vocabulary
    lowercase: bool = False
    source_length: int = 400
    target_length: int = 100

    @classmethod
    def learn(
        cls,
        pairs: PairSet,
        *,
        vocabulary: Sequence[str] | None = None,
        min_count: int = 2,
        max_words: int | None = 20_000,
        lowercase: bool = False,
        source_length: int = 400,
        target_length: int = 100,
    ) -> PairReader:
        """Words of a training part.

        Args:
            pairs: the training part.
            vocabulary: to use instead of its own words, a public one where training is private.
            min_count: occurrences that a word needs; others can be copied.
            max_words: the most words to keep.
            lowercase: whether words are read and written in lower case.
            source_length: words of a source that are read.
            target_length: words of a target that are learned.
        """
        if vocabulary is None:
            texts = [*pairs.frame["source"], *pairs.frame["target"]]
            flat = (word for text in texts for word in _words(text, lowercase))
            known = Vocabulary.build(flat, min_count=min_count, max_words=max_words).words
        else:
            known = tuple(vocabulary)
        kept = [word for word in known if word not in (BEGIN, END)]
        return cls(Vocabulary([BEGIN, END, *kept]), lowercase, source_length, target_length)

    @property
    def begin(self) -> int:
        """Code before the first word of a target."""
        return int(self.words.encode([BEGIN])[0])

    @property
    def end(self) -> int:
        """Code after the last word of a target."""
        return int(self.words.encode([END])[0])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "words": list(self.words.words), "lowercase": self.lowercase,
            "source_length": self.source_length, "target_length": self.target_length,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PairReader:
        """The inverse of :meth:`to_dict`."""
        return cls(
            Vocabulary(values["words"]), bool(values["lowercase"]), int(values["source_length"]),
            int(values["target_length"]),
        )  # fmt: skip

    def split(self, text: str) -> list[str]:
        """Words and marks of a text as they are read."""
        return _words(text, self.lowercase)

    def write(self, codes: Iterable[int], unlisted: Sequence[str]) -> str:
        """Text of codes; those from V on are the source's words that the vocabulary lacks."""
        size = len(self.words)
        names = ("<pad>", "<unknown>", *self.words.words)
        return join_words([names[c] if c < size else unlisted[c - size] for c in codes])


def _words(text: str, lowercase: bool) -> list[str]:
    return [(w.text.lower() if lowercase else w.text) for w in split_words(text)]


class PairExamples:
    """Pairs as examples, shortest sources first.

    Args:
        pairs: with targets or without.
        reader: vocabulary and lengths.
    """

    def __init__(self, pairs: PairSet, reader: PairReader) -> None:
        self.reader, self._source = reader, pairs
        split = reader.split
        self._sources, self._copied, self._labels = [], [], []
        self._unlisted: list[tuple[str, ...]] = []
        targets = pairs.frame["target"] if pairs.has_targets else pl.Series([None] * len(pairs))
        size = len(reader.words)
        for source, target in zip(pairs.frame["source"], targets, strict=True):
            words = split(source)[: reader.source_length] or [""]
            codes = reader.words.encode(words)
            own = {w: None for w, c in zip(words, codes, strict=True) if c == UNKNOWN}
            extra = {word: size + place for place, word in enumerate(own)}
            self._sources.append(codes)
            self._copied.append(
                np.array([extra.get(w, c) for w, c in zip(words, codes, strict=True)], np.int64)
            )
            self._unlisted.append(tuple(own))
            if target is not None:
                said = split(target)[: reader.target_length]
                known = reader.words.encode(said)
                labels = [extra.get(w, c) for w, c in zip(said, known, strict=True)]
                self._labels.append(np.array([*labels, reader.end], np.int64))
        lengths = np.array([len(codes) for codes in self._sources])
        self.rows = np.argsort(lengths, kind="stable")
        self.lengths = lengths[self.rows]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the pairs and what is read of them, for resuming."""
        return identify(self._source, self.reader.to_dict())

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Tensors of some pairs.

        Returns:
            ``source``, ``source_mask``, ``copied`` (codes with those of unlisted words) ``(B, S)``
            and, where there are targets, ``target`` (what is said before) and ``labels`` (what is
            said; -100 is padding) ``(B, T)``.
        """
        rows = self.rows[np.asarray(indices, np.int64)]
        batch = {
            "source": _stack([self._sources[r] for r in rows], PADDING),
            "copied": _stack([self._copied[r] for r in rows], PADDING),
        }
        lengths = torch.tensor([len(self._sources[r]) for r in rows])
        batch["source_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        if self._labels:
            labels = _stack([self._labels[r] for r in rows], IGNORED)
            before = torch.roll(labels, 1, 1)
            before[:, 0] = self.reader.begin
            before[before == IGNORED] = PADDING
            before[before >= len(self.reader.words)] = UNKNOWN
            batch["target"], batch["labels"] = before, labels
        return batch

    def write(self, indices: NDArray[np.int64], said: list[list[int]]) -> list[str]:
        """Texts of generated codes for some examples."""
        rows = self.rows[np.asarray(indices, np.int64)]
        return [
            self.reader.write(codes, self._unlisted[r]) for r, codes in zip(rows, said, strict=True)
        ]


def _stack(rows: list[NDArray[np.int64]], padding: int) -> Tensor:
    found = np.full((len(rows), max(map(len, rows))), padding)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return torch.from_numpy(found)
