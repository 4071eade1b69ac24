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
from numba import njit
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError


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
                nodes.append(
                    (
                        -1 if leaf else int(node["feature_idx"]),
                        float(node["value"] if leaf else node["num_threshold"]),
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
        sums = np.bincount(tree[leaf], (self.threshold * self.cover)[leaf])
        return float(self.baseline[0] + (sums / self.cover[self.roots]).sum())

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """(R,) sums for features (R, d), NaN where missing.

        Raises:
            ParameterError: the number of columns is another one.
        """
        X = self._checked(X)
        return self.baseline[0] + _sums(
            X, self.roots, self.feature, self.threshold, self.children, self.missing_left
        )

    def contributions(self, X: ArrayLike) -> NDArray[np.float64]:
        """(R, d) Shapley values: with :attr:`expected` they add up to the prediction.

        Lundberg et al., From local explanations to global understanding with explainable AI for
        trees, Nature Machine Intelligence 2, 2020, algorithm 2 (path-dependent).
        """
        X = self._checked(X)
        return _shapley(
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
        return int(_deepest(self.feature, self.children))

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


@njit(cache=True, nogil=True)
def _deepest(feature, children):
    depth = np.zeros(len(feature), np.int64)
    deepest = 0
    for node in range(len(feature)):
        if feature[node] >= 0:
            for side in range(2):
                depth[children[node, side]] = depth[node] + 1
            deepest = max(deepest, depth[node] + 1)
    return deepest


@njit(cache=True, nogil=True)
def _side(value, node, threshold, missing_left):
    if np.isnan(value):
        return 0 if missing_left[node] == 1 else 1
    return 0 if value <= threshold[node] else 1


@njit(cache=True, nogil=True)
def _sums(X, roots, feature, threshold, children, missing_left):
    result = np.zeros(len(X))
    for b in range(len(roots)):
        for i in range(len(X)):
            node = roots[b]
            while feature[node] >= 0:
                side = _side(np.float64(X[i, feature[node]]), node, threshold, missing_left)
                node = children[node, side]
            result[i] += threshold[node]
    return result


@njit(cache=True, nogil=True)
def _shapley(X, roots, feature, threshold, children, missing_left, cover, size):
    phi = np.zeros((len(X), X.shape[1]))
    # One row a level of the tree: the features of the path so far, the share of training rows
    # that goes this way (zero), whether the hour itself does (one), and permutation weights.
    column = np.zeros((size, size), np.int64)
    zero, one, weight = np.zeros((size, size)), np.zeros((size, size)), np.zeros((size, size))
    stack = np.zeros((2 * size, 4), np.int64)
    shares = np.zeros((2 * size, 2))
    for i in range(len(X)):
        for b in range(len(roots)):
            stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = roots[b], 0, 0, -1
            shares[0, 0], shares[0, 1] = 1.0, 1.0
            top = 1
            while top > 0:
                top -= 1
                node, level = stack[top, 0], stack[top, 1]
                length, came = stack[top, 2], stack[top, 3]
                if level > 0:
                    for j in range(length):
                        column[level, j] = column[level - 1, j]
                        zero[level, j], one[level, j] = zero[level - 1, j], one[level - 1, j]
                        weight[level, j] = weight[level - 1, j]
                f, z, o, w = column[level], zero[level], one[level], weight[level]
                _extend(f, z, o, w, length, came, shares[top, 0], shares[top, 1])
                if feature[node] < 0:
                    for j in range(1, length + 1):
                        total = _unwound(z, o, w, length, j)
                        phi[i, f[j]] += total * (o[j] - z[j]) * threshold[node]
                    continue
                side = _side(np.float64(X[i, feature[node]]), node, threshold, missing_left)
                share, follows = 1.0, 1.0
                for j in range(1, length + 1):
                    if f[j] == feature[node]:
                        share, follows = z[j], o[j]
                        _unwind(f, z, o, w, length, j)
                        length -= 1
                        break
                for hot in range(2):
                    child = children[node, side if hot == 1 else 1 - side]
                    stack[top, 0], stack[top, 1] = child, level + 1
                    stack[top, 2], stack[top, 3] = length + 1, feature[node]
                    shares[top, 0] = share * cover[child] / cover[node]
                    shares[top, 1] = follows if hot == 1 else 0.0
                    top += 1
    return phi


@njit(cache=True, nogil=True)
def _extend(f, z, o, w, length, came, zero, one):
    f[length], z[length], o[length] = came, zero, one
    w[length] = 1.0 if length == 0 else 0.0
    for j in range(length - 1, -1, -1):
        w[j + 1] += one * w[j] * (j + 1) / (length + 1)
        w[j] = zero * w[j] * (length - j) / (length + 1)


@njit(cache=True, nogil=True)
def _unwind(f, z, o, w, length, at):
    one, zero, following = o[at], z[at], w[length]
    for j in range(length - 1, -1, -1):
        if one != 0:
            before = w[j]
            w[j] = following * (length + 1) / ((j + 1) * one)
            following = before - w[j] * zero * (length - j) / (length + 1)
        else:
            w[j] = w[j] * (length + 1) / (zero * (length - j))
    for j in range(at, length):
        f[j], z[j], o[j] = f[j + 1], z[j + 1], o[j + 1]


@njit(cache=True, nogil=True)
def _unwound(z, o, w, length, at):
    one, zero, following = o[at], z[at], w[length]
    total = 0.0
    for j in range(length - 1, -1, -1):
        if one != 0:
            part = following * (length + 1) / ((j + 1) * one)
            total += part
            following = w[j] - part * zero * (length - j) / (length + 1)
        else:
            total += w[j] * (length + 1) / (zero * (length - j))
    return total
