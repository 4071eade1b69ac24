"""The Distribution Engine: from any forecaster's past errors to quantiles of its next forecasts.

Inputs are arrays only, so that it stands behind every forecaster: point forecasts ``(M, K)``, or
quantile forecasts ``(M, K, Q)`` in the conformalised mode (Romano, Patterson & Candes 2019,
"Conformalized Quantile Regression", one-sided variant). Errors must come from rolling-origin
forecasts, never from fitted values: those are too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import BaseEstimator

from foretell.errors import NotFittedError, ParameterError
from foretell.learners.demand.forecast import check_levels
from foretell.learners.demand.legacy.error_cells import ErrorCells, weighted_quantiles

Method = Literal["empirical", "gamma", "negative_binomial", "cqr"]
METHODS = ("empirical", "gamma", "negative_binomial", "cqr")

TAUS = np.r_[0.001, 0.0025, 0.005, np.arange(1, 100) / 100, 0.995, 0.9975, 0.999]
"""Levels at which error quantiles are kept; others are interpolated between them."""

MEDIAN = int(np.argmin(np.abs(TAUS - 0.5)))


class DistributionEngine(BaseEstimator):
    """Quantiles around forecasts from standardised past errors ``r = (y - f) / s``.

    ``s = max(f, level, floor) ** kappa``. The quantiles of ``r`` are taken in cells (group and
    horizon bucket), with exponential time decay and the finite-sample rank
    ``ceil((n + 1) tau)``, and shrunk to the parent cell: ``(n Q + lam Q_parent) / (n + lam)``.

    Args:
        method: ``"empirical"``; ``"gamma"`` and ``"negative_binomial"`` with mean ``f`` and
            variance ``phi s ** 2``; ``"cqr"`` corrects forecasts that are quantiles already.
        lam: number of errors that the parent cell counts for.
        kappa: power of the level in the size of errors; ``None`` regresses ``log |error|`` on
            ``log level`` and clips to [0.5, 1].
        horizon_edges: last horizon of every bucket but the last one.
        half_life: age in periods at which an error counts half; ``None`` for no decay.
        min_bucket: a group level is split into horizon buckets only where its cells hold this
            many errors on average after the split.
        symmetric: ``"cqr"`` only: widen each pair of levels ``a, 1 - a`` by the ``1 - 2a``
            quantile of ``max(lo - y, y - hi)`` instead of correcting each level by itself.
        nonnegative: clip the result at zero, as demand is.
    """

    def __init__(
        self,
        method: Method = "empirical",
        *,
        lam: float = 60.0,
        kappa: float | None = None,
        horizon_edges: Sequence[int] = (4, 13, 26),
        half_life: float | None = None,
        min_bucket: int = 200,
        symmetric: bool = False,
        nonnegative: bool = True,
    ) -> None:
        self.method = method
        self.lam = lam
        self.kappa = kappa
        self.horizon_edges = horizon_edges
        self.half_life = half_life
        self.min_bucket = min_bucket
        self.symmetric = symmetric
        self.nonnegative = nonnegative

    def fit(
        self,
        forecast: ArrayLike,
        actual: ArrayLike,
        *,
        groups: Sequence[ArrayLike] = (),
        level: ArrayLike | None = None,
        age: ArrayLike | None = None,
        cutoffs: ArrayLike | None = None,
        levels: Sequence[float] | None = None,
    ) -> Self:
        """Learns the distribution of errors.

        Args:
            forecast: (M, K) points, or (M, K, Q) quantiles for ``"cqr"``; NaN rows are left out.
            actual: (M, K) outcomes, NaN where nothing was observed.
            groups: code arrays (M,) of non-negative whole numbers, the coarsest first; each is
                the parent of the next. Negative codes fall back to the parent.
            level: (M,) local level of the series at the origin, units per period; the mean
                absolute forecast when ``None``.
            age: (M,) periods between the origin and now, for ``half_life``.
            cutoffs: (M,) period number of each origin. With it, errors of several origins about
                the same period of the same series count as one in ``n``.
            levels: (Q,) the levels of quantile forecasts, for ``"cqr"``.

        Raises:
            ParameterError: shapes do not fit, a parameter is out of range, or there is no error.
        """
        self._check()
        y = np.asarray(actual, np.float64)
        f = np.asarray(forecast, np.float64)
        point = self._points(f, y, levels)
        m, k = y.shape
        codes = [self._codes(g, m) for g in groups]
        local = self._level(point, level, m)
        self.levels_ = np.zeros(0) if levels is None else check_levels(levels)
        usable = np.isfinite(y) & np.isfinite(point)
        if not usable.any():
            raise ParameterError(
                "the distribution engine has no error to learn from: no outcome is observed where "
                "there is a forecast; give earlier origins"
            )
        base = np.maximum(point, local[:, None])
        positive = base[usable & (base > 0)]
        self.floor_ = float(np.quantile(positive, 0.05)) if positive.size else 1.0
        base = np.maximum(base, self.floor_)
        self.kappa_ = self._kappa(np.abs(y - point)[usable], base[usable])
        scale = base**self.kappa_

        row, column = np.nonzero(usable)
        weight = np.ones(len(row))
        if self.half_life is not None:
            if age is None:
                raise ParameterError("half_life needs the age of each origin: pass age=")
            ages = np.asarray(age, np.float64)[row] - (column + 1)
            weight = 0.5 ** (np.maximum(ages, 0) / self.half_life)
        bucket = self._buckets(k)[column]
        finest = codes[-1][row] if codes else row
        overlap = 1.0
        if cutoffs is not None:
            target = np.asarray(cutoffs, np.int64)[row] + column
            target -= target.min()
            # A part of the series is enough to see how often periods repeat.
            own = (finest >= 0) & (finest < np.quantile(finest, min(1.0, 5e5 / len(row))) + 1)
            distinct = len(np.unique(finest[own] * (int(target.max()) + 1) + target[own]))
            overlap = max(1.0, own.sum() / max(distinct, 1))
        # One family of cells an error kind: the errors themselves, or one a level for cqr.
        kinds = self._errors(f, y, point, scale, usable)
        groups_of_errors = [c[row] for c in codes]
        del f, y, point, scale, base, usable, row, column, finest
        self.cells_ = ErrorCells(float(self.lam), self.min_bucket).fit(
            kinds,
            self._ranks(),
            weight,
            bucket,
            len(self.horizon_edges) + 1,
            groups_of_errors,
            overlap=overlap,
            moments=self.method in ("gamma", "negative_binomial"),
        )
        return self

    def apply(
        self,
        forecast: ArrayLike,
        quantiles: Sequence[float] | None = None,
        *,
        groups: Sequence[ArrayLike] = (),
        level: ArrayLike | None = None,
        bias: ArrayLike = 1.0,
    ) -> NDArray[np.float32]:
        """Quantiles (M, K, Q) around forecasts, non-decreasing along Q.

        Args:
            forecast: (M, K) points, or (M, K, Q) quantiles at the levels of the fit for ``"cqr"``.
            quantiles: (Q,) levels; for ``"cqr"`` those of the fit.
            groups: codes as in :meth:`fit`, as many arrays; unknown codes use the parent.
            level: as in :meth:`fit`.
            bias: ``"empirical"`` only: share of the errors' median that is kept, one number or
                (M,). 1 corrects the forecast by its past bias; 0 leaves the forecast as the
                median, which is better where biases do not last.
        """
        if not hasattr(self, "cells_"):
            raise NotFittedError("the distribution engine is not fitted: call fit(...) first")
        f = np.asarray(forecast, np.float64)
        m, k = f.shape[:2]
        if self.method == "cqr":
            if f.ndim != 3 or f.shape[2] != len(self.levels_):
                raise ParameterError(
                    f"cqr needs quantile forecasts (M, K, {len(self.levels_)}), not {f.shape}"
                )
            taus = self.levels_
            point = self._median(f)
        else:
            if f.ndim != 2:
                raise ParameterError(f"point forecasts must be (M, K), not {f.shape}")
            taus = check_levels(np.arange(1, 10) / 10 if quantiles is None else quantiles)
            point = f
        codes = [self._codes(g, m) for g in groups]
        if len(codes) != len(self.cells_.depths_) - 2:
            raise ParameterError(
                f"the engine was fitted with {len(self.cells_.depths_) - 2} group levels, "
                f"not {len(codes)}"
            )
        local = self._level(point, level, m)
        scale = np.maximum(np.maximum(point, local[:, None]), self.floor_) ** self.kappa_
        buckets = self._buckets(k)
        result = np.empty((m, k, len(taus)), np.float32)
        for b in np.unique(buckets):
            columns = np.flatnonzero(buckets == b)
            table = self.cells_.lookup(codes, int(b), m)  # (M, E) or (M, L, E)
            if self.method == "empirical":
                median = table[:, MEDIAN : MEDIAN + 1]
                kept = np.asarray(bias, np.float32).reshape(-1, 1)
                table = np.asarray(table - (1 - kept) * median, np.float32)
            part = slice(columns[0], columns[-1] + 1)
            result[:, part] = self._spread(f[:, part], scale[:, part], table, taus)
        if self.nonnegative:
            np.maximum(result, 0, out=result)
        return np.sort(result, axis=-1)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """What was learned, as JSON values and arrays."""
        cells, arrays = self.cells_.state()
        arrays["levels"] = self.levels_
        return {"kappa": self.kappa_, "floor": self.floor_, "cells": cells}, arrays

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        self.kappa_, self.floor_ = float(state["kappa"]), float(state["floor"])
        self.levels_ = np.asarray(arrays["levels"], np.float64)
        self.cells_ = ErrorCells(float(self.lam), self.min_bucket).restore(state["cells"], arrays)
        return self

    def _check(self) -> None:
        if self.method not in METHODS:
            raise ParameterError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.lam < 0:
            raise ParameterError(f"lam must not be negative, not {self.lam}")
        if self.half_life is not None and self.half_life <= 0:
            raise ParameterError(f"half_life must be positive, not {self.half_life}")
        if list(self.horizon_edges) != sorted(set(self.horizon_edges)):
            raise ParameterError(f"horizon_edges must ascend, not {self.horizon_edges}")

    def _points(self, f: NDArray, y: NDArray, levels: Sequence[float] | None) -> NDArray:
        if self.method == "cqr":
            if levels is None:
                raise ParameterError("cqr needs the levels of the quantile forecasts: pass levels=")
            self.levels_ = check_levels(levels)
            if f.shape != (*y.shape, len(self.levels_)):
                raise ParameterError(
                    f"quantile forecasts must be {(*y.shape, len(self.levels_))}, not {f.shape}"
                )
            return self._median(f)
        if f.shape != y.shape or f.ndim != 2:
            raise ParameterError(f"forecasts {f.shape} and outcomes {y.shape} must both be (M, K)")
        return f

    def _median(self, f: NDArray) -> NDArray:
        return f[..., int(np.argmin(np.abs(self.levels_ - 0.5)))]

    def _level(self, point: NDArray, level: ArrayLike | None, m: int) -> NDArray[np.float64]:
        if level is None:
            seen = np.isfinite(point)
            total = np.where(seen, np.abs(point), 0).sum(axis=1)
            return total / np.maximum(seen.sum(axis=1), 1)
        values = np.asarray(level, np.float64)
        if values.shape != (m,):
            raise ParameterError(f"level must be ({m},), not {values.shape}")
        return np.nan_to_num(values, nan=0.0)

    @staticmethod
    def _codes(codes: ArrayLike, m: int) -> NDArray[np.int64]:
        values = np.asarray(codes, np.int64)
        if values.shape != (m,):
            raise ParameterError(f"group codes must be ({m},), not {values.shape}")
        return values

    def _kappa(self, errors: NDArray, base: NDArray) -> float:
        if self.kappa is not None:
            return float(self.kappa)
        keep = errors > 0
        if keep.sum() < 30:
            return 1.0
        x, e = np.log(base[keep]), np.log(errors[keep])
        spread = x.var()
        slope = float(np.mean((x - x.mean()) * (e - e.mean())) / spread) if spread > 1e-8 else 1.0
        return float(np.clip(slope, 0.5, 1.0))

    def _buckets(self, k: int) -> NDArray[np.int64]:
        return np.searchsorted(np.asarray(self.horizon_edges, np.int64), np.arange(1, k + 1))

    def _errors(
        self, f: NDArray, y: NDArray, point: NDArray, scale: NDArray, usable: NDArray
    ) -> list[NDArray]:
        """Standardised errors (R,), one array a kind; see :meth:`_ranks`."""
        if self.method != "cqr":
            return [((y - point) / scale)[usable]]
        if not self.symmetric:
            return [((y - f[..., j]) / scale)[usable] for j in range(len(self.levels_))]
        kinds = []
        for j, other in self._pairs():
            low, high = f[..., min(j, other)], f[..., max(j, other)]
            kinds.append((np.maximum(low - y, y - high) / scale)[usable])
        return kinds

    def _ranks(self) -> list[NDArray[np.float64]]:
        """The levels at which each kind of error is kept."""
        if self.method != "cqr":
            return [TAUS]
        if not self.symmetric:
            return [np.array([tau]) for tau in self.levels_]
        return [
            np.array([abs(1 - 2 * self.levels_[j])]) if j != other else np.array([0.5])
            for j, other in self._pairs()
        ]

    def _pairs(self) -> list[tuple[int, int]]:
        pairs = []
        for j, tau in enumerate(self.levels_):
            other = int(np.argmin(np.abs(self.levels_ - (1 - tau))))
            if abs(self.levels_[other] - (1 - tau)) > 1e-9:
                raise ParameterError(f"symmetric cqr needs level {1 - tau:g} beside {tau:g}")
            pairs.append((j, other))
        return pairs

    def _spread(
        self, f: NDArray, scale: NDArray, table: NDArray, taus: NDArray[np.float64]
    ) -> NDArray:
        if self.method == "empirical":
            errors = interpolate_rows(table, TAUS, taus)  # (M, Q)
            return f[..., None] + scale[..., None] * errors[:, None, :]
        if self.method == "cqr":
            if not self.symmetric:
                return f + scale[..., None] * table[:, None, :]
            sign = np.sign(self.levels_ - 0.5)
            sign[np.abs(sign) < 1e-9] = 0
            return f + scale[..., None] * (sign * table)[:, None, :]
        mean = np.maximum(f, 0)[..., None]
        variance = table[:, None, :1] * scale[..., None] ** 2
        safe = np.maximum(mean, 1e-9)
        if self.method == "gamma":
            variance = np.maximum(variance, 1e-12 * safe**2)
            values = stats.gamma.ppf(taus, safe**2 / variance, scale=variance / safe)
        else:
            variance = np.maximum(variance, safe * (1 + 1e-6))
            values = stats.nbinom.ppf(taus, safe**2 / (variance - safe), safe / variance)
        return np.where(mean > 0, values, 0.0)


def interpolate_rows(
    table: NDArray, grid: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Linear interpolation along the rows of (M, G) at the same points (L,): (M, L)."""
    upper = np.clip(np.searchsorted(grid, wanted), 1, len(grid) - 1)
    share = np.clip((wanted - grid[upper - 1]) / (grid[upper] - grid[upper - 1]), 0, 1)
    return table[:, upper - 1] * (1 - share) + table[:, upper] * share


__all__ = ["METHODS", "TAUS", "DistributionEngine", "interpolate_rows", "weighted_quantiles"]
