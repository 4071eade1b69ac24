"""Texts from texts: sentences from tables, summaries, questions, translations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from foretell.data.text import PairSet
from foretell.data.text.table import TextTable
from foretell.errors import DataError
from foretell.estimators.language.base import LanguageEstimator
from foretell.estimators.language.tokens import PUBLIC_WORDS
from foretell.learners.language.pair_reader import PairExamples, PairReader
from foretell.learners.language.search import generate
from foretell.learners.language.seq2seq import Seq2SeqLearner, Seq2SeqShape
from foretell.training import Strategy, use_threads


@dataclass(eq=False, repr=False, kw_only=True)
class Seq2Seq(LanguageEstimator):
    """Writes a text for a text: gated recurrent units with attention, which can copy words.

    Further parameters are those of :class:`~foretell.estimators.language.LanguageEstimator`.

    Args:
        embedding: dimensions of a word.
        hidden: units of each direction of the encoder, and of the decoder.
        dropout: share of embedded and decoded values dropped.
        copy: whether words of the source can be copied, known or not.
        vocabulary: to use instead of the words of the training part, a public one if training is
            private.
        min_count: occurrences that a word of the training part needs to be known.
        max_words: the most words of the vocabulary.
        lowercase: whether words are read and written in lower case.
        source_length: words of a source that are read.
        target_length: words of a target that are learned, and written at most.
        beams: texts that are searched side by side; 1 for greedy search.
        length_penalty: of beam search; 0 for none.
    """

    reads: ClassVar[type[TextTable]] = PairSet
    at_once: ClassVar[int] = 64

    embedding: int = 100
    hidden: int = 128
    dropout: float = 0.1
    copy: bool = True
    vocabulary: Sequence[str] | None = None
    min_count: int = 2
    max_words: int | None = 20_000
    lowercase: bool = False
    source_length: int = 400
    target_length: int = 60
    beams: int = 4
    length_penalty: float = 0.6
    gradient_clip: float | None = 1.0
    batch_size: int = 32

    def fit(
        self,
        pairs: PairSet,
        *,
        strategies: Sequence[Strategy] = (),
        validation: PairSet | None = None,
    ) -> Self:
        """Trains on pairs, all of them: give ``pairs.part("train")``.

        Args:
            pairs: with targets.
            strategies: what changes the training, ``PrivateTraining`` among them; used once.
            validation: pairs whose loss is logged; the weights that do best on it are kept, but not
                in private training.

        Raises:
            DataError: pairs without targets.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        return self._fit(pairs, strategies, validation)

    def predict(self, sources: PairSet | Sequence[str], *, beams: int | None = None) -> list[str]:
        """Texts for sources.

        Args:
            sources: a set, or texts.
            beams: to search with; those of the estimator by default.

        Raises:
            NotFittedError: before ``fit``.
            DataError: a blank source.
        """
        self._require_fit()
        given = sources if isinstance(sources, PairSet) else PairSet.from_texts(sources)
        given = PairSet(given.frame.select("source"))
        examples = self._examples(given)
        texts = [""] * len(given)
        with use_threads(self.threads), torch.inference_mode():
            for begin in range(0, len(examples), self.at_once):
                chosen = np.arange(begin, min(begin + self.at_once, len(examples)))
                said = generate(
                    self.learner_, examples.batch(chosen), begin=self.reader_.begin,
                    end=self.reader_.end, beams=self.beams if beams is None else beams,
                    max_length=self.target_length, length_penalty=self.length_penalty,
                )  # fmt: skip
                found = examples.write(chosen, said)
                for row, text in zip(examples.rows[chosen], found, strict=True):
                    texts[row] = text
        return texts

    def score(self, pairs: PairSet) -> float:
        """Mean log chance of a word of the targets, in nats; the higher the better."""
        return -float(self.losses(pairs).mean())

    def _counts(self) -> tuple[str, ...]:
        own = ("embedding", "hidden", "min_count", "source_length", "target_length", "beams")
        return (*super()._counts(), *own)

    def _shares(self) -> tuple[str, ...]:
        return ("dropout",)

    def _require_labels(self, data: PairSet) -> None:
        if not data.has_targets:
            raise DataError("the pairs have no targets", column="target")

    def _learn(self, data: PairSet) -> PairReader:
        return PairReader.learn(
            data, vocabulary=self.vocabulary, min_count=self.min_count, max_words=self.max_words,
            lowercase=self.lowercase, source_length=self.source_length,
            target_length=self.target_length,
        )  # fmt: skip

    def _make(self, *, trained: bool = False) -> Seq2SeqLearner:
        return Seq2SeqLearner(
            Seq2SeqShape(
                len(self.reader_.words), self.embedding, self.hidden, self.dropout, self.copy
            )
        )

    def _examples(self, data: PairSet, *, training: bool = False) -> PairExamples:
        return PairExamples(data, self.reader_)

    def _published(self) -> list[str]:
        return [PUBLIC_WORDS] * (self.vocabulary is None)

    def _restore(self, config: dict[str, Any]) -> None:
        self.reader_ = PairReader.from_dict(config["reader"])
