"""Words as vectors: from a table, and from their characters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foretell.errors import ParameterError


class CharacterCNN(nn.Module):
    """A word's vector from its characters: a convolution and the largest value over the word.

    Ma and Hovy (2016), section 2.1. The characters of all words of an utterance lie in one line,
    with gaps that keep windows within their word, so that examples stay first, as private training
    needs.

    Args:
        characters: codes, padding (0) included.
        embedding: dimensions of a character.
        filters: width of a word's vector.
        kernel: characters of a window, an odd number.

    Raises:
        ParameterError: an even kernel.
    """

    def __init__(
        self, characters: int, embedding: int = 16, filters: int = 32, kernel: int = 3
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ParameterError(f"the kernel over characters must be odd, not {kernel}")
        self.letters = nn.Embedding(characters, embedding, padding_idx=0)
        self.windows = nn.Conv1d(embedding, filters, kernel, padding=kernel // 2)
        self.gap, self.width = kernel // 2, filters

    def forward(self, characters: Tensor) -> Tensor:
        """``(B, T, W)`` to ``(B, T, filters)``; 0 for words without characters."""
        batch, words, _ = characters.shape
        spaced = nn.functional.pad(characters, (0, self.gap)).flatten(1)
        values = self.windows(self.letters(spaced).transpose(1, 2))  # (B, filters, T * (W + gap))
        real = (spaced != 0).unsqueeze(1)
        values = values.masked_fill(~real, -torch.inf).view(batch, self.width, words, -1)
        largest = values.amax(-1).transpose(1, 2)
        return torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))


class WordEmbedding(nn.Module):
    """Vectors of words, with those of their characters beside them or instead of them.

    A table remembers every word by itself. Characters alone are shared by all words, so that a word
    which is rare, or secret, has nothing of its own to be remembered by.

    Args:
        words: codes, padding (0) included; 0 for no table, where only characters are read.
        embedding: dimensions of a word.
        characters: codes of characters; 0 for words only.
        character_filters: further dimensions from characters, or all of them without a table.

    Raises:
        ParameterError: neither words nor characters.
    """

    def __init__(
        self, words: int, embedding: int, characters: int = 0, character_filters: int = 32
    ) -> None:
        super().__init__()
        if not words and not characters:
            raise ParameterError("words must be read from a table, by their characters, or both")
        self.words = nn.Embedding(words, embedding, padding_idx=0) if words else None
        self.characters = None
        self.width = embedding if words else 0
        if characters:
            self.characters = CharacterCNN(characters, filters=character_filters)
            self.width += character_filters

    def forward(self, tokens: Tensor, characters: Tensor | None = None) -> Tensor:
        """``(B, T)`` and ``(B, T, W)`` to ``(B, T, width)``."""
        found = [] if self.words is None else [self.words(tokens)]
        if self.characters is not None:
            found.append(self.characters(characters))
        return found[0] if len(found) == 1 else torch.cat(found, -1)
