"""The quantile ensemble: order kept, members equal, everything comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.errors import NotFittedError, ParameterError
from foretell.estimators.ensemble import QuantileEnsemble, combine
from foretell.estimators.mq_dnn import MQDNN
from foretell.evaluation.metrics import crossing_rate, weighted_quantile_loss
from foretell.learners.demand.forecast import Forecast, Span
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.quantile_forest import QRFForecaster

LEVELS = np.array([0.1, 0.5, 0.9])


def forecast(values, name="model", **more):
    values = np.asarray(values, np.float32)
    ids = np.array([str(i) for i in range(len(values))], object)
    return Forecast(
        ids, np.zeros(len(values), np.int64), Frequency(), LEVELS, values, model=name, **more
    )


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(["median", "mean"]))
def test_nothing_crosses_and_order_of_members_is_free(seed, count, method):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=(count, 4, 2, 3)) * 1e3, axis=-1)
    parts = [forecast(v) for v in values]
    weights = rng.random(count) + 0.01
    for shares in (None, weights):
        whole = combine(parts, method, weights=shares)
        assert crossing_rate(whole.values) == 0
        back = None if shares is None else shares[::-1]
        other = combine(parts[::-1], method, weights=back)
        np.testing.assert_allclose(other.values, whole.values, rtol=1e-5, atol=1e-3)
        assert (whole.values <= values.max(axis=0) + 1e-3).all()
        assert (whole.values >= values.min(axis=0) - 1e-3).all()


def test_median_mean_and_weights():
    a, b, c = (forecast(np.full((1, 1, 3), v)) for v in (1.0, 2.0, 9.0))
    assert combine([a, b, c]).values.ravel().tolist() == [2, 2, 2]
    assert combine([a, b, c], "mean").values.ravel().tolist() == [4, 4, 4]
    assert combine([a, b, c], weights=[1, 1, 3]).values[0, 0, 0] == 9
    assert combine([a, b, c], "mean", weights=[2, 1, 1]).values[0, 0, 0] == pytest.approx(3.25)
    assert combine([a, b, c], weights=[0, 1, 0]).values[0, 0, 0] == 2


def test_the_median_shrugs_off_a_broken_member():
    good = [forecast(np.full((1, 1, 3), v)) for v in (9.0, 10.0)]
    broken = forecast(np.full((1, 1, 3), 1e9))
    assert combine([*good, broken]).values.max() == 10


def test_spans_that_all_have_are_combined():
    span, other = Span(1, 1), Span(0, 2)
    values = np.ones((2, 2, 3))
    sums = np.ones((2, 3), np.float32)
    a = forecast(values, spans={span: sums, other: sums})
    b = forecast(values, spans={span: 3 * sums})
    combined = combine([a, b], "mean")
    assert list(combined.spans) == [span]
    np.testing.assert_array_equal(combined.spans[span], 2 * sums)


def test_members_that_do_not_belong_together():
    a = forecast(np.ones((2, 2, 3)))
    with pytest.raises(ParameterError, match="other"):
        combine([a, forecast(np.ones((2, 3, 3)), "other")])
    with pytest.raises(ParameterError, match="other"):
        combine([a, replace(a, cutoffs=a.cutoffs + 1, model="other")])
    with pytest.raises(ParameterError, match="weights"):
        combine([a, a], weights=[1])
    with pytest.raises(ParameterError, match="weights"):
        combine([a, a], weights=[0, 0])
    with pytest.raises(ParameterError, match="method"):
        combine([a], "mode")
    with pytest.raises(ParameterError, match="no forecast"):
        combine([])


@pytest.fixture(scope="module")
def panel():
    rng = np.random.default_rng(0)
    steps = np.arange(60)
    wave = 1 + 0.5 * np.sin(2 * np.pi * steps / 12)
    y = rng.lognormal(3, 1, (20, 1)) * wave * rng.gamma(16, 1 / 16, (20, 60))
    return Panel.from_arrays(list(y))


def members():
    return [
        QRFForecaster(6, season_length=12, n_rows=1500, n_estimators=8, seed=3),
        MQDNN(
            6, season_length=12, n_rows=1500, max_steps=60, batch_size=64, hidden=(16,),
            threads=1, device="cpu",
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(panel):
    return QuantileEnsemble(members(), seeds=2).fit(panel.cut(6))


def test_no_worse_than_its_members(panel, model):
    back = [6]
    y = panel.windows(np.arange(len(panel)), panel.lengths, 6)
    whole = model.predict_origins(panel, back)
    losses = [
        weighted_quantile_loss(y, part.values, part.levels)
        for part in model.member_forecasts(panel, back)
    ]
    assert len(losses) == 2
    # The loss is convex: with two members, median and mean agree.
    assert weighted_quantile_loss(y, whole.values, whole.levels) <= np.mean(losses) + 1e-9
    assert crossing_rate(whole.values) == 0


def test_seeds_differ_and_members_are_copies(model):
    assert [fit.seed for fit in model.members_[0]] == [3, 4]
    assert not hasattr(model.members[0], "forest_")


def test_save_load_clone(tmp_path, panel, model):
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert isinstance(again, QuantileEnsemble) and again.h == 6
    np.testing.assert_array_equal(again.predict(panel).values, model.predict(panel).values)
    copy = clone(model)
    assert copy.h == 6 and copy.seeds == 2


def test_errors(panel):
    with pytest.raises(ParameterError, match="at least one member"):
        QuantileEnsemble([]).fit(panel)
    with pytest.raises(ParameterError, match="horizons"):
        QuantileEnsemble([QRFForecaster(3), QRFForecaster(4, alias="other")]).fit(panel)
    with pytest.raises(ParameterError, match="seeds"):
        QuantileEnsemble(members(), seeds=0).fit(panel)
    with pytest.raises(ParameterError, match="method"):
        QuantileEnsemble(members(), "mode").fit(panel)
    with pytest.raises(NotFittedError):
        QuantileEnsemble(members()).predict(panel)
