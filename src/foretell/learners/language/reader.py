"""Turns utterances into numbers: the codes of words, characters, intents and tags."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.text import PADDING, UNKNOWN, TextSet, Vocabulary
from foretell.errors import DataError

IGNORED = -100
"""Code of a label that has no part in the loss: padding, or a label that training never saw."""


@dataclass(frozen=True)
class TextReader:
    """What is read of an utterance, learned from the training part alone.

    Args:
        words: vocabulary.
        intents: intents by code.
        slots: tags by code.
        characters: vocabulary of characters; None for words only.
        word_length: characters of a word that are read.
    """

    words: Vocabulary
    intents: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    characters: Vocabulary | None = None
    word_length: int = 16

    @classmethod
    def learn(
        cls,
        text: TextSet,
        *,
        vocabulary: Vocabulary | None = None,
        min_count: int = 1,
        characters: bool = False,
        word_length: int = 16,
    ) -> TextReader:
        """Words, characters and labels of a training part.

        Args:
            text: the training part.
            vocabulary: to use instead of the text's own words.
            min_count: occurrences that a word needs.
            characters: whether characters are read too.
            word_length: characters of a word that are read.
        """
        flat = text.frame["tokens"].explode()
        words = Vocabulary.build(flat, min_count=min_count) if vocabulary is None else vocabulary
        letters = None
        if characters:
            known = flat if vocabulary is None else vocabulary.words
            letters = Vocabulary.build(letter for word in known for letter in word)
        return cls(words, text.intent_names, text.slot_names, letters, word_length)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "words": list(self.words.words),
            "intents": list(self.intents),
            "slots": list(self.slots),
            "characters": None if self.characters is None else list(self.characters.words),
            "word_length": self.word_length,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TextReader:
        """The inverse of :meth:`to_dict`."""
        letters = values["characters"]
        return cls(
            Vocabulary(values["words"]), tuple(values["intents"]), tuple(values["slots"]),
            None if letters is None else Vocabulary(letters), int(values["word_length"]),
        )  # fmt: skip

    @cached_property
    def spelling(self) -> NDArray[np.int64]:
        """Characters of each word of the vocabulary ``(words, word_length)``."""
        assert self.characters is not None
        table = np.full((len(self.words), self.word_length), PADDING)
        table[UNKNOWN, 0] = UNKNOWN
        for code, word in enumerate(self.words.words, start=2):
            letters = self.characters.encode(word[: self.word_length])
            table[code, : len(letters)] = letters
        return table

    def spell(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Characters of any words ``(n, word_length)``."""
        assert self.characters is not None
        table = np.full((len(words), self.word_length), PADDING)
        for row, word in enumerate(words):
            letters = self.characters.encode(word[: self.word_length])
            table[row, : len(letters)] = letters
        return table


class TextExamples:
    """Utterances as examples for training, shortest first.

    The order puts utterances of like length side by side, so that micro-batches of a sorted draw
    hold little padding.

    Args:
        text: utterances; labels that the reader does not know have no part in the loss.
        reader: codes of words and labels.
        unknown_rate: share of words that are hidden at random in each batch, so that the code of
            unknown words is trained.
        ordered: whether examples are sorted by length; else they stay as they come.
    """

    def __init__(
        self,
        text: TextSet,
        reader: TextReader,
        *,
        unknown_rate: float = 0.0,
        ordered: bool = True,
    ) -> None:
        lengths = text.lengths
        order = np.argsort(lengths, kind="stable") if ordered else np.arange(len(text))
        begins = np.concatenate([[0], np.cumsum(lengths)])[:-1]
        self.rows, self.lengths, self.begins = order, lengths[order], begins[order]
        self.reader, self.unknown_rate = reader, unknown_rate
        self._source = text
        flat = text.frame["tokens"].explode()
        self.words = reader.words.encode(flat)
        self.characters: NDArray[np.int64] | None = None
        if reader.characters is not None:
            different = flat.unique(maintain_order=True)
            codes = dict(zip(different, range(len(different)), strict=True))
            at = np.fromiter((codes[word] for word in flat), np.int64)
            self.characters = reader.spell(different.to_list())[at]
        self.slots: NDArray[np.int64] | None = None
        if text.has_slots and reader.slots:
            self.slots = label_codes(text.frame["slots"].explode(), reader.slots)
        self.intents: NDArray[np.int64] | None = None
        if text.has_intents and reader.intents:
            self.intents = label_codes(text.frame["intent"], reader.intents)[order]

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the utterances and what is read of them, for resuming."""
        digest = hashlib.sha256(self._source.fingerprint().encode())
        digest.update(repr((self.reader.to_dict(), self.unknown_rate)).encode())
        return digest.hexdigest()

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Tensors of some utterances.

        Returns:
            ``tokens (B, T)``, ``mask (B, T)`` and, where there are such, ``characters (B, T, W)``,
            ``slots (B, T)`` and ``intent (B,)``; -100 is no label.
        """
        indices = np.asarray(indices, np.int64)
        lengths = self.lengths[indices]
        steps = np.arange(int(lengths.max(initial=1)))
        mask = steps < lengths[:, None]
        places = np.where(mask, self.begins[indices, None] + steps, 0)
        tokens = np.where(mask, self.words[places], PADDING)
        batch = {"mask": torch.from_numpy(mask)}
        hidden = np.zeros_like(mask)
        if self.unknown_rate and rng is not None:
            hidden = mask & (rng.random(mask.shape) < self.unknown_rate)
            tokens[hidden] = UNKNOWN
        batch["tokens"] = torch.from_numpy(tokens)
        if self.characters is not None:
            letters = np.where(mask[:, :, None], self.characters[places], PADDING)
            longest = int((letters != PADDING).any((0, 1)).sum()) or 1
            batch["characters"] = torch.from_numpy(np.ascontiguousarray(letters[..., :longest]))
        if self.slots is not None:
            batch["slots"] = torch.from_numpy(np.where(mask, self.slots[places], IGNORED))
        if self.intents is not None:
            batch["intent"] = torch.from_numpy(self.intents[indices])
        return batch


def label_codes(labels: Any, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Codes ``(n,)`` of labels; -100 for those that are not among the names."""
    known = {name: code for code, name in enumerate(names)}
    return np.fromiter((known.get(label, IGNORED) for label in labels), np.int64)


def check_labelled(text: TextSet) -> None:
    """Refuses utterances without any label.

    Raises:
        DataError: there are neither intents nor slots.
    """
    if not (text.has_intents or text.has_slots):
        raise DataError(
            "the utterances have neither intents nor slots",
            hint="Give a column 'intent' or a column 'slots'",
        )
