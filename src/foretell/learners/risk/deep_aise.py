"""DeepAISE: a recurrent net over the hours of a stay with a Weibull-Cox head.

Shashikumar, Josef, Sharma and Nemati, DeepAISE - An interpretable and recurrent neural survival
model for early prediction of sepsis, Artificial Intelligence in Medicine 113, 2021.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foretell.errors import ParameterError
from foretell.learners.contract import Batch
from foretell.learners.risk.weibull import SurvivalLearner


@dataclass(frozen=True)
class DeepAISEShape:
    """Widths of a :class:`DeepAISELearner`, JSON-able.

    Args:
        inputs: width E of an hour.
        hidden: units of each recurrent layer.
        layers: recurrent layers.
        dropout: share dropped between layers and before the head.
        rate: events an hour that the head starts from.
    """

    inputs: int
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.2
    rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("inputs", "hidden", "layers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class DeepAISELearner(SurvivalLearner):
    """Gated recurrent units carry what was seen; the head reads the hazard off their state.

    Args:
        shape: widths.
    """

    def __init__(self, shape: DeepAISEShape) -> None:
        super().__init__(shape.hidden, rate=shape.rate, dropout=shape.dropout)
        self.shape = shape
        between = shape.dropout if shape.layers > 1 else 0.0
        self.recurrent = nn.GRU(
            shape.inputs, shape.hidden, shape.layers, batch_first=True, dropout=between
        )

    def encode(self, batch: Batch) -> Tensor:
        """State after each hour ``(B, T, D)``; 0 in the padding."""
        x, mask = batch["x"], batch["mask"]
        # Stays are padded at their end: packing spends no time on the padding.
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return states

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One hour of B stays: inputs ``(B, E)``, state ``(L, B, D)`` -> eta ``(B,)``, state."""
        states, after = self.recurrent(x[:, None], state)
        return self.decode(states, {}).predictor[:, 0], after

    def start(self, size: int = 1) -> Tensor:
        """The state ``(L, B, D)`` before the first hour."""
        return torch.zeros(self.shape.layers, size, self.shape.hidden)
