"""Language models: how likely a text is, and how it might go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.text import TextSet
from foretell.data.text.table import TextTable
from foretell.errors import ParameterError
from foretell.estimators.language.base import LanguageEstimator
from foretell.estimators.language.tokens import PUBLIC_WORDS
from foretell.learners.language.language_model import (
    MODELS,
    LanguageModelLearner,
    LanguageModelShape,
)
from foretell.learners.language.stream_reader import (
    LanguageModelExamples,
    Level,
    StreamReader,
    raw_texts,
)
from foretell.training import Strategy, use_threads


class Likelihoods(NamedTuple):
    """How likely texts are.

    Attributes:
        nats: ``(n,)`` negative log chance of each text, its end included.
        units: ``(n,)`` characters or words that were read of it, its end included.
        characters: ``(n,)`` characters of the text, its end counted as one.
    """

    nats: NDArray[np.float64]
    units: NDArray[np.int64]
    characters: NDArray[np.int64]


@dataclass(eq=False, repr=False, kw_only=True)
class LanguageModel(LanguageEstimator):
    """Predicts the next character or word; reads column ``text`` of a set, or its tokens.

    Further parameters are those of :class:`~foretell.estimators.language.LanguageEstimator`. An
    example is a stretch of ``length`` units, and so is what a guarantee of private training speaks
    of.

    Args:
        model: ``"gru"`` or ``"transformer"`` (causal).
        level: ``"character"`` or ``"word"``.
        embedding: dimensions of a unit.
        hidden: units of the GRU, or width of the transformer.
        layers: stacked.
        heads: of the transformer.
        dropout: share of embedded and predicted values dropped.
        vocabulary: to use instead of the units of the training part, such as
            :data:`foretell.learners.language.PRINTABLE`.
        min_count: occurrences that a unit of the training part needs to be known.
        length: units of an example.
    """

    reads: ClassVar[type[TextTable]] = TextSet
    at_once: ClassVar[int] = 64

    model: str = field(default="gru", kw_only=False)
    level: Level = "character"
    embedding: int = 64
    hidden: int = 256
    layers: int = 1
    heads: int = 4
    dropout: float = 0.0
    vocabulary: Sequence[str] | None = None
    min_count: int = 1
    length: int = 128
    gradient_clip: float | None = 1.0

    def fit(
        self,
        text: TextSet,
        *,
        strategies: Sequence[Strategy] = (),
        validation: TextSet | None = None,
    ) -> Self:
        """Trains on texts, all of them: give ``text.part("train")``.

        Args:
            text: a text a row.
            strategies: what changes the training, ``PrivateTraining`` among them; used once.
            validation: texts whose loss is logged; the weights that do best on it are kept, but not
                in private training.

        Raises:
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        return self._fit(text, strategies, validation)

    def predict(
        self,
        prompts: Sequence[str],
        *,
        length: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> list[str]:
        """Texts that go on from prompts, these included.

        Args:
            prompts: beginnings; may be empty.
            length: units to add at most.
            temperature: 0 for the likeliest unit each time.
            top_k: only the likeliest few can be drawn.

        Raises:
            NotFittedError: before ``fit``.
            ParameterError: values out of range.
        """
        self._require_fit()
        reader, found = self.reader_, []
        parted = " " if self.level == "word" else ""
        with use_threads(self.threads):
            for number, prompt in enumerate(prompts):
                own = reader.encode(prompt) if prompt else np.zeros(0, np.int64)
                codes = torch.from_numpy(np.concatenate([[reader.begin], own]).astype(np.int64))
                said = self.learner_.generate(
                    codes, length, end=reader.end, temperature=temperature, top_k=top_k,
                    never=(0, 1, reader.begin), seed=self.random_state + number, most=self.length,
                )  # fmt: skip
                found.append(prompt + (parted if prompt and said else "") + reader.write(said))
        return found

    def likelihoods(self, text: TextSet) -> Likelihoods:
        """How likely each text is; stretches of ``length`` units are read one by one.

        Raises:
            NotFittedError: before ``fit``.
        """
        self._require_fit()
        examples = self._examples(text)
        nats, units = np.zeros(len(text)), np.zeros(len(text), np.int64)
        for chosen, batch, output in self._outputs(examples):
            rows, lengths = examples.rows[chosen], examples.lengths[chosen]
            means = self.learner_.score(output, batch).double().numpy()
            np.add.at(nats, rows, means * lengths)
            np.add.at(units, rows, lengths)
        characters = np.array([len(each) + 1 for each in raw_texts(text)])
        return Likelihoods(nats, units, characters)

    def score(self, text: TextSet) -> float:
        """Mean log chance of a unit, in nats; the higher the better."""
        found = self.likelihoods(text)
        return -float(found.nats.sum() / found.units.sum())

    def _counts(self) -> tuple[str, ...]:
        own = ("embedding", "hidden", "layers", "heads", "min_count", "length")
        return (*super()._counts(), *own)

    def _shares(self) -> tuple[str, ...]:
        return ("dropout",)

    def _check(self) -> None:
        if self.model not in MODELS:
            raise ParameterError(f"model must be one of {', '.join(MODELS)}, not {self.model!r}")
        super()._check()

    def _learn(self, data: TextSet) -> StreamReader:
        return StreamReader.learn(
            data, level=self.level, vocabulary=self.vocabulary, min_count=self.min_count,
            length=self.length,
        )  # fmt: skip

    def _make(self, *, trained: bool = False) -> LanguageModelLearner:
        return LanguageModelLearner(
            LanguageModelShape(
                len(self.reader_.units),
                self.model,
                self.embedding,
                self.hidden,
                self.layers,
                self.heads,
                self.dropout,
            )
        )

    def _examples(self, data: TextSet, *, training: bool = False) -> LanguageModelExamples:
        return LanguageModelExamples(data, self.reader_)

    def _published(self) -> list[str]:
        return [PUBLIC_WORDS] * (self.vocabulary is None)

    def _restore(self, config: dict[str, Any]) -> None:
        self.reader_ = StreamReader.from_dict(config["reader"])
