"""What doors hear: wrong clocks, silent channels, and the hour that autumn repeats."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from foretell.data.clinical.hl7 import Message
from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.config import read_config
from foretell.serving.ingest.intake import Intake
from foretell.serving.ingest.watch import Clock, ClockSkews, Sender, Silences
from foretell.serving.store import open_store
from foretell.serving.worker import Worker
from foretell.serving.worker.ticks import send_ticks
from foretell.serving.worker.worker import rebuild

from .test_treatments import make_fold

T0 = 1_767_225_600.0


def test_the_median_says_whose_clock_is_wrong():
    rng = random.Random(0)
    held = ClockSkews()
    a, b, c = (Sender("H", "hl7", name) for name in "abc")
    found = []
    for k in range(200):
        received = T0 + 60 * k
        # A clock that is ten minutes ahead, among messages that waited and some that lie.
        sent = received + 600 - rng.expovariate(1 / 20)
        if k % 5 == 0:
            sent = rng.choice((0.0, 4e9))
        found.append(held.heard(a, sent, received))
        assert held.heard(b, received - rng.expovariate(1 / 20), received) is None
        assert held.heard(c, None, received) is None
    assert found[:8] == [None] * 8
    assert all(f is not None and 550 < f < 601 for f in found[20:])
    told = held.told()
    assert set(told) == {a, b} and abs(told[b].ahead) < 40 and told[b].messages == 101
    # Of a site's door that clock is told which is furthest off, to either side.
    assert held.worst() == {("H", "hl7"): told[a].ahead}
    for _ in range(9):
        held.heard(c, T0 - 5000, T0)
    assert held.worst() == {("H", "hl7"): -5000}


def test_a_channel_that_never_speaks_is_missed_too():
    held = Silences({("A", "HR"): 1.0, ("A", "Lactate"): 12.0}, now=T0)
    held.heard("A", {"HR", "Resp"}, T0 + 100)
    held.heard("A", {"HR"}, T0 + 50)
    assert held.told(T0 + 700) == {("A", "HR"): 600, ("A", "Lactate"): 700, ("A", "Resp"): 600}


def test_results_of_a_wrong_clock_are_flagged_and_the_replay_hears_it(tmp_path):
    intake = Intake(read_config({"sites": {"H": {"silence_hours": {"HR": 1.0}}}}))
    store = open_store(tmp_path / "s.db", partitions=2)
    for k in range(20):
        data = result_message("H", "P", [Result("8867-4", 80.0, "/min")], time=T0 + 60 * k,
                              control=str(k))  # fmt: skip
        message = Message.from_bytes(data)
        store.append([intake.hl7(message, data, T0 + 60 * k - 900)])
    send_ticks(store, T0 + 3600, everywhere=True)
    worker = Worker(store, make_fold(), name="w", ttl=3600)
    worker.keep_leases(now=True)
    while worker.work():
        pass
    assert store.state("H", "P").view["skewed"] == 12
    assert intake.skews.told() == {Sender("H", "hl7", "REPLAY|H"): Clock(pytest.approx(900), 20)}
    again = open_store(tmp_path / "again.db", partitions=2)
    rebuild(store, again, make_fold)
    assert again.fingerprint() == store.fingerprint()
    # Where time comes from the feed, there is no clock to compare with.
    deaf = Intake(read_config({"service": {"clock": "external"}}))
    deaf.hl7(message, data, 0.0)
    assert deaf.skews.told() == {}


def test_the_hour_that_autumn_repeats_is_two_hours(tmp_path):
    config = read_config({"sites": {"W": {"zone": "Europe/Berlin", "facilities": ["H"]}}})
    intake, store = Intake(config), open_store(tmp_path / "s.db", partitions=2)
    for number, hour in enumerate((0, 1)):
        # 02:30 by the ward's clock, twice: the receipt tells which one.
        received = datetime(2026, 10, 25, hour, 31, tzinfo=UTC).timestamp()
        text = (
            f"MSH|^~\\&|LAB|H|||20261025023000||ORU^R01|{number}|P|2.5\rPID|||P^^^^MR\r"
            f"OBR|1||{number}|PANEL|||20261025023000\r"
            f"OBX|1|NM|8867-4^^LN||{80 + number}|/min|||||F\r"
        )
        store.append([intake.hl7(Message(text), text.encode(), received)])
    items = [i for e in store.patient_events("W", "P") for i in e.body["items"]]
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    assert [i[3] for i in items] == [first, first + 3600]
