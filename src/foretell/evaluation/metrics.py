"""Scores of quantile forecasts against what happened.

Formulas over observed cells only; ``y`` (M, K) with NaN where nothing was observed, ``q`` (M, K, Q)
quantiles at ``levels`` (Q,). Zero denominators give NaN with a warning, never infinity.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def pinball(y: NDArray, q: NDArray, levels: NDArray) -> NDArray[np.float64]:
    """Quantile loss ``max(a (y - q), (a - 1)(y - q))`` of each cell (M, K, Q), NaN if unobserved."""
    error = np.asarray(y, np.float64)[..., None] - np.asarray(q, np.float64)
    return np.maximum(levels * error, (levels - 1) * error)


def weighted_quantile_loss(y: NDArray, q: NDArray, levels: NDArray) -> float:
    """Mean over levels of ``2 sum pinball / sum |y|``, ratio of totals (WQL)."""
    return float(np.mean(weighted_quantile_losses(y, q, levels)))


def weighted_quantile_losses(y: NDArray, q: NDArray, levels: NDArray) -> NDArray[np.float64]:
    """WQL of each level (Q,)."""
    losses = 2 * np.nansum(pinball(y, q, levels), axis=(0, 1))
    return losses / _divisor(np.nansum(np.abs(np.asarray(y, np.float64))), "sum of |y|")


def wape(y: NDArray, point: NDArray) -> float:
    """Weighted absolute percentage error ``sum |y - f| / sum |y|`` of a point forecast (M, K)."""
    y = np.asarray(y, np.float64)
    return float(np.nansum(np.abs(y - point)) / _divisor(np.nansum(np.abs(y)), "sum of |y|"))


def mase(y: NDArray, point: NDArray, scales: NDArray) -> float:
    """Mean over observed cells of the absolute error in units of each series' scale (M,).

    Series whose scale is zero or undefined are left out. With equal numbers of observed cells this
    is the mean over series; with unequal ones every cell counts the same.
    """
    usable = np.isfinite(scales) & (scales > 0)
    errors = np.abs(np.asarray(y, np.float64)[usable] - point[usable]) / scales[usable][:, None]
    if not np.any(~np.isnan(errors)):
        warnings.warn("MASE: no observed cell of a series with a positive scale", stacklevel=2)
        return float("nan")
    return float(np.nanmean(errors))


def seasonal_scale(history: NDArray, season: int) -> float:
    """In-sample mean ``|y[t] - y[t - m]|`` over pairs that are both observed; NaN without one."""
    history = np.asarray(history, np.float64)
    if len(history) <= season:
        return float("nan")
    steps = np.abs(history[season:] - history[:-season])
    steps = steps[~np.isnan(steps)]
    return float(steps.mean()) if steps.size else float("nan")


def coverage(y: NDArray, q: NDArray) -> NDArray[np.float64]:
    """Share of observed cells at or below each quantile (Q,)."""
    y = np.asarray(y, np.float64)
    seen = ~np.isnan(y)
    below = (y[..., None] <= q) & seen[..., None]
    return below.sum(axis=(0, 1)) / _divisor(seen.sum(), "number of observed cells")


def calibration_error(y: NDArray, q: NDArray, levels: NDArray) -> float:
    """Mean over levels of ``|coverage - level|``."""
    return float(np.mean(np.abs(coverage(y, q) - levels)))


def crossing_rate(q: NDArray) -> float:
    """Share of cells in which some quantile lies above the next one."""
    return float(np.mean(np.any(np.diff(q, axis=-1) < 0, axis=-1))) if q.shape[-1] > 1 else 0.0


def _divisor(value: float, name: str) -> float:
    if value == 0:
        warnings.warn(f"{name} is zero: the score is undefined", stacklevel=3)
        return float("nan")
    return float(value)
