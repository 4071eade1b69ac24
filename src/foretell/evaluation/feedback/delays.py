"""How long labels take, estimated without the bias of what has not been seen yet."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from foretell.errors import ParameterError

FloatArray = NDArray[np.float64]


class Curve(NamedTuple):
    """A distribution function at ages.

    Args:
        ages: (a,).
        share: (a,) in [0, 1].
        lower: (a,) of a pointwise interval.
        upper: (a,).
    """

    ages: FloatArray
    share: FloatArray
    lower: FloatArray
    upper: FloatArray


def truncated_delay_curve(
    delay: ArrayLike, truncation: ArrayLike, ages: ArrayLike, confidence: float = 0.95
) -> Curve:
    """``P(D <= s)`` of conversions of which only those with ``D <= truncation`` are seen.

    At a snapshot a conversion is in the data only if its delay is at most its entity's age: delays
    of young entities are short because long ones are not seen. The product-limit estimator for
    right truncation (Lynden-Bell 1971; Woodroofe, Annals of Statistics 1985) runs from long delays
    to short ones: ``F(s) = prod_{d > s} (1 - events at d / #{i: D_i <= d <= truncation_i})``. It is
    the law among delays up to the longest truncation time; where the factor of an age becomes 0
    because its risk set is used up, nothing is known below it, and the share is NaN there.

    Args:
        delay: of conversions seen (n,).
        truncation: the ages (n,) of their entities, at least the delays.
        ages: (a,) at which the curve is wanted.
        confidence: of the pointwise intervals (Greenwood's variance, on the log-log scale).
    """
    delay, truncation = np.asarray(delay, np.float64), np.asarray(truncation, np.float64)
    if np.any(delay > truncation):
        raise ParameterError("a delay longer than its entity's age cannot have been seen")
    ages = np.asarray(ages, np.float64)
    if len(delay) == 0:
        return _empty(ages)
    points, events = np.unique(delay, return_counts=True)
    started = np.searchsorted(np.sort(delay), points, "right")
    over = np.searchsorted(np.sort(truncation), points, "left")
    risk = started - over
    # Factors of delays above s: the shortest delay's own factor, which is 0, is never needed above
    # its age; a 0 further up means that the risk set ran out.
    factor = 1 - events / risk
    logs = np.log(np.where(factor > 0, factor, np.nan))
    variance = events / (risk * np.maximum(risk - events, 1))
    index = np.searchsorted(points, ages, "right")  # first delay above the age
    tail_log = np.append(np.cumsum(logs[::-1])[::-1], 0.0)
    tail_variance = np.append(np.cumsum(variance[::-1])[::-1], 0.0)
    share = np.where(index == 0, 0.0, np.exp(tail_log[index]))
    return _with_interval(ages, share, tail_variance[index], confidence)


def incidence_curve(
    delay: ArrayLike,
    followed: ArrayLike,
    ages: ArrayLike,
    confidence: float = 0.95,
) -> Curve:
    """``P(Y = 1, D <= s)``: share of entities that convert by an age (Kaplan and Meier 1958).

    Args:
        delay: (n,) +inf where no conversion is seen.
        followed: (n,) how long each entity without a conversion has been watched; +inf where its
            window is over, since it will never convert.
        ages: (a,) at which the curve is wanted.
        confidence: of the pointwise intervals (Greenwood's variance, on the log-log scale).
    """
    delay, followed = np.asarray(delay, np.float64), np.asarray(followed, np.float64)
    ages = np.asarray(ages, np.float64)
    if len(delay) == 0:
        return _empty(ages)
    end = np.where(np.isfinite(delay), delay, followed)
    points, events = np.unique(delay[np.isfinite(delay)], return_counts=True)
    risk = len(end) - np.searchsorted(np.sort(end), points, "left")
    with np.errstate(divide="ignore"):
        logs = np.log(1 - events / risk)
    variance = events / (risk * np.maximum(risk - events, 1))
    index = np.searchsorted(points, ages, "right")
    survival = np.exp(np.append(0.0, np.cumsum(logs))[index])
    spread = np.append(0.0, np.cumsum(variance))[index]
    curve = _with_interval(ages, survival, spread, confidence)
    return Curve(ages, 1 - survival, 1 - curve.upper, 1 - curve.lower)


def _with_interval(
    ages: FloatArray, share: FloatArray, variance: FloatArray, confidence: float
) -> Curve:
    """Interval on the log-log scale, which stays inside [0, 1]."""
    z = norm.ppf(0.5 + confidence / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(share)
        width = z * np.sqrt(variance) / np.abs(logs)
        lower, upper = share ** np.exp(width), share ** np.exp(-width)
    edge = ~((share > 0) & (share < 1))
    return Curve(ages, share, np.where(edge, share, lower), np.where(edge, share, upper))


def _empty(ages: FloatArray) -> Curve:
    nothing = np.full(len(ages), np.nan)
    return Curve(ages, nothing, nothing, nothing)
