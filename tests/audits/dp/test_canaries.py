from __future__ import annotations

import numpy as np
import pytest

from foretell.audits.dp import (
    crafted_utterance,
    dirac_gradient,
    flip,
    in_distribution,
    mislabelled,
)
from foretell.data.text import TextSet
from foretell.errors import DataError, ParameterError

TEXT = TextSet.from_texts(
    [f"say word{i} now" for i in range(30)], ["x", "y", "z"] * 10, ["O B-w O"] * 30
)


def test_coins_are_fair_and_repeatable():
    assert np.array_equal(flip(1000, 3), flip(1000, 3))
    assert not np.array_equal(flip(1000, 3), flip(1000, 4))
    assert 400 < flip(1000).sum() < 600


def test_reserved_words_are_each_in_one_canary_and_in_no_real_utterance():
    made = dirac_gradient(TEXT, 8)
    assert [t[0] for t in made.text.tokens] == list(made.reserved) and len(made.reserved) == 8
    assert set(made.text.intents) <= set(TEXT.intent_names)
    planted = made.plant(TEXT)
    assert len(planted) == 30 + made.included.sum()
    assert planted.tokens[30:] == [
        t for t, c in zip(made.text.tokens, made.included, strict=True) if c
    ]
    with pytest.raises(DataError, match="reserved"):
        dirac_gradient(planted, 8)


def test_mislabelled_canaries_are_real_utterances_with_wrong_intents():
    made = mislabelled(TEXT, 20)
    known = {tuple(t): i for t, i in zip(TEXT.tokens, TEXT.intents, strict=True)}
    assert len({tuple(t) for t in made.text.tokens}) == 20
    for tokens, intent in zip(made.text.tokens, made.text.intents, strict=True):
        assert intent in TEXT.intent_names and known[tuple(tokens)] != intent
    with pytest.raises(DataError, match="two intents"):
        mislabelled(TextSet.from_texts(["a", "b"], ["x", "x"]), 1)


def test_canaries_in_distribution_are_real_utterances():
    made = in_distribution(TEXT, 10, seed=1)
    known = {tuple(t): i for t, i in zip(TEXT.tokens, TEXT.intents, strict=True)}
    assert all(
        known[tuple(t)] == i for t, i in zip(made.text.tokens, made.text.intents, strict=True)
    )
    with pytest.raises(DataError, match="cannot be chosen"):
        in_distribution(TEXT, 31)
    with pytest.raises(ParameterError, match="one canary"):
        in_distribution(TEXT, 0)


def test_crafted_utterances_are_different_secrets_behind_prefixes():
    made = crafted_utterance(TEXT, ["my code is", "it opens with"], list("0123456789"), 50, 3)
    words = [tuple(t) for t in made.text.tokens]
    assert len(set(words)) == 50
    assert all(t[:3] in (("my", "code", "is"), ("it", "opens", "with")) for t in words)
    assert all(len(set(t[3:])) == 3 for t in words)
    with pytest.raises(DataError, match="different secrets"):
        crafted_utterance(TEXT, ["my code is"], list("01"), 5, 2)
