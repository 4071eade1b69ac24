"""The forest forecaster: honest, ordered, savable, and better than its reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.evaluation.metrics import crossing_rate, weighted_quantile_loss
from foretell.learners.demand.features.definitions import Horizon, SeasonalLags
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.quantile_forest import QRFForecaster

WEEKS = Frequency.parse("W", example=np.datetime64("2020-01-03"))


def shop(n=40, length=130, seed=0):
    """Weekly demand with a season shared by kinds, growth and gamma noise."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 4
    steps = np.arange(length)
    level = rng.lognormal(4, 1, n)[:, None]
    wave = np.exp(0.6 * np.sin(2 * np.pi * (steps / 52 + kinds[:, None] / 4)))
    y = level * wave * 1.002**steps * rng.gamma(25, 1 / 25, (n, length))
    return Panel.from_arrays(
        list(y), frequency=WEEKS,
        static_categorical={"kind": Categorical.from_values([f"k{k}" for k in kinds])},
    )  # fmt: skip


def small(**more):
    options = dict(n_rows=6000, n_estimators=20, seed=0)
    return QRFForecaster(8, **{**options, **more})


@pytest.fixture(scope="module")
def panel():
    return shop()


@pytest.fixture(scope="module")
def model(panel):
    return small().fit(panel.cut(8))


def test_better_than_last_season_and_calibrated(panel, model):
    forecast = model.predict(panel.cut(8))
    y = panel.windows(np.arange(len(panel)), panel.lengths, 8)
    loss = weighted_quantile_loss(y, forecast.values, forecast.levels)
    reference = panel.windows(np.arange(len(panel)), panel.lengths - 52, 8)
    naive = weighted_quantile_loss(y, np.repeat(reference[..., None], 9, axis=-1), forecast.levels)
    assert loss < 0.75 * naive
    assert crossing_rate(forecast.values) == 0
    assert (forecast.values >= 0).all()


def test_the_future_does_not_matter(panel, model):
    back = [12, 8, 0]
    clean = model.predict_origins(panel, back)
    target = panel.target.copy().reshape(len(panel), -1)
    target[:, -12:] = 1e6
    dirty = model.predict_origins(replace(panel, target=target.ravel()), back)
    n = len(panel)
    np.testing.assert_array_equal(dirty.values[:n], clean.values[:n])
    assert not np.array_equal(dirty.values[-n:], clean.values[-n:])
    np.testing.assert_array_equal(clean.values[n : 2 * n], model.predict(panel.cut(8)).values)


def test_blocks_and_order_of_series(panel, model, monkeypatch):
    past = panel.cut(8)
    whole = model.predict(past).values
    monkeypatch.setattr("foretell.learners.demand.quantile_forest.BLOCK", 50)
    np.testing.assert_array_equal(model.predict(past).values, whole)
    order = np.random.default_rng(0).permutation(len(panel))
    np.testing.assert_allclose(model.predict(past.select(order)).values, whole[order], rtol=1e-5)


def test_save_and_load(tmp_path, panel, model):
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert isinstance(again, QRFForecaster)
    past = panel.cut(8)
    np.testing.assert_array_equal(again.predict(past).values, model.predict(past).values)
    (tmp_path / "arrays.safetensors").write_bytes(b"no")
    with pytest.raises(ArtefactError):
        Forecaster.load(tmp_path)


def test_same_seed_same_forest(panel, model):
    past = panel.cut(8)
    again = small().fit(past).predict(past).values
    np.testing.assert_array_equal(again, model.predict(past).values)
    assert not np.array_equal(small(seed=1).fit(past).predict(past).values, again)


def test_level_response_and_other_quantiles(panel):
    past = panel.cut(8)
    model = small(response="level", quantiles=(0.05, 0.5, 0.95)).fit(past)
    forecast = model.predict(past, quantiles=[0.01, 0.5, 0.6])
    assert forecast.values.shape == (len(panel), 8, 3)
    assert np.isfinite(forecast.values).all()
    shares = model.feature_importances_
    assert sum(shares.values()) == pytest.approx(1)


def test_edges():
    nothing = np.full(6, np.nan)
    series = [np.arange(1.0, 61), [5.0], [], nothing, np.zeros(60), np.full(60, 3.0)]
    panel = Panel.from_arrays(series, frequency=WEEKS)
    model = QRFForecaster(70, n_rows=500, n_estimators=5, min_samples_leaf=2).fit(panel)
    forecast = model.predict(panel)
    assert np.isfinite(forecast.values).all()
    assert (forecast.median[4] == 0).all()  # a series of zeros stays at zero
    np.testing.assert_allclose(forecast.median[5], 3, rtol=0.1)
    assert model.predict(panel.select(np.array([2]))).values.shape == (1, 70, 9)


def test_negative_values_are_forecast_where_they_are_usual():
    rng = np.random.default_rng(0)
    panel = Panel.from_arrays(list(rng.normal(0, 1, (10, 80))), frequency=WEEKS)
    options = dict(n_rows=2000, n_estimators=10, min_samples_leaf=20)
    assert (QRFForecaster(4, **options).fit(panel).predict(panel).values < 0).any()
    held = QRFForecaster(4, non_negative=True, **options).fit(panel).predict(panel)
    assert (held.values >= 0).all()


def test_errors(panel):
    with pytest.raises(NotFittedError):
        QRFForecaster().predict(panel)
    with pytest.raises(ParameterError, match="response"):
        QRFForecaster(response="ratio").fit(panel)
    with pytest.raises(ParameterError, match="n_rows"):
        QRFForecaster(n_rows=0).fit(panel)
    with pytest.raises(ParameterError, match="tilt"):
        QRFForecaster(tilt=2.0).fit(panel)
    with pytest.raises(ParameterError, match="h must"):
        QRFForecaster(0).fit(panel)
    with pytest.raises(DataError, match="two observed"):
        QRFForecaster(2).fit(Panel.from_arrays([[1.0], [2.0]]))
    known = Panel.from_arrays(
        [np.arange(40.0)], frequency=WEEKS, known={"price": np.ones(42, np.float32)},
        known_begins=np.array([0]), known_lengths=np.array([42]),
    )  # fmt: skip
    model = QRFForecaster(2, n_rows=50, n_estimators=2).fit(known)
    assert np.isfinite(model.predict(known).values).all()
    with pytest.raises(DataError, match="price"):
        QRFForecaster(3, n_rows=50, n_estimators=2).fit(known).predict(known)


def test_numpy_settings_and_own_features_survive_saving(tmp_path, panel):
    model = small(
        n_rows=500, n_estimators=2, features=[SeasonalLags(), Horizon()],
        season_length=np.int64(52), quantiles=np.array([0.1, 0.5, 0.9]), seed=np.int64(1),
    ).fit(panel.cut(8))  # fmt: skip
    model.save(tmp_path)
    loaded = QRFForecaster.load(tmp_path)
    before = model.predict(panel).values
    assert np.array_equal(loaded.predict(panel).values, before)
    # A new fit of the loaded model is the same fit.
    again = loaded.fit(panel.cut(8))
    assert again.pack_.names_ == model.pack_.names_
    assert np.array_equal(again.predict(panel).values, before)


def test_series_of_another_frequency_are_refused(tmp_path, panel, model):
    model.save(tmp_path)
    other = replace(panel, frequency=Frequency.parse("MS"), starts=panel.starts - 2300)
    for one in (model, Forecaster.load(tmp_path)):
        with pytest.raises(DataError, match="fitted on periods of"):
            one.predict(other)
