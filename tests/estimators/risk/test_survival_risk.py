"""DeepAISE and the linear Weibull-Cox model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from foretell.data.clinical import stays_from_frame, target
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.estimators import DeepAISE, WeibullCox
from foretell.learners.risk import survival_times
from foretell.learners.risk.ranking import auroc

SMALL = {"stays": 32, "max_steps": 60, "validate_every": 20, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def model(stays):
    return DeepAISE(hidden=12, learning_rate=0.02, **SMALL).fit(stays.select(slice(0, 90)))


@pytest.fixture(scope="module")
def linear(stays):
    return WeibullCox(learning_rate=0.02, **SMALL).fit(stays.select(slice(0, 90)))


@pytest.mark.parametrize("name", ["model", "linear"])
def test_ranks_hours(name, stays, request):
    test = stays.select(slice(90, 120))
    wanted = target(test)
    risk = request.getfixturevalue(name).predict_proba(test)[:, 1]
    assert auroc(risk[wanted.at_risk], wanted.label[wanted.at_risk]) > 0.85


@pytest.mark.parametrize("name", ["model", "linear"])
def test_risks_grow_with_the_horizon(name, stays, request):
    risk = request.getfixturevalue(name).predict_risk(stays, [1, 4, 8, 12])
    assert risk.shape == (stays.n_rows, 4)
    assert ((risk >= 0) & (risk <= 1)).all() and (np.diff(risk, axis=1) >= 0).all()


def test_expected_onsets_are_those_observed(stays):
    model = WeibullCox(**SMALL, validation_size=0.0, well_per_septic=None).fit(stays)
    times = survival_times(stays)
    eta = model.predictor(stays)
    scale, shape = model._baseline()
    hazard = np.exp(shape * np.log(np.maximum(times.time, 0.5) / scale) + eta)
    assert hazard[times.at_risk].sum() == pytest.approx(times.event.sum(), rel=1e-3)


@pytest.mark.parametrize("name", ["model", "linear"])
def test_stream_equals_batch(name, stays, describe, request):
    found = request.getfixturevalue(name)
    for i in (3, 91):
        stay = stays.select([i])
        live = found.stream(**describe(stay))
        risks = [live.step(row) for row in stay.matrix()]
        np.testing.assert_allclose(risks, found.predict_proba(stay)[:, 1], atol=1e-6)


def test_stream_goes_on_from_a_snapshot(model, stays, describe):
    stay = stays.select([95])
    rows = stay.matrix()
    first = model.stream(**describe(stay))
    for row in rows[:5]:
        first.step(row)
    second = model.stream(**describe(stay)).restore(first.snapshot())
    assert [second.step(r) for r in rows[5:]] == [first.step(r) for r in rows[5:]]


def test_step_carries_the_state(model, stays):
    stay = stays.select([2])
    features = model.features_.transform(stay)
    state = model.memory()
    for t in range(stay.n_rows):
        state, risk = model.step(state, features[t], [4, 12])
        np.testing.assert_allclose(risk, model.predict_risk(stay, [4, 12])[t], atol=1e-6)


def test_what_comes_later_changes_nothing(model, stays):
    whole = model.predict_risk(stays)[:, 0]
    early = stays.first(6)
    rows = np.concatenate([np.arange(6) + at for at in stays.offsets[:-1]])
    np.testing.assert_allclose(model.predict_risk(early)[:, 0], whole[rows], atol=1e-6)


@pytest.mark.parametrize("kind", [DeepAISE, WeibullCox])
def test_save_and_load(kind, model, linear, stays, tmp_path):
    saved = model if kind is DeepAISE else linear
    saved.save(tmp_path)
    np.testing.assert_array_equal(
        kind.load(tmp_path).predict_risk(stays, [4, 8]), saved.predict_risk(stays, [4, 8])
    )
    config = json.loads((tmp_path / "model.json").read_text())
    config["config"]["columns"] = [10**6] * len(config["config"]["columns"]) + [1]
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError):
        kind.load(tmp_path)


def test_explanations_add_up_and_name_what_was_planted(model, stays):
    septic = stays.select(np.flatnonzero(np.isfinite(stays.onset))[:8])
    rows = septic.offsets[1:4] - 1
    moved = model.contributions(septic, rows)
    features = model.features_.transform(septic.select([0]))
    x = torch.from_numpy(model.inputs_(features))[None]
    mean = np.repeat(model.features_.reference()[None], len(features), axis=0)
    mean = torch.from_numpy(model.inputs_(mean))[None]
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        gap = float(model._last(x, mask) - model._last(mean, mask))
    assert moved[0].sum() == pytest.approx(gap, abs=0.05)
    told = model.explain(septic, top=5)
    assert told.height == 5 * len(septic)
    first = told.filter(told["rank"] == 1)["feature"].str.split(":").list.first()
    assert first.is_in(["HR", "WBC", "shock_index", "hour"]).mean() > 0.5


@pytest.mark.filterwarnings("ignore")
def test_private_training_is_of_stays(stays):
    from foretell.training.private import PrivateTraining

    few = {**SMALL, "max_steps": 3}
    model = WeibullCox(**few, well_per_septic=None).fit(
        stays, strategies=[PrivateTraining(1.0, target_delta=1e-3, noise_seed=0)]
    )
    assert model.privacy_ is not None and model.privacy_.unit == "stay"


def test_a_stay_of_one_hour_and_one_septic_from_its_start(model, stays):
    assert np.isfinite(model.predict_risk(stays.first(1))).all()
    assert model.predict_risk(stays.select([])).shape == (0, 1)
    early = stays.first(4)  # onsets come at hour 8 or later: none is seen within 12 h of nothing
    times = survival_times(early)
    assert times.time.min() >= 0


@pytest.mark.parametrize("kind", [DeepAISE, WeibullCox])
def test_time_blind_models_do_not_see_the_hour(kind, stays):
    model = kind("time-blind-v1", **{**SMALL, "max_steps": 3}).fit(stays)
    names = model.features_.names
    assert not {"hour", "admission"} & set(names)
    assert not any(n.endswith((":since", ":never")) for n in names)
    # The same measurements, a day later on the unit's clock.
    later = replace(stays, starts=stays.starts + 24, onset=stays.onset + 24)
    np.testing.assert_array_equal(model.predict_risk(later), model.predict_risk(stays))


def test_hours_without_a_row_are_hours_without_a_measurement(model, stays):
    frame = stays.select([2]).to_polars()
    gap = frame.filter((frame["hour"] < 4) | (frame["hour"] > 6)).drop("label")
    short = stays_from_frame(gap.drop_nulls("hour"), numbers=(), categories=())
    assert short.n_rows == frame.height
    assert np.isfinite(model.predict_risk(short)).all()


def test_refusals(stays):
    with pytest.raises(NotFittedError):
        DeepAISE().predict_risk(stays)
    with pytest.raises(ParameterError, match="horizon"):
        DeepAISE(horizon=0).fit(stays)
    with pytest.raises(DataError, match="no onset"):
        WeibullCox().fit(stays.select(~np.isfinite(stays.onset)))
