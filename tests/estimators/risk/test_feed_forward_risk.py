"""FeedForwardRisk: training, streaming, saving, private training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from foretell.data.clinical import split_by_patient, target
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.estimators import FeedForwardRisk
from foretell.learners.risk.examples import encoded
from foretell.learners.risk.ranking import auroc
from foretell.training.private import PrivateTraining

SMALL = {
    "hidden": (16, 8), "negatives": 64, "positives": 16, "max_steps": 150, "dropout": 0.1,
    "learning_rate": 3e-3, "validate_every": 50, "threads": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(stays):
    return FeedForwardRisk(**SMALL).fit(stays.select(slice(0, 90)))


def test_ranks_hours_and_is_calibrated_at_the_rate_of_training(model, stays):
    test = stays.select(slice(90, 120))
    wanted = target(test)
    risk = model.predict_proba(test)[:, 1]
    assert auroc(risk[wanted.at_risk], wanted.label[wanted.at_risk]) > 0.85
    # Batches hold a fifth of positive hours; the stays a tenth of that or so.
    assert risk[wanted.at_risk].mean() == pytest.approx(
        wanted.label[wanted.at_risk].mean(), abs=0.06
    )


def test_stream_equals_batch(model, stays, describe):
    for i in (3, 91, 100):
        stay = stays.select([i])
        live = model.stream(**describe(stay))
        found = [live.step(row) for row in stay.matrix()]
        np.testing.assert_allclose(found, model.predict_proba(stay)[:, 1], atol=1e-6)
        assert live.hour == len(found)


def test_stream_goes_on_from_a_snapshot(model, stays, describe):
    stay = stays.select([95])
    rows = stay.matrix()
    first = model.stream(**describe(stay))
    for row in rows[:5]:
        first.step(row)
    second = model.stream(**describe(stay)).restore(first.snapshot())
    assert [second.step(r) for r in rows[5:]] == [first.step(r) for r in rows[5:]]
    with pytest.raises(ParameterError, match="snapshot"):
        second.restore({})


def test_save_and_load(model, stays, tmp_path):
    model.save(tmp_path)
    again = FeedForwardRisk.load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(stays), model.predict_proba(stays))
    assert again.hidden == [16, 8] and again.privacy_ is None
    config = json.loads((tmp_path / "model.json").read_text())
    config["config"]["parameters"]["hidden"] = [10**6, 10**6]
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="shape"):
        FeedForwardRisk.load(tmp_path)
    config["config"]["encoder"]["knots"].pop()
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError):
        FeedForwardRisk.load(tmp_path)


def test_matrices(stays):
    from foretell.data.clinical import CausalFeatureBuilder

    wanted = target(stays)
    X = CausalFeatureBuilder().fit(stays).transform(stays, wanted.at_risk)
    y = wanted.label[wanted.at_risk]
    model = FeedForwardRisk(**{**SMALL, "max_steps": 20}).fit(X, y, validation=(X, y))
    assert model.predict_proba(X).shape == (len(X), 2)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.represent(X).shape == (len(X), 16)
    with pytest.raises(NotFittedError, match="matrix"):
        model.stream()
    with pytest.raises(ParameterError, match="features must be"):
        model.predict_proba(X[:, :5])


def test_the_same_seed_gives_the_same_net(stays):
    few = {**SMALL, "max_steps": 10}
    nets = [FeedForwardRisk(**few, random_state=s).fit(stays).learner_ for s in (1, 1, 2)]
    weights = [net.first.weight for net in nets]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.filterwarnings("ignore")
def test_private_training_says_what_one_record_is(stays):
    few = {**SMALL, "max_steps": 5, "stays": 30, "negatives": 40}
    by_stay = FeedForwardRisk(**few, unit="stay").fit(
        stays, strategies=[PrivateTraining(1.0, target_delta=1e-3, noise_seed=0)]
    )
    assert by_stay.privacy_ is not None and by_stay.privacy_.unit == "stay"
    by_row = FeedForwardRisk(**few).fit(
        stays, strategies=[PrivateTraining(1.0, target_delta=1e-5, noise_seed=0)]
    )
    assert by_row.privacy_ is not None and by_row.privacy_.unit == "hour of a stay"
    assert any("k times" in a for a in by_row.privacy_.assumptions)
    assert any("knots" in a for a in by_row.privacy_.assumptions)


def test_losses_of_stays(model, stays):
    found = model.losses(stays)
    wanted = target(stays)
    risk = model.predict_proba(stays)[:, 1]
    stay = stays.select([4])
    rows = (stays.stay_of_row() == 4) & wanted.at_risk
    p = np.where(wanted.label[rows] == 1, risk[rows], 1 - risk[rows])
    assert found[4] == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert len(found) == len(stays) and stay.n_rows >= rows.sum()


def test_a_stay_of_one_hour_and_hours_inserted(model, stays):
    risk = model.predict_proba(stays.first(1))
    assert len(risk) == len(stays) and np.isfinite(risk).all()
    assert model.predict_proba(stays.select([])).shape == (0, 2)


def test_refusals(stays):
    with pytest.raises(NotFittedError):
        FeedForwardRisk().predict_proba(stays)
    with pytest.raises(ParameterError, match="unit"):
        FeedForwardRisk(unit="patient").fit(stays)
    with pytest.raises(ParameterError, match="needs labels"):
        FeedForwardRisk().fit(np.zeros((3, 2)))
    well = stays.select(~np.isfinite(stays.onset))
    with pytest.raises(DataError, match="Both classes"):
        FeedForwardRisk(**SMALL).fit(well)
    with pytest.raises(DataError, match="one class"):
        FeedForwardRisk(**SMALL).fit(stays, validation=well)
    assert clone(FeedForwardRisk(**SMALL)).get_params()["negatives"] == 64
    assert split_by_patient(stays).train is not None


def test_what_no_patient_had_drives_nothing(stays):
    """As everywhere in training it is never measured: nothing of this patient."""
    without = replace(
        stays, channels={**stays.channels, "WBC": np.full(stays.n_rows, np.nan, "f4")}
    )
    model = FeedForwardRisk(**SMALL | {"max_steps": 20}).fit(without.select(slice(0, 60)))
    test = without.select(slice(60, 70))
    moved = model.contributions(test)
    own = model.features_.columns(channel="WBC")
    assert len(own) == 4 and not moved[:, own].any()
    assert np.abs(moved[:, model.features_.columns(channel="HR")]).max() > 0.01
    mean = encoded(model.features_.reference()[None], model.encoder_)
    with torch.inference_mode():
        base = float(model.learner_({"x": mean}).logit)
    risk = model.predict_proba(test)[:, 1]
    away = np.log(risk / (1 - risk)) - model.offset_ - base
    np.testing.assert_allclose(moved.sum(axis=1), away, atol=0.02)


def test_a_feature_that_is_not_a_number_is_no_risk(model, stays):
    features = model.features_.transform(stays.select([0]))
    features[2, 3] = np.nan
    with pytest.raises(DataError, match="not finite") as refused:
        model.predict_proba(features)
    assert refused.value.row == 2
