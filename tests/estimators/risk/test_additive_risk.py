"""The additive model of an hour's risk: channels fade towards the population, and only so."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from foretell.data.clinical import split_by_patient
from foretell.data.simulators import hospitals
from foretell.errors import DataError, ParameterError
from foretell.estimators import AdditiveRisk
from foretell.learners.artefact import read_kind
from foretell.training.private import PrivateTraining

SETTINGS = {"hidden": (6,), "max_steps": 40, "validate_every": 20, "threads": 1}


@pytest.fixture(scope="module")
def split():
    stays = hospitals(stays=80, sites=2, hours=(12, 30), seed=3)[0]
    return split_by_patient(stays, test_size=0.3, validation_size=0.2)


@pytest.fixture(scope="module")
def model(split):
    return AdditiveRisk(fading="sigmoid", **SETTINGS).fit(split.train, validation=split.validation)


def older(model, x, channels, hours):
    """(M, F) scaled features of the same hours, with channels ``hours`` older."""
    x = x.copy()
    for channel in channels:
        column = model.features_.columns(block="since", channel=channel)
        ago = np.expm1(x[:, column].astype(np.float64) * np.log1p(200)) + hours
        x[:, column] = np.log1p(np.minimum(ago, 200)) / np.log1p(200)
    return x


def never(model, x, channels):
    """(M, F) scaled features of the same hours, had the channels not been measured."""
    x = x.copy()
    for channel in channels:
        x[:, model.features_.columns(block="since", channel=channel)] = 1
    return x


def test_one_channel_that_grows_old_moves_the_risk_towards_the_population(model, split):
    """Every patient, every channel: the deletion test of COMPOSER's weighting, without exception.

    Weights are of single precision, hence the tolerance.
    """
    x = model.features_.transform(split.test)
    measured = 0
    for channel in model.features_.schema.names:
        middle = model.decision_function(never(model, x, [channel]))
        ages = [0, 1, 2, 4, 8, 16, 32, 64, 128, 220]
        gap = np.stack([model.decision_function(older(model, x, [channel], h)) for h in ages])
        gap -= middle
        assert (np.diff(np.abs(gap), axis=0) <= 1e-6).all(), channel
        assert (gap * gap[0] >= -1e-9).all(), channel
        assert np.abs(gap[-1]).max() <= 1e-9, channel
        measured += (np.abs(gap[0]) > 1e-3).sum()
    assert measured > 1000


def test_exponential_fading_is_monotone_when_all_grow_old(split):
    model = AdditiveRisk(**SETTINGS)
    model.fit(split.train, validation=split.validation)
    x = model.features_.transform(split.test)
    names = model.features_.schema.names
    middle = model.decision_function(never(model, x, names))
    gap = np.stack([model.decision_function(older(model, x, names, h)) for h in range(0, 100, 5)])
    gap -= middle
    assert model.learner_.rates.shape == (1,)
    assert (np.diff(np.abs(gap), axis=0) <= 1e-5).all()
    assert np.abs(gap[-1]).mean() < 0.6 * np.abs(gap[0]).mean()


def test_it_learns(model, split):
    told = model.learner_.population
    assert told.abs().sum() > 0
    assert model.decision_function(split.train).std() > 0.1


def test_stream_equals_table_and_a_saved_model_is_the_same(model, split, tmp_path):
    risk = model.predict_proba(split.test)[:, 1]
    model.save(tmp_path / "model")
    assert read_kind(tmp_path / "model") == "AdditiveRisk"
    again = AdditiveRisk.load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(split.test)[:, 1], risk)
    assert again.get_params() == model.get_params() | {"hidden": [6]}
    one = split.test.select([0])
    live = again.stream(
        age=one.number("age")[0], sex=one.names("sex")[0],
        admission=one.number("admission")[0],
    )  # fmt: skip
    streamed = [live.step(row) for row in one.matrix()]
    assert np.allclose(streamed, risk[: one.n_rows], atol=1e-6)


def test_a_fitted_model_is_fitted_again_as_if_it_were_new(split):
    model = AdditiveRisk(hidden=(4,), max_steps=4, validate_every=2, threads=1)
    first = model.fit(split.train, validation=split.validation).decision_function(split.test)
    again = model.fit(split.train, validation=split.validation).decision_function(split.test)
    assert np.array_equal(first, again)


def test_contributions_are_exact(model, split):
    told = model.contributions(split.test)
    assert told.shape == (split.test.n_rows, model.n_features_in_)
    mean = model.decision_function(split.test) - told.sum(axis=1)
    assert np.allclose(mean, float(model.learner_.bias.detach()) + model.offset_, atol=1e-9)
    unseen = [i for i, n in enumerate(model.features_.names) if n.endswith((":since", ":never"))]
    assert not told[:, unseen].any()
    assert np.array_equal(model.contributions(split.test, method="gradient_x_input"), told)
    words = model.explain(split.test.select([0]), top=3)
    assert len(words) == 3 and not words["feature"].str.contains("since").any()
    assert model.represent(split.test).shape == (split.test.n_rows, len(model.learner_.columns))
    with pytest.raises(ParameterError, match="method"):
        model.contributions(split.test, method="guess")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("unit", ["row", "stay"])
def test_it_trains_privately(split, unit):
    model = AdditiveRisk(hidden=(4,), max_steps=3, unit=unit, negatives=60, stays=16, threads=1)
    model.fit(split.train, strategies=[PrivateTraining(1.0, target_delta=1e-3, noise_seed=0)])
    assert model.privacy_ is not None
    assert any("quantiles" in told for told in model.privacy_.assumptions)
    assert np.isfinite(model.decision_function(split.test)).all()


def test_ratios_fade_with_both_of_their_channels(split):
    model = AdditiveRisk("p19-windows-v1", fading="sigmoid", **SETTINGS)
    model.fit(split.train, validation=split.validation)
    learner, names = model.learner_, model.features_.names
    columns = dict(learner.shape.fading)
    assert columns[names.index("shock_index")] == tuple(
        names.index(f"{c}:since") for c in ("HR", "SBP")
    )
    assert all(n.partition(":")[2] != "count" for n in np.array(names)[list(learner.columns)])
    x = model.features_.transform(split.test)
    middle = model.decision_function(never(model, x, ["HR"]))
    ages = [0, 1, 4, 16, 64, 220]
    gap = np.stack([model.decision_function(older(model, x, ["HR"], h)) for h in ages]) - middle
    assert (np.diff(np.abs(gap), axis=0) <= 1e-6).all()


def test_what_it_cannot_take(split):
    with pytest.raises(ParameterError, match="needs stays"):
        AdditiveRisk().fit(np.zeros((4, 2)), [0, 1, 0, 1])
    with pytest.raises(ParameterError, match="'since'"):
        AdditiveRisk("time-blind-v1", fading="sigmoid").fit(split.train)
    with pytest.raises(ParameterError, match="fading is"):
        AdditiveRisk(fading="linear").fit(split.train)
    with pytest.raises(ParameterError, match="ratios"):
        AdditiveRisk("p19-windows-v1").fit(split.train)
    with pytest.raises(ParameterError, match="hidden"):
        AdditiveRisk(hidden=()).fit(split.train)
    assert clone(AdditiveRisk(fading="sigmoid")).fading == "sigmoid"


def test_features_that_are_not_finite_contribute_nothing(model):
    row = np.zeros((2, model.features_.n_features), np.float32)
    row[1, 3] = np.inf
    with pytest.raises(DataError, match=r"not finite.*row 1"):
        model.represent(row)
    with pytest.raises(ParameterError, match=r"features must be \(R, "):
        model.represent(row[1])
    assert model.represent(row[:0]).shape == (0, *model.represent(row[:1]).shape[1:])
