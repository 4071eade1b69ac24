"""Words of a text with their places in it."""

from __future__ import annotations

import re
from typing import NamedTuple

_WORD = re.compile(r"\w+|[^\w\s]")
_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%'")
_NO_SPACE_AFTER = frozenset("([{$#'")


class Word(NamedTuple):
    """A word, or a mark of punctuation, and the characters at which it begins and ends."""

    text: str
    begin: int
    end: int


def split_words(text: str) -> list[Word]:
    """Words and marks of a text, one by one."""
    return [Word(found.group(), *found.span()) for found in _WORD.finditer(text)]


def join_words(words: list[str]) -> str:
    """Text of words and marks, with spaces where English has them."""
    text = ""
    for position, word in enumerate(words):
        joined = word in _NO_SPACE_BEFORE or (
            position > 0 and words[position - 1] in _NO_SPACE_AFTER
        )
        text += word if joined or not text else f" {word}"
    return text
