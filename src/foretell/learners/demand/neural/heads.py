"""Output layers whose quantiles cannot cross."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.learners.demand.forecast import check_levels


class MonotoneGridHead(nn.Module):
    """Quantiles on a fixed grid: one anchor and non-negative steps away from it.

    The level nearest to the median is a plain linear output; every other level adds softplus steps
    to its neighbour, upwards and downwards. (GluonTS' incremental head starts at the lowest level
    and steps with ReLU: an error of the lowest quantile moves all others, and a dead step leaves a
    tie that no gradient can open.) Crossings are impossible, in floating point too: adding a
    non-negative number never rounds below the number itself.

    Args:
        features: width of the input.
        levels: (Q,) ascending quantile levels.
        initial_step: size of every step before training, in units of the output.
    """

    def __init__(self, features: int, levels: Sequence[float], initial_step: float = 0.05) -> None:
        super().__init__()
        grid = check_levels(levels)
        self.count = len(grid)
        self.anchor = int(abs(grid - 0.5).argmin())
        self.linear = nn.Linear(features, self.count)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            self.linear.bias.fill_(float(torch.tensor(initial_step, device="cpu").expm1().log()))
            self.linear.bias[self.anchor] = 0.0

    def forward(
        self, features: Tensor, base: Tensor | float = 0.0, unit: Tensor | float = 1.0
    ) -> Tensor:
        """Quantiles ``base + unit * head(features)``.

        Args:
            features: ``(..., D)``.
            base: ``(...)`` what the anchor is a correction of.
            unit: ``(...)`` positive size of one output unit.

        Returns:
            ``(..., Q)``, non-decreasing along the last axis.
        """
        return self.quantiles(self.linear(features), base, unit)

    def quantiles(
        self, raw: Tensor, base: Tensor | float = 0.0, unit: Tensor | float = 1.0
    ) -> Tensor:
        """Quantiles from the linear layer's output ``(..., Q)``."""
        return spread(raw, self.anchor, base, unit, exact=not self.training)


def spread(
    raw: Tensor,
    anchor: int,
    base: Tensor | float = 0.0,
    unit: Tensor | float = 1.0,
    exact: bool = True,
) -> Tensor:
    """Turns free numbers ``(..., Q)`` into ascending quantiles around position ``anchor``.

    Sums of steps are products with a triangle of ones, which may round two neighbours differently;
    ``exact`` settles that. In training a tie in the last bit does not matter.
    """
    unit = unit.unsqueeze(-1) if isinstance(unit, Tensor) else unit
    base = base.unsqueeze(-1) if isinstance(base, Tensor) else base
    count = raw.shape[-1]
    position = torch.arange(count, device=raw.device)
    # Column j adds step i to every quantile on its far side.
    above = (position[:, None] <= position) & (position[:, None] > anchor)
    below = (position[:, None] >= position) & (position[:, None] < anchor)
    sums = above.to(raw.dtype) - below.to(raw.dtype)
    offsets = F.softplus(raw) @ sums + raw[..., anchor : anchor + 1]
    quantiles = base + unit * offsets
    return quantiles.cummax(-1).values if exact else quantiles
