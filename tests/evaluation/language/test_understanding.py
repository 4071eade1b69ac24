"""Scores of intents and slots against cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.text import TextSet
from foretell.errors import DataError
from foretell.evaluation.language import evaluate_understanding, intent_accuracy, slot_scores
from foretell.learners.language import Understanding

TAGS = st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "true, predicted, counts",
    [
        ("B-a I-a O", "B-a I-a O", (1, 1, 1)),
        ("B-a I-a O", "B-a O O", (1, 1, 0)),  # the end is wrong
        ("B-a I-a O", "I-a I-a O", (1, 1, 1)),  # I- may begin a span
        ("B-a I-a O", "B-a B-a O", (1, 2, 0)),  # one span is not two
        ("B-a I-a O", "B-b I-b O", (1, 1, 0)),  # the kind is wrong
        ("B-a I-a O", "B-a I-b O", (1, 2, 0)),  # a change of kind begins a span
        ("O O O", "O O B-a", (0, 1, 0)),
        ("B-a O B-b", "B-a O O", (2, 1, 1)),
        ("O O O", "O O O", (0, 0, 0)),
    ],
)
def test_spans_count_as_in_conlleval(true, predicted, counts):
    assert tuple(slot_scores([true.split()], [predicted.split()]).overall) == counts


def test_figures_of_several_utterances_are_pooled():
    true = [["B-a", "O", "B-b"], ["B-a", "I-a", "O"], ["B-b", "O", "O"]]
    predicted = [["B-a", "O", "O"], ["B-a", "I-a", "O"], ["B-a", "O", "O"]]
    scores = slot_scores(true, predicted)
    assert scores.overall == (4, 3, 2)
    assert scores.overall.precision == pytest.approx(2 / 3)
    assert scores.overall.recall == 0.5
    assert scores.f1 == pytest.approx(4 / 7)
    assert scores.kinds["a"] == (2, 3, 2) and scores.kinds["b"] == (2, 0, 0)
    assert scores.kinds["b"].precision == 0 and scores.kinds["b"].f1 == 0
    assert scores.to_polars()["kind"].to_list() == ["all", "a", "b"]


@given(st.lists(TAGS, min_size=1, max_size=5))
def test_a_perfect_prediction_is_perfect(tags):
    scores = slot_scores(tags, tags)
    assert scores.f1 == (1.0 if scores.overall.true else 0.0)


@given(TAGS, st.randoms())
def test_exchanging_truth_and_prediction_exchanges_precision_and_recall(tags, random):
    other = [random.choice(["O", "B-a", "I-b"]) for _ in tags]
    one, two = slot_scores([tags], [other]).overall, slot_scores([other], [tags]).overall
    assert one.precision == two.recall and one.f1 == two.f1


def test_intents():
    assert intent_accuracy(["a", "b", "c", "a"], ["a", "b", "a", "a"]) == 0.75
    with pytest.raises(DataError, match="2 utterances but 1"):
        intent_accuracy(["a", "b"], ["a"])
    with pytest.raises(DataError, match="0 utterances"):
        intent_accuracy([], [])


def test_all_together():
    text = TextSet.from_texts(["a b", "c"], ["x", "y"], ["B-k I-k", "O"])
    chances = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    found = Understanding(text.tokens, ("x", "y"), chances, [["B-k", "I-k"], ["O"]])
    scores = evaluate_understanding(text, found)
    assert scores["intent_accuracy"] == 0.5 and scores["slot_f1"] == 1.0
    assert scores["exact_match"] == 0.5 and scores["utterances"] == 2
    with pytest.raises(DataError, match="other utterances"):
        evaluate_understanding(text.select([0]), found)


def test_wrong_tags_are_named_with_their_row():
    with pytest.raises(DataError, match=r"2 true tags but 1 predicted ones \(row 1"):
        slot_scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="'Z' at token 0"):
        slot_scores([["O"]], [["Z"]])
