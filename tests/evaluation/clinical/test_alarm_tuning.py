from __future__ import annotations

import numpy as np
import pytest

from foretell.data.clinical import carry_forward, split_by_patient
from foretell.decisions.alarms import AlarmPolicy, Tier, run_policy
from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical import AlarmCosts, alarm_metrics, tune_alarms

from .conftest import ward


def simulated(seed=0, size=400):
    """Stays whose score rises before the onset, with noise."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 60, size)
    onset = np.where(rng.random(size) < 0.2, rng.integers(10, 60, size), np.nan).astype(float)
    stays = ward(onset, lengths)
    ahead = np.repeat(onset, lengths) - stays.hours()
    signal = np.where((ahead > 0) & (ahead < 24), 1.5, 0.0)
    return stays, signal + rng.normal(size=stays.n_rows)


def test_the_fewest_false_alarms_that_find_enough():
    stays, scores = simulated()
    policy = AlarmPolicy(0.0, snooze=6)
    tuned = tune_alarms(policy, stays, scores, target_sensitivity=0.6, candidates=400)
    assert tuned.feasible and tuned.policy.snooze == 6
    values = tuned.metrics.values()
    assert values["patient_sensitivity"] >= 0.6
    better = tuned.curve.filter("feasible")["false_alarms_per_patient_hour"].min()
    assert values["false_alarms_per_patient_hour"] == better
    raised = run_policy(tuned.policy, scores, stays.lengths).raised
    assert alarm_metrics(stays, raised).values() == values
    others, fresh = simulated(seed=1)
    raised = run_policy(tuned.policy, fresh, others.lengths).raised
    assert alarm_metrics(others, raised).values()["patient_sensitivity"] == pytest.approx(
        0.6, abs=0.15
    )


def test_a_coarse_first_look_is_refined_around_its_best():
    stays, scores = simulated()
    policy = AlarmPolicy(0.0, snooze=6)
    every = tune_alarms(policy, stays, scores, candidates=400)
    coarse = tune_alarms(policy, stays, scores, candidates=25)
    assert len(coarse.curve) < 60 < len(every.curve)
    assert coarse.policy == every.policy
    assert coarse.curve["threshold"].is_sorted()


def test_a_constraint_is_never_relaxed():
    stays, scores = simulated()
    policy = AlarmPolicy(0.0)
    tuned = tune_alarms(policy, stays, scores, target_sensitivity=0.9, constraint={"ppv": 0.9})
    assert not tuned.feasible and tuned.metrics is None
    with pytest.raises(DataError, match=r"no threshold meets patient sensitivity >= 0.9 and ppv"):
        tuned.require()
    loose = tune_alarms(policy, stays, scores, target_sensitivity=0.3, constraint={"faph": 0.05})
    assert loose.require().tiers[0].threshold > 0
    assert loose.metrics.values()["false_alarms_per_patient_hour"] <= 0.05


def test_costs_choose_between_misses_and_false_alarms():
    stays, scores = simulated()
    careful = tune_alarms(
        AlarmPolicy(0.0), stays, scores, target_sensitivity=None,
        costs=AlarmCosts(missed=1000, false_alarm=1),
    )  # fmt: skip
    calm = tune_alarms(
        AlarmPolicy(0.0), stays, scores, target_sensitivity=None,
        costs=AlarmCosts(missed=1, false_alarm=1),
    )  # fmt: skip
    assert careful.policy.tiers[0].threshold < calm.policy.tiers[0].threshold
    assert careful.curve["cost"].min() == AlarmCosts(1000, 1).of(careful.metrics)


def test_abstentions_do_not_alarm():
    stays, scores = simulated()
    issued = np.random.default_rng(0).random(stays.n_rows) > 0.5
    hidden = np.where(issued, scores, np.nan)
    tuned = tune_alarms(AlarmPolicy(0.0), stays, hidden, issued=issued, target_sensitivity=0.3)
    assert tuned.feasible


def test_a_constant_score_has_one_candidate():
    stays, scores = simulated()
    tuned = tune_alarms(AlarmPolicy(0.0), stays, np.zeros(len(scores)))
    assert len(tuned.curve) == 1 and tuned.feasible


def test_what_is_asked_is_checked():
    stays, scores = simulated(size=30)
    two = AlarmPolicy(tiers=(Tier("a", 0.1), Tier("b", 0.2)))
    with pytest.raises(ParameterError, match="one tier"):
        tune_alarms(two, stays, scores)
    places = AlarmPolicy(tiers=(Tier("alarm", 0.1, {"MICU": 0.2}),))
    with pytest.raises(ParameterError, match="one for all units"):
        tune_alarms(places, stays, scores)
    with pytest.raises(ParameterError, match="unknown constraint 'pvp'"):
        tune_alarms(AlarmPolicy(0.0), stays, scores, constraint={"pvp": 0.5})
    with pytest.raises(ParameterError, match="target_sensitivity"):
        tune_alarms(AlarmPolicy(0.0), stays, scores, target_sensitivity=60)
    with pytest.raises(DataError, match="hours"):
        tune_alarms(AlarmPolicy(0.0), stays, scores[:-1])
    well = ward([np.nan] * 3, [10] * 3)
    with pytest.raises(DataError, match="no validation stay is septic"):
        tune_alarms(AlarmPolicy(0.0), well, np.arange(30.0))


@pytest.mark.real_data
def test_sixty_percent_of_other_patients_are_found(challenge):
    """A policy tuned on some patients finds as many of the others, to 5 points."""
    split = split_by_patient(challenge, test_size=0.3, validation_size=0.3)

    def scores(stays):
        """Shock index, and the hour."""
        last = carry_forward(stays)
        pulse, pressure = (last[:, stays.schema.names.index(n)] for n in ("HR", "SBP"))
        return np.nan_to_num(pulse / pressure, nan=0.6) + stays.hours() / 100

    policy = AlarmPolicy(0.0, snooze=6)
    tuned = tune_alarms(
        policy, split.validation, scores(split.validation), target_sensitivity=0.6, candidates=100
    )
    raised = run_policy(tuned.require(), scores(split.test), split.test.lengths).raised
    found = alarm_metrics(split.test, raised)
    assert found.counts[:, 0].sum() > 700
    assert found.values()["patient_sensitivity"] == pytest.approx(0.6, abs=0.05)


@pytest.mark.real_data
def test_two_thousand_real_stays_stream_as_in_batch(challenge):
    stays = challenge.select(np.arange(2000))
    scores = np.nan_to_num(stays.column("HR"), nan=-1.0)
    policy = AlarmPolicy(110.0, persistence=(2, 3), rise=20.0, max_alarms=5)
    found = run_policy(policy, scores, stays.lengths, issued=scores > 0)
    begins = set(stays.offsets[:-1].tolist())
    raised, state = [], policy.start()
    for row, (hour, score) in enumerate(zip(stays.hours().tolist(), scores.tolist(), strict=True)):
        state = policy.start() if row in begins else state
        state, alarm = policy.step(state, hour, score if score > 0 else None)
        raised.append(alarm is not None)
    np.testing.assert_array_equal(found.raised, raised)
    assert found.raised.sum() > 500
