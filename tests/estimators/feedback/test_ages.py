"""DFM, FSIW and GDFM on rows at fixed ages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foretell.data.events import EmissionEngine, EventLog, Protocol
from foretell.data.simulators.funnel_stream import FunnelTruth, funnel_stream
from foretell.errors import ArtefactError, ParameterError
from foretell.estimators.feedback import DelayedFeedbackClassifier
from foretell.estimators.feedback.ages import SHARES, seen_by

NET = {"hidden_sizes": (8,), "batch_norm": False, "learning_rate": 1e-2, "waiting_time": 1.0}
METHODS = ("dfm", "fsiw", "gdfm")
pytestmark = pytest.mark.filterwarnings("ignore:only .* matured examples")


@pytest.fixture(scope="module")
def stream() -> tuple[EventLog, FunnelTruth]:
    return funnel_stream("short_window", days=6, rate=20, seed=1)


def _fitted(log: EventLog, until: float = 100.0, **settings: object) -> DelayedFeedbackClassifier:
    return DelayedFeedbackClassifier(**{**NET, **settings}).fit_history(log, until=until)


@pytest.mark.parametrize("method", METHODS)
def test_rows_come_at_the_ages(stream: tuple[EventLog, FunnelTruth], method: str) -> None:
    log, _ = stream
    model = _fitted(log, method=method)
    ages = (1.0, *(s * log.window for s in SHARES))
    rows = log.until(120.0).emit(**model.emission(), since=100.0, until=120.0)
    age = rows.time - rows.log.times[rows.entity]
    np.testing.assert_allclose(age, np.asarray(ages)[rows.stage], atol=1e-9)
    delay = rows.log.delay()[rows.entity]
    np.testing.assert_array_equal(rows.label == 1, delay <= age + 1e-12)
    before = model.predict_proba(log)[:, 1]
    model.partial_fit(rows)
    after = model.predict_proba(log)[:, 1]
    assert np.abs(after - before).max() > 1e-3
    assert ((after > 0) & (after < 1)).all()


@pytest.mark.parametrize("weights", ["exact", "published"])
@pytest.mark.parametrize("method", METHODS)
def test_saved_models_go_on(
    stream: tuple[EventLog, FunnelTruth], method: str, weights: str, tmp_path
) -> None:
    log, _ = stream
    model = _fitted(log, method=method, weights=weights)
    model.save(tmp_path / method)
    again = DelayedFeedbackClassifier.load(tmp_path / method)
    for each in (model, again):
        each.partial_fit(log.until(104.0).emit(**each.emission(), since=100.0, until=104.0))
    np.testing.assert_array_equal(model.predict_proba(log), again.predict_proba(log))
    told = tmp_path / method / "model.json"
    document = json.loads(told.read_text())
    del document["config"]["setting"]
    told.write_text(json.dumps(document))
    with pytest.raises(ArtefactError, match="not a readable DelayedFeedbackClassifier"):
        DelayedFeedbackClassifier.load(tmp_path / method)


def test_rows_of_other_ages_are_refused(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    model = _fitted(log, method="dfm")
    rows = log.emit(Protocol("ages", 1.0, ages=(2.0, 24.0)), since=100.0, until=104.0)
    with pytest.raises(ParameterError, match="ages"):
        model.partial_fit(rows)
    with pytest.raises(ParameterError, match="ascend"):
        Protocol("ages", 3.0, ages=(2.0,))
    with pytest.raises(ParameterError, match="'ages' only"):
        Protocol("esdfm", 1.0, ages=(2.0,))
    with pytest.raises(ParameterError, match="beyond the attribution window"):
        log.emit(Protocol("ages", 1.0, ages=(25.0,)))


def test_the_live_engine_emits_the_same_rows(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    part = log.select(np.arange(300))
    protocol = Protocol("ages", 1.0, ages=(6.0, 24.0))
    batch = part.emit(protocol, until=60.0)
    engine = EmissionEngine(part, protocol)
    entities, outcomes = part.to_polars()
    engine.push_entities(entities)
    engine.push_outcomes(outcomes)
    keys = [key for now in (5.0, 17.5, 60.0) for key in engine.advance(now).key]
    assert sorted(keys) == sorted(batch.key)
    assert len(set(keys)) == len(keys)


def test_dfm_does_not_depend_on_the_unit_of_time() -> None:
    # In raw units the delays of the same log would be 3600 times longer in seconds.
    log, _ = funnel_stream("short_window", days=5, rate=15, seed=0)
    entities, outcomes = log.to_polars()
    seconds = EventLog.from_frames(
        entities.with_columns(t=entities["t"] * 3600),
        outcomes.with_columns(t_outcome=outcomes["t_outcome"] * 3600),
        attribution_window="24h",
        unit="s",
    )
    found = []
    for version, factor in ((log, 1.0), (seconds, 3600.0)):
        model = _fitted(version, 80.0 * factor, method="dfm", waiting_time="1h")
        rows = version.emit(**model.emission(), since=80.0 * factor, until=90.0 * factor)
        columns = model.method_.columns(rows)
        assert 0 <= columns["elapsed"].min() and columns["elapsed"].max() <= 1
        model.partial_fit(rows)
        found.append(model.predict_proba(version)[:, 1])
        with torch.no_grad():
            hazard = model.learner_(model.transform_(version.matrix())).hazard
        assert 0.5 < float(hazard.median()) < 20  # conversions take about a third of the window
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_dfm_learns_the_delay(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    model = _fitted(log, method="dfm", epochs=10)
    delays = log.delay()
    seen = delays[np.isfinite(delays)]
    share = model.predict_delay(log, 8.0)
    assert share.mean() == pytest.approx((seen <= 8.0).mean(), abs=0.12)
    assert (model.predict_delay(log, log.window) > 1 - 1e-6).all()
    assert (model.predict_delay(log, 0.0) == 0).all()


def test_fsiw_weights_restore_the_positives(stream: tuple[EventLog, FunnelTruth]) -> None:
    # Positives weighed up and negatives weighed down, the share of positives of rows of any age is
    # that of the final labels.
    log, _ = stream
    model = _fitted(log, method="fsiw", epochs=10, auxiliary="frozen")
    rows = log.emit(**model.emission(), since=30.0, until=100.0)
    weight = model.sample_weight(rows)
    final = log.label()[rows.entity]
    for stage in (1, 2, 3, 4):
        at = rows.stage == stage
        share = np.average(rows.label[at], weights=weight[at])
        assert share == pytest.approx(final[at].mean(), abs=0.04)
    early = rows.stage == 1
    assert rows.label[early].mean() < 0.5 * final[early].mean()
    assert weight.max() <= 20 + 1e-6
    own = _fitted(log, method="fsiw", epochs=10).sample_weight(rows)
    assert np.corrcoef(own, weight)[0, 1] > 0.7


def test_gdfm_signals(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    model = _fitted(log, method="gdfm", engagement=("view",))
    weights = model.method_.weights
    assert weights.shape == (5, 2)
    # A conversion that must have happened by the end settles the label: no signal says more.
    assert weights[-1, 0] == weights.max()
    rows = log.emit(**model.emission(), since=100.0, until=110.0)
    once = model.method_.columns(rows)
    often = _fitted(log, method="gdfm", engagement=("view",), weights="published")
    again = often.method_.columns(rows)
    assert ((once["signal_weight"] > 0).any(2).sum(1) == 1).all()
    np.testing.assert_array_equal(
        (again["signal_weight"] > 0).any(2).sum(1), rows.stage.astype(int) + 1
    )
    # Over all rows of an entity both forms give a signal the same weight.
    whole = log.select(np.arange(50)).emit(**model.emission(), until=60.0)
    full = np.flatnonzero(np.bincount(whole.entity, minlength=50) == 5)
    for form in (model, often):
        w = form.method_.columns(whole)["signal_weight"].numpy()
        for entity in full[:3]:
            total = w[whole.entity == entity].sum(0)
            np.testing.assert_allclose(total, weights * np.arange(5, 0, -1)[:, None], rtol=1e-5)
    # No row knows a signal of an age it has not reached.
    seen = seen_by(rows.log, rows.entity, np.asarray(model.method_.all_ages), ("view",))
    assert not (again["signals"].numpy().astype(bool) & ~seen).any()


@pytest.mark.parametrize("method", METHODS)
def test_final_labels(method: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = (X[:, 0] + rng.normal(size=400) * 0.3 > 0).astype(int)
    model = DelayedFeedbackClassifier(method=method, **{**NET, "epochs": 20}).fit(X, y)
    assert (model.predict(X) == y).mean() > 0.85
