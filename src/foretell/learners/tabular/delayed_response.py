"""Conversion and its exponential delay from one likelihood: the delayed feedback model.

Chapelle, "Modeling delayed feedback in display advertising", KDD 2014, section 4. Every row is a
censored observation: a conversion seen after the delay ``d``, or none seen by the age ``a``.

Times are in units of the attribution window. In raw units (seconds) the hazard of a fresh network
is larger than the true one by orders of magnitude, so that ``p exp(-hazard * age)`` is 0 for every
row: the model learns the share of conversions seen so far, and its loss is that of impossible
delays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.learners.contract import Batch, Learner

_NO_TIME = 1e-6
_LEAST_HAZARD = 1e-6


class DelayedResponse(NamedTuple):
    """Prediction of the delayed feedback model.

    Attributes:
        log_probabilities: ``(B, 2)`` of no conversion and of one within the window.
        logit: ``(B,)`` the model's own: of a conversion within the window, or ever.
        hazard: ``(B,)`` of the delay, per attribution window.
    """

    log_probabilities: Tensor
    logit: Tensor
    hazard: Tensor


class DelayedResponseNet(Learner):
    """A trunk with a conversion head and a hazard head.

    Batch keys: ``label`` (B,), 1 where a conversion has been seen; ``elapsed`` (B,), its delay or,
    without one, the age, in windows. A negative ``elapsed`` says that the label is final and
    its time not known. The score is the negative log-likelihood in nats.

    Args:
        trunk: maps a batch to an encoding of width ``trunk.out``.
        truncated: whether delays end with the window, see :func:`delayed_feedback_loss`.
    """

    labels = 2

    def __init__(self, trunk: nn.Module, truncated: bool = True) -> None:
        super().__init__()
        self.trunk, self.truncated = trunk, truncated
        self.head = nn.Linear(int(trunk.out), 2)  # type: ignore[arg-type]

    def encode(self, batch: Batch) -> Tensor:
        """Encoding ``(B, trunk.out)``."""
        encoding: Tensor = self.trunk(batch)
        return encoding

    def decode(self, encoding: Tensor, batch: Batch) -> DelayedResponse:
        """Log-probabilities, logit and hazard."""
        logit, raw = self.head(encoding).unbind(1)
        hazard = F.softplus(raw) + _LEAST_HAZARD
        final = logit if self.truncated else within_window(logit, hazard)
        both = F.logsigmoid(torch.stack([-final, final], 1))
        return DelayedResponse(both, logit, hazard)

    def score(self, output: DelayedResponse, batch: Batch) -> Tensor:
        """Negative log-likelihood ``(B,)``."""
        label, elapsed = batch["label"], batch["elapsed"].to(output.logit.dtype)
        timed = delayed_feedback_loss(
            output.logit, output.hazard, label, elapsed.clamp(0, 1), truncated=self.truncated
        )
        final = -output.log_probabilities.gather(1, label.long()[:, None])[:, 0]
        return torch.where(elapsed < 0, final, timed)


def delayed_feedback_loss(
    logit: Tensor, hazard: Tensor, label: Tensor, elapsed: Tensor, *, truncated: bool = True
) -> Tensor:
    """Negative log-likelihood of what has been seen of each entity, in nats.

    Args:
        logit: ``(B,)`` of the probability to convert, ever or within the window.
        hazard: ``(B,)`` of the delay, per attribution window.
        label: ``(B,)`` 1 where a conversion has been seen.
        elapsed: ``(B,)`` the delay where one has been seen, else the age; in windows, in [0, 1].
        truncated: delays end with the window, so that the logit is that of a conversion *within*
            it and a row of full age is a plain negative. False for the published likelihood, whose
            delays have no end: :func:`within_window` then gives the logit within the window.

    Returns:
        ``(B,)``: ``-log p - log f(d)`` or ``-log(1 - p + p S(a))`` (equations 5 to 8 of the
        paper).
    """
    survival = -hazard * elapsed
    density = torch.log(hazard) + survival
    if truncated:
        mass = _log1mexp(hazard)
        density = density - mass
        left = (1 - elapsed).clamp(min=_NO_TIME)
        survival = survival + _log1mexp(hazard * left) - mass
        survival = torch.where(elapsed >= 1, torch.full_like(survival, -torch.inf), survival)
    seen = F.softplus(-logit) - density
    # 1 - p + p S = (1 + exp(logit + log S)) / (1 + exp(logit))
    unseen = F.softplus(logit) - F.softplus(logit + survival)
    return torch.where(label > 0, seen, unseen)


def within_window(logit: Tensor, hazard: Tensor) -> Tensor:
    """Logit ``(B,)`` of ``p (1 - exp(-hazard))``: a conversion within the window, not just ever."""
    within = _log1mexp(hazard)
    # p F / (1 - p F), with p = e^l / (1 + e^l) and F = e^within
    return logit + within - F.softplus(logit - hazard)


def delay_cdf(hazard: Tensor, elapsed: float) -> Tensor:
    """``P(delay <= elapsed | conversion within the window)`` ``(B,)``; elapsed in windows."""
    share = min(max(elapsed, 0.0), 1.0)
    return torch.expm1(-hazard * share) / torch.expm1(-hazard)


def _log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(-x))`` of positive x, without cancellation."""
    return torch.log(-torch.expm1(-x))
