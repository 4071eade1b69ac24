"""Proportional hazards over a Weibull baseline: likelihood, risk, and nets that end in it.

Cox, Regression models and life-tables, JRSS B 34, 1972, with a parametric baseline: for a lead of
tau hours, hazard ``(nu / rho) (tau / rho)^(nu - 1) e^eta`` and survival ``exp(-(tau / rho)^nu
e^eta)``, as in the baseline of the 2019 challenge.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner

SHORTEST = 0.5
"""Hours below which a time counts as this: the log-hazard at 0 is infinite where nu < 1."""

SCALES, SHAPES, PREDICTORS = (1.0, 500.0), (0.3, 3.0), (-12.0, 6.0)
"""Bounds of rho in hours, of nu, and of eta."""


class SurvivalOutput(NamedTuple):
    """What is predicted of every hour.

    Attributes:
        predictor: eta ``(B, T)``, within its bounds.
        scale: rho ``(B,)`` in hours, the same for all.
        shape: nu ``(B,)``, the same for all.
    """

    predictor: Tensor
    scale: Tensor
    shape: Tensor


def negative_log_likelihood(
    predictor: Tensor, time: Tensor, event: Tensor, scale: Tensor, shape: Tensor
) -> Tensor:
    """``-(event * log hazard(time) - (time / rho)^nu e^eta)``, element by element, in nats.

    Args:
        predictor: eta.
        time: hours to the onset, or to where it was last known not to have come.
        event: 1 where the onset came at ``time``, 0 where it is censored there.
        scale: rho.
        shape: nu.
    """
    log_time = torch.log(time.clamp(min=SHORTEST) / scale)
    log_hazard = torch.log(shape / scale) + (shape - 1) * log_time + predictor
    return torch.exp(shape * log_time + predictor) - event * log_hazard


def risk_within(
    predictor: ArrayLike, horizons: ArrayLike, scale: float, shape: float
) -> NDArray[np.float64]:
    """Risk ``(..., K)`` of the onset within each horizon (hours), given eta ``(...)``.

    Raises:
        ParameterError: a horizon is not positive.
    """
    leads = np.atleast_1d(np.asarray(horizons, np.float64))
    if leads.ndim != 1 or not (leads > 0).all():
        raise ParameterError(f"horizons must be positive hours, not {horizons!r}")
    eta = np.asarray(predictor, np.float64)[..., None]
    return -np.expm1(-np.exp(shape * np.log(leads / scale) + eta))


class SurvivalLearner(Learner):
    """A net whose encoding of every hour ends in a Weibull-Cox head.

    Batches hold ``x`` ``(B, T, E)``, ``time``, ``event`` and ``mask`` ``(B, T)``. The score of a
    stay is the mean of its hours' losses, so that an example is a stay. The predictor has a
    constant, which moves the scale beyond the bounds of rho.

    Args:
        width: of the encoding.
        rate: events an hour that the head starts from.
        dropout: share of the encoding dropped before the head.
    """

    def __init__(self, width: int, *, rate: float = 2e-3, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {dropout}")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        start = 100.0
        self.log_scale = nn.Parameter(torch.full((1,), math.log(start)))
        self.log_shape = nn.Parameter(torch.zeros(1))
        with torch.no_grad():
            self.head.bias.fill_(math.log(rate * start))
            self.head.weight.mul_(0.1)

    @property
    def scale(self) -> Tensor:
        """Rho in hours."""
        return self.log_scale.clamp(math.log(SCALES[0]), math.log(SCALES[1])).exp()

    @property
    def shape_(self) -> Tensor:
        """Nu."""
        return self.log_shape.clamp(math.log(SHAPES[0]), math.log(SHAPES[1])).exp()

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Represents each hour ``(B, T, D)`` by what was known at its end."""

    def decode(self, encoding: Tensor, batch: Batch) -> SurvivalOutput:
        """Predictors of all hours."""
        eta = self.head(self.dropout(encoding)).squeeze(-1).clamp(*PREDICTORS)
        one = eta.new_ones(len(eta))
        return SurvivalOutput(eta, self.scale * one, self.shape_ * one)

    def score(self, output: SurvivalOutput, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each stay's hours ``(B,)``, without the padding."""
        mask = batch["mask"]
        losses = negative_log_likelihood(
            output.predictor, batch["time"], batch["event"].to(output.predictor.dtype),
            output.scale[:, None], output.shape[:, None],
        )  # fmt: skip
        return losses.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


class LinearWeibullLearner(SurvivalLearner):
    """The predictor is linear in the hour's inputs; ``encode`` hands them on."""

    def __init__(self, inputs: int, *, rate: float = 2e-3) -> None:
        super().__init__(inputs, rate=rate)
        nn.init.zeros_(self.head.weight)

    def encode(self, batch: Batch) -> Tensor:
        """The inputs themselves."""
        return batch["x"]
