"""Text sets: what is read, what is refused, spans and vocabularies."""

from __future__ import annotations

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.text import PADDING, UNKNOWN, TextSet, Vocabulary, spans_of
from foretell.errors import DataError, ParameterError

TEXTS = ["play some jazz", "wake me at nine", "rain tomorrow"]
SLOTS = ["O O B-genre", "O O O B-time", "O B-date"]
INTENTS = ["play", "alarm", "weather"]


def small() -> TextSet:
    return TextSet.from_texts(TEXTS, INTENTS, SLOTS, ["train", "train", "test"])


def test_what_was_given_comes_back():
    text = small()
    assert len(text) == 3 and text.splits == ("train", "test")
    assert text.tokens[1] == ["wake", "me", "at", "nine"]
    assert text.slots[0] == ["O", "O", "B-genre"]
    assert text.intents.tolist() == INTENTS
    assert text.intent_names == ("alarm", "play", "weather")
    assert text.slot_names == ("B-date", "B-genre", "B-time", "O")
    assert text.lengths.tolist() == [3, 4, 2]
    assert text.part("test").tokens == [["rain", "tomorrow"]]
    assert text.select([2, 0]).intents.tolist() == ["weather", "play"]
    assert "3 utterances" in repr(text) and text.notes == ()


def test_tables_of_any_kind_read_the_same():
    columns = {"text": TEXTS, "tags": SLOTS, "label": INTENTS, "scenario": ["a", "b", "c"]}
    names = {"tokens": "text", "slots": "tags", "intent": "label"}
    ways = [pl.DataFrame(columns), pd.DataFrame(columns), pl.DataFrame(columns).to_arrow()]
    read = [TextSet.from_frame(way, **names) for way in ways]
    assert len({text.fingerprint() for text in read}) == 1
    assert read[0].frame["scenario"].to_list() == ["a", "b", "c"]
    assert read[0].splits == ()


def test_the_fingerprint_sees_every_label_and_border():
    one = TextSet.from_texts(["a b", "c"], ["x", "y"], ["O O", "O"])
    others = [
        TextSet.from_texts(["a", "b c"], ["x", "y"], ["O", "O O"]),
        TextSet.from_texts(["a b", "c"], ["y", "y"], ["O O", "O"]),
        TextSet.from_texts(["a b", "c"], ["x", "y"], ["O B-k", "O"]),
        TextSet.from_texts(["a b", "c"], ["x", "y"]),
    ]
    assert one.fingerprint() not in {other.fingerprint() for other in others}


@pytest.mark.parametrize(
    "frame, message",
    [
        ({"words": ["a"]}, "no column 'tokens'"),
        ({"tokens": ["a b", "  "]}, r"no token \(column 'tokens', row 1"),
        ({"tokens": ["a b", None]}, r"no token .*row 1"),
        ({"tokens": [["a", ""], ["b"]]}, r"a token is empty .*row 0"),
        ({"tokens": [1, 2]}, "must be text or lists of strings, not Int64"),
        ({"tokens": ["a b"], "slots": ["O"]}, r"2 tokens has 1 tags \(column 'slots', row 0"),
        ({"tokens": ["a", "a b"], "slots": ["O", "O X-k"]}, r"'X-k' is not a tag .*row 1"),
        ({"tokens": ["a", "b"], "intent": ["x", None]}, r"no intent \(column 'intent', row 1"),
        ({"tokens": ["a"], "intent": [0.5]}, "intent must be strings"),
        ({"tokens": ["a", "b"], "split": ["", "x"]}, r"no split .*row 0"),
        ({"tokens": []}, "must be text"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(frame, message):
    with pytest.raises(DataError, match=message):
        TextSet.from_frame(pl.DataFrame(frame))


def test_an_empty_table_and_odd_arguments_are_refused():
    with pytest.raises(DataError, match="no utterance"):
        TextSet.from_frame(pl.DataFrame({"tokens": pl.Series([], dtype=pl.String)}))
    with pytest.raises(DataError, match="one string"):
        TextSet.from_texts("play jazz")
    with pytest.raises(DataError, match="2 utterances but 1 values of 'intent'"):
        TextSet.from_texts(["a", "b"], ["x"])
    with pytest.raises(DataError, match="must be strings"):
        TextSet.from_texts([["a", 3]])
    with pytest.raises(DataError, match="table of utterances"):
        TextSet.from_frame(3)
    with pytest.raises(DataError, match=r"no part 'valid'.*train, test"):
        small().part("valid")
    with pytest.raises(DataError, match="no column 'slots'"):
        _ = TextSet.from_texts(["a"]).slots


def test_spans_that_begin_with_i_are_noted():
    text = TextSet.from_texts(["a b c", "d e"], slots=["O I-k I-k", "B-k I-j"])
    (note,) = text.notes
    assert note.count == 2 and "row 0" in note.message
    assert text.slots[0] == ["O", "I-k", "I-k"]


def test_division_is_a_partition():
    text = TextSet.from_texts([f"w{i}" for i in range(50)])
    rest, share = text.divide(0.2, seed=3)
    assert len(share) == 10 and len(rest) == 40
    assert {t[0] for t in rest.tokens} | {t[0] for t in share.tokens} == {
        f"w{i}" for i in range(50)
    }
    assert share.tokens == text.divide(0.2, seed=3)[1].tokens
    with pytest.raises(DataError, match="no utterance on one side"):
        text.divide(1.0)


@pytest.mark.parametrize(
    "tags, spans",
    [
        ("O O", []),
        ("B-a I-a O", [("a", 0, 2)]),
        ("B-a B-a", [("a", 0, 1), ("a", 1, 2)]),
        ("I-a I-a", [("a", 0, 2)]),
        ("B-a I-b", [("a", 0, 1), ("b", 1, 2)]),
        ("I-a B-a I-a", [("a", 0, 1), ("a", 1, 3)]),
        ("O I-a O I-a", [("a", 1, 2), ("a", 3, 4)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
    ],
)
def test_spans_are_those_of_conlleval(tags, spans):
    assert spans_of(tags.split()) == spans


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=12))
def test_spans_cover_just_the_tagged_words_and_do_not_overlap(tags):
    covered = [i for span in spans_of(tags) for i in range(span.begin, span.end)]
    assert covered == [i for i, tag in enumerate(tags) if tag != "O"]
    for span in spans_of(tags):
        assert {tag[2:] for tag in tags[span.begin : span.end]} == {span.kind}


@pytest.mark.parametrize("tag", ["X-a", "B", "B-", "", "b-a"])
def test_other_tags_are_refused(tag):
    with pytest.raises(ValueError, match="is not O"):
        spans_of([tag])


def test_vocabularies_count_and_order():
    words = Vocabulary.build("b a c a b a d".split(), min_count=1, max_words=3)
    assert words.words == ("a", "b", "c")
    assert len(words) == 5 and "d" not in words
    assert words.encode(["a", "d", "b"]).tolist() == [2, UNKNOWN, 3]
    assert words.decode([PADDING, UNKNOWN, 4]) == ["<pad>", "<unknown>", "c"]
    assert Vocabulary.build("b a b".split(), min_count=2).words == ("b",)
    with pytest.raises(DataError, match="'a' twice"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(DataError, match="empty word"):
        Vocabulary(["a", ""])
    with pytest.raises(ParameterError, match="at least 1"):
        Vocabulary.build(["a"], min_count=0)
