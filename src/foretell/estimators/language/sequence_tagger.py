"""Sequence taggers: which words are names, dates, places."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from foretell.data.text import TextSet
from foretell.errors import DataError
from foretell.estimators.language.nlu import NLU
from foretell.learners.language.agreement import span_counts
from foretell.learners.language.joint import JointLearner, JointShape
from foretell.learners.language.reader import TextReader


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceTagger(NLU):
    """A tag for each word (column ``slots`` of a :class:`~foretell.data.TextSet`).

    Parameters are those of :class:`~foretell.estimators.NLU`; words are also read letter by letter
    unless they are cut into pieces, since names are known by their letters.

    Args:
        encoder: ``"bilstm"``, ``"transformer"`` or ``"hugging_face"``.
        characters: whether words are read letter by letter too, or ``"only"`` so; None for yes, but
            not with pieces.
    """

    encoder: str = field(default="bilstm", kw_only=False)
    characters: bool | Literal["only"] | None = None  # type: ignore[assignment]
    batch_size: int = 32

    def score(self, text: TextSet) -> float:
        """F1 of whole spans, all kinds together, as ``conlleval`` counts; 0 where none is right."""
        true, found, right = span_counts(text.slots, self.predict(text).slots or [])
        both = true.total() + found.total()
        return 2 * right.total() / both if both else 0.0

    def _require_labels(self, data: TextSet) -> None:
        if not data.has_slots:
            raise DataError(
                "a tagger needs a tag for each token", column="slots",
                hint="Give a column 'slots' of tags O, B-kind and I-kind",
            )  # fmt: skip

    def _letters(self) -> bool | Literal["only"]:
        pieces = self.tokenizer is not None or self.pretrained is not None
        return not pieces if self.characters is None else self.characters

    def _learn(self, data: TextSet) -> TextReader:
        return replace(self._learn_words(data), intents=())

    def _make(self, *, trained: bool = False) -> JointLearner:
        encoder = self._encoder(trained)
        shape = JointShape(intents=0, slots=len(self.reader_.slots), **self._widths())
        return JointLearner(shape, encoder)
