"""The two decoders of MQ-RNN: a global one for the whole horizon, a local one shared over it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.learners.demand.neural.linear import watched


class GlobalDecoder(nn.Module):
    """One context for each horizon and one for all (Wen et al. 2017, eq. 3).

    ``(c_1, ..., c_K, c_a) = m_G([h_t, s, x^f_{t+1:t+K}])``, where the future features of each
    period are first compressed to a few numbers.

    Args:
        encoding: width of the encoder's output.
        static: width of the static representation.
        future: features of one target period.
        horizon: number of periods K.
        hidden: width of the hidden layer.
        specific: width of the context of one horizon.
        agnostic: width of the shared context.
        compressed: numbers that each future period is compressed to.
        dropout: share of hidden units dropped.
    """

    def __init__(
        self,
        encoding: int,
        static: int,
        future: int,
        horizon: int,
        hidden: int = 64,
        specific: int = 8,
        agnostic: int = 16,
        compressed: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.horizon, self.specific = horizon, specific
        self.compress = nn.Linear(future, compressed) if future else None
        width = encoding + static + (horizon * compressed if future else 0)
        self.body = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, horizon * specific + agnostic), nn.ReLU(),
        )  # fmt: skip

    def forward(self, encoding: Tensor, static: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts of ``(B, F, D)``, ``(B, F, S)``, ``(B, F, K, C)``.

        Returns:
            ``(B, F, K, specific)`` and ``(B, F, agnostic)``.
        """
        parts = [encoding, static]
        if self.compress is not None:
            parts.append(F.relu(self.compress(future)).flatten(-2))
        contexts = self.body(torch.cat(parts, -1))
        own, shared = contexts.split(
            [self.horizon * self.specific, contexts.shape[-1] - self.horizon * self.specific], -1
        )
        return own.unflatten(-1, (self.horizon, self.specific)), shared


class LocalDecoder(nn.Module):
    """A network shared over horizons: what is known of a period acts on that period only.

    ``m_L([c_k, c_a, x^f_{t+k}, s])`` (Wen et al. 2017, eq. 4). The first layer is split by input,
    so that what does not vary over the horizon is multiplied once a fork instead of K times.

    Args:
        varying: widths of the inputs that vary over the horizon.
        constant: widths of the inputs that do not.
        hidden: widths of the hidden layers.
        dropout: share of hidden units dropped.
    """

    def __init__(
        self,
        varying: Sequence[int],
        constant: Sequence[int],
        hidden: Sequence[int] = (32, 32),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.varying = nn.Linear(sum(varying), hidden[0])
        self.constant = nn.Linear(sum(constant), hidden[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.dropout = dropout
        self.width = hidden[-1]

    def forward(self, varying: Sequence[Tensor], constant: Sequence[Tensor]) -> Tensor:
        """``(B, F, K, .)`` and ``(B, F, .)`` to ``(B, F, K, hidden)``."""
        if any(watched(layer) for layer in (self.varying, self.constant, *self.layers)):
            return self._layer_by_layer(varying, constant)
        shape = varying[0].shape
        state = self._mix([part.flatten(0, -2) for part in varying])
        own = self.constant(torch.cat(list(constant), -1)).unsqueeze(-2)
        # In place only on what is no view: autograd would copy the whole of it.
        state = F.relu_(state.view(*shape[:-1], -1) + own).flatten(0, -2)
        for layer in self.layers:
            state = F.relu_(layer(F.dropout(state, self.dropout, self.training)))
        return F.dropout(state, self.dropout, self.training).view(*shape[:-1], -1)

    def _layer_by_layer(self, varying: Sequence[Tensor], constant: Sequence[Tensor]) -> Tensor:
        """The same through calls of the layers with examples first, for whoever watches them."""
        own = self.constant(torch.cat(list(constant), -1)).unsqueeze(-2)
        state = F.relu(self.varying(torch.cat(list(varying), -1)) + own)
        for layer in self.layers:
            state = F.relu(layer(F.dropout(state, self.dropout, self.training)))
        return F.dropout(state, self.dropout, self.training)

    def _mix(self, varying: Sequence[Tensor]) -> Tensor:
        """The first layer on its inputs side by side, without laying them side by side.

        What is given (the future, the references) then costs no gradient.
        """
        parts = self.varying.weight.split([part.shape[-1] for part in varying], 1)
        total = F.linear(varying[0], parts[0], self.varying.bias)
        for part, weight in zip(varying[1:], parts[1:], strict=True):
            if part.shape[-1]:
                total = torch.addmm(total, part, weight.t())
        return total
