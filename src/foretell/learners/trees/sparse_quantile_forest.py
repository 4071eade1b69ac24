"""Quantile forest on sparse features, for which absence is information of its own."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    check_array,
    validate_data,
)

from foretell.errors import DataError, ParameterError
from foretell.learners.trees import storage
from foretell.learners.trees.binning import MAX_BINS, BinnedColumns, bin_columns
from foretell.learners.trees.checks import (
    group_labels,
    order_groups,
    require,
    require_finite,
    row_weights,
)
from foretell.learners.trees.column_store import ColumnStore
from foretell.learners.trees.columns import (
    is_records,
    record_columns,
    records_to_csr,
    to_columns,
    to_float32_csr,
)
from foretell.learners.trees.fitted_forest import means
from foretell.learners.trees.fitting import (
    TreeSettings,
    draw_counts,
    grow,
    kernels,
    run_in_threads,
)
from foretell.learners.trees.forest_persistence import ForestPersistence
from foretell.learners.trees.forest_prediction import (
    MODES,
    ROWS_AT_ONCE,
    Features,
    ForestPrediction,
)
from foretell.learners.trees.responses import ResponseTable, coded_responses, exact_responses

_OOB_LEVELS = np.arange(1, 10) / 10


class SparseQuantileForestRegressor(
    ForestPrediction, ForestPersistence, RegressorMixin, BaseEstimator
):
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
            Responses that occur repeatedly in training keep their full step, so an atom such as
            zero sales is not smeared out.
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
            groups: ``(n,)`` labels (product lines): every split may also separate groups, ordered
                by their mean response.

        Raises:
            DataError: infinite features (names column and row), responses or weights that cannot
                be used.
            ParameterError: a hyper-parameter outside its range.
        """
        self._check_parameters()
        matrix, response = self._fit_input(X, y)
        weight = row_weights(sample_weight, X if not is_records(X) else response.reshape(-1, 1))
        kept = weight > 0
        self._groups = None
        labels = None if groups is None else group_labels(groups, matrix.shape[0])
        all_kept = bool(kept.all())
        if not all_kept:
            matrix, response, weight = matrix[kept], response[kept], weight[kept]
            labels = None if labels is None else labels[kept]
        if labels is not None:
            self._groups = order_groups(labels, response, weight)
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
        require(self.n_estimators, "n_estimators", Integral, 1, None)
        require(self.min_samples_split, "min_samples_split", Integral, 2, None)
        require(self.min_samples_leaf, "min_samples_leaf", Integral, 1, None)
        require(self.min_presence, "min_presence", Real, 0, 1)
        require(self.max_bins, "max_bins", Integral, 2, MAX_BINS)
        if self.max_depth is not None:
            require(self.max_depth, "max_depth", Integral, 0, None)
        if self.max_samples_leaf is not None:
            require(self.max_samples_leaf, "max_samples_leaf", Integral, 1, None)
        for name, allowed in (
            ("criterion", ("quantile", "mse")),
            ("leaf_storage", ("codes", "values")),
            ("interpolation", tuple(MODES)),
            ("backend", ("numba", "numpy")),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(f"{name}={getattr(self, name)!r} is not one of {allowed}")
        levels = np.asarray(self.split_quantiles, dtype=float)
        if (
            levels.ndim != 1
            or not 1 <= len(levels) <= 100
            or not ((levels > 0) & (levels < 1)).all()
        ):
            raise ParameterError("split_quantiles must be between 1 and 100 levels inside (0, 1)")
        if isinstance(self.max_features, str):
            if self.max_features != "sqrt":
                raise ParameterError(f"max_features={self.max_features!r}: 'sqrt' is the only word")
        elif isinstance(self.max_features, Integral):
            require(self.max_features, "max_features", Integral, 1, None)
        elif self.max_features is not None:
            require(self.max_features, "max_features", Real, 1e-9, 1)
        if isinstance(self.max_samples, Integral):
            require(self.max_samples, "max_samples", Integral, 1, None)
        elif self.max_samples is not None:
            require(self.max_samples, "max_samples", Real, 1e-9, 1)

    def _fit_input(self, X: Features, y: ArrayLike) -> tuple[sparse.csr_array, NDArray[np.float64]]:
        self.record_columns_ = None
        if is_records(X):
            self.record_columns_ = record_columns(X)
            if not self.record_columns_:
                raise DataError("no dict holds a feature", hint="Give at least one feature.")
            self.n_features_in_ = len(self.record_columns_)
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            matrix = to_float32_csr(records_to_csr(X, self.record_columns_), self.record_columns_)
            require_finite(y)
            response = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
            if response.ndim != 1 or len(response) != matrix.shape[0]:
                raise DataError(f"y has shape {response.shape}, expected ({matrix.shape[0]},)")
            return matrix, response
        require_finite(y)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=[np.float32, np.float64],
            y_numeric=True,
            ensure_all_finite=False,
            estimator=self,
        )
        return to_float32_csr(X, self._names()), np.asarray(y, dtype=np.float64)

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
            stop = min(n, start + ROWS_AT_ONCE)
            leaves = self._leaves(matrix[start:stop])
            first = start // 8
            bits = np.unpackbits(packed[:, first : -(-stop // 8)], axis=1)
            in_bag = bits[:, start - 8 * first : stop - 8 * first].T.astype(bool)
            leaves[in_bag] = -1
            ptr, values, weights, flat = self._distributions(leaves)
            mean[start:stop] = means(ptr, values, weights)
            prediction.quantiles(
                ptr,
                values,
                weights,
                flat,
                _OOB_LEVELS[None, :],
                MODES[self.interpolation],
                levels[start:stop],
            )

        run_in_threads(effective_n_jobs(self.n_jobs), one, range(0, n, ROWS_AT_ONCE))
        seen = ~np.isnan(mean)
        self.oob_prediction_ = np.full(len(kept), np.nan)
        self.oob_prediction_[kept] = mean
        self.oob_quantiles_ = np.full((len(kept), len(_OOB_LEVELS)), np.nan)
        self.oob_quantiles_[kept] = levels
        if not seen.any():
            raise ParameterError(
                "oob_score=True, but every tree has seen every row; use bootstrap=True"
            )
        w, truth = weight[seen], y[seen]
        spread = np.sum(w * (truth - np.average(truth, weights=w)) ** 2)
        error = np.sum(w * (truth - mean[seen]) ** 2)
        self.oob_score_ = float(1 - error / spread) if spread > 0 else float("nan")
        gap = truth[:, None] - levels[seen]
        loss = np.maximum(_OOB_LEVELS * gap, (_OOB_LEVELS - 1) * gap)
        scale = np.sum(w * np.abs(truth))
        self.oob_wql_ = (
            float(2 * np.sum(w[:, None] * loss) / scale / len(_OOB_LEVELS))
            if scale > 0
            else float("nan")
        )
