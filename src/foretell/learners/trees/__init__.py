"""Tree learners: the sparse quantile forest."""

from __future__ import annotations

from foretell.learners.trees.column_store import ColumnStore
from foretell.learners.trees.sparse_quantile_forest import SparseQuantileForestRegressor

__all__ = ["ColumnStore", "SparseQuantileForestRegressor"]
