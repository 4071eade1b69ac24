"""Joint intent and slot models: what an utterance wants, and which of its words say what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch
from foretell.learners.language.hugging_face import HuggingFaceEncoder
from foretell.learners.language.reader import IGNORED
from foretell.learners.language.tokens import TokenLearner


@dataclass(frozen=True)
class JointShape:
    """Widths and options of a :class:`JointLearner`, JSON-able.

    Args:
        words: codes of words; 0 where only characters are read.
        intents: number of intents; 0 for a tagger alone.
        slots: number of tags; 0 for a classifier of texts alone.
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
    intents: int
    slots: int
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


class JointOutput(NamedTuple):
    """Scores of each utterance before the softmax.

    Attributes:
        intent: ``(B, I)``.
        slots: ``(B, T, S)``.
    """

    intent: Tensor
    slots: Tensor


class JointLearner(TokenLearner):
    """Intent from the mean of the tokens' states, a tag from each (Hakkani-Tür et al. 2016).

    Reads the batches of :class:`~foretell.learners.language.TextExamples`. Every weight belongs to
    a layer whose single examples' gradients exact clipping reads off one backward pass.

    Args:
        shape: widths and options.
        encoder: a Hugging Face encoder that is there already; made of ``shape`` by default.

    Raises:
        ParameterError: neither intents nor slots, or values out of range.
    """

    def __init__(self, shape: JointShape, encoder: HuggingFaceEncoder | None = None) -> None:
        if shape.intents < 1 and shape.slots < 1:
            raise ParameterError("a joint model needs intents or slots")
        super().__init__(shape, encoder)
        width = self.encoder.width
        self.intent = nn.Linear(width, shape.intents) if shape.intents else None
        self.slots = nn.Linear(width, shape.slots) if shape.slots else None

    def forward_from_embeddings(self, embedded: Tensor, mask: Tensor) -> JointOutput:
        """Prediction for words as vectors ``(B, T, E)``, real or made up, with mask ``(B, T)``.

        What attacks and attributions differentiate: words themselves have no gradient.
        """
        return self.decode(self.contextualise(embedded, mask), {"mask": mask})

    def decode(self, encoding: Tensor, batch: Batch) -> JointOutput:
        """Scores of intents and tags."""
        if self.intent is None:
            intent = encoding.new_zeros((len(encoding), 0))
        else:
            mask = batch["mask"].to(encoding.dtype).unsqueeze(-1)
            intent = self.intent((encoding * mask).sum(1) / mask.sum(1).clamp(min=1))
        if self.slots is None:
            return JointOutput(intent, encoding.new_zeros((*encoding.shape[:2], 0)))
        return JointOutput(intent, self.slots(encoding))

    def score(self, output: JointOutput, batch: Batch) -> Tensor:
        """Cross-entropy of the intent, and the mean one of the example's own tokens ``(B,)``.

        A mean over all tokens of the batch would let the length of one utterance weigh the others,
        and no gradient would belong to one example alone.
        """
        losses = output.intent.new_zeros(len(output.intent))
        if self.intent is not None:
            losses = losses + F.cross_entropy(
                output.intent, batch["intent"], reduction="none", ignore_index=IGNORED
            )
        if self.slots is not None:
            tags = batch["slots"]
            each = F.cross_entropy(
                output.slots.flatten(0, 1), tags.flatten(), reduction="none", ignore_index=IGNORED
            )
            losses = losses + each.view(tags.shape).sum(1) / (tags != IGNORED).sum(1).clamp(min=1)
        return losses
