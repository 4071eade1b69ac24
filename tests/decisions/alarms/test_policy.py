from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.panel import Categorical
from foretell.data.simulators import hospitals
from foretell.decisions.alarms import (
    AlarmPolicy,
    AlarmState,
    Suppression,
    Tier,
    places_of,
    run_policy,
    thresholds_of,
)
from foretell.errors import DataError, ParameterError


def stream(policy, scores, lengths, issued=None, units=None):
    """The policy hour by hour, through JSON after every hour."""
    raised, tiers = [], []
    names = [tier.name for tier in policy.tiers]
    row = 0
    for length in lengths:
        state = policy.start()
        for hour in range(length):
            known = issued is None or issued[row]
            state, alarm = policy.step(
                state,
                hour + 1,
                float(scores[row]) if known else None,
                unit=None if units is None else units[row],
            )
            state = AlarmState.from_json(json.loads(json.dumps(state.to_json())))
            raised.append(alarm is not None)
            tiers.append(-1 if alarm is None else names.index(alarm.tier))
            row += 1
    return np.array(raised), np.array(tiers)


POLICIES = st.builds(
    AlarmPolicy,
    tiers=st.sampled_from(
        [
            (Tier("alarm", 0.5),),
            (Tier("advisory", 0.4), Tier("urgent", 0.8)),
            (Tier("advisory", 0.4, {"icu": 0.6}), Tier("urgent", 0.8)),
        ]
    ),
    snooze=st.integers(0, 6),
    persistence=st.sampled_from([(1, 1), (2, 3), (3, 3), (1, 4)]),
    rise=st.sampled_from([None, 0.2]),
    escalate=st.booleans(),
    max_alarms=st.sampled_from([None, 1, 3]),
)


@settings(max_examples=150, deadline=None)
@given(policy=POLICIES, seed=st.integers(0, 10_000))
def test_streaming_equals_batch(policy, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, 6)
    rows = int(lengths.sum())
    scores, issued = rng.random(rows), rng.random(rows) > 0.2
    units = rng.choice(["icu", "ward"], rows)
    raised, tiers = stream(policy, scores, lengths, issued, units)
    found = run_policy(policy, scores, lengths, issued=issued, units=units)
    np.testing.assert_array_equal(found.raised, raised)
    np.testing.assert_array_equal(found.tier, tiers)


@given(seed=st.integers(0, 10_000), threshold=st.floats(-0.1, 1.1))
def test_without_snooze_alarms_are_threshold_crossings(seed, threshold):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 40, 5)
    scores = rng.random(int(lengths.sum())).round(1)  # ties with the threshold are among them
    found = run_policy(AlarmPolicy(round(threshold, 1), snooze=0), scores, lengths)
    np.testing.assert_array_equal(found.raised, scores >= round(threshold, 1))


def test_a_constant_score_alarms_whenever_it_may():
    found = run_policy(AlarmPolicy(0.5, snooze=6), np.full(20, 0.5), [20])
    assert np.flatnonzero(found.raised).tolist() == [0, 7, 14]
    assert not run_policy(AlarmPolicy(0.5), np.full(20, 0.4999), [20]).raised.any()


def test_discharged_while_alarmed():
    policy = AlarmPolicy(0.5)
    state, alarm = policy.step(policy.start(), 1, 0.9)
    assert alarm is not None and state.status == "alarmed"
    closed = policy.close(state)
    assert closed.status == "closed" and closed.alarms == 1 and closed.last_alarm == 1
    assert policy.step(closed, 2, 0.99) == (closed, None)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), snooze=st.integers(0, 12))
def test_a_longer_snooze_never_raises_more(seed, snooze):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, 5)
    scores = rng.random(int(lengths.sum()))
    counts = [
        run_policy(AlarmPolicy(0.6, snooze=s), scores, lengths).raised.sum()
        for s in (snooze, snooze + 1)
    ]
    assert counts[1] <= counts[0]


def test_a_tie_with_the_threshold_alarms():
    _, alarm = AlarmPolicy(0.5).step(AlarmPolicy(0.5).start(), 1, 0.5)
    assert alarm is not None and alarm.number == 1 and alarm.reason == "threshold"


def test_persistence_counts_hours_left_out_as_below():
    policy = AlarmPolicy(0.5, persistence=(2, 2))
    state, first = policy.step(policy.start(), 1, 0.9)
    skipped, second = policy.step(state, 3, 0.9)
    assert first is None and second is None
    _, third = policy.step(skipped, 4, 0.9)
    assert third is not None


def test_what_breaks_through_a_snooze():
    policy = AlarmPolicy(tiers=(Tier("advisory", 0.4), Tier("urgent", 0.8)), snooze=6, rise=0.2)
    state, alarm = policy.step(policy.start(), 1, 0.45)
    assert alarm.tier == "advisory"
    state, alarm = policy.step(state, 2, 0.6)
    assert alarm is None
    state, alarm = policy.step(state, 3, 0.66)
    assert alarm.reason == "rise"
    state, alarm = policy.step(state, 4, 0.81)
    assert alarm.reason == "escalation" and alarm.tier == "urgent" and alarm.number == 3


def test_a_silence_keeps_its_reason_and_ends():
    policy = AlarmPolicy(0.5, snooze=0, max_silence=10)
    state, _ = policy.step(policy.start(), 1, 0.9)
    state = policy.suppress(state, 3, reason="comfort care", by="nurse")
    assert state.suppression.reason == "comfort care" and state.suppression.until == 4
    alarms = []
    for hour in range(2, 7):
        state, alarm = policy.step(state, hour, 0.9)
        alarms.append(alarm is not None)
        assert (state.status == "suppressed") == (hour <= 4)
    assert alarms == [False, False, False, True, True]
    for hours, reason in ((11, "x"), (0, "x"), (3, " ")):
        with pytest.raises(DataError, match=r"silence"):
            policy.suppress(state, hours, reason=reason)


def test_a_snooze_that_people_ask_for_has_a_reason_and_an_end():
    tiers = (Tier("advisory", 0.4), Tier("urgent", 0.8))
    policy = AlarmPolicy(tiers=tiers, snooze=0, max_silence=10)
    state, _ = policy.step(policy.start(), 1, 0.5)
    for hours, reason in ((11, "x"), (0, "x"), (3, " ")):
        with pytest.raises(DataError, match=r"silence"):
            policy.postpone(state, hours, reason=reason)
    state = policy.postpone(state, 3, reason="results are awaited", by="nurse")
    assert state.postponement == Suppression("results are awaited", 4, "nurse")
    assert AlarmState.from_json(state.to_json()) == state
    alarms = []
    for hour in range(2, 7):
        state, alarm = policy.step(state, hour, 0.5)
        alarms.append(alarm is not None)
        # With the next alarm it is over.
        assert (state.postponement is not None) == (hour <= 4)
    assert alarms == [False, False, False, True, True]
    # What is graver is heard; what was asked for ends with it, or when somebody ends it.
    state = policy.postpone(state, 3, reason="x")
    assert policy.resume(state).postponement is None
    state, alarm = policy.step(state, 7, 0.9)
    assert alarm.reason == "escalation" and state.postponement is None
    assert "postponement" not in state.to_json()


def test_treatment_quiets_and_a_resumed_stay_alarms_at_once():
    policy = AlarmPolicy(0.5, quiet_after_treatment=5)
    state, _ = policy.step(policy.start(), 1, 0.9)
    state = policy.treated(state)
    state, alarm = policy.step(state, 2, 0.99)
    assert alarm is None and state.suppression.reason == "treated"
    _, alarm = policy.step(policy.resume(state), 3, 0.99)
    assert alarm is not None


def test_a_snooze_goes_along_to_another_unit():
    policy = AlarmPolicy(tiers=(Tier("alarm", 0.8, {"icu": 0.5}),), snooze=3)
    state, alarm = policy.step(policy.start(), 1, 0.6, unit="icu")
    assert alarm is not None
    state, alarm = policy.step(state, 2, 0.9, unit="ward")
    assert alarm is None
    _, alarm = policy.step(state, 5, 0.6, unit="ward")
    assert alarm is None


def test_statuses():
    policy = AlarmPolicy(0.5, snooze=2)
    state = policy.start()
    assert state.status == "armed"
    with pytest.raises(DataError, match="no alarm to acknowledge"):
        policy.acknowledge(state)
    state, _ = policy.step(state, 1, 0.1)
    assert state.status == "armed"
    state, _ = policy.step(state, 2, 0.9)
    assert state.status == "alarmed"
    assert policy.acknowledge(state).status == "acknowledged"
    state, _ = policy.step(state, 3, 0.9)
    assert state.status == "snoozed"
    closed = policy.close(state)
    assert policy.step(closed, 9, 0.99) == (closed, None) and closed.status == "closed"


def test_time_and_scores_are_checked():
    policy = AlarmPolicy(0.5)
    state, _ = policy.step(policy.start(), 4, 0.2)
    with pytest.raises(DataError, match="hour 4 comes after hour 4"):
        policy.step(state, 4, 0.2)
    with pytest.raises(DataError, match="give None"):
        policy.step(state, 5, float("nan"))
    with pytest.raises(DataError, match="a score is nan"):
        run_policy(policy, [0.1, np.nan], [2])
    with pytest.raises(DataError, match="add up to 3"):
        run_policy(policy, [0.1, 0.2], [3])
    assert not run_policy(policy, [0.1, np.nan], [2], issued=[1, 0]).raised.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either threshold"),
        ({"threshold": 0.5, "tiers": (Tier("a", 0.1),)}, "not both"),
        ({"tiers": (Tier("a", 0.5), Tier("b", 0.5))}, "must ascend"),
        ({"tiers": (Tier("a", 0.5), Tier("b", 0.7, {"icu": 0.4}))}, "in unit 'icu'"),
        ({"tiers": (Tier("a", 0.5), Tier("a", 0.7))}, "same name"),
        ({"threshold": float("nan")}, "finite"),
        ({"threshold": 0.5, "persistence": (3, 2)}, "persistence"),
        ({"threshold": 0.5, "snooze": -1}, "snooze"),
        ({"threshold": 0.5, "rise": 0.0}, "rise"),
        ({"threshold": 0.5, "max_alarms": 0}, "max_alarms"),
        ({"threshold": 0.5, "max_silence": 0}, "max_silence"),
    ],
)
def test_parameters_are_checked(arguments, message):
    with pytest.raises(ParameterError, match=message):
        AlarmPolicy(**arguments)


def test_a_policy_goes_through_json():
    policy = AlarmPolicy(
        tiers=(Tier("advisory", 0.4, {"icu": 0.5}), Tier("urgent", 0.8)),
        persistence=(2, 3),
        rise=0.1,
        max_alarms=4,
    )
    assert AlarmPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    plain = AlarmPolicy(0.5)
    assert AlarmPolicy.from_json(plain.to_json()).tiers == plain.tiers
    with pytest.raises(DataError, match="no alarm policy"):
        AlarmPolicy.from_json({"tiers": []})
    with pytest.raises(DataError, match="no state"):
        AlarmState.from_json({"hour": 3})


def test_a_site_has_its_own_threshold_where_the_unit_has_none():
    stays, _ = hospitals(stays=4, sites=2, hours=(3, 5), seed=1)
    site = stays.names("site").astype(str)[stays.stay_of_row()]
    assert places_of(AlarmPolicy(0.5).tiers, stays) is None
    assert (thresholds_of(Tier("alarm", 0.5), stays) == 0.5).all()
    tier = Tier("alarm", 0.5, {"A": 0.2, "nowhere": 0.9})
    assert thresholds_of(tier, stays).tolist() == np.where(site == "A", 0.2, 0.5).tolist()
    scores = np.full(stays.n_rows, 0.3)
    policy = AlarmPolicy(tiers=(tier,), snooze=0)
    raised = run_policy(policy, scores, stays.lengths, units=places_of([tier], stays)).raised
    assert (raised == (site == "A")).all()
    units = ["ICU", "WARD", "A", "nowhere", "WARD", "ICU", "B", "A"]
    unit = Categorical.from_values(units)
    placed = replace(stays, categories={**stays.categories, "unit": unit})
    low, high = Tier("low", 0.5, {**tier.units, "ICU": 0.3}), Tier("high", 0.95, {"ICU": 0.97})
    policy = AlarmPolicy(tiers=(low, high))
    places, rows = places_of(policy.tiers, placed), placed.stay_of_row()
    for place, i in zip(places, rows, strict=True):
        here = policy.at(str(placed.names("site")[i]))
        assert [t.of(units[i]) for t in here.tiers] == [t.of(str(place)) for t in policy.tiers]
    assert len(set(places.tolist())) >= 3
    here = policy.at("A")
    assert [t.of("WARD") for t in here.tiers] == [0.2, 0.95]
    assert [t.of("ICU") for t in here.tiers] == [0.3, 0.97]
    # A ward is what it is called, also at another site.
    assert here.tiers[0].of("nowhere") == 0.9 and here.tiers[0].of(None) == 0.2
    assert policy.at("C") is policy and policy.at(None) is policy
