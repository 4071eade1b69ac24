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
            self.linear.bias.fill_(float(torch.tensor(initial_step).expm1().log()))
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
        return spread(self.linear(features), self.anchor, base, unit)


def spread(
    raw: Tensor, anchor: int, base: Tensor | float = 0.0, unit: Tensor | float = 1.0
) -> Tensor:
    """Turns free numbers ``(..., Q)`` into ascending quantiles around position ``anchor``."""
    unit = unit.unsqueeze(-1) if isinstance(unit, Tensor) else unit
    base = base.unsqueeze(-1) if isinstance(base, Tensor) else base
    middle = base + unit * raw[..., anchor : anchor + 1]
    steps = unit * F.softplus(raw)
    parts = [middle]
    if anchor + 1 < raw.shape[-1]:
        parts.append(middle + steps[..., anchor + 1 :].cumsum(-1))
    if anchor:
        below = middle - steps[..., :anchor].flip(-1).cumsum(-1)
        parts.insert(0, below.flip(-1))
    # A parallel prefix sum may round two neighbours differently; this settles it.
    return torch.cat(parts, -1).cummax(-1).values
