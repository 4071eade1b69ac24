"""Gated recurrent units of two linear layers, which exact clipping knows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """One layer of gated recurrent units (Cho et al. 2014, as in :class:`torch.nn.GRU`).

    Its weights lie in linear layers. Where nobody watches these, the whole sequence is one call of
    torch's own kernel; where somebody does, as exact clipping, each step goes through them.

    Args:
        inputs: width of what is read.
        hidden: units.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.read, self.keep = nn.Linear(inputs, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        self.inputs, self.width = inputs, hidden
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, values: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States ``(B, T, hidden)`` and the last of them ``(B, hidden)``.

        Args:
            values: ``(B, T, inputs)``.
            state: ``(B, hidden)`` to begin with; zeros by default.
        """
        if state is None:
            state = values.new_zeros(len(values), self.width)
        watched = bool(self.read._forward_hooks or self.keep._forward_hooks)
        if not watched and torch._C._functorch.maybe_current_level() is None:
            weights = (self.read.weight, self.keep.weight, self.read.bias, self.keep.bias)
            whole, last = torch.gru(
                values, state.unsqueeze(0).contiguous(), weights, True, 1, 0.0, self.training,
                False, True,
            )  # fmt: skip
            return whole, last[0]
        given = self.read(values).unflatten(-1, (3, -1))
        states = []
        for step in range(values.shape[1]):
            back = self.keep(state).unflatten(-1, (3, -1))
            gates = torch.sigmoid(given[:, step, :2] + back[:, :2])
            new = torch.tanh(given[:, step, 2] + gates[:, 0] * back[:, 2])
            state = new + gates[:, 1] * (state - new)
            states.append(state)
        return torch.stack(states, 1), state
