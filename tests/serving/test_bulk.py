"""Bulk export for the beginning: whole, resumed after a kill, nothing twice, hours not torn."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

pytest.importorskip("jwt")

from foretell.serving.config import Config, PollConfig
from foretell.serving.errors import FencedError
from foretell.serving.ingest.bulk import BulkExport, _lines, export_due
from foretell.serving.ingest.client import FhirClient
from foretell.serving.ingest.committer import Committer
from foretell.serving.ingest.duty import Duty
from foretell.serving.ingest.errors import PollError
from foretell.serving.ingest.intake import Intake
from foretell.serving.metrics import Metrics
from foretell.serving.store import open_store
from foretell.serving.worker.ticks import Ticker, warming

from .conftest import Running
from .ehr import CLIENT, Ehr, encounter, instant, observation, write_key
from .waiting import until

HOURS = 8


def patients(begin: float, count: int) -> dict[str, list[dict]]:
    """Stays of eight hours with a pulse every half hour, in files that are ordered by nothing."""
    found = []
    for p in range(count):
        for k in range(2 * HOURS):
            found.append(observation(f"o{p}-{k}", f"p{p}", begin + 600 + 1800 * k, value=70.0 + k))
    return {
        "Patient": [{"resourceType": "Patient", "id": f"p{p}", "gender": "female",
                     "birthDate": "1950-01-01", "meta": {"lastUpdated": instant(begin)}}
                    for p in range(count)],
        "Encounter": [encounter(f"v{p}", f"p{p}", begin) for p in range(count)],
        "Observation": found[::-1],
    }  # fmt: skip


@pytest.fixture
def ehr() -> Iterator[Ehr]:
    held = Ehr()
    held.resources = patients(time.time() - 3600 * HOURS, 3)
    yield held
    held.close()


class Desk:
    """What an export needs, without a service around it."""

    def __init__(self, ehr: Ehr, folder: Path, **more) -> None:
        self.store = open_store(folder / "s.db", partitions=2)
        self.config = PollConfig(
            site="A", url=ehr.url, warm_up=True,
            resources=("Observation", "Encounter", "Patient"), **more,
        )  # fmt: skip
        self.committer = Committer(self.store)
        self.intake = Intake(Config(sites={"A": {}}))
        self.metrics = Metrics()

    def export(self, **more) -> BulkExport:
        return BulkExport(self.config, FhirClient(self.config), self.intake, self.committer,
                          self.store, self.metrics, **more)  # fmt: skip

    def results(self) -> int:
        return sum(len(e.body.get("items", ())) for e in self.store.all_events(0, 10_000)
                   if e.kind == "measured")  # fmt: skip


def test_an_export_is_waited_for_and_read_to_its_end(ehr, tmp_path):
    desk = Desk(ehr, tmp_path)
    ehr.busy_polls = 2
    ehr.troubles = {"/r4/bulk": deque([(429, "0"), (503, None)])}
    assert export_due(desk.store, desk.config)
    one = desk.export()
    stop = threading.Event()
    for _ in range(2):
        with pytest.raises(PollError, match="busy"):
            one.run(stop)
    ticker = Ticker(desk.store, every=1.0)
    # As long as it lasts no hour is closed; the heart beats all the same.
    assert warming(desk.store) and desk.store.mark("heartbeat") is None
    assert ticker.once() == 0 and desk.store.mark("heartbeat") is not None
    assert one.run(stop) and not warming(desk.store)
    assert desk.results() == 3 * 2 * HOURS
    assert "_type=Observation%2CEncounter%2CPatient" in ehr.asked[0] and "_since=" in ehr.asked[0]
    kinds = [p.split("/")[-1] for p in ehr.asked if "/files/" in p]
    assert kinds[:2] == ["Patient.ndjson", "Encounter.ndjson"]
    assert ehr.exports == {} and not export_due(desk.store, desk.config)
    # Polling goes on from there; another process takes none.
    assert desk.store.mark(f"poll A {ehr.url}/Observation") is not None
    asked = len(ehr.asked)
    assert desk.export().run(stop) and len(ehr.asked) == asked
    # Asked for anew it tells what is newer, and what is known stays known.
    head = desk.store.head()
    assert export_due(desk.store, desk.config, again=True)
    assert desk.export(again=True).run(stop)
    assert desk.store.head() == head and len(ehr.asked) > asked
    desk.committer.close()


def test_lines_that_say_nothing_are_set_aside_and_the_rest_is_read(ehr, tmp_path):
    desk = Desk(ehr, tmp_path)
    ehr.extra_lines = {
        "Observation": ["{torn", "[]", "", '{"resourceType": "Bundle", "type": "batch"}',
                        '{"resourceType": "Observation", "status": "final"}', '"CANARY"'],
        "errors": ['{"resourceType": "OperationOutcome", "issue": [{"code": "exception"}]}'],
    }  # fmt: skip
    assert desk.export().run(threading.Event())
    assert desk.results() == 3 * 2 * HOURS
    aside = {(q["reason"], q["code"]): q["count"] for q in desk.store.quarantine()}
    assert aside["bulk_line", "Observation"] == 4 and aside["bulk_error", "exception"] == 1
    assert "CANARY" not in str(aside)
    desk.committer.close()


def test_a_torn_connection_goes_on_where_it_was(ehr, tmp_path, monkeypatch):
    monkeypatch.setattr("foretell.serving.ingest.bulk._LINES", 10)
    desk = Desk(ehr, tmp_path)
    ehr.cut = {"Observation": 9000}
    one = desk.export()
    with pytest.raises(Exception, match=r"(?i)incomplete|peer|closed|disconnect"):
        one.run(threading.Event())
    some = desk.results()
    assert 0 < some < 48
    # Another process goes on: it does not ask for another export, nor submit what is durable.
    seen = []
    submit = desk.committer.submit
    monkeypatch.setattr(desk.committer, "submit", lambda d: (seen.append(d), submit(d))[1])
    assert desk.export().run(threading.Event())
    assert desk.results() == 48 and ehr.counts["/r4/$export"] == 1
    lines = [d for d in seen if d.kind == "Observation"]
    assert len(lines) <= 48 - some + 10
    desk.committer.close()


def test_an_export_that_is_gone_is_asked_for_anew(ehr, tmp_path):
    desk = Desk(ehr, tmp_path)
    ehr.troubles = {"/r4/files/Obs": deque([(404, None)])}
    one = desk.export()
    with pytest.raises(PollError, match="anew"):
        one.run(threading.Event())
    assert one.run(threading.Event()) and desk.results() == 48
    assert ehr.counts["/r4/$export"] == 2
    desk.committer.close()


def test_files_elsewhere_are_read_only_where_they_are_listed_and_without_the_token(ehr, tmp_path):
    other = Ehr()
    other.resources = ehr.resources
    ehr.root, mine = other.root, ehr.root
    try:
        desk = Desk(ehr, tmp_path)
        # The kick-off's state itself must be on the server.
        with pytest.raises(PollError, match="another server"):
            desk.export().run(threading.Event())
        told = {"state": "asked", "status": f"{mine}/r4/bulk/x", "since": "2026-01-01T00:00:00Z"}
        from json import dumps

        ehr.exports["x"] = {"polls": 0, "types": ["Observation"]}
        desk.store.set_mark(f"export A {ehr.url}/", dumps(told))
        with pytest.raises(PollError, match="not listed"):
            desk.export().run(threading.Event())
        assert other.asked == []
        desk.config = desk.config.model_copy(update={"file_servers": (f"{other.root}/r4/files",)})
        assert desk.export().run(threading.Event()) and desk.results() == 48
        desk.committer.close()
    finally:
        other.close()


def test_lines_of_any_length_and_any_pieces():
    text = b"a\n\nbb\r\nccc"
    for size in (1, 2, 3, 100):
        parts = iter([text[i : i + size] for i in range(0, len(text), size)])
        assert list(_lines(parts)) == [b"a", b"", b"bb", b"ccc"]
    long = b"x" * (5 << 20)
    parts = iter([long[i : i + (1 << 20)] for i in range(0, len(long), 1 << 20)] + [b"\nok\n"])
    assert list(_lines(parts)) == [None, b"ok"]


def test_a_service_warms_up_before_it_closes_hours_though_it_is_killed(nursery, tmp_path, ehr):
    _, public = write_key(tmp_path)
    ehr.jwks = [public]
    ehr.resources = patients(time.time() - 3600 * HOURS, 40)
    # The first process waits for the last file, and is killed there.
    ehr.troubles = {"/r4/files/Observation": deque([(503, "3600")])}
    config = tmp_path / "c.toml"
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\ntick_seconds = 0.3\n'
        f'[mllp]\nport = 0\n[http]\nport = 0\n[[tokens]]\nname = "t"\n'
        f'sha256 = "{hashlib.sha256(b"t").hexdigest()}"\nscopes = ["read", "admin"]\n[sites.A]\n'
        f'[[polls]]\nsite = "A"\nurl = "{ehr.url}"\nwarm_up = true\nevery_seconds = 600\n'
        f'smart = {{ client_id = "{CLIENT}", key_file = "{tmp_path}/client.pem", key_id = "k1" }}\n'
    )
    running = Running(nursery, config, "ingest,worker,dispatcher", tmp_path, None)
    try:
        running.wait()

        def ask(path: str) -> httpx.Response:
            url = f"http://127.0.0.1:{running.ports['http']}{path}"
            return httpx.get(url, headers={"Authorization": "Bearer t"}, timeout=180)

        until(lambda: ehr.counts["/r4/files/Observation.ndjson"] == 1)
        until(lambda: len(ask("/v1/patients").json()["patients"]) == 40)
        ready = ask("/readyz")
        assert ready.status_code == 503 and "a warm-up is under way" in ready.json()["problems"]
        running.kill()
        running = Running(nursery, config, "ingest,worker,dispatcher", tmp_path, None)
        running.wait()
        until(lambda: ehr.counts["/r4/Observation"] >= 1)
        assert ehr.counts["/r4/$export"] == 1

        def scored() -> bool:
            listed = ask("/v1/patients").json()["patients"]
            return len(listed) == 40 and all(v["hour"] == HOURS + 1 for v in listed)

        store = open_store(tmp_path / "s.db", partitions=2)
        until(scored)
        # Every hour has what happened in it, in spite of the order of the files: nothing is late.
        for p in (0, 17, 39):
            row = store.state("A", f"p{p}")
            assert row is not None and row.view is not None
            assert row.view["late"] == row.view["left_out"] == 0
            assert row.view["results"] == 2 * HOURS and row.view["age"] is not None
        events = sum(len(e.body.get("items", ())) for e in store.all_events(0, 10_000)
                     if e.kind == "measured")  # fmt: skip
        assert events == 40 * 2 * HOURS
        store.close()
    finally:
        running.kill()


def test_two_doors_with_the_same_poll_take_one_export(nursery, tmp_path, ehr):
    ehr.resources = patients(time.time() - 3600 * HOURS, 5)
    ehr.busy_polls = 3
    # Whoever has it waits for the last file, and is killed there.
    ehr.troubles = {"/r4/files/Observation": deque([(503, "3600")])}
    config = tmp_path / "c.toml"
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\ntick_seconds = 0.3\n'
        f"lease_seconds = 10.0\n[mllp]\nport = 0\n[http]\nport = 0\n[sites.A]\n"
        f'[[polls]]\nsite = "A"\nurl = "{ehr.url}"\nwarm_up = true\nevery_seconds = 0.5\n'
    )
    roles = ("ingest,worker,dispatcher", "ingest")
    doors = [Running(nursery, config, each, tmp_path, None) for each in roles]
    store = open_store(tmp_path / "s.db", partitions=2)

    def duties() -> list[tuple]:
        return store._run("SELECT token, expires FROM lease WHERE kind LIKE 'poll %'")

    try:
        for door in doors:
            door.wait()
        until(lambda: ehr.counts["/r4/files/Observation.ndjson"] == 1)
        # It is renewed while its holder waits.
        ((token, first),) = duties()
        for _ in range(2):
            until(lambda before=first: duties()[0][1] > before)
            ((now, first),) = duties()
            assert now == token
        files = ("Patient", "Encounter", "Observation")
        assert [ehr.counts[f"/r4/files/{kind}.ndjson"] for kind in files] == [1, 1, 1]
        assert ehr.counts["/r4/$export"] == 1 and ehr.counts["/r4/Observation"] == 0
        (holder,) = [door for door in doors if "taken over" in door.text()]
        holder.kill()
        # As if its time had passed.
        store._run("UPDATE lease SET expires = 0 WHERE kind LIKE 'poll %'")
        until(lambda: ehr.counts["/r4/Observation"] >= 2)
        # The other one goes on where it was, and learns anew who is who.
        assert ehr.counts["/r4/$export"] == 1
        assert [ehr.counts[f"/r4/files/{kind}.ndjson"] for kind in files] == [2, 2, 2]
        found = [e for e in store.all_events(0, 10_000) if e.kind == "measured"]
        assert sum(len(e.body["items"]) for e in found) == 5 * 2 * HOURS
    finally:
        store.close()
        for door in doors:
            door.kill()


def test_a_duty_that_is_lost_writes_no_mark(store, monkeypatch):
    other, later = store.another(), [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later[0])
    monkeypatch.setattr("foretell.serving.ingest.duty.time", clock)
    one, two = Duty(store, "poll x", ttl=3600), Duty(other, "poll x", ttl=7200)
    assert one.keep() and one.held and not two.keep() and not two.held
    old = one.lease
    store.set_mark("m", "1", old)
    # An hour in which it stands still, by its own clock and by that of the store.
    later[0] = 3601.0
    assert not one.held
    store._run("UPDATE lease SET expires = expires - 3601 WHERE kind = 'poll x'")
    assert two.keep() and two.held and not one.held
    with pytest.raises(FencedError):
        one.lease  # noqa: B018
    with pytest.raises(FencedError):
        store.set_mark("m", "2", old)
    assert store.mark("m") == "1" and not one.keep()
    two.leave()
    assert one.keep() and one.lease.token > old.token
    other.close()


def test_marks_that_several_change_lose_nothing(store):
    def count(held) -> None:
        for _ in range(20):
            held.change_mark("m", lambda before: str(int(before or 0) + 1))

    stores = [store.another() for _ in range(3)]
    threads = [threading.Thread(target=count, args=(held,)) for held in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.mark("m") == "60"
    for held in stores:
        held.close()
