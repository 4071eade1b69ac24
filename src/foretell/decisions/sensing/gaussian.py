"""What a panel may show: a Gaussian of all features, given those that are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from foretell.decisions.sensing.donors import centre_and_spread, checked_patients
from foretell.decisions.sensing.panels import Panel
from foretell.errors import DataError, ParameterError


class GaussianDonors:
    """Draws a panel's values from a Gaussian given the features that are known.

    Mean and covariance of the standardised features are those of largest posterior density given
    all values that were seen, by EM over the patterns of missing values (Little and Rubin 2019,
    section 11.2.1) under ``prior`` patients whose features are independent: the covariance is
    positive definite with any data, and what was seldom seen together is taken for independent.

    Draws are the same in each call: fixed quasi-random normals, scaled so that their mean, and
    where there are more than twice as many as features of the panel their covariance, is exact.
    They know no bounds: skewed features are better given as logarithms. A feature is shown if at
    least half of the training patients with the panel have it.

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
        X, S = checked_patients(values, seen)
        weight = float(X.shape[1]) if prior is None else prior
        if size < 2 or iterations < 1 or not (np.isfinite(weight) and weight > 0):
            raise ParameterError(
                f"at least 2 draws, 1 iteration and a positive prior are needed, "
                f"not {size}, {iterations} and {weight}"
            )
        if not tolerance > 0:
            raise ParameterError(f"tolerance must be positive, not {tolerance}")
        self.size = size
        self._centre, self._spread = centre_and_spread(X, S)
        self._seen = S
        self.mean, self.covariance = self._estimate(
            self._scaled(X, S), weight, iterations, tolerance
        )

    def draw(
        self, values: NDArray, seen: NDArray[np.bool_], panel: Panel
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values and masks (n, k, len(panel.features)) of the panel, k draws for each patient.

        What is known of the panel itself is not used: it is what a new result replaces.

        Raises:
            DataError: no training patient has the panel, or values that are known are not finite
                or not of the training patients' features.
        """
        columns = np.array(panel.features)
        shown = self._shown(panel)
        X, S = np.asarray(values, np.float64), np.asarray(seen, bool)
        if X.ndim != 2 or X.shape != S.shape or X.shape[1] != len(self.mean):
            raise DataError(
                f"values {X.shape} and seen {S.shape} must be of {len(self.mean)} features"
            )
        if not np.isfinite(X[S]).all():
            raise DataError("a value that is known is not finite")
        z, given = self._scaled(X, S), S.copy()
        given[:, columns] = False
        noise = _normals(self.size, len(columns))
        out = np.empty((len(X), self.size, len(columns)))
        for mask, rows in _patterns(given):
            known = np.flatnonzero(mask)
            slopes, left = _conditional(self.covariance, known, columns)
            middle = self.mean[columns] + (z[np.ix_(rows, known)] - self.mean[known]) @ slopes
            out[rows] = middle[:, None] + noise @ np.linalg.cholesky(left).T
        out = self._centre[columns] + out * self._spread[columns]
        return out, np.broadcast_to(shown, out.shape).copy()

    def _shown(self, panel: Panel) -> NDArray[np.bool_]:
        """(len(panel.features),) which of its features a panel shows."""
        mine = self._seen[:, list(panel.features)]
        mine = mine[mine.any(1)]
        if not len(mine):
            raise DataError(f"no training patient has panel {panel.name!r}")
        share = mine.mean(0)
        return np.asarray(share >= min(0.5, share.max()))

    def _scaled(self, X: NDArray, S: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.where(S, (np.where(S, X, 0.0) - self._centre) / self._spread, 0.0)

    def _estimate(
        self, z: NDArray[np.float64], prior: float, iterations: int, tolerance: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (F,) and covariance (F, F) of standardised values (N, F)."""
        n, size = z.shape
        mean, covariance = np.zeros(size), np.eye(size)
        groups = list(_patterns(self._seen))
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


def _normals(count: int, size: int) -> NDArray[np.float64]:
    """(count, size) standard normals of an additive recurrence, with exact moments if they can be.

    Steps are powers of the root of ``x^(size + 1) = x + 1``: the golden ratio in more dimensions.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (size + 1))
    steps = root ** -np.arange(1, size + 1)
    uniform = (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0
    normal = ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
    normal -= normal.mean(0)
    if count > 2 * size:
        lower = np.linalg.cholesky(normal.T @ normal / count)
        return np.asarray(np.linalg.solve(lower, normal.T).T)
    return np.asarray(normal / normal.std(0))
