"""QA and SS: answers in a text, and texts from texts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import torch

from foretell.data.text import PairSet, QuestionSet, Vocabulary
from foretell.data.text.words import split_words
from foretell.errors import RecipeError
from foretell.evaluation.language import answer_scores, rouge
from foretell.learners.contract import Learner
from foretell.learners.language.pair_reader import PairExamples, PairReader
from foretell.learners.language.reader import TextReader
from foretell.learners.language.search import generate
from foretell.learners.language.seq2seq import Seq2SeqLearner, Seq2SeqShape
from foretell.learners.language.span import SpanLearner, SpanShape
from foretell.learners.language.span_reader import SpanExamples, as_utterances
from foretell.runs.fednlp.formulation import (
    FederatedTask,
    Rows,
    load_source,
    read_parts,
    shape_of,
    vocabulary_of,
)
from foretell.runs.fednlp.recipe import TaskSection

LONGEST_ANSWER = 15
AT_ONCE = 32


def answering(section: TaskSection) -> FederatedTask:
    """Questions on texts; clusters are made of question and answer together.

    Questions whose answer lies beyond ``max_length`` are left out of training and count as wrong
    in judging.

    Raises:
        RecipeError: the source has no questions with answers.
        DataError: it cannot be read.
    """
    train, test = read_parts(section.data, load_source(section))
    if not isinstance(train, QuestionSet) or not train.has_answers:
        raise RecipeError(f"{section.data.source} has no questions with answers, as 'qa' needs")
    model = section.learner
    utterances = as_utterances(train)
    vocabulary = vocabulary_of(model, lambda: utterances.frame["tokens"].explode().to_list())
    reader = TextReader.learn(
        utterances, vocabulary=vocabulary, characters=model.characters,
        max_length=model.max_length,
    )  # fmt: skip
    examples, tests = SpanExamples(train, reader, answerable=True), SpanExamples(test, reader)
    letters = 0 if reader.characters is None else len(reader.characters)
    shape = SpanShape(words=reader.codes, characters=letters, **shape_of(model))
    right = test.answers

    @torch.inference_mode()
    def judge(learner: Learner, rows: Rows) -> dict[str, float]:
        assert isinstance(learner, SpanLearner)
        said = []
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            first, last, _ = learner.best(learner(tests.batch(part)), LONGEST_ANSWER)
            ends = zip(part, first.tolist(), last.tolist(), strict=True)
            said += [tests.answer(i, a, b)[0] for i, a, b in ends]
        return answer_scores([right[r] for r in tests.rows[rows]], said)

    notes = []
    if examples.rows_left_out:
        notes.append(
            f"{examples.rows_left_out} training questions are answered beyond "
            f"{model.max_length} words and were left out"
        )
    return FederatedTask(
        code="qa", train=train, test=test, examples=examples, rows=examples.rows, tests=tests,
        test_rows=tests.rows, build=lambda: SpanLearner(shape), judge=judge, metric="token_f1",
        trivial={
            "a random span": random_spans(test),
            "the sentence most like the question": nearest_sentences(test),
        },
        labels=None, test_labels=None, text=_asked(train), test_text=_asked(test),
        notes=tuple(notes),
    )  # fmt: skip


def writing(section: TaskSection) -> FederatedTask:
    """Texts from texts; clusters are made of what is written.

    Raises:
        RecipeError: the source has no pairs.
        DataError: it cannot be read.
    """
    train, test = read_parts(section.data, load_source(section))
    if not isinstance(train, PairSet) or not train.has_targets:
        raise RecipeError(f"{section.data.source} has no pairs of texts, as 'ss' needs")
    model = section.learner

    def pooled() -> list[str]:
        texts = [*train.frame["source"], *train.frame["target"]]
        return [word.text for text in texts for word in split_words(text)]

    words = vocabulary_of(model, pooled)
    assert isinstance(words, Vocabulary)
    limits: dict[str, Any] = {"source_length": model.max_length or 400}
    reader = PairReader.learn(train, vocabulary=words.words, **limits)
    examples, tests = PairExamples(train, reader), PairExamples(test, reader)
    shape = Seq2SeqShape(len(reader.words), model.embedding, model.hidden, model.dropout)
    references = test.references

    @torch.inference_mode()
    def judge(learner: Learner, rows: Rows) -> dict[str, float]:
        assert isinstance(learner, Seq2SeqLearner)
        said: list[str] = []
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            codes = generate(learner, tests.batch(part), begin=reader.begin, end=reader.end)
            said += tests.write(part, codes)
        return rouge([references[r] for r in tests.rows[rows]], said)

    common = Counter(train.frame["target"]).most_common(1)[0][0]
    return FederatedTask(
        code="ss", train=train, test=test, examples=examples, rows=examples.rows, tests=tests,
        test_rows=tests.rows, build=lambda: Seq2SeqLearner(shape), judge=judge, metric="rougeL",
        trivial={
            "the commonest training target": rouge(references, [common] * len(test))["rougeL"],
            "the source as it stands": rouge(references, test.sources)["rougeL"],
        },
        labels=None, test_labels=None, text=train.frame["target"].to_list(),
        test_text=test.frame["target"].to_list(),
    )  # fmt: skip


def _asked(questions: QuestionSet) -> list[str]:
    columns = questions.frame.select("question", pl.col("answers").list.first())
    return [f"{asked} {answer}" for asked, answer in columns.iter_rows()]


def random_spans(questions: QuestionSet, longest: int = 5) -> float:
    """Token F1 of spans of one to ``longest`` words drawn anywhere."""
    rng, said = np.random.default_rng(0), []
    for context in questions.frame["context"]:
        words = split_words(context)
        first = int(rng.integers(len(words)))
        last = min(first + int(rng.integers(longest)), len(words) - 1)
        said.append(context[words[first].begin : words[last].end])
    return answer_scores(questions.answers, said)["token_f1"]


def nearest_sentences(questions: QuestionSet) -> float:
    """Token F1 of the whole sentence that shares most words with the question."""
    said = []
    for context, asked in questions.frame.select("context", "question").iter_rows():
        wanted = {w.text.lower() for w in split_words(asked)}
        sentences = [s for s in context.replace("? ", ". ").split(". ") if s.strip()] or [context]
        shared = [len(wanted & {w.text.lower() for w in split_words(s)}) for s in sentences]
        said.append(sentences[int(np.argmax(shared))])
    return answer_scores(questions.answers, said)["token_f1"]
