"""Joint intent and slot models as scikit-learn users know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foretell.data.text import TextSet, repair_tags
from foretell.data.text.table import TextTable
from foretell.estimators.language.tokens import TokenEstimator
from foretell.learners.contract import Learner
from foretell.learners.language.joint import JointLearner, JointShape
from foretell.learners.language.reader import TextExamples, TextReader, check_labelled
from foretell.learners.language.understanding import Understanding
from foretell.training import Strategy

_PUBLIC_LABELS = "the lists of intents and slot tags are public"


@dataclass(eq=False, repr=False, kw_only=True)
class NLU(TokenEstimator):
    """Natural language understanding: the intent of an utterance, and its slots.

    One network for both, trained from scratch on :class:`~foretell.data.TextSet` objects. A text
    classifier where there are intents only, a tagger where there are slots only. Further parameters
    are those of :class:`~foretell.estimators.language.TokenEstimator` (the network) and
    :class:`~foretell.estimators.language.LanguageEstimator` (its training).

    Args:
        encoder: ``"bilstm"``, ``"transformer"`` (pre-norm) or ``"hugging_face"``.

    Example:
        >>> from foretell.training.private import PrivateTraining
        >>> private = PrivateTraining(target_epsilon=8)  # doctest: +SKIP
        >>> model = NLU().fit(text, strategies=[private])  # doctest: +SKIP
        >>> print(model.privacy_)  # doctest: +SKIP
    """

    reads: ClassVar[type[TextTable]] = TextSet

    encoder: str = field(default="bilstm", kw_only=False)

    def fit(
        self,
        text: TextSet,
        *,
        strategies: Sequence[Strategy] = (),
        validation: TextSet | None = None,
    ) -> Self:
        """Trains on a set of utterances, all of them: give ``text.part("train")``.

        Args:
            text: utterances with intents, slots or both.
            strategies: what changes the training, ``PrivateTraining`` among them; used once.
            validation: utterances whose loss is logged; the weights that do best on it are kept,
                but not in private training, whose guarantee they would break.

        Raises:
            DataError: utterances without labels.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        return self._fit(text, strategies, validation)

    def predict(self, text: TextSet | Sequence[str | Sequence[str]]) -> Understanding:
        """Intents and slots of utterances.

        Words beyond ``max_length`` are tagged ``O``; every predicted span begins with ``B-``.

        Args:
            text: a set, or strings (cut at whitespace), or lists of tokens.

        Raises:
            NotFittedError: before ``fit``.
            DataError: an empty utterance.
        """
        self._require_fit()
        given = text if isinstance(text, TextSet) else TextSet.from_texts(text)
        examples = self._examples(given)
        intents = np.zeros((len(given), len(self.reader_.intents)), np.float32)
        names = np.array([*self.reader_.slots, "O"], dtype=object)
        tags: list[list[str]] = [[] for _ in range(len(given))]
        for chosen, _, output in self._outputs(examples):
            rows = examples.rows[chosen]
            intents[rows] = output.intent.softmax(-1).numpy()
            if len(names) > 1:
                best = output.slots.argmax(-1).numpy()
                for row, codes in zip(rows, examples.of_words(chosen, best, -1), strict=True):
                    tags[row] = repair_tags(names[codes].tolist())
        return Understanding(
            given.tokens, self.reader_.intents, intents, tags if len(names) > 1 else None
        )

    def predict_proba(self, text: TextSet | Sequence[str | Sequence[str]]) -> NDArray[np.float32]:
        """Chances of the intents ``(n, I)``, in the order of ``classes_``."""
        return self.predict(text).probabilities

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Intents in the order of the probabilities."""
        self._require_fit()
        return np.array(self.reader_.intents)

    def _require_labels(self, data: TextSet) -> None:
        check_labelled(data)

    def _learn(self, data: TextSet) -> TextReader:
        return self._learn_words(data)

    def _make(self, *, trained: bool = False) -> Learner:
        encoder, reader = self._encoder(trained), self.reader_
        shape = JointShape(intents=len(reader.intents), slots=len(reader.slots), **self._widths())
        return JointLearner(shape, encoder)

    def _examples(self, data: TextSet, *, training: bool = False) -> TextExamples:
        return TextExamples(data, self.reader_, unknown_rate=self.unknown_rate if training else 0.0)

    def _published(self) -> list[str]:
        return [_PUBLIC_LABELS, *super()._published()]
