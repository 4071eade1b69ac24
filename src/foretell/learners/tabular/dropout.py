"""A tabular trunk with dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from foretell.errors import ParameterError
from foretell.learners.tabular.trunk import Trunk


class DropoutTrunk(Trunk):
    """A :class:`~foretell.learners.tabular.Trunk` with dropout after each layer, the last included.

    Run with dropout on, a network on it is a draw from an approximate posterior over its weights
    (Gal and Ghahramani 2016).

    Args:
        width: as for the trunk.
        cardinalities: as for the trunk.
        hidden_sizes: as for the trunk.
        dropout: share of a layer's outputs that is dropped in training.
        options: further arguments of the trunk.
    """

    def __init__(
        self,
        width: int,
        cardinalities: Sequence[int] = (),
        hidden_sizes: Sequence[int] = (64, 64),
        *,
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(width, cardinalities, hidden_sizes, **options)
        if not 0 <= dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {dropout!r}")
        layers: list[nn.Module] = []
        for layer in self.layers:
            layers.append(layer)
            if isinstance(layer, nn.LeakyReLU):
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
