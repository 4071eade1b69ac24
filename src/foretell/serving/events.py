"""Events of the log, their natural keys, and what a message becomes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from foretell.data.clinical.feed import (
    RANKS,
    Measurement,
    Normaliser,
    OrderChange,
    Record,
    Refusal,
    VisitChange,
)

MEASURED, VISIT, ORDER, ACTION, TICK, MERGED, LADDER = (
    "measured", "visit", "order", "action", "tick", "merged", "ladder",
)  # fmt: skip


def digest(*parts: object) -> bytes:
    """16 bytes that stand for the parts: a natural key."""
    told = json.dumps([str(p) for p in parts], ensure_ascii=False)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:16]


def partition_of(site: str, patient: str, partitions: int) -> int:
    """The partition of a patient, the same on every machine."""
    return int.from_bytes(digest(site, patient)[:8], "big") % partitions


@dataclass(slots=True)
class NewEvent:
    """An event to be appended.

    Args:
        site: whose patient.
        patient: identifier; ``""`` for events of a whole partition, such as ticks.
        kind: one of this module's names.
        time: seconds since 1970, of the world, not of the machine.
        body: what happened, as JSON can hold it.
        items: (natural key, item): an item whose key is known is left out, and an event that has
            lost all its items is none.
        partition: for events without a patient.
    """

    site: str
    patient: str
    kind: str
    time: float
    body: dict[str, Any]
    items: list[tuple[bytes, Any]]
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log; ``seq`` orders a partition's events as they were committed."""

    seq: int
    partition: int
    site: str
    patient: str
    kind: str
    time: float
    body: dict[str, Any]
    received: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A part of a message that could not be used; ``body`` lets it be read again."""

    key: bytes
    site: str
    reason: str
    system: str
    code: str
    unit: str
    body: dict[str, Any] | None = None


@dataclass(slots=True)
class Delivery:
    """One message as it is made durable.

    Args:
        source: who sent it.
        control: the sender's number of it.
        content: hash of its content: the same number with other content is another message.
        kind: for counts.
        received: by this machine's clock; never read by the fold.
        events: what it says.
        quarantined: what of it could not be used.
    """

    source: str
    control: str
    content: bytes
    kind: str
    received: float
    events: list[NewEvent] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)


def events_of(
    records: Iterable[Record], normaliser: Normaliser
) -> tuple[list[NewEvent], list[Quarantined]]:
    """Events of the records of one message, one a patient and kind, and what is set aside.

    The natural key of a result is (site, patient, sender's group, specimen time, status, value):
    a re-delivery is known by it. Corrections hold their issue, so that one back to an old value
    is news.
    """
    events: list[NewEvent] = []
    aside: list[Quarantined] = []
    measured: dict[tuple[str, str, str | None], NewEvent] = {}
    for record in records:
        if isinstance(record, Refusal):
            aside.append(_refused(record, None))
        elif isinstance(record, Measurement):
            normal = normaliser(record)
            if isinstance(normal, Refusal):
                aside.append(_refused(normal, record))
                continue
            key = _key(record, normal.channel, normal.value)
            item = [
                digest(record.group).hex()[:16], normal.channel,
                None if normal.value != normal.value else normal.value,
                record.time, record.issued, RANKS[record.status],
            ]  # fmt: skip
            owner = (record.site, record.patient, record.visit)
            event = measured.get(owner)
            if event is None:
                told: dict[str, Any] = {"visit": record.visit}
                if record.described is not None:
                    told["described"] = [*record.described, record.issued]
                event = NewEvent(record.site, record.patient, MEASURED, record.issued, told, [])
                measured[owner] = event
                events.append(event)
            event.time = max(event.time, record.issued)
            event.items.append((key, item))
        elif isinstance(record, VisitChange):
            events.append(_visit(record))
        elif isinstance(record, OrderChange):
            body: dict[str, Any] = {
                "visit": record.visit, "codes": [list(c) for c in record.codes],
                "number": record.number, "status": record.status, "kind": record.kind,
            }  # fmt: skip
            named: list[object] = [record.number, record.status, record.time]
            if record.kind != "test":
                # Another drug under the same number is news, as is what is given after all;
                # a diagnosis comes again with every message of the visit.
                body |= {"issued": record.issued}
                again = record.issued if record.kind == "treatment" else ""
                named += [record.kind, body["codes"], again]
            meaning = normaliser.treatments(record.codes)
            if meaning is not None:
                body["means"] = meaning
            key = digest(ORDER, record.site, record.patient, *named)
            events.append(
                NewEvent(record.site, record.patient, ORDER, record.time, body, [(key, None)])
            )
    return events, aside


def _key(record: Measurement, channel: str, value: float) -> bytes:
    rank = RANKS[record.status]
    issue = record.issued if rank >= RANKS["corrected"] else ""
    return digest(
        MEASURED, record.site, record.patient, record.group, record.time, channel, rank,
        repr(value), issue,
    )  # fmt: skip


def _visit(record: VisitChange) -> NewEvent:
    body = {
        "visit": record.visit, "kind": record.kind, "admitted": record.admitted,
        "unit": record.unit, "age": record.age, "sex": record.sex,
    }  # fmt: skip
    if record.prior is not None:
        body["prior"] = record.prior
    if record.doubt is not None:
        body["doubt"] = record.doubt
    key = digest(VISIT, record.site, record.patient, record.time, json.dumps(body, sort_keys=True))
    return NewEvent(record.site, record.patient, VISIT, record.time, body, [(key, None)])


def _refused(refusal: Refusal, record: Measurement | None) -> Quarantined:
    body = None
    site = ""
    if record is not None:
        site = record.site
        body = {f: getattr(record, f) for f in record.__slots__}
        body["value"] = None if record.value != record.value else record.value
    told = (refusal.reason, refusal.where, refusal.system, refusal.code, refusal.unit)
    key = digest("quarantine", *told, json.dumps(body, sort_keys=True))
    return Quarantined(key, site, refusal.reason, refusal.system, refusal.code, refusal.unit, body)


def tick(partition: int, time: float) -> NewEvent:
    """An event that says what time it is: hours that end by then can be closed."""
    return NewEvent("", "", TICK, time, {}, [(digest(TICK, partition, time), None)], partition)


def ladder(partition: int, body: dict[str, Any], time: float, key: bytes) -> NewEvent:
    """Which model speaks in a partition from here on; ``key`` makes a repeat a no-op."""
    own = digest(LADDER, partition, key.hex())
    return NewEvent("", "", LADDER, time, body, [(own, None)], partition)


def action(site: str, patient: str, body: dict[str, Any], time: float, key: bytes) -> NewEvent:
    """What a clinician decided about a patient's alarms; ``key`` makes a repeat a no-op."""
    return NewEvent(site, patient, ACTION, time, body, [(key, None)])
