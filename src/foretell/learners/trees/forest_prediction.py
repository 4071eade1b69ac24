"""Prediction of a fitted forest: quantiles, distribution function, samples, leaves."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted, validate_data

from foretell.errors import DataError, ParameterError
from foretell.learners.trees.checks import group_labels, quantile_levels, require
from foretell.learners.trees.columns import (
    is_records,
    records_to_csr,
    select_columns,
    to_float32_csr,
)
from foretell.learners.trees.fitted_forest import FittedForest, means
from foretell.learners.trees.fitting import kernels, run_in_threads

Features = Any
"""Dense table (NaN = absent), sparse matrix (not stored = absent) or list of dicts, ``(n, p)``."""

ROWS_AT_ONCE = 512
MODES = {"lower": 0, "linear": 1, "midpoint": 2}


class ForestPrediction(FittedForest):
    """What a fitted forest can be asked."""

    def _predict_input(self, X: Features, groups: ArrayLike | None) -> sparse.csr_array:
        check_is_fitted(self, "forest_")
        if is_records(X):
            if self.record_columns_ is None:
                raise DataError(
                    "a list of dicts, but the forest was fitted on a table",
                    hint="Give a table with the columns of fit.",
                )
            matrix = to_float32_csr(records_to_csr(X, self.record_columns_), self.record_columns_)
        else:
            if sparse.issparse(X) and X.shape[1] > self.n_features_in_:
                X = select_columns(sparse.csr_array(X), self.n_features_in_)
            X = validate_data(
                self,
                X,
                accept_sparse="csr",
                dtype=[np.float32, np.float64],
                ensure_all_finite=False,
                reset=False,
            )
            matrix = to_float32_csr(X, self._names())
        if self._groups is not None:
            n = matrix.shape[0]
            labels = np.full(n, "") if groups is None else group_labels(groups, n)
            matrix = self._with_groups(matrix, labels)
        elif groups is not None:
            raise ParameterError("groups were given to predict but not to fit")
        return matrix

    def _blocks(self, X: Features, groups: ArrayLike | None, use: Any) -> int:
        """Calls ``use(start, stop, ptr, values, weights, flat)`` for blocks of rows, in threads."""
        matrix = self._predict_input(X, groups)
        n = matrix.shape[0]

        def one(start: int) -> None:
            stop = min(n, start + ROWS_AT_ONCE)
            use(start, stop, *self._distributions(self._leaves(matrix[start:stop])))

        run_in_threads(effective_n_jobs(self.n_jobs), one, range(0, n, ROWS_AT_ONCE))
        return n

    def predict(
        self,
        X: Features,
        quantiles: float | Sequence[float] | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Conditional quantiles or, without levels, the conditional mean.

        Args:
            X: features ``(n, p)``.
            quantiles: one level or several, in [0, 1]; 0 and 1 are the ends of the distribution.
            groups: ``(n,)`` labels, if fit had them; an unknown one counts as absent.

        Returns:
            ``(n,)`` for None or one level, ``(n, Q)`` for a sequence of levels in its order.
        """
        check_is_fitted(self, "forest_")
        n = _num_samples(X)
        if quantiles is None:
            mean = np.empty(n)

            def average(
                start: int, stop: int, ptr: Any, values: Any, weights: Any, flat: Any
            ) -> None:
                mean[start:stop] = means(ptr, values, weights)

            self._blocks(X, groups, average)
            return mean
        levels = quantile_levels(quantiles)
        order = np.argsort(levels)
        ascending = levels[order][None, :]
        result = np.empty((n, len(levels)))
        _, prediction = kernels(self.backend)
        mode = MODES[self.interpolation]

        def invert(start: int, stop: int, ptr: Any, values: Any, weights: Any, flat: Any) -> None:
            block = np.empty((stop - start, len(levels)))
            prediction.quantiles(ptr, values, weights, flat, ascending, mode, block)
            result[start:stop, order] = block

        self._blocks(X, groups, invert)
        return result[:, 0] if np.ndim(quantiles) == 0 else result

    def predict_cdf(
        self, X: Features, y: ArrayLike, *, groups: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Probability of at most ``y`` given each row: ``F(y | x)``, eq. 5 of Meinshausen (2006).

        Args:
            X: features ``(n, p)``.
            y: thresholds ``(M,)`` for all rows, or ``(n, M)``.
            groups: see `predict`.

        Returns:
            ``(n, M)``. With ``leaf_storage="codes"`` the steps stand at the codes' responses.
        """
        check_is_fitted(self, "forest_")
        return self._cumulative(X, np.asarray(y, dtype=np.float64), groups, strict=False)

    def _cumulative(
        self, X: Features, points: NDArray[np.float64], groups: ArrayLike | None, *, strict: bool
    ) -> NDArray[np.float64]:
        n = _num_samples(X)
        points = np.atleast_2d(points)
        if points.ndim != 2 or points.shape[0] not in (1, n):
            raise DataError(f"thresholds have shape {points.shape}, expected (M,) or ({n}, M)")
        if np.isnan(points).any():
            raise DataError("a threshold is NaN")
        order = np.argsort(points, axis=1, kind="stable")
        ascending = np.take_along_axis(points, order, axis=1)
        result = np.empty((n, points.shape[1]))
        _, prediction = kernels(self.backend)

        def add_up(start: int, stop: int, ptr: Any, values: Any, weights: Any, flat: Any) -> None:
            shared = len(ascending) == 1
            block = np.empty((stop - start, points.shape[1]))
            here = ascending if shared else ascending[start:stop]
            prediction.cumulative(ptr, values, weights, here, strict, block)
            where = order if shared else order[start:stop]
            np.put_along_axis(
                result[start:stop], np.broadcast_to(where, block.shape), block, axis=1
            )

        self._blocks(X, groups, add_up)
        return result

    def pit(
        self,
        X: Features,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        random_state: Any = None,
    ) -> NDArray[np.float64]:
        """Randomised probability integral transform ``(n,)``: uniform if the forest is calibrated.

        ``F(y-) + v (F(y) - F(y-))`` with uniform ``v``, so that counts and atoms do not distort it.
        """
        check_is_fitted(self, "forest_")
        points = np.asarray(y, dtype=np.float64).reshape(-1, 1)
        at_most = self._cumulative(X, points, groups, strict=False)[:, 0]
        below = self._cumulative(X, points, groups, strict=True)[:, 0]
        v = check_random_state(random_state).uniform(size=len(points))
        return below + v * (at_most - below)

    def predict_sample(
        self,
        X: Features,
        n_samples: int = 100,
        *,
        groups: ArrayLike | None = None,
        random_state: Any = None,
    ) -> NDArray[np.float64]:
        """Draws ``(n, n_samples)`` independent responses from each row's distribution."""
        check_is_fitted(self, "forest_")
        require(n_samples, "n_samples", Integral, 1, None)
        n = _num_samples(X)
        rng = check_random_state(random_state)
        uniform = rng.uniform(size=(n, int(n_samples)))
        order = np.argsort(uniform, axis=1)
        ascending = np.take_along_axis(uniform, order, axis=1)
        result = np.empty_like(uniform)
        _, prediction = kernels(self.backend)

        def invert(start: int, stop: int, ptr: Any, values: Any, weights: Any, flat: Any) -> None:
            block = np.empty((stop - start, uniform.shape[1]))
            prediction.quantiles(ptr, values, weights, flat, ascending[start:stop], 0, block)
            np.put_along_axis(result[start:stop], order[start:stop], block, axis=1)

        self._blocks(X, groups, invert)
        return result

    def predict_distribution(
        self, X: Features, *, groups: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Full weighted sample of each row as ``(ptr, values, weights)``.

        Row ``i`` has the ascending responses ``values[ptr[i]:ptr[i + 1]]`` with weights that add up
        to one.
        """
        check_is_fitted(self, "forest_")
        parts: dict[int, tuple[Any, ...]] = {}

        def keep(start: int, stop: int, ptr: Any, values: Any, weights: Any, flat: Any) -> None:
            parts[start] = (np.diff(ptr), values, weights)

        self._blocks(X, groups, keep)
        ordered = [parts[start] for start in sorted(parts)]
        sizes, values, weights = (np.concatenate([part[k] for part in ordered]) for k in range(3))
        return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64), values, weights

    def apply(self, X: Features, *, groups: ArrayLike | None = None) -> NDArray[np.int32]:
        """Leaf number of each row in each tree ``(n, B)``, counted within the tree."""
        matrix = self._predict_input(X, groups)
        return self._leaves(matrix)
