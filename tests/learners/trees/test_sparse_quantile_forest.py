"""The estimator: contract, statistical properties, edge cases."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from foretell.errors import DataError, ParameterError
from foretell.learners.trees import SparseQuantileForestRegressor as Forest

_spec = importlib.util.spec_from_file_location(
    "forest_simulators", Path(__file__).with_name("simulators.py")
)
simulators = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(simulators)
LEVELS = simulators.LEVELS


def small_problem(n=400, p=6, seed=0, absent=0.3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[rng.uniform(size=X.shape) < absent] = np.nan
    z = np.nan_to_num(X, nan=0.7)
    y = 2 * z[:, 0] + np.exp(0.5 * z[:, 1]) * rng.normal(size=n)
    return X, y


def as_sparse(X):
    rows, columns = np.nonzero(~np.isnan(X))
    return sparse.csr_array((X[rows, columns], (rows, columns)), shape=X.shape)


def same_forest(a, b):
    return all(
        np.array_equal(getattr(a.forest_, name), getattr(b.forest_, name))
        for name in (
            "feature",
            "threshold",
            "default_left",
            "child",
            "leaf_ptr",
            "codes",
            "weights",
        )
    )


# ------------------------------------------------------------- contract


def test_passes_the_estimator_checks():
    # bootstrap draws differ between weights and repeated rows, as in every bootstrap forest
    allowed = {
        f"check_sample_weight_equivalence_on_{kind}_data": "rows are drawn by bootstrap"
        for kind in ("dense", "sparse")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(
            Forest(6, min_samples_leaf=3, random_state=0),
            expected_failed_checks=allowed,
            on_skip=None,
        )


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array", "records", "float32"])
def test_every_form_of_input_grows_the_same_forest(kind):
    X, y = small_problem()
    X = X.astype(np.float32)
    X[3, 2] = 0.0
    names = [f"c{k}" for k in range(X.shape[1])]
    other = {
        "csr_array": lambda: as_sparse(X),
        "csc_matrix": lambda: sparse.csc_matrix(as_sparse(X)),
        "coo_array": lambda: as_sparse(X).tocoo(),
        "records": lambda: [
            {n: float(v) for n, v in zip(names, row, strict=True) if not np.isnan(v)} for row in X
        ],
        "float32": lambda: np.asfortranarray(X),
    }[kind]()
    dense = Forest(5, random_state=0).fit(X.astype(float), y)
    forest = Forest(5, random_state=0).fit(other, y)
    assert same_forest(dense, forest)
    np.testing.assert_array_equal(dense.predict(X, [0.2, 0.8]), forest.predict(other, [0.2, 0.8]))


def test_stored_zero_is_a_value_and_not_stored_is_absent():
    n = 600
    rng = np.random.default_rng(0)
    present = rng.uniform(size=n) < 0.5
    y = np.where(present, 1.0, 5.0) + rng.normal(size=n) * 0.1
    rows = np.flatnonzero(present)
    X = sparse.csr_array((np.zeros(len(rows)), (rows, np.zeros(len(rows), int))), shape=(n, 1))
    assert X.nnz == len(rows)
    forest = Forest(10, random_state=0).fit(X, y)
    zero = sparse.csr_array((np.zeros(1), (np.zeros(1, int), np.zeros(1, int))), shape=(1, 1))
    assert forest.predict(zero, 0.5)[0] == pytest.approx(1.0, abs=0.2)
    assert forest.predict(sparse.csr_array((1, 1)), 0.5)[0] == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("storage", ["codes", "values"])
def test_threads_do_not_change_anything(storage):
    X, y = small_problem(800)
    one = Forest(7, leaf_storage=storage, oob_score=True, random_state=3).fit(X, y)
    three = Forest(7, leaf_storage=storage, oob_score=True, random_state=3, n_jobs=3).fit(X, y)
    assert same_forest(one, three)
    np.testing.assert_array_equal(one.predict(X, LEVELS), three.predict(X, LEVELS))
    assert one.oob_score_ == three.oob_score_
    assert one.oob_wql_ == three.oob_wql_
    assert not same_forest(one, clone(one).set_params(random_state=4).fit(X, y))


def test_compiled_and_numpy_agree_whatever_the_options():
    rng = np.random.default_rng(0)
    X, _ = small_problem(300)
    X = np.round(X, 1)
    y = np.round(3 * np.nan_to_num(X[:, 0]) + 8 * rng.normal(size=len(X)))
    weight = rng.integers(1, 4, len(X)).astype(float)
    for options in (
        {},
        {"leaf_storage": "values"},
        {"max_features": 2, "max_samples_leaf": 5, "max_depth": 4},
        {"interpolation": "midpoint", "bootstrap": False, "max_samples": 0.7},
        {"interpolation": "lower", "min_samples_leaf": 1, "max_features": "sqrt"},
    ):
        a = Forest(3, random_state=0, **options).fit(X, y, weight)
        b = Forest(3, random_state=0, backend="numpy", **options).fit(X, y, weight)
        assert same_forest(a, b), options
        levels = [0.0, 0.1, 0.5, 0.77, 1.0]
        np.testing.assert_allclose(a.predict(X, levels), b.predict(X, levels), atol=1e-9)
        np.testing.assert_allclose(a.predict(X), b.predict(X), atol=1e-9)
        np.testing.assert_allclose(a.predict_cdf(X, [-3, 0, 2.5]), b.predict_cdf(X, [-3, 0, 2.5]))


def test_compiled_and_numpy_agree_for_the_mean_criterion():
    X, y = small_problem(300)
    X = np.round(X, 1)
    a = Forest(3, criterion="mse", max_depth=4, random_state=0).fit(X, y)
    b = Forest(3, criterion="mse", max_depth=4, random_state=0, backend="numpy").fit(X, y)
    np.testing.assert_array_equal(a.apply(X), b.apply(X))


# ---------------------------------------------------------- prediction


def brute_force(forest, X, X_train, y, in_bag_weights, levels):
    """Meinshausen's weights by comparing leaves, O(n B), and the interpolated inverse."""
    leaves, train = forest.apply(X), forest.apply(X_train)
    distinct, repeats = np.unique(y, return_counts=True)
    result = np.empty((len(X), len(levels)))
    cdf = []
    for i in range(len(X)):
        w = np.zeros(len(y))
        for b in range(leaves.shape[1]):
            here = (train[:, b] == leaves[i, b]) * in_bag_weights[b]
            w += here / here.sum() / leaves.shape[1]
        mass = np.array([w[y == v].sum() for v in distinct])
        seen = mass > 0
        v, m, atom = distinct[seen], mass[seen], repeats[seen] > 1
        top = np.cumsum(m)
        bottom = top - m
        knots_x = np.stack([np.where(atom, bottom, (bottom + top) / 2)] * 2, 1)
        knots_x[:, 1] = np.where(atom, top, knots_x[:, 0])
        result[i] = np.interp(levels, knots_x.ravel(), np.repeat(v, 2))
        cdf.append([w[y <= point].sum() for point in (0.0, 1.0)])
    return result, np.array(cdf)


@pytest.mark.parametrize("atoms", [False, True])
@pytest.mark.parametrize("criterion", ["quantile", "mse"])
def test_equals_brute_force_with_the_same_leaves(atoms, criterion):
    X, y = small_problem(250)
    if atoms:
        y = np.where(y < 0, 0.0, y)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y))
    forest = Forest(
        6,
        criterion=criterion,
        leaf_storage="values",
        max_samples_leaf=None,
        bootstrap=False,
        max_samples=0.6,
        random_state=5,
    ).fit(X, y, weight)
    from foretell.learners.trees.fitting import draw_counts

    drawn = [
        draw_counts(len(y), b, forest._settings(len(y), X.shape[1])) * weight for b in range(6)
    ]
    levels = [0.03, 0.2, 0.5, 0.71, 0.95]
    expected, cdf = brute_force(forest, X[:60], X, y, drawn, levels)
    np.testing.assert_allclose(forest.predict(X[:60], levels), expected, atol=1e-6)
    np.testing.assert_allclose(forest.predict_cdf(X[:60], [0.0, 1.0]), cdf, atol=1e-6)


def test_dense_quantiles_equal_those_of_quantile_forest():
    peer = pytest.importorskip("quantile_forest")
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(1500, 4)), rng.normal(size=(300, 4))
    y = 20 + 3 * X[:, 0] + np.exp(0.5 * X[:, 1]) * rng.normal(size=len(X))
    levels = [0.1, 0.5, 0.9]
    ours = Forest(
        200,
        criterion="mse",
        max_features=None,
        max_samples_leaf=None,
        min_samples_leaf=8,
        leaf_storage="values",
        random_state=0,
    ).fit(X, y)
    theirs = peer.RandomForestQuantileRegressor(
        n_estimators=200, min_samples_leaf=8, max_samples_leaf=None, random_state=0
    ).fit(X, y)
    a, b = ours.predict(Z, levels), theirs.predict(Z, quantiles=levels)
    assert np.mean(np.abs(a - b) / np.abs(b)) <= 0.02
    assert np.mean(a - b) == pytest.approx(0, abs=0.1)


def test_codes_and_exact_leaves_predict_nearly_the_same():
    X, y = small_problem(1500)
    coded = Forest(10, random_state=0, max_samples_leaf=None).fit(X, y)
    exact = clone(coded).set_params(leaf_storage="values").fit(X, y)
    np.testing.assert_array_equal(coded.apply(X), exact.apply(X))
    gap = np.abs(coded.predict(X, LEVELS) - exact.predict(X, LEVELS))
    assert gap.mean() < 0.01 * y.std()


def test_quantiles_at_the_ends_are_the_least_and_the_greatest_response():
    X, y = small_problem()
    forest = Forest(
        1,
        leaf_storage="values",
        bootstrap=False,
        max_depth=0,
        random_state=0,
        max_samples_leaf=None,
    ).fit(X, y)
    ends = forest.predict(X[:5], [0, 1])
    assert (ends[:, 0] == y.min()).all() and (ends[:, 1] == y.max()).all()
    assert forest.predict(X[:2], 0.5)[0] == pytest.approx(np.median(y), abs=0.05)


def test_counts_keep_their_atoms():
    rng = np.random.default_rng(0)
    y = np.where(rng.uniform(size=500) < 0.6, 0.0, rng.gamma(3.0, size=500))
    forest = Forest(20, random_state=0).fit(rng.normal(size=(500, 2)) * 0 + 1, y)
    quantiles = forest.predict(np.ones((1, 2)), [0.3, 0.5, 0.55, 0.7])[0]
    assert (quantiles[:3] == 0).all() and quantiles[3] > 0


def test_weighted_samples_cdf_and_pit_tell_the_same_distribution():
    X, y = small_problem(1000)
    forest = Forest(30, random_state=0, interpolation="lower").fit(X, y)
    ptr, values, weights = forest.predict_distribution(X[:20])
    assert len(ptr) == 21
    np.testing.assert_allclose(np.add.reduceat(weights, ptr[:-1]), 1.0)
    np.testing.assert_allclose(np.add.reduceat(weights * values, ptr[:-1]), forest.predict(X[:20]))
    draws = forest.predict_sample(X[:20], 4000, random_state=0)
    np.testing.assert_allclose(
        np.quantile(draws, 0.5, axis=1), forest.predict(X[:20], 0.5), atol=0.35
    )
    points = np.median(draws, axis=1)[:, None]
    at_most = forest.predict_cdf(X[:20], points)[:, 0]
    assert (at_most >= 0.45).all()
    order = forest.predict_cdf(X[:20], [1.0, -1.0])
    assert (order[:, 0] >= order[:, 1]).all()
    fresh, truth = small_problem(2000, seed=8)
    pit = forest.pit(fresh, truth, random_state=0)
    assert 0 <= pit.min() and pit.max() <= 1
    assert np.abs(np.histogram(pit, 5, (0, 1))[0] / 2000 - 0.2).max() < 0.06


def test_out_of_bag_is_honest():
    X, y = small_problem(1500)
    forest = Forest(60, oob_score=True, random_state=0).fit(X, y)
    fresh, truth = small_problem(3000, seed=9)
    assert forest.oob_score_ == pytest.approx(forest.score(fresh, truth), abs=0.08)
    assert forest.score(X, y) > forest.oob_score_ + 0.05
    assert np.isfinite(forest.oob_prediction_).all()
    cover = (y[:, None] <= forest.oob_quantiles_).mean(0)
    assert np.abs(cover - LEVELS).max() < 0.07


# ------------------------------------------------- statistical properties


def test_presence_is_information_s1():
    peer = pytest.importorskip("quantile_forest")
    X, y, _ = simulators.presence_matters(4000, 0)
    Z, _, mean = simulators.presence_matters(4000, 1)
    ours = Forest(50, random_state=0).fit(X, y).predict(Z, LEVELS)
    zero_filled = peer.RandomForestQuantileRegressor(
        50, min_samples_leaf=8, max_samples_leaf=64, max_features=0.3, random_state=0
    ).fit(X.toarray(), y)
    theirs = zero_filled.predict(Z.toarray(), quantiles=list(LEVELS))
    assert simulators.regret(ours, mean, 4.0) <= 0.06
    assert simulators.regret(theirs, mean, 4.0) >= 0.20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_presence_is_information_s1_at_full_size(seed):
    X, y, _ = simulators.presence_matters(20_000, seed)
    Z, _, mean = simulators.presence_matters(10_000, seed + 100)
    ours = Forest(100, random_state=seed, n_jobs=2).fit(X, y).predict(Z, LEVELS)
    dense = np.asarray(X.todense())
    blind = Forest(100, random_state=seed, n_jobs=2).fit(dense, y).predict(Z.toarray(), LEVELS)
    regrets = simulators.regret(ours, mean, 4.0), simulators.regret(blind, mean, 4.0)
    print("regret", regrets)
    assert regrets[0] <= 0.04
    assert regrets[1] >= 0.20


def test_quantile_criterion_sees_a_change_of_spread_that_the_mean_does_not():
    rng = np.random.default_rng(0)
    n = 3000
    X = rng.normal(size=(n, 10))
    y = np.where(X[:, 0] > 0, 3.0, 0.5) * rng.normal(size=n)
    by_quantiles = Forest(30, max_depth=3, random_state=0).fit(X, y)
    by_mean = Forest(30, max_depth=3, criterion="mse", random_state=0).fit(X, y)
    assert by_quantiles.feature_importances_[0] > 0.6
    assert by_mean.feature_importances_[0] < by_quantiles.feature_importances_[0] - 0.2
    assert by_quantiles.feature_importances_.sum() == pytest.approx(1)


def lines_regret(seed, sizes, shared, trees, pooled_options=None):
    X, y, line, _ = simulators.product_lines(seed, sizes, shared=shared)
    test_sizes = np.full(len(sizes), 300)
    Z, _, where, mean = simulators.product_lines(seed + 50, test_sizes, shared=shared)
    pooled = Forest(trees, random_state=0, **(pooled_options or {})).fit(X, y).predict(Z, LEVELS)
    alone = np.empty_like(pooled)
    for g in range(len(sizes)):
        own = Forest(trees, random_state=0, **(pooled_options or {})).fit(
            X[line == g], y[line == g]
        )
        alone[where == g] = own.predict(Z[where == g], LEVELS)
    tail = where >= 5
    truth = simulators.true_quantiles(mean, 6.0)
    return tuple(
        simulators.expected_pinball(q[tail], mean[tail], 6.0) for q in (pooled, alone, truth)
    )


def test_small_lines_gain_from_pooling_s2():
    sizes = np.maximum(150, (6000 / np.arange(1, 13) ** 1.3)).astype(int)
    pooled, alone, truth = lines_regret(0, sizes, True, 30)
    assert truth < pooled <= 0.97 * alone


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_lines_gain_from_pooling_s2_at_full_size(seed):
    sizes = np.maximum(150, (12_000 / np.arange(1, 21) ** 1.3)).astype(int)
    pooled, alone, truth = lines_regret(seed, sizes, True, 60, {"n_jobs": 2})
    print("pooled / alone", pooled / alone)
    assert truth < pooled <= 0.97 * alone


def test_pooling_does_not_help_lines_that_share_nothing():
    sizes = np.full(8, 500)
    pooled, alone, _ = lines_regret(0, sizes, False, 30)
    assert alone < pooled
    # with the line's name the pooled trees get at least part of the way back
    X, y, line, _ = simulators.product_lines(0, sizes, shared=False)
    Z, _, where, mean = simulators.product_lines(50, np.full(8, 300), shared=False)
    named = Forest(30, random_state=0).fit(X, y, groups=line).predict(Z, LEVELS, groups=where)
    blind = Forest(30, random_state=0).fit(X, y).predict(Z, LEVELS)
    assert simulators.regret(named, mean, 6.0) < simulators.regret(blind, mean, 6.0)


def test_groups_let_the_trees_separate():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 5))
    groups = rng.integers(0, 10, 2000)
    y = groups * 1.0 + rng.normal(size=2000) * 0.3
    forest = Forest(20, random_state=0).fit(X, y, groups=groups)
    quantiles = forest.predict(X, 0.5, groups=groups)
    assert np.abs(quantiles - groups).mean() < 0.2
    unknown = forest.predict(X[:5], 0.5, groups=["new"] * 5)
    assert np.isfinite(unknown).all()
    with pytest.raises(ParameterError, match="not to fit"):
        Forest(2, random_state=0).fit(X, y).predict(X, groups=groups)


def test_cost_follows_the_present_values_not_the_columns_s3():
    # same entries in 50 times the columns: the work arrays may grow with entries, never with n * p
    import tracemalloc

    rng = np.random.default_rng(0)
    n, per_row = 4000, 10
    peaks = []
    for p in (400, 20_000):
        columns = np.concatenate([rng.choice(p, per_row, replace=False) for _ in range(n)])
        X = sparse.csr_array(
            (rng.normal(size=n * per_row), columns, np.arange(0, n * per_row + 1, per_row)), (n, p)
        )
        y = rng.normal(size=n)
        Forest(2, random_state=0).fit(X, y)
        tracemalloc.start()
        Forest(2, random_state=0).fit(X, y)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 256 * 20_000
    assert peaks[1] < 0.1 * n * 20_000


# ---------------------------------------------------------- invariants


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(2, 80),
    p=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    leaf=st.integers(1, 8),
    rounded=st.booleans(),
    interpolation=st.sampled_from(["linear", "lower", "midpoint"]),
    criterion=st.sampled_from(["quantile", "mse"]),
)
def test_quantiles_never_cross_and_stay_inside(n, p, seed, leaf, rounded, interpolation, criterion):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[rng.uniform(size=X.shape) < 0.4] = np.nan
    y = rng.normal(size=n)
    if rounded:
        X, y = np.round(X), np.round(y)
    forest = Forest(
        3, min_samples_leaf=leaf, interpolation=interpolation, criterion=criterion, random_state=0
    ).fit(X, y)
    levels = np.sort(np.concatenate(([0, 1], rng.uniform(size=20))))
    quantiles = forest.predict(X, levels)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert quantiles.min() >= y.min() - 1e-12 and quantiles.max() <= y.max() + 1e-12


@settings(max_examples=15, deadline=None)
@given(n=st.integers(20, 150), seed=st.integers(0, 10**6))
def test_order_of_the_rows_does_not_matter(n, seed):
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(n, 3)), 1)
    X[rng.uniform(size=X.shape) < 0.3] = np.nan
    y = np.round(rng.normal(size=n), 1)
    options = {"bootstrap": False, "max_features": None, "random_state": 0, "max_samples_leaf": 10}
    order = rng.permutation(n)
    a = Forest(2, **options).fit(X, y)
    b = Forest(2, **options).fit(X[order], y[order])
    np.testing.assert_allclose(a.predict(X, LEVELS), b.predict(X, LEVELS), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_weight_zero_is_as_good_as_not_there(seed):
    rng = np.random.default_rng(seed)
    X, y = small_problem(120, seed=seed)
    kept = rng.uniform(size=len(y)) < 0.7
    noisy = np.where(kept, y, 1e6)
    a = Forest(3, random_state=1, oob_score=True).fit(X, noisy, kept.astype(float))
    b = Forest(3, random_state=1, oob_score=True).fit(X[kept], y[kept])
    assert same_forest(a, b)
    np.testing.assert_array_equal(a.oob_prediction_[kept], b.oob_prediction_)
    assert np.isnan(a.oob_prediction_[~kept]).all()


# ---------------------------------------------------------- edge cases


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e60])
@pytest.mark.parametrize("form", ["dense", "sparse", "frame", "records"])
def test_infinity_is_refused_by_column_and_row(value, form):
    X, y = small_problem(50)
    X[7, 4] = value
    if form == "sparse":
        X, column = as_sparse(X), "4"
    elif form == "frame":
        import pandas as pd

        X, column = pd.DataFrame(X, columns=["a", "b", "c", "d", "ratio", "f"]), "ratio"
    elif form == "records":
        X, column = [{"ratio": row[4], "a": row[0]} for row in X], "ratio"
    else:
        column = "4"
    with pytest.raises(DataError, match=f"column '{column}', row 7"):
        Forest(2).fit(X, y)


def test_unknown_features_are_ignored_with_a_warning_and_categories_are_absent():
    rng = np.random.default_rng(0)
    kinds = rng.choice(["tea", "milk"], 300)
    records = [
        {"kind": k, "price": float(v)} for k, v in zip(kinds, rng.normal(size=300), strict=True)
    ]
    y = np.where(kinds == "tea", 1.0, 9.0) + rng.normal(size=300) * 0.1
    forest = Forest(10, random_state=0, max_features=None).fit(records, y)
    assert forest.record_columns_ == ["kind=milk", "kind=tea", "price"]
    assert forest.predict([{"kind": "tea"}, {"kind": "milk"}], 0.5) == pytest.approx(
        [1, 9], abs=0.3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unseen = forest.predict([{"kind": "wine"}, {}, {"price": None}], 0.5)
    assert np.isfinite(unseen).all() and unseen[0] == unseen[1]
    with pytest.warns(UserWarning, match="'colour'"):
        forest.predict([{"kind": "tea", "colour": 1.0}])
    wide = Forest(2, random_state=0).fit(sparse.csr_array(np.ones((40, 2))), np.arange(40.0))
    with pytest.warns(UserWarning, match="1 column"):
        wide.predict(sparse.csr_array(np.ones((2, 3))))
    with pytest.raises(DataError, match="list"):
        Forest(2).fit([{"a": [1]}] * 3, [1, 2, 3])


def test_all_absent_rows_follow_the_defaults():
    X, y = small_problem()
    forest = Forest(5, random_state=0).fit(X, y)
    row = forest.predict(np.full((2, X.shape[1]), np.nan), LEVELS)
    assert np.isfinite(row).all() and (row[0] == row[1]).all()
    nothing = Forest(5, random_state=0).fit(np.full((50, 3), np.nan), y[:50])
    assert nothing.predict(np.full((1, 3), np.nan), 0.5)[0] == pytest.approx(
        np.median(y[:50]), abs=0.8
    )


def test_constant_and_tiny_data():
    X, _ = small_problem(30)
    for criterion in ("quantile", "mse"):
        constant = Forest(4, criterion=criterion, random_state=0).fit(X, np.full(30, 3.5))
        assert (constant.predict(X, [0, 0.5, 1]) == 3.5).all()
        one = Forest(4, criterion=criterion, random_state=0).fit([[1.0]], [2.0])
        assert one.predict([[5.0]])[0] == 2.0


@pytest.mark.parametrize(
    ("weight", "match"), [(-1.0, "negative"), (np.nan, "NaN"), (0.0, "at least one non-zero")]
)
def test_weights_that_cannot_be_used(weight, match):
    X, y = small_problem(30)
    weights = np.zeros(30)
    weights[4] = weight
    with pytest.raises(ValueError, match=match):
        Forest(2).fit(X, y, weights)


def test_responses_that_cannot_be_used():
    X, y = small_problem(30)
    with pytest.raises(ValueError, match="row 3"):
        Forest(2).fit(X, np.where(np.arange(30) == 3, np.nan, y))
    with pytest.raises(ValueError, match="inconsistent"):
        Forest(2).fit(X, y[:-1])
    with pytest.raises(DataError, match="expected"):
        Forest(2).fit([{"a": 1.0}] * 3, [1.0, 2.0])


@pytest.mark.parametrize(
    "options",
    [
        {"n_estimators": 0},
        {"criterion": "mae"},
        {"min_samples_leaf": 0},
        {"max_features": 1.5},
        {"max_features": "log2"},
        {"max_bins": 300},
        {"split_quantiles": (0.0, 0.5)},
        {"leaf_storage": "rows"},
        {"interpolation": "nearest"},
        {"max_samples": 0.0},
        {"backend": "cuda"},
        {"max_depth": -1},
        {"max_samples_leaf": 0},
        {"min_presence": 2},
    ],
)
def test_parameters_outside_their_range_are_named(options):
    X, y = small_problem(30)
    with pytest.raises(ParameterError, match=next(iter(options))):
        Forest(**options).fit(X, y)


@pytest.mark.parametrize("levels", [1.5, [-0.1], [np.nan], []])
def test_levels_outside_zero_and_one(levels):
    X, y = small_problem(30)
    with pytest.raises(ParameterError, match="between 0 and 1"):
        Forest(2).fit(X, y).predict(X, levels)


def test_prediction_before_fit():
    with pytest.raises(NotFittedError):
        Forest().predict([[1.0]])


def test_out_of_bag_needs_rows_out_of_the_bag():
    X, y = small_problem(30)
    with pytest.raises(ParameterError, match="oob_score"):
        Forest(2, bootstrap=False, oob_score=True).fit(X, y)
