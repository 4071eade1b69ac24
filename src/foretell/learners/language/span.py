"""Answers as spans of a text: where they begin, and where they end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.learners.contract import Batch
from foretell.learners.language.hugging_face import NAME, HuggingFaceEncoder
from foretell.learners.language.reader import IGNORED
from foretell.learners.language.tokens import TokenLearner


@dataclass(frozen=True)
class SpanShape:
    """Widths and options of a :class:`SpanLearner`, JSON-able.

    Args:
        words: codes of words or pieces.
        encoder: ``bilstm``, ``transformer`` or ``hugging_face``.
        embedding: dimensions of a word.
        hidden: units of each direction, or width of the transformer.
        layers: of the encoder.
        heads: of the transformer.
        characters: codes of characters; 0 for words only.
        character_filters: dimensions of a word from its characters, beside those of the table or
            all there are.
        dropout: share of embedded and encoded values dropped.
        pretrained: form of the model where the encoder is ``hugging_face``.
    """

    words: int
    encoder: str = "bilstm"
    embedding: int = 100
    hidden: int = 128
    layers: int = 1
    heads: int = 4
    characters: int = 0
    character_filters: int = 32
    dropout: float = 0.0
    pretrained: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class SpanOutput(NamedTuple):
    """Scores of each token of the context before the softmax; minus infinity elsewhere.

    Attributes:
        start: ``(B, T)`` that the answer begins there.
        end: ``(B, T)`` that it ends there.
    """

    start: Tensor
    end: Tensor


class SpanLearner(TokenLearner):
    """A pointer to both ends of the answer, after DrQA's reader (Chen et al. 2017, section 3.2).

    Question and context are one sequence, so that one encoder, pretrained or not, reads both. An
    encoder of our own also reads, beside each word, whether it occurs in the question and which of
    the question's words are like it. Reads the batches of
    :class:`~foretell.learners.language.SpanExamples`.

    Args:
        shape: widths and options.
        encoder: a Hugging Face encoder that is there already; made of ``shape`` by default.

    Raises:
        ParameterError: values out of range.
    """

    def __init__(self, shape: SpanShape, encoder: HuggingFaceEncoder | None = None) -> None:
        width = shape.embedding if shape.words else 0
        width += shape.character_filters if shape.characters else 0
        own = shape.encoder != NAME
        super().__init__(shape, encoder, extra=width + 3 if own else 0)
        self.align = nn.Linear(width, width) if own else None
        states = self.encoder.width
        self.weigh = nn.Linear(states, 1)
        self.start, self.end = nn.Linear(states, states), nn.Linear(states, states)

    def encode(self, batch: Batch) -> Tensor:
        """State of each token ``(B, T, D)``."""
        embedded, mask, context = self.embed(batch), batch["mask"], batch["segment"] == 1
        if self.align is not None:
            asked = mask & ~context
            near = F.relu(self.align(embedded))
            likeness = near @ near.mT / near.shape[-1] ** 0.5
            weights = likeness.masked_fill(~asked[:, None, :], -1e4).softmax(-1)
            flags = torch.stack([context & mask, asked], -1).to(embedded.dtype)
            match = batch["match"].to(embedded.dtype).unsqueeze(-1)
            embedded = torch.cat([embedded, weights @ embedded, match, flags], -1)
        return self.contextualise(embedded, mask, batch["segment"])

    def decode(self, encoding: Tensor, batch: Batch) -> SpanOutput:
        """Scores of both ends: products with the question's mean, weighed by attention."""
        asked = batch["mask"] & (batch["segment"] == 0)
        weights = self.weigh(encoding).squeeze(-1).masked_fill(~asked, -1e4).softmax(-1)
        question = (weights.unsqueeze(1) @ encoding).squeeze(1)
        found = []
        for layer in (self.start, self.end):
            scores = (encoding @ layer(question).unsqueeze(-1)).squeeze(-1)
            found.append(scores.masked_fill(~batch["candidates"], -torch.inf))
        return SpanOutput(*found)

    def score(self, output: SpanOutput, batch: Batch) -> Tensor:
        """Mean cross-entropy of both ends ``(B,)``; 0 without an answer in what was read."""
        losses = [
            F.cross_entropy(scores, batch[name], reduction="none", ignore_index=IGNORED)
            for scores, name in zip(output, ("start", "end"), strict=True)
        ]
        return torch.stack(losses).mean(0)

    @staticmethod
    def best(output: SpanOutput, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        """First and last token ``(B,)`` of the likeliest spans, and their log chances ``(B,)``.

        Args:
            output: scores.
            longest: tokens of an answer at most.
        """
        start, end = output.start.log_softmax(-1), output.end.log_softmax(-1)
        steps = start.shape[1]
        allowed = torch.ones(steps, steps, dtype=torch.bool, device=start.device)
        allowed = allowed.triu().tril(longest - 1)
        both = (start[:, :, None] + end[:, None, :]).masked_fill(~allowed, -torch.inf)
        chance, place = both.flatten(1).max(1)
        return place // steps, place % steps, chance
