"""Delayed feedback model: conversion and exponential delay from one likelihood (Chapelle 2014).

Chapelle, "Modeling delayed feedback in display advertising", KDD 2014, section 4. Every row is a
censored observation: a conversion seen after the delay ``d``, or none seen by the age ``a``.
Times are in units of the attribution window. In raw units (seconds) the hazard of a fresh network
is larger than the true one by orders of magnitude, ``p * exp(-hazard * age)`` is 0 for all rows and
the model learns the share of conversions seen so far.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NO_TIME = 1e-6
_LEAST_HAZARD = 1e-6


def hazard(raw: Tensor) -> Tensor:
    """Positive hazard in events per attribution window from a head's raw output ``(B,)``."""
    return F.softplus(raw) + _LEAST_HAZARD


def delayed_feedback_loss(
    logit: Tensor, rate: Tensor, label: Tensor, elapsed: Tensor, *, truncated: bool = True
) -> Tensor:
    """Negative log-likelihood of what has been seen of each entity, in nats.

    Args:
        logit: ``(B,)`` of the probability to convert, ever or within the window.
        rate: ``(B,)`` hazard of the delay, per attribution window.
        label: ``(B,)`` 1 where a conversion has been seen.
        elapsed: ``(B,)`` the delay where one has been seen, else the age; in windows, in [0, 1].
        truncated: delays end with the window, so that the logit is that of a conversion *within*
            it and a row of full age is a plain negative. False for the published likelihood, whose
            delays have no end; :func:`conversion_probability` then gives what is within the window.

    Returns:
        ``(B,)``: ``-log p - log f(d)`` or ``-log(1 - p + p S(a))``; equations 5 to 8 of the paper.
    """
    if truncated:
        mass = _log1mexp(rate)
        density = torch.log(rate) - rate * elapsed - mass
        left = (1 - elapsed).clamp(min=_NO_TIME)
        survival = -rate * elapsed + _log1mexp(rate * left) - mass
        survival = torch.where(elapsed >= 1, torch.full_like(survival, -torch.inf), survival)
    else:
        density = torch.log(rate) - rate * elapsed
        survival = -rate * elapsed
    seen = F.softplus(-logit) - density
    # 1 - p + p S = (1 + exp(logit + log S)) / (1 + exp(logit))
    unseen = F.softplus(logit) - F.softplus(logit + survival)
    return torch.where(label > 0, seen, unseen)


def conversion_probability(logit: Tensor, rate: Tensor, *, truncated: bool = True) -> Tensor:
    """Probability of a conversion within the window ``(B,)``, under either likelihood."""
    p = torch.sigmoid(logit)
    return p if truncated else p * -torch.expm1(-rate)


def delay_distribution(rate: Tensor, elapsed: Tensor, *, truncated: bool = True) -> Tensor:
    """``P(delay <= elapsed | conversion within the window)``, elapsed in windows."""
    seen = -torch.expm1(-rate * elapsed.clamp(0, 1))
    return seen / -torch.expm1(-rate)


def _log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(-x))`` for positive x, without cancellation."""
    return torch.log(-torch.expm1(-x))
