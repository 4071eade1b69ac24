"""What a site's own tables change: units, costs, thresholds, silences, pins, retention."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from foretell.cli import app
from foretell.data.clinical.feed import Measurement, Normal, Normaliser, Refusal
from foretell.data.clinical.hl7.writer import Result, messages_of, result_message
from foretell.errors import ParameterError
from foretell.serving.config import config_schema, read_config
from foretell.serving.doctor import examine
from foretell.serving.records import YEAR, purge
from foretell.serving.replay import MllpClient, play
from foretell.serving.service import Service, make_fold
from foretell.serving.sites import panels_of
from foretell.serving.store import open_store
from foretell.serving.worker import Worker
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

from .test_fold import delivery
from .test_rollout import admitted
from .waiting import settled

T0 = 1_767_225_600.0
HOUR = 3600.0
AUTH = {"Authorization": "Bearer test-token"}
DEPLOY = Path(__file__).parents[2] / "deploy"


def of_site(**told) -> dict:
    return {"sites": {"west": {"facilities": ["W"], **told}}}


def result(code: str, unit: str | None, value: float = 18.0) -> Measurement:
    return Measurement(
        site="west", patient="P", visit=None, codes=(("LN", code),), value=value, unit=unit,
        time=T0, issued=T0, status="final", group="g",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"cost": {}}, "sites.west.cost: there is no such key; did you mean 'costs'?"),
        ({"costs": {"lactate": {"price": 2}}}, "sites.west.costs.lactate.price: there is no such"),
        ({"costs": {"lactate": 0}}, "sites.west.costs.lactate.cost: Input should be greater"),
        ({"costs": {"lactate": {}}}, "a cost, turnaround, refractory or available"),
        ({"units_of_measure": {"MG": "mg/dk"}}, "is no unit of any variable; did you mean 'mg/dL'"),
        ({"units_of_measure": {"2524-7": {"u": "s"}}}, "'s' is no unit of Lactate"),
        ({"units_of_measure": {"LOCAL|X": {"u": "s"}}}, "which no variable has: say in codes"),
        ({"units_of_measure": {"": "mg/dL"}}, "needs a code"),
        ({"alarms": {"tier": {}}}, "sites.west.alarms.tier: there is no such key; did you mean"),
        ({"alarms": {"longest_silence_hours": 500}}, "sites.west.alarms.longest_silence_hours"),
        ({"quiet": {"sepsis_hour": 1}}, "did you mean 'sepsis_hours'?"),
        ({"retention_years": 0}, "sites.west.retention_years"),
    ],
)
def test_what_a_site_cannot_say_is_told_with_its_file_and_key(tmp_path, told, said):
    with pytest.raises(ParameterError) as found:
        read_config(of_site(**told))
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"costs": {"lactat": 2}}, "costs name 'lactat', which is no panel there; did you mean"),
        ({"panels": "own.toml"}, "sites.west.panels"),
        ({"panels": "none.toml"}, "cannot be read"),
        ({"alarms": {"tiers": {"grave": 0.5}}}, "sites.west.alarms: alarms.tiers names 'grave'"),
        ({"alarms": {"units": {"grave": {"A": 0.5}}}}, "alarms.units names 'grave'"),
        ({"alarms": {"persistence": [3, 2]}}, "sites.west.alarms: persistence needs"),
        ({"model_version": "sirs-1"}, "model_version pins sirs-1, but news2-1 would speak there"),
    ],
)
def test_what_a_site_has_not_is_an_error_at_the_start_and_told_by_the_doctor(tmp_path, told, said):
    (tmp_path / "own.toml").write_text('[lactate]\nchannels = ["Lactate"]\n')
    file = tmp_path / "site.toml"
    lines = [f"{key} = {toml(value)}" for key, value in told.items()]
    file.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\n[sites.west]\n' + "\n".join(lines) + "\n"
    )
    config = read_config(file)
    with pytest.raises(ParameterError) as found:
        Service(config)
    assert said in str(found.value)
    wrong = [f.text for f in examine(config) if f.state == "wrong"]
    assert wrong and any(said in text for text in wrong)
    run = CliRunner().invoke(app, ["serve", "--config", str(file), "--check"])
    assert run.exit_code == 2 and said.split()[0] in run.output


def toml(value) -> str:
    """A value as TOML writes it inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {toml(v)}' for k, v in value.items()) + " }"
    return json.dumps(value)


def test_a_unit_is_what_the_site_means_by_it():
    told = of_site(
        codes={"LOCAL|GLU": "Glucose"},
        units_of_measure={
            "MGDL": "mg/dL",
            "2345-7": {"": "mmol/L", "MGDL": "mmol/L"},
            "LOCAL|GLU": {"A": "mmol/L"},
        },
    )
    site = read_config(told).sites["west"]
    normal = Normaliser(codes=site.codes, units=site.units_of_measure)
    plain = Normaliser(codes=site.codes)
    # Another code of glucose: the site's spelling alone counts.
    assert normal(result("2339-0", " MGDL ")) == Normal("Glucose", 18.0)
    assert isinstance(plain(result("2339-0", "MGDL")), Refusal)
    millimole = pytest.approx(18.0 * 18.0, rel=0.01)
    for unit in ("MGDL", "", None):
        found = normal(result("2345-7", unit))
        assert isinstance(found, Normal) and found.value == millimole
    assert plain(result("2345-7", None)) == Normal("Glucose", 18.0)
    # What the site does not spell in its own way is read as before.
    assert normal(result("2339-0", "mg/dl")) == Normal("Glucose", 18.0)
    assert isinstance(normal(result("2339-0", "A")), Refusal)


def test_costs_of_a_site_replace_those_of_the_file(tmp_path):
    (tmp_path / "own.toml").write_text('[lactate]\nchannels = ["Lactate"]\nturnaround = 3\n')
    (tmp_path / "c.toml").write_text(
        '[sites.west]\npanels = "own.toml"\ncosts = { lactate = 2 }\n'
        "[sites.east]\ncosts = { coagulation = { available = false }, lactate = 7.5 }\n"
        "[sites.north]\n"
    )
    common, own = panels_of(read_config(tmp_path / "c.toml"))
    # A panel without a cost in the file has one by the site.
    assert own["west"] == {"lactate": {"channels": ["Lactate"], "turnaround": 3, "cost": 2.0}}
    assert own["east"]["lactate"]["cost"] == 7.5 and not own["east"]["coagulation"]["available"]
    assert common["lactate"]["cost"] == 1.0 and "north" not in own


SICK = [Result("8867-4", 120.0, "/min"), Result("9279-1", 23.0, "/min")]


def test_thresholds_and_silences_of_a_site_hold_there_alone(tmp_path):
    told = {
        "alarms": {"threshold": 0.15, "snooze_hours": 0, "units": {"urgent": {"ICU": 0.9}}},
        "sites": {
            "west": {"alarms": {"tiers": {"urgent": 0.6}}},
            "east": {"alarms": {"snooze_hours": 2, "units": {"urgent": {"ICU": 0.15}}}},
            "north": {"alarms": {"longest_silence_hours": 2}},
        },
    }
    config = read_config(told)
    fold = make_fold(config)
    levels = {site: fold.rules(site).policy.tiers[0] for site in ("west", "east", "north", "x")}
    assert {s: (t.threshold, t.of("ICU")) for s, t in levels.items()} == {
        "west": (0.6, 0.9), "east": (0.15, 0.15), "north": (0.15, 0.9), "x": (0.15, 0.9),
    }  # fmt: skip
    assert [config.longest_silence(s) for s in ("west", "north", None)] == [24, 2, 24]
    store = open_store(tmp_path / "s.db", partitions=2)
    worker = Worker(store, fold, name="w", ttl=3600.0)
    worker.keep_leases(now=True)
    for site in levels:
        for h in range(4):
            data = result_message(site, "P", SICK, time=T0 + (h + 0.5) * HOUR, control=f"{site}{h}")
            store.append([delivery(data)])
    send_ticks(store, T0 + 5 * HOUR, everywhere=True)
    while worker.work():
        pass
    raised: dict[str, list[int]] = {site: [] for site in levels}
    for note in store.notes(0, 100):
        if note.kind == "alarm":
            raised[note.site].append(note.body["hour"])
    assert len({len(hours) for hours in (raised["north"], raised["x"])}) == 1
    assert raised["west"] == [] and len(raised["x"]) >= 4
    assert raised["east"] == raised["x"][::3]
    again = open_store(tmp_path / "again.db", partitions=2)
    rebuild(store, again, lambda: make_fold(config))
    assert again.fingerprint() == store.fingerprint()
    again.close()
    store.close()


def test_patients_of_a_site_are_kept_for_its_years(tmp_path):
    config = read_config({"sites": {"H": {"retention_years": 2}, "I": {}}})
    assert config.retention_years == {"H": 2.0}
    store = open_store(tmp_path / "s.db", partitions=2)
    store.append_events([admitted("P", "ICU")])
    now = time.time()
    worker = Worker(store, make_fold(config), name="w", ttl=3600.0)
    worker.keep_leases(now=True)
    while worker.work():
        pass
    send_ticks(store, T0 + 500 * HOUR)
    while worker.work():
        pass
    later = max(now, T0) + 3 * YEAR
    assert purge(store, 6.0, later).patients == 0
    assert purge(store, 6.0, later, sites={"I": 2.0}).patients == 0
    done = purge(store, 6.0, later, dry=False, sites=config.retention_years)
    assert done.patients == 1 and not store.patient_events("H", "P")
    assert store.last_recorded("audit")["purpose"] == "retention of 6 years, of H 2"
    store.close()


def test_the_schema_refuses_what_the_service_refuses():
    jsonschema = pytest.importorskip("jsonschema")
    import tomllib

    told = CliRunner().invoke(app, ["doctor", "--schema"])
    shipped = json.loads(told.stdout)
    assert told.exit_code == 0 and shipped == json.loads(json.dumps(config_schema()))
    jsonschema.Draft202012Validator.check_schema(shipped)
    check = jsonschema.Draft202012Validator(shipped)
    assert check.is_valid(tomllib.loads((DEPLOY / "service.toml").read_text("utf-8")))
    assert check.is_valid(of_site(costs={"lactate": 2, "gas": {"turnaround": 1}}, quiet={}))
    for wrong in (
        of_site(cost={}), of_site(costs={"lactate": "dear"}), of_site(costs={"lactate": {}}),
        of_site(units_of_measure={"a": 1}), of_site(alarms={"tiers": {"urgent": 2}}),
        {"site": {}}, {"service": {"stor": "x"}},
    ):  # fmt: skip
        assert not check.is_valid(wrong), wrong


TWO = """
[service]
store = "{folder}/s.db"
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
[sites.west]
units_of_measure = {{ "PULSE" = "/min" }}
alarms = {{ tiers = {{ advisory = 1e-6, urgent = 2e-6 }}, longest_silence_hours = 4 }}
costs = {{ {costs} }}
[sites.east]
alarms = {{ tiers = {{ advisory = 0.999998, urgent = 0.999999 }} }}
"""
SITES = ("west", "east")


def test_two_sites_of_one_service_differ(tmp_path, deployed, launch):
    run, _, stays = deployed
    panels = panels_of(read_config({}))[0]
    west = ", ".join(
        f'"{p}" = {"{ available = false }" if p == "lactate" else "0.01"}' for p in panels
    )
    config = tmp_path / "c.toml"
    config.write_text(TWO.format(folder=tmp_path, costs=west))
    running = launch(config, run=run).wait()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{running.ports['http']}", headers=AUTH, timeout=180
    ) as client:

        def tick(moment: float) -> None:
            client.post("/v1/clock", json={"time": moment}).raise_for_status()

        feed = []
        for moment, data in messages_of(stays.first(10)):
            if b"ADT^A03" not in data:
                told = data.replace(b"|/min|", b"|PULSE|")
                feed += [(moment, told.replace(b"|SIM|", f"|{s}|".encode())) for s in SITES]
        feed.sort(key=lambda m: m[0])
        with MllpClient("127.0.0.1", running.ports["mllp"]) as door:
            play(feed, door, speed=None, tick=tick, every=HOUR)
        tick(feed[-1][0] + 60)
        store = open_store(tmp_path / "s.db", partitions=2)
        settled(store)
        store.close()
        views = client.get("/v1/patients").json()["patients"]
        assert len(views) == 2 * len(stays) and min(v["hour"] for v in views) >= 10
        mine = {s: [v for v in views if v["site"] == s] for s in SITES}
        # One spells a unit in its own way; of the other those results are set aside.
        results = {s: sum(v["results"] for v in mine[s]) for s in SITES}
        aside = client.get("/v1/quarantine").json()
        assert results["west"] > results["east"] and "unknown_unit" in json.dumps(aside)
        alarms = {s: sum(v["alarms"] for v in mine[s]) for s in SITES}
        assert alarms["west"] > 0 == alarms["east"]
        # What costs nearly nothing is always worth it; what cannot be had is not offered.
        offered = {s: {(r["panel"], r["cost"]) for v in mine[s] for r in v["recommended"]}
                   for s in SITES}  # fmt: skip
        assert {cost for _, cost in offered["west"]} == {0.01}
        assert "lactate" not in {panel for panel, _ in offered["west"]}
        assert all(cost >= 0.5 for _, cost in offered["east"])
        about = client.get("/v1/board").json()
        assert about["sites"]["west"]["longest_silence_hours"] == 4
        assert about["sites"]["east"]["tiers"][0]["threshold"] == 0.999998
        asked = {"action": "snooze", "hours": 6, "reason": "awaiting-results"}
        codes = {
            site: client.post(f"/v1/patients/{site}/{told[0]['patient']}/actions",
                              json={**asked, "key": f"key-of-{site}"}).status_code
            for site, told in mine.items()
        }  # fmt: skip
        assert codes == {"west": 422, "east": 202}
