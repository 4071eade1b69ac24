"""What a simulator knows: the quantiles that no forecast can beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@runtime_checkable
class Truth(Protocol):
    """The generator behind a simulated panel.

    ``demand`` holds what really happened, also beyond the panel's end: no stock-outs, no returns.
    """

    demand: Panel

    def quantiles(
        self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int, levels: Sequence[float]
    ) -> FloatArray:
        """Quantiles (M, K, Q) of demand after each cutoff, given all that is known there.

        Args:
            ids: (M,) names of series.
            cutoffs: (M,) period number of the last known step.
            horizon: number of steps K.
            levels: Q levels in (0, 1).
        """
        ...


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the cells after given cutoffs lie in rectangular arrays of a simulation.

    Args:
        rows: (M,) series.
        steps: (M, K) steps from the simulation's first period.
        cutoffs: (M,) step of the last known period.
    """

    rows: IntArray
    steps: IntArray
    cutoffs: IntArray


def cells(
    positions: dict[str, int],
    first: int,
    total: int,
    ids: Sequence[str],
    cutoffs: ArrayLike,
    horizon: int,
) -> Cells:
    """Finds the cells after cutoffs in arrays (N, total) whose first step is period ``first``.

    Raises:
        DataError: a series is not of this simulation, or a cell lies beyond its end.
    """
    if horizon < 1:
        raise ParameterError(f"the horizon must be at least 1, not {horizon}")
    unknown = [str(i) for i in ids if str(i) not in positions]
    if unknown:
        raise DataError(
            "the series is not of this simulation", series=unknown[0], hint="Use the panel's ids"
        )
    rows = np.array([positions[str(i)] for i in ids], np.int64)
    last = np.broadcast_to(np.asarray(cutoffs, np.int64), rows.shape) - first
    steps = last[:, None] + 1 + np.arange(horizon)[None, :]
    outside = np.flatnonzero((last < 0) | (last + horizon >= total))
    if outside.size:
        i = int(outside[0])
        raise DataError(
            f"{horizon} steps after period {int(last[i]) + first} reach beyond what was simulated",
            series=str(ids[i]),
            hint=f"The simulation covers periods {first} to {first + total - 1}",
        )
    return Cells(rows, steps, last)


def checked_levels(levels: Sequence[float]) -> FloatArray:
    """The levels as an array (Q,).

    Raises:
        ParameterError: a level is not strictly between 0 and 1.
    """
    array = np.asarray(levels, np.float64)
    if array.ndim != 1 or not np.all((array > 0) & (array < 1)):
        raise ParameterError(f"quantile levels must lie strictly between 0 and 1, not {levels}")
    return array


def negative_binomial(rng: np.random.Generator, mean: FloatArray, size: ArrayLike) -> FloatArray:
    """Counts of the given mean and variance ``mean + mean^2 / size``."""
    size = np.broadcast_to(np.asarray(size, np.float64), mean.shape)
    return rng.poisson(mean * rng.gamma(size) / size).astype(np.float64)


def negative_binomial_quantiles(
    means: FloatArray, weights: FloatArray, size: ArrayLike, levels: FloatArray
) -> FloatArray:
    """Quantiles of a mixture of negative binomials of one size and several means.

    Args:
        means: (..., J) mean of each component.
        weights: (J,) that sum to 1.
        size: (...,) the inverse dispersion.
        levels: (Q,).

    Returns:
        (..., Q): the smallest count whose distribution function reaches the level.
    """
    shape = np.broadcast_to(np.asarray(size, np.float64), means.shape[:-1])
    success = shape[..., None] / (shape[..., None] + means)

    def cdf(count: FloatArray) -> FloatArray:
        total = np.zeros_like(count)
        for j, weight in enumerate(weights):
            part = special.betainc(shape[..., None], count + 1.0, success[..., j : j + 1])
            total += weight * part
        return total

    low = np.full((*means.shape[:-1], len(levels)), -1.0)
    spread = np.sqrt(means + means**2 / shape[..., None])
    high = np.broadcast_to(np.ceil(means + 4 * spread).max(-1)[..., None], low.shape).copy()
    short = cdf(high) < levels
    while short.any():
        low[short], high[short] = high[short], 2 * high[short] + 1
        short = cdf(high) < levels
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        reached = cdf(middle) >= levels
        wide = high - low > 1
        high = np.where(wide & reached, middle, high)
        low = np.where(wide & ~reached, middle, low)
    return high


def normal_nodes(count: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights (J,) with ``sum w f(x)`` the mean of f under a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()
