"""A run's model, gate and policy in the service: equal to what they say of tables."""

from __future__ import annotations

from dataclasses import replace

import httpx
import numpy as np
import pytest

from foretell.data.clinical.feed import Measurement, Normaliser, Refusal
from foretell.data.clinical.hl7.writer import messages_of
from foretell.data.panel import Categorical
from foretell.decisions.alarms import AlarmPolicy, AlarmState, Suppression, Tier
from foretell.errors import DataError, ParameterError
from foretell.estimators.risk import AdditiveRisk
from foretell.serving.config import Config, read_config
from foretell.serving.replay import MllpClient, play
from foretell.serving.service import Service, make_fold
from foretell.serving.store import open_store
from foretell.serving.worker import Worker
from foretell.serving.worker.deployed import DeploymentScorer
from foretell.serving.worker.policy import act, check_action, for_rules
from foretell.serving.worker.scorer import TOLD
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

from .test_fold import delivery
from .waiting import settled

AUTH = {"Authorization": "Bearer test-token"}
CONFIG = """
[service]
store = "{store}"
partitions = 2
clock = "external"
tick_seconds = 0.5
[mllp]
port = 0
[http]
port = 0
[[tokens]]
name = "test"
sha256 = "4c5dc9b7708905f77f5e5d16316b5dfb425e68cb326dcd55a860e90a7707031e"
scopes = ["read", "act", "ingest", "audit", "admin"]
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(CONFIG.format(store=tmp_path / "s.db"))
    return file


def fed(stays, ports) -> float:
    """Plays stays to a service; returns the last moment."""
    feed = sorted(messages_of(stays), key=lambda m: m[0])
    url = f"http://127.0.0.1:{ports['http']}/v1/clock"

    def tick(moment: float) -> None:
        httpx.post(url, json={"time": moment}, headers=AUTH, timeout=180).raise_for_status()

    with MllpClient("127.0.0.1", ports["mllp"]) as client:
        assert play(feed, client, speed=None, tick=tick, every=3600) == len(feed)
    return feed[-1][0]


def test_a_run_serves_what_it_says_of_tables(config, tmp_path, launch, deployed):
    folder, deployment, stays = deployed
    stays = stays.select(slice(6))
    numbers = {k: v for k, v in stays.numbers.items() if k == "age"}
    age = np.minimum(np.floor(numbers["age"]), 90.0)
    stays = replace(stays, numbers={"age": age})
    running = launch(config, run=folder).wait()
    fed(stays, running.ports)
    store = open_store(str(tmp_path / "s.db"), partitions=2)
    settled(store)
    told = deployment.judge(stays)
    names = ["ok", "invalid_input", "out_of_distribution", "ambiguous"]
    alarms = {(n.patient, n.body["hour"], n.body["tier"]) for n in store.notes(0, 10_000)
              if n.kind == "alarm"}  # fmt: skip
    expected = set()
    kinds = set()
    for i in range(len(stays)):
        rows = slice(stays.offsets[i], stays.offsets[i + 1])
        patient = str(stays.patients[i])
        course = store.scores("SIM", patient)
        assert [s.hour for s in course] == list(range(1, stays.lengths[i] + 1))
        assert [s.status for s in course] == [names[k] for k in told.gated.status[rows]]
        risks = [np.nan if s.risk is None else s.risk for s in course]
        np.testing.assert_allclose(risks, told.gated.score[rows], atol=1e-6)
        for s, status in zip(course, told.gated.status[rows], strict=True):
            assert bool(s.reason) == (status != 0)
            assert s.model == deployment.version
        kinds |= {s.status for s in course}
        assert max(len(s.drivers) for s in course) == TOLD, "the ten strongest, not fewer"
        for s in course:
            strength = [abs(by) for _, by in s.drivers]
            assert strength == sorted(strength, reverse=True)
        for row in np.flatnonzero(told.alarms.raised[rows]):
            tier = deployment.policy.tiers[told.alarms.tier[rows][row]].name
            expected.add((patient, int(row) + 1, tier))
    assert alarms == expected and expected
    assert "ok" in kinds and len(kinds) > 1
    store.close()
    assert running.stop() == 0


def test_snapshots_of_another_ladder_start_from_the_hours(deployed):
    _, deployment, _ = deployed
    fold = make_fold(Config(), deployments=[deployment])
    assert fold.ladder.version == deployment.version
    rules = fold.policies["news2-1"]
    assert [t.threshold for t in rules.tiers] == [0.175, 0.35]
    scorer = DeploymentScorer(deployment)
    row = np.full(len(scorer.schema), np.nan, np.float32)
    stream = scorer.builder.stream(scaled=True)
    state, first = scorer.step(scorer.state0(), stream.step(row))
    _, second = scorer.step(scorer.state0(), stream.step(row))
    assert all(isinstance(v, np.ndarray) for v in state.values())
    assert first.status == second.status
    # An impossible value is no input to judge from.
    row[scorer.schema.names.index("HR")] = 900.0
    _, wrong = scorer.step(state, stream.step(row))
    assert (wrong.value, wrong.status) == (None, "invalid_input") and wrong.reason


def test_what_was_never_measured_drives_no_additive_risk(deployed):
    """Such a channel says nothing; it is not told as if a mean value were missing."""
    _, deployment, stays = deployed
    model = AdditiveRisk(hidden=(4,), max_steps=20, validation_size=0, threads=1).fit(stays)
    scorer = DeploymentScorer(replace(deployment, model=model, version="additive-1"), drivers=99)
    builder, names = model.features_, scorer.schema.names
    told = 0
    for i in range(4):
        one = stays.select([i])
        stream = scorer.builder.stream(scaled=True, age=one.number("age")[0])
        state, known = scorer.state0(), np.zeros(len(names), bool)
        for row in one.matrix():
            known |= ~np.isnan(row)
            features = stream.step(row)
            state, risk = scorer.step(state, features)
            of = {name: by for name, by in risk.drivers if name in names}
            assert set(of) <= {n for n, seen in zip(names, known, strict=True) if seen}
            for name, by in of.items():
                without = features[None, : len(builder.names)].copy()
                without[0, builder.columns(block="since", channel=name)] = 1
                gap = risk.value - model.predict_proba(without)[0, 1]
                assert by == pytest.approx(gap, abs=2e-6)
            told += len(of)
    assert told > 50


def test_what_nobody_had_drives_no_risk_of_a_net(deployed):
    """The simulated hospitals never measure it: as in training it is missing here, too."""
    _, deployment, stays = deployed
    scorer = DeploymentScorer(deployment, drivers=99)
    builder = deployment.model.features_
    nobody = {
        name for name in builder.schema.names
        if not builder.statistics.seen[builder.columns(block="last", channel=name)].any()
    }  # fmt: skip
    one, told = stays.select([0]), set()
    stream, state = scorer.builder.stream(scaled=True, age=one.number("age")[0]), scorer.state0()
    for row in one.matrix():
        state, risk = scorer.step(state, stream.step(row))
        told |= {name for name, _ in risk.drivers}
    assert nobody and told and not told & nobody
    # Which unit it is drives it once, not once as each unit that it might be.
    assert any(name.startswith("unit_") for name in builder.names)
    assert not any(name.startswith("unit_") for name in told)


def test_units_have_thresholds_and_a_version_can_be_pinned(deployed, tmp_path):
    _, deployment, _ = deployed
    top = deployment.policy.tiers[1]
    told = {"alarms": {"units": {top.name: {"ICU": top.threshold + 0.1}}}}
    fold = make_fold(read_config(told), deployments=[deployment])
    assert fold.policy.tiers[1].of("ICU") == top.threshold + 0.1
    assert fold.policy.tiers[1].of("WARD") == top.threshold
    with pytest.raises(ParameterError, match="names 'other'"):
        make_fold(read_config({"alarms": {"units": {"other": {"ICU": 0.5}}}}))
    rules = make_fold(read_config({"alarms": {"persistence": [2, 3], "max_alarms": 4}})).policy
    assert (rules.persistence, rules.max_alarms) == ((2, 3), 4)
    pinned = {"model": {"version": "other-1"}, "service": {"store": str(tmp_path / "s.db")}}
    with pytest.raises(ParameterError, match="pins other-1"):
        Service(read_config(pinned), deployments=[deployment])
    assert not (tmp_path / "s.db").exists()


def test_thresholds_of_sites_hold_in_the_service_as_in_tables(deployed, tmp_path):
    _, deployment, stays = deployed
    stays = stays.select(slice(6))
    numbers = {k: v for k, v in stays.numbers.items() if k == "age"}
    numbers["age"] = np.minimum(np.floor(numbers["age"]), 90.0)
    units = ["ICU" if i < 3 else "WARD" for i in range(len(stays))]
    stays = replace(stays, numbers=numbers)
    low, high = np.nanquantile(deployment.judge(stays).gated.score, [0.3, 0.7]).tolist()
    # None is so high that it holds everywhere; the unit ICU comes before every site.
    tier = Tier("alert", 0.9999, {"west": low, "east": high, "ICU": 0.9998})
    own = replace(deployment, policy=AlarmPolicy(tiers=(tier,), snooze=2))
    told = {"sites": {"west": {}, "east": {}, "south": {}, "north": {"alarms": {}}}}
    told["sites"]["north"]["alarms"] = {"tiers": {"alert": low}, "units": {"alert": {"ICU": high}}}
    fold = make_fold(read_config(told), deployments=[own])
    assert set(fold.sites) == {"west", "east", "north"}
    store = open_store(tmp_path / "s.db", partitions=2)
    worker = Worker(store, fold, name="w", ttl=3600.0)
    worker.keep_leases(now=True)
    expected, by = set(), {}
    for site in told["sites"]:
        place = {name: Categorical.from_values(values)
                 for name, values in (("unit", units), ("site", [site] * len(stays)))}  # fmt: skip
        placed = replace(stays, categories={**stays.categories, **place})
        for _, data in sorted(messages_of(placed, facility=site, name=site), key=lambda m: m[0]):
            store.append([delivery(data)])
        # What a site is told of its own comes before what the run says of it.
        holds = {"north": Tier("alert", low, {"ICU": high})}.get(site, tier)
        judged = replace(own, policy=replace(own.policy, threshold=None, tiers=(holds,)))
        raised = judged.judge(placed).alarms.raised
        live = []
        for i in range(len(placed)):
            who = {"age": numbers["age"][i], "sex": stays.names("sex")[i]}
            stream = judged.stream(site=site, source=stays.names("hospital")[i], unit=units[i],
                                   **who)  # fmt: skip
            live += [stream.step(row).alarm is not None for row in placed.matrix([i])]
        assert raised.tolist() == live
        by[site] = int(raised.sum())
        hours = np.concatenate([np.arange(1, n + 1) for n in stays.lengths])
        rows = stays.stay_of_row()
        expected |= {(site, str(stays.patients[rows[r]]), int(hours[r]))
                     for r in np.flatnonzero(raised)}  # fmt: skip
    send_ticks(store, 1_767_225_600.0 + 3600 * 40, everywhere=True)
    while worker.work():
        pass
    notes = [n for n in store.notes(0, 10_000) if n.kind == "alarm"]
    assert {(n.site, n.patient, n.body["hour"]) for n in notes} == expected
    assert by["west"] > by["east"] > by["south"] == 0 < by["north"]
    again = open_store(tmp_path / "again.db", partitions=2)
    rebuild(store, again, lambda: make_fold(read_config(told), deployments=[own]))
    assert again.fingerprint() == store.fingerprint()
    again.close()
    store.close()
    # Where no sites are configured all of them may send.
    free = make_fold(Config(), deployments=[own])
    assert free.rules("west").policy.tiers[0].of("WARD") == low
    assert free.rules("south").policy.tiers[0].of("WARD") == 0.9999


def test_units_are_repaired_where_none_was_stated(deployed):
    _, deployment, _ = deployed
    normal = Normaliser(repair=deployment.repair)

    def told(value, unit):
        given = Measurement("A", "p", None, (("LN", "8310-5"),), value, unit, 0.0, 0.0, "final",
                            "g")  # fmt: skip
        return normal(given)

    assert told(98.6, None).value == pytest.approx(37.0)
    assert told(98.6, "[degF]").value == pytest.approx(37.0)
    assert told(37.5, "Cel").value == 37.5
    # No patient has it, and one other unit explains it.
    assert told(98.6, "Cel").value == pytest.approx(37.0)
    for unit in (None, "Cel", "K"):
        stated = told(900.0, unit)
        assert isinstance(stated, Refusal) and stated.reason in ("impossible_value", "unknown_unit")


def test_what_people_do_about_alarms():
    policy = AlarmPolicy(tiers=(Tier("advisory", 0.2), Tier("urgent", 0.5)), rise=0.2)
    state = policy.start()
    with pytest.raises(DataError, match="no alarm"):
        act(policy, state, {"action": "acknowledge"})
    with pytest.raises(ParameterError, match="reason"):
        act(policy, state, {"action": "suppress", "hours": 2})
    # A snooze before any alarm holds against every tier.
    state, _ = policy.step(state, 1, 0.1)
    asked = {"action": "snooze", "hours": 2, "reason": "being-assessed", "by": "dr"}
    state = act(policy, state, asked)
    assert state.postponement == Suppression("being-assessed", 3, "dr")
    # What a log from before holds does what it did.
    old = act(policy, replace(state, postponement=None), {"action": "snooze", "hours": 2})
    assert old == replace(state, postponement=None) and "postponement" not in old.to_json()
    blank = {"action": "snooze", "hours": 2, "reason": " "}
    assert act(policy, replace(state, postponement=None), blank) == old
    state, alarm = policy.step(state, 2, 0.9)
    assert alarm is None and state.status == "snoozed"
    assert AlarmState.from_json(state.to_json()) == state
    state = act(policy, state, {"action": "resume"})
    assert state.postponement is None
    for told in ({"action": "snooze", "hours": 2}, {"action": "snooze", "reason": "other"},
                 {"action": "snooze", "hours": 25, "reason": "other"}):  # fmt: skip
        with pytest.raises(ParameterError, match=r"reason|hours"):
            check_action(told, 24)
    check_action({"action": "snooze", "hours": 24, "reason": "other"}, 24)
    state, alarm = policy.step(state, 3, 0.3)
    assert alarm is not None and alarm.tier == "advisory"
    state = act(policy, state, {"action": "suppress", "hours": 3, "reason": "palliative"})
    state, alarm = policy.step(state, 4, 0.9)
    assert alarm is None and state.suppression.reason == "palliative"
    rules = for_rules(policy, 0.4)
    assert rules.rise is None and [t.threshold for t in rules.tiers] == [0.2, 0.4]


def test_a_gate_on_a_hidden_layer_is_deployed_too(deployed, tmp_path):
    from foretell.decisions.abstention import Gate, MondrianConformal
    from foretell.serving.deployment import Deployment

    _, held, test = deployed
    gate = Gate(hidden=MondrianConformal("mahalanobis"), max_rows=500)
    gate.fit(test, test, represent=lambda stays: held.model.represent(stays, layer="last"))
    Deployment(held.model, gate, held.policy).save(tmp_path / "run")
    deployment = Deployment.load(tmp_path / "run")
    stay = test.select([0])
    told = deployment.judge(stay)
    live = deployment.stream(age=stay.number("age")[0], sex=stay.names("sex")[0])
    statuses = [live.step(row).status for row in stay.matrix()]
    np.testing.assert_array_equal(statuses, told.gated.status)
    scorer = DeploymentScorer(deployment, drivers=0)
    stream = scorer.builder.stream(scaled=True, age=stay.number("age")[0], sex=stay.names("sex")[0])
    state, issued = scorer.state0(), []
    for row in stay.matrix():
        state, risk = scorer.step(state, stream.step(row))
        issued.append(risk.value is not None)
    np.testing.assert_array_equal(issued, told.gated.issued)
