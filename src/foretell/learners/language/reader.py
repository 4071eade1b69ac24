"""Turns utterances into numbers: the codes of words, characters, intents and tags."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.text import PADDING, UNKNOWN, HashingVocabulary, TextSet, Vocabulary
from foretell.data.text.subwords import SubwordTokenizer
from foretell.data.text.table import TextTable
from foretell.errors import DataError, ParameterError

AnyVocabulary = Vocabulary | HashingVocabulary
LETTERS = tuple(c for c in string.printable if not c.isspace())

IGNORED = -100
"""Code of a label that has no part in the loss: padding, or a label that training never saw."""


@dataclass(frozen=True)
class TextReader:
    """What is read of an utterance, learned from the training part alone.

    Args:
        words: vocabulary; without words where only characters are read.
        intents: intents by code.
        slots: tags by code.
        characters: vocabulary of characters; None for words only.
        word_length: characters of a word that are read.
        pieces: cuts words into pieces, which take the place of the vocabulary's words.
        shift: added to the codes of pieces; 0 for a model that brings its own codes.
        max_length: words, or pieces and the marks around them, that are read of an utterance.
    """

    words: AnyVocabulary
    intents: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    characters: Vocabulary | None = None
    word_length: int = 16
    pieces: SubwordTokenizer | None = None
    shift: int = 2
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.pieces is not None and self.characters is not None:
            raise ParameterError("pieces of words and characters cannot both be read: take one")
        marks = 0 if self.pieces is None else len(self.pieces.prefix + self.pieces.suffix)
        if self.max_length is not None and self.max_length <= marks:
            raise ParameterError(f"max_length must be more than {marks}, not {self.max_length}")

    @classmethod
    def learn(
        cls,
        text: TextSet,
        *,
        vocabulary: AnyVocabulary | None = None,
        min_count: int = 1,
        characters: bool | Literal["only"] = False,
        word_length: int = 16,
        pieces: SubwordTokenizer | None = None,
        shift: int = 2,
        max_length: int | None = None,
    ) -> TextReader:
        """Words, characters and labels of a training part.

        Args:
            text: the training part.
            vocabulary: to use instead of the text's own words.
            min_count: occurrences that a word needs.
            characters: whether characters are read too, or ``"only"`` they; then no word is kept.
                Beside a hashing vocabulary these are the printable ones of ASCII, so that nothing
                is learned of the text.
            word_length: characters of a word that are read.
            pieces: to use instead of words.
            shift: added to the codes of pieces.
            max_length: words or pieces that are read.
        """
        flat = text.frame["tokens"].explode()
        if vocabulary is None:
            vocabulary = (
                Vocabulary.build(flat, min_count=min_count) if pieces is None else Vocabulary(())
            )
            letters_of: Iterable[str] = flat
        else:
            letters_of = vocabulary.words if isinstance(vocabulary, Vocabulary) else ()
        letters = None
        if characters and isinstance(vocabulary, HashingVocabulary):
            letters = Vocabulary(LETTERS)
        elif characters:
            letters = Vocabulary.build(letter for word in letters_of for letter in word)
        if characters == "only":
            vocabulary = Vocabulary(())
        return cls(
            vocabulary, text.intent_names, text.slot_names, letters, word_length, pieces, shift,
            max_length,
        )  # fmt: skip

    @property
    def codes(self) -> int:
        """Number of codes of words, or pieces."""
        return len(self.words) if self.pieces is None else len(self.pieces) + self.shift

    @property
    def hidden(self) -> int:
        """Code that stands for a hidden word."""
        return UNKNOWN if self.pieces is None or self.shift else self.pieces.unknown

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **words_to_dict(self.words),
            "intents": list(self.intents),
            "slots": list(self.slots),
            "characters": None if self.characters is None else list(self.characters.words),
            "word_length": self.word_length,
            "pieces": None if self.pieces is None else self.pieces.document,
            "shift": self.shift,
            "max_length": self.max_length,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TextReader:
        """The inverse of :meth:`to_dict`."""
        letters, pieces, longest = (
            values["characters"],
            values.get("pieces"),
            values.get("max_length"),
        )
        return cls(
            words_from_dict(values), tuple(values["intents"]), tuple(values["slots"]),
            None if letters is None else Vocabulary(letters), int(values["word_length"]),
            None if pieces is None else SubwordTokenizer(pieces), int(values.get("shift", 2)),
            None if longest is None else int(longest),
        )  # fmt: skip

    @cached_property
    def spelling(self) -> NDArray[np.int64]:
        """Characters of each word of the vocabulary ``(words, word_length)``."""
        assert self.characters is not None and isinstance(self.words, Vocabulary)
        table = np.full((len(self.words), self.word_length), PADDING)
        table[UNKNOWN, 0] = UNKNOWN
        table[2:] = self.spell(self.words.words)
        return table

    def spell(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Characters of any words ``(n, word_length)``."""
        assert self.characters is not None
        table = np.full((len(words), self.word_length), PADDING)
        for row, word in enumerate(words):
            letters = self.characters.encode(word[: self.word_length])
            table[row, : len(letters)] = letters
        return table

    def cut(self, flat: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes of the pieces of words, one after another, and how many each word has."""
        different = flat.unique(maintain_order=True)
        at = flat.replace_strict(different, pl.Series(np.arange(len(different)))).to_numpy()
        if self.pieces is None:
            return self.words.encode(different)[at], np.ones(len(flat), np.int64)
        found = self.pieces.encode(different.to_list())
        counts = np.fromiter(map(len, found), np.int64)
        codes = np.fromiter((code for word in found for code in word), np.int64) + self.shift
        begins = np.cumsum(counts) - counts
        own = counts[at]
        return codes[begins[at].repeat(own) + steps_of(own)], own


class TextExamples:
    """Utterances as examples for training, shortest first.

    The order puts utterances of like length side by side, so that micro-batches of a sorted draw
    hold little padding.

    Args:
        text: utterances; labels that the reader does not know have no part in the loss, and
            neither have those of words beyond the reader's ``max_length``.
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
        self.reader, self.unknown_rate = reader, unknown_rate
        self._source = text
        flat = text.frame["tokens"].explode()
        codes, pieces = reader.cut(flat)
        utterance = np.repeat(np.arange(len(text)), text.lengths)
        totals = np.bincount(utterance, pieces, len(text)).astype(np.int64)
        prefix, suffix = _marks(reader)
        around = len(prefix) + len(suffix)
        kept = totals if reader.max_length is None else totals.clip(max=reader.max_length - around)
        lengths = kept + around
        order = np.argsort(lengths, kind="stable") if ordered else np.arange(len(text))
        begins = np.cumsum(lengths) - lengths
        self.rows, self.lengths, self.begins = order, lengths[order], begins[order]
        # Where each piece of an utterance lies among the pieces of all; -1 for marks.
        source = np.full(lengths.sum(), -1)
        first = np.cumsum(totals) - totals
        inner = np.repeat(begins + len(prefix), kept) + steps_of(kept)
        source[inner] = np.repeat(first, kept) + steps_of(kept)
        self.words = np.where(source >= 0, codes[source], 0)
        for position, code in enumerate(prefix):
            self.words[begins + position] = code
        for position, code in enumerate(suffix):
            self.words[begins + len(prefix) + kept + position] = code
        # The word a piece is the first of; -1 for other pieces and marks.
        word = np.full(len(codes), -1)
        word[np.cumsum(pieces) - pieces] = np.arange(len(flat))
        self._word = np.where(source >= 0, word[source], -1)
        self._first_word = np.cumsum(text.lengths) - text.lengths
        self._word_counts = text.lengths
        self.characters: NDArray[np.int64] | None = None
        if reader.characters is not None:
            different = flat.unique(maintain_order=True)
            at = flat.replace_strict(different, pl.Series(np.arange(len(different)))).to_numpy()
            self.characters = reader.spell(different.to_list())[at][source]
        self.slots: NDArray[np.int64] | None = None
        if text.has_slots and reader.slots:
            tags = label_codes(text.frame["slots"].explode(), reader.slots)
            self.slots = np.where(self._word >= 0, tags[self._word], IGNORED)
        self.intents: NDArray[np.int64] | None = None
        if text.has_intents and reader.intents:
            self.intents = label_codes(text.frame["intent"], reader.intents)[order]

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the utterances and what is read of them, for resuming."""
        return identify(self._source, self.reader.to_dict(), self.unknown_rate)

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Tensors of some utterances.

        Returns:
            ``tokens (B, T)``, ``mask (B, T)`` and, where there are such, ``characters (B, T, W)``,
            ``slots (B, T)`` and ``intent (B,)``; -100 is no label.
        """
        indices = np.asarray(indices, np.int64)
        mask, places = self._places(indices)
        tokens = np.where(mask, self.words[places], PADDING)
        batch = {"mask": torch.from_numpy(mask)}
        if self.unknown_rate and rng is not None:
            hidden = mask & (rng.random(mask.shape) < self.unknown_rate)
            tokens[hidden] = self.reader.hidden
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

    def of_words(
        self, indices: NDArray[np.int64], values: NDArray[np.int64], missing: int
    ) -> list[NDArray[np.int64]]:
        """Values ``(B, T)`` of a batch's tokens as those of each utterance's words.

        A word has the value of its first piece, or ``missing`` where it was not read.
        """
        found = []
        mask, places = self._places(indices)
        words = np.where(mask, self._word[places], -1)
        for row, own, given in zip(self.rows[indices], words, values, strict=True):
            whole = np.full(self._word_counts[row], missing)
            whole[own[own >= 0] - self._first_word[row]] = given[: len(own)][own >= 0]
            found.append(whole)
        return found

    def _places(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        lengths = self.lengths[indices]
        steps = np.arange(int(lengths.max(initial=1)))
        mask = steps < lengths[:, None]
        return mask, np.where(mask, self.begins[indices, None] + steps, 0)


def identify(source: TextTable, *settings: Any) -> str:
    """Fingerprint of examples and of what is read of them."""
    digest = hashlib.sha256(source.fingerprint().encode())
    digest.update(repr(settings).encode())
    return digest.hexdigest()


def steps_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``0, ..., n - 1`` for each of several counts n, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _marks(reader: TextReader) -> tuple[list[int], list[int]]:
    """Codes before and after the pieces of an utterance."""
    if reader.pieces is None:
        return [], []
    prefix, suffix = reader.pieces.prefix, reader.pieces.suffix
    return [code + reader.shift for code in prefix], [code + reader.shift for code in suffix]


def words_to_dict(words: AnyVocabulary) -> dict[str, Any]:
    """JSON values of a vocabulary."""
    if isinstance(words, HashingVocabulary):
        return {"words": None, "buckets": words.buckets, "seed": words.seed}
    return {"words": list(words.words)}


def words_from_dict(values: dict[str, Any]) -> AnyVocabulary:
    """The inverse of :func:`words_to_dict`."""
    if values["words"] is None:
        return HashingVocabulary(values["buckets"], values["seed"])
    return Vocabulary(values["words"])


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
