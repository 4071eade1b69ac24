"""Tree learners: the sparse quantile forest, and boosted trees that can be saved as arrays."""

from __future__ import annotations

from foretell.learners.trees.boosted_trees import BoostedTrees
from foretell.learners.trees.column_store import ColumnStore
from foretell.learners.trees.sparse_quantile_forest import SparseQuantileForestRegressor

__all__ = ["BoostedTrees", "ColumnStore", "SparseQuantileForestRegressor"]
