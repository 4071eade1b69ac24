"""Trees as arrays: predictions, Shapley values, refusals."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from foretell.errors import ParameterError
from foretell.learners.risk import AdditiveTrees


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 4)).astype(np.float32)
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 3] = rng.normal(size=800)
    return X, np.nan_to_num(X[:, 0]) * np.nan_to_num(X[:, 1]) + X[:, 3] ** 2


@pytest.fixture(scope="module")
def grown(table):
    return HistGradientBoostingRegressor(max_iter=12, max_leaf_nodes=9).fit(*table)


def test_predictions_are_scikit_learns(table, grown):
    X, y = table
    trees = AdditiveTrees.from_sklearn(grown)
    np.testing.assert_allclose(trees.predict(X), grown.predict(X), atol=1e-12)
    label = (y > 1).astype(int)
    odds = HistGradientBoostingClassifier(max_iter=5).fit(X, label)
    found = AdditiveTrees.from_sklearn(odds).predict(X)
    np.testing.assert_allclose(found, odds.decision_function(X), atol=1e-12)


def test_a_split_of_the_missing_from_the_known_is_kept(table):
    X = table[0]
    model = HistGradientBoostingRegressor(max_iter=2).fit(X, np.isnan(X[:, 1]) * 1.0)
    assert np.isinf(model._predictors[0][0].nodes["num_threshold"]).any()
    trees = AdditiveTrees.from_arrays(AdditiveTrees.from_sklearn(model).to_arrays())
    np.testing.assert_allclose(trees.predict(X), model.predict(X), atol=1e-12)


@pytest.mark.parametrize("extra", [False, True])
def test_predictions_and_contributions_are_lightgbms(table, extra):
    lightgbm = pytest.importorskip("lightgbm")
    X, y = table
    settings = {"objective": "regression", "verbose": -1, "extra_trees": extra, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(X, y), 20)
    trees = AdditiveTrees.from_lightgbm(booster)
    odd = X.copy()
    odd[:50, 3] = np.nan  # never missing in training
    np.testing.assert_allclose(trees.predict(odd), booster.predict(odd), atol=1e-12)
    theirs = booster.predict(odd[:80], pred_contrib=True)
    np.testing.assert_allclose(trees.contributions(odd[:80]), theirs[:, :-1], atol=1e-10)
    assert trees.expected == pytest.approx(theirs[0, -1])


def test_contributions_are_shapley_values(table, grown):
    """Against the definition: a mean over all orders of what is known."""
    X, trees = table[0][:3], AdditiveTrees.from_sklearn(grown)

    def value(x, known, node):
        if trees.feature[node] < 0:
            return trees.threshold[node]
        left, right = trees.children[node]
        f = trees.feature[node]
        if f in known:
            goes = trees.missing_left[node] if np.isnan(x[f]) else x[f] <= trees.threshold[node]
            return value(x, known, left if goes else right)
        share = trees.cover[left] / trees.cover[node]
        return share * value(x, known, left) + (1 - share) * value(x, known, right)

    def total(x, known):
        return sum(value(x, known, root) for root in trees.roots)

    d = trees.n_features
    for x, found in zip(X, trees.contributions(X), strict=True):
        for f in range(d):
            others = [g for g in range(d) if g != f]
            mean = sum(
                factorial(k) * factorial(d - k - 1) / factorial(d)
                * (total(x, {*known, f}) - total(x, set(known)))
                for k in range(d)
                for known in combinations(others, k)
            )  # fmt: skip
            assert found[f] == pytest.approx(mean, abs=1e-10)


def test_contributions_add_up(table, grown):
    trees = AdditiveTrees.from_sklearn(grown)
    sums = trees.contributions(table[0]).sum(axis=1) + trees.expected
    np.testing.assert_allclose(sums, trees.predict(table[0]), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("children", lambda a: a * 0, "come after"),
        ("children", lambda a: a + 10**6, "come after"),
        ("feature", lambda a: a + 90, "not there"),
        ("roots", lambda a: a + 1, "roots"),
        ("threshold", lambda a: a * np.nan, "finite"),
        ("cover", lambda a: a * 0, "training row"),
        ("cover", lambda a: a[:-1], "cover is"),
        ("missing_left", lambda a: a.astype(np.float32), "holds"),
    ],
)  # fmt: skip
def test_damaged_arrays_are_refused(grown, name, change, message):
    arrays = AdditiveTrees.from_sklearn(grown).to_arrays()
    AdditiveTrees.from_arrays(arrays)
    with pytest.raises(ValueError, match=message):
        AdditiveTrees.from_arrays({**arrays, name: change(arrays[name])})
    with pytest.raises(ValueError, match="missing"):
        AdditiveTrees.from_arrays({k: v for k, v in arrays.items() if k != name})


def test_other_widths_are_refused(grown):
    with pytest.raises(ParameterError, match="features must be"):
        AdditiveTrees.from_sklearn(grown).predict(np.zeros((2, 3)))
