"""Models on trial: the log says who speaks, whatever is loaded; changes are recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import numpy as np
import pytest

from foretell.data.clinical import CausalFeatureBuilder, FeatureSpec
from foretell.data.clinical.hl7.writer import messages_of
from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.errors import ParameterError
from foretell.serving.audit import first_break
from foretell.serving.config import read_config
from foretell.serving.events import MEASURED, VISIT, NewEvent, digest
from foretell.serving.replay import MllpClient, play
from foretell.serving.rollout import announce, change, configured, roll_back, standing
from foretell.serving.service import Service, make_fold
from foretell.serving.store import open_store
from foretell.serving.worker import Fold, Ladder, Risk, RuleScorer, Worker
from foretell.serving.worker.lineup import Lineup
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

from .waiting import settled, until

T0 = 1_767_225_600.0


class Steady:
    """Remembers what it saw; each version has a rate of its own."""

    scaled = False

    def __init__(self, version: str, rate: float) -> None:
        self.version, self.rate = version, rate
        self.builder = CausalFeatureBuilder(FeatureSpec(blocks=("last",), static=()))

    def state0(self):
        return {"seen": np.zeros(1)}

    def step(self, state, features):
        heart = float(np.nan_to_num(features[0], nan=60.0))
        seen = 0.8 * state["seen"] + self.rate * heart
        return {"seen": seen}, Risk(float(1 / (1 + np.exp(4 - seen[0] / 80))), model=self.version)


def fold_of(*names: str) -> Fold:
    rates = {"old": 0.8, "new": 1.0, "other": 0.5}
    scorers = [Steady(n, rates[n]) for n in names]
    policies = {"new": AlarmPolicy(0.3, snooze=4)}
    return Fold(Ladder([*scorers, RuleScorer("news2")]),
                AlarmPolicy(tiers=(Tier("alarm", 0.3),), snooze=2), policies)  # fmt: skip


def heart(patient: str, hour: float, rank: int = 1, value: float | None = None) -> NewEvent:
    time_ = T0 + hour * 3600 - 600
    item = [digest("g", patient, hour).hex()[:16], "HR", value or 80 + 7 * (hour % 5), time_,
            time_ if rank < 2 else T0 + 3600 * 10.5, rank]  # fmt: skip
    key = digest(patient, hour, rank)
    return NewEvent("H", patient, MEASURED, item[4], {"visit": None}, [(key, item)])


def admitted(patient: str, unit: str) -> NewEvent:
    body = {"visit": None, "kind": "admit", "admitted": T0, "unit": unit, "age": 60.0, "sex": None}
    return NewEvent("H", patient, VISIT, T0, body, [(digest("a", patient), None)])


def drained(worker: Worker) -> None:
    while worker.work():
        pass


def hours(store, worker: Worker, first: int, last: int, patients=("P", "Q")) -> None:
    for h in range(first, last + 1):
        store.append_events([heart(p, h) for p in patients])
        drained(worker)
        send_ticks(store, T0 + 3600 * h)
        drained(worker)


@pytest.fixture
def store(address):
    held = open_store(address, partitions=2)
    yield held
    held.close()


def spoke(store, patient: str) -> list[str]:
    return [s.model for s in store.scores("H", patient)]


def test_a_candidate_in_the_shadow_then_as_canary_then_back(store, tmp_path):
    names = ("old", "new")
    worker = Worker(store, fold_of(*names), name="w", ttl=3600, batch=3)
    worker.keep_leases(now=True)
    store.append_events([admitted("P", "ICU"), admitted("Q", "WARD")])
    decide = {"actor": "chief", "reason": "a trial", "loaded": ("old", "new", "news2-1")}
    assert change(store, Lineup("old", "new", "shadow"), **decide)
    assert not change(store, Lineup("old", "new", "shadow"), **decide)
    hours(store, worker, 1, 6)
    change(store, Lineup("old", "new", "canary", ("ICU",)), **decide)
    hours(store, worker, 7, 9)
    back = roll_back(store, actor="chief", reason="too many alarms", loaded=decide["loaded"])
    assert back == Lineup("old", "new", "shadow") and standing(store) == [back]
    with pytest.raises(ParameterError, match="no lineup to go back to"):
        roll_back(store, actor="chief", reason="once more", loaded=decide["loaded"])
    hours(store, worker, 10, 10)
    assert spoke(store, "P") == ["old"] * 6 + ["new"] * 3 + ["old"]
    assert spoke(store, "Q") == ["old"] * 10
    # A candidate that speaks knows the whole stay; in the shadow nothing of it is raised.
    pure = open_store(tmp_path / "pure.db", partitions=2)
    one = Worker(pure, fold_of("new"), name="w", ttl=3600)
    one.keep_leases(now=True)
    pure.append_events([admitted("P", "ICU"), admitted("Q", "WARD")])
    hours(pure, one, 1, 10)
    own = [s.risk for s in pure.scores("H", "P")]
    assert [s.risk for s in store.scores("H", "P")][6:9] == own[6:9]
    beside = {r.hour: r for r in store.shadow_rows("H", "P")}
    assert [beside[h].version for h in range(1, 11)] == ["new"] * 6 + ["old"] * 3 + ["new"]
    assert [beside[h].risk for h in range(1, 7)] == own[:6]
    alarms = {n.body["hour"]: n.body["model"] for n in store.notes(0, 1000)
              if n.kind == "alarm" and n.patient == "P"}  # fmt: skip
    assert set(alarms.values()) <= {"old", "new"} and alarms
    assert {h for h, r in beside.items() if r.raised} == set(alarms)
    (total,) = [r for r in store.shadows("new") if r["unit"] == "WARD"]
    assert (total["hours"], total["both"], total["no_score"]) == (10, 10, 0)
    rows = {r.hour: r for r in store.shadow_rows("H", "Q")}
    gap = np.mean([abs(r.risk - r.said) for r in rows.values()])
    assert total["difference"] == pytest.approx(gap) and gap > 0.01
    assert total["alarms"]["compared"] == sum(r.alarm is not None for r in rows.values()) > 0
    # A correction of a sealed hour is computed by who spoke then.
    store.append_events([heart("P", 2, rank=2, value=81.0)])
    drained(worker)
    assert spoke(store, "P") == ["old"] * 6 + ["new"] * 3 + ["old"]
    for batch in (1, 4, 100):
        again = open_store(tmp_path / f"{batch}.db", partitions=2)
        # In another order, and one more is loaded: the log says who speaks.
        rebuild(store, again, lambda: fold_of(*names), batch=batch)
        assert again.fingerprint() == store.fingerprint()
    more = open_store(tmp_path / "more.db", partitions=2)
    rebuild(store, more, lambda: fold_of("other", "new", "old"))
    told = ("scores", "outbox", "shadows")
    assert [more.fingerprint()[t] for t in told] == [store.fingerprint()[t] for t in told]
    records = store.recorded("control")
    assert [r["action"] for r in records] == ["lineup", "lineup", "rollback"]
    assert first_break(records) is None
    records[1]["purpose"] = "another"
    assert first_break(records) == records[1]["id"]


def test_what_is_not_loaded_is_not_silent(store):
    fold = fold_of("old", "new")
    worker = Worker(store, fold, name="w", ttl=3600)
    worker.keep_leases(now=True)
    decide = {"actor": "x", "reason": "why not", "loaded": fold.ladder.versions}
    with pytest.raises(ParameterError, match="not loaded"):
        change(store, Lineup("gone"), **decide)
    change(store, Lineup("gone"), **{**decide, "loaded": ("gone",)})
    hours(store, worker, 1, 2, ("P",))
    score = store.scores("H", "P")[0]
    assert (score.status, score.reason, score.model) == ("degraded", "gone is not loaded", "old")
    with pytest.raises(ParameterError, match="reason"):
        change(store, Lineup("old"), **{**decide, "reason": " "})
    for wrong in (
        ("", None, "off"),
        ("a", None, "shadow"),
        ("a", "b", "canary"),
        ("a", "a", "off"),
    ):
        with pytest.raises(ParameterError):
            Lineup(*wrong)


def test_a_restart_does_not_undo_what_was_decided(store):
    versions = ("old", "new", "news2-1")
    settings = read_config({"rollout": {"candidate": "x", "mode": "canary", "units": ["ICU"]}})
    line = configured(versions, "new", settings.rollout)
    assert announce(store, line, versions) and not announce(store, line, versions)
    roll = Lineup("old")
    change(store, roll, actor="chief", reason="it erred", loaded=versions)
    assert not announce(store, line, versions)
    assert store.lineup(0)["lineup"] == roll.to_json()
    # Another configuration is another decision.
    other = configured(versions, None, settings.rollout)
    assert not announce(store, other, versions)
    assert announce(store, Lineup("new"), versions)
    assert store.lineup(1)["lineup"]["primary"] == "new" and store.lineup(0, 1) is not None


class Failing(Steady):
    """Knows no answer to a fast heart."""

    def step(self, state, features):
        if features[0] > 100:
            raise RuntimeError
        return super().step(state, features)


@pytest.mark.parametrize("decided", [True, False])
def test_where_a_model_is_pinned_only_rules_step_in_for_it(store, tmp_path, decided):
    versions = ("new", "old", "other", "news2-1")

    def fold(site: str, pin: str = "new") -> Fold:
        scorers = [Failing("new", 1.0), Steady("old", 0.8), Steady("other", 0.5)]
        policy = AlarmPolicy(tiers=(Tier("alarm", 0.3),), snooze=2)
        return Fold(Ladder([*scorers, RuleScorer("news2")]), policy, pins={site: pin})

    if decided:
        line = Lineup("new", "other", "shadow")
        change(store, line, actor="x", reason="a trial", loaded=versions)
    worker = Worker(store, fold("H"), name="w", ttl=3600)
    worker.keep_leases(now=True)
    hours(store, worker, 1, 6, ("P",))
    assert spoke(store, "P")[0] == "new" and set(spoke(store, "P")) == {"new", "news2-1"}
    last = store.scores("H", "P")[-1]
    assert (last.status, last.model) == ("degraded", "news2-1") and "new failed" in last.reason
    for name, where in (("pinned", ("H", "new")), ("free", ("I", "new")), ("past", ("H", "old"))):
        again = open_store(tmp_path / f"{name}.db", partitions=2)
        rebuild(store, again, lambda where=where: fold(*where))
        if name == "pinned":
            assert again.fingerprint() == store.fingerprint()
        else:
            assert "old" in spoke(again, "P"), "elsewhere, and where it was not the one that spoke"
        again.close()


def test_a_pin_against_what_was_decided_tells_the_way_out(tmp_path):
    told = {"service": {"store": str(tmp_path / "s.db")}, "model": {"fallbacks": ["sirs"]},
            "sites": {"west": {}}}  # fmt: skip
    service = Service(read_config(told), roles=("worker",))
    service.announce()
    decide = {"actor": "chief", "loaded": service.versions}
    change(service.store, Lineup("sirs-1"), reason="a drill", **decide)
    service.store.close()
    told["sites"]["west"]["model_version"] = "news2-1"
    pinned = Service(read_config(told), roles=("worker",))
    assert pinned.reference.pins == {"west": "news2-1"}
    with pytest.raises(ParameterError, match=r"pins news2-1, but sirs-1 .*Take the pin out .*PUT"):
        pinned.announce()
    change(pinned.store, Lineup("news2-1"), reason="the drill is over", **decide)
    pinned.announce()
    pinned.store.close()


AUTH = {"Authorization": "Bearer test-token"}
CONFIG = """
[service]
store = "{folder}/s.db"
partitions = 2
clock = "external"
tick_seconds = 0.5
[rollout]
candidate = "{candidate}"
mode = "shadow"
[mllp]
port = 0
[http]
port = 0
[[tokens]]
name = "test"
sha256 = "4c5dc9b7708905f77f5e5d16316b5dfb425e68cb326dcd55a860e90a7707031e"
scopes = ["read", "act", "ingest", "audit", "admin"]
"""


def test_a_running_service_tries_a_run_and_goes_back(tmp_path, launch, deployed):
    folder, deployment, stays = deployed
    policy = replace(deployment.policy, snooze=9, threshold=None)
    trial = replace(deployment, policy=policy).save(tmp_path / "trial")
    assert trial.version != deployment.version
    config = tmp_path / "c.toml"
    config.write_text(CONFIG.format(folder=tmp_path, candidate=tmp_path / "trial"))
    running = launch(config, run=folder).wait()
    base = f"http://127.0.0.1:{running.ports['http']}"
    feed = sorted(messages_of(stays.first(8).select(slice(4))), key=lambda m: m[0])
    feed = [(t, m) for t, m in feed if b"ADT^A03" not in m]
    half = len(feed) // 2
    with httpx.Client(base_url=base, headers=AUTH, timeout=180) as client:

        def tick(moment: float) -> None:
            client.post("/v1/clock", json={"time": moment}).raise_for_status()

        told = client.get("/v1/model").json()
        assert told["version"] == deployment.version and told["by"] == "configuration"
        assert told["lineup"]["candidate"] == trial.version and told["not_asked"] == {}
        made = told["calibrations"]
        assert set(made) == {deployment.version, trial.version}
        for one in (deployment, trial):
            assert made[one.version] == one.gate.calibration._asdict()
            assert f"the gate of {one.version} has {one.gate.calibration.words}" in running.text()
        with MllpClient("127.0.0.1", running.ports["mllp"]) as door:
            play(feed[:half], door, speed=None, tick=tick, every=3600)
            body = {"primary": trial.version, "reason": "the trial went well"}
            assert client.put("/v1/model", json=body).status_code == 200
            assert client.put("/v1/model", json=body).status_code == 409
            wrong = client.put("/v1/model", json={"primary": "none-1", "reason": "because"})
            assert wrong.status_code == 409 and "not loaded" in wrong.text
            play(feed[half:], door, speed=None, tick=tick, every=3600)
        tick(feed[-1][0] + 3600)
        answer = client.post("/v1/model/rollback", json={"reason": "it did not"})
        assert answer.json()["primary"] == deployment.version
        store = open_store(tmp_path / "s.db", partitions=2)
        settled(store)
        models = {s.model for p in stays.patients[:4] for s in store.scores("SIM", str(p))}
        assert {deployment.version, trial.version} <= models
        compared = client.get("/v1/shadow").json()["compared"]
        # The same model under another policy: no score differs.
        assert compared and all(not r["difference"] for r in compared)
        changes = client.get("/v1/changes").json()["rows"]
        assert [r["action"] for r in changes] == ["lineup", "lineup", "rollback"]
        assert json.loads(changes[1]["detail"])["before"]["primary"] == deployment.version
        assert client.get("/v1/changes/verify").json()["intact"]
        audit = [r["action"] for r in client.get("/v1/audit").json()["rows"]]
        assert {"lineup", "rollback"} <= set(audit)
        # What was compared is counted after it is kept.
        page = until(lambda: next((t for t in (client.get("/metrics").text,)
                                   if "foretell_shadow_difference_count" in t), ""))  # fmt: skip
        assert f'foretell_model_info{{role="speaks",version="{deployment.version}"}} 1.0' in page
    again = open_store(tmp_path / "again.db", partitions=2)
    settings = read_config(config)
    rebuild(store, again, lambda: make_fold(settings, deployments=[deployment], candidate=trial))
    assert again.fingerprint() == store.fingerprint()
    assert running.stop() == 0
