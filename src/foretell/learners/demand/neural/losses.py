"""Quantile losses as differentiable functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(target: Tensor, quantiles: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss ``max(a (y - q), (a - 1)(y - q))`` of each cell.

    Its minimiser over constants is the empirical ``a``-quantile (Koenker and Bassett 1978).

    Args:
        target: ``(...)``.
        quantiles: ``(..., Q)``.
        levels: ``(Q,)``.

    Returns:
        ``(..., Q)`` in the target's unit.
    """
    error = target.unsqueeze(-1) - quantiles
    # The slope as a constant of the graph: half the passes over memory that a maximum takes.
    return (levels - (error.detach() < 0).to(error.dtype)) * error


def censored_pinball(target: Tensor, quantiles: Tensor, levels: Tensor, censored: Tensor) -> Tensor:
    """Quantile loss in which a stock-out says only "at least this much" (Powell 1986).

    Where ``censored``, the forecast is replaced by ``min(forecast, target)``: a quantile above the
    sales of a sold-out period costs nothing, one below is charged as usual.

    Args:
        target: ``(...)``.
        quantiles: ``(..., Q)``.
        levels: ``(Q,)``.
        censored: ``(...)`` bool.

    Returns:
        ``(..., Q)`` in the target's unit.
    """
    capped = torch.minimum(quantiles, target.unsqueeze(-1))
    return pinball(target, torch.where(censored.unsqueeze(-1), capped, quantiles), levels)
