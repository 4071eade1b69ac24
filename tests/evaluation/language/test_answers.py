"""Scores of answers and written texts: SQuAD's normalisation, ROUGE, the empty ones."""

from __future__ import annotations

import polars as pl
import pytest

from foretell.data.text import PairSet, QuestionSet
from foretell.errors import DataError, ParameterError
from foretell.evaluation.language import (
    answer_scores,
    evaluate_answers,
    evaluate_generation,
    rouge,
)
from foretell.learners.language import Answers


@pytest.mark.parametrize(
    "said, right, exact, f1",
    [
        ("The Denver  Broncos!", ["denver broncos"], 1, 1),
        ("Denver", ["Denver Broncos", "Broncos"], 0, 2 / 3),
        ("a b b", ["b c"], 0, 0.5),
        ("", ["Denver"], 0, 0),
        ("the", ["the"], 0, 0),  # nothing is left of it
        ("1996", ["in 1996", "1996"], 1, 1),
    ],
)
def test_answers_are_compared_as_by_squad(said, right, exact, f1):
    scores = answer_scores([right], [said])
    assert scores["exact_match"] == exact
    assert scores["token_f1"] == pytest.approx(f1)


def test_answers_must_belong_to_the_questions():
    frame = pl.DataFrame(
        {"context": ["a b"], "question": ["which?"], "answers": [["b"]], "starts": [[2]]}
    )
    questions = QuestionSet.from_frame(frame)
    found = Answers(["which?"], ["b"], [2], [0.0])
    assert evaluate_answers(questions, found) == {"questions": 1, "exact_match": 1, "token_f1": 1}
    with pytest.raises(DataError, match="other questions"):
        evaluate_answers(questions, Answers(["who?"], ["b"], [2], [0.0]))
    with pytest.raises(DataError, match="no right answer"):
        answer_scores([[]], ["b"])
    with pytest.raises(DataError, match="1 questions but 0"):
        answer_scores([["b"]], [])


def test_rouge_takes_the_nearest_reference_and_gives_nothing_for_nothing():
    pytest.importorskip("rouge_score")
    references = [["the cat sat on the mat", "a cat sat"], ["rain"]]
    scores = rouge(references, ["a cat sat", ""])
    assert scores == pytest.approx({"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5})
    one = rouge([["the cat sat on the mat"]], ["the cat lay on the mat"], stem=False)
    assert one["rouge1"] == pytest.approx(5 / 6) and one["rouge2"] == pytest.approx(3 / 5)
    pairs = PairSet.from_texts(["x", "y"], ["a cat sat", "rain"])
    found = evaluate_generation(pairs, ["a cat sat", " . "])
    assert found["rougeL"] == 0.5 and found["empty"] == 0 and found["words"] == 2
    with pytest.raises(ParameterError, match="kinds must be"):
        rouge(references, ["a", "b"], kinds=["bleu"])
    with pytest.raises(DataError, match="no reference"):
        rouge([[]], ["a"])
