"""Exact binomial intervals and tails."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def clopper_pearson(
    hits: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two-sided Clopper-Pearson interval of a proportion; (0, 1) where there was no trial.

    Fractional counts (weighted rows at their effective size) are accepted: the interval is then
    approximate.

    Args:
        hits: (...,) successes.
        trials: (...,) trials.
        confidence: coverage of the interval.

    Returns:
        Lower and upper ends (...,).
    """
    x, n = np.broadcast_arrays(np.asarray(hits, float), np.asarray(trials, float))
    tail = (1 - confidence) / 2
    misses = np.maximum(n - x, 0.0)
    with np.errstate(invalid="ignore"):
        low = np.where(x > 0, stats.beta.ppf(tail, np.maximum(x, 1e-300), misses + 1), 0.0)
        high = np.where(
            misses > 0, stats.beta.ppf(1 - tail, x + 1, np.maximum(misses, 1e-300)), 1.0
        )
    empty = n <= 0
    return np.where(empty, 0.0, low), np.where(empty, 1.0, high)


def binomial_tail(hits: ArrayLike, trials: ArrayLike, rate: float) -> NDArray[np.float64]:
    """``P(Bin(trials, rate) >= hits)``: p-value of "the true rate is below ``rate``"."""
    return np.asarray(stats.binom.sf(np.asarray(hits) - 1, np.asarray(trials), rate))


def effective_counts(
    hits: NDArray[np.float64], mass: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted hits and mass as counts of equally informative rows (Kish's effective size)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        trials = np.where(squares > 0, mass**2 / squares, 0.0)
        rate = np.where(mass > 0, hits / mass, 0.0)
    return rate * trials, trials
