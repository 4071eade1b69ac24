"""MQ-DNN: honest, ordered, savable; its loss is what it says; it knows a law when it sees one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.data.simulators import cones
from foretell.errors import DataError, NotFittedError, ParameterError, TrainingError
from foretell.estimators.mq_dnn import MQDNN
from foretell.evaluation.metrics import crossing_rate, weighted_quantile_loss
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.neural.mq_dnn import MQDNNLearner, MQDNNShape

WEEKS = Frequency.parse("W", example=np.datetime64("2020-01-03"))


def shop(n=30, length=130, seed=0):
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 3
    steps = np.arange(length)
    level = rng.lognormal(4, 1, n)[:, None]
    wave = np.exp(0.6 * np.sin(2 * np.pi * (steps / 52 + kinds[:, None] / 3)))
    y = level * wave * rng.gamma(25, 1 / 25, (n, length))
    return Panel.from_arrays(
        list(y), frequency=WEEKS,
        static_categorical={"kind": Categorical.from_values([f"k{k}" for k in kinds])},
    )  # fmt: skip


def small(h=8, **more):
    options = dict(
        hidden=(32, 32), n_rows=4000, max_steps=150, batch_size=128, threads=1, device="cpu"
    )
    return MQDNN(h, **{**options, **more})


@pytest.fixture(scope="module")
def panel():
    return shop()


@pytest.fixture(scope="module")
def model(panel):
    return small(seeds=2).fit(panel.cut(8))


def test_better_than_last_season(panel, model):
    forecast = model.predict(panel.cut(8))
    y = panel.windows(np.arange(len(panel)), panel.lengths, 8)
    reference = panel.windows(np.arange(len(panel)), panel.lengths - 52, 8)
    naive = weighted_quantile_loss(y, np.repeat(reference[..., None], 9, -1), forecast.levels)
    assert weighted_quantile_loss(y, forecast.values, forecast.levels) < 0.75 * naive
    assert crossing_rate(forecast.values) == 0
    assert (forecast.values >= 0).all()


def test_the_future_does_not_matter(panel, model):
    clean = model.predict_origins(panel, [12, 8, 0])
    target = panel.target.copy().reshape(len(panel), -1)
    target[:, -12:] = 1e6
    dirty = model.predict_origins(replace(panel, target=target.ravel()), [12, 8, 0])
    n = len(panel)
    np.testing.assert_array_equal(dirty.values[:n], clean.values[:n])
    assert not np.array_equal(dirty.values[-n:], clean.values[-n:])
    np.testing.assert_array_equal(clean.values[n : 2 * n], model.predict(panel.cut(8)).values)


def test_save_and_load(tmp_path, panel, model):
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert isinstance(again, MQDNN)
    np.testing.assert_array_equal(again.predict(panel).values, model.predict(panel).values)


def test_validation_and_patience_stop_early(panel):
    model = small(validation=8, validate_every=10, patience=2, max_steps=2000).fit(panel)
    assert model.history_[0].stopped == "patience"
    assert np.isfinite(model.predict(panel).values).all()


def test_new_category_short_and_empty_series(panel, model):
    others = Panel.from_arrays(
        [np.arange(1.0, 20), [], np.full(4, np.nan), np.zeros(60)], frequency=WEEKS,
        static_categorical={"kind": Categorical.from_values(["new", None, "k0", "k1"])},
    )  # fmt: skip
    forecast = model.predict(others)
    assert np.isfinite(forecast.values).all() and (forecast.values >= 0).all()
    assert crossing_rate(forecast.values) == 0


def test_one_period_without_statics_or_season():
    rng = np.random.default_rng(0)
    panel = Panel.from_arrays(list(rng.gamma(3, 1, (5, 40))))
    model = small(1, embedding=0, max_steps=20, tilt=0.5).fit(panel)
    assert model.predict(panel).values.shape == (5, 1, 9)


def test_errors(panel):
    with pytest.raises(NotFittedError):
        MQDNN().predict(panel)
    for options, named in (
        ({"loss": "huber"}, "loss"), ({"loss_weight": 2.0}, "loss_weight"),
        ({"dropout": 1.0}, "dropout"), ({"tilt": -1.0}, "tilt"), ({"n_rows": 0}, "n_rows"),
        ({"patience": 3}, "patience"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=named):
            small(**options).fit(panel)
    with pytest.raises(DataError):
        small().fit(Panel.from_arrays([[1.0], [2.0]]))


def batch_of(n=64, candidates=2, width=5):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(n, width, generator=generator),
        "candidates": torch.rand(n, candidates, generator=generator),
        "scale": torch.rand(n, generator=generator) * 10 + 1,
        "y": torch.rand(n, generator=generator) * 10,
    }


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_score_is_the_scaled_loss_times_a_power_of_the_scale(gamma):
    shape = MQDNNShape(5, levels=(0.2, 0.5, 0.9), candidates=2, loss_weight=gamma, hidden=(8,))
    learner = MQDNNLearner(shape).eval()
    batch = batch_of()
    output = learner(batch)
    error = batch["y"][:, None] - output.quantiles
    levels = torch.tensor([0.2, 0.5, 0.9])
    loss = torch.maximum(levels * error, (levels - 1) * error).mean(1)
    expected = loss / batch["scale"] * batch["scale"] ** gamma
    torch.testing.assert_close(learner.score(output, batch), expected)
    assert (output.quantiles.diff(dim=-1) >= 0).all()


def test_forecasts_scale_with_the_scale():
    learner = MQDNNLearner(MQDNNShape(5, candidates=2, hidden=(8,))).eval()
    batch = batch_of()
    one = learner(batch).quantiles
    torch.testing.assert_close(learner({**batch, "scale": batch["scale"] * 3}).quantiles, 3 * one)


def test_squared_loss_trains_the_middle_only():
    learner = MQDNNLearner(MQDNNShape(5, candidates=2, hidden=(8,), loss="squared"))
    batch = batch_of()
    learner.loss(batch).sum().backward()
    bias = learner.head.linear.bias.grad
    assert bias[4] != 0 and bias[[0, 1, 2, 3, 5, 6, 7, 8]].abs().max() == 0


def asymmetric_laplace_cdf(error, p=0.35):
    return np.where(error < 0, p * np.exp((1 - p) * error), 1 - (1 - p) * np.exp(-p * error))


def cone_scores(series, **options):
    """Regret against the true quantiles, and the worst step's calibration error (exact)."""
    panel, truth = cones(series=series, cycles=24, horizon=12, seed=0)
    model = MQDNN(
        12, hidden=(64, 64), dropout=0.0, batch_size=256, threads=1, device="cpu", **options
    ).fit(panel.cut(48))
    forecast = model.predict_origins(panel, [48, 36, 24, 12])
    ids, levels = list(forecast.ids), forecast.levels
    y = panel.outcomes(ids, forecast.cutoffs, 12)
    best = truth.quantiles(ids, forecast.cutoffs, 12, levels)
    loss = weighted_quantile_loss(y, forecast.values, levels)
    regret = loss / weighted_quantile_loss(y, best, levels) - 1
    rows = np.array([panel.positions[i] for i in ids])
    steps = (forecast.cutoffs + 1)[:, None] + np.arange(12)
    centre, scale = truth.centre[rows[:, None], steps], truth.scale[rows[:, None], steps]
    covered = asymmetric_laplace_cdf((forecast.values - centre[..., None]) / scale[..., None])
    return regret, np.abs(covered.mean(axis=0) - levels).mean(axis=-1).max()


def test_knows_a_cone_from_its_features():
    regret, error = cone_scores(100, n_rows=20_000, max_steps=500)
    assert regret < 0.08
    assert error < 0.06


@pytest.mark.slow
def test_knows_a_cone_almost_perfectly():
    regret, error = cone_scores(600, n_rows=140_000, max_steps=4000)
    assert regret <= 0.03
    assert error <= 0.02


def test_calibration_mends_an_overfitted_net():
    panel = shop(60, 100, seed=1)
    options = dict(n_rows=600, max_steps=400, dropout=0.0, quantiles=(0.1, 0.5, 0.9))
    raw = small(**options).fit(panel.cut(8))
    mended = small(**options, calibrate="cqr").fit(panel.cut(8))
    y = panel.windows(np.arange(len(panel)), panel.lengths, 8)

    def outer(model):
        q = model.predict(panel.cut(8)).values
        return np.mean((y >= q[..., 0]) & (y <= q[..., 2]))

    assert outer(raw) < 0.72
    assert abs(outer(mended) - 0.8) < abs(outer(raw) - 0.8)


def test_a_finished_run_is_not_resumed_on_other_data(tmp_path, panel):
    options = dict(max_steps=3, n_rows=200, checkpoint=str(tmp_path))
    first = small(**options).fit(panel.cut(8)).predict(panel).values
    resumed = small(**options, resume=True).fit(panel.cut(8)).predict(panel).values
    assert np.array_equal(resumed, first)
    with pytest.raises(TrainingError, match="fingerprint"):
        small(**options, resume=True).fit(panel)
