"""Answers to questions, as spans of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import polars as pl

from foretell.data.text import QuestionSet
from foretell.data.text.table import TextTable
from foretell.errors import DataError
from foretell.estimators.language.tokens import TokenEstimator
from foretell.learners.language.agreement import best_answer_f1
from foretell.learners.language.answers import Answers
from foretell.learners.language.reader import TextReader
from foretell.learners.language.span import SpanLearner, SpanShape
from foretell.learners.language.span_reader import SpanExamples, as_utterances
from foretell.training import Strategy


@dataclass(eq=False, repr=False, kw_only=True)
class SpanQA(TokenEstimator):
    """Finds the answer to a question in a text.

    Further parameters are those of :class:`~foretell.estimators.language.TokenEstimator` and
    :class:`~foretell.estimators.language.LanguageEstimator`. Questions whose answer lies beyond
    ``max_length`` are left out of training (``rows_left_out_`` counts them) and count as wrong in
    evaluation.

    Args:
        encoder: ``"bilstm"``, ``"transformer"`` or ``"hugging_face"``.
        lowercase: whether words are read in lower case.
        longest: words or pieces of an answer at most.
    """

    reads: ClassVar[type[TextTable]] = QuestionSet
    at_once: ClassVar[int] = 32

    encoder: str = field(default="bilstm", kw_only=False)
    lowercase: bool = True
    longest: int = 15
    batch_size: int = 32
    max_length: int | None = 400

    def fit(
        self,
        questions: QuestionSet,
        *,
        strategies: Sequence[Strategy] = (),
        validation: QuestionSet | None = None,
    ) -> Self:
        """Trains on questions, all of them: give ``questions.part("train")``.

        Args:
            questions: with answers.
            strategies: what changes the training, ``PrivateTraining`` among them; used once.
            validation: questions whose loss is logged; the weights that do best on it are kept, but
                not in private training.

        Raises:
            DataError: questions without answers, or none within ``max_length``.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        return self._fit(questions, strategies, validation)

    def predict(self, questions: QuestionSet | Sequence[tuple[str, str]]) -> Answers:
        """The likeliest answers.

        Args:
            questions: a set, or pairs of question and context.

        Raises:
            NotFittedError: before ``fit``.
            DataError: a blank question or context.
        """
        self._require_fit()
        if not isinstance(questions, QuestionSet):
            frame = pl.DataFrame(list(questions), schema=["question", "context"], orient="row")
            questions = QuestionSet.from_frame(frame)
        examples = self._examples(questions)
        size = len(questions)
        texts, starts, chances = [""] * size, np.zeros(size, np.int64), np.zeros(size, np.float32)
        for chosen, _, output in self._outputs(examples):
            first, last, chance = self.learner_.best(output, self.longest)
            for i, index in enumerate(chosen):
                row = examples.rows[index]
                texts[row], starts[row] = examples.answer(index, int(first[i]), int(last[i]))
                chances[row] = float(chance[i])
        return Answers(questions.frame["question"].to_list(), texts, starts, chances)

    def score(self, questions: QuestionSet) -> float:
        """Mean F1 of the answers' words with the nearest right answer, as SQuAD's script has it."""
        found = self.predict(questions).texts
        pairs = zip(found, questions.answers, strict=True)
        return float(np.mean([best_answer_f1(text, answers) for text, answers in pairs]))

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "longest")

    def _require_labels(self, data: QuestionSet) -> None:
        if not data.has_answers:
            raise DataError("the questions have no answers", column="answers")

    def _learn(self, data: QuestionSet) -> TextReader:
        return self._learn_words(as_utterances(data, lowercase=self.lowercase))

    def _make(self, *, trained: bool = False) -> SpanLearner:
        encoder = self._encoder(trained)
        return SpanLearner(SpanShape(**self._widths()), encoder)

    def _examples(self, data: QuestionSet, *, training: bool = False) -> SpanExamples:
        examples = SpanExamples(data, self.reader_, lowercase=self.lowercase, answerable=training)
        if training:
            self.rows_left_out_ = examples.rows_left_out
        return examples
