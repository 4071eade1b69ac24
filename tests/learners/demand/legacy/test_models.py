from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import ParameterError
from foretell.learners.demand.legacy import (
    SBA,
    TSB,
    AnalogNew,
    Croston,
    ExponentialSmoothing,
    MovingAverage,
    Naive,
    PointModel,
    Router,
    SeasonalLevel,
    SeasonalNaive,
    StatsForecastModel,
)
from foretell.learners.demand.legacy.spread import spreading

NAN = np.nan


# -- router ------------------------------------------------------------------------------------


def test_router_table():
    rng = np.random.default_rng(0)
    t = np.arange(156)
    rows = {
        "new": np.r_[np.full(150, NAN), rng.poisson(20, 6)],
        "regular": rng.normal(100, 5, 156),
        "seasonal": 100 + 50 * np.sin(2 * np.pi * t / 52) + rng.normal(0, 5, 156),
        "intermittent": np.where(t % 3 == 0, 5.0, 0.0),
        "lumpy": np.where(t % 3 == 0, np.where(t % 6 == 0, 1.0, 30.0), 0.0),
    }
    router = Router()
    route, features, decided = router.route(np.array(list(rows.values())), 52)
    assert [router.routes[r] for r in route] == list(rows)
    reasons = router.reasons(features, decided)
    assert reasons[0] == "observed 6 < 8"
    assert reasons[1] == "no other rule applies"
    assert reasons[4].startswith("adi 3 > 1.32 and cv2 0.8")
    assert features["adi"][3] == pytest.approx(3.0)


def test_all_zero_history_is_intermittent():
    route, *_ = Router().route(np.zeros((1, 60)), 52)
    assert Router().routes[route[0]] == "intermittent"


def test_rules_are_data():
    router = Router((("big", (("observed", ">=", 5),)), ("small", ())))
    route, *_ = router.route(np.array([[NAN, NAN, 1, 1, 1], [1, 1, 1, 1, 1]]), 1)
    assert [router.routes[r] for r in route] == ["small", "big"]
    with pytest.raises(ParameterError, match="last rule"):
        Router((("big", (("observed", ">", 5),)),)).check()
    with pytest.raises(ParameterError, match="'velocity' is not known"):
        Router((("big", (("velocity", ">", 5),)), ("small", ()))).check()


# -- point models ------------------------------------------------------------------------------


def test_naive_and_moving_average_skip_gaps():
    history = np.array([[1.0, 2.0, NAN, 4.0, NAN], [NAN] * 5])
    np.testing.assert_array_equal(Naive().forecast(history, 2, 1), [[4, 4], [NAN, NAN]])
    found = MovingAverage(4).forecast(history, 1, 1)
    np.testing.assert_array_equal(found, [[3], [NAN]])


def test_seasonal_naive_repeats_the_season_beyond_its_length():
    history = np.arange(1.0, 9.0)[None, :]
    found = SeasonalNaive().forecast(history, 10, 4)
    np.testing.assert_array_equal(found[0], [5, 6, 7, 8, 5, 6, 7, 8, 5, 6])
    history[0, 5] = NAN
    assert SeasonalNaive().forecast(history, 2, 4)[0, 1] == 8  # the last value
    both = SeasonalNaive(lags=(1, 2)).forecast(np.arange(1.0, 9.0)[None, :], 2, 4)
    np.testing.assert_array_equal(both[0], [3, 4])


def test_seasonal_naive_growth_is_year_on_year():
    season = np.array([10.0, 20.0, 40.0, 30.0])
    history = np.r_[season, 1.5 * season][None, :]
    found = SeasonalNaive(growth=1.0, window=4).forecast(history, 6, 4)
    np.testing.assert_allclose(found[0], 1.5 * 1.5 * np.r_[season, season[:2]])
    half = SeasonalNaive(growth=0.5, window=4).forecast(history, 4, 4)
    np.testing.assert_allclose(half[0], 1.5 * 1.5**0.5 * season)


def test_seasonal_level_is_a_ratio_of_sums():
    season = np.array([[0.01, 2.0, 1.0, 0.99]])
    history = np.array([[1.0, 20.0, 10.0, 9.9]]) / season  # the first value is an outlier
    found = SeasonalLevel(4).forecast(history, 1, 4, season)
    assert found[0, 0] == pytest.approx((1 + 20 + 10 + 9.9) / 4.0)


def test_exponential_smoothing_equals_the_recursion():
    y = np.random.default_rng(1).normal(10, 2, 50)
    level = y[0]
    for value in y[1:]:
        level += 0.3 * (value - level)
    found = ExponentialSmoothing(alphas=(0.3,)).forecast(y[None, :], 2, 1)
    np.testing.assert_allclose(found, level)


def test_croston_family_by_hand():
    y = np.array([[0, 4.0, 0, 0, 6.0, 0]])
    # Sizes 4 -> 4 + .1 (6 - 4); intervals 2 -> 2 + .1 (3 - 2).
    rate = 4.2 / 2.1
    assert Croston(0.1).forecast(y, 1, 1)[0, 0] == pytest.approx(rate)
    assert SBA(0.1).forecast(y, 1, 1)[0, 0] == pytest.approx(0.95 * rate)
    p = 0.5 * 0.9 * 0.9
    p = (p + 0.1 * (1 - p)) * 0.9
    assert TSB(0.1).forecast(y, 1, 1)[0, 0] == pytest.approx(p * 4.2)
    assert TSB().forecast(np.zeros((1, 20)), 1, 1)[0, 0] == 0


def test_tsb_fades_where_croston_does_not():
    y = np.r_[np.tile([0.0, 5.0], 20), np.zeros(40)][None, :]
    assert TSB().forecast(y, 1, 1)[0, 0] < 0.1 < 2 < Croston().forecast(y, 1, 1)[0, 0]


def test_statsforecast_model_and_its_cap():
    rng = np.random.default_rng(2)
    history = rng.normal(100, 5, (3, 60)) * np.array([[1], [3], [2]])
    history[1, 5] = NAN
    model = StatsForecastModel("AutoETS", max_series=2)
    found = model.forecast(history, 4, 4)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:].mean(axis=1), [300, 200], rtol=0.1)
    with pytest.raises(ParameterError, match="no model 'AutoMagic'"):
        StatsForecastModel("AutoMagic").forecast(history, 4, 4)


def test_models_round_trip_json():
    for model in (SeasonalNaive(growth=0.5), SeasonalLevel(8), TSB(0.2), StatsForecastModel()):
        again = PointModel.from_json(model.to_json())
        assert type(again) is type(model)
        assert again.get_params() == model.get_params()
    with pytest.raises(ParameterError, match="'Magic'"):
        PointModel.from_json({"kind": "Magic"})


# -- analogs -----------------------------------------------------------------------------------


def test_gower_distance():
    curves = np.ones((2, 4))
    analog = AnalogNew().fit(curves, np.array([[1, 2], [2, 2]]), np.array([[0.0], [10.0]]))
    found = analog.distance(np.array([[1, 2], [0, 2]]), np.array([[5.0], [np.nan]]))
    np.testing.assert_allclose(found, [[0.5 / 3, 1.5 / 3], [2 / 3, 2 / 3]])


def test_analog_shrinks_by_gamma_poisson():
    rng = np.random.default_rng(3)
    curves = rng.poisson(20, (30, 10)).astype(float)
    analog = AnalogNew(30, shape=2.0, dispersion=1.0)
    analog.fit(curves, np.ones((30, 1), int), np.zeros((30, 0)))
    m = curves.mean()
    shape = curves.mean(axis=0) / m
    own = np.array([[np.nan, np.nan, 50.0, 60.0]])
    found = analog.forecast(own, np.array([2]), 3, np.ones((1, 1), int), np.zeros((1, 0)))
    level = (2.0 + 110.0) / (2.0 / m + shape[:2].sum())
    np.testing.assert_allclose(found[0], level * shape[2:5], rtol=1e-9)
    # Without any sale it starts from the analogs' mean.
    none = analog.forecast(own * np.nan, np.array([0]), 2, np.ones((1, 1), int), np.zeros((1, 0)))
    np.testing.assert_allclose(none[0], m * shape[:2], rtol=1e-9)


def test_analog_follows_the_similar_launches():
    age = np.arange(12)
    rising, falling = np.minimum(1 + age, 8.0), np.maximum(12.0 - age, 2.0)
    curves = np.concatenate([np.tile(rising, (10, 1)), np.tile(falling, (10, 1))])
    kinds = np.repeat([1, 2], 10)[:, None]
    analog = AnalogNew(5).fit(curves, kinds, np.zeros((20, 0)))
    own = np.full((1, 1), np.nan)
    found = analog.forecast(own, np.array([0]), 12, np.array([[1]]), np.zeros((1, 0)))
    np.testing.assert_allclose(found[0], rising, rtol=1e-6)


def test_analog_is_free_of_the_unit():
    rng = np.random.default_rng(4)
    curves = rng.negative_binomial(5, 0.2, (40, 20)).astype(float)
    kinds, none = np.ones((40, 1), int), np.zeros((40, 0))
    own = np.array([[3.0, 8.0, 5.0]])
    one = AnalogNew().fit(curves, kinds, none)
    other = AnalogNew().fit(1000 * curves, kinds, none)
    few = np.array([3])
    np.testing.assert_allclose(
        1000 * one.forecast(own, few, 4, kinds[:1], none[:1]),
        other.forecast(1000 * own, few, 4, kinds[:1], none[:1]),
        rtol=1e-9,
    )


def test_slow_models_go_where_they_are_let_with_the_same_numbers():
    history = np.random.default_rng(0).poisson(5.0, (9, 40)).astype(float)
    history[2, :30] = np.nan
    model = StatsForecastModel("Holt", options={})
    here = model.forecast(history, 3, 1)
    calls = []

    def elsewhere(function, *jobs):
        calls.extend(zip(*jobs, strict=True))
        return map(function, *jobs)

    with spreading(elsewhere, rows_at_once=4):
        there = model.forecast(history, 3, 1)
    assert [len(job[2]) for job in calls] == [3, 3, 3]
    np.testing.assert_array_equal(here, there)
    model.forecast(history, 3, 1)
    assert len(calls) == 3
