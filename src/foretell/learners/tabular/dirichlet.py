"""Dirichlet predictions: losses and uncertainties of concentrations ``(B, C)``."""

from __future__ import annotations

import torch
from torch import Tensor


def dirichlet_entropy(concentration: Tensor) -> Tensor:
    """Differential entropy ``(B,)`` in nats of Dirichlet distributions ``(B, C)``.

    It is not monotone in the evidence where a concentration lies below 1: such a density piles up
    in the corners.
    """
    total = concentration.sum(-1)
    classes = concentration.shape[-1]
    log_beta = torch.lgamma(concentration).sum(-1) - torch.lgamma(total)
    inner = ((concentration - 1) * torch.digamma(concentration)).sum(-1)
    return log_beta + (total - classes) * torch.digamma(total) - inner


def uncertain_cross_entropy(concentration: Tensor, target: Tensor) -> Tensor:
    """Expected cross-entropy ``(B,)`` under Dirichlet distributions, in nats.

    ``E[-sum_c y_c log p_c] = sum_c y_c (digamma(alpha_0) - digamma(alpha_c))`` (Charpentier et al.
    2020, eq. 9, the first term; Bilos et al. 2019).

    Args:
        concentration: ``(B, C)`` alpha, positive.
        target: ``(B,)`` class numbers, or ``(B, C)`` shares of the classes.
    """
    gap = torch.digamma(concentration.sum(-1, keepdim=True)) - torch.digamma(concentration)
    if target.ndim == 1:
        return gap.gather(-1, target.long()[:, None])[:, 0]
    return (target * gap).sum(-1)
