"""What was understood: intents with their chances, slots with their words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.text import Tagged, spans_of


@dataclass(frozen=True, eq=False)
class Understanding:
    """Predicted intents and slots of n utterances.

    Attributes:
        tokens: words of each utterance.
        intent_names: (I,) what there is; none for a tagger alone.
        probabilities: (n, I) chances of the intents.
        slots: tags of each utterance's words; None for a classifier alone.
    """

    tokens: list[list[str]]
    intent_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    slots: list[list[str]] | None

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.tokens)

    @property
    def intents(self) -> NDArray[np.str_]:
        """Likeliest intent of each utterance ``(n,)``."""
        return np.array(self.intent_names)[self.probabilities.argmax(1)]

    def spans(self) -> list[list[Tagged]]:
        """Tagged spans of each utterance; empty lists without slots."""
        return [spans_of(tags) for tags in self.slots or [[] for _ in self.tokens]]

    def to_polars(self) -> pl.DataFrame:
        """A row an utterance: tokens, intent, its probability, slots, and spans in words."""
        columns = [pl.Series("tokens", self.tokens, pl.List(pl.String))]
        if self.intent_names:
            columns += [
                pl.Series("intent", self.intents.tolist(), pl.String),
                pl.Series("probability", self.probabilities.max(1)),
            ]
        if self.slots is not None:
            columns.append(pl.Series("slots", self.slots, pl.List(pl.String)))
            words = [
                [{"kind": s.kind, "words": " ".join(tokens[s.begin : s.end])} for s in spans]
                for tokens, spans in zip(self.tokens, self.spans(), strict=True)
            ]
            form = pl.List(pl.Struct({"kind": pl.String, "words": pl.String}))
            columns.append(pl.Series("spans", words, form))
        return pl.DataFrame(columns)
