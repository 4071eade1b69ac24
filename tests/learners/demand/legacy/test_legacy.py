from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.data.simulators import elastic_demand
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.evaluation.metrics import coverage, wape, weighted_quantile_loss
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.legacy import (
    AnalogNew,
    DistributionEngine,
    EventAddon,
    LegacyForecaster,
    MovingAverage,
    Naive,
    PriceElasticity,
    Router,
    SeasonalAddon,
    SeasonalNaive,
    StatsForecastModel,
)

LEVELS = np.arange(1, 10) / 10
WEEKLY = Frequency.parse("W-FRI")


@pytest.fixture(scope="module")
def demand():
    return elastic_demand(items=120, groups=4, seed=3)


@pytest.fixture(scope="module")
def fitted(demand):
    return LegacyForecaster(8, origins=4).fit(demand[0])


def _panel(values, **more):
    return Panel.from_arrays(values, frequency=WEEKLY, start=2000, **more)


def _points(forecast):
    return forecast.components["point"].to_numpy().reshape(forecast.values.shape[:2])


# -- what comes out ----------------------------------------------------------------------------


def test_components_multiply_to_the_point(demand, fitted):
    table = fitted.predict(demand[0]).components
    product = table["level"] * table["season"] * table["event"] * table["price"]
    np.testing.assert_allclose(product.to_numpy(), table["point"].to_numpy(), rtol=1e-4, atol=1e-4)
    assert {"unique_id", "cutoff", "horizon", "route", "model", "reason", "flags"} <= set(
        table.columns
    )
    assert table.height == 120 * 8
    assert (table["price"].to_numpy() != 1).any()
    assert table["reason"].str.len_chars().min() > 0


def test_planned_price_moves_the_forecast(demand, fitted):
    panel, _ = demand
    price = panel.known["price"].copy()
    before = _points(fitted.predict(panel))
    for i in range(len(panel)):
        stop = panel.known_begins[i] + panel.lengths[i]
        price[stop : stop + 4] = np.median(price[panel.known_begins[i] : stop]) * 0.7
        price[stop + 4 : stop + 8] = np.median(price[panel.known_begins[i] : stop])
    cheap = dataclasses.replace(panel, known={**panel.known, "price": price})
    after = _points(fitted.predict(cheap))
    slope = np.log(after[:, 0] / after[:, 7]) / np.log(0.7)
    base = fitted.patchwork_.price.elasticity_
    assert base.mean() < -1.5
    assert slope.mean() == pytest.approx(base.mean(), abs=0.7)  # season and events differ too
    assert after[:, :4].sum() > 1.3 * before[:, :4].sum()


def test_price_far_outside_is_flagged(demand, fitted):
    panel, _ = demand
    price = panel.known["price"].copy()
    price[panel.known_begins[5] + panel.lengths[5] + 2] *= 10
    odd = dataclasses.replace(panel, known={**panel.known, "price": price})
    flags = fitted.predict(odd).components.filter(horizon=1)["flags"].to_list()
    assert "price_extrapolated" in flags[5]
    assert sum("price_extrapolated" in f for f in flags) == 1


def test_price_is_off_without_the_covariate():
    model = LegacyForecaster(4, origins=2).fit(_panel(np.full((3, 60), 5.0)))
    assert model.patchwork_.price is None
    assert model.predict(_panel(np.full((3, 60), 5.0))).components["price"].n_unique() == 1


def test_quantiles_do_not_cross_and_are_not_negative(demand, fitted):
    values = fitted.predict(demand[0], quantiles=[0.05, 0.33, 0.5, 0.975]).values
    assert values.shape == (120, 8, 4)
    assert (np.diff(values, axis=-1) >= 0).all()
    assert values.min() >= 0 and np.isfinite(values).all()


def test_origins_equal_cut_panels(demand, fitted):
    panel, _ = demand
    together = fitted.predict_origins(panel, [0, 5])
    apart = fitted.predict(panel.cut(5))
    np.testing.assert_array_equal(together.values[120:], apart.values)
    np.testing.assert_array_equal(together.cutoffs[120:], apart.cutoffs)


def test_the_future_is_not_looked_at(demand):
    """Noise in place of everything after the cutoff leaves fit and forecast bit-identical."""
    panel, _ = demand
    back = 12
    corrupt = panel.target.copy()
    for i in range(len(panel)):
        stop = panel.begins[i] + panel.lengths[i]
        corrupt[stop - back : stop] = np.random.default_rng(i).uniform(0, 1e4, back)
    other = dataclasses.replace(panel, target=corrupt)
    one = LegacyForecaster(8, origins=3).fit(panel.cut(back)).predict(panel.cut(back))
    two = LegacyForecaster(8, origins=3).fit(other.cut(back)).predict(other.cut(back))
    np.testing.assert_array_equal(one.values, two.values)


def test_scale_equivariance():
    rng = np.random.default_rng(0)
    y = rng.gamma(5, 20, (40, 120)).astype(np.float32)
    one = LegacyForecaster(6, origins=4).fit(_panel(y)).predict(_panel(y)).values
    y2 = (y * 1024).astype(np.float32)
    two = LegacyForecaster(6, origins=4).fit(_panel(y2)).predict(_panel(y2)).values
    np.testing.assert_allclose(two, 1024 * one, rtol=1e-3)


def test_order_of_series_does_not_matter(demand, fitted):
    panel, _ = demand
    order = np.random.default_rng(1).permutation(len(panel))
    np.testing.assert_array_equal(
        fitted.predict(panel.select(order)).values, fitted.predict(panel).values[order]
    )


def test_save_and_load(tmp_path, demand):
    panel, _ = demand
    model = LegacyForecaster(
        6,
        (0.1, 0.5, 0.9),
        router=Router((("new", (("observed", "<", 10),)), ("rest", ()))),
        models={"rest": (MovingAverage(8), SeasonalNaive(growth=0.5))},
        seasonal=SeasonalAddon("group", lam=3.0),
        events=EventAddon(2, dates={"launch": ["2021-05-03"]}),
        price=PriceElasticity(window=20),
        new_items=AnalogNew(10),
        engine=DistributionEngine(lam=40, half_life=52),
        origins=3,
    ).fit(panel)
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert isinstance(again, LegacyForecaster)
    first, second = model.predict(panel), again.predict(panel)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.components.equals(second.components)
    assert again.engine.half_life == 52
    assert again.models["rest"][1].growth == 0.5
    (tmp_path / "model" / "model.json").write_text("{")
    with pytest.raises(ArtefactError):
        LegacyForecaster.load(tmp_path / "model")


def test_default_model_round_trip(tmp_path, demand, fitted):
    fitted.save(tmp_path)
    again = LegacyForecaster.load(tmp_path)
    np.testing.assert_array_equal(fitted.predict(demand[0]).values, again.predict(demand[0]).values)


def test_unseen_series_and_categories(demand, fitted):
    panel = demand[0].select(np.arange(6))
    named = [*panel.static_categorical["group"].values[:5], "group99"]
    other = dataclasses.replace(
        panel,
        ids=np.array([f"unseen{i}" for i in range(6)], object),
        static_categorical={"group": Categorical.from_values(named)},
    )
    values = fitted.predict(other).values
    assert np.isfinite(values).all() and (values[..., -1] > 0).all()


# -- edge cases --------------------------------------------------------------------------------


def test_all_zero_history_has_a_zero_median_and_a_tail():
    rng = np.random.default_rng(0)
    y = rng.poisson(0.3, (60, 120)).astype(np.float32)
    y[0] = 0
    y[1, :117], y[1, 117:] = np.nan, 0
    panel = _panel(y)
    forecast = LegacyForecaster(6, LEVELS, origins=4).fit(panel).predict(panel)
    assert (forecast.median[0] == 0).all()
    assert (forecast.median[1] < 0.3).all()  # three weeks old: mostly its analogs
    assert (forecast.quantile(0.99)[:2] > 0).all()


def test_panel_of_zeros_only():
    panel = _panel(np.zeros((4, 60)))
    values = LegacyForecaster(5, origins=2).fit(panel).predict(panel).values
    assert (values == 0).all()


def test_constant_series_stays_constant():
    panel = _panel(np.full((10, 120), 7.0))
    values = LegacyForecaster(5, origins=4).fit(panel).predict(panel).values
    np.testing.assert_allclose(values, 7.0, rtol=1e-4)


def test_one_observation():
    panel = _panel([[5.0], [9.0], [7.0]])
    forecast = LegacyForecaster(4).fit(panel).predict(panel)
    assert np.isfinite(forecast.values).all()
    assert (forecast.values >= 0).all()
    among = _panel([*np.random.default_rng(0).poisson(50, (30, 120)).astype(float), [40.0]])
    values = LegacyForecaster(4, origins=3).fit(among).predict(among).values
    assert 15 < values[-1, 0, 4] < 90


def test_returns_are_flagged_and_forecasts_clipped():
    y = np.random.default_rng(0).poisson(1, (20, 120)).astype(float)
    y[0, -3:] = -20
    panel = _panel(y)
    forecast = LegacyForecaster(4, origins=3).fit(panel).predict(panel)
    flags = forecast.components.filter(horizon=1)["flags"].to_list()
    assert "negative_sales" in flags[0] and "negative_sales" not in flags[1]
    assert forecast.values.min() >= 0


def test_horizon_longer_than_season_and_than_history():
    y = np.random.default_rng(0).poisson(30, (15, 40)).astype(float)
    panel = Panel.from_arrays(y)
    forecast = LegacyForecaster(60, season_length=7, origins=3).fit(panel).predict(panel)
    assert forecast.values.shape == (15, 60, 9)
    assert np.isfinite(forecast.values).all()


def test_unobserved_series_gets_a_number():
    y = np.random.default_rng(0).poisson(30, (15, 60)).astype(float)
    y[3] = np.nan
    panel = _panel(y)
    assert np.isfinite(LegacyForecaster(4, origins=3).fit(panel).predict(panel).values).all()


def test_censored_sales_do_not_lower_the_level():
    y = np.random.default_rng(0).poisson(100, (20, 60)).astype(np.float32)
    flags = np.zeros((20, 60), bool)
    flags[:, -6:] = True
    y[flags] = 5
    open_, cut = _panel(y), _panel(y, censored=flags.ravel())
    models = {route: (MovingAverage(),) for route in ("regular", "seasonal", "intermittent")}
    low = LegacyForecaster(4, origins=3, models=models).fit(open_).predict(open_)
    high = LegacyForecaster(4, origins=3, models=models).fit(cut).predict(cut)
    assert _points(low).mean() < 70
    assert _points(high).mean() == pytest.approx(100, rel=0.05)


def test_statsforecast_models_where_routed():
    y = np.random.default_rng(0).gamma(50, 2, (4, 60))
    panel = _panel(y)
    rules = Router((("all", ()),))
    models = {"all": (StatsForecastModel("SimpleExponentialSmoothing"), Naive())}
    model = LegacyForecaster(3, router=rules, models=models, origins=2).fit(panel)
    table = model.predict(panel).components
    assert table["model"][0] == "SimpleExponentialSmoothing + Naive"
    assert table["point"].mean() == pytest.approx(100, rel=0.2)


def test_wrong_arguments_are_named():
    panel = _panel(np.ones((3, 60)))
    with pytest.raises(NotFittedError):
        LegacyForecaster(3).predict(panel)
    with pytest.raises(ParameterError, match="h must be at least 1"):
        LegacyForecaster(0).fit(panel)
    with pytest.raises(ParameterError, match="'brand' is not a static category"):
        LegacyForecaster(3, group="brand").fit(panel)
    with pytest.raises(ParameterError, match="route 'odd' has no point model"):
        LegacyForecaster(3, router=Router((("odd", ()),))).fit(panel)
    with pytest.raises(DataError, match="no observation"):
        LegacyForecaster(3).fit(panel.select(np.zeros(3, bool)))
    with pytest.raises(ParameterError, match="cannot be cqr"):
        LegacyForecaster(3, engine=DistributionEngine("cqr"), origins=1).fit(panel)


# -- acceptance --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_simulated_prices_and_coverage(seed):
    """500 items with known elasticities: shrinkage helps, and the held-out year is covered."""
    panel, truth = elastic_demand(items=500, seed=seed)
    model = LegacyForecaster(52, (0.05, 0.5, 0.95), components=False).fit(panel)
    price, wanted = model.patchwork_.price, truth.items["elasticity"].to_numpy()
    known = np.isfinite(price.slope_)

    def error(found):
        return np.sqrt(np.mean((found - wanted)[known] ** 2))

    assert error(price.elasticity_) <= 0.8 * error(price.slope_)
    assert np.median(price.elasticity_) == pytest.approx(-2.2, abs=0.2)
    forecast = model.predict(panel)
    y = truth.demand.outcomes(forecast.ids, forecast.cutoffs, 52)
    inside = (y >= forecast.values[..., 0]) & (y <= forecast.values[..., 2])
    assert inside.mean() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_new_items_beat_the_category_launch_curve(seed):
    """Items four weeks old, both with an engine: nearest analogs against the category's mean."""
    panel, _ = elastic_demand(items=500, launch=True, seed=seed)
    new, age, h = np.flatnonzero(panel.lengths == 26), 4, 22
    back = np.zeros(len(panel), np.int64)
    back[new] = 26 - age
    past = panel.cut(back)
    forecast = LegacyForecaster(h).fit(past).predict(past.select(new))
    assert set(forecast.components["model"]) == {"AnalogNew"}
    y = panel.outcomes(forecast.ids, forecast.cutoffs, h)
    group = panel.static_categorical["group"].codes
    launched = np.flatnonzero(panel.lengths == 104)
    curves = panel.windows(launched, np.full(len(launched), age + h), age + h)

    def mean_curve(i):
        same = (group[launched] == group[i]) & (launched != i)
        return curves[same].mean(axis=0)[age:]

    engine = DistributionEngine()
    engine.fit(np.stack([mean_curve(i) for i in launched]), curves[:, age:])
    category = engine.apply(np.stack([mean_curve(i) for i in new]), LEVELS)
    ours = weighted_quantile_loss(y, forecast.values, LEVELS)
    assert ours <= 0.85 * weighted_quantile_loss(y, category, LEVELS)


@pytest.fixture(scope="module")
def walmart_panel(request):
    from foretell.data.public import walmart

    return walmart(request.getfixturevalue("data_root") / "walmart_store_sales")


@pytest.mark.real_data
def test_walmart_seasonal_naive_and_engine(walmart_panel):
    """Lag 52 (last value where absent): point loss .1132; with the engine at most .094."""
    panel, rows = walmart_panel, np.arange(len(walmart_panel))
    router = Router((("all", ()),))
    model = LegacyForecaster(
        39, router=router, models={"all": (SeasonalNaive(),)}, seasonal=None, events=None,
        group="Dept",
    ).fit(panel.cut(39))  # fmt: skip
    forecast = model.predict(panel.cut(39))
    y = panel.windows(rows, panel.lengths, 39)
    assert wape(y, _points(forecast)) == pytest.approx(0.113, abs=0.002)
    assert weighted_quantile_loss(y, forecast.values, LEVELS) <= 0.094
    assert 0.80 <= coverage(y, forecast.values)[8] <= 0.95


@pytest.mark.real_data
def test_walmart_default(walmart_panel):
    panel, rows = walmart_panel, np.arange(len(walmart_panel))
    forecast = LegacyForecaster(39).fit(panel.cut(39)).predict(panel.cut(39))
    y = panel.windows(rows, panel.lengths, 39)
    assert weighted_quantile_loss(y, forecast.values, LEVELS) <= 0.082
    np.testing.assert_allclose(coverage(y, forecast.values), LEVELS, atol=0.06)


@pytest.mark.real_data
def test_favorita_default(data_root):
    from foretell.data.public import favorita

    panel = favorita(data_root / "favorita_weekly_21_stores")
    model = LegacyForecaster(13, components=False).fit(panel.cut(171 - 118))
    back = [171 - origin for origin in (118, 126, 134, 142, 150, 158)]
    forecast = model.predict_origins(panel, back)
    y = panel.outcomes(forecast.ids, forecast.cutoffs, 13)
    assert weighted_quantile_loss(y, forecast.values, LEVELS) <= 0.216
    covered = coverage(y, forecast.values)
    assert covered[0] == pytest.approx(0.1, abs=0.04)
    assert covered[8] == pytest.approx(0.9, abs=0.04)
