"""Boosted trees as plain arrays, so that a fitted one can be saved without a pickle.

scikit-learn grows them; what is kept is the splits and the leaf values. Opening a saved model then
reads numbers and cannot run code, which formats that name classes to build (pickle, joblib, and
skops beyond its list of trusted types) do not promise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ArtefactError, ParameterError
from foretell.learners.artefact import load_artefact, save_artefact

_KIND = "BoostedTrees"


@dataclass(frozen=True, eq=False)
class BoostedTrees:
    """A binary classifier: the logistic function of a sum of trees.

    Args:
        baseline: log-odds (1,) that the sum starts from.
        roots: first node (B,) of each tree.
        feature: feature (N,) that a node splits on, -1 in a leaf.
        threshold: (N,) values up to it go left; the value of a leaf.
        children: left and right child (N, 2), counted from the first node of all.
        missing_left: (N,) whether a missing value goes left.
        left_set: (N,) row of ``sets`` with the categories that go left; -1 for a numeric split.
        sets: (S, 8) uint32, 256 bits each.
        known_set: (d,) row of ``known`` with the categories seen in training, -1 if numeric.
        known: (C, 8) uint32.
        order: (d,) the input column of each feature of the trees.
        categories: names of the categories of all encoded columns, as numbers.
        category_ends: (C,) where the categories of each encoded column end in ``categories``.
    """

    baseline: NDArray[np.float64]
    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    children: NDArray[np.int64]
    missing_left: NDArray[np.uint8]
    left_set: NDArray[np.int32]
    sets: NDArray[np.uint32]
    known_set: NDArray[np.int32]
    known: NDArray[np.uint32]
    order: NDArray[np.int64]
    categories: NDArray[np.float64]
    category_ends: NDArray[np.int64]

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """The trees of a fitted ``HistGradientBoostingClassifier``.

        Raises:
            ParameterError: another model, more than two classes, or categories that are text.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        if type(model) is not HistGradientBoostingClassifier:
            raise ParameterError(
                "only the trees of a HistGradientBoostingClassifier can be kept as arrays, not "
                f"those of a {type(model).__name__}"
            )
        if list(model.classes_) != [0, 1]:
            raise ParameterError(f"the classes must be 0 and 1, not {list(model.classes_)}")
        trees = [tree for (tree,) in model._predictors]
        nodes = np.concatenate([tree.nodes for tree in trees])
        sizes = np.array([len(tree.nodes) for tree in trees])
        roots = np.cumsum(sizes) - sizes
        begin = np.repeat(roots, sizes)
        leaf = nodes["is_leaf"] == 1
        by_set = (nodes["is_categorical"] == 1) & ~leaf
        set_counts = np.array([len(tree.raw_left_cat_bitsets) for tree in trees])
        set_begin = np.repeat(np.cumsum(set_counts) - set_counts, sizes)
        known, places = model._bin_mapper.make_known_categories_bitsets()
        order, categories, ends = _encoding(model)
        categorical = model._is_categorical_remapped
        if categorical is None:
            categorical = np.zeros(len(order), bool)
        return cls(
            baseline=np.asarray(model._baseline_prediction, np.float64).reshape(1),
            roots=roots.astype(np.int64),
            feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int32),
            threshold=np.where(leaf, nodes["value"], nodes["num_threshold"]).astype(np.float64),
            children=np.stack([nodes["left"] + begin, nodes["right"] + begin], 1).astype(np.int64),
            missing_left=nodes["missing_go_to_left"].astype(np.uint8),
            left_set=np.where(by_set, nodes["bitset_idx"] + set_begin, -1).astype(np.int32),
            sets=np.concatenate([t.raw_left_cat_bitsets.reshape(-1, 8) for t in trees]),
            known_set=np.where(categorical, places, -1).astype(np.int32),
            known=np.asarray(known, np.uint32).reshape(-1, 8),
            order=order,
            categories=categories,
            category_ends=ends,
        )

    @property
    def n_features(self) -> int:
        """Number d of input columns."""
        return len(self.order)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n, 2) of features (n, d), NaN where missing.

        Raises:
            ParameterError: the number of columns is another one.
        """
        X = np.asarray(X, np.float64)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ParameterError(f"features must be (n, {self.n_features}), not {X.shape}")
        own = np.ascontiguousarray(X[:, self.order])
        begin = 0
        for j, end in enumerate(self.category_ends):
            own[:, j] = _encode(own[:, j], self.categories[begin:end])
            begin = end
        # A table without rows is a read that never happens, but numba wants one of its type.
        sets, known = (
            s if len(s) else np.zeros((1, 8), np.uint32) for s in (self.sets, self.known)
        )
        raw = self.baseline[0] + _sum_of_trees(
            own, self.roots, self.feature, self.threshold, self.children, self.missing_left,
            self.left_set, sets, self.known_set, known,
        )  # fmt: skip
        p = 1 / (1 + np.exp(-raw))
        return np.stack([1 - p, p], axis=1)

    def save(self, folder: str | Path) -> None:
        """Writes ``model.json`` and ``arrays.safetensors``."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        save_artefact(folder, _KIND, {"n_features": self.n_features}, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: it is damaged, or its arrays do not fit together.
        """
        _, arrays = load_artefact(folder, _KIND)
        missing = {f.name for f in fields(cls)} - set(arrays)
        if missing:
            raise ArtefactError(f"{folder} lacks {', '.join(sorted(missing))}")
        trees = cls(**{f.name: arrays[f.name] for f in fields(cls)})
        problem = trees._problem()
        if problem:
            raise ArtefactError(f"{folder} is damaged: {problem}")
        return trees

    def _problem(self) -> str:
        """What would make a prediction read outside of the arrays, or never end."""
        n, d = len(self.feature), len(self.order)
        shapes = {
            "threshold": (n,), "children": (n, 2), "missing_left": (n,), "left_set": (n,),
            "known_set": (d,), "baseline": (1,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                return f"{name} is {getattr(self, name).shape}, not {shape}"
        kinds = {f.name: np.asarray(getattr(self, f.name)).dtype.kind for f in fields(self)}
        for name, kind in kinds.items():
            wanted = "f" if name in ("baseline", "threshold", "categories") else "iu"
            if kind not in wanted:
                return f"{name} holds {getattr(self, name).dtype}"
        for name in ("sets", "known"):
            if getattr(self, name).shape[1:] != (8,):
                return f"{name} is {getattr(self, name).shape}"
        inner = self.feature >= 0
        own = np.arange(n)[:, None]
        if (inner[:, None] & ((self.children <= own) | (self.children >= n))).any():
            return "a node's child does not come after it"
        bounds = (
            ("roots", self.roots, n), ("feature", self.feature[inner], d), ("order", self.order, d),
            ("left_set", self.left_set, len(self.sets)),
            ("known_set", self.known_set, len(self.known)),
        )  # fmt: skip
        for name, values, limit in bounds:
            if len(values) and (values.max() >= limit or values.min() < -1):
                return f"{name} points outside"
        if len(self.roots) and min(self.roots.min(), self.order.min()) < 0:
            return "roots or order point outside"
        if (self.known_set[self.feature[inner & (self.left_set >= 0)]] < 0).any():
            return "a numeric feature is split by categories"
        ends = np.concatenate([[0], self.category_ends])
        if len(ends) > d + 1 or (np.diff(ends) < 0).any() or ends[-1] != len(self.categories):
            return "category_ends point outside"
        return ""


def _encoding(model: Any) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Input column of each feature, and the categories of the first of them."""
    d = model.n_features_in_
    if model._preprocessor is None:
        return np.arange(d), np.zeros(0), np.zeros(0, np.int64)
    mask = np.asarray(model.is_categorical_, bool)
    names = model._preprocessor.named_transformers_["encoder"].categories_
    if any(values.dtype.kind not in "fiub" for values in names):
        raise ParameterError("categories must be numbers (codes), not text")
    known = [values.astype(np.float64) for values in names]
    known = [values[~np.isnan(values)] for values in known]
    ends = np.cumsum([len(values) for values in known]).astype(np.int64)
    return (
        np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)]),
        np.concatenate(known),
        ends,
    )


def _encode(values: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place of each value among the known ones, NaN where it is none of them."""
    if not len(known):
        return np.full(len(values), np.nan)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[place] == values, place.astype(np.float64), np.nan)


@njit(cache=True, nogil=True)
def _holds(sets: Any, row: Any, code: Any) -> Any:
    return (sets[row, code // 32] >> np.uint32(code % 32)) & np.uint32(1)


@njit(cache=True, nogil=True)
def _sum_of_trees(
    X: Any,
    roots: Any,
    feature: Any,
    threshold: Any,
    children: Any,
    missing_left: Any,
    left_set: Any,
    sets: Any,
    known_set: Any,
    known: Any,
) -> Any:
    result = np.zeros(len(X))
    for i in range(len(X)):
        total = 0.0
        for b in range(len(roots)):
            node = roots[b]
            while feature[node] >= 0:
                value = X[i, feature[node]]
                # As scikit-learn: a category that training did not see goes where missing goes.
                left = missing_left[node] == 1
                if not np.isnan(value):
                    if left_set[node] < 0:
                        left = value <= threshold[node]
                    elif 0 <= value < 256:
                        code = int(value)
                        if _holds(sets, left_set[node], code):
                            left = True
                        elif _holds(known, known_set[feature[node]], code):
                            left = False
                node = children[node, 0 if left else 1]
            total += threshold[node]
        result[i] = total
    return result
