"""Words in their context: a bidirectional LSTM, a small transformer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foretell.errors import ParameterError

ENCODERS = ("bilstm", "transformer")


class BiLSTMEncoder(nn.Module):
    """A bidirectional LSTM that ends with each utterance, whatever the padding.

    Args:
        inputs: width of the embedding.
        hidden: units of each direction.
        layers: stacked layers.
        dropout: between layers.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            inputs, hidden, layers, batch_first=True, bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )  # fmt: skip
        self.width = 2 * hidden

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, E)`` with mask ``(B, T)`` to ``(B, T, 2 hidden)``; 0 in the padding."""
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=embedded.shape[1]
        )
        return states


class TransformerEncoder(nn.Module):
    """Pre-norm self-attention (Xiong et al. 2020) with sines as positions, of any length.

    Written out, because every weight must belong to a layer that exact clipping knows.

    Args:
        inputs: width of the embedding.
        hidden: width of a token's state.
        layers: blocks.
        heads: of each block.
        dropout: of what each block adds.
        causal: whether a token sees only those before it, and itself.

    Raises:
        ParameterError: the width is not divisible by the heads.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        *,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if hidden % heads or hidden % 2:
            raise ParameterError(f"hidden ({hidden}) must be even and divisible by heads ({heads})")
        self.project = nn.Linear(inputs, hidden) if inputs != hidden else None
        self.blocks = nn.ModuleList(_Block(hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.width, self.causal = hidden, causal

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, E)`` with mask ``(B, T)`` to ``(B, T, hidden)``."""
        states = embedded if self.project is None else self.project(embedded)
        states = states + _positions(states)
        seen = mask[:, None, None, :]
        if self.causal:  # each token sees itself, so that padding has something to look at
            steps = torch.arange(mask.shape[1], device=mask.device)
            seen = seen & (steps <= steps[:, None]) | (steps == steps[:, None])
        for block in self.blocks:
            states = block(states, seen)
        normal: Tensor = self.norm(states)
        return normal


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, D)`` with what may be seen, ``(B, 1, 1 or T, T)``."""
        parts = self.attend(self.first(states)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        update = self.out(seen.transpose(1, 2).flatten(2))
        states = states + F.dropout(update, self.dropout, self.training)
        update = self.narrow(F.gelu(self.widen(self.second(states))))
        return states + F.dropout(update, self.dropout, self.training)


def _positions(like: Tensor) -> Tensor:
    """Sines and cosines ``(T, D)`` (Vaswani et al. 2017, section 3.5)."""
    steps, width = like.shape[1:]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)


def make_encoder(
    name: str, inputs: int, hidden: int, layers: int, heads: int, dropout: float
) -> BiLSTMEncoder | TransformerEncoder:
    """The encoder of a name.

    Raises:
        ParameterError: another name.
    """
    if name == "bilstm":
        return BiLSTMEncoder(inputs, hidden, layers, dropout)
    if name == "transformer":
        return TransformerEncoder(inputs, hidden, layers, heads, dropout)
    raise ParameterError(f"unknown encoder {name!r}: one of {', '.join(ENCODERS)}")
