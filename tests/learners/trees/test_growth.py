"""Split search, draws, bins and leaf tables against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from foretell.learners.trees import growth, growth_numpy
from foretell.learners.trees.binning import bin_columns, cut_points
from foretell.learners.trees.columns import to_columns, to_float32_csr
from foretell.learners.trees.responses import coded_responses, exact_responses


def node_labels(y, weight, grid):
    """Interval between the weighted quantiles of a node, by definition."""
    order = np.argsort(y, kind="stable")
    mass = np.cumsum(weight[order]) / weight.sum()
    thresholds = [y[order][np.argmax(mass >= q - 1e-12)] for q in grid]
    return np.array([sum(v > t for t in thresholds) for v in y])


def criterion(part, y, weight, labels, mean):
    w = weight[part]
    if labels is None:
        return np.sum(w * (y[part] - mean)) ** 2 / w.sum()
    return sum(w[labels[part] == k].sum() ** 2 for k in np.unique(labels)) / w.sum()


def brute_force_split(X, y, weight, grid, min_leaf):
    """Best criterion over every feature, cut and side for absent rows."""
    labels = node_labels(y, weight, grid) if len(grid) else None
    mean = np.average(y, weights=weight)
    best = -np.inf
    for f in range(X.shape[1]):
        absent = np.isnan(X[:, f])
        for cut, left in itertools.product(np.unique(X[~absent, f]), (False, True)):
            goes = np.where(absent, left, X[:, f] <= cut)
            if min_leaf <= goes.sum() <= len(y) - min_leaf:
                value = criterion(goes, y, weight, labels, mean)
                best = max(best, value + criterion(~goes, y, weight, labels, mean))
    return best


def grow_once(module, X, y, weight, grid, min_leaf, depth=1, **options):
    order = np.argsort(y, kind="stable")
    X, y, weight = X[order], y[order], weight[order]
    ptr, rows, values = to_columns(to_float32_csr(X))
    columns = bin_columns(ptr, rows, values, weight, len(y))
    start, end, r, b = module.take_rows(
        columns.column_ptr, columns.rows, columns.bins, np.arange(len(y), dtype=np.int32)
    )
    centred = y - np.average(y, weights=weight) if len(grid) == 0 else y
    settings_ = {"fraction": 1.0, "at_most": 0, "min_presence": 0.01, "always": -1} | options
    tree = module.grow_tree(
        start,
        end,
        r,
        b,
        centred,
        weight,
        np.asarray(grid, dtype=float),
        depth,
        2,
        min_leaf,
        settings_["fraction"],
        settings_["at_most"],
        settings_["min_presence"],
        settings_["always"],
        np.uint64(7),
        1e-12,
    )
    return tree, columns, X, y, weight


@pytest.mark.parametrize("module", [growth, growth_numpy], ids=["numba", "numpy"])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(6, 24),
    min_leaf=st.integers(1, 3),
    by_quantiles=st.booleans(),
    rounded=st.booleans(),
)
def test_first_split_is_the_best_of_all(module, seed, n, min_leaf, by_quantiles, rounded):
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(n, 3)), 1)
    X[rng.uniform(size=X.shape) < 0.4] = np.nan
    y = np.round(rng.normal(size=n) * 2) if rounded else rng.normal(size=n)
    weight = rng.integers(1, 4, n).astype(float)
    grid = (0.25, 0.5, 0.75) if by_quantiles else ()
    tree, columns, X, y, weight = grow_once(module, X, y, weight, grid, min_leaf)
    feature, split_bin, default_left, _, gain, leaf_ptr, leaf_rows = tree
    labels = node_labels(y, weight, grid) if by_quantiles else None
    mean = np.average(y, weights=weight)
    parent = criterion(np.ones(n, bool), y, weight, labels, mean)
    best = brute_force_split(X, y, weight, grid, min_leaf)
    if feature[0] < 0:
        assert best <= parent + 1e-8 * max(1.0, abs(parent))
        return
    x = X[:, feature[0]]
    threshold = columns.threshold(feature[:1], split_bin[:1])[0]
    goes = np.where(np.isnan(x), default_left[0] == 1, x.astype(np.float32) <= threshold)
    reached = criterion(goes, y, weight, labels, mean) + criterion(~goes, y, weight, labels, mean)
    assert reached == pytest.approx(best, rel=1e-9)
    assert gain[0] == pytest.approx(best - parent, rel=1e-6, abs=1e-9)
    assert set(leaf_rows[: leaf_ptr[1]]) == set(np.flatnonzero(goes))


def test_absent_rows_can_go_either_way():
    y = np.array([0.0] * 10 + [5.0] * 10)
    x = np.concatenate([np.full(5, 1.0), np.full(5, np.nan), np.full(10, 3.0)])[:, None]
    tree, *_ = grow_once(growth, x, y, np.ones(20), (), 2)
    assert tree[0][0] == 0 and tree[2][0] == 1
    x = np.concatenate([np.full(10, 1.0), np.full(5, np.nan), np.full(5, 3.0)])[:, None]
    tree, *_ = grow_once(growth, x, y, np.ones(20), (), 2)
    assert tree[0][0] == 0 and tree[2][0] == 0


def test_every_row_lies_in_one_leaf_in_ascending_order_of_the_response():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 4)), rng.normal(size=500)
    tree, *_ = grow_once(growth, X, y, np.ones(500), (0.5,), 4, depth=20)
    leaf_ptr, leaf_rows = tree[5], tree[6]
    assert sorted(leaf_rows) == list(range(500))
    assert (np.diff(leaf_ptr) >= 4).all()
    for lo, hi in itertools.pairwise(leaf_ptr):
        assert (np.diff(leaf_rows[lo:hi]) > 0).all()


def test_draws_favour_features_that_are_present():
    from foretell.learners.trees.growth_draws import draw_features

    present = np.array([100, 50, 10, 10], dtype=np.int32)
    drawn = np.zeros(4)
    for seed in range(3000):
        drawn += draw_features(
            np.arange(4, dtype=np.int32),
            np.zeros(4, np.int32),
            present,
            np.array([100]),
            np.array([0]),
            0.25,
            0,
            0.01,
            -1,
            np.uint64(seed),
        )
    np.testing.assert_allclose(drawn / drawn.sum(), present / present.sum(), atol=0.03)
    forced = draw_features(
        np.arange(4, dtype=np.int32),
        np.zeros(4, np.int32),
        present,
        np.array([100]),
        np.array([0]),
        0.25,
        0,
        0.01,
        3,
        np.uint64(1),
    )
    assert forced[3] == 1 and forced.sum() == 1


@pytest.mark.parametrize("n_stats", [2, 3, 4, 5, 6])
def test_all_cuts_of_a_feature_are_scored_alike(n_stats):
    from foretell.learners.trees.growth_numpy import _score
    from foretell.learners.trees.growth_splits import _accumulate, _scores

    rng = np.random.default_rng(n_stats)
    bin_of = np.arange(3, 200, 7).astype(np.uint8)
    entries = rng.integers(1, 9, size=(len(bin_of), n_stats)).astype(float)
    histogram = np.zeros((256, n_stats))
    histogram[bin_of] = entries
    left = np.empty((n_stats, 256))
    _accumulate(histogram, bin_of, left)
    assert not histogram.any()
    np.testing.assert_array_equal(left[:, : len(bin_of)].T, np.cumsum(entries, axis=0))
    absent = rng.integers(1, 9, size=n_stats).astype(float)
    total = entries.sum(axis=0) + absent + 5
    for labels in {True, n_stats > 2}:
        out = np.empty(len(bin_of) - 2)
        _scores(left, 1, absent, total, labels, out)
        for i, score in enumerate(out):
            part = np.cumsum(entries, axis=0)[i + 1] + absent
            assert score == _score(part, labels) + _score(total - part, labels)


def test_the_key_of_a_rank():
    from foretell.learners.trees.growth_draws import _smallest

    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 101):
        for keys in (rng.normal(size=n), rng.integers(0, 4, n).astype(float)):
            for rank in range(n):
                assert _smallest(keys.copy(), rank) == np.sort(keys)[rank]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 600),
    few=st.booleans(),
    max_bins=st.integers(2, 254),
)
def test_bins_keep_the_order_and_hold_equal_weights(seed, n, few, max_bins):
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, 5, n) if few else rng.normal(size=n)).astype(np.float32)
    weight = rng.uniform(0.5, 1.5, n)
    cuts = cut_points(x, weight, max_bins)
    assert len(cuts) < max_bins and (np.diff(cuts) > 0).all()
    bins = np.searchsorted(cuts, x)
    assert (np.diff(bins[np.argsort(x, kind="stable")]) >= 0).all()
    distinct, inverse = np.unique(x, return_inverse=True)
    if len(distinct) <= max_bins:
        assert len(np.unique(bins)) == len(distinct)
    else:
        heaviest = np.bincount(inverse, weight).max()
        mass = np.bincount(bins, weight)
        assert mass.max() <= weight.sum() / max_bins + heaviest + 1e-9


def test_bins_of_sparse_columns():
    dense = np.array([[1.0, np.nan], [0.0, 2.0], [np.nan, 2.0], [5.0, np.nan]])
    ptr, rows, values = to_columns(to_float32_csr(dense))
    columns = bin_columns(ptr, rows, values, np.ones(4), 4)
    assert columns.rows.tolist() == [0, 1, 3, 1, 2]
    assert columns.bins.tolist() == [2, 1, 3, 1, 1]
    assert columns.cuts.tolist() == [0.5, 3.0]
    assert columns.threshold([0, 0, 0, 1], [1, 2, 3, 1]).tolist() == [0.5, 3.0, np.inf, np.inf]
    stored = to_float32_csr(sparse.csr_array(([0.0, np.nan], ([0, 1], [1, 0])), shape=(2, 2)))
    assert stored.nnz == 1 and stored.data[0] == 0.0


def test_short_and_long_columns_get_the_cuts_of_each_alone():
    rng = np.random.default_rng(0)
    dense = np.round(rng.normal(size=(400, 30)), 1)
    dense[rng.uniform(size=dense.shape) < rng.uniform(0.1, 1, size=30)] = np.nan
    dense[:, 3] = np.nan
    dense[:, 4] = rng.normal(size=400)
    ptr, rows, values = to_columns(to_float32_csr(dense))
    weight = rng.uniform(0.5, 2, 400)
    columns = bin_columns(ptr, rows, values, weight, 400, max_bins=150)
    assert (np.diff(ptr) > 150).any() and (np.diff(ptr) <= 150).any()
    for k in range(30):
        part = slice(ptr[k], ptr[k + 1])
        cuts = columns.cuts[columns.cut_ptr[k] : columns.cut_ptr[k + 1]]
        if part.stop > part.start:
            expected = cut_points(values[part], weight[rows[part]], 150)
            np.testing.assert_array_equal(cuts, expected)
        np.testing.assert_array_equal(columns.bins[part], np.searchsorted(cuts, values[part]) + 1)


def test_neighbouring_floats_are_told_apart():
    x = np.array([1.0, np.nextafter(np.float32(1), np.float32(2))], dtype=np.float32)
    cuts = cut_points(x, np.ones(2))
    assert np.searchsorted(cuts, x).tolist() == [0, 1]


def test_response_tables():
    y = np.array([3.0, 1.0, 3.0, 2.0])
    exact = exact_responses(y)
    assert exact.values.tolist() == [1, 2, 3, 3] and exact.atom.tolist() == [0, 0, 1, 1]
    assert exact.row_ids.tolist() == [1, 3, 0, 2]
    coded = coded_responses(y, np.ones(4))
    assert coded.values.tolist() == [1, 2, 3] and coded.code.tolist() == [0, 1, 2, 2]
    rng = np.random.default_rng(0)
    many = np.where(rng.uniform(size=50_000) < 0.4, 0.0, rng.lognormal(size=50_000))
    table = coded_responses(many, np.ones(50_000))
    assert 600 < len(table.values) < 1100
    assert table.values[0] == 0.0 and table.atom[0] == 1 and table.atom.sum() == 1
    assert table.values[-1] == many.max()
    assert (np.diff(table.values) > 0).all()
    rebuilt = table.values[table.code]
    assert rebuilt.mean() == pytest.approx(many.mean())
    assert np.abs(rebuilt - many[table.order]).mean() < 0.01 * many.std()


@pytest.mark.parametrize("module", [growth, growth_numpy], ids=["numba", "numpy"])
def test_thinned_leaves_are_unbiased(module):
    n, cap = 200, 16
    weight = np.random.default_rng(0).uniform(0.2, 3, n)
    code = np.arange(n, dtype=np.int32)
    total = np.zeros(n)
    for seed in range(3000 if module is growth else 400):
        ptr, codes, weights = module.summarize_leaves(
            np.array([0, n]), code, code, weight, cap, np.uint64(seed)
        )
        assert ptr[-1] <= cap and weights.sum() == pytest.approx(1)
        total[codes] += weights
    np.testing.assert_allclose(
        np.cumsum(total / total.sum()), np.cumsum(weight / weight.sum()), atol=0.01
    )
