"""Accuracy of intents, F1 of slots.

Slots are compared span by span, as CoNLL's script does: a span counts where its kind, first and
last word are all right. Two loops over tags need no package; the usual one (seqeval) has had no
release since 2020 and is published as source only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from foretell.data.text import TextSet, spans_of
from foretell.errors import DataError
from foretell.learners.language.agreement import span_counts
from foretell.learners.language.understanding import Understanding


class SpanScore(NamedTuple):
    """Counts of spans and what follows from them.

    Attributes:
        true: spans there are.
        predicted: spans that were found.
        right: those that are both.
    """

    true: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        """Share of found spans that are right; 0 where none was found."""
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the spans that were found; 0 where there is none."""
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.true + self.predicted
        return 2 * self.right / both if both else 0.0


@dataclass(frozen=True)
class SpanScores:
    """Scores of all spans together and kind by kind.

    Attributes:
        overall: micro average.
        kinds: kind -> its score, sorted.
    """

    overall: SpanScore
    kinds: dict[str, SpanScore]

    @property
    def f1(self) -> float:
        """F1 of all spans together."""
        return self.overall.f1

    def to_polars(self) -> pl.DataFrame:
        """A row a kind, after one of all."""
        rows = [
            {"kind": kind, "true": s.true, "predicted": s.predicted, "precision": s.precision,
             "recall": s.recall, "f1": s.f1}
            for kind, s in {"all": self.overall, **self.kinds}.items()
        ]  # fmt: skip
        return pl.DataFrame(rows)


def slot_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> SpanScores:
    """Span-level scores of tags ``O``, ``B-kind``, ``I-kind``, as ``conlleval`` counts.

    Raises:
        DataError: utterances or tags of different number, or what is no tag; names the row.
    """
    _same_number(true, predicted)
    for row, (tags, guesses) in enumerate(zip(true, predicted, strict=True)):
        if len(tags) != len(guesses):
            raise DataError(f"{len(tags)} true tags but {len(guesses)} predicted ones", row=row)
        try:
            spans_of(tags), spans_of(guesses)
        except ValueError as error:
            raise DataError(str(error), row=row) from None
    there, found, right = span_counts(true, predicted)
    kinds = {k: SpanScore(there[k], found[k], right[k]) for k in sorted(there | found)}
    return SpanScores(SpanScore(there.total(), found.total(), right.total()), kinds)


def intent_accuracy(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of utterances whose intent is right.

    Raises:
        DataError: different numbers of utterances, or none.
    """
    _same_number(true, predicted)
    return float(np.mean([a == b for a, b in zip(true, predicted, strict=True)]))


def evaluate_understanding(text: TextSet, understanding: Understanding) -> dict[str, float]:
    """All scores of predictions for a text set.

    Returns:
        ``utterances``, and what can be told of ``intent_accuracy``, ``slot_precision``,
        ``slot_recall``, ``slot_f1`` and ``exact_match``, the share of utterances in which all is
        right.

    Raises:
        DataError: predictions for other utterances.
    """
    if text.tokens != understanding.tokens:
        raise DataError("the predictions are for other utterances than these")
    scores: dict[str, float] = {"utterances": float(len(text))}
    exact = np.ones(len(text), bool)
    if text.has_intents and understanding.intent_names:
        scores["intent_accuracy"] = intent_accuracy(
            text.intents.tolist(), understanding.intents.tolist()
        )
        exact &= text.intents == understanding.intents
    if text.has_slots and understanding.slots is not None:
        overall = slot_scores(text.slots, understanding.slots).overall
        scores |= {"slot_precision": overall.precision, "slot_recall": overall.recall,
                   "slot_f1": overall.f1}  # fmt: skip
        pairs = zip(text.spans(), understanding.spans(), strict=True)
        exact &= np.array([spans == found for spans, found in pairs])
    if len(scores) > 1:
        scores["exact_match"] = float(exact.mean())
    return scores


def _same_number(true: Sequence[object], predicted: Sequence[object]) -> None:
    if len(true) != len(predicted) or len(true) == 0:
        raise DataError(f"{len(true)} utterances but {len(predicted)} predictions")
