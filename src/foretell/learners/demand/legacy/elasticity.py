"""The price add-on: constant price elasticity of each item, shrunk to its group's."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.errors import ParameterError


class PriceElasticity(BaseEstimator):
    """``log y = a_i + log season + e_i log(p / p_ref) + g_i feature + u``, item by item.

    ``p_ref`` is the median price of the ``window`` periods before the origin or observation. The
    least-squares slope and its variance ``(e_hat_i, v_i)`` of each item are shrunk to its group
    by empirical Bayes: ``e_i = (e_hat_i / v_i + e_g / tau_g^2) / (1 / v_i + 1 / tau_g^2)`` with
    ``tau_g^2`` by the method of moments (DerSimonian & Laird 1986).

    Args:
        column: the known covariate with the (planned) price.
        feature: a known covariate with the share of feature advertising, or ``None``.
        window: periods of the reference price.
        nonpositive: cut elasticities at zero: dearer never sells more.
        extrapolate: planned prices beyond ``(low, high)`` times the lowest and highest price
            seen are flagged, and their effect is that of the bound.
    """

    def __init__(
        self,
        column: str = "price",
        *,
        feature: str | None = None,
        window: int = 26,
        nonpositive: bool = True,
        extrapolate: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        self.column = column
        self.feature = feature
        self.window = window
        self.nonpositive = nonpositive
        self.extrapolate = extrapolate

    def fit(
        self,
        sales: NDArray,
        price: NDArray,
        groups: NDArray[np.int64],
        feature: NDArray | None = None,
    ) -> Self:
        """Estimates the elasticities.

        Args:
            sales: (N, T) uncensored sales with season and events divided out, NaN unknown.
            price: (N, T) prices; missing, zero and negative ones are dropped and counted.
            groups: (N,) group codes.
            feature: (N, T) feature advertising or ``None``.
        """
        low, high = self.extrapolate
        if self.window < 1 or not 0 < low <= 1 <= high:
            raise ParameterError("PriceElasticity needs window >= 1 and low <= 1 <= high")
        valid = np.isfinite(price) & (price > 0)
        self.dropped_ = int((np.isfinite(sales) & ~valid).sum())
        clean = np.where(valid, price, np.nan)
        reference = trailing_median(clean, self.window)
        ratio = np.log(clean / reference)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_sales = np.where(sales > 0, np.log(np.where(sales > 0, sales, 1.0)), np.nan)
        use = np.isfinite(log_sales) & np.isfinite(ratio)
        slope, variance, gamma = _least_squares(log_sales, ratio, feature, use)
        self.slope_, self.variance_ = slope, variance
        self.groups_ = int(groups.max(initial=0)) + 1
        self.group_slope_, self.group_spread_ = _group_moments(
            slope, variance, groups, self.groups_
        )
        centre, spread = self.group_slope_[groups], self.group_spread_[groups]
        self.elasticity_ = shrink(slope, variance, centre, spread)
        if self.nonpositive:
            self.elasticity_ = np.minimum(self.elasticity_, 0.0)
            self.group_slope_ = np.minimum(self.group_slope_, 0.0)
        self.feature_effect_ = gamma
        self.feature_parent_ = float(np.nanmedian(gamma)) if np.isfinite(gamma).any() else 0.0
        with np.errstate(all="ignore"):
            self.seen_ = np.stack(
                [
                    np.where(valid, price, np.inf).min(axis=1, initial=np.inf),
                    np.where(valid, price, -np.inf).max(axis=1, initial=-np.inf),
                ],
                axis=1,
            )
        return self

    def factor(
        self,
        price: NDArray,
        start: int,
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        feature: NDArray | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Price effect (B, L) and whether a planned price lies too far outside (B, L).

        Args:
            price: (B, L) prices of past and future.
            start: column of the first planned price: later references use no later price.
            rows: (B,) position of each series in the fit, -1 for one that was not there.
            groups: (B,) group codes.
            feature: (B, L) feature advertising or ``None``.
        """
        known = rows >= 0
        own = np.where(known, rows, 0)
        groups = np.where((groups >= 0) & (groups < self.groups_), groups, 0)
        slope = self.group_slope_[groups]
        gamma = np.full(len(rows), self.feature_parent_)
        if len(self.elasticity_):
            slope = np.where(known, self.elasticity_[own], slope)
            fitted = self.feature_effect_[own]
            gamma = np.where(known & np.isfinite(fitted), fitted, gamma)
        clean = np.where(np.isfinite(price) & (price > 0), price, np.nan)
        past = np.concatenate([clean[:, :start], np.full_like(clean[:, start:], np.nan)], axis=1)
        reference = trailing_median(past, self.window)
        if start < price.shape[1]:
            last = _median_of_last(clean[:, :start], self.window)
            reference[:, start:] = last[:, None]
        with np.errstate(all="ignore"):
            seen = np.stack(
                [
                    np.nanmin(np.where(np.isfinite(past), past, np.inf), axis=1, initial=np.inf),
                    np.nanmax(np.where(np.isfinite(past), past, -np.inf), axis=1, initial=-np.inf),
                ],
                axis=1,
            )
        low = self.extrapolate[0] * seen[:, :1]
        high = self.extrapolate[1] * seen[:, 1:]
        bounded = np.isfinite(low) & np.isfinite(high)
        outside = bounded & np.isfinite(clean) & ((clean < low) | (clean > high))
        outside[:, :start] = False
        held = np.where(bounded, np.clip(clean, low, high), clean)
        effect = slope[:, None] * np.log(held / reference)
        if feature is not None:
            effect = effect + gamma[:, None] * np.nan_to_num(feature)
        return np.exp(np.nan_to_num(effect)), outside

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """What was learned, as JSON values and arrays."""
        names = (
            "slope",
            "variance",
            "elasticity",
            "group_slope",
            "group_spread",
            "feature_effect",
            "seen",
        )
        return (
            {"dropped": self.dropped_, "parent": self.feature_parent_, "groups": self.groups_},
            {name: getattr(self, f"{name}_") for name in names},
        )

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        self.dropped_, self.groups_ = int(state["dropped"]), int(state["groups"])
        self.feature_parent_ = float(state["parent"])
        for name, values in arrays.items():
            setattr(self, f"{name}_", values)
        return self


def shrink(slope: NDArray, variance: NDArray, centre: NDArray, spread: NDArray) -> NDArray:
    """Posterior mean of normal slopes ``(slope, variance)`` under a prior ``(centre, spread)``.

    Items without an estimate (NaN) get the centre; so do all where the spread is zero.
    """
    known = np.isfinite(slope) & np.isfinite(variance) & (variance > 0)
    safe = np.where(known, variance, 1.0)
    weight = np.where(known, spread / (spread + safe), 0.0)
    return centre + weight * (np.where(known, slope, centre) - centre)


def log_log_regression(
    sales: NDArray, price: NDArray, groups: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Least squares of ``log sales`` on ``log price`` and group dummies.

    Args:
        sales: (R,) positive.
        price: (R,) positive.
        groups: (R,) codes 0..G - 1; group 0 is the base.

    Returns:
        (1 + G,): slope, intercept of group 0, and the other groups' differences from it.
    """
    y, x = np.log(np.asarray(sales, np.float64)), np.log(np.asarray(price, np.float64))
    columns = [x, np.ones_like(x)]
    if groups is not None:
        columns += [(groups == g).astype(np.float64) for g in range(1, int(groups.max()) + 1)]
    return np.linalg.lstsq(np.stack(columns, axis=1), y, rcond=None)[0]


def trailing_median(values: NDArray, window: int) -> NDArray[np.float64]:
    """Median of the ``window`` values before each column, its own one where none is earlier."""
    n, width = values.shape
    result = np.full((n, width), np.nan)
    padded = np.concatenate([np.full((n, window), np.nan), values], axis=1)
    for start in range(0, n, max(1, 4_000_000 // max(1, width * window))):
        part = slice(start, start + max(1, 4_000_000 // max(1, width * window)))
        views = np.lib.stride_tricks.sliding_window_view(padded[part, :-1], window, axis=1)
        result[part] = _nanmedian(views)
    return np.where(np.isfinite(result), result, values)


def _median_of_last(values: NDArray, window: int) -> NDArray[np.float64]:
    return _nanmedian(values[:, -window:]) if values.shape[1] else np.full(len(values), np.nan)


def _nanmedian(values: NDArray) -> NDArray[np.float64]:
    """Median along the last axis of the finite values, NaN without one; faster than numpy's."""
    ordered = np.sort(values, axis=-1)  # NaN last
    number = np.isfinite(ordered).sum(axis=-1)
    lower = np.maximum((number - 1) // 2, 0)[..., None]
    upper = np.minimum(number // 2, ordered.shape[-1] - 1)[..., None]
    middle = np.take_along_axis(ordered, lower, -1) + np.take_along_axis(ordered, upper, -1)
    return np.where(number > 0, middle[..., 0] / 2, np.nan)


def _least_squares(
    y: NDArray, x: NDArray, feature: NDArray | None, use: NDArray[np.bool_]
) -> tuple[NDArray, NDArray, NDArray]:
    """Slope on x, its variance, and the slope on the feature, of each row."""
    number = use.sum(axis=1)
    safe = np.maximum(number, 1)

    def centred(values: NDArray) -> NDArray:
        kept = np.where(use, values, 0.0)
        return np.where(use, kept - (kept.sum(axis=1) / safe)[:, None], 0.0)

    y, x = centred(np.nan_to_num(y)), centred(np.nan_to_num(x))
    sxx, sxy = (x * x).sum(axis=1), (x * y).sum(axis=1)
    gamma = np.full(len(y), np.nan)
    parameters = np.full(len(y), 2)
    if feature is not None:
        z = centred(np.nan_to_num(feature))
        szz, sxz, szy = (z * z).sum(axis=1), (x * z).sum(axis=1), (z * y).sum(axis=1)
        varies = szz > 1e-9
        shared = np.where(varies, sxz / np.where(varies, szz, 1.0), 0.0)
        sxx = sxx - shared * sxz
        sxy = sxy - shared * szy
        parameters = parameters + varies
    varied = (sxx > 1e-6) & (number > parameters)
    slope = np.where(varied, sxy / np.where(varied, sxx, 1.0), np.nan)
    residual = y - np.nan_to_num(slope)[:, None] * x
    if feature is not None:
        rest = np.where(varies, szy - np.nan_to_num(slope) * sxz, 0.0)
        effect = rest / np.where(varies, szz, 1.0)
        gamma = np.where(varies, effect, np.nan)
        residual = residual - effect[:, None] * z
    noise = (residual**2).sum(axis=1) / np.maximum(number - parameters, 1)
    variance = np.where(varied, noise / np.where(varied, sxx, 1.0), np.nan)
    return slope, np.maximum(variance, 1e-10), gamma


def _group_moments(
    slope: NDArray, variance: NDArray, groups: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and between-item variance of each group; groups of fewer than 5 take everybody's."""
    known = np.isfinite(slope) & np.isfinite(variance)
    overall = _moments(slope[known], variance[known])
    means, spreads = np.full(count, overall[0]), np.full(count, overall[1])
    for g in range(1, count):
        inside = known & (groups == g)
        if inside.sum() >= 5:
            means[g], spreads[g] = _moments(slope[inside], variance[inside])
    return means, spreads


def _moments(slope: NDArray, variance: NDArray) -> tuple[float, float]:
    if not len(slope):
        return 0.0, 0.0
    weight = 1 / variance
    total = weight.sum()
    fixed = float((weight * slope).sum() / total)
    if len(slope) == 1:
        return fixed, 0.0
    q = float((weight * (slope - fixed) ** 2).sum())
    spread = (q - (len(slope) - 1)) / (total - (weight**2).sum() / total)
    spread = max(0.0, float(spread))
    weight = 1 / (variance + spread)
    return float((weight * slope).sum() / weight.sum()), spread
