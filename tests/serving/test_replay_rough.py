"""Rough feeds: what they say in the end is what the stays hold, and what a service makes of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from foretell.data.clinical.feed import stays_from_feed
from foretell.data.clinical.fhir import FhirError, FhirReader
from foretell.data.clinical.hl7 import Hl7Error, Hl7Reader, Message
from foretell.errors import ParameterError
from foretell.serving.api.fhir import parsed
from foretell.serving.config import Config
from foretell.serving.ingest import Intake
from foretell.serving.rough_feed import Roughness, Sending, plain_names, rough_feed
from foretell.serving.store import open_store

from .waiting import free_port, settled, until

ROUGH = Roughness(repeated=0.1, late=0.2, corrected=0.03, damaged=0.05, converted=0.3,
                  zones={"SIM": "Europe/Berlin"})  # fmt: skip
# The evenings before the clock goes forward, and back.
SPRING = datetime(2026, 3, 28, 18, tzinfo=UTC).timestamp()
AUTUMN = datetime(2026, 10, 24, 18, tzinfo=UTC).timestamp()


def described(stays, count: int):
    """Stays of which a table knows what a feed tells, and no more."""
    age = np.minimum(np.floor(stays.number("age")), 90.0)
    return plain_names(replace(stays, numbers={"age": age})).select(slice(count))


def read(one: Sending) -> list:
    if one.door == "fhir":
        return FhirReader(one.site).read(json.loads(one.content))
    reader = Hl7Reader(one.site, ZoneInfo("Europe/Berlin"))
    # Who reads it is told when it came: which of two equal hours it was is clear from that.
    return reader.read(Message.from_bytes(one.content), received=one.time)


@pytest.mark.parametrize("begin", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_a_rough_feed_ends_with_what_its_stays_hold(deployed, begin):
    stays = described(deployed[2], 6)
    feed = rough_feed(stays, ROUGH, begin=begin, spread=12, site="SIM", seed=7)
    assert [s.time for s in feed] == sorted(s.time for s in feed)
    assert {s.door for s in feed} == {"hl7", "fhir"} and not all(s.good for s in feed)
    known = stays_from_feed([r for s in feed if s.good for r in read(s)], schema=stays.schema)
    assert len(known) == len(stays)
    order = {str(p).partition("/")[2]: i for i, p in enumerate(known.patients)}
    for i, patient in enumerate(stays.patients):
        mine = known.select([order[str(patient)]])
        assert mine.lengths[0] == stays.lengths[i]
        np.testing.assert_allclose(mine.matrix(), stays.select([i]).matrix(), rtol=1e-6)
        assert mine.number("age")[0] == stays.number("age")[i]


def test_what_is_rough_is_as_asked(deployed):
    stays = described(deployed[2], 10)
    plain = Roughness(fhir=0, repeated=0, late=0, corrected=0, damaged=0, converted=0)
    orderly = rough_feed(stays, plain, site="SIM")
    assert len({s.name for s in orderly}) == len(orderly)
    count = len(orderly) - 2 * len(stays)
    again = rough_feed(stays, replace(plain, repeated=0.5), site="SIM", seed=1)
    repeated = sum(n - 1 for n in Counter(s.content for s in again).values())
    assert 0.3 * count < repeated < 0.7 * count
    damaged = [s for s in rough_feed(stays, replace(plain, damaged=0.3, fhir=0.5), site="SIM")
               if not s.good]  # fmt: skip
    assert 0.15 * count < len(damaged) < 0.45 * count
    intake = Intake(Config())
    for one in damaged:
        with pytest.raises((Hl7Error, FhirError)):
            if one.door == "fhir":
                intake.fhir(parsed(one.content), one.site, one.time)
            else:
                intake.hl7(Message.from_bytes(one.content), one.content, one.time)
    assert rough_feed(stays, ROUGH, seed=3) == rough_feed(stays, ROUGH, seed=3)
    with pytest.raises(ParameterError, match="first hour"):
        rough_feed(replace(stays, starts=np.full(len(stays), 2)))


def test_the_service_says_of_a_rough_feed_what_the_tables_say(
    deployed, tmp_path, launch, monkeypatch
):
    place = Path(__file__).parents[2] / "benchmarks"
    if not (place / "_acceptance.py").is_file():
        pytest.skip("the benchmarks are not here")
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    from _acceptance import FakeEhr, Sender, compared, logged, told_in_order

    folder, deployment, stays = deployed
    stays = described(stays, 10)
    feed = rough_feed(stays, ROUGH, begin=SPRING, spread=12, site="SIM", seed=5)
    # The very first request fails, however soon the others come.
    ehr = FakeEhr(fails=2.0, late=0.8, seed=1)
    ports = {"mllp": free_port(), "http": free_port()}
    config, token = tmp_path / "c.toml", hashlib.sha256(b"test-token").hexdigest()
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\nclock = "external"\n'
        f"tick_seconds = 0.2\n[mllp]\nport = {ports['mllp']}\n[http]\nport = {ports['http']}\n"
        f'[[tokens]]\nname = "t"\nsha256 = "{token}"\nscopes = ["admin", "ingest", "read"]\n'
        '[sites.SIM]\nzone = "Europe/Berlin"\n'
        f'[[sinks]]\nname = "ehr"\nkind = "fhir"\nurl = "{ehr.address}"\n'
        "timeout_seconds = 0.4\nattempts = 1000\nlongest_pause_seconds = 0.3\n"
    )
    running = [launch(config, run=folder).wait()]
    sender = Sender(ports, "test-token", seed=2)

    def kill(number: int) -> None:
        if number == len(feed) // 2:
            running.pop().kill()
            running.append(launch(config, run=folder).wait())

    store = open_store(str(tmp_path / "s.db"), partitions=2)
    try:
        sender.play(feed, meanwhile=kill)
        settled(store)
        until(lambda: store.counts()["outbox"] == 0)
    finally:
        sender.close()
        ehr.close()
    told = compared(store, deployment, stays, "SIM")
    assert not sender.wrong and sender.reconnected
    assert sender.segments["two in a segment"] and sender.segments["byte after byte"]
    assert {(s.door, s.site, s.name) for s in feed if s.good} == sender.acknowledged
    assert sender.acknowledged <= logged(store)
    assert told["hours_that_differ"] == 0, told["first"]
    assert told["scores_issued"] > 50 and told["most_difference"] <= 1e-6
    assert told["alarms_of_the_tables"] > 0
    assert told["alarms_missing"] == told["alarms_too_many"] == told["alarms_doubled"] == 0
    # The receiver failed, answered too late, and has each alarm once all the same.
    assert ehr.failures and max(ehr.created.values()) == 1
    assert {n for kind, n in ehr.created if kind == "Flag"} == set(told["alarm_keys"])
    assert dict(ehr.order) == told_in_order(store)
    store.close()
