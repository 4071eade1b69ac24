"""Normal models whose mean and variance are uncertain, with priors learned from many of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

FloatArray = NDArray[np.float64]
_MOST_FREEDOM = 1e4


class Prior(NamedTuple):
    """``sigma^2 ~ InverseGamma(shape, rate)``, ``mu | sigma^2 ~ N(location, sigma^2 / strength)``.

    Attributes:
        location: scalar or ``(N,)``.
        strength: how many observations the location is worth.
        shape: half of the variance's degrees of freedom.
        rate: of the inverse gamma.
    """

    location: FloatArray | float
    strength: float
    shape: float
    rate: float


def predictive_log_density(
    x: FloatArray, count: NDArray[np.int64], mean: FloatArray, squares: FloatArray, prior: Prior
) -> FloatArray:
    """``log p(x | observations)``: Student's t with the posterior's parameters.

    Args:
        x: ``(N,)``.
        count: ``(N,)`` observations of each, 0 allowed.
        mean: ``(N,)`` their means; anything where there is none.
        squares: ``(N,)`` sums of squared residuals.
        prior: of mean and variance.
    """
    mean = np.where(count > 0, mean, prior.location)
    strength = prior.strength + count
    location = (prior.strength * prior.location + count * mean) / strength
    shape = prior.shape + count / 2
    gap = (mean - prior.location) ** 2
    rate = prior.rate + squares / 2 + prior.strength * count * gap / (2 * strength)
    scale = np.sqrt(rate * (strength + 1) / (shape * strength))
    return np.asarray(stats.t.logpdf(x, 2 * shape, location, scale))


def variance_prior(count: NDArray[np.int64], squares: FloatArray) -> tuple[float, float]:
    """Shape and rate of the inverse gamma that sample variances were drawn from.

    Moments of their logarithms (Smyth 2004, section 6.2): these are robust, and the answer exists
    wherever some have two observations.

    Args:
        count: ``(N,)`` observations.
        squares: ``(N,)`` sums of squared residuals.
    """
    seen = (count >= 2) & (squares > 0)
    if not seen.any():
        return 1.0, 1.0
    freedom = count[seen] - 1.0
    variances = squares[seen] / freedom
    e = np.log(variances) - special.digamma(freedom / 2) + np.log(freedom / 2)
    spread = float(np.var(e, ddof=1)) if len(e) > 1 else 0.0
    excess = spread - float(special.polygamma(1, freedom / 2).mean())
    if excess <= special.polygamma(1, _MOST_FREEDOM / 2):
        prior_freedom = _MOST_FREEDOM
    else:
        prior_freedom = 2 * _inverse_trigamma(excess)
    half = prior_freedom / 2
    typical = float(np.exp(e.mean() + special.digamma(half) - np.log(half)))
    return half, half * typical


def _inverse_trigamma(value: float) -> float:
    """``x`` with ``trigamma(x) = value``, by Newton's method on the reciprocal (Smyth 2004)."""
    if value > 1e7:
        return float(1 / np.sqrt(value))
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return float(x)
