"""A vocabulary that needs no text: words are numbered by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

_CACHED = 1 << 20


class HashingVocabulary:
    """Codes of words without a list of words: 0 is padding, 1 is reserved, buckets follow from 2.

    Nothing is learned of anybody's text, so clients of a federation need not show theirs, and a
    guarantee of privacy needs no word about the vocabulary. Words that fall into the same bucket
    share a code.

    Args:
        buckets: number of codes.
        seed: of the hash.

    Raises:
        ParameterError: fewer than two buckets, or a negative seed.
    """

    def __init__(self, buckets: int = 8_192, seed: int = 0) -> None:
        if buckets < 2 or seed < 0:
            raise ParameterError(
                f"a hashing vocabulary needs two buckets or more and a seed from 0, not {buckets} "
                f"and {seed}"
            )
        self.buckets, self.seed = int(buckets), int(seed)

    def __len__(self) -> int:
        """Number of codes, padding and the reserved one included."""
        return self.buckets + 2

    def __contains__(self, word: str) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashingVocabulary) and (self.buckets, self.seed) == (
            other.buckets,
            other.seed,
        )

    def __hash__(self) -> int:
        return hash((self.buckets, self.seed))

    def __repr__(self) -> str:
        return f"HashingVocabulary({self.buckets:,} buckets, seed={self.seed})"

    def encode(self, words: Iterable[str]) -> NDArray[np.int64]:
        """Codes ``(n,)`` of n words, the same in every process and on every machine."""
        buckets, seed = self.buckets, self.seed
        return np.fromiter((_code(word, seed) % buckets + 2 for word in words), np.int64)


@lru_cache(maxsize=_CACHED)
def _code(word: str, seed: int) -> int:
    salt = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt)
    return int.from_bytes(digest.digest(), "little")
