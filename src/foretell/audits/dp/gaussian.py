"""The Gaussian mechanism's trade-off: how epsilon, delta and the distance of its means go together.

With sensitivity 1 and noise of standard deviation sigma, ``mu = 1 / sigma`` (Dong, Roth and Su
2022).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri

from foretell.errors import ParameterError

_SMALLEST, _LARGEST = 1e-8, 1e4


def delta_of(epsilon: float, mu: float) -> float:
    """Least delta at which the mechanism is (epsilon, delta) private.

    ``Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)`` (Balle and Wang 2018, theorem 8).
    """
    if mu <= 0:
        return 0.0
    first = log_ndtr(mu / 2 - epsilon / mu)
    second = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(np.exp(first) * -np.expm1(min(0.0, second - first)))


@lru_cache(maxsize=4096)
def mu_of(epsilon: float, delta: float) -> float:
    """Largest ``mu`` that is (epsilon, delta) private.

    Raises:
        ParameterError: a delta outside (0, 1), or a negative epsilon.
    """
    if not 0 < delta < 1 or epsilon < 0:
        raise ParameterError(
            f"epsilon must not be negative and delta lie in (0, 1), not {epsilon} and {delta}"
        )

    def excess(logarithm: float) -> float:
        return delta_of(epsilon, math.exp(logarithm)) - delta

    return math.exp(
        scipy.optimize.brentq(excess, math.log(_SMALLEST), math.log(_LARGEST), xtol=1e-12)
    )


def epsilon_of(mu: float, delta: float) -> float:
    """Least epsilon that the mechanism has at delta; the inverse of :func:`mu_of`."""
    if not 0 < delta < 1 or mu < 0:
        raise ParameterError(
            f"mu must not be negative and delta lie in (0, 1), not {mu} and {delta}"
        )
    if delta_of(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, mu) > delta:
        high *= 2
    return float(scipy.optimize.brentq(lambda e: delta_of(e, mu) - delta, 0.0, high, xtol=1e-10))


def least_other(share: NDArray[np.float64], mu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least chance that an event of chance ``share`` has in the neighbouring world.

    ``Phi(Phi^-1(share) - mu)``: no test tells two normal distributions apart any better.
    """
    return np.asarray(ndtr(ndtri(share) - mu))
