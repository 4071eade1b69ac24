"""What a fitted forest holds, and how a row becomes the distribution of its leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from foretell.learners.trees.columns import to_float32_csr
from foretell.learners.trees.fitting import kernels
from foretell.learners.trees.storage import Forest


class FittedForest:
    """State that fitting, predicting and saving share."""

    forest_: Forest
    n_features_in_: int
    feature_importances_: NDArray[np.float64]
    record_columns_: list[str] | None
    interpolation: str
    backend: str
    n_jobs: int | None
    n_estimators: int
    split_quantiles: Sequence[float]
    feature_names_in_: NDArray[Any]
    _groups: dict[str, float] | None

    def _names(self) -> Sequence[str] | None:
        if getattr(self, "record_columns_", None) is not None:
            return self.record_columns_
        return getattr(self, "feature_names_in_", None)

    def _with_groups(self, matrix: sparse.csr_array, labels: NDArray[Any]) -> sparse.csr_array:
        assert self._groups is not None
        position = np.array([self._groups.get(label, np.nan) for label in labels], dtype=np.float32)
        return sparse.csr_array(
            sparse.hstack([matrix, to_float32_csr(position[:, None])], format="csr")
        )

    def _take(self, forest: Forest) -> None:
        """Keeps a forest and what prediction needs of it: columns in use, numbered densely."""
        self.forest_ = forest
        columns = np.unique(forest.feature[forest.feature >= 0])
        extra = 1 if self._groups is not None else 0
        self._used = np.full(self.n_features_in_ + extra, -1, dtype=np.int32)
        self._used[columns] = np.arange(len(columns), dtype=np.int32)
        self._n_used = len(columns)
        self._split = np.where(forest.feature >= 0, self._used[forest.feature], -1).astype(np.int32)

    def _leaves(self, matrix: sparse.csr_array) -> NDArray[np.int32]:
        _, prediction = kernels(self.backend)
        forest = self.forest_
        return prediction.apply(
            matrix.indptr.astype(np.int64, copy=False),
            matrix.indices.astype(np.int32, copy=False),
            matrix.data,
            self._used,
            self._n_used,
            forest.tree_ptr[:-1],
            self._split,
            forest.threshold,
            forest.default_left,
            forest.child,
        )

    def _distributions(self, leaves: NDArray[np.int32]) -> tuple[NDArray[Any], ...]:
        _, prediction = kernels(self.backend)
        forest = self.forest_
        return prediction.distributions(
            leaves,
            forest.leaf_tree_ptr[:-1],
            forest.leaf_ptr,
            forest.codes,
            forest.weights,
            forest.values,
            forest.atom,
        )


def means(ptr: Any, values: Any, weights: Any) -> NDArray[np.float64]:
    """Mean of each row's weighted sample; NaN for an empty one."""
    filled = ptr[1:] > ptr[:-1]
    result = np.full(len(ptr) - 1, np.nan)
    if filled.any():
        result[filled] = np.add.reduceat(values * weights, ptr[:-1][filled])
    return result
