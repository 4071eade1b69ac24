"""What a service sees beside what its model was validated on."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest

from foretell.data.clinical.hl7.writer import (
    Result,
    messages_of,
    result_message,
    visit_message,
)
from foretell.data.panel import Categorical
from foretell.decisions.abstention import DriftMonitor
from foretell.decisions.alarms import Tier
from foretell.errors import ArtefactError
from foretell.serving.config import Config, DriftConfig, read_config
from foretell.serving.deployment import FILE, Deployment
from foretell.serving.doctor import examine
from foretell.serving.drift import Block, DriftWatch, blocks_of, found_last, tables_of
from foretell.serving.errors import ServingError, StoreUnavailableError
from foretell.serving.metrics import Metrics
from foretell.serving.replay import MllpClient, play
from foretell.serving.service import Service, make_fold
from foretell.serving.store import open_store
from foretell.serving.worker import Worker
from foretell.serving.worker.state import PatientState, dump, places, unit_at, unpack
from foretell.serving.worker.ticks import send_ticks

from .test_deployed import AUTH, CONFIG
from .test_fold import T0, delivery
from .test_fold import make_fold as rules
from .waiting import until


@pytest.fixture(scope="module")
def watched(deployed):
    """The deployment with a monitor, and stays that it has never seen."""
    _, deployment, stays = deployed
    # As a feed tells it.
    age = np.minimum(np.floor(stays.number("age")), 90.0)
    unit = Categorical.from_values(["MICU" if i % 2 else "ward" for i in range(len(stays))])
    stays = replace(stays, numbers={"age": age}, categories={**stays.categories, "unit": unit})
    told = deployment.judge(stays)
    monitor = DriftMonitor(least=5, least_of_site=100)
    monitor.fit(told.stays, told.gated.score, deployment.policy.tiers[0].threshold)
    return replace(deployment, monitor=monitor), stays


@pytest.fixture(scope="module")
def played(watched, tmp_path_factory):
    """A store in which the stays were watched over, and nobody was discharged."""
    deployment, stays = watched
    store = open_store(str(tmp_path_factory.mktemp("drift") / "s.db"), partitions=4)
    fold = make_fold(Config(), deployments=[deployment])
    worker = Worker(store, fold, name="w", ttl=3600)
    worker.keep_leases(now=True)
    feed = [m for m in sorted(messages_of(stays), key=lambda m: m[0]) if b"ADT^A03" not in m[1]]
    ends = np.arange(feed[0][0], feed[-1][0] + 3 * 3600, 3600.0)
    at = 0
    for end in ends:
        while at < len(feed) and feed[at][0] <= end:
            store.append([delivery(feed[at][1])])
            at += 1
        send_ticks(store, end)
        while worker.work():
            pass
    yield store
    store.close()


def test_hours_of_a_period_are_found_on_both_engines(store):
    worker = Worker(store, rules(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    assert store.newest_score("H") is None
    heart = [Result("8867-4", 80.0, "/min")]
    store.append([
        delivery(visit_message("H", "P1", "A01", time=T0, control="a", visit="V", admitted=T0)),
        delivery(result_message("H", "P1", heart, time=T0 + 60, control="r", visit="V")),
        delivery(result_message("H", "P1", heart, time=T0 + 7300, control="q", visit="V")),
    ])  # fmt: skip
    while worker.work():
        pass
    for hour in range(1, 6):
        send_ticks(store, T0 + 3600 * hour)
        while worker.work():
            pass
    assert store.newest_score("H") == T0 + 5 * 3600
    assert store.scored_since("H", T0) == [("P1", "V", 1, 5)]
    assert store.scored_since("H", T0 + 2 * 3600) == [("P1", "V", 3, 5)]
    assert store.scored_since("B", T0) == [] == store.scored_since("H", T0 + 5 * 3600)
    rows = store.hours_scored("H", "P1", "V", 1, 3)
    assert [r[0] for r in rows] == [1, 2, 3] and {r[2] for r in rows} == {"news2-1"}
    assert [r[3] is None for r in rows] == [False, True, False]
    (one,) = unpack(rows[0][3])
    assert one.value == 80.0 and isinstance(rows[0][3], bytes)


def test_blocks_are_those_that_were_sealed_in_the_period():
    # Hours 10 to 27 closed, each sealed 2 hours later: hour 12 in 14, 24 in 26.
    spans = [("p", "s", 10, 27), ("q", "s", 14, 14), ("r", "s", 15, 25), ("t", "s", 1, 13)]
    found = blocks_of(spans, 12, 2, 100, "A")
    assert found == [Block("p", "s", 12), Block("p", "s", 24), Block("q", "s", 12)]
    assert blocks_of([("p", "s", 1, 99)], 12, 0, 100, "A")[-1] == Block("p", "s", 96)
    # Periods that follow each other count each block once.
    whole = blocks_of([("p", "s", 1, 200)], 12, 2, 100, "A")
    parts = [blocks_of([("p", "s", h + 1, h + 7)], 12, 2, 100, "A") for h in range(0, 196, 7)]
    assert [b for part in parts for b in part] == whole
    many = [(f"p{i}", "s", 14, 14) for i in range(50)]
    few = blocks_of(many, 12, 2, 10, "A")
    assert len(few) == 10 and few == blocks_of(many[::-1], 12, 2, 10, "A")
    assert set(few) <= {Block(p, s, 12) for p, s, _, _ in many}


def test_what_the_store_keeps_is_what_tables_say(played, watched):
    deployment, stays = watched
    schema, length = deployment.gate.schema, deployment.monitor.block
    newest = played.newest_score("SIM")
    spans = played.scored_since("SIM", newest - 1000 * 3600)
    assert played.newest_score("nowhere") is None and played.scored_since("SIM", newest) == []
    assert len(spans) == len(stays) and all(first == 1 for _, _, first, _ in spans)
    found = blocks_of(spans, length, 2, 1000, "SIM")
    hours = [played.hours_scored("SIM", b.patient, b.stay, b.last - length + 1, b.last)
             for b in found]  # fmt: skip
    parts, scores = tables_of(found, hours, length, schema, deployment.version)
    told = deployment.judge(stays)
    offsets, names = stays.offsets, [str(p) for p in stays.patients]
    seen = 0
    for k, block in enumerate(found):
        i = names.index(block.patient)
        if block.last > stays.lengths[i]:
            continue
        rows = slice(offsets[i] + block.last - length, offsets[i] + block.last)
        np.testing.assert_allclose(
            parts.select([k]).matrix(), told.stays.matrix()[rows], rtol=1e-5, equal_nan=True
        )
        mine = scores[k * length : (k + 1) * length]
        np.testing.assert_allclose(mine, told.gated.score[rows], atol=1e-6, equal_nan=True)
        seen += 1
    assert seen >= 10
    _, none = tables_of(found, hours, length, schema, "another model")
    assert np.isnan(none).all()


def test_looking_changes_nothing_and_is_the_same_anew(played, watched):
    deployment, _ = watched
    monitors = {deployment.version: deployment.monitor}
    before = played.fingerprint()
    settings = DriftConfig(hours=24 * 31, every_minutes=1)
    watch = DriftWatch(played, monitors, deployment.gate.schema, settings)
    told = watch.look()
    assert played.fingerprint() == before and found_last(played) == told
    (site,) = told["sites"].values()
    assert site["model"] == deployment.version and site["reference"] == "all sites"
    assert site["blocks"] >= 10 and site["hours"] == 12 * site["blocks"]
    assert {r["channel"] for r in site["channels"]} == set(deployment.gate.schema.names)
    assert site["expected"]["sensitivity"] >= 0 and site["scores"]["stability_index"] >= 0
    again = DriftWatch(played.another(), monitors, deployment.gate.schema, settings).look()
    assert again["sites"] == told["sites"]
    text = json.dumps(told)
    assert not any(f'"{p}"' in text for _, p in zip(range(3), watched[1].patients, strict=False))
    # Nobody whom the monitor knows spoke.
    other = DriftWatch(played, {"x": deployment.monitor}, deployment.gate.schema, settings).look()
    assert "model with a monitor" in other["sites"]["SIM"]["why_not"]
    metrics = Metrics(drift_seconds=120.0)
    metrics.drift(other, other["time"] + 60)
    metrics.drift(told, told["time"] + 60)
    lines = metrics.text(played).decode().splitlines()
    assert f'foretell_drift_blocks{{site="SIM"}} {site["blocks"]}.0' in lines
    assert sum(n.startswith("foretell_drift_stability_index{") for n in lines) == 5
    assert sum(n.startswith("foretell_expected_performance{") for n in lines) >= 3
    age = next(n for n in lines if n.startswith("foretell_drift_age_seconds "))
    assert float(age.split()[1]) == pytest.approx(60, abs=0.01)
    ratio = next(n for n in lines if n.startswith("foretell_drift_age_ratio "))
    assert float(ratio.split()[1]) == pytest.approx(0.5, abs=1e-4)
    # Where nobody looks (any more), what was found once keeps no alert on.
    metrics = Metrics()
    metrics.drift(told, told["time"] + 1e6)
    page = metrics.text(played).decode()
    assert "foretell_drift" not in page and "foretell_expected" not in page


def test_what_scores_promise_is_told_of_the_thresholds_that_hold_at_the_site(
    played, watched, monkeypatch
):
    deployment, stays = watched
    top = deployment.policy.tiers[0].name
    settings, schema = DriftConfig(hours=24 * 31), deployment.gate.schema

    def found(alarms, monitor=deployment.monitor):
        config = read_config({"sites": {"SIM": {"facilities": ["SIM"], "alarms": alarms}}})
        monitors = {deployment.version: monitor}
        rules = make_fold(config, deployments=[deployment]).rules
        return DriftWatch(played, monitors, schema, settings, rules=rules).look()["sites"]["SIM"]

    plain = found({})
    assert plain["threshold"] == deployment.policy.tiers[0].threshold
    assert plain["usual"]["sensitivity"] is not None
    risks = deployment.judge(stays).gated.score
    low = float(np.nanquantile(risks, 0.1))
    # Below the tier above, whatever the model.
    high = sum(t.threshold for t in deployment.policy.tiers) / 2
    lower = found({"tiers": {top: low}})
    assert lower["threshold"] == low
    assert lower["expected"]["sensitivity"] > plain["expected"]["sensitivity"]
    assert lower["expected"]["auroc"] == plain["expected"]["auroc"]
    # What is usual of a threshold that nobody validated is not known.
    assert [k for k, v in lower["usual"].items() if v is None] == [
        "sensitivity", "specificity", "ppv",
    ]  # fmt: skip
    metrics = Metrics(drift_seconds=60.0)
    metrics.drift({"time": 0.0, "sites": {"SIM": lower}}, 1.0)
    page = metrics.text(played).decode()
    assert 'foretell_expected_performance{of="sensitivity",site="SIM"}' in page
    assert 'foretell_expected_performance_usual{of="auroc",site="SIM"}' in page
    assert 'foretell_expected_performance_usual{of="sensitivity",site="SIM"}' not in page
    # A unit's own threshold holds in its hours, and in no others.
    both = found({"tiers": {top: low}, "units": {top: {"MICU": high}}})
    assert both["thresholds"] == {"MICU": high}
    everywhere = found({"tiers": {top: low}, "units": {top: {"MICU": high, "ward": high}}})
    by = [f["expected"]["sensitivity"] for f in (everywhere, both, lower)]
    assert by == sorted(by) and len(set(by)) == 3
    # With a run whose own policy has them they are validated.
    judged, tier = deployment.judge(stays), Tier(top, low, {"MICU": high})
    own = DriftMonitor(least=5, least_of_site=100).fit(judged.stays, judged.gated.score, tier)
    same = found({"tiers": {top: low}, "units": {top: {"MICU": high}}}, own)
    assert same["usual"]["sensitivity"] is not None and same["expected"] == both["expected"]
    # Of a snapshot no more is read than where the patient was: what follows need not be there.
    state, cut = played.state, []

    def beginning(site, patient):
        row = state(site, patient)
        _, size, _ = struct.unpack_from("<BII", row.body)
        cut.append(len(row.body) - (9 + size))
        return replace(row, body=row.body[: 9 + size])

    monkeypatch.setattr(played, "state", beginning)
    assert found({"tiers": {top: low}, "units": {top: {"MICU": high}}}) == both
    assert len(cut) == len(set(stays.patients)) and min(cut) > 0


def test_where_a_patient_was_is_told_without_the_rest_of_a_snapshot():
    state = PatientState("H", "P", 0, stay="S", units=[[1, "MICU"], [5, "ward"]])
    stay, units = places(dump(state))
    assert stay == "S"
    assert [unit_at(units, h) for h in range(1, 8)] == [state.unit(h) for h in range(1, 8)]
    assert [unit_at(units, h) for h in (0, 4, 5)] == ["MICU", "MICU", "ward"]
    assert unit_at([], 1) is None
    with pytest.raises(ServingError, match="another version"):
        places(b"\x09" + dump(state)[1:])


def test_where_nobody_has_looked_the_age_counts_from_the_start(played):
    metrics = Metrics(drift_seconds=3600.0, begun=1000.0)
    metrics.drift(None, 1000.0 + 4 * 3600)
    lines = metrics.text(played).decode().splitlines()
    assert "foretell_drift_age_seconds 14400.0" in lines
    assert "foretell_drift_age_ratio 4.0" in lines
    # Once a day may be often enough.
    metrics = Metrics(drift_seconds=86_400.0, begun=1000.0)
    metrics.drift({"time": 1000.0 + 3600, "sites": {}}, 1000.0 + 13 * 3600)
    assert "foretell_drift_age_ratio 0.5" in metrics.text(played).decode().splitlines()


@pytest.mark.parametrize("minutes", [0.0, 30.0])
def test_drift_is_told_where_it_is_watched(watched, tmp_path, minutes):
    deployment, _ = watched
    config = read_config({
        "service": {"store": str(tmp_path / "s.db")}, "drift": {"every_minutes": minutes},
    })  # fmt: skip
    for monitor in (deployment.monitor, None):
        told = replace(deployment, monitor=monitor)
        service = Service(config, deployments=[told], roles=("ingest",))
        service.metrics.drift(None, time.time() + 3600)
        page = service.metrics.text(service.store).decode()
        service.store.close()
        assert ("foretell_drift" in page) == (minutes > 0 and monitor is not None)
        found = [n for n in page.splitlines() if n.startswith("foretell_drift_age_ratio ")]
        assert [round(float(n.split()[1])) for n in found] == [2] * len(found)


def test_a_channel_in_other_units_is_named(played, watched):
    deployment, stays = watched
    usual = deployment.judge(stays).stays
    moved = replace(usual, channels={**usual.channels, "HR": usual.channels["HR"] / 60})
    monitor = DriftMonitor(least=5, least_of_site=100)
    monitor.fit(moved, deployment.judge(stays).gated.score, 0.2)
    monitors = {deployment.version: monitor}
    settings = DriftConfig(hours=24 * 31)
    found = DriftWatch(played, monitors, deployment.gate.schema, settings).look()["sites"]["SIM"]
    assert "HR" in found["channels_named"]
    row = next(r for r in found["channels"] if r["channel"] == "HR")
    assert "discrepancy" in row["why"] and row["discrepancy_p"] < 1e-3


class Sites:
    """A store with more sites with open stays than were played; hours of some cannot be read."""

    def __init__(self, store, broken):
        self._store, self._broken, self.closed = store, broken, False

    def __getattr__(self, name):
        return getattr(self._store, name)

    def open_since(self):
        return {**self._store.open_since(), **dict.fromkeys(self._broken, 0.0)}

    def newest_score(self, site):
        if site in self._broken:
            raise self._broken[site]
        return self._store.newest_score(site)

    def close(self):
        self.closed = True


def test_a_site_that_cannot_be_looked_at_costs_no_other(played, watched, caplog):
    deployment, _ = watched
    monitors = {deployment.version: deployment.monitor}
    schema, settings = deployment.gate.schema, DriftConfig(hours=24 * 31)
    alone = DriftWatch(played, monitors, schema, settings).look()["sites"]["SIM"]
    broken = {"A": KeyError("P17"), "B": ValueError("P18"), "Z": KeyError("P19")}
    caplog.clear()
    told = DriftWatch(Sites(played, broken), monitors, schema, settings).look()
    assert list(told["sites"]) == ["A", "B", "SIM", "Z"] and found_last(played) == told
    assert told["sites"]["SIM"] == alone
    for site, error in broken.items():
        found = told["sites"][site]
        assert found["why_not"] == type(error).__name__ and found["failed"]
        assert found["channels_named"] == [] and not found["scores_moved"]
    metrics = Metrics(drift_seconds=3600.0)
    metrics.drift(told, told["time"])
    lines = metrics.text(played).decode().splitlines()
    for site, value in {"A": 1, "B": 1, "Z": 1, "SIM": 0}.items():
        assert f'foretell_drift_failed{{site="{site}"}} {value}.0' in lines
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert said == [
        "looking for drift failed at A, Z: KeyError", "looking for drift failed at B: ValueError",
    ]  # fmt: skip
    assert not any(p in json.dumps(told) + caplog.text for p in ("P17", "P18", "P19"))
    # A store that does not answer is not a site's: the look is for another time.
    gone = Sites(played, {"A": StoreUnavailableError("away")})
    with pytest.raises(StoreUnavailableError):
        DriftWatch(gone, monitors, schema, settings).look()
    assert found_last(played) == told


def test_who_is_told_to_stop_closes_the_store(played, watched):
    deployment, _ = watched
    store, stop = Sites(played, {}), threading.Event()
    watch = DriftWatch(
        store, {deployment.version: deployment.monitor}, deployment.gate.schema,
        DriftConfig(hours=24 * 31, every_minutes=0.001),
    )  # fmt: skip
    other = played.another()
    before = found_last(other)
    runs = threading.Thread(target=watch.run, args=(stop,))
    runs.start()
    try:
        until(lambda: found_last(other) != before)
        assert not store.closed
    finally:
        stop.set()
        runs.join(300)
    assert store.closed and found_last(other) != before
    other.close()


def test_a_deployment_carries_its_monitor(watched, tmp_path):
    deployment, _ = watched
    saved = deployment.save(tmp_path / "run")
    assert saved.version == deployment.version, "what is watched changes nothing of what is said"
    loaded = Deployment.load(tmp_path / "run")
    assert loaded.monitor.version == deployment.monitor.version
    file = tmp_path / "run" / "monitor" / "arrays.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match="monitor"):
        Deployment.load(tmp_path / "run")
    told = json.loads((tmp_path / "run" / FILE).read_text())
    (tmp_path / "run" / FILE).write_text(json.dumps({**told, "monitor": None}))
    assert Deployment.load(tmp_path / "run").monitor is None
    del told["monitor"]
    (tmp_path / "run" / FILE).write_text(json.dumps(told))
    assert Deployment.load(tmp_path / "run").monitor is None, "as older ones were written"


def test_a_running_service_tells_admins(watched, tmp_path, launch):
    deployment, stays = watched
    deployment.save(tmp_path / "run")
    config = tmp_path / "c.toml"
    token = hashlib.sha256(b"reader").hexdigest()
    reader = f'[[tokens]]\nname = "reader"\nsha256 = "{token}"\nscopes = ["read"]\n'
    drift = "[drift]\nhours = 744\nevery_minutes = 0.02\n"
    config.write_text(CONFIG.format(store=tmp_path / "s.db") + reader + drift)
    running = launch(config, run=tmp_path / "run").wait()
    url = f"http://127.0.0.1:{running.ports['http']}"
    # Nobody is discharged: a site without open stays is not looked at.
    feed = [m for m in sorted(messages_of(stays), key=lambda m: m[0]) if b"ADT^A03" not in m[1]]

    def tick(moment: float) -> None:
        body = {"time": moment}
        httpx.post(f"{url}/v1/clock", json=body, headers=AUTH, timeout=180).raise_for_status()

    with MllpClient("127.0.0.1", running.ports["mllp"]) as door:
        play(feed, door, speed=None, tick=tick, every=3600)
    with httpx.Client(base_url=url, headers=AUTH, timeout=180) as client:
        until(lambda: client.get("/v1/drift").json()["sites"].get("SIM", {}).get("blocks"))
        assert client.get("/v1/drift").json()["time"] is not None
        page = client.get("/metrics").text
        head = {"Authorization": "Bearer reader"}
        assert client.get("/v1/drift", headers=head).status_code == 403
    assert "foretell_drift_age_seconds" in page
    assert running.alive and "looking for drift failed" not in running.text()
    assert running.stop() == 0


def test_when_a_gate_was_calibrated_changes_no_version(deployed, tmp_path):
    _, deployment, _ = deployed
    saved = deployment.save(tmp_path / "run")
    file = tmp_path / "run" / "gate" / "calibration.json"
    told = json.loads(file.read_text())
    assert told["version"] == deployment.gate.calibration.version
    file.write_text(json.dumps({**told, "time": 1e9}))
    loaded = Deployment.load(tmp_path / "run")
    assert loaded.version == saved.version and loaded.gate.calibration.time == 1e9
    config = read_config({"service": {"store": str(tmp_path / "s.db")}})
    (found,) = [f for f in examine(config, [tmp_path / "run"]) if f.what == "run"]
    patients = deployment.gate.calibration.patients
    assert found.state == "ok" and f"2001-09-09 01:46 UTC, {patients} patients" in found.text
    file.unlink()
    assert Deployment.load(tmp_path / "run").version == saved.version
