"""A label as the hidden cause of signals that are seen at fixed ages (GDFM's likelihood).

Yang & Zhan, "Generalized delayed feedback model with post-click information in recommender
systems", NeurIPS 2022, sections 4.2 and 4.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foretell.learners.contract import Batch
from foretell.learners.tabular.response import Response, ResponseNet


class SignalResponseNet(ResponseNet):
    """A binary response that learns from signals instead of labels, where a batch has them.

    Batch keys: ``label`` (B,) alone, for final labels; or ``signals`` (B, J, S) in {0, 1},
    ``signal_weight`` (B, J, S), 0 for signals not seen yet, ``signal_probability`` (B, 2, J, S),
    that of a 1 given y = 0 and y = 1, and ``reference`` (B,), the pre-trained probability.

    Args:
        trunk: maps a batch to an encoding of width ``trunk.out``.
        regularization: weight of ``KL(reference || model)``.
    """

    def __init__(self, trunk: nn.Module, regularization: float = 0.01) -> None:
        super().__init__(trunk, 2)
        self.regularization = regularization

    def score(self, output: Response, batch: Batch) -> Tensor:
        """Cross entropy ``(B,)`` of final labels, or the loss of the signals."""
        if "signals" not in batch:
            return super().score(output, batch)
        likelihood = signal_log_likelihood(batch["signal_probability"], batch["signals"])
        loss = observed_data_loss(output.log_probabilities, likelihood, batch["signal_weight"])
        return loss + self.regularization * divergence(batch["reference"], output.log_probabilities)


def signal_log_likelihood(probability: Tensor, signals: Tensor) -> Tensor:
    """``log p(a_j | x, y)`` ``(B, 2, J, S)`` of binary signals.

    Args:
        probability: ``(B, 2, J, S)`` of a 1, given y = 0 and y = 1.
        signals: ``(B, J, S)`` in {0, 1}.
    """
    seen = signals[:, None] > 0
    return torch.log(torch.where(seen, probability, 1 - probability).clamp(min=1e-12))


def observed_data_loss(log_probabilities: Tensor, likelihood: Tensor, weight: Tensor) -> Tensor:
    """``-sum_j w_j log sum_y p(a_j | x, y) p(y | x)`` of each entity ``(B,)``.

    The sum is divided by the mean number of ages that the entities of the batch have reached, so
    that its scale does not depend on how many signals there are.

    Args:
        log_probabilities: ``(B, 2)`` of the label.
        likelihood: ``(B, 2, J, S)`` log-likelihood of each signal for y = 0 and y = 1.
        weight: ``(B, J, S)``, 0 for signals not seen yet.
    """
    terms = -torch.logsumexp(likelihood + log_probabilities[:, :, None, None], dim=1) * weight
    reached = (weight > 0).any(2).to(terms.dtype).sum(1).mean()
    return terms.sum((1, 2)) / reached.clamp(min=1)


def divergence(reference: Tensor, log_probabilities: Tensor) -> Tensor:
    """``KL(reference || model)`` ``(B,)`` in nats; ``reference`` is P(Y = 1), kept off 0 and 1."""
    p = reference.clamp(1e-6, 1 - 1e-6).to(log_probabilities.dtype)
    negative, positive = log_probabilities.unbind(1)
    return p * (torch.log(p) - positive) + (1 - p) * (torch.log1p(-p) - negative)
