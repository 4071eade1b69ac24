"""A risk model behind a gate: what is said, and what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import bin_observations, target
from foretell.data.simulators import hospitals
from foretell.decisions.abstention import (
    Composer,
    Gate,
    MondrianConformal,
    QualityMonitor,
    Status,
    conformal_p_values,
)
from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.estimators import DeepAISE, FeedForwardRisk
from foretell.learners.artefact import load_artefact, save_artefact

SETTINGS = {"hidden": (16, 8), "max_steps": 60, "validate_every": 30, "threads": 1}


@pytest.fixture(scope="module")
def parts():
    """Stays to train on, to calibrate on, to judge."""
    stays, _ = hospitals(stays=150, sites=1, hours=(12, 24), seed=3)
    return stays.select(slice(60)), stays.select(slice(60, 130)), stays.select(slice(130, 150))


@pytest.fixture(scope="module")
def model(parts):
    return FeedForwardRisk(n_knots=4, **SETTINGS).fit(parts[0], validation=parts[1])


@pytest.fixture(scope="module")
def composer(model, parts):
    gate = QualityMonitor(parts[0].schema).then(
        MondrianConformal("mahalanobis", alpha=0.1), ambiguity=0.2
    )
    return Composer(model, gate).fit(parts[0], parts[1])


def changed(stays, **columns):
    """The same stays with other values of some channels."""
    channels = {n: np.array(stays.column(n), np.float32) for n in stays.schema.names}
    channels |= {n: np.asarray(v, np.float32) for n, v in columns.items()}
    return replace(stays, begins=stays.offsets[:-1], channels=channels, label=None)


def test_a_prediction_says_score_conformity_and_what_drove_it(composer, model, parts):
    test = parts[2]
    told = composer.predict(test, top=3)
    assert len(told) == len(test) and {p.status for p in told} >= {"ok"}
    risk = model.predict_proba(test)[test.offsets[1:] - 1, 1]
    for prediction, expected in zip(told, risk, strict=True):
        assert 0 < min(prediction.p_values) <= 1
        if prediction.status == "ok":
            assert prediction.score == expected
            assert len(prediction.contributors) == 3 and prediction.contributors[0].words
            shares = [abs(c.contribution) for c in prediction.contributors]
            assert shares == sorted(shares, reverse=True)
            assert bool(prediction.reasons) == (prediction.why == Status.AMBIGUOUS)
        else:
            assert prediction.score is None and prediction.reasons
            assert prediction.contributors == ()


def test_nothing_measured_is_never_a_score(composer, parts):
    test = parts[2]
    empty = changed(test, **{n: np.full(test.n_rows, np.nan) for n in test.schema.names})
    for prediction in composer.predict(empty, np.arange(test.n_rows)):
        assert prediction.status == "indeterminate" and prediction.score is None
        assert prediction.why == Status.INVALID_INPUT and "no_data" in prediction.rules
        assert "nothing was measured yet" in prediction.reasons
        assert prediction.contributors == ()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_what_is_not_finite_is_no_measurement(composer, parts, value):
    """Endless values are left out and told; a stay of nothing else has no data."""
    test = parts[2].select([0])
    endless = changed(test, **{n: np.full(test.n_rows, value) for n in test.schema.names})
    for prediction in composer.predict(endless, np.arange(test.n_rows)):
        assert prediction.status == "indeterminate" and prediction.why == Status.INVALID_INPUT
        assert {"no_data", "not_a_number"} <= set(prediction.rules)
    pulse = np.array(test.column("HR"))
    pulse[5] = value
    told = composer.predict(changed(test, HR=pulse), [5])[0]
    assert told.why == Status.INVALID_INPUT and told.score is None


def test_a_score_that_is_not_a_number_is_invalid(composer, parts):
    test = parts[2]
    scores = np.full(test.n_rows, 0.1)
    scores[:3] = np.nan, np.inf, -np.inf
    said = composer.gate.judge(test, scores)
    assert (said.status[:3] == Status.INVALID_INPUT).all() and np.isnan(said.score[:3]).all()


def test_a_class_without_calibration_hours_is_an_error(model, parts):
    train, calibration, _ = parts
    well = calibration.select(np.isnan(calibration.onset))
    with pytest.raises(DataError, match="class 1 has no calibration row"):
        Composer(model, Gate()).fit(train, well)


def test_ties_count_for_the_input():
    known = np.full(99, 2.0)
    np.testing.assert_array_equal(conformal_p_values(known, [1.0, 2.0, 2.1]), [1.0, 1.0, 0.01])


def test_a_unit_nobody_knows_holds_the_value_back(composer, parts):
    schema = parts[2].schema
    rows = [("a", c, v, u, t) for t in (0.5, 1.5, 2.5) for c, v, u in (
        ("HR", 90.0, "/min"), ("SBP", 120.0, "mm[Hg]"), ("Lactate", 18.0, "furlong"))]  # fmt: skip
    sent = pl.DataFrame(rows, schema=["id", "channel", "value", "unit", "time"], orient="row")
    stay = pl.DataFrame({"id": ["a"], "hours": [3]})
    held = bin_observations(sent, stay, schema=schema)
    never = bin_observations(sent.filter(pl.col("channel") != "Lactate"), stay, schema=schema)
    assert any("furlong" in note.message for note in held.notes)
    assert np.isnan(held.column("Lactate")).all()
    first, second = (composer.predict(s, np.arange(3), top=0) for s in (held, never))
    assert first == second


def test_a_stream_says_the_same_hour_by_hour(composer, parts):
    stay = parts[2].select([1])
    batch = composer.predict(stay, np.arange(stay.n_rows), top=0)
    live = composer.stream(age=stay.number("age")[0], sex=stay.names("sex")[0])
    for row, expected in zip(stay.matrix(), batch, strict=True):
        found = live.step(row)
        assert (found.why, found.reasons, found.rules) == (
            expected.why, expected.reasons, expected.rules)  # fmt: skip
        assert found.p_values == pytest.approx(expected.p_values)
        if expected.score is not None:
            assert found.score == pytest.approx(expected.score, abs=1e-6)


def test_few_positives_are_pooled_and_it_says_so(composer, parts):
    positive = target(parts[1], 4).label[target(parts[1], 4).at_risk].sum()
    assert 0 < positive < 200 and composer.gate.conformal.pooled
    assert "fewer than 200" in composer.gate.notes[0]
    many, _ = hospitals(stays=700, sites=1, hours=(12, 24), seed=5)
    # Simulated hospitals name their patients alike.
    many = replace(many, patients=np.array([f"other {p}" for p in many.patients], object))
    assert target(many, 4).label.clip(0).sum() > 250
    gate = Gate(QualityMonitor(many.schema)).fit(parts[0], many)
    assert not gate.conformal.pooled and gate.notes == ()
    before = gate.conformal.calibration_[1].copy()
    gate.recalibrate(parts[1])
    assert gate.conformal.pooled and len(gate.conformal.calibration_[1]) != len(before)
    with pytest.raises(DataError, match="no hour of one class"):
        gate.recalibrate(parts[1].select(np.isnan(parts[1].onset)))
    assert gate.conformal.pooled


@pytest.mark.parametrize("time_since", ["weight", "feature"])
def test_as_published_with_a_test_of_the_last_hidden_layer(parts, tmp_path, time_since):
    """Values fade with their age, and the layer below the score must conform, too."""
    train, calibration, test = parts
    model = FeedForwardRisk(n_knots=0, time_since=time_since, **SETTINGS)
    model.fit(train, validation=calibration)
    gate = Gate(conformal=MondrianConformal(alpha=0.1), hidden=MondrianConformal("knn", alpha=0.1))
    composer = Composer(model, gate).fit(train, calibration)
    inner = model.represent(test, layer="last")
    assert inner.shape == (test.n_rows, 8)
    logit = inner @ model.learner_.upper[-1].weight.detach().numpy()[0]
    logit = logit + model.learner_.upper[-1].bias.item() + model.offset_
    np.testing.assert_allclose(logit, model.decision_function(test), atol=1e-5)
    said = composer.judge(test)
    alone = gate.conformal.test(gate.features_.transform(test)).p_values
    both = np.minimum(alone, gate.hidden.test(inner).p_values)
    np.testing.assert_allclose(said.p_values, np.minimum(1, 2 * both))
    # Calibrated on these very hours: each class is turned away no more often than promised.
    again, wanted = composer.judge(calibration), target(calibration, 4)
    bad = again.p_values.max(1) < 0.1
    good = wanted.at_risk & ~gate.quality.check(calibration).invalid
    assert bad[good].mean() <= 0.1
    gate.save(tmp_path / "gate")
    loaded = Composer(model, Gate.load(tmp_path / "gate"))
    np.testing.assert_array_equal(loaded.judge(test).p_values, said.p_values)
    live = loaded.stream(age=test.number("age")[0], sex=test.names("sex")[0])
    streamed = [live.step(row).p_values for row in test.select([0]).matrix()]
    np.testing.assert_allclose(streamed, said.p_values[: len(streamed)], atol=1e-9)
    with pytest.raises(DataError, match="give it, too"):
        gate.judge(test, np.zeros(test.n_rows))
    with pytest.raises(DataError, match="give represent"):
        gate.fit(train, calibration)

    def broken(stays):
        raise ValueError("no layer")

    for wrong, kind in ((None, DataError), (broken, ValueError)):
        with pytest.raises(kind):
            gate.recalibrate(test, represent=wrong)
    np.testing.assert_array_equal(composer.judge(test).p_values, said.p_values)
    assert (composer.recalibrate(test).judge(test).p_values != said.p_values).any()


def test_a_model_without_a_layer_to_show_is_refused():
    gate = Gate(hidden=MondrianConformal("knn"))
    with pytest.raises(ParameterError, match="DeepAISE does not show"):
        Composer(DeepAISE(), gate)


def test_a_damaged_gate_is_refused(composer, tmp_path):
    """Whatever a stranger's folder says, it is a gate of right sizes or an error with its name."""

    def broken(place, change):
        folder = tmp_path / f"{place or 'gate'}-{change.__name__}"
        composer.gate.save(folder)
        part = folder / place
        kind = "MondrianConformal" if place else "Gate"
        config, arrays = load_artefact(part, kind)
        config, arrays = dict(config), {k: np.array(v) for k, v in arrays.items()}
        change(config, arrays)
        save_artefact(part, kind, config, arrays)
        with pytest.raises(ArtefactError, match="not a readable"):
            Gate.load(folder)

    def no_score(config, arrays):
        del config["score"]

    def unknown_score(config, arrays):
        config["score"] = "os.system"

    def empty(config, arrays):
        arrays["class0"] = np.zeros(0)

    def too_wide(config, arrays):
        config["features"] = 99

    def no_rules(config, arrays):
        config["quality"] = {"blocking": ["nothing"]}

    def no_features(config, arrays):
        config["features"] = None

    def not_finite(config, arrays):
        arrays["zero"] = np.array([np.nan])

    for change in (no_score, unknown_score, empty, too_wide):
        broken("conformal", change)
    for change in (no_rules, no_features, not_finite):
        broken("", change)
    composer.gate.save(tmp_path / "whole")
    assert Gate.load(tmp_path / "whole").conformal.alpha == 0.1
