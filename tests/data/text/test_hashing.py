"""Hashed codes: stable, spread, and learned from nothing."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.data.text import HashingVocabulary
from foretell.errors import ParameterError


def test_codes_are_the_same_everywhere():
    # Written down once: a saved model must read words as it did, in another process and year.
    codes = HashingVocabulary(1_000).encode(["play", "jazz", "Ⅷ", ""])
    assert codes.tolist() == [860, 877, 578, 758]
    assert HashingVocabulary(1_000, seed=1).encode(["play"])[0] != codes[0]


def test_codes_leave_padding_and_the_reserved_one_free_and_spread():
    vocabulary = HashingVocabulary(64)
    codes = vocabulary.encode(f"word{i}" for i in range(6_400))
    assert len(vocabulary) == 66 and codes.min() == 2 and codes.max() == 65
    counts = np.bincount(codes - 2)
    assert ((counts - 100) ** 2 / 100).sum() < 110  # chi-square of 63 degrees, p = .0002


def test_equal_where_buckets_and_seed_are():
    assert HashingVocabulary(8) == HashingVocabulary(8) != HashingVocabulary(8, seed=1)
    assert "anything" in HashingVocabulary(8)
    for buckets, seed in [(1, 0), (8, -1)]:
        with pytest.raises(ParameterError, match="two buckets or more"):
            HashingVocabulary(buckets, seed)
