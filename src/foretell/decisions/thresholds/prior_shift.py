"""Another base rate than the hold-out's: estimating it without labels, and weighing for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from foretell.decisions.thresholds.holdout import numbers
from foretell.errors import DataError, ParameterError

ITERATIONS = 1000
PRECISION = 1e-9


def class_weights(base_rate: float, target: float) -> tuple[float, float]:
    """Factors of positive and negative rows under which the base rate becomes ``target``.

    Raises:
        ParameterError: a base rate outside (0, 1).
    """
    if not 0 < target < 1:
        raise ParameterError(f"base rate {target!r}: must lie between 0 and 1, both excluded")
    return target / base_rate, (1 - target) / (1 - base_rate)


def estimate_base_rate(probability: ArrayLike, base_rate: float) -> float:
    """Base rate of rows without labels, by expectation-maximisation (Saerens et al. 2002, eq. 8).

    Only the base rate may differ: P(score | class) must be that of the calibration.

    Args:
        probability: (n,) calibrated probabilities of new rows.
        base_rate: the base rate for which they are calibrated.

    Raises:
        DataError: no rows, or a probability outside [0, 1].
        ParameterError: ``base_rate`` outside (0, 1).
    """
    p = numbers(probability, "probability")
    if not len(p):
        raise DataError("there are no rows to estimate a base rate from", column="probability")
    bad = ~((p >= 0) & (p <= 1))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"the probability is {p[row]}", column="probability", row=row)
    class_weights(base_rate, base_rate)  # checks it
    rate = base_rate
    for _ in range(ITERATIONS):
        w1, w0 = rate / base_rate, (1 - rate) / (1 - base_rate)
        below = w1 * p + w0 * (1 - p)
        following = float(np.mean(w1 * p / np.maximum(below, 1e-300)))
        following = min(max(following, 1e-9), 1 - 1e-9)
        if abs(following - rate) < PRECISION:
            return following
        rate = following
    return rate
