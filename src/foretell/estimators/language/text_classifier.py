"""Text classifiers: softmax regression on hashed words, or a network over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from foretell.data.text import TextSet
from foretell.errors import DataError
from foretell.estimators.language.nlu import NLU
from foretell.learners.contract import Learner
from foretell.learners.language.bag_of_words import BagExamples, BagOfWordsLearner, BagReader
from foretell.learners.language.joint import JointLearner, JointShape

BAG = "bag_of_words"
_PUBLIC_COUNTS = "in how many training texts each hashed word occurs (idf) is public"


@dataclass(eq=False, repr=False, kw_only=True)
class TextClassifier(NLU):
    """The label of a whole text (column ``intent`` of a :class:`~foretell.data.TextSet`).

    ``"bag_of_words"`` is softmax regression on hashed tf-idf features: the right first choice for
    long texts and for thousands of small clients; it wants ``optimizer="sgd"`` and a learning rate
    of about 2, which are its defaults where none are given. The others are networks, as in
    :class:`~foretell.estimators.NLU`, whose parameters these are.

    Args:
        encoder: ``"bag_of_words"``, ``"bilstm"``, ``"transformer"`` or ``"hugging_face"``.
        features: buckets of words of the bag.
        idf: whether words count less that occur in many texts, for which the training texts are
            pooled.
        learning_rate: None for 2 with a bag and 0.002 without.
        optimizer: None for ``"sgd"`` with a bag and ``"adam"`` without.
    """

    encoder: str = field(default=BAG, kw_only=False)
    features: int = 8_192
    idf: bool = True
    batch_size: int = 32
    learning_rate: float | None = None  # type: ignore[assignment]
    optimizer: str | None = None  # type: ignore[assignment]

    @property
    def _bag(self) -> bool:
        return self.encoder == BAG

    def _training(self) -> dict[str, Any]:
        given = super()._training()
        if given["learning_rate"] is None:
            given["learning_rate"] = 2.0 if self._bag else 2e-3
        if given["optimizer"] is None:
            given["optimizer"] = "sgd" if self._bag else "adam"
        return given

    def score(self, text: TextSet, labels: Sequence[str] | None = None) -> float:
        """Accuracy.

        Args:
            text: with labels, or without.
            labels: those of the texts where these have none.
        """
        true = text.intents if labels is None else np.asarray(labels)
        return float((self.predict(text).intents == true).mean())

    def _encoders(self) -> tuple[str, ...]:
        return (BAG, *super()._encoders())

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "features")

    def _require_labels(self, data: TextSet) -> None:
        if len(data.intent_names) < 2:
            raise DataError(
                "a classifier needs texts of two labels or more", column="intent",
                hint="Give a column 'intent'",
            )  # fmt: skip

    def _learn(self, data: TextSet) -> Any:
        if self._bag:
            return BagReader.learn(data, features=self.features, idf=self.idf)
        return replace(self._learn_words(data), slots=())

    def _make(self, *, trained: bool = False) -> Learner:
        if self._bag:
            return BagOfWordsLearner(self.features, len(self.reader_.intents))
        encoder = self._encoder(trained)
        shape = JointShape(intents=len(self.reader_.intents), slots=0, **self._widths())
        return JointLearner(shape, encoder)

    def _examples(self, data: TextSet, *, training: bool = False) -> Any:
        if self._bag:
            return BagExamples(data, self.reader_)
        return super()._examples(data, training=training)

    def _published(self) -> list[str]:
        if not self._bag:
            return super()._published()
        return ["the list of labels is public"] + [_PUBLIC_COUNTS] * self.idf

    def _restore(self, config: dict[str, Any]) -> None:
        if self._bag:
            self.reader_ = BagReader.from_dict(config["reader"])
        else:
            super()._restore(config)
