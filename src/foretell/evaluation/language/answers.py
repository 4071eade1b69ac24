"""How often answers are right, and how near they are: SQuAD's two scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretell.data.text import QuestionSet
from foretell.errors import DataError
from foretell.learners.language.agreement import best_answer_f1, exact_answer, normal_answer
from foretell.learners.language.answers import Answers


def answer_scores(answers: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """Exact match and token F1 of answers (Rajpurkar et al. 2016, section 6.1).

    Answers are compared in lower case, without marks and articles, with the nearest of the right
    ones. An empty answer is wrong.

    Args:
        answers: right answers of each question.
        predicted: one answer a question.

    Returns:
        ``exact_match`` and ``token_f1``, means over the questions.

    Raises:
        DataError: different numbers of questions, none, or one without a right answer.
    """
    if len(answers) != len(predicted) or not len(answers):
        raise DataError(f"{len(answers)} questions but {len(predicted)} predictions")
    for row, right in enumerate(answers):
        if not right:
            raise DataError("a question has no right answer", column="answers", row=row)
    pairs = list(zip(predicted, answers, strict=True))
    exact = [exact_answer(said, right) for said, right in pairs]
    near = [best_answer_f1(said, right) if normal_answer(said) else 0.0 for said, right in pairs]
    return {"exact_match": float(np.mean(exact)), "token_f1": float(np.mean(near))}


def evaluate_answers(questions: QuestionSet, answers: Answers) -> dict[str, float]:
    """Scores of predicted answers for a set of questions; see :func:`answer_scores`.

    Raises:
        DataError: answers to other questions, or questions without answers.
    """
    if questions.frame["question"].to_list() != answers.questions:
        raise DataError("the answers are to other questions than these")
    return {"questions": float(len(questions)), **answer_scores(questions.answers, answers.texts)}
