"""MQ-CNN and MQ-RNN as users hold them: fit, predict, save, resume, and what they refuse."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.estimators import MQCNN, MQRNN
from foretell.estimators.calibration import Calibration
from foretell.evaluation.leakage import leakage_check
from foretell.evaluation.metrics import coverage, crossing_rate, weighted_quantile_loss
from foretell.learners.demand.forecast import Forecast, Span
from foretell.learners.demand.forecaster import Forecaster

H = 4
SMALL = {"h": H, "max_steps": 6, "n_forks": 4, "hidden": 8, "season_length": 6, "threads": 1}


def make_panel(n=8, length=48, seed=0, noise=0.2, known_ahead=H, **columns):
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    values = [
        (10 + 10 * i) * (1 + 0.5 * np.sin(2 * np.pi * t / 6)) * rng.lognormal(0, noise, length)
        for i in range(n)
    ]
    total = length + known_ahead
    defaults = {
        "known": {"promotion": np.tile((np.arange(total) % 7 == 0).astype(np.float32), n)},
        "known_begins": np.arange(n) * total,
        "known_lengths": np.full(n, total),
        "events": ("promotion",),
        "static_categorical": {"shop": Categorical.from_values([f"s{i % 3}" for i in range(n)])},
        "static_real": {"size": np.linspace(1, 2, n).astype(np.float32)},
        "past": {"weather": rng.normal(size=n * length).astype(np.float32)},
    }
    return Panel.from_arrays(values, frequency=Frequency.parse("MS"), **{**defaults, **columns})


@pytest.fixture(scope="module")
def fitted():
    return MQCNN(**SMALL, span_targets=[(0, 2), Span(1, 3)]).fit(make_panel())


def test_fit_and_predict(fitted):
    panel = make_panel()
    forecast = fitted.predict(panel)
    assert forecast.values.shape == (8, H, 9) and forecast.values.dtype == np.float32
    assert np.isfinite(forecast.values).all() and crossing_rate(forecast.values) == 0
    assert set(forecast.spans) == {Span(0, 2), Span(1, 3)}
    assert all((np.diff(s, axis=-1) >= 0).all() for s in forecast.spans.values())
    assert forecast.cutoffs.tolist() == panel.ends.tolist()
    assert fitted.predict(panel, quantiles=[0.05, 0.5]).values.shape == (8, H, 2)
    assert "receptive field 64" in fitted.summary()


def test_all_origins_in_one_pass_equal_one_after_the_other(fitted):
    panel = make_panel()
    together = fitted.predict_origins(panel, [0, 3, 11])
    parts = [fitted.predict(panel.cut(b)) for b in (0, 3, 11)]
    alone = Forecast.concat(parts)
    assert together.ids.tolist() == alone.ids.tolist()
    assert together.cutoffs.tolist() == alone.cutoffs.tolist()
    np.testing.assert_allclose(together.values, alone.values, rtol=1e-5, atol=1e-4)
    for span in together.spans:
        np.testing.assert_allclose(together.spans[span], alone.spans[span], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("model", [MQCNN(**SMALL), MQRNN(**SMALL), MQRNN(**SMALL, encoder="gru")])
def test_same_seed_same_forecast(model):
    panel = make_panel()
    first, second = (clone(model).fit(panel).predict(panel).values for _ in range(2))
    assert np.array_equal(first, second)
    other = clone(model).set_params(seed=7).fit(panel).predict(panel).values
    assert not np.array_equal(first, other)


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    panel = make_panel()
    for cls in (MQCNN, Forecaster):
        loaded = cls.load(tmp_path / "model")
        again, before = loaded.predict(panel), fitted.predict(panel)
        assert np.array_equal(again.values, before.values)
        assert all(np.array_equal(again.spans[s], before.spans[s]) for s in before.spans)
    with pytest.raises(ArtefactError, match="not a MQRNN"):
        MQRNN.load(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    document = json.loads(path.read_text())
    document["config"]["state"]["data"]["shape"]["hidden"] = 16
    path.write_text(json.dumps(document))
    with pytest.raises(ArtefactError, match="MQCNN"):
        MQCNN.load(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.p*k*l*"))


def test_profiles_and_the_hold_at_zero_survive_saving(tmp_path):
    panel = make_panel()
    model = MQCNN(**SMALL, profile_groups=["shop"], static=[]).fit(panel)
    assert model.holds_at_zero_
    model.save(tmp_path / "m")
    few = panel.select(np.array([0, 3]))
    loaded = MQCNN.load(tmp_path / "m")
    assert np.array_equal(loaded.predict(few).values, model.predict(panel).values[[0, 3]])
    sign = np.where(np.arange(panel.target.size) % 3 == 0, -1, 1).astype(np.float32)
    fields = {name: getattr(panel, name) for name in Panel.__dataclass_fields__}
    returns = Panel(**{**fields, "target": panel.target * sign})
    assert not MQCNN(**SMALL).fit(returns).holds_at_zero_
    assert (model.predict(panel).values >= 0).all()


def test_several_networks_are_averaged_by_level():
    panel = make_panel()
    both = MQCNN(**SMALL, seeds=2).fit(panel).predict(panel).values
    single = [MQCNN(**SMALL, seed=s).fit(panel).predict(panel).values for s in (0, 1)]
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, rtol=1e-5)


def test_resumed_training_is_the_uninterrupted_one(tmp_path):
    panel = make_panel()
    whole = MQCNN(**SMALL, schedule="constant").fit(panel).predict(panel).values
    folder = str(tmp_path / "checkpoint")
    kept = {**SMALL, "schedule": "constant", "checkpoint": folder}
    MQCNN(**{**kept, "max_steps": 3}).fit(panel)
    resumed = MQCNN(**kept, resume=True).fit(panel).predict(panel).values
    assert np.array_equal(whole, resumed)


def test_validation_and_patience_stop_on_the_last_periods():
    panel = make_panel()
    model = MQCNN(**{**SMALL, "max_steps": 60}, validation=8, validate_every=2, patience=1)
    model.fit(panel)
    result = model.history_[0]
    assert result.best_score is not None and result.steps <= 60
    with pytest.raises(ParameterError, match="patience needs validation"):
        MQCNN(**SMALL, patience=2).fit(panel)


def test_causal_ensemble_uses_only_earlier_dates(fitted):
    panel = make_panel()
    model = MQCNN(**SMALL, ensemble_origins=2).fit(panel)
    assert np.isfinite(model.predict(panel).values).all()
    cut = model.predict(panel.cut(5)).values
    np.testing.assert_allclose(model.predict_origins(panel, [5]).values, cut, rtol=1e-5, atol=1e-4)


def test_series_that_begin_after_an_origin_are_forecast_for_its_own_dates(fitted):
    panel = make_panel()
    target = panel.target.copy()
    target[:40] = np.nan  # series 0 is first observed at step 40 of 48
    fields = {name: getattr(panel, name) for name in Panel.__dataclass_fields__}
    late = Panel(**{**fields, "target": target})
    together = fitted.predict_origins(late, [0, 15, 48])
    parts = Forecast.concat([fitted.predict(late.cut(b)) for b in (0, 15, 48)])
    assert together.cutoffs.tolist() == parts.cutoffs.tolist()
    np.testing.assert_allclose(together.values, parts.values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cls", [MQCNN, MQRNN])
def test_nothing_after_an_origin_reaches_a_forecast(cls):
    report = leakage_check(cls(**SMALL, profile_groups=["shop"]), make_panel())
    assert report.passed


# What real tables hold.


def test_short_empty_constant_and_zero_series_get_forecasts(fitted):
    nan = np.nan
    values = [
        [],
        [5.0],
        [nan, nan, nan],
        [0.0] * 30,
        [7.0] * 30,
        [nan, 3.0, nan, 4.0],
        [1e-9] * 9,
        [1e9] * 9,
    ]
    lengths = np.array([len(v) for v in values])
    known = lengths + H
    panel = Panel.from_arrays(
        values, frequency=Frequency.parse("MS"),
        known={"promotion": np.zeros(known.sum(), np.float32)},
        known_begins=np.concatenate([[0], np.cumsum(known)[:-1]]), known_lengths=known,
        events=("promotion",),
        static_categorical={"shop": Categorical.from_values(["new town", None] * 4)},
        static_real={"size": np.array([1, nan] * 4, np.float32)},
        past={"weather": np.full(lengths.sum(), nan, np.float32)},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast = fitted.predict(panel)
        model = MQCNN(**SMALL).fit(panel)
    for values in (forecast.values, model.predict(panel).values):
        assert np.isfinite(values).all() and crossing_rate(values) == 0
    # The floor of the scale: a series of zeros stays near zero next to series of hundreds.
    assert np.abs(forecast.values[3]).max() < 1


def test_unknown_categories_are_trained_and_predicted(fitted):
    panel = make_panel()
    new = make_panel(static_categorical={"shop": Categorical.from_values(["elsewhere"] * 8)})
    hidden = Panel(
        **{
            **{name: getattr(panel, name) for name in Panel.__dataclass_fields__},
            "static_categorical": {"shop": Categorical(np.zeros(8, np.int32), ("s0", "s1", "s2"))},
        }
    )
    np.testing.assert_array_equal(fitted.predict(new).values, fitted.predict(hidden).values)
    # Codes follow the training vocabulary, not the order in which a new panel lists its names.
    shuffled = Categorical(panel.static_categorical["shop"].codes[::1] % 3 + 1, ("s2", "s0", "s1"))
    same = make_panel(static_categorical={"shop": shuffled})
    assert same.static_categorical["shop"].values == panel.static_categorical["shop"].values
    np.testing.assert_array_equal(fitted.predict(same).values, fitted.predict(panel).values)


def test_one_horizon_no_covariates_no_season():
    panel = Panel.from_arrays([np.arange(20.0), np.arange(30.0)])
    for model in (MQCNN, MQRNN):
        m = model(h=1, max_steps=3, hidden=8, n_forks="all", threads=1).fit(panel)
        assert m.predict(panel).values.shape == (2, 1, 9)
        assert m.spec_.seasons == ()


def test_horizon_longer_than_history_and_season():
    panel = Panel.from_arrays([np.arange(1.0, 12.0)] * 3)
    model = MQCNN(h=20, max_steps=3, hidden=8, season_length=4, threads=1).fit(panel)
    assert np.isfinite(model.predict(panel).values).all()


def test_long_series_are_cut_into_windows():
    rng = np.random.default_rng(0)
    panel = Panel.from_arrays([rng.lognormal(2, 0.3, 900), rng.lognormal(2, 0.3, 50)])
    model = MQCNN(**{**SMALL, "context_length": 100}, batch_size=2).fit(panel)
    whole = model.predict_origins(panel, [10])
    cut = model.predict(panel.cut(10))
    np.testing.assert_allclose(whole.values, cut.values, rtol=1e-4)


def test_errors_name_what_is_wrong(fitted):
    panel = make_panel()
    with pytest.raises(NotFittedError, match="MQCNN"):
        MQCNN().predict(panel)
    with pytest.raises(DataError, match=r"known covariates end too early.*series '0'"):
        fitted.predict(make_panel(known_ahead=2))
    gap = np.tile((np.arange(52) % 7 == 0).astype(np.float32), 8)
    gap[60] = np.nan
    with pytest.raises(DataError, match=r"missing value.*'promotion'.*series '1'"):
        MQCNN(**SMALL).fit(make_panel(known={"promotion": gap}))
    with pytest.raises(DataError, match="'weather'"):
        fitted.predict(make_panel(past={}))
    with pytest.raises(DataError, match="'shop'"):
        fitted.predict(make_panel(static_categorical={}))
    with pytest.raises(DataError, match=r"'colour'.*shop"):
        MQCNN(**SMALL, static=["colour"]).fit(panel)
    with pytest.raises(DataError, match="no series has an observed value"):
        MQCNN(**SMALL).fit(Panel.from_arrays([[np.nan] * 9]))
    with pytest.raises(DataError, match="no series is long enough"):
        MQCNN(**SMALL).fit(Panel.from_arrays([[1.0], [2.0]]))
    with pytest.raises(DataError, match="held out for calibration"):
        MQCNN(**SMALL, calibrate="cqr", calibration_periods=60).fit(panel)
    for wrong in (
        {"encoder": "bilstm"}, {"n_forks": 0}, {"dropout": 1.0}, {"season_length": 0},
        {"span_targets": [(2, 3)]}, {"seeds": 0}, {"scale_window": 0}, {"loss_weight": -1},
        {"calibrate": "magic"}, {"quantiles": (0.5, 1.2)}, {"t_min": 0},
    ):  # fmt: skip
        with pytest.raises(ParameterError):
            MQCNN(**{**SMALL, **wrong}).fit(panel)


def test_a_field_shorter_than_the_season_is_said():
    panel = Panel.from_arrays([np.arange(200.0)] * 2)
    with pytest.warns(UserWarning, match="sees 31 periods, less than the season of 52"):
        model = MQCNN(h=2, encoder="cnn-gluonts", season_length=52, max_steps=1, hidden=8).fit(
            panel
        )
    assert "receptive field 31" in model.summary()


# What training must achieve.


def simulate(n=60, length=80, seed=0):
    """Level times season times a promotion known ahead, with log-normal noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(length + H)
    promotion = (rng.random((n, length + H)) < 0.1).astype(np.float32)
    level = rng.lognormal(3, 0.5, n)[:, None]
    mean = level * (1 + 0.3 * np.sin(2 * np.pi * t / 6)) * np.exp(0.9 * promotion)
    y = mean * rng.lognormal(0, 0.2, mean.shape)
    panel = Panel.from_arrays(
        list(y[:, :length]),
        known={"promotion": promotion.ravel()},
        known_begins=np.arange(n) * (length + H),
        known_lengths=np.full(n, length + H),
        events=("promotion",),
    )
    return panel, y[:, length:], mean[:, length:]


LEARNING = {
    "h": H,
    "season_length": 6,
    "max_steps": 150,
    "batch_size": 32,
    "hidden": 16,
    "threads": 1,
}


def test_learns_the_season_and_the_spike_of_a_known_promotion():
    from scipy.stats import norm

    panel, y, mean = simulate()
    model = MQCNN(**{**LEARNING, "n_forks": 12}).fit(panel)
    forecast = model.predict(panel)
    oracle = mean[..., None] * np.exp(0.2 * norm.ppf(forecast.levels))
    ours = weighted_quantile_loss(y, forecast.values, forecast.levels)
    best = weighted_quantile_loss(y, oracle, forecast.levels)
    assert ours <= 1.25 * best
    # One window a series and step, as in public code's default sampler, learns less from as much.
    last = MQCNN(**{**LEARNING, "n_forks": 1}, fork_draw="last").fit(panel).predict(panel)
    assert weighted_quantile_loss(y, last.values, last.levels) > 1.05 * ours
    # A decoder without the local network cannot place the spike.
    flat = MQCNN(**{**LEARNING, "n_forks": 12}, local_hidden=()).fit(panel).predict(panel)
    assert weighted_quantile_loss(y, flat.values, flat.levels) > 1.05 * ours


@pytest.mark.parametrize("method", ["cqr", "engine"])
def test_calibration_mends_quantiles_that_are_too_sure(method, tmp_path):
    rng = np.random.default_rng(0)
    levels = np.arange(1, 10) / 10
    from scipy.stats import norm

    def draw(m, k=6):
        level = rng.lognormal(3, 1, (m, k))
        values = level[..., None] * (0.95 + 0.1 * norm.ppf(levels))  # low, and half as wide
        y = level * (1 + 0.2 * rng.normal(size=(m, k)))
        forecast = Forecast(
            np.array([str(i) for i in range(m)], object), np.zeros(m, np.int64), Frequency(),
            levels, values.astype(np.float32),
            {Span(0, 6): values.sum(1).astype(np.float32)},
        )  # fmt: skip
        return forecast, y.astype(np.float32)

    calibration = Calibration.learn(method, *draw(800))
    calibration = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    forecast, y = draw(800)
    before, after = coverage(y, forecast.values), calibration.apply(forecast)
    assert np.abs(before - levels).max() > 0.1
    assert np.abs(coverage(y, after.values) - levels).max() < 0.03
    sums = after.spans[Span(0, 6)]
    assert np.abs(coverage(y.sum(1)[:, None], sums[:, None]) - levels).max() < 0.06
    assert crossing_rate(after.values) == 0
    assert weighted_quantile_loss(y, after.values, levels) < weighted_quantile_loss(
        y, forecast.values, levels
    )


def test_calibration_is_honest_in_time_and_survives_saving(tmp_path):
    panel = make_panel()
    model = MQCNN(**SMALL, calibrate="cqr").fit(panel)
    assert model.calibration_ is not None
    model.save(tmp_path / "m")
    loaded = MQCNN.load(tmp_path / "m")
    assert np.array_equal(loaded.predict(panel).values, model.predict(panel).values)
    # The draft behind the corrections never saw the held-out periods: it equals a fit without.
    plain = MQCNN(**SMALL).fit(panel.cut(H))
    from foretell.estimators.calibration import learn_from_origins

    again = learn_from_origins(plain, panel, [1, 2, 3, 4], "cqr")
    np.testing.assert_allclose(again.shifts, model.calibration_.shifts)


@pytest.mark.parametrize("method", ["cqr", "engine"])
def test_calibrated_demand_is_not_negative(method):
    panel = make_panel(n=24, noise=1.5)
    panel.target[::3] = 0
    model = MQCNN(**SMALL, span_targets=[(0, 2)], calibrate=method).fit(panel)
    assert model.holds_at_zero_
    forecast = model.predict(panel)
    assert (forecast.values >= 0).all()
    assert all((sums >= 0).all() for sums in forecast.spans.values())
    raw = model.calibration_.apply(model._uncalibrated(panel, [0]))
    assert (raw.values < 0).any()  # the hold does something here


def test_calibration_leaves_out_what_a_stock_out_cut():
    from foretell.estimators.calibration import learn_from_origins

    panel = make_panel(n=24)
    fields = {name: getattr(panel, name) for name in Panel.__dataclass_fields__}
    model = MQCNN(**SMALL).fit(panel.cut(H))
    cut = np.zeros(panel.target.size, bool)
    cut[::5] = True
    sold = np.where(cut, panel.target * 0.1, panel.target).astype(np.float32)
    # The cut periods lie in the held-out part only, so that both models see the same past.
    recent = np.arange(panel.target.size) % 48 >= 48 - H
    cut, sold = cut & recent, np.where(recent, sold, panel.target)
    gone = np.where(cut, np.float32(np.nan), panel.target)
    flagged = Panel(**{**fields, "target": sold, "censored": cut})
    missing = Panel(**{**fields, "target": gone})
    ours = learn_from_origins(model, flagged, [H], "cqr")
    np.testing.assert_allclose(ours.shifts, learn_from_origins(model, missing, [H], "cqr").shifts)


def test_calibration_on_one_held_out_period():
    levels = np.array([0.1, 0.5, 0.9])
    rng = np.random.default_rng(0)
    outcomes = np.full((900, H), np.nan, np.float32)
    outcomes[:, 0] = rng.lognormal(2, 1, 900)
    values = np.tile(np.array([1, 2, 3], np.float32), (900, H, 1))
    forecast = Forecast(
        np.array([str(i) for i in range(900)], object), np.zeros(900, np.int64), Frequency(),
        levels, values,
    )  # fmt: skip
    for method in ("cqr", "engine"):
        calibration = Calibration.learn(method, forecast, outcomes)
        assert calibration.edges.tolist() == [H]
        got = coverage(outcomes[:, :1], calibration.apply(forecast).values[:, :1])
        np.testing.assert_allclose(got, levels, atol=0.02)


@pytest.mark.parametrize(
    "change", [{"hidden": 2**20}, {"layers": 10**9, "encoder": "lstm"}, {"horizon": 10**9}]
)
def test_a_model_file_cannot_ask_for_memory_that_it_does_not_fill(fitted, tmp_path, change):
    fitted.save(tmp_path)
    path = tmp_path / "model.json"
    document = json.loads(path.read_text())
    document["config"]["state"]["data"]["shape"] |= change
    if "horizon" in change:
        document["config"]["state"]["data"]["spec"] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(ArtefactError):
        MQCNN.load(tmp_path)


def test_loading_leaves_the_random_numbers_of_torch_alone(fitted, tmp_path):
    fitted.save(tmp_path)
    before = torch.random.get_rng_state()
    MQCNN.load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_planned_after_the_end_does_not_reach_a_fit():
    panel = make_panel(known_ahead=3 * H)
    rng = np.random.default_rng(1)
    price = rng.uniform(1, 2, panel.known["promotion"].size).astype(np.float32)
    later = np.arange(price.size) % (48 + 3 * H) >= 48
    fields = {name: getattr(panel, name) for name in Panel.__dataclass_fields__}
    known = dict(panel.known)
    first = Panel(**{**fields, "known": {**known, "price": price}})
    other = Panel(**{**fields, "known": {**known, "price": np.where(later, price * 50, price)}})
    assert MQCNN(**SMALL).fit(first).spec_ == MQCNN(**SMALL).fit(other).spec_
