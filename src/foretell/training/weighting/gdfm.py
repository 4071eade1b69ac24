"""Generalized delayed feedback model: the label is a hidden cause of signals at fixed ages.

Yang & Zhan, "Generalized delayed feedback model with post-click information in recommender
systems", NeurIPS 2022. Each entity is looked at when it reaches certain ages; whatever has been seen
of it by then (conversion, engagement) are signals ``a_j`` whose law given features and final label
is learned from matured history. The classifier then maximises the likelihood of the signals,
``sum_y p(a_j | x, y) p(y | x)``, and is held near the pre-trained one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import ParameterError


def conditional_entropy(signal: NDArray, label: NDArray, weight: NDArray | None = None) -> float:
    """Empirical ``H(Y | A)`` in nats of a label given a discrete signal, both ``(n,)``."""
    weight = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    values, codes = np.unique(signal, return_inverse=True)
    joint = np.zeros((len(values), 2))
    np.add.at(joint, (codes, np.asarray(label).astype(np.int64)), weight)
    joint /= joint.sum()
    marginal = joint.sum(axis=1, keepdims=True)
    ratio = np.divide(marginal, joint, out=np.ones_like(joint), where=joint > 0)
    return float((joint * np.log(ratio)).sum())


def signal_weights(
    ages: NDArray[np.float64], entropies: NDArray[np.float64], *, alpha: float = 2, beta: float = 1
) -> NDArray[np.float64]:
    """How much each signal counts ``(J, S)``: informative and early ones the most.

    ``exp(-beta * age / max age) * exp(-alpha * H / max H)``, divided by their mean; then the signals
    of age ``j`` of ``J`` are divided by ``J - j``, since an entity brings them again at each later
    age.

    Args:
        ages: ``(J,)`` ascending ages, any unit.
        entropies: ``(J, S)`` entropy of the label given each signal.
        alpha: how strongly uninformative signals are discounted.
        beta: how strongly late ones are.

    Raises:
        ParameterError: ages that do not ascend, or another number of them.
    """
    ages, entropies = np.asarray(ages, np.float64), np.asarray(entropies, np.float64)
    if entropies.ndim != 2 or len(ages) != len(entropies):
        raise ParameterError(
            f"entropies must have shape (ages, signals), not {entropies.shape} for {len(ages)} ages"
        )
    if np.any(np.diff(ages) <= 0) or ages[0] < 0 or ages[-1] <= 0:
        raise ParameterError(f"ages of signals must ascend from 0 or above, not {ages.tolist()}")
    highest = entropies.max()
    share = entropies / highest if highest > 0 else np.zeros_like(entropies)
    weights = np.exp(-beta * ages / ages[-1])[:, None] * np.exp(-alpha * share)
    weights /= weights.mean()
    return weights / np.arange(len(ages), 0, -1)[:, None]


def signal_log_likelihood(signal_logits: Tensor, signals: Tensor) -> Tensor:
    """``log p(a_j | x, y)`` of binary signals.

    Args:
        signal_logits: ``(B, 2, J, S)`` for y = 0 and 1.
        signals: ``(B, J, S)`` in {0, 1}.

    Returns:
        ``(B, 2, J, S)``.
    """
    sign = 2 * signals[:, None].to(signal_logits.dtype) - 1
    return F.logsigmoid(sign * signal_logits)


def observed_data_loss(
    logit: Tensor,
    log_likelihood: Tensor,
    mask: Tensor,
    weights: Tensor,
    reference_logit: Tensor | None = None,
    *,
    regularization: float = 0.01,
) -> Tensor:
    """Loss of each entity for the signals seen of it so far.

    Args:
        logit: ``(B,)`` of P(Y=1|x).
        log_likelihood: ``(B, 2, J, S)`` of each signal for y = 0 and 1; no gradient is needed.
        mask: ``(B, J)`` which ages have been reached.
        weights: ``(J, S)``.
        reference_logit: ``(B,)`` of the pre-trained classifier; None for no regularization.
        regularization: weight of ``KL(reference || model)``.

    Returns:
        ``(B,)``: ``-sum_j w_j log sum_y p(a_j|x,y) p(y|x) + regularization * KL``, the sum divided
        by the mean number of ages that the entities of the batch have reached.
    """
    log_p = torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], dim=1)
    terms = -torch.logsumexp(log_likelihood + log_p[:, :, None, None], dim=1) * weights
    reached = mask.to(terms.dtype)
    loss = (terms * reached[:, :, None]).sum(dim=(1, 2)) / reached.sum(dim=1).mean().clamp(min=1)
    if reference_logit is not None:
        loss = loss + regularization * bernoulli_kl(reference_logit, logit)
    return loss


def bernoulli_kl(reference_logit: Tensor, logit: Tensor) -> Tensor:
    """``KL(reference || model)`` of two Bernoulli laws given by logits ``(B,)``, in nats."""
    p = torch.sigmoid(reference_logit)
    positive = F.logsigmoid(reference_logit) - F.logsigmoid(logit)
    negative = F.logsigmoid(-reference_logit) - F.logsigmoid(-logit)
    return p * positive + (1 - p) * negative
