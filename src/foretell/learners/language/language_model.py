"""Language models: what comes next, letter by letter or word by word."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.language.encoders import TransformerEncoder
from foretell.learners.language.reader import IGNORED
from foretell.learners.language.recurrent import GRU

MODELS = ("gru", "transformer")


@dataclass(frozen=True)
class LanguageModelShape:
    """Widths and options of a :class:`LanguageModelLearner`, JSON-able.

    Args:
        codes: of characters, words or pieces.
        model: ``gru`` or ``transformer`` (causal).
        embedding: dimensions of a code.
        hidden: units, or width of the transformer.
        layers: stacked.
        heads: of the transformer.
        dropout: share of embedded and predicted values dropped.
    """

    codes: int
    model: str = "gru"
    embedding: int = 64
    hidden: int = 256
    layers: int = 1
    heads: int = 4
    dropout: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class LanguageModelLearner(Learner):
    """Chances of the next code, given those before it.

    Reads the batches of :class:`~foretell.learners.language.LanguageModelExamples`.

    Args:
        shape: widths and options.

    Raises:
        ParameterError: an unknown model, or values out of range.
    """

    def __init__(self, shape: LanguageModelShape) -> None:
        super().__init__()
        if shape.model not in MODELS:
            raise ParameterError(f"model must be one of {', '.join(MODELS)}, not {shape.model!r}")
        if not 0 <= shape.dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {shape.dropout}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.codes, shape.embedding, padding_idx=0)
        self.units: nn.ModuleList | TransformerEncoder
        if shape.model == "gru":
            widths = [shape.embedding] + [shape.hidden] * (shape.layers - 1)
            self.units = nn.ModuleList(GRU(width, shape.hidden) for width in widths)
        else:
            self.units = TransformerEncoder(
                shape.embedding, shape.hidden, shape.layers, shape.heads, shape.dropout, causal=True
            )
        self.output = nn.Linear(shape.hidden, shape.codes)

    def encode(self, batch: Batch) -> Tensor:
        """State after each code ``(B, T, hidden)``."""
        return self.read(batch["tokens"], batch["mask"])[0]

    def read(
        self, tokens: Tensor, mask: Tensor, states: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """States after codes ``(B, T)``; and those of each layer's units at the end.

        Args:
            tokens: codes.
            mask: which of them are there.
            states: to begin with, for a GRU.
        """
        values = F.dropout(self.embedding(tokens), self.shape.dropout, self.training)
        last: list[Tensor] = []
        if isinstance(self.units, TransformerEncoder):
            values = self.units(values, mask)
        else:
            for layer, units in enumerate(self.units):
                values, state = units(values, None if states is None else states[layer])
                last.append(state)
        return F.dropout(values, self.shape.dropout, self.training), last

    def decode(self, encoding: Tensor, batch: Batch) -> Tensor:
        """Scores of the next code ``(B, T, codes)``, before the softmax."""
        scores: Tensor = self.output(encoding)
        return scores

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the example's own codes ``(B,)``."""
        labels = batch["labels"]
        each = F.cross_entropy(
            output.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
        )
        return each.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        length: int,
        *,
        end: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        never: tuple[int, ...] = (),
        seed: int = 0,
        most: int = 256,
    ) -> list[int]:
        """Codes that go on from a prompt ``(T,)``, drawn at random.

        Args:
            prompt: codes to begin with.
            length: codes to add at most.
            end: code that ends the text.
            temperature: 0 for the likeliest code each time.
            top_k: only the likeliest few can be drawn.
            never: codes that are not drawn.
            seed: of the draws.
            most: codes that a transformer looks back on.

        Raises:
            ParameterError: an empty prompt, a negative temperature, no code to draw from.
        """
        if not len(prompt) or temperature < 0 or (top_k is not None and top_k < 1):
            raise ParameterError(
                "a prompt, a temperature from 0 and top_k from 1 are needed, not "
                f"{len(prompt)} codes, {temperature} and {top_k}"
            )
        random = torch.Generator().manual_seed(seed)
        tokens, states = prompt.view(1, -1), None
        said: list[int] = []
        recurrent = not isinstance(self.units, TransformerEncoder)
        for _ in range(length):
            given = tokens if not recurrent or states is None else tokens[:, -1:]
            given = given if recurrent else given[:, -most:]
            found, last = self.read(given, torch.ones_like(given, dtype=torch.bool), states)
            states = last if recurrent else None
            scores = self.output(found[0, -1]).cpu().float()
            scores[list(never)] = -torch.inf
            if top_k is not None:
                least = scores.topk(min(top_k, len(scores))).values[-1]
                scores = scores.masked_fill(scores < least, -torch.inf)
            if temperature == 0:
                code = int(scores.argmax())
            else:
                chances = (scores / temperature).softmax(-1)
                code = int(torch.multinomial(chances, 1, generator=random))
            if code == end:
                break
            said.append(code)
            tokens = torch.cat([tokens, tokens.new_tensor([[code]])], 1)
        return said
