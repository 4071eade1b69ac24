"""Stays of odd shapes, for every model of risk."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import concatenate, split_episodes, stays_from_frame, target
from foretell.errors import ArtefactError, DataError
from foretell.estimators import DeepAISE, FeedForwardRisk, WeibullCox
from foretell.learners.risk import BoostedRisk

from .conftest import made_stays

NET = {"threads": 1, "device": "cpu", "validation_size": 0.0, "max_steps": 12}
MAKE = {
    "net": lambda: FeedForwardRisk(
        hidden=(12, 6), n_knots=3, negatives=32, positives=8, **NET
    ),
    "deep": lambda: DeepAISE(hidden=8, stays=16, well_per_septic=None, **NET),
    "linear": lambda: WeibullCox(stays=16, well_per_septic=None, **NET),
    "trees": lambda: BoostedRisk(
        "onset", trees=5, leaf_rows=20, well_share=1.0, backend="sklearn", validation_size=0.0
    ),
}  # fmt: skip
KINDS = sorted(MAKE)


@pytest.fixture(scope="module")
def models(stays):
    return {name: make().fit(stays) for name, make in MAKE.items()}


def risk_of(model, stays):
    return model.predict_proba(stays)[:, 1]


@pytest.fixture(scope="module")
def long_stay():
    """400 hours: longer than what is trained on."""
    one = made_stays(30, seed=4)
    frame = one.to_polars().drop("label", strict=False)
    hours = np.arange(1, 401)
    rows = frame[np.arange(400) % frame.height].with_columns(hour=hours)
    rows = rows.with_columns(id=pl.lit("long"), patient=pl.lit("long"))
    return stays_from_frame(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hour_is_enough(kind, models, stays):
    one = stays.first(1)
    risk = risk_of(models[kind], one)
    assert risk.shape == (len(stays),) and ((risk > 0) & (risk < 1)).all()
    alone = [risk_of(models[kind], one.select([i]))[0] for i in range(4)]
    np.testing.assert_allclose(alone, risk[:4], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stay_longer_than_any_that_was_trained_on(kind, models, long_stay):
    """The state is carried on: nothing begins anew after two weeks."""
    batch = risk_of(models[kind], long_stay)
    assert len(batch) == 400 and np.isfinite(batch).all()
    live = models[kind].stream()
    found = [live.step(row) for row in long_stay.matrix()]
    np.testing.assert_allclose(found, batch, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_hours_that_were_not_sent_are_hours_without_a_measurement(kind, models, stays):
    whole = stays.select([2]).to_polars().drop("label", strict=False)
    away = (whole["hour"] >= 4) & (whole["hour"] <= 6)
    short = stays_from_frame(whole.filter(~away))
    empty = whole.with_columns(
        *(whole[c].scatter(np.flatnonzero(away), None) for c in ("HR", "SBP", "WBC"))
    )
    np.testing.assert_array_equal(
        risk_of(models[kind], short), risk_of(models[kind], stays_from_frame(empty))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_septic_at_admission_are_not_learned_from(kind, models, stays):
    """Their hours are none at risk: with them, the model is the very same."""
    early = stays.select(np.isfinite(stays.onset))
    early = replace(
        early.select(slice(0, 5)), ids=np.array([f"e{i}" for i in range(5)], object),
        patients=np.array([f"e{i}" for i in range(5)], object), onset=np.ones(5),
    )  # fmt: skip
    assert not target(early).at_risk.any()
    again = MAKE[kind]().fit(concatenate([stays, early]))
    np.testing.assert_array_equal(risk_of(again, stays), risk_of(models[kind], stays))


@pytest.mark.parametrize("kind", ["net", "deep", "linear"])
def test_second_onsets_are_episodes_of_their_own(kind, long_stay, stays):
    """The first onset counts; what comes after the washout is another stay of the patient."""
    onsets = {str(long_stay.ids[0]): [100.0, 110.0, 300.0]}
    parts = split_episodes(replace(long_stay, label=None), onsets)
    assert np.isfinite(parts.onset).sum() == 2 and len(set(parts.patients.tolist())) == 1
    both = concatenate([replace(stays, label=None), parts])
    model = MAKE[kind]().fit(both)
    assert np.isfinite(risk_of(model, both)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_hour_is_at_risk_nothing_is_learned(kind, stays):
    septic = stays.select(np.isfinite(stays.onset))
    late = replace(septic, onset=septic.starts.astype(float))
    with pytest.raises(DataError):
        MAKE[kind]().fit(late)


@pytest.mark.parametrize("kind", KINDS)
def test_a_validation_part_without_an_onset_chooses_nothing(kind, stays):
    with pytest.raises(DataError, match="validation"):
        MAKE[kind]().fit(stays, validation=stays.select(np.isnan(stays.onset)))


@pytest.mark.parametrize("kind", ["deep", "linear", "net"])
def test_features_that_are_not_finite_have_no_risk(kind, models):
    model = models[kind]
    row = np.zeros(model.features_.n_features, np.float32)
    row[3] = np.nan
    asked = model.step if hasattr(model, "step") else model.advance
    with pytest.raises(DataError, match="not finite"):
        asked(model.memory(), row)
    if kind == "net":
        with pytest.raises(DataError, match="not finite"):
            model.represent(row[None])


@pytest.mark.parametrize(
    ("kind", "changed"),
    [("net", {"offset": float("nan")}), ("trees", {"threshold": float("nan")}),
     ("deep", {"shift": float("nan")}), ("net", {"parameters": {"horizon": -4}})],
)  # fmt: skip
def test_saved_numbers_that_are_none_are_refused(kind, changed, models, tmp_path):
    model = models[kind]
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    told = json.loads(file.read_text())
    for name, value in changed.items():
        old = told["config"][name]
        told["config"][name] = {**old, **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(told))
    with pytest.raises(ArtefactError):
        type(model).load(tmp_path / "model")
    file.write_text("[" * 100_000)
    with pytest.raises(ArtefactError, match="cannot be read"):
        type(model).load(tmp_path / "model")
