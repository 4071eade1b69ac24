"""Boosted regression trees as plain arrays: prediction, exact attribution, saving without a pickle.

LightGBM or scikit-learn grow them; what is kept is splits, leaf values and how many hours each node
held. Opening a saved model reads numbers and cannot run code, and no boosting library is needed to
score, which is what a service at the bedside does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError
from foretell.learners.risk import tree_kernel as kernel


@dataclass(frozen=True, eq=False)
class AdditiveTrees:
    """A sum of trees.

    Args:
        baseline: (1,) what the sum starts from.
        roots: (B,) first node of each tree.
        feature: (N,) column that a node splits on, -1 in a leaf.
        threshold: (N,) values up to it go left; the value of a leaf.
        children: (N, 2) left and right child, counted from the first node of all.
        missing_left: (N,) whether a missing value goes left.
        cover: (N,) training rows of each node.
        width: (1,) number d of columns.
    """

    baseline: NDArray[np.float64]
    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    children: NDArray[np.int64]
    missing_left: NDArray[np.uint8]
    cover: NDArray[np.float64]
    width: NDArray[np.int64]

    @classmethod
    def from_lightgbm(cls, booster: Any) -> Self:
        """The trees of a fitted ``lightgbm.Booster`` with numeric splits and one output.

        Raises:
            ParameterError: it has categories or several outputs.
        """
        told = booster.dump_model()
        if told["num_tree_per_iteration"] != 1:
            raise ParameterError("only boosters with one output can be kept as arrays")
        nodes: list[tuple[int, float, int, int, int, float]] = []
        roots = []
        for tree in told["tree_info"]:
            roots.append(len(nodes))
            _flatten(tree["tree_structure"], nodes)
        return cls._of(nodes, roots, 0.0, told["max_feature_idx"] + 1)

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """The trees of a fitted ``HistGradientBoostingRegressor`` or binary classifier.

        Raises:
            ParameterError: it has categories or several outputs.
        """
        nodes: list[tuple[int, float, int, int, int, float]] = []
        roots = []
        for trees in model._predictors:
            if len(trees) != 1:
                raise ParameterError("only models with one output can be kept as arrays")
            found = trees[0].nodes
            if found["is_categorical"].any():
                raise ParameterError("trees that split by categories cannot be kept as arrays")
            start = len(nodes)
            roots.append(start)
            for node in found:
                leaf = bool(node["is_leaf"])
                value = float(node["value"] if leaf else node["num_threshold"])
                # What parts the missing from the known has an infinite threshold there.
                value = min(value, float(np.finfo(np.float64).max))
                nodes.append(
                    (
                        -1 if leaf else int(node["feature_idx"]),
                        value,
                        0 if leaf else start + int(node["left"]),
                        0 if leaf else start + int(node["right"]),
                        int(node["missing_go_to_left"]),
                        float(node["count"]),
                    )
                )
        baseline = float(np.asarray(model._baseline_prediction).ravel()[0])
        return cls._of(nodes, roots, baseline, model.n_features_in_)

    @classmethod
    def _of(cls, nodes: list[Any], roots: list[int], baseline: float, width: int) -> Self:
        columns = list(zip(*nodes, strict=True))
        return cls(
            baseline=np.array([baseline], np.float64),
            roots=np.array(roots, np.int64),
            feature=np.array(columns[0], np.int32),
            threshold=np.array(columns[1], np.float64),
            children=np.array([columns[2], columns[3]], np.int64).T.copy(),
            missing_left=np.array(columns[4], np.uint8),
            cover=np.array(columns[5], np.float64),
            width=np.array([width], np.int64),
        )

    @property
    def n_features(self) -> int:
        """Number d of columns."""
        return int(self.width[0])

    @property
    def expected(self) -> float:
        """Mean of the sum over the training rows: what attributions start from."""
        leaf = self.feature < 0
        tree = np.searchsorted(self.roots, np.arange(len(self.feature)), side="right") - 1
        sums = np.bincount(tree[leaf], self.threshold[leaf] * self.cover[leaf])
        return float(self.baseline[0] + (sums / self.cover[self.roots]).sum())

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """(R,) sums for features (R, d), NaN where missing.

        Raises:
            ParameterError: the number of columns is another one.
        """
        X = self._checked(X)
        return self.baseline[0] + kernel.sums(
            X, self.roots, self.feature, self.threshold, self.children, self.missing_left
        )

    def contributions(self, X: ArrayLike) -> NDArray[np.float64]:
        """(R, d) Shapley values: with :attr:`expected` they add up to the prediction.

        Lundberg et al., From local explanations to global understanding with explainable AI for
        trees, Nature Machine Intelligence 2, 2020, algorithm 2 (path-dependent).
        """
        X = self._checked(X)
        return kernel.shapley(
            X, self.roots, self.feature, self.threshold, self.children, self.missing_left,
            self.cover, self._depth() + 2,
        )  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray]:
        """The arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The trees of :meth:`to_arrays`, checked.

        Raises:
            ValueError: arrays are missing or do not fit together.
        """
        missing = {f.name for f in fields(cls)} - set(arrays)
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} are missing")
        kinds = {f.name: str(f.type).partition("np.")[2].rstrip("]") for f in fields(cls)}
        for name, kind in kinds.items():
            if arrays[name].dtype != np.dtype(kind):
                raise ValueError(f"{name} holds {arrays[name].dtype}, not {kind}")
        trees = cls(**{name: np.ascontiguousarray(arrays[name]) for name in kinds})
        problem = trees._problem()
        if problem:
            raise ValueError(problem)
        return trees

    def _problem(self) -> str:
        """What would make a prediction read outside of the arrays, or never end."""
        n = len(self.feature)
        shapes: dict[str, tuple[int, ...]] = {
            "threshold": (n,), "children": (n, 2), "missing_left": (n,), "cover": (n,),
            "baseline": (1,), "width": (1,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                return f"{name} is {getattr(self, name).shape}, not {shape}"
        if n == 0 or self.roots.ndim != 1 or len(self.roots) == 0:
            return "there is no tree"
        if self.roots[0] != 0 or (np.diff(self.roots) <= 0).any() or self.roots[-1] >= n:
            return "roots do not ascend from the first node"
        if not (np.isfinite(self.threshold).all() and np.isfinite(self.baseline).all()):
            return "a threshold or leaf is not finite"
        if not (np.isfinite(self.cover) & (self.cover > 0)).all():
            return "a node held no training row"
        inner = self.feature >= 0
        if self.feature.min() < -1 or self.feature.max(initial=-1) >= self.width[0]:
            return "a node splits on a column that is not there"
        own = np.arange(n)[inner, None]
        end = np.append(self.roots[1:], n)
        tree = np.searchsorted(self.roots, np.arange(n), side="right") - 1
        kids = self.children[inner]
        if ((kids <= own) | (kids >= end[tree[inner]][:, None])).any():
            return "a node's child does not come after it in its tree"
        if self._depth() > 400:
            return "a tree is deeper than 400"
        return ""

    def _depth(self) -> int:
        return int(kernel.deepest(self.feature, self.children))

    def _checked(self, X: ArrayLike) -> NDArray[np.float32]:
        X = np.ascontiguousarray(X, np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ParameterError(f"features must be (R, {self.n_features}), not {X.shape}")
        return X


def _flatten(node: Mapping[str, Any], nodes: list[Any]) -> int:
    """Appends a LightGBM node and all below it; children come after their parents."""
    at = len(nodes)
    if "split_feature" not in node:
        # A tree of one leaf tells no count.
        nodes.append(
            (-1, float(node["leaf_value"]), 0, 0, 0, float(node.get("leaf_count", 1) or 1))
        )
        return at
    if node["decision_type"] != "<=":
        raise ParameterError("trees that split by categories cannot be kept as arrays")
    threshold = float(node["threshold"])
    # Where training saw nothing missing, LightGBM takes a missing value for 0.
    left = {"NaN": bool(node["default_left"]), "None": threshold >= 0}.get(node["missing_type"])
    if left is None:
        raise ParameterError("trees that take 0 for missing cannot be kept as arrays")
    nodes.append(None)
    below = [_flatten(node[f"{side}_child"], nodes) for side in ("left", "right")]
    nodes[at] = (
        int(node["split_feature"]), threshold, *below, int(left), float(node["internal_count"]),
    )  # fmt: skip
    return at
