"""Whether probabilities mean what they say, and whether acting on them helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from foretell.errors import DataError, ParameterError
from foretell.evaluation.bootstrap import Interval, cluster_bootstrap
from foretell.evaluation.clinical.checks import binary, row_values


@dataclass(frozen=True, eq=False)
class Calibration:
    """How probabilities agree with what happened.

    Args:
        table: one row a bin: ``n``, ``mean_probability``, ``rate``.
        error: expected calibration error, the mean distance of both, with its interval.
        intercept: of the logistic recalibration at slope 1: above 0, risks are underestimated.
        slope: of the logistic recalibration: below 1, risks are too extreme.
        intercept_interval: of the intercept; NaN where one class is missing.
        slope_interval: of the slope; NaN where one class is missing or all risks are alike.
    """

    table: pl.DataFrame
    error: Interval
    intercept: float
    slope: float
    intercept_interval: Interval
    slope_interval: Interval


def calibration(
    probabilities: ArrayLike,
    label: ArrayLike,
    patients: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    bins: int = 10,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Calibration in bins of equal size, and by logistic recalibration.

    Cox, Two further applications of a model for binary regression, Biometrika 45, 1958. Of
    intercept and slope each resample is one Newton step away from the estimates.

    Args:
        probabilities: (R,) in [0, 1].
        label: (R,) 0 or 1.
        patients: (R,) whom each row belongs to: they are resampled.
        rows: (R,) mask of the rows that count.
        bins: quantile bins; ties are never parted, so there may be fewer.
        resamples: of the bootstrap.
        confidence: of the interval.
        seed: of the bootstrap.

    Raises:
        DataError: sizes do not fit, a probability is outside [0, 1], or no row counts.
    """
    if bins < 1:
        raise ParameterError(f"bins must be at least 1, not {bins}")
    p, y, owner = _checked(probabilities, label, patients, rows)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, p, side="left")
    used, place = np.unique(place, return_inverse=True)
    size, parts = int(owner.max()) + 1, len(used)
    sums = np.concatenate(
        [
            np.bincount(owner * parts + place, weights, minlength=size * parts).reshape(size, parts)
            for weights in (np.ones(len(p)), p, y.astype(np.float64))
        ],
        axis=1,
    )

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        gap = np.abs(total[:, parts : 2 * parts] - total[:, 2 * parts :])
        return gap.sum(axis=1) / total[:, :parts].sum(axis=1)

    error = cluster_bootstrap(
        sums, statistic, resamples=resamples, confidence=confidence, seed=seed
    )
    n, mean, rate = np.split(sums.sum(axis=0), 3)
    table = pl.DataFrame({"n": n.astype(np.int64), "mean_probability": mean / n, "rate": rate / n})
    again = {"resamples": resamples, "confidence": confidence, "seed": seed}
    intercept, slope = _recalibration(p, y, owner, again)
    return Calibration(
        table, error, float(intercept.estimate), float(slope.estimate), intercept, slope
    )


def decision_curve(
    probabilities: ArrayLike,
    label: ArrayLike,
    patients: ArrayLike,
    thresholds: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pl.DataFrame:
    """Net benefit of acting at a threshold, beside acting on all and on none (0).

    ``TP / n - FP / n * t / (1 - t)``: a false alarm weighs what the threshold t says it weighs.
    Vickers and Elkin, Decision curve analysis, Medical Decision Making 26(6), 2006, equation 2.

    Args:
        probabilities: (R,) in [0, 1].
        label: (R,) 0 or 1.
        patients: (R,) whom each row belongs to: they are resampled.
        thresholds: (K,) inside (0, 1).
        rows: (R,) mask of the rows that count.
        resamples: of the bootstrap.
        confidence: of the intervals.
        seed: of the bootstrap.

    Returns:
        ``threshold``, ``net_benefit``, ``lower``, ``upper``, ``all`` and ``gain``, the net benefit
        over the better of acting on all and on none.

    Raises:
        DataError: sizes do not fit, a probability is outside [0, 1], or no row counts.
        ParameterError: a threshold is not inside (0, 1).
    """
    levels = np.atleast_1d(np.asarray(thresholds, np.float64))
    if not len(levels) or not ((levels > 0) & (levels < 1)).all():
        raise ParameterError("thresholds must be inside (0, 1)")
    p, y, owner = _checked(probabilities, label, patients, rows)
    size, count = int(owner.max()) + 1, len(levels)
    odds = levels / (1 - levels)
    columns = [np.bincount(owner, minlength=size), np.bincount(owner, y, minlength=size)]
    for level in levels:
        acted = p >= level
        columns.append(np.bincount(owner, acted & y, minlength=size))
        columns.append(np.bincount(owner, acted & ~y, minlength=size))
    sums = np.stack(columns, axis=1).astype(np.float64)

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        n, positive = total[:, :1], total[:, 1:2]
        mine = (total[:, 2::2] - total[:, 3::2] * odds) / n
        everybody = (positive - (n - positive) * odds) / n
        return np.concatenate([mine, everybody, mine - np.maximum(everybody, 0)], axis=1)

    found = cluster_bootstrap(
        sums, statistic, resamples=resamples, confidence=confidence, seed=seed
    )
    return pl.DataFrame(
        {
            "threshold": levels,
            "net_benefit": found.estimate[:count],
            "lower": found.lower[:count],
            "upper": found.upper[:count],
            "all": found.estimate[count : 2 * count],
            "gain": found.estimate[2 * count :],
        }
    )


def _checked(
    probabilities: ArrayLike, label: ArrayLike, patients: ArrayLike, rows: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    size = len(np.asarray(label))
    wanted = np.ones(size, bool) if rows is None else binary("rows", rows, size)
    if not wanted.any():
        raise DataError("no row counts", hint="Check the mask of rows")
    p = row_values("probability", probabilities, size, finite=False)[wanted].astype(np.float64)
    bad = ~((p >= 0) & (p <= 1))
    if bad.any():
        row = int(np.flatnonzero(wanted)[np.argmax(bad)])
        raise DataError(f"a probability is {p[bad][0]}, not within [0, 1]", row=row)
    y = binary("label", np.asarray(label)[wanted], len(p))
    owner = row_values("patients", patients, size, finite=False)[wanted]
    if owner.dtype == object:
        owner = owner.astype(str)
    return p, y, np.unique(owner, return_inverse=True)[1].astype(np.int64)


def _recalibration(
    p: NDArray[np.float64],
    y: NDArray[np.bool_],
    owner: NDArray[np.int64],
    again: Mapping[str, Any],
) -> tuple[Interval, Interval]:
    """Intercept at slope 1, and slope, by Newton's method; NaN where one class is missing."""
    none = Interval(np.array(np.nan), np.array(np.nan), np.array(np.nan))
    if y.all() or not y.any():
        return none, none
    # Probabilities of exactly 0 or 1 have no finite logit.
    z = logit(np.clip(p, 1e-9, 1 - 1e-9))
    one = np.ones((len(z), 1))
    alone = _resampled(one, z, y, owner, again, 0)
    if not np.ptp(z) > 0:
        return alone, none
    return alone, _resampled(np.concatenate([one, z[:, None]], axis=1), None, y, owner, again, 1)


def _resampled(
    X: NDArray[np.float64],
    offset: NDArray[np.float64] | None,
    y: NDArray[np.bool_],
    owner: NDArray[np.int64],
    again: Mapping[str, Any],
    which: int,
) -> Interval:
    """A coefficient with its interval over patients."""
    beta = _newton(X, offset, y)
    mean = expit(X @ beta + (0.0 if offset is None else offset))
    size, columns = int(owner.max()) + 1, X.shape[1]
    parts = [X[:, i] * (y - mean) for i in range(columns)]
    weight = mean * (1 - mean)
    parts += [X[:, i] * X[:, j] * weight for i in range(columns) for j in range(columns)]
    sums = np.stack([np.bincount(owner, part, minlength=size) for part in parts], axis=1)

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        score, information = total[:, :columns], total[:, columns:]
        matrix = information.reshape(-1, columns, columns)
        # A resample without anybody at risk in between tells nothing.
        usable = np.abs(np.linalg.det(matrix)) > 1e-12 * np.abs(matrix).max(axis=(1, 2)) ** columns
        safe = np.where(usable[:, None, None], matrix, np.eye(columns))
        step = np.linalg.solve(safe, score[:, :, None])[:, which, 0]
        return np.where(usable, beta[which] + step, np.nan)

    return cluster_bootstrap(sums, statistic, **again)


def _newton(
    X: NDArray[np.float64], offset: NDArray[np.float64] | None, y: NDArray[np.bool_]
) -> NDArray[np.float64]:
    shift = np.zeros(len(X)) if offset is None else offset
    beta = np.zeros(X.shape[1])
    for _ in range(100):
        mean = expit(X @ beta + shift)
        weight = np.maximum(mean * (1 - mean), 1e-12)
        step = np.linalg.solve(X.T @ (X * weight[:, None]), X.T @ (y - mean))
        # Far from the optimum a full step may overshoot.
        beta += step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-10:
            break
    return beta
