from __future__ import annotations

from collections import Counter

import pytest

from foretell.audits.extraction import Canary, CanarySuite, deduplicate
from foretell.data.text import TextSet
from foretell.errors import DataError, ParameterError

DIGITS = tuple("0123456789")


def test_copies_of_each_canary_follow_the_real_text(real, suite, planted):
    assert len(planted.text) == len(real) + 3 * 20
    assert planted.text.tokens[: len(real)] == real.tokens
    counts = Counter(tuple(t) for t in planted.text.tokens[len(real) :])
    assert counts == {canary.words: 20 for canary in planted.canaries}
    for canary in planted.canaries:
        assert len(set(canary.secret)) == 3 and set(canary.secret) <= set(DIGITS)
        assert canary.control != canary.secret and canary.intent in real.intent_names
        assert canary.tags == ("O",) * len(canary.prefix) + ("B-secret",) * 3
    assert "B-secret" in planted.text.slot_names
    assert suite.space == 1000


def test_secrets_follow_from_the_seed_and_not_from_the_copies(real):
    def secrets(**options):
        suite = CanarySuite(("a b", "c d"), DIGITS, **options)
        return [c.to_dict() for c in suite.insert(real).canaries]

    assert secrets(repetitions=0) == secrets(repetitions=5)
    assert secrets() != secrets(seed=1)
    assert Canary.from_dict(secrets()[0]).to_dict() == secrets()[0]
    assert len(secrets(count=1)) == 1


def test_no_copy_leaves_the_text_as_it_is(real):
    assert CanarySuite(("a b",), DIGITS, repetitions=0).insert(real).text is real


def test_a_secret_that_is_in_the_text_is_drawn_anew():
    taken = [f"my pin is {digit}" for digit in DIGITS if digit not in "37"]
    text = TextSet.from_texts(taken, ["x"] * 8)
    planted = CanarySuite(("my pin is",), DIGITS, n_tokens=1).insert(text)
    (canary,) = planted.canaries
    assert {*canary.secret, *canary.control} == {"3", "7"}
    assert planted.notes[0].kind == "canary_collision" and planted.notes[0].count > 0
    full = TextSet.from_texts([f"my pin is {digit}" for digit in DIGITS], ["x"] * 10)
    with pytest.raises(DataError, match="in the text already"):
        CanarySuite(("my pin is",), DIGITS, n_tokens=1).insert(full)


def test_slots_may_stay_outside_and_texts_may_lack_labels(real):
    plain = CanarySuite(("a b",), DIGITS, slot=None).insert(real)
    assert set(plain.canaries[0].tags) == {"O"}
    bare = TextSet.from_texts(["x y", "y z"])
    (canary,) = CanarySuite(("a b",), DIGITS).insert(bare).canaries
    assert canary.intent is None and canary.tags is None
    split = TextSet.from_texts(["x y"], ["i"], splits=["train"])
    assert CanarySuite(("a b",), DIGITS).insert(split).text.splits == ("train",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tokens": 11}, "n_tokens"),
        ({"repetitions": -1}, "repetitions"),
        ({"count": 2}, "count"),
        ({"vocabulary": ("a", "a")}, "different"),
        ({"vocabulary": ("two words", "b"), "n_tokens": 1}, "single words"),
        ({"templates": ("",)}, "one word"),
        ({"templates": "my pin"}, "different"),
    ],
)
def test_what_makes_no_suite_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        CanarySuite(**{"templates": ("my pin",), "vocabulary": DIGITS, **options})


def test_an_unknown_label_is_refused(real):
    with pytest.raises(DataError, match="no intent 'nap'"):
        CanarySuite(("a b",), DIGITS, labels=("nap",)).insert(real)


def test_duplicates_are_left_out(real, planted):
    once = deduplicate(planted.text)
    counts = Counter(tuple(t) for t in once.tokens)
    assert max(counts.values()) == 1 and set(counts) == {tuple(t) for t in planted.text.tokens}
    assert once.notes[-1].count == len(planted.text) - len(once)
    assert max(Counter(tuple(t) for t in deduplicate(planted.text, 3).tokens).values()) == 3
    assert deduplicate(once) is once
    with pytest.raises(ParameterError, match="most"):
        deduplicate(real, 0)
