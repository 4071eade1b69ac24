from __future__ import annotations

import numpy as np
import pytest

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.learners.demand.legacy.elasticity import (
    PriceElasticity,
    log_log_regression,
    shrink,
    trailing_median,
)
from foretell.learners.demand.legacy.events import EventAddon, event_periods
from foretell.learners.demand.legacy.history import History, iso_week, phase_of, seasonal_strength
from foretell.learners.demand.legacy.seasonal import SeasonalAddon, strongest_group

WEEKLY = Frequency.parse("W-FRI")


def _history(values, end=3000):
    n, width = values.shape
    return History(values.astype(float), np.full(n, end), np.full(n, width))


def _season_of(history, profile):
    phases, _ = phase_of(WEEKLY, history.periods, 52)
    return profile[phases]


# -- season ------------------------------------------------------------------------------------


def test_iso_weeks_agree_with_the_calendar():
    days = np.arange("2008-12-20", "2021-01-20", dtype="datetime64[D]")
    expected = [d.isocalendar()[1] for d in days.tolist()]
    np.testing.assert_array_equal(iso_week(days), expected)


def test_index_of_planted_season_with_winter_amplitude():
    """An amplitude above 20 is found, groups apart."""
    week = np.arange(53)
    profiles = np.exp(1.55 * np.cos(2 * np.pi * week / 52)), np.ones(53)
    shape = np.ones((40, 208))
    blank = _history(shape)
    groups = np.repeat([1, 2], 20)
    rng = np.random.default_rng(0)
    values = (
        np.where(
            (groups == 1)[:, None], _season_of(blank, profiles[0]), _season_of(blank, profiles[1])
        )
        * rng.uniform(5, 500, 40)[:, None]
    )
    addon = SeasonalAddon(lam=0.0, lam_series=None).fit(_history(values), WEEKLY, 52, groups)
    found = np.exp(addon.log_group_)
    assert found[1, :52].max() / found[1, :52].min() > 18
    np.testing.assert_allclose(np.exp(addon.log_group_[2, :52]), 1, atol=0.02)
    np.testing.assert_allclose(found[:, :52].mean(axis=1), 1, rtol=1e-6)
    correlation = np.corrcoef(np.log(found[1, :52]), np.log(profiles[0][:52]))[0, 1]
    assert correlation > 0.995


def test_week_53_is_the_mean_of_weeks_52_and_1():
    rng = np.random.default_rng(1)
    values = rng.uniform(50, 150, (10, 300))
    addon = SeasonalAddon(lam_series=None).fit(_history(values), WEEKLY, 52, np.ones(10, int))
    log = addon.log_group_[1]
    assert log[52] == pytest.approx((log[51] + log[0]) / 2, abs=1e-9)
    week53 = WEEKLY.index(np.array(["2021-01-01"], "datetime64[us]"))  # ISO 2020-W53
    factor = addon.factor(week53[None, :], np.array([1]), np.array([-1]))
    assert factor[0, 0] == pytest.approx(np.exp(log[52]))


def test_shrinkage_to_the_parent_grows_with_lam():
    rng = np.random.default_rng(2)
    groups = np.r_[np.ones(50, int), 2]
    blank = _history(np.ones((51, 208)))
    season = np.exp(np.cos(2 * np.pi * np.arange(53) / 52))
    values = _season_of(blank, season) * 100
    values[50] = rng.uniform(80, 120, 208)  # one flat series alone in its group
    parents = []
    for lam in (0.0, 5.0, 1e6):
        addon = SeasonalAddon(lam=lam, lam_series=None).fit(_history(values), WEEKLY, 52, groups)
        parents.append(np.abs(addon.log_group_[2] - addon.log_root_).max())
    assert parents[0] > parents[1] > parents[2]
    assert parents[2] < 1e-3


def test_unknown_groups_and_series_get_the_parent():
    values = np.random.default_rng(3).uniform(1, 2, (5, 208))
    addon = SeasonalAddon().fit(_history(values), WEEKLY, 52, np.ones(5, int))
    periods = 3001 + np.arange(10)[None, :]
    one = addon.factor(periods, np.array([77]), np.array([-1]))
    other = addon.factor(periods, np.array([0]), np.array([-1]))
    np.testing.assert_array_equal(one, other)


def test_seasonal_strength_tells_noise_from_season():
    rng = np.random.default_rng(4)
    noise = rng.normal(100, 10, (300, 104))
    wave = noise + 30 * np.sin(2 * np.pi * np.arange(104) / 52) + np.arange(104)
    assert np.median(seasonal_strength(noise, 52)) < 0.1
    assert seasonal_strength(wave, 52).min() > 0.6
    assert (seasonal_strength(noise[:, :50], 52) == 0).all()


def test_the_group_whose_seasons_differ_is_found():
    rng = np.random.default_rng(5)
    kind, store = rng.integers(1, 5, 200), rng.integers(1, 5, 200)
    phase = 2 * np.pi * (np.arange(156)[None, :] - 13 * kind[:, None]) / 52
    values = 100 * np.exp(0.5 * np.sin(phase)) * rng.uniform(0.9, 1.1, (200, 156))
    assert strongest_group(_history(values), WEEKLY, 52, {"store": store, "kind": kind}) == "kind"
    assert strongest_group(_history(values), WEEKLY, 52, {"store": store}) is None


# -- events ------------------------------------------------------------------------------------


def _event_panel(values, marks, starts=0):
    n = len(values)
    size = marks.shape[1]
    return Panel.from_arrays(
        list(values),
        frequency=WEEKLY,
        start=starts,
        known={"sale": marks.astype(np.float32).ravel()},
        known_begins=np.arange(n) * size,
        known_lengths=np.full(n, size),
        events=("sale",),
    )


def test_moving_holiday_keeps_its_profile():
    """The event falls into another week each year; before, on and after it are told apart."""
    places = np.array([20, 74, 122, 178])  # the last one lies in the future
    width, h = 160, 30
    marks = np.zeros((12, width + h))
    marks[:, places] = 1
    effect = np.ones(width + h)
    for place in places:
        effect[place - 1], effect[place], effect[place + 1] = 1.5, 3.0, 0.5
    values = (np.linspace(10, 400, 12)[:, None] * effect)[:, :width]
    panel = _event_panel(values, marks)
    history = History.of(panel, 200)
    rows, groups = np.arange(12), np.ones(12, int)
    addon = EventAddon(lam=0.0).fit(panel, history, groups, rows)
    np.testing.assert_allclose(addon.profile("sale", 1), [1.5, 3.0, 0.5], rtol=1e-6)
    ahead = addon.factor(panel, rows, panel.lengths + h, h, groups)
    np.testing.assert_allclose(ahead, np.tile(effect[width:], (12, 1)), rtol=1e-6)


def test_event_never_seen_in_a_group_uses_the_parent():
    marks = np.zeros((10, 100))
    marks[:5, [30, 60]] = 1
    values = np.full((10, 100), 50.0)
    values[:5, [30, 60]] = 100.0
    panel = _event_panel(values, marks)
    groups = np.repeat([1, 2], 5)
    addon = EventAddon(lam=10.0, window=0).fit(panel, History.of(panel, 200), groups, np.arange(10))
    parent = addon.profile("sale")[0]
    assert addon.profile("sale", 2)[0] == parent
    # 10 occurrences count against 10 of no effect; the group's own 10 against those.
    assert np.log(parent) == pytest.approx(np.log(2) / 2)
    assert np.log(addon.profile("sale", 1)[0]) == pytest.approx(np.log(2) * 0.75)


def test_days_fall_into_the_week_that_holds_them():
    """Weeks named by their Friday are the seven days up to it."""
    days = np.array(["2012-04-08"], "datetime64[D]")  # a Sunday
    period = event_periods(WEEKLY, days)
    assert WEEKLY.time(period).astype("datetime64[D]")[0] == np.datetime64("2012-04-13")
    monday = Frequency.parse("W-MON")
    period = event_periods(monday, days)
    assert monday.time(period).astype("datetime64[D]")[0] == np.datetime64("2012-04-02")


# -- price -------------------------------------------------------------------------------------


def test_shrink_is_the_normal_posterior():
    slope, variance = np.array([-3.0, np.nan, -1.0]), np.array([0.5, np.nan, 1e-12])
    centre, spread = np.full(3, -2.0), np.full(3, 0.25)
    found = shrink(slope, variance, centre, spread)
    posterior = (-3.0 / 0.5 + -2.0 / 0.25) / (1 / 0.5 + 1 / 0.25)
    np.testing.assert_allclose(found, [posterior, -2.0, -1.0], atol=1e-9)
    np.testing.assert_allclose(shrink(slope, variance, centre, np.zeros(3)), -2.0)


def test_item_slopes_equal_least_squares():
    rng = np.random.default_rng(6)
    price = np.exp(rng.normal(1, 0.2, (6, 80)))
    feature = rng.uniform(size=(6, 80))
    sales = np.exp(3 - 2.0 * np.log(price) + 0.7 * feature + 0.1 * rng.normal(size=price.shape))
    addon = PriceElasticity(feature="feat").fit(sales, price, np.ones(6, int), feature)
    reference = trailing_median(price, 26)
    for i in range(6):
        x = np.stack([np.log(price[i] / reference[i]), feature[i], np.ones(80)], axis=1)
        beta, rest, *_ = np.linalg.lstsq(x, np.log(sales[i]), rcond=None)
        assert addon.slope_[i] == pytest.approx(beta[0], abs=1e-8)
        assert addon.feature_effect_[i] == pytest.approx(beta[1], abs=1e-8)
        variance = rest[0] / 77 * np.linalg.inv(x.T @ x)[0, 0]
        assert addon.variance_[i] == pytest.approx(variance, rel=1e-8)


def test_trailing_median_looks_back_only():
    values = np.array([[1.0, 5.0, np.nan, 3.0, 9.0, 2.0]])
    expected = [1.0, 1.0, np.median([1, 5]), np.median([1, 5]), np.median([5, 3]), 6.0]
    found = trailing_median(values, 3)[0]
    np.testing.assert_allclose(found, expected)


def test_factor_flags_extrapolation_and_holds_it_at_the_bound():
    price = np.tile([10.0, 9.0, 10.0, 11.0, 10.0, 10.0], (2, 5))
    rng = np.random.default_rng(7)
    sales = 100 * (price / 10) ** -2.0 * np.exp(0.01 * rng.normal(size=price.shape))
    addon = PriceElasticity(window=6).fit(sales, price, np.ones(2, int))
    planned = np.array([[10.0, 5.0, 1.0], [10.0, 5.0, 40.0]])
    both = np.concatenate([price, planned], axis=1)
    factor, outside = addon.factor(both, 30, np.arange(2), np.ones(2, int))
    np.testing.assert_array_equal(outside[:, 30:], [[False, False, True], [False, False, True]])
    e = addon.elasticity_
    np.testing.assert_allclose(factor[:, 31], (5 / 10) ** e, rtol=1e-6)
    np.testing.assert_allclose(factor[0, 32], (4.5 / 10) ** e[0], rtol=1e-6)
    np.testing.assert_allclose(factor[1, 32], (22 / 10) ** e[1], rtol=1e-6)
    assert e.mean() == pytest.approx(-2.0, abs=0.15)


def test_missing_and_zero_prices_are_dropped_and_counted():
    price = np.full((1, 40), 10.0)
    price[0, ::2] = 8.0
    price[0, :3] = [0.0, np.nan, -1.0]
    sales = 100 * np.where(price > 0, price, 10.0) ** -1.5
    addon = PriceElasticity().fit(sales, price, np.ones(1, int))
    assert addon.dropped_ == 3
    assert np.isfinite(addon.elasticity_).all()
    constant = PriceElasticity().fit(sales, np.full((1, 40), 7.0), np.ones(1, int))
    assert constant.elasticity_[0] == 0.0


def test_elasticity_is_not_positive_unless_allowed():
    rng = np.random.default_rng(8)
    price = np.exp(rng.normal(1, 0.2, (5, 60)))
    sales = price**0.8 * np.exp(0.05 * rng.normal(size=price.shape))
    groups = np.ones(5, int)
    assert (PriceElasticity().fit(sales, price, groups).elasticity_ == 0).all()
    assert (PriceElasticity(nonpositive=False).fit(sales, price, groups).elasticity_ > 0.3).all()


@pytest.mark.real_data
def test_orange_juice_coefficients(data_set):
    """The textbook's regression: brands 10, 5 and 1 of the store data are its three brands."""
    import polars as pl

    table = pl.read_parquet(data_set("orange_juice_dominicks") / "yx.parquet")
    brands = [10, 5, 1]  # dominicks, minute.maid, tropicana
    table = table.filter(pl.col("brand").is_in(brands))
    assert table.height == 28_947
    prices = table.select([f"price{i}" for i in range(1, 12)]).to_numpy()
    brand = table["brand"].to_numpy()
    # The textbook's file has whole cents; prices that were averaged over a week are not.
    price = np.round(64 * prices[np.arange(len(brand)), brand - 1], 2)
    sales = np.exp(table["logmove"].to_numpy())
    group = np.array([brands.index(b) for b in brand])
    found = log_log_regression(sales, price, group)
    np.testing.assert_allclose(found, [-3.138691, 10.828822, 0.870175, 1.529943], atol=1e-4)
    slopes = [log_log_regression(sales[group == g], price[group == g])[0] for g in range(3)]
    np.testing.assert_allclose(slopes, [-3.3775, -3.3207, -2.7118], atol=1e-4)
