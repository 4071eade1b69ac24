"""The store: known things once, effects whole or not at all, old owners refused."""

from __future__ import annotations

import threading
import time

import pytest

from foretell.errors import ParameterError
from foretell.serving.audit import first_break
from foretell.serving.errors import FencedError, StoreUnavailableError
from foretell.serving.events import Delivery, NewEvent, Quarantined, digest, partition_of
from foretell.serving.store import Effects, OutboxRow, ScoreRow, StateRow, open_store


def delivery(control: str, *values: int, patient: str = "P", content: bytes = b"x") -> Delivery:
    items = [(digest(patient, v), ["00" * 8, "HR", v, 0.0, 0.0, 1]) for v in values]
    event = NewEvent("S", patient, "measured", 1.0, {"visit": None}, items)
    return Delivery("src", control, content, "ORU", 5.0, [event] if items else [], [])


def merged(patient: str, prior: str) -> Delivery:
    told = {"kind": "merge", "prior": prior, "visit": None}
    key = digest("merge", patient, prior)
    event = NewEvent("S", patient, "visit", 1.0, told, [(key, None)])
    return Delivery("src", key.hex(), b"x", "ADT", 5.0, [event], [])


def row(patient: str, key: str) -> OutboxRow:
    return OutboxRow("S", patient, 0, key, "alarm", 1.0, {"a": 1})


def test_repeats_of_messages_and_results_are_no_news(store):
    first = store.append([delivery("1", 1, 2)])[0]
    assert (first.duplicate, first.items) == (False, 2)
    assert store.append([delivery("1", 1, 2)])[0].duplicate
    other = store.append([delivery("2", 2, 3)])[0]
    assert (other.duplicate, other.items, other.repeated) == (False, 1, 1)
    # The same number with other content is another message.
    again = store.append([delivery("1", 9, content=b"y")])[0]
    assert (again.duplicate, again.items) == (False, 1)
    twice = store.append([delivery("7", 70), delivery("7", 70), delivery("8", 70)])
    assert [(a.duplicate, a.items) for a in twice] == [(False, 1), (True, 0), (False, 0)]
    events = store.all_events(0, 100)
    assert [[i[2] for i in e.body["items"]] for e in events] == [[1, 2], [3], [9], [70]]
    assert store.head() == events[-1].seq
    part = partition_of("S", "P", store.partitions)
    assert [e.seq for e in store.events(part, events[0].seq, 2)] == [e.seq for e in events[1:3]]


def test_messages_of_one_commit_are_of_who_stays_after_a_merge_among_them(store):
    # Many messages wait while one commit is under way; the next takes all of them.
    store.append([
        merged("B", "A"), delivery("1", 1, patient="A"),
        merged("C", "B"), delivery("2", 2, patient="A"), delivery("3", 3, patient="B"),
    ])  # fmt: skip
    values = [
        (e.patient, [i[2] for i in e.body["items"]], e.partition)
        for e in store.all_events(0, 100) if e.kind == "measured"
    ]  # fmt: skip
    of_b, of_c = (partition_of("S", name, store.partitions) for name in "BC")
    assert values == [("B", [1], of_b), ("C", [2], of_c), ("C", [3], of_c)]


def test_many_messages_of_who_was_retired_cost_a_statement_for_each_link(store, monkeypatch):
    store.append([merged(f"M{k}", f"Patient/{k}") for k in range(600)])
    store.append([merged("N", "M7")])
    asked, run = [], store._run
    monkeypatch.setattr(store, "_run", lambda sql, *rest: asked.append(sql) or run(sql, *rest))
    before = store.head()
    store.append([delivery(f"d{k}", k, patient=f"Patient/{k}") for k in range(600)])
    found = {e.body["items"][0][2]: e.patient for e in store.all_events(before, 1000)}
    assert found == {k: "N" if k == 7 else f"M{k}" for k in range(600)}
    assert store.current("S", "Patient/7") == "N" and store.current("S", "M8") == "M8"
    assert sum("FROM alias" in sql for sql in asked) < 10


def test_a_paused_owner_can_write_nothing(store):
    (old,) = [x for x in store.acquire("work", "a", 0.05, 1)]
    time.sleep(0.1)
    taken = {x.partition: x for x in store.acquire("work", "b", 3600, 4)}
    assert taken[old.partition].token > old.token
    effects = Effects({old.partition: old}, {old.partition: 7}, outbox=[row("P", "k")])
    with pytest.raises(FencedError):
        store.commit(effects)
    assert store.notes(0, 10) == []
    new = taken[old.partition]
    store.commit(Effects({new.partition: new}, {new.partition: 7}, outbox=[row("P", "k")]))
    assert [n.key for n in store.notes(0, 10)] == ["k"]
    assert {x.partition: x.applied for x in store.acquire("work", "b", 3600, 4)}[old.partition] == 7
    with pytest.raises(FencedError):
        store.sent(old, 1)


def test_effects_are_kept_whole_or_not_at_all(store):
    lease = store.acquire("work", "a", 3600, 4)[0]
    state = StateRow("S", "P", 0, b"body", 3600.0, {"risk": 0.5, "stay": "x", "site": "S"})
    score = ScoreRow("S", "P", "x", 1, 3600.0, 0.5, 0.5, "ok", "m", None, (("HR", 3.0),))
    bad = ScoreRow("S", "P", None, 2, 3600.0, 0.5, 0.5, "ok", "m", None)
    broken = Effects({0: lease}, {0: 1}, [state], [], [score, bad], [row("P", "k")])
    with pytest.raises(Exception):  # noqa: B017
        store.commit(broken)
    assert store.state("S", "P") is None and store.scores("S", "P") == []
    store.commit(Effects({0: lease}, {0: 1}, [state], [], [score], [row("P", "k")]))
    assert store.state("S", "P") == state and store.scores("S", "P") == [score]
    later = ScoreRow("S", "P", "x", 1, 3600.0, 0.25, 0.25, "ok", "m", None)
    store.commit(Effects({0: lease}, {0: 2}, [], [], [later], [row("P", "k")]))
    held = store.scores("S", "P")[0]
    assert (held.risk, held.issued) == (0.25, 0.5)
    assert len(store.notes(0, 10)) == 1


def test_leases_are_shared_and_given_back(store):
    assert store.join("work", "a", 3600) == 1
    assert len(store.acquire("work", "a", 3600, 4)) == 4
    assert store.acquire("work", "b", 3600, 2) == []
    store.release("work", "a", [2, 3])
    assert [x.partition for x in store.acquire("work", "b", 3600, 2)] == [2, 3]
    assert store.join("work", "b", 3600) == 2
    store.leave("work", "b")
    assert store.join("work", "a", 3600) == 1


def test_the_outbox_keeps_the_order_of_each_patient(store):
    work, send = (store.acquire(k, "a", 3600, 4)[0] for k in ("work", "send"))
    rows = [row("P", "1"), row("P", "2"), row("Q", "3")]
    store.commit(Effects({0: work}, {0: 1}, outbox=rows))
    ready = store.outbox(0, 100.0, 10)
    assert [r.key for r in ready] == ["1", "3"]
    store.sent(send, ready[0].id, error="down", retry=200.0)
    assert [r.key for r in store.outbox(0, 100.0, 10)] == ["3"]
    again = store.outbox(0, 300.0, 10)
    assert [(r.key, r.attempts) for r in again] == [("1", 1), ("3", 0)]
    store.sent(send, again[0].id, error="refused")
    assert [r.key for r in store.outbox(0, 300.0, 10)] == ["2", "3"]
    assert store.dead()[0]["error"] == "refused"
    assert store.revive(store.dead()[0]["id"]) and store.dead() == []
    assert [r.key for r in store.outbox(0, 300.0, 10)] == ["1", "3"]


def test_what_is_set_aside_waits_for_its_code(store):
    aside = [Quarantined(b"1", "S", "unknown_code", "L", "XX", "", {"a": 1}),
             Quarantined(b"2", "S", "unknown_code", "L", "XX", "", {"a": 2})]  # fmt: skip
    held = delivery("1")
    held.quarantined = aside
    store.append([held])
    (told,) = store.quarantine()
    assert (told["code"], told["count"]) == ("XX", 2)
    assert store.take_quarantined("L", "XX") == [{"a": 1}, {"a": 2}]
    assert store.drop_quarantined("L", "XX") == 2 and store.quarantine() == []


def test_a_changed_or_deleted_audit_row_is_found(store):
    for i in range(5):
        last = store.audit({"time": i, "actor": "a", "action": "read", "subject": str(i)})
    rows = store.audit_rows()
    assert first_break(rows) is None and first_break(rows, last) is None
    assert first_break([rows[0], {**rows[1], "subject": "other"}, *rows[2:]]) == rows[1]["id"]
    assert first_break([rows[0], *rows[2:]]) == rows[2]["id"]
    assert first_break(rows[:-1], last) == rows[-2]["id"]


def test_readers_see_numbers_without_gaps_while_many_append(address):
    """An event that commits after a later number was read would be lost to its worker."""
    first = open_store(address, partitions=4)
    stop = threading.Event()
    errors: list[Exception] = []

    def write(name: str) -> None:
        try:
            store = first.another()
            for i in range(40):
                store.append([delivery(f"{name}{i}", i, patient=name)])
            store.close()
        except Exception as error:
            errors.append(error)

    seen: list[int] = []

    def read() -> None:
        store = first.another()
        while not stop.is_set() or store.head() > (seen[-1] if seen else 0):
            found = store.all_events(seen[-1] if seen else 0, 1000)
            seen.extend(e.seq for e in found)
        store.close()

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(3)]
    for w in writers:
        w.start()
    for w in writers:
        w.join(300)
    stop.set()
    reader.join(300)
    assert not errors
    assert seen == [e.seq for e in first.all_events(0, 1000)] and len(seen) == 120


def test_a_store_is_checked_when_opened(address, tmp_path):
    open_store(address, partitions=4).close()
    with pytest.raises(ParameterError, match="4 partitions, not 8"):
        open_store(address, partitions=8)
    with pytest.raises(ParameterError, match="nothing else"):
        open_store("mysql://host/db")
    with pytest.raises(StoreUnavailableError):
        open_store(tmp_path / "no" / "such" / "folder.db")
    with pytest.raises(StoreUnavailableError) as caught:
        open_store("postgresql:///none?host=/no/such/folder&password=SECRET")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("told", "seconds"), [("", 5), ("&connect_timeout=40", 40)])
def test_an_address_may_say_how_long_its_server_is_waited_for(monkeypatch, told, seconds):
    psycopg, asked = pytest.importorskip("psycopg"), []

    def connect(address, **options):
        asked.append(options["connect_timeout"])
        raise psycopg.OperationalError

    monkeypatch.setattr(psycopg, "connect", connect)
    with pytest.raises(StoreUnavailableError):
        open_store(f"postgresql:///none?host=/no/such/folder{told}")
    assert asked == [seconds]
    with pytest.raises(ParameterError, match="whole number of seconds"):
        open_store("postgresql:///none?host=/no/such/folder&connect_timeout=5s")


def test_a_full_disk_refuses_whole_messages_and_loses_none(tmp_path):
    store = open_store(tmp_path / "s.db", partitions=4)
    pages = store._run("PRAGMA page_count")[0][0]
    store._run(f"PRAGMA max_page_count={pages + 8}")
    taken = 0
    with pytest.raises(StoreUnavailableError, match="full"):
        for taken in range(10_000):
            store.append([delivery(str(taken), *range(taken * 20, taken * 20 + 20))])
    assert taken > 0 and len(store.all_events(0, 10_000)) == taken
    assert store._run("SELECT COUNT(*) FROM seen")[0][0] == 20 * taken
    # Once there is room the same message is news, not a repeat.
    store._run("PRAGMA max_page_count=1000000")
    values = range(taken * 20, taken * 20 + 20)
    assert store.append([delivery(str(taken), *values)])[0].items == 20
