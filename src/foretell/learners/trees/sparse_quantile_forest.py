"""Quantile forest on sparse features, for which absence is information of its own."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    check_array,
    check_is_fitted,
    validate_data,
)

from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.learners.trees import storage
from foretell.learners.trees.binning import MAX_BINS, BinnedColumns, bin_columns
from foretell.learners.trees.column_store import ColumnStore
from foretell.learners.trees.columns import (
    is_records,
    record_columns,
    records_to_csr,
    select_columns,
    to_columns,
    to_float32_csr,
)
from foretell.learners.trees.fitting import (
    TreeSettings,
    draw_counts,
    grow,
    kernels,
    run_in_threads,
)
from foretell.learners.trees.responses import ResponseTable, coded_responses, exact_responses

Features = Any
"""Dense table (NaN = absent), sparse matrix (not stored = absent) or list of dicts, ``(n, p)``."""

_ROWS_AT_ONCE = 512
_MODES = {"lower": 0, "linear": 1, "midpoint": 2}
_OOB_LEVELS = np.arange(1, 10) / 10


class SparseQuantileForestRegressor(RegressorMixin, BaseEstimator):
    """Random forest that predicts the whole conditional distribution from sparse features.

    Absent values are no zeros: each split learns to which side absent rows go, statistics of absent
    rows are the node's totals less those of its present rows, and the cost of growing grows with
    the number of present values, not with rows times columns. The prediction is the weighted
    distribution of the training responses in the leaves a row falls into (Meinshausen 2006, eq. 4
    and 5), so any quantile can be asked for afterwards and quantiles never cross.

    Args:
        n_estimators: number of trees ``B``.
        criterion: ``"quantile"`` relabels the rows of a node by the interval between the node's
            ``split_quantiles`` they fall into and maximises the weighted Gini decrease (Athey,
            Tibshirani and Wager 2019, section 5), which sees changes of spread; ``"mse"`` reduces
            the variance (Meinshausen 2006).
        split_quantiles: levels of the node quantiles for ``criterion="quantile"``.
        max_depth: greatest depth, None for no limit.
        min_samples_split: fewest distinct rows in a node that is split.
        min_samples_leaf: fewest distinct rows in a leaf.
        max_samples_leaf: most entries a leaf keeps, by systematic resampling; None keeps all.
        max_features: how many features a split looks at: a share of those that can split the node
            (float), a number (int), ``"sqrt"`` or None for all. They are drawn with probability in
            proportion to their presence among the node's rows.
        min_presence: presence (share of the node's rows) below which the probability of being drawn
            falls no further.
        max_bins: most bins of a feature, up to 254.
        leaf_storage: ``"codes"`` keeps codes of about 1,024 weighted-quantile bins of the response;
            ``"values"`` keeps exact responses and row ids.
        interpolation: ``"linear"``, ``"lower"`` (inverse distribution function) or ``"midpoint"``.
            Responses that occur repeatedly in training keep their full step, so an atom such as zero
            sales is not smeared out.
        bootstrap: draw rows with replacement; otherwise without.
        max_samples: rows drawn for each tree: a number (int), a share (float), None for ``n``.
        oob_score: compute `oob_score_`, `oob_prediction_` and `oob_quantiles_`.
        n_jobs: threads; None is one, -1 all cores. The result does not depend on it.
        random_state: seed.
        backend: ``"numba"`` (compiled on first use, cached on disk) or ``"numpy"``.

    Attributes:
        n_features_in_: number of columns ``p``.
        feature_importances_: ``(p,)`` share of the criterion's decrease by column.
        oob_score_: R^2 of the out-of-bag conditional mean.
        oob_wql_: weighted quantile loss of the out-of-bag quantiles at 0.1, ..., 0.9.
        oob_prediction_: ``(n,)`` out-of-bag conditional mean, NaN for rows in every sample.
        oob_quantiles_: ``(n, 9)`` out-of-bag quantiles at 0.1, ..., 0.9.
    """

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "quantile",
        split_quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        max_depth: int | None = None,
        min_samples_split: int = 2,
        min_samples_leaf: int = 8,
        max_samples_leaf: int | None = 64,
        max_features: float | int | str | None = 0.3,
        min_presence: float = 0.01,
        max_bins: int = MAX_BINS,
        leaf_storage: str = "codes",
        interpolation: str = "linear",
        bootstrap: bool = True,
        max_samples: float | int | None = None,
        oob_score: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        backend: str = "numba",
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.split_quantiles = split_quantiles
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.max_samples_leaf = max_samples_leaf
        self.max_features = max_features
        self.min_presence = min_presence
        self.max_bins = max_bins
        self.leaf_storage = leaf_storage
        self.interpolation = interpolation
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.oob_score = oob_score
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.backend = backend

    def __sklearn_tags__(self) -> Any:
        """Sparse input and absent values (NaN) are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags

    # ---------------------------------------------------------------- fit

    def fit(
        self,
        X: Features,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Grows the forest.

        Args:
            X: features ``(n, p)``: dense (NaN = absent), sparse (not stored = absent) or dicts.
            y: responses ``(n,)``, finite.
            sample_weight: ``(n,)`` weights; a row of weight zero is as good as not there.
            groups: ``(n,)`` labels (product lines): every split may also separate groups, ordered by
                their mean response.

        Raises:
            DataError: infinite features (names column and row), responses or weights that cannot
                be used.
            ParameterError: a hyper-parameter outside its range.
        """
        self._check_parameters()
        matrix, response = self._fit_input(X, y)
        weight = _weights(sample_weight, X if not is_records(X) else response.reshape(-1, 1))
        kept = weight > 0
        self._groups: dict[str, float] | None = None
        labels = None if groups is None else _group_labels(groups, matrix.shape[0])
        all_kept = bool(kept.all())
        if not all_kept:
            matrix, response, weight = matrix[kept], response[kept], weight[kept]
            labels = None if labels is None else labels[kept]
        if labels is not None:
            self._groups = _order_groups(labels, response, weight)
            matrix = self._with_groups(matrix, labels)
        column_ptr, rows, values = to_columns(matrix)
        columns = bin_columns(column_ptr, rows, values, weight, matrix.shape[0], self.max_bins)
        del rows, values
        bags = self._grow(columns, response, weight)
        if self.oob_score:
            self._score_out_of_bag(matrix, response, weight, bags, kept)
        return self

    def fit_store(self, store: ColumnStore) -> Self:
        """Grows the forest from columns on disk.

        Each tree reads the columns once and keeps the entries of its own rows (``max_samples``) in
        memory; bins are those of the store.

        Raises:
            ParameterError: ``oob_score=True``, for which the rows would be needed again.
        """
        self._check_parameters()
        if self.oob_score:
            raise ParameterError("oob_score=True needs the rows; a store has only columns")
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.record_columns_ = None
        self._groups = None
        self.n_features_in_ = store.columns.n_columns
        self._grow(store.columns, store.y, store.weight)
        return self

    def _check_parameters(self) -> None:
        _require(self.n_estimators, "n_estimators", Integral, 1, None)
        _require(self.min_samples_split, "min_samples_split", Integral, 2, None)
        _require(self.min_samples_leaf, "min_samples_leaf", Integral, 1, None)
        _require(self.min_presence, "min_presence", Real, 0, 1)
        _require(self.max_bins, "max_bins", Integral, 2, MAX_BINS)
        if self.max_depth is not None:
            _require(self.max_depth, "max_depth", Integral, 0, None)
        if self.max_samples_leaf is not None:
            _require(self.max_samples_leaf, "max_samples_leaf", Integral, 1, None)
        for name, allowed in (
            ("criterion", ("quantile", "mse")),
            ("leaf_storage", ("codes", "values")),
            ("interpolation", tuple(_MODES)),
            ("backend", ("numba", "numpy")),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(f"{name}={getattr(self, name)!r} is not one of {allowed}")
        levels = np.asarray(self.split_quantiles, dtype=float)
        if levels.ndim != 1 or not 1 <= len(levels) <= 100 or not ((levels > 0) & (levels < 1)).all():
            raise ParameterError("split_quantiles must be between 1 and 100 levels inside (0, 1)")
        if isinstance(self.max_features, str):
            if self.max_features != "sqrt":
                raise ParameterError(f"max_features={self.max_features!r}: 'sqrt' is the only word")
        elif isinstance(self.max_features, Integral):
            _require(self.max_features, "max_features", Integral, 1, None)
        elif self.max_features is not None:
            _require(self.max_features, "max_features", Real, 1e-9, 1)
        if isinstance(self.max_samples, Integral):
            _require(self.max_samples, "max_samples", Integral, 1, None)
        elif self.max_samples is not None:
            _require(self.max_samples, "max_samples", Real, 1e-9, 1)

    def _fit_input(self, X: Features, y: ArrayLike) -> tuple[sparse.csr_array, NDArray[np.float64]]:
        self.record_columns_: list[str] | None = None
        if is_records(X):
            self.record_columns_ = record_columns(X)
            if not self.record_columns_:
                raise DataError("no dict holds a feature", hint="Give at least one feature.")
            self.n_features_in_ = len(self.record_columns_)
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            matrix = to_float32_csr(records_to_csr(X, self.record_columns_), self.record_columns_)
            _require_finite(y)
            response = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
            if response.ndim != 1 or len(response) != matrix.shape[0]:
                raise DataError(f"y has shape {response.shape}, expected ({matrix.shape[0]},)")
            return matrix, response
        _require_finite(y)
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float32, np.float64], y_numeric=True,
            ensure_all_finite=False, estimator=self,
        )
        return to_float32_csr(X, self._names()), np.asarray(y, dtype=np.float64)

    def _names(self) -> Sequence[str] | None:
        if getattr(self, "record_columns_", None) is not None:
            return self.record_columns_
        return getattr(self, "feature_names_in_", None)

    def _with_groups(self, matrix: sparse.csr_array, labels: NDArray[Any]) -> sparse.csr_array:
        assert self._groups is not None
        position = np.array([self._groups.get(label, np.nan) for label in labels], dtype=np.float32)
        return sparse.csr_array(sparse.hstack([matrix, to_float32_csr(position[:, None])], format="csr"))

    def _settings(self, n: int, n_columns: int) -> TreeSettings:
        if self.max_samples is None:
            n_draws = n
        elif isinstance(self.max_samples, Integral):
            n_draws = int(self.max_samples) if self.bootstrap else min(int(self.max_samples), n)
        else:
            n_draws = max(1, round(float(self.max_samples) * n))
        fraction, at_most = 1.0, 0
        if self.max_features == "sqrt":
            at_most = max(1, int(np.sqrt(n_columns)))
        elif isinstance(self.max_features, Integral):
            at_most = int(self.max_features)
        elif self.max_features is not None:
            fraction = float(self.max_features)  # type: ignore[arg-type]
        grid = np.unique(np.asarray(self.split_quantiles, dtype=np.float64))
        return TreeSettings(
            grid=grid if self.criterion == "quantile" else np.empty(0),
            max_depth=2**30 if self.max_depth is None else int(self.max_depth),
            min_samples_split=int(self.min_samples_split),
            min_samples_leaf=int(self.min_samples_leaf),
            fraction=fraction,
            at_most=at_most,
            min_presence=float(self.min_presence),
            always=n_columns - 1 if self._groups is not None else -1,
            max_samples_leaf=0 if self.max_samples_leaf is None else int(self.max_samples_leaf),
            bootstrap=bool(self.bootstrap),
            n_draws=n_draws,
            entropy=int(check_random_state(self.random_state).randint(2**31 - 1)),
        )

    def _responses(self, y: NDArray[np.float64], weight: NDArray[np.float64]) -> ResponseTable:
        return exact_responses(y) if self.leaf_storage == "values" else coded_responses(y, weight)

    def _grow(
        self, columns: BinnedColumns, y: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> list[NDArray[np.uint8]]:
        settings = self._settings(len(y), columns.n_columns)
        responses = self._responses(y, weight)
        growth, _ = kernels(self.backend)

        def one(tree: int) -> tuple[storage.Tree, NDArray[np.uint8]]:
            counts = draw_counts(len(y), tree, settings)
            bag = np.packbits(counts > 0) if self.oob_score else np.empty(0, np.uint8)
            return grow(columns, responses, y, weight, counts, tree, settings, growth), bag

        grown = run_in_threads(effective_n_jobs(self.n_jobs), one, range(int(self.n_estimators)))
        trees = [tree for tree, _ in grown]
        importance = np.zeros(columns.n_columns)
        for tree in trees:
            np.add.at(importance, tree.split_column, tree.importance)
        importance = importance[: self.n_features_in_]
        total = importance.sum()
        self.feature_importances_ = importance / total if total > 0 else importance
        self._take(storage.assemble(trees, responses.values, responses.atom, responses.row_ids))
        return [bag for _, bag in grown]

    def _take(self, forest: storage.Forest) -> None:
        """Keeps a forest and what prediction needs of it: columns in use, numbered densely."""
        self.forest_ = forest
        columns = np.unique(forest.feature[forest.feature >= 0])
        extra = 1 if self._groups is not None else 0
        self._used = np.full(self.n_features_in_ + extra, -1, dtype=np.int32)
        self._used[columns] = np.arange(len(columns), dtype=np.int32)
        self._n_used = len(columns)
        self._split = np.where(forest.feature >= 0, self._used[forest.feature], -1).astype(np.int32)

    def _score_out_of_bag(
        self,
        matrix: sparse.csr_array,
        y: NDArray[np.float64],
        weight: NDArray[np.float64],
        bags: list[NDArray[np.uint8]],
        kept: NDArray[np.bool_],
    ) -> None:
        n = len(y)
        _, prediction = kernels(self.backend)
        packed = np.stack(bags)
        mean = np.full(n, np.nan)
        levels = np.full((n, len(_OOB_LEVELS)), np.nan)

        def one(start: int) -> None:
            stop = min(n, start + _ROWS_AT_ONCE)
            leaves = self._leaves(matrix[start:stop])
            first = start // 8
            bits = np.unpackbits(packed[:, first : -(-stop // 8)], axis=1)
            in_bag = bits[:, start - 8 * first : stop - 8 * first].T.astype(bool)
            leaves[in_bag] = -1
            ptr, values, weights, flat = self._distributions(leaves)
            mean[start:stop] = _means(ptr, values, weights)
            prediction.quantiles(
                ptr, values, weights, flat, _OOB_LEVELS[None, :], _MODES[self.interpolation],
                levels[start:stop],
            )

        run_in_threads(effective_n_jobs(self.n_jobs), one, range(0, n, _ROWS_AT_ONCE))
        seen = ~np.isnan(mean)
        self.oob_prediction_ = np.full(len(kept), np.nan)
        self.oob_prediction_[kept] = mean
        self.oob_quantiles_ = np.full((len(kept), len(_OOB_LEVELS)), np.nan)
        self.oob_quantiles_[kept] = levels
        if not seen.any():
            raise ParameterError(
                "oob_score=True, but every tree has seen every row; use bootstrap=True or max_samples"
            )
        w, truth = weight[seen], y[seen]
        spread = np.sum(w * (truth - np.average(truth, weights=w)) ** 2)
        error = np.sum(w * (truth - mean[seen]) ** 2)
        self.oob_score_ = float(1 - error / spread) if spread > 0 else float("nan")
        gap = truth[:, None] - levels[seen]
        loss = np.maximum(_OOB_LEVELS * gap, (_OOB_LEVELS - 1) * gap)
        scale = np.sum(w * np.abs(truth))
        self.oob_wql_ = (
            float(2 * np.sum(w[:, None] * loss) / scale / len(_OOB_LEVELS)) if scale > 0 else float("nan")
        )

    # ------------------------------------------------------------ predict

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
                self, X, accept_sparse="csr", dtype=[np.float32, np.float64],
                ensure_all_finite=False, reset=False,
            )
            matrix = to_float32_csr(X, self._names())
        if self._groups is not None:
            n = matrix.shape[0]
            labels = np.full(n, "") if groups is None else _group_labels(groups, n)
            matrix = self._with_groups(matrix, labels)
        elif groups is not None:
            raise ParameterError("groups were given to predict but not to fit")
        return matrix

    def _leaves(self, matrix: sparse.csr_array) -> NDArray[np.int32]:
        _, prediction = kernels(self.backend)
        forest = self.forest_
        return prediction.apply(
            matrix.indptr.astype(np.int64, copy=False), matrix.indices.astype(np.int32, copy=False),
            matrix.data, self._used, self._n_used, forest.tree_ptr[:-1], self._split,
            forest.threshold, forest.default_left, forest.child,
        )

    def _distributions(self, leaves: NDArray[np.int32]) -> tuple[NDArray[Any], ...]:
        _, prediction = kernels(self.backend)
        forest = self.forest_
        return prediction.distributions(
            leaves, forest.leaf_tree_ptr[:-1], forest.leaf_ptr, forest.codes, forest.weights,
            forest.values, forest.atom,
        )

    def _blocks(self, X: Features, groups: ArrayLike | None, use: Any) -> int:
        """Calls ``use(start, stop, ptr, values, weights, flat)`` for blocks of rows, in threads."""
        matrix = self._predict_input(X, groups)
        n = matrix.shape[0]

        def one(start: int) -> None:
            stop = min(n, start + _ROWS_AT_ONCE)
            use(start, stop, *self._distributions(self._leaves(matrix[start:stop])))

        run_in_threads(effective_n_jobs(self.n_jobs), one, range(0, n, _ROWS_AT_ONCE))
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

            def average(start: int, stop: int, ptr: Any, values: Any, weights: Any, flat: Any) -> None:
                mean[start:stop] = _means(ptr, values, weights)

            self._blocks(X, groups, average)
            return mean
        levels = _levels(quantiles)
        order = np.argsort(levels)
        ascending = levels[order][None, :]
        result = np.empty((n, len(levels)))
        _, prediction = kernels(self.backend)
        mode = _MODES[self.interpolation]

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
        _require(n_samples, "n_samples", Integral, 1, None)
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

    # --------------------------------------------------- merge, save, load

    def merge(self, *others: SparseQuantileForestRegressor) -> SparseQuantileForestRegressor:
        """A forest with the trees of this one and of others, fitted on the same columns elsewhere.

        Raises:
            DataError: the forests do not have the same columns or groups.
        """
        forests = [self, *others]
        for forest in forests:
            check_is_fitted(forest, "forest_")
            if forest.n_features_in_ != self.n_features_in_ or not _same_names(forest, self):
                raise DataError("forests with different columns cannot be merged")
            if forest._groups != self._groups:
                raise DataError("forests with different groups cannot be merged")
        merged = type(self)(**self.get_params())
        merged.n_estimators = sum(forest.forest_.n_trees for forest in forests)
        _copy_columns(self, merged)
        merged._groups = self._groups
        shares = [forest.forest_.n_trees for forest in forests]
        merged.feature_importances_ = np.average(
            [forest.feature_importances_ for forest in forests], axis=0, weights=shares
        )
        merged._take(storage.concatenate([forest.forest_ for forest in forests]))
        return merged

    def save(self, folder: str | Path) -> None:
        """Writes the forest to a folder as ``forest.npz`` and ``forest.json``; nothing is pickled."""
        check_is_fitted(self, "forest_")
        parameters = self.get_params()
        if not isinstance(parameters["random_state"], (int, type(None))):
            parameters["random_state"] = None
        parameters["split_quantiles"] = [float(q) for q in self.split_quantiles]
        names = getattr(self, "feature_names_in_", None)
        header = {
            "parameters": {name: _plain(value) for name, value in parameters.items()},
            "n_columns": self.n_features_in_ + (self._groups is not None),
            "feature_names": None if names is None else [str(name) for name in names],
            "record_columns": self.record_columns_,
            "groups": self._groups,
        }
        storage.save(
            Path(folder), self.forest_, header, {"feature_importances": self.feature_importances_}
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a saved forest; runs no code of the folder and checks every index.

        Raises:
            ArtefactError: damaged, unsafe or newer than this library.
        """
        folder = Path(folder)
        forest, header, extra = storage.load(folder, "n_columns", {"feature_importances": "float64"})
        where = folder / "forest.json"
        parameters = header.get("parameters")
        if not isinstance(parameters, dict) or set(parameters) - set(cls._get_param_names()):
            raise ArtefactError(f"{where}: 'parameters' are not those of {cls.__name__}")
        if isinstance(parameters.get("split_quantiles"), list):
            parameters["split_quantiles"] = tuple(parameters["split_quantiles"])
        result = cls(**parameters)
        try:
            result._check_parameters()
        except (ParameterError, TypeError, ValueError) as error:
            raise ArtefactError(f"{where}: {error}") from error
        groups = header.get("groups")
        if groups is not None and not (
            isinstance(groups, dict)
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in groups.values())
        ):
            raise ArtefactError(f"{where}: 'groups' must map labels to positions")
        n_features = header["n_columns"] - (groups is not None)
        for key in ("record_columns", "feature_names"):
            names = header.get(key)
            if names is not None and not (
                isinstance(names, list)
                and len(names) == n_features
                and all(isinstance(name, str) for name in names)
            ):
                raise ArtefactError(f"{where}: {key!r} must be {n_features} names")
        if n_features < 1 or len(extra["feature_importances"]) != n_features:
            raise ArtefactError(f"{folder / 'forest.npz'}: 'feature_importances' has the wrong length")
        result.n_features_in_ = n_features
        result.record_columns_ = header.get("record_columns")
        if header.get("feature_names") is not None:
            result.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)
        result._groups = groups
        result.feature_importances_ = extra["feature_importances"]
        result._take(forest)
        return result

    def restore(
        self, forest: storage.Forest, n_features: int, importances: NDArray[np.float64]
    ) -> Self:
        """Takes over a forest that was kept elsewhere as arrays; checks it as `load` does.

        Raises:
            ArtefactError: the arrays do not describe a forest over ``n_features`` columns.
        """
        problem = storage.check(forest, n_features)
        if problem is None and len(importances) != n_features:
            problem = "'feature_importances' has the wrong length"
        if problem is not None:
            raise ArtefactError(f"not a forest: {problem}")
        self.n_features_in_ = n_features
        self.record_columns_ = None
        self._groups = None
        self.feature_importances_ = importances
        self._take(forest)
        return self


def _require(value: Any, name: str, kind: type, low: float | None, high: float | None) -> None:
    if (
        not isinstance(value, kind)
        or isinstance(value, (bool, np.bool_))
        or not (low is None or value >= low)  # type: ignore[operator]
        or not (high is None or value <= high)  # type: ignore[operator]
    ):
        what = "a whole number" if kind is Integral else "a number"
        upper = "" if high is None else f" and at most {high}"
        raise ParameterError(f"{name}={value!r} must be {what} of at least {low}{upper}")


def _require_finite(y: Any) -> None:
    """Names the row of a response that is not finite; other faults are left to scikit-learn."""
    if isinstance(y, (list, tuple, np.ndarray)) or hasattr(y, "to_numpy"):
        values = np.asarray(y)
        if values.ndim == 1 and values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                kind = "NaN" if np.isnan(values[bad[0]]) else "infinity"
                raise DataError(
                    f"Input y contains {kind}", row=int(bad[0]), hint="Leave such rows out."
                )


def _levels(quantiles: float | Sequence[float]) -> NDArray[np.float64]:
    levels = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    if levels.ndim != 1 or len(levels) == 0 or not ((levels >= 0) & (levels <= 1)).all():
        raise ParameterError(f"quantiles={quantiles!r} must be levels between 0 and 1")
    return levels


def _weights(sample_weight: ArrayLike | None, X: Any) -> NDArray[np.float64]:
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weight < 0).any():
        raise DataError("a negative sample weight", row=int(np.flatnonzero(weight < 0)[0]))
    if not (weight > 0).any():
        raise DataError("Sample weights must contain at least one non-zero number.")
    return weight


def _group_labels(groups: ArrayLike, n: int) -> NDArray[Any]:
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise DataError(f"groups have shape {labels.shape}, expected ({n},)")
    return labels.astype(str)


def _order_groups(
    labels: NDArray[Any], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> dict[str, float]:
    """Position of each group in the order of mean responses: cuts of it are the best two-way splits."""
    names, inverse = np.unique(labels, return_inverse=True)
    mean = np.bincount(inverse, weight * y) / np.bincount(inverse, weight)
    position = np.empty(len(names))
    position[np.argsort(mean, kind="stable")] = np.arange(len(names))
    return {str(name): float(place) for name, place in zip(names, position, strict=True)}


def _means(ptr: Any, values: Any, weights: Any) -> NDArray[np.float64]:
    filled = ptr[1:] > ptr[:-1]
    result = np.full(len(ptr) - 1, np.nan)
    if filled.any():
        result[filled] = np.add.reduceat(values * weights, ptr[:-1][filled])
    return result


def _same_names(first: Any, second: Any) -> bool:
    a, b = first._names(), second._names()
    return (a is None) == (b is None) and (a is None or list(a) == list(b))


def _copy_columns(source: Any, target: Any) -> None:
    for name in ("n_features_in_", "feature_names_in_", "record_columns_"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
