"""Causal sequence encoders: what comes out at time t depends on inputs up to t only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.errors import ParameterError

CNN_PRESETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "cnn": ((2, 2, 2, 2, 2, 2), (1, 2, 4, 8, 16, 32)),
    "cnn-gluonts": ((7, 3, 3), (1, 3, 9)),
}
"""Name -> kernel sizes and dilations."""

ENCODERS = (*CNN_PRESETS, "lstm", "gru")


class CausalCNN(nn.Module):
    """Stacked dilated causal convolutions with residual connections and a copy of the input.

    The wave-like encoder of MQ-CNN (Wen et al. 2017, section 3.3): zero padding on the left only.

    Args:
        inputs: channels C in.
        channels: width of each layer.
        kernels: kernel size of each layer.
        dilations: dilation of each layer.
        dropout: share of channels dropped after each layer.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernels: Sequence[int],
        dilations: Sequence[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(kernels) != len(dilations) or not kernels:
            raise ParameterError(
                f"a causal CNN needs as many kernel sizes as dilations, not {kernels}, {dilations}"
            )
        self.first = nn.Linear(inputs, channels)
        self.layers = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation)
            for kernel, dilation in zip(kernels, dilations, strict=True)
        )
        self.padding = [(k - 1) * d for k, d in zip(kernels, dilations, strict=True)]
        self.dropout = dropout
        self.width = channels + inputs

    @property
    def receptive_field(self) -> int:
        """Steps of the input, the present one included, that reach an output."""
        return 1 + sum(self.padding)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T, channels + C)``."""
        hidden = F.relu(self.first(inputs)).transpose(1, 2)
        for layer, padding in zip(self.layers, self.padding, strict=True):
            update = F.relu_(layer(F.pad(hidden, (padding, 0))))
            hidden = hidden + F.dropout(update, self.dropout, self.training)
        return torch.cat([hidden.transpose(1, 2), inputs], dim=-1)


class RecurrentEncoder(nn.Module):
    """A unidirectional LSTM or GRU, and a copy of its input.

    A bidirectional one (as in public code) shows every fork but the last its own future.

    Args:
        inputs: channels C in.
        hidden: width of the state.
        layers: stacked layers.
        kind: ``"lstm"`` or ``"gru"``.
        dropout: between layers.
    """

    def __init__(
        self, inputs: int, hidden: int, layers: int = 1, kind: str = "lstm", dropout: float = 0.0
    ) -> None:
        super().__init__()
        make = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.network = make(
            inputs, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.width = hidden + inputs

    @property
    def receptive_field(self) -> None:
        """Unlimited: the state carries everything since the beginning."""
        return None

    def forward(self, inputs: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T, hidden + C)``."""
        return torch.cat([self.network(inputs)[0], inputs], dim=-1)


def make_encoder(
    name: str, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0
) -> CausalCNN | RecurrentEncoder:
    """The encoder of a name: ``cnn``, ``cnn-gluonts``, ``lstm`` or ``gru``."""
    if name in CNN_PRESETS:
        kernels, dilations = CNN_PRESETS[name]
        return CausalCNN(inputs, hidden, kernels, dilations, dropout)
    if name in ("lstm", "gru"):
        return RecurrentEncoder(inputs, hidden, layers, name, dropout)
    raise ParameterError(f"unknown encoder {name!r}: one of {', '.join(ENCODERS)}")
