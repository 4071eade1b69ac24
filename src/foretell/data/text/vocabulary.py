"""A vocabulary: words, or characters, and their codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError

PADDING, UNKNOWN = 0, 1
"""Codes that no word has."""


class Vocabulary:
    """Words and their codes: 0 is padding, 1 is any other word, words follow from 2.

    Words are taken as whitespace leaves them. Utterances of voice assistants come in lower case and
    without punctuation, and slots are tagged word by word: pieces of words would only have to be
    put together again. What a word hides is read by a network over its characters where that is
    wanted.

    Args:
        words: different words, in the order of their codes.

    Raises:
        DataError: a word twice, or an empty one.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._codes = {word: code for code, word in enumerate(self.words, start=2)}
        if len(self._codes) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"the vocabulary holds {twice!r} twice")
        if "" in self._codes:
            raise DataError("the vocabulary holds an empty word", row=self.words.index(""))

    @classmethod
    def build(
        cls, words: Iterable[str], *, min_count: int = 1, max_words: int | None = None
    ) -> Vocabulary:
        """The words of a text, frequent ones first and equally frequent ones in their order.

        Args:
            words: all of them, as often as they occur: of the **training** part only.
            min_count: occurrences that a word needs.
            max_words: the most words to keep.

        Raises:
            ParameterError: bounds below 1.
        """
        if min_count < 1 or (max_words is not None and max_words < 1):
            raise ParameterError(
                f"min_count and max_words must be at least 1, not {min_count} and {max_words}"
            )
        counts = Counter(words)
        kept = sorted(
            (word for word, count in counts.items() if count >= min_count),
            key=lambda word: (-counts[word], word),
        )
        return cls(kept[:max_words])

    def __len__(self) -> int:
        """Number of codes, padding and unknown included."""
        return len(self.words) + 2

    def __contains__(self, word: str) -> bool:
        return word in self._codes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words):,} words)"

    def encode(self, words: Iterable[str]) -> NDArray[np.int64]:
        """Codes ``(n,)`` of n words."""
        get = self._codes.get
        return np.fromiter((get(word, UNKNOWN) for word in words), np.int64)

    def decode(self, codes: Iterable[int]) -> list[str]:
        """Words of codes; padding and unknown become ``<pad>`` and ``<unknown>``."""
        names = ("<pad>", "<unknown>", *self.words)
        return [names[code] for code in codes]
