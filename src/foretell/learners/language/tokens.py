"""What learners that read tokens share: words as vectors, and these in their context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.language.embeddings import WordEmbedding
from foretell.learners.language.encoders import (
    ENCODERS,
    BiLSTMEncoder,
    TransformerEncoder,
    make_encoder,
)
from foretell.learners.language.hugging_face import NAME, HuggingFaceEncoder

if TYPE_CHECKING:
    from foretell.learners.language.joint import JointShape
    from foretell.learners.language.span import SpanShape


class TokenLearner(Learner):
    """A learner that encodes each token of a text in its context.

    Args:
        shape: widths and options.
        encoder: a Hugging Face encoder that is there already; made of ``shape`` by default.
        extra: further dimensions that the encoder reads beside the embedding.

    Raises:
        ParameterError: values out of range, or a Hugging Face encoder without its form.
    """

    def __init__(
        self,
        shape: JointShape | SpanShape,
        encoder: HuggingFaceEncoder | None = None,
        *,
        extra: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= shape.dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {shape.dropout}")
        self.shape = shape
        self.embedding: WordEmbedding | None = None
        self.encoder: BiLSTMEncoder | TransformerEncoder | HuggingFaceEncoder
        if shape.encoder == NAME:
            if encoder is None and shape.pretrained is None:
                raise ParameterError(
                    f"the encoder {NAME!r} needs a model: as pretrained, give its config.json"
                )
            self.encoder = encoder or HuggingFaceEncoder(shape.pretrained or {})
            if shape.words > self.encoder.codes:
                raise ParameterError(
                    f"the tokenizer has {shape.words} codes but the model only {self.encoder.codes}"
                )
            return
        if shape.encoder not in ENCODERS:
            raise ParameterError(
                f"unknown encoder {shape.encoder!r}: one of {', '.join((*ENCODERS, NAME))}"
            )
        self.embedding = WordEmbedding(
            shape.words, shape.embedding, shape.characters, shape.character_filters
        )
        self.encoder = make_encoder(
            shape.encoder, self.embedding.width + extra, shape.hidden, shape.layers, shape.heads,
            shape.dropout,
        )  # fmt: skip

    def embed(self, batch: Batch) -> Tensor:
        """Vectors of the words ``(B, T, E)``."""
        if self.embedding is None:
            assert isinstance(self.encoder, HuggingFaceEncoder)
            return self.encoder.embed(batch["tokens"])
        return self.embedding(batch["tokens"], batch.get("characters"))

    def contextualise(
        self, embedded: Tensor, mask: Tensor, segment: Tensor | None = None
    ) -> Tensor:
        """States ``(B, T, D)`` of embedded words, real or made up, with mask ``(B, T)``."""
        dropout = self.shape.dropout
        if isinstance(self.encoder, HuggingFaceEncoder):
            states = self.encoder(embedded, mask, segment)
        else:
            states = self.encoder(F.dropout(embedded, dropout, self.training), mask)
        return F.dropout(states, dropout, self.training)

    def encode(self, batch: Batch) -> Tensor:
        """State of each token ``(B, T, D)``."""
        return self.contextualise(self.embed(batch), batch["mask"])
