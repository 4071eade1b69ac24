"""Scores of quantile forecasts against what happened.

Formulas over observed cells only; ``y`` (M, K) with NaN where nothing was observed, ``q`` (M, K, Q)
quantiles at ``levels`` (Q,). Zero denominators give NaN with a warning, never infinity. A forecast
that is missing where an outcome was observed is an error: left out, it would flatter the model.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError


def pinball(y: NDArray, q: NDArray, levels: NDArray) -> NDArray[np.float64]:
    """Quantile loss ``max(a (y - q), (a - 1)(y - q))`` of cells (M, K, Q), NaN if unobserved."""
    error = np.asarray(y, np.float64)[..., None] - np.asarray(q, np.float64)
    return np.maximum(levels * error, (levels - 1) * error)


def weighted_quantile_loss(y: NDArray, q: NDArray, levels: NDArray) -> float:
    """Mean over levels of ``2 sum pinball / sum |y|``, ratio of totals (WQL)."""
    return float(np.mean(weighted_quantile_losses(y, q, levels)))


def weighted_quantile_losses(y: NDArray, q: NDArray, levels: NDArray) -> NDArray[np.float64]:
    """WQL of each level (Q,)."""
    y, q = _observed(y, q)
    losses = 2 * pinball(y, q, levels).sum(axis=0)
    return losses / _divisor(np.abs(y).sum(), "sum of |y|")


def scaled_quantile_loss(y: NDArray, q: NDArray, levels: NDArray, scales: NDArray) -> float:
    """Mean over cells and levels of ``2 pinball / scale`` (SQL), ``scales`` (M,) one a series.

    Series whose scale is zero or undefined are left out.
    """
    y, q, factors = _scaled_cells(y, q, scales)
    if y.size == 0:
        warnings.warn("SQL: no observed cell of a series with a positive scale", stacklevel=2)
        return float("nan")
    return float(np.mean(2 * pinball(y, q, levels) / factors[:, None]))


def wape(y: NDArray, point: NDArray) -> float:
    """Weighted absolute percentage error ``sum |y - f| / sum |y|`` of a point forecast (M, K)."""
    y, point = _observed(y, point)
    return float(np.abs(y - point).sum() / _divisor(np.abs(y).sum(), "sum of |y|"))


def mase(y: NDArray, point: NDArray, scales: NDArray) -> float:
    """Mean over observed cells of the absolute error in units of each series' scale (M,).

    Series whose scale is zero or undefined are left out. With equal numbers of observed cells this
    is the mean over series; with unequal ones every cell counts the same.
    """
    y, point, factors = _scaled_cells(y, point, scales)
    if y.size == 0:
        warnings.warn("MASE: no observed cell of a series with a positive scale", stacklevel=2)
        return float("nan")
    return float(np.mean(np.abs(y - point) / factors))


def rmse(y: NDArray, point: NDArray) -> float:
    """Root of the mean squared error over observed cells; NaN with a warning without any."""
    y, point = _observed(y, point)
    return float(np.sqrt(((y - point) ** 2).sum() / _divisor(y.size, "number of observed cells")))


def smape(y: NDArray, point: NDArray) -> float:
    """Mean over observed cells of ``200 |y - f| / (|y| + |f|)``, 0 where both are zero."""
    y, point = _observed(y, point)
    return float(smape_terms(y, point).sum() / _divisor(y.size, "number of observed cells"))


def smape_terms(y: NDArray, point: NDArray) -> NDArray[np.float64]:
    """The terms of :func:`smape`, of any shape, in per cent."""
    size = np.abs(y) + np.abs(point)
    return 200 * np.abs(y - point) / np.where(size > 0, size, 1)


def interval_score(y: NDArray, lower: NDArray, upper: NDArray, alpha: float) -> NDArray[np.float64]:
    """Score of a central ``1 - alpha`` interval: its width and ``2 / alpha`` times each miss.

    Gneiting and Raftery 2007, equation 43.
    """
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha must lie inside (0, 1), not {alpha}")
    y = np.asarray(y, np.float64)
    below, above = np.maximum(lower - y, 0), np.maximum(y - upper, 0)
    width = np.asarray(upper, np.float64) - lower
    return np.where(np.isnan(y), np.nan, width + 2 / alpha * (below + above))


def msis(y: NDArray, lower: NDArray, upper: NDArray, alpha: float, scales: NDArray) -> float:
    """Mean scaled interval score: the interval score in units of each series' scale (M,)."""
    usable = np.isfinite(scales) & (scales > 0)
    score = interval_score(y[usable], lower[usable], upper[usable], alpha)
    score = score / scales[usable][:, None]
    seen = ~np.isnan(y[usable])
    if not seen.any():
        warnings.warn("MSIS: no observed cell of a series with a positive scale", stacklevel=2)
        return float("nan")
    if np.isnan(score[seen]).any():
        raise ParameterError("MSIS: an interval is missing where an outcome was observed")
    return float(score[seen].mean())


def crps_from_quantiles(y: NDArray, q: NDArray, levels: NDArray) -> float:
    """Mean over cells of ``2 mean_q pinball``: the CRPS as far as this grid of levels sees it."""
    y, q = _observed(y, q)
    total = 2 * pinball(y, q, levels).mean(axis=-1).sum()
    return float(total / _divisor(y.size, "number of observed cells"))


def crps_from_samples(y: ArrayLike, samples: ArrayLike) -> NDArray[np.float64]:
    """CRPS of each cell (...) from samples (..., S), the fair (unbiased) estimator.

    ``mean |x - y| - sum_{i<j} |x_i - x_j| / (S (S - 1))``: Ferro 2014, equation 3. The sum over
    pairs comes from the sorted samples in ``S log S``.

    Raises:
        ParameterError: fewer than two samples.
    """
    y, samples = np.asarray(y, np.float64), np.sort(np.asarray(samples, np.float64), axis=-1)
    size = samples.shape[-1]
    if size < 2:
        raise ParameterError("the fair CRPS needs at least two samples")
    weights = 2 * np.arange(1, size + 1) - size - 1
    spread = (samples * weights).sum(axis=-1) / (size * (size - 1))
    return np.abs(samples - y[..., None]).mean(axis=-1) - spread


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
    y, q = _observed(y, q)
    return (y[:, None] <= q).sum(axis=0) / _divisor(len(y), "number of observed cells")


def calibration_error(y: NDArray, q: NDArray, levels: NDArray) -> float:
    """Mean over levels of ``|coverage - level|``."""
    return float(np.mean(np.abs(coverage(y, q) - levels)))


def interval_coverage(y: NDArray, lower: NDArray, upper: NDArray) -> tuple[float, float]:
    """Share of observed cells inside ``[lower, upper]`` and the mean width over these cells."""
    y, bounds = _observed(y, np.stack([lower, upper], axis=-1))
    inside = (bounds[:, 0] <= y) & (y <= bounds[:, 1])
    count = _divisor(len(y), "number of observed cells")
    return float(inside.sum() / count), float((bounds[:, 1] - bounds[:, 0]).sum() / count)


def probability_integral_transform(
    y: NDArray, q: NDArray, levels: NDArray, seed: int = 0
) -> NDArray[np.float64]:
    """``F(y)`` of each observed cell (n,), uniform on (0, 1) when the forecast is calibrated.

    Linear between quantiles. Where the forecast says no more (outside the outer quantiles, or on
    an atom, where several quantiles equal ``y`` as with zero sales), a uniform number is drawn from
    the probabilities left open: Czado, Gneiting and Held 2009, section 2.1.
    """
    y, q = _observed(y, q)
    levels = np.asarray(levels, np.float64)
    grid = np.concatenate([[0.0], levels, [1.0]])
    under = (q < y[:, None]).sum(axis=-1)  # quantiles strictly below y
    upto = (q <= y[:, None]).sum(axis=-1)
    low, high = grid[under], grid[np.minimum(upto + 1, len(grid) - 1)]
    draws = np.random.default_rng(seed).uniform(size=len(y))
    # Between two quantiles and on neither: interpolate; elsewhere draw.
    inner = (under == upto) & (under > 0) & (under < len(levels))
    left = np.take_along_axis(q, np.maximum(under - 1, 0)[:, None], axis=1)[:, 0]
    right = np.take_along_axis(q, np.minimum(under, len(levels) - 1)[:, None], axis=1)[:, 0]
    share = np.where(inner, (y - left) / np.where(right > left, right - left, 1), draws)
    # One quantile touched exactly is a point of F, not an atom.
    touched = upto - under == 1
    result = low + share * (high - low)
    return np.where(touched, levels[np.minimum(under, len(levels) - 1)], result)


def pit_histogram(
    y: NDArray, q: NDArray, levels: NDArray, bins: int = 10, seed: int = 0
) -> NDArray[np.float64]:
    """Share of observed cells whose transform falls in each of ``bins`` equal bins (bins,)."""
    values = probability_integral_transform(y, q, levels, seed)
    counts = np.histogram(values, bins=bins, range=(0.0, 1.0))[0]
    return counts / _divisor(len(values), "number of observed cells")


def span_outcomes(y: NDArray, lead: int, cover: int) -> NDArray[np.float64]:
    """Sums ``y[t + lead + 1] + ... + y[t + lead + cover]`` (M,), NaN if one is unobserved.

    Raises:
        ParameterError: the outcomes (M, K) do not reach as far as the span.
    """
    if lead + cover > y.shape[1]:
        raise ParameterError(
            f"a span of {cover} periods after {lead} needs {lead + cover} periods of outcomes, "
            f"not {y.shape[1]}"
        )
    return np.asarray(y[:, lead : lead + cover], np.float64).sum(axis=1)


def span_loss(y: NDArray, q: NDArray, levels: NDArray, lead: int, cover: int) -> float:
    """WQL of span quantiles (M, Q) against the sums of outcomes ``y`` (M, K)."""
    return weighted_quantile_loss(span_outcomes(y, lead, cover)[:, None], q[:, None], levels)


def crossing_rate(q: NDArray) -> float:
    """Share of cells in which some quantile lies above the next one."""
    return float(np.mean(np.any(np.diff(q, axis=-1) < 0, axis=-1))) if q.shape[-1] > 1 else 0.0


def _scaled_cells(
    y: NDArray, forecast: NDArray, scales: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray]:
    """Observed cells of the series that have a positive scale, and each cell's scale."""
    usable = np.isfinite(scales) & (scales > 0)
    y, forecast = np.asarray(y, np.float64)[usable], np.asarray(forecast)[usable]
    factors = np.broadcast_to(scales[usable][:, None], y.shape)[~np.isnan(y)]
    return *_observed(y, forecast), factors


def _observed(y: NDArray, forecast: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Observed cells (n,) and their forecasts (n,) or (n, Q)."""
    y, forecast = np.asarray(y, np.float64), np.asarray(forecast)
    if forecast.shape[: y.ndim] != y.shape:
        raise ParameterError(f"outcomes have shape {y.shape}, forecasts {forecast.shape}")
    seen = ~np.isnan(y)
    values = forecast[seen].astype(np.float64)
    if not np.isfinite(values).all():
        missing = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        place = tuple(int(i) for i in np.argwhere(seen)[missing.argmax()])
        raise ParameterError(
            f"{int(missing.sum())} forecasts of observed outcomes are not finite, "
            f"the first at (row, period) {place}"
        )
    return y[seen], values


def _divisor(value: float, name: str) -> float:
    if value == 0:
        warnings.warn(f"{name} is zero: the score is undefined", stacklevel=3)
        return float("nan")
    return float(value)
