from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import NotFittedError, ParameterError
from foretell.learners.demand.legacy.distribution_engine import DistributionEngine
from foretell.learners.demand.legacy.error_cells import weighted_quantiles

LEVELS = (0.1, 0.5, 0.9)


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_equal_weights_give_the_finite_sample_rank(n, tau):
    values = np.random.default_rng(n).permutation(n).astype(float)
    found, size = weighted_quantiles(values, np.ones(n), np.zeros(n, int), 1, np.array([tau]))
    rank = min(n, int(np.ceil((n + 1) * tau - 1e-7)))
    assert found[0, 0] == rank - 1
    assert size[0] == pytest.approx(n)


def test_weighted_quantiles_equal_brute_force_in_every_cell():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=400), rng.uniform(0.1, 1, 400)
    cells = rng.integers(0, 7, 400)
    cells[cells == 3] = 2  # an empty cell in the middle
    taus = np.array([0.05, 0.3, 0.5, 0.97])
    found, size = weighted_quantiles(values, weights, cells, 7, taus)
    assert np.isnan(found[3]).all()
    for c in (0, 1, 2, 4, 5, 6):
        order = np.argsort(values[cells == c])
        v, w = values[cells == c][order], weights[cells == c][order]
        n = w.sum() ** 2 / (w**2).sum()
        assert size[c] == pytest.approx(n)
        share = np.cumsum(w) / w.sum()
        for j, tau in enumerate(taus):
            wanted = min(1.0, (n + 1) * tau / n) - 1e-9
            assert found[c, j] == v[np.argmax(share >= wanted)]


@given(st.integers(0, 30), st.sampled_from(["normal", "lognormal", "exponential"]))
def test_coverage_of_exchangeable_errors(seed, kind):
    """A new error lies below each quantile at least as often as the level says (up to noise)."""
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda s: rng.normal(size=s),
        "lognormal": lambda s: rng.lognormal(size=s),
        "exponential": lambda s: rng.exponential(size=s),
    }[kind]
    level = rng.uniform(5, 500, 1500)
    f = np.repeat(level[:, None], 4, axis=1)
    y = f + 0.2 * f**0.8 * draw(f.shape)
    engine = DistributionEngine(horizon_edges=(), nonnegative=False).fit(f, y)
    later = f + 0.2 * f**0.8 * draw(f.shape)
    covered = (later[..., None] <= engine.apply(f, LEVELS)).mean(axis=(0, 1))
    np.testing.assert_allclose(covered, LEVELS, atol=0.03)


def test_shrinkage_to_the_parent_is_the_formula():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1], [400, 20])
    error = rng.normal(size=420) + 5 * group
    f = np.full((420, 1), 100.0)
    lam = 10.0
    engine = DistributionEngine(lam=lam, kappa=1.0, horizon_edges=(), nonnegative=False)
    engine.fit(f, f + 100 * error[:, None], groups=[group], level=np.zeros(420))
    root = np.sort(error)[int(np.ceil(421 * 0.5)) - 1]
    parent = (420 * root + lam * root) / (420 + lam)
    own = np.sort(error[group == 1])[int(np.ceil(21 * 0.5)) - 1]
    expected = 100 + 100 * (20 * own + lam * parent) / (20 + lam)
    found = engine.apply(f[:1], [0.5], groups=[np.array([1])], level=np.zeros(1))
    assert found[0, 0, 0] == pytest.approx(expected, rel=1e-5)


def test_unknown_cells_use_the_parent():
    rng = np.random.default_rng(2)
    f = np.full((200, 2), 10.0)
    y = f + rng.normal(size=f.shape)
    codes = np.repeat([3, 8], 100)
    engine = DistributionEngine().fit(f, y, groups=[codes])
    parent = engine.apply(f[:2], LEVELS, groups=[np.array([-1, 5])])
    np.testing.assert_array_equal(parent[0], parent[1])
    assert not np.array_equal(parent[0], engine.apply(f[:1], LEVELS, groups=[[8]])[0])


def test_recent_errors_count_more_with_decay():
    f = np.full((200, 1), 100.0)
    age = np.repeat([200, 1], 100)
    y = f + np.where(age == 1, 30.0, 1.0)[:, None] * np.random.default_rng(3).normal(size=(200, 1))
    fresh = DistributionEngine(half_life=10, kappa=1.0).fit(f, y, age=age).apply(f[:1], LEVELS)
    flat = DistributionEngine(kappa=1.0).fit(f, y, age=age).apply(f[:1], LEVELS)
    assert np.ptp(fresh) > 1.3 * np.ptp(flat)  # 1.5 in the limit
    with pytest.raises(ParameterError, match="age="):
        DistributionEngine(half_life=10).fit(f, y)


def test_kappa_is_the_power_of_the_level():
    rng = np.random.default_rng(4)
    f = np.repeat(np.exp(rng.uniform(1, 8, 4000))[:, None], 2, axis=1)
    for kappa in (0.5, 0.8, 1.0):
        engine = DistributionEngine().fit(f, f + f**kappa * rng.normal(size=f.shape))
        assert engine.kappa_ == pytest.approx(kappa, abs=0.03)


def test_horizon_buckets_widen_with_the_horizon():
    rng = np.random.default_rng(5)
    f = np.full((500, 20), 100.0)
    y = f + np.arange(1, 21) * rng.normal(size=f.shape)
    engine = DistributionEngine(horizon_edges=(5, 10)).fit(f, y, groups=[np.zeros(500, int)])
    width = np.ptp(engine.apply(f[:1], LEVELS, groups=[[0]])[0], axis=1)
    assert width[0] < width[7] < width[19]
    assert width[0] == width[4]


def test_scale_equivariance():
    rng = np.random.default_rng(6)
    f = rng.uniform(1, 100, (300, 3))
    y = np.maximum(f + f**0.7 * rng.normal(size=f.shape), 0)
    one = DistributionEngine().fit(f, y).apply(f, LEVELS)
    other = DistributionEngine().fit(1000 * f, 1000 * y).apply(1000 * f, LEVELS)
    np.testing.assert_allclose(other, 1000 * one, rtol=1e-4)


@pytest.mark.parametrize("method", ["gamma", "negative_binomial"])
def test_parametric_methods_find_the_dispersion(method):
    rng = np.random.default_rng(7)
    mean = np.repeat(rng.uniform(20, 200, 3000)[:, None], 2, axis=1)
    if method == "gamma":
        shape = mean**2 / (4 * mean**1.5)
        y = rng.gamma(shape, mean / shape)
    else:
        variance = 4 * mean**1.5
        y = rng.negative_binomial(mean**2 / (variance - mean), mean / variance)
    engine = DistributionEngine(method, kappa=0.75, horizon_edges=()).fit(mean, y)
    quantiles = engine.apply(mean, LEVELS)
    covered = (y[..., None] <= quantiles).mean(axis=(0, 1))
    np.testing.assert_allclose(covered, LEVELS, atol=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_cqr_mends_quantiles_that_are_too_narrow(symmetric):
    rng = np.random.default_rng(8)
    level = rng.uniform(50, 500, 2000)[:, None]
    y = level + 0.2 * level * rng.normal(size=(2000, 3))
    narrow = level[..., None] * (1 + np.array([-0.05, 0.0, 0.05])) * np.ones((1, 3, 1))
    engine = DistributionEngine("cqr", symmetric=symmetric)
    engine.fit(narrow[:1000], y[:1000], levels=LEVELS)
    mended = engine.apply(narrow[1000:])
    covered = (y[1000:][..., None] <= mended).mean(axis=(0, 1))
    np.testing.assert_allclose(covered, LEVELS, atol=0.03)
    assert (np.diff(mended, axis=-1) >= 0).all()


def test_quantiles_never_cross_and_never_fall_below_zero():
    rng = np.random.default_rng(9)
    f = rng.exponential(3, (400, 5))
    y = rng.poisson(f)
    result = DistributionEngine().fit(f, y).apply(f, np.arange(1, 100) / 100)
    assert (np.diff(result, axis=-1) >= 0).all()
    assert result.min() >= 0


def test_bias_of_zero_keeps_the_forecast_as_the_median():
    rng = np.random.default_rng(11)
    f = rng.uniform(50, 100, (500, 3))
    engine = DistributionEngine().fit(f, 1.1 * f + rng.normal(size=f.shape))
    one = engine.apply(f, [0.5])[..., 0]
    none = engine.apply(f, [0.5], bias=0.0)[..., 0]
    mixed = engine.apply(f, [0.5], bias=np.r_[0.0, np.ones(499)])[..., 0]
    assert np.median(one / f) == pytest.approx(1.1, abs=0.01)
    np.testing.assert_allclose(none, f, rtol=1e-4)
    np.testing.assert_allclose(mixed[0], f[0], rtol=1e-4)
    np.testing.assert_array_equal(mixed[1:], one[1:])


def test_large_cells_are_thinned_without_changing_their_quantiles():
    rng = np.random.default_rng(12)
    f = np.full((60_000, 1), 100.0)
    y = f + rng.normal(size=f.shape)
    found = DistributionEngine(horizon_edges=(), kappa=1.0).fit(f, y).apply(f[:1], LEVELS)[0, 0]
    np.testing.assert_allclose(found, np.quantile(y, LEVELS), atol=0.05)


def test_state_round_trip():
    rng = np.random.default_rng(10)
    f = rng.exponential(3, (400, 5))
    codes = rng.integers(0, 9, 400)
    engine = DistributionEngine().fit(f, rng.poisson(f), groups=[codes])
    other = DistributionEngine().restore(*engine.state())
    np.testing.assert_array_equal(
        engine.apply(f, LEVELS, groups=[codes]), other.apply(f, LEVELS, groups=[codes])
    )


def test_wrong_input_is_named():
    f = np.ones((4, 3))
    with pytest.raises(ParameterError, match="no error to learn from"):
        DistributionEngine().fit(f, np.full((4, 3), np.nan))
    with pytest.raises(ParameterError, match="must both be"):
        DistributionEngine().fit(f, np.ones((4, 2)))
    with pytest.raises(ParameterError, match="method"):
        DistributionEngine("guess").fit(f, f)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="pass levels="):
        DistributionEngine("cqr").fit(np.ones((4, 3, 1)), f)
    with pytest.raises(NotFittedError):
        DistributionEngine().apply(f)
    with pytest.raises(ParameterError, match="group levels"):
        DistributionEngine().fit(f, f).apply(f, groups=[np.zeros(4)])
