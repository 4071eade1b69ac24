"""What conformal tests promise of hours that come in patients, and whether it holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.simulators.hospitals import hospitals
from foretell.decisions.abstention import Gate, MondrianConformal, PredictionSets
from foretell.decisions.abstention.calibration import CalibrationScores, thinned
from foretell.errors import ArtefactError, DataError, ParameterError

ALPHA = 0.05
people = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=4)


def flat(found):
    groups = np.repeat(np.arange(len(found)), [len(hours) for hours in found])
    return np.array([s for hours in found for s in hours], np.float64), groups


@given(people, st.integers(-1, 6))
def test_p_values_are_their_definitions(found, new):
    scores, groups = flat(found)
    at_least = [np.mean([s >= new for s in hours]) for hours in found]
    most = max(map(len, found))
    count = int((scores >= new).sum())
    expected = {
        "rows": (1 + count) / (1 + len(scores)),
        "hours": (most + count) / (most + len(scores)),
        "patients": (1 + sum(at_least)) / (1 + len(found)),
    }
    for name, p in expected.items():
        held = CalibrationScores.of(scores, groups, name)
        assert held.p_values([new])[0] == pytest.approx(p)
        assert held.least == pytest.approx(held.p_values([99])[0])
        again = CalibrationScores.read(held.arrays("a"), "a")
        np.testing.assert_array_equal(again.above, held.above)


@settings(max_examples=30, deadline=None)
@given(people, st.integers(-1, 6))
def test_patients_are_the_mean_over_all_ways_to_draw_an_hour_of_each(found, new):
    scores, groups = flat(found)
    ways = [CalibrationScores.of(way).p_values([new])[0] for way in itertools.product(*found)]
    held = CalibrationScores.of(scores, groups, "patients")
    assert held.p_values([new])[0] == pytest.approx(np.mean(ways))


def clustered(rng, patients: int, stranger: float):
    """Strangeness of hours of patients, half of it the patient's own; with ``stranger`` that of
    long stays is higher."""
    own = rng.normal(size=patients)
    length = stranger * own + np.sqrt(1 - stranger**2) * rng.normal(size=patients)
    hours = np.clip(np.round(np.exp(2.2 + 0.8 * length)), 1, 80).astype(int)
    group = np.repeat(np.arange(patients), hours)
    return 0.7 * own[group] + 0.71 * rng.normal(size=len(group)), group, hours


def shares(guarantee: str, patients: int, stranger: float, seed: int, repeats: int = 400):
    """Rejected shares of hours and of patients' hours, and their standard errors."""
    rng = np.random.default_rng(seed)
    fresh, group, hours = clustered(rng, 20_000, stranger)
    found = []
    for _ in range(repeats):
        scores, groups, _ = clustered(rng, patients, stranger)
        held = CalibrationScores.of(scores, groups, guarantee)
        beyond = held.scores[held.p_values(held.scores) >= ALPHA]
        # All that is stranger than the last score whose p-value is not below the level.
        rejected = fresh > beyond.max() if held.least < ALPHA else np.zeros(len(fresh), bool)
        found.append((rejected.mean(), (np.bincount(group, rejected) / hours).mean()))
    return np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(repeats)


@pytest.mark.parametrize("stranger", [0.0, 0.6])
@pytest.mark.parametrize("patients", [40, 150])
def test_what_is_promised_of_new_patients_holds(patients, stranger):
    (of_hours, _), (error, _) = shares("hours", patients, stranger, 1)
    assert of_hours <= ALPHA + 3 * error
    (_, of_patients), (_, error) = shares("patients", patients, stranger, 2)
    assert ALPHA / 2 < of_patients <= ALPHA + 3 * error


def test_rows_promise_nothing_of_few_patients_and_patients_nothing_of_hours():
    (of_hours, _), (error, _) = shares("rows", 30, 0.6, 3, repeats=1000)
    assert of_hours > ALPHA + 3 * error
    (of_hours, _), (error, _) = shares("patients", 150, 0.6, 4)
    assert of_hours > 1.3 * ALPHA
    # With many patients the usual p-values come to it, as far as hours go.
    (of_hours, _), (error, _) = shares("rows", 1500, 0.6, 5, repeats=60)
    assert abs(of_hours - ALPHA) < 0.1 * ALPHA


@settings(max_examples=40, deadline=None)
@given(people, st.integers(1, 12), st.integers(0, 99))
def test_thinning_keeps_patients_whole_or_keeps_some_of_each(found, room, seed):
    _, groups = flat(found)
    rows = np.arange(len(groups)) * 3
    rng = np.random.default_rng(seed)
    kept = thinned(rows, groups, room, "hours", rng)
    mine = np.unique(groups[kept // 3])
    np.testing.assert_array_equal(kept, rows[np.isin(groups, mine)])
    kept = thinned(rows, groups, room, "patients", rng)
    counts = np.bincount(groups[kept // 3], minlength=len(found))
    assert len(kept) <= max(room, 1) and len(np.unique(kept)) == len(kept)
    assert (np.diff(kept) > 0).all()
    if len(found) <= room:
        full = np.array([len(hours) for hours in found])
        np.testing.assert_array_equal(counts, np.minimum(full, counts.max()))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(150), 6)
    y = (np.arange(900) % 3 == 0).astype(int)
    X = rng.normal(size=(900, 4)) + 0.7 * rng.normal(size=(150, 4))[patients] + y[:, None]
    return X, y, np.array([f"p{i}" for i in patients], object)


@pytest.mark.parametrize("guarantee", ["hours", "patients"])
def test_guarantees_are_kept_when_saved(rows, guarantee, tmp_path):
    X, y, patients = rows
    found = MondrianConformal(guarantee=guarantee).fit(X[:300], X, y, patients)
    usual = MondrianConformal().fit(X[:300], X, y)
    assert not found.pooled and found.least_p < found.alpha
    assert (found.test(X).p_values != usual.test(X).p_values).any()
    found.save(tmp_path / "a")
    again = MondrianConformal.load(tmp_path / "a")
    assert again.guarantee == guarantee
    np.testing.assert_array_equal(again.test(X).p_values, found.test(X).p_values)
    p = 1 / (1 + np.exp(-X[:, 0]))
    sets = PredictionSets(guarantee=guarantee).fit(p, y, patients)
    other = PredictionSets(guarantee=guarantee)
    other.restore(sets.arrays())
    np.testing.assert_array_equal(other.p_values(p), sets.p_values(p))
    with pytest.raises(DataError, match="needs the patients"):
        MondrianConformal(guarantee=guarantee).fit(X, X, y)
    with pytest.raises(DataError, match="one a row"):
        found.recalibrate(X, y, patients[:-1])


def test_what_is_wrong_is_said(rows, tmp_path):
    from foretell.learners.artefact import load_artefact, save_artefact

    with pytest.raises(ParameterError, match="'rows', 'hours', 'patients'"):
        MondrianConformal(guarantee="stays")
    with pytest.raises(ParameterError, match="of both"):
        Gate(hidden=MondrianConformal(guarantee="hours"))
    X, y, patients = rows
    MondrianConformal(guarantee="patients").fit(X, X, y, patients).save(tmp_path / "a")
    config, arrays = load_artefact(tmp_path / "a", "MondrianConformal")
    for name, bad in (("class0_weights", -1.0), ("class1_weights", np.nan)):
        damaged = {k: v.copy() for k, v in arrays.items()}
        damaged[name][3] = bad
        save_artefact(tmp_path / "b", "MondrianConformal", config, damaged)
        with pytest.raises(ArtefactError, match="positive"):
            MondrianConformal.load(tmp_path / "b")


@pytest.mark.parametrize("guarantee", ["hours", "patients"])
def test_a_gate_knows_whose_hours_they_are(guarantee, tmp_path):
    stays, _ = hospitals(stays=240, sites=1, hours=(10, 30), seed=5)
    train, calibration = stays.select(slice(100)), stays.select(slice(100, 240))
    conformal = MondrianConformal(alpha=0.1, guarantee=guarantee)
    gate = Gate(conformal=conformal, ambiguity=0.2, max_rows=900)
    p = np.random.default_rng(0).uniform(size=calibration.n_rows)
    gate.fit(train, calibration, p)
    said = gate.judge(calibration, p)
    gate.save(tmp_path / "g")
    again = Gate.load(tmp_path / "g").judge(calibration, p)
    np.testing.assert_array_equal(again.status, said.status)
    np.testing.assert_array_equal(again.p_values, said.p_values)
    used = len(gate.conformal.calibration_[0])
    assert used < 1000, "no more than were asked for"
    gate.recalibrate(calibration, p)
    few = calibration.select(slice(30))
    weak = Gate(conformal=MondrianConformal(alpha=0.01, guarantee=guarantee)).fit(train, few)
    assert any("nothing is turned away" in note for note in weak.notes)
    assert not (weak.judge(calibration, p).status == 2).any()
