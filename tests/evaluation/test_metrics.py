from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from foretell.errors import ParameterError
from foretell.evaluation import metrics

LEVELS = np.arange(1, 10) / 10
NAN = np.nan


@given(
    arrays(np.float64, st.integers(3, 40), elements=st.integers(-50, 50).map(float)),
    st.sampled_from([0.1, 0.25, 0.5, 0.8, 0.9]),
)
def test_pinball_is_least_at_the_empirical_quantile(y, level):
    # Swapped weights would find the quantile of 1 - level.
    best = np.quantile(y, level, method="inverted_cdf")
    losses = [metrics.pinball(y, np.full((len(y), 1), c), np.array([level])).sum() for c in y]
    own = metrics.pinball(y, np.full((len(y), 1), best), np.array([level])).sum()
    assert own <= min(losses) + 1e-9


def test_pinball_charges_a_shortfall_by_the_level():
    loss = metrics.pinball(np.array([10.0, 4.0]), np.full((2, 1), 7.0), np.array([0.9]))
    np.testing.assert_allclose(loss[:, 0], [0.9 * 3, 0.1 * 3])


@given(st.floats(0.01, 1e4), st.integers(0, 2**31))
def test_wql_does_not_change_with_the_unit(scale, seed):
    rng = np.random.default_rng(seed)
    y, q = rng.gamma(2, 3, (4, 5)), np.sort(rng.gamma(2, 3, (4, 5, 9)), axis=-1)
    a = metrics.weighted_quantile_loss(y, q, LEVELS)
    assert metrics.weighted_quantile_loss(scale * y, scale * q, LEVELS) == pytest.approx(a)


def test_wql_is_a_ratio_of_totals_over_observed_cells():
    y = np.array([[1.0, NAN], [3.0, 5.0]])
    q = np.array([[[2.0], [99.0]], [[3.0], [1.0]]])
    loss = metrics.weighted_quantile_losses(y, q, np.array([0.5]))
    np.testing.assert_allclose(loss, [2 * (0.5 + 0 + 2) / 9])


def test_a_missing_forecast_is_an_error_and_not_a_gift():
    y, q = np.ones((2, 3)), np.ones((2, 3, 9))
    q[1, 2, 4] = NAN
    for score in (
        lambda: metrics.weighted_quantile_loss(y, q, LEVELS),
        lambda: metrics.coverage(y, q),
        lambda: metrics.wape(y, q[..., 4]),
        lambda: metrics.mase(y, q[..., 4], np.ones(2)),
        lambda: metrics.rmse(y, q[..., 4]),
    ):
        with pytest.raises(ParameterError, match=r"1 forecasts .* \(1, 2\)"):
            score()
    y[1, 2] = NAN  # not observed: nothing to score
    assert metrics.weighted_quantile_loss(y, q, LEVELS) == 0


@pytest.mark.parametrize(
    "score",
    [
        lambda: metrics.weighted_quantile_loss(np.zeros((1, 2)), np.ones((1, 2, 9)), LEVELS),
        lambda: metrics.wape(np.zeros((1, 2)), np.ones((1, 2))),
        lambda: metrics.mase(np.ones((1, 2)), np.ones((1, 2)), np.zeros(1)),
        lambda: metrics.scaled_quantile_loss(
            np.ones((1, 2)), np.ones((1, 2, 9)), LEVELS, np.array([NAN])
        ),
        lambda: metrics.msis(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2)), 0.2, np.zeros(1)),
        lambda: metrics.rmse(np.full((1, 2), NAN), np.ones((1, 2))),
        lambda: metrics.coverage(np.full((1, 2), NAN), np.ones((1, 2, 9)))[0],
    ],
)
def test_a_zero_denominator_is_nan_with_a_warning(score):
    with pytest.warns(UserWarning):
        assert np.isnan(score())


def test_point_scores_by_hand():
    y, f = np.array([[2.0, 0.0, NAN]]), np.array([[1.0, 0.0, 7.0]])
    assert metrics.wape(y, f) == pytest.approx(0.5)
    assert metrics.rmse(y, f) == pytest.approx(np.sqrt(0.5))
    assert metrics.smape(y, f) == pytest.approx((200 / 3 + 0) / 2)
    assert metrics.mase(y, f, np.array([4.0])) == pytest.approx(0.125)


def test_sql_by_hand_leaves_out_series_without_scale():
    y, q = np.array([[2.0], [3.0]]), np.array([[[1.0]], [[9.0]]])
    value = metrics.scaled_quantile_loss(y, q, np.array([0.9]), np.array([4.0, 0.0]))
    assert value == pytest.approx(2 * 0.9 * 1 / 4)


def test_interval_score_by_hand():
    score = metrics.interval_score(
        np.array([0.0, 5.0, 12.0, NAN]), np.full(4, 2.0), np.full(4, 10.0), 0.2
    )
    np.testing.assert_allclose(score, [8 + 10 * 2, 8, 8 + 10 * 2, NAN])
    inside, width = metrics.interval_coverage(
        np.array([[0.0, 5.0, 12.0, NAN]]), np.full((1, 4), 2.0), np.full((1, 4), 10.0)
    )
    assert (inside, width) == (pytest.approx(1 / 3), 8)


@given(st.integers(0, 2**31), st.integers(2, 12))
def test_fair_crps_equals_the_double_sum(seed, size):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(3, size)), rng.normal(size=3)
    pairs = np.abs(x[:, :, None] - x[:, None, :]).sum(axis=(1, 2))
    brute = np.abs(x - y[:, None]).mean(axis=1) - pairs / (2 * size * (size - 1))
    np.testing.assert_allclose(metrics.crps_from_samples(y, x), brute, atol=1e-12)


def test_crps_of_a_normal_from_samples_and_from_a_fine_grid():
    y = 0.7
    exact = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / np.sqrt(np.pi)
    samples = np.random.default_rng(0).normal(size=(1, 200_000))
    assert metrics.crps_from_samples(np.array([y]), samples)[0] == pytest.approx(exact, abs=5e-3)
    levels = np.arange(1, 1000) / 1000
    q = stats.norm.ppf(levels)[None, None]
    assert metrics.crps_from_quantiles(np.array([[y]]), q, levels) == pytest.approx(exact, abs=2e-3)


def test_pit_is_uniform_for_the_right_forecast_and_not_for_a_narrow_one():
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(200, 50)) * 5
    y = mean + rng.normal(size=mean.shape)
    q = mean[..., None] + stats.norm.ppf(LEVELS)
    # Linear between quantiles: exact at the levels, so ten bins see no bend.
    np.testing.assert_allclose(metrics.pit_histogram(y, q, LEVELS), 0.1, atol=0.012)
    narrow = metrics.pit_histogram(y, mean[..., None] + 0.5 * stats.norm.ppf(LEVELS), LEVELS)
    assert narrow[0] > 0.2 and narrow[-1] > 0.2


def test_pit_of_counts_with_many_zeros_is_uniform_by_randomisation():
    rng = np.random.default_rng(2)
    y = rng.poisson(0.4, size=(400, 50)).astype(float)
    levels = np.arange(1, 100) / 100
    q = np.broadcast_to(stats.poisson(0.4).ppf(levels), (*y.shape, 99))
    shares = metrics.pit_histogram(y, q, levels)
    np.testing.assert_allclose(shares, 0.1, atol=0.015)


def test_pit_of_single_points():
    q = np.array([[[1.0, 2.0, 4.0]]])
    levels = np.array([0.2, 0.5, 0.8])
    for y, low, high in [(1.0, 0.2, 0.2), (3.0, 0.65, 0.65), (0.0, 0.0, 0.2), (9.0, 0.8, 1.0)]:
        value = metrics.probability_integral_transform(np.array([[y]]), q, levels)[0]
        assert low - 1e-12 <= value <= high + 1e-12


def test_span_loss_sums_outcomes_and_skips_gaps():
    y = np.array([[1.0, 2.0, 3.0], [1.0, NAN, 3.0]])
    q = np.array([[7.0], [100.0]])
    assert metrics.span_loss(y, q, np.array([0.5]), lead=1, cover=2) == pytest.approx(2 * 1.0 / 5)
    with pytest.raises(ParameterError, match="needs 4 periods"):
        metrics.span_outcomes(y, 1, 3)


def test_crossing_rate_counts_cells():
    q = np.array([[[1, 2, 3], [1, 3, 2]], [[1, 1, 1], [3, 2, 1]]], float)
    assert metrics.crossing_rate(q) == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.crossing_rate(q[..., :1]) == 0
