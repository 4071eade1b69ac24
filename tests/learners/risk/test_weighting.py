"""COMPOSER's weighting module: values fade with their age, and only fade."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.clinical import split_by_patient
from foretell.data.simulators import hospitals
from foretell.errors import ParameterError
from foretell.estimators import FeedForwardRisk
from foretell.learners.risk import FeedForwardRiskLearner, FeedForwardShape
from foretell.learners.risk.weighting import AgingColumns, WeightedInputs, age_weight

COLUMNS = AgingColumns(pairs=((0, 3), (1, 4)), left_out=(3, 4))
parameters = st.floats(-8, 8, allow_nan=False)
hours = st.floats(0, 500, allow_nan=False)


@given(parameters, hours, hours)
def test_weight_is_1_when_new_and_never_grows(a, one, other):
    rate = torch.nn.functional.softplus(torch.tensor(a, dtype=torch.float64))
    early, late = sorted((one, other))
    w = age_weight(torch.tensor([0.0, early, late], dtype=torch.float64), rate)
    assert w[0] == 1
    assert 1 >= w[1] >= w[2] >= 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=2), parameters, st.integers(0, 1000))
def test_a_linear_readout_goes_to_the_population_mean(values, a, seed):
    """With all else fixed, ageing moves the output towards that of the mean, and never past it."""
    module = WeightedInputs(COLUMNS, 5).double()
    torch.nn.init.constant_(module.aging, a)
    weight = torch.randn(module.n_outputs, generator=torch.Generator().manual_seed(seed)).double()
    grid = torch.linspace(0, 400, 60).double()
    rows = torch.zeros(len(grid), 5).double()
    rows[:, 0], rows[:, 1], rows[:, 2] = values[0], values[1], 0.7
    rows[:, 3] = torch.log1p(grid) / np.log1p(200)
    mean = rows[:1].clone()
    mean[:, 0] = 0
    with torch.no_grad():
        gap = ((module(rows) - module(mean)) @ weight).abs()
    assert (gap.diff() <= 1e-9).all()


def test_old_values_are_the_mean_of_the_population():
    torch.manual_seed(0)
    shape = FeedForwardShape(5, (8, 4), 0.0, COLUMNS)
    learner = FeedForwardRiskLearner(shape).eval()
    old = torch.tensor([[3.0, -2.0, 0.5, 3.0, 3.0]], dtype=torch.float32)
    mean = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0]])
    with torch.inference_mode():
        assert torch.allclose(learner({"x": old}).logit, learner({"x": mean}).logit, atol=1e-5)


def test_hours_speak_only_through_the_value():
    """Where a value is the mean, how old it is makes no difference."""
    torch.manual_seed(1)
    learner = FeedForwardRiskLearner(FeedForwardShape(5, (8, 4), 0.0, COLUMNS)).eval()
    rows = torch.zeros(20, 5)
    rows[:, 3] = torch.linspace(0, 1, 20)
    with torch.inference_mode():
        found = learner({"x": rows}).logit
    assert torch.allclose(found, found[:1].expand_as(found))


def test_half_life_before_training():
    module = WeightedInputs(COLUMNS, 5, half_life=12)
    assert age_weight(torch.tensor(12.0), module.rates[0]).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        {"pairs": ((0, 9),)},
        {"left_out": (0, 1, 2, 3, 4)},
        {"pairs": ((0, 3), (0, 4))},
        {"pairs": ((0, 3),), "left_out": (0,)},
    ],
)
def test_columns_that_make_no_sense(columns):
    with pytest.raises(ParameterError):
        WeightedInputs(AgingColumns(**columns), 5)


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=60, sites=2, hours=(12, 24), seed=3)[0]


@pytest.mark.parametrize("how", ["weight", "drop"])
def test_estimator_streams_saves_and_explains(how, stays, tmp_path):
    split = split_by_patient(stays, test_size=0.3, validation_size=0.2)
    model = FeedForwardRisk(
        hidden=(16, 8), n_knots=0, time_since=how, max_steps=30, validate_every=15, threads=1
    )
    model.fit(split.train, validation=split.validation)
    risk = model.predict_proba(split.test)[:, 1]
    learner = model.learner_
    assert learner.first.in_features == model.n_features_in_ - 2 * len(stays.schema)
    assert learner.weighting.aging.numel() == (len(stays.schema) if how == "weight" else 0)
    model.save(tmp_path / "model")
    again = FeedForwardRisk.load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(split.test)[:, 1], risk)
    one = split.test.select([0])
    live = again.stream(age=one.number("age")[0], sex=one.names("sex")[0])
    streamed = [live.step(row) for row in one.matrix()]
    assert np.allclose(streamed, risk[: one.n_rows], atol=1e-6)
    told = model.explain(one, top=3)
    assert not told["feature"].str.contains("never").any()


def test_what_cannot_be_weighed(stays):
    with pytest.raises(ParameterError, match="n_knots=0"):
        FeedForwardRisk(time_since="weight").fit(stays)
    with pytest.raises(ParameterError, match="time_since is"):
        FeedForwardRisk(time_since="fade", n_knots=0).fit(stays)
    with pytest.raises(ParameterError, match="needs stays"):
        FeedForwardRisk(time_since="drop", n_knots=0).fit(np.zeros((4, 2)), [0, 1, 0, 1])
    with pytest.raises(ParameterError, match="blocks"):
        FeedForwardRisk("time-blind-v1", time_since="weight", n_knots=0).fit(stays)
