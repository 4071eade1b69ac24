"""What a panel may show: a Gaussian of all features, given those that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.modelled import ModelledDonors, finite, normals
from foretell.errors import ParameterError


class GaussianDonors(ModelledDonors):
    """Draws a panel's values from a Gaussian given the features that are known.

    Mean and covariance of the standardised features are those of largest posterior density given
    all values that were seen, by EM over the patterns of missing values (Little and Rubin 2019,
    section 11.2.1) under ``prior`` patients whose features are independent: the covariance is
    positive definite with any data, and what was seldom seen together is taken for independent.

    The mean of the draws is exact, and so is their covariance where there are more than twice as
    many as features of the panel.

    Args:
        values: (N, F) training patients.
        seen: (N, F) bool, which values are there.
        size: draws for a patient.
        prior: weight of independence, in patients; F by default.
        iterations: of EM at most.
        tolerance: largest change of a standardised mean or covariance at which EM ends.

    Attributes:
        mean: (F,) of the standardised features.
        covariance: (F, F) of the standardised features.

    Raises:
        DataError: shapes do not fit, or a value that was seen is not finite.
        ParameterError: a number is out of range.
    """

    def __init__(
        self,
        values: ArrayLike,
        seen: ArrayLike,
        *,
        size: int = 24,
        prior: float | None = None,
        iterations: int = 100,
        tolerance: float = 1e-4,
    ) -> None:
        z, S = self._measure(values, seen, size)
        weight = float(z.shape[1]) if prior is None else prior
        if iterations < 1 or not (np.isfinite(weight) and weight > 0):
            raise ParameterError(
                f"1 iteration and a positive prior are needed, not {iterations} and {weight}"
            )
        if not tolerance > 0:
            raise ParameterError(f"tolerance must be positive, not {tolerance}")
        self.mean, self.covariance = _estimate(z, S, weight, iterations, tolerance)

    def _draws(
        self, z: NDArray[np.float64], given: NDArray[np.bool_], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        noise = normals(self.size, len(columns))
        out = np.empty((len(z), self.size, len(columns)))
        for mask, rows in _patterns(given):
            known = np.flatnonzero(mask)
            slopes, left = _conditional(self.covariance, known, columns)
            middle = self.mean[columns] + (z[np.ix_(rows, known)] - self.mean[known]) @ slopes
            out[rows] = middle[:, None] + noise @ np.linalg.cholesky(left).T
        return out

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        return {}, {"mean": self.mean, "covariance": self.covariance}

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        size = self.n_features
        self.mean = finite(arrays["mean"], (size,))
        self.covariance = finite(arrays["covariance"], (size, size))
        if not np.linalg.eigvalsh(self.covariance).min() > 0:
            raise ValueError("the covariance is not positive definite")


def _estimate(
    z: NDArray[np.float64],
    seen: NDArray[np.bool_],
    prior: float,
    iterations: int,
    tolerance: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (F,) and covariance (F, F) of standardised values (N, F)."""
    n, size = z.shape
    mean, covariance = np.zeros(size), np.eye(size)
    groups = list(_patterns(seen))
    for _ in range(iterations):
        filled, unknown = z.copy(), np.zeros((size, size))
        for mask, rows in groups:
            known, missing = np.flatnonzero(mask), np.flatnonzero(~mask)
            if not len(missing):
                continue
            slopes, left = _conditional(covariance, known, missing)
            filled[np.ix_(rows, missing)] = (
                mean[missing] + (z[np.ix_(rows, known)] - mean[known]) @ slopes
            )
            unknown[np.ix_(missing, missing)] += len(rows) * left
        new = filled.mean(0)
        around = filled - new
        spread = (around.T @ around + unknown + prior * np.eye(size)) / (n + prior)
        change = max(np.abs(new - mean).max(), np.abs(spread - covariance).max())
        mean, covariance = new, spread
        if change < tolerance:
            break
    return mean, covariance


def _patterns(seen: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Each mask (F,) that occurs, and the rows with it."""
    if not len(seen):
        return
    masks, which = np.unique(seen, axis=0, return_inverse=True)
    which = which.reshape(-1)
    ends = np.cumsum(np.bincount(which, minlength=len(masks)))
    yield from zip(masks, np.split(np.argsort(which, kind="stable"), ends[:-1]), strict=True)


def _conditional(
    covariance: NDArray[np.float64], known: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes (known, wanted) and covariance (wanted, wanted) of some features given others."""
    across = covariance[np.ix_(known, wanted)]
    slopes = np.linalg.solve(covariance[np.ix_(known, known)], across)
    left = covariance[np.ix_(wanted, wanted)] - across.T @ slopes
    return np.asarray(slopes, np.float64), (left + left.T) / 2
