"""The log of events, and what was set aside of deliveries, in SQL that both engines understand."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from foretell.serving.events import MERGED, VISIT, Delivery, Event, NewEvent, partition_of
from foretell.serving.store.base import Appended
from foretell.serving.store.statements import Statements, as_json, within

# SQLite of old takes at most 999 values in a statement.
_AT_ONCE = 500
_EVENT = "seq, part, site, patient, kind, time, body, received"


class SqlLog(Statements):
    """See :class:`~foretell.serving.store.base.Store`."""

    def append(self, deliveries: Sequence[Delivery]) -> list[Appended]:
        """See :class:`Store`."""
        with self._transaction(append=True):
            return self._append(deliveries)

    def _append(self, deliveries: Sequence[Delivery]) -> list[Appended]:
        out: list[Appended] = []
        fresh: list[Delivery | None] = []
        known: set[tuple[str, str, bytes]] = set()
        for d in deliveries:
            identity = (d.source, d.control, d.content)
            unknown = identity not in known and not self._run(
                "SELECT 1 FROM message WHERE source = ? AND control = ? AND content = ?", identity
            )
            known.add(identity)
            fresh.append(d if unknown else None)
        kept = [d for d in fresh if d is not None]
        self._many(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?)",
            [(d.source, d.control, d.content, d.kind, d.received) for d in kept],
        )
        renamed = self._renamed(e for d in kept for e in d.events)
        keys = [key for d in kept for e in d.events for key, _ in e.items]
        unseen = self._new_keys(keys)
        rows: list[tuple] = []
        for delivery in fresh:
            if delivery is None:
                out.append(Appended(True, 0, 0, 0))
                continue
            total = sum(len(e.items) for e in delivery.events)
            new = sum(
                self._row(e, delivery.received, unseen, renamed, rows) for e in delivery.events
            )
            out.append(Appended(False, new, total - new, len(delivery.quarantined)))
        self._insert_events(rows)
        self._many(
            "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (q.key, q.site, q.reason, q.system, q.code, q.unit, d.received,
                 None if q.body is None else json.dumps(q.body))
                for d in kept for q in d.quarantined
            ],
        )  # fmt: skip
        return out

    def append_events(self, events: Sequence[NewEvent]) -> int:
        """See :class:`Store`."""
        with self._transaction(append=True):
            renamed = self._renamed(events)
            unseen = self._new_keys([key for e in events for key, _ in e.items])
            rows: list[tuple] = []
            now = self._now()
            for event in events:
                self._row(event, now, unseen, renamed, rows)
            self._insert_events(rows)
            return len(rows)

    def _renamed(self, events: Any) -> dict[tuple[str, str], str]:
        """Identifiers that merges have retired, among those of the events."""
        owners: dict[str, set[str]] = {}
        for event in events:
            if event.patient:
                owners.setdefault(event.site, set()).add(event.patient)
        return {
            (site, name): now
            for site, names in owners.items()
            for name, now in self._current(site, names).items()
            if now != name
        }

    def current(self, site: str, patient: str) -> str:
        """See :class:`Store`."""
        return self._current(site, {patient}).get(patient, patient)

    def _current(self, site: str, names: set[str]) -> dict[str, str]:
        """Who those of the names are now that merges have retired, through any chain.

        A statement for all of a link: a feed of FHIR names nearly everybody by what is retired.
        """
        links: dict[str, str] = {}
        asked = names
        while asked:
            found = self._links(site, sorted(asked))
            links |= found
            asked = set(found.values()) - links.keys()
        out = {}
        for name in names & links.keys():
            passed, now = {name}, name
            # Merges in a circle end where they began.
            while (after := links.get(now)) is not None and after not in passed:
                passed.add(after)
                now = after
            out[name] = now
        return out

    def _links(self, site: str, names: Sequence[str]) -> dict[str, str]:
        out: dict[str, str] = {}
        for begin in range(0, len(names), _AT_ONCE):
            part = names[begin : begin + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT prior, patient FROM alias WHERE site = ? AND prior IN ({marks})"
            out |= dict(self._run(sql, (site, *part)))
        return out

    def _row(
        self, event: NewEvent, received: float, unseen: set[bytes],
        renamed: dict[tuple[str, str], str], rows: list[tuple],
    ) -> int:  # fmt: skip
        """Adds the event's row if something of it is new; returns how many of its items are."""
        items = []
        for key, item in event.items:
            if key in unseen:
                unseen.discard(key)
                items.append(item)
        if not items:
            return 0
        patient = renamed.get((event.site, event.patient), event.patient)
        body = dict(event.body)
        if items[0] is not None:
            body["items"] = items
        part = event.partition
        if part is None:
            part = partition_of(event.site, patient, self.partitions)
        if event.kind == VISIT and body.get("kind") == "merge":
            self._merge(event, patient, part, body, received, renamed, rows)
            return len(items)
        rows.append((part, event.site, patient, event.kind, event.time, received, as_json(body)))
        return len(items)

    def _merge(
        self, event: NewEvent, patient: str, part: int, body: dict, received: float,
        renamed: dict[tuple[str, str], str], rows: list[tuple],
    ) -> None:  # fmt: skip
        """Closes the retired identifier and hands its history to the one that stays."""
        site, prior = event.site, self.current(event.site, body["prior"])
        patient = self.current(site, patient)
        if prior == patient:
            return
        # What this very transaction holds of the prior patient must be moved, too.
        self._insert_events(rows)
        rows.clear()
        history = []
        for past in self.patient_events(site, prior):
            if past.kind == MERGED and "into" in past.body:
                continue
            history.append([past.kind, past.time, past.body])
        self._run("DELETE FROM alias WHERE site = ? AND prior = ?", (site, patient))
        self._many(
            "INSERT INTO alias VALUES (?, ?, ?) ON CONFLICT (site, prior) "
            "DO UPDATE SET patient = excluded.patient",
            [(site, prior, patient)],
        )
        # So must what comes after it: many messages are one transaction.
        gone_too = [o for o, name in renamed.items() if (o[0], name) == (site, prior)]
        renamed |= dict.fromkeys([(site, prior), *gone_too], patient)
        there = partition_of(site, prior, self.partitions)
        gone = as_json({"into": True})
        rows.append((there, site, prior, MERGED, event.time, received, gone))
        told = as_json({"history": history})
        rows.append((part, site, patient, MERGED, event.time, received, told))

    def _insert_events(self, rows: Sequence[tuple]) -> None:
        self._many(
            "INSERT INTO event (part, site, patient, kind, time, received, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def head(self) -> int:
        """See :class:`Store`."""
        return int(self._run("SELECT COALESCE(MAX(seq), 0) FROM event")[0][0])

    def events(self, partition: int, after: int, limit: int) -> list[Event]:
        """See :class:`Store`."""
        sql = f"SELECT {_EVENT} FROM event WHERE part = ? AND seq > ? ORDER BY seq LIMIT ?"
        return [_event(r) for r in self._run(sql, (partition, after, limit))]

    def patient_events(self, site: str, patient: str, until: int | None = None) -> list[Event]:
        """See :class:`Store`."""
        sql = f"SELECT {_EVENT} FROM event WHERE site = ? AND patient = ? AND seq <= ? ORDER BY seq"
        last = 2**62 if until is None else until
        return [_event(r) for r in self._run(sql, (site, patient, last))]

    def all_events(self, after: int, limit: int) -> list[Event]:
        """See :class:`Store`."""
        sql = f"SELECT {_EVENT} FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
        return [_event(r) for r in self._run(sql, (after, limit))]

    # -------------------------------------------------- what was set aside

    def quarantine(self, limit: int = 100, sites: Collection[str] = ()) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        theirs, values = within(sites)
        names = ("site", "reason", "system", "code", "unit")
        columns = ", ".join(names)
        sql = (
            f"SELECT {columns}, COUNT(*), MAX(received) FROM quarantine WHERE 1 = 1{theirs} "
            f"GROUP BY {columns} ORDER BY COUNT(*) DESC, {columns} LIMIT ?"
        )
        out = []
        for r in self._run(sql, (*values, limit)):
            out.append(dict(zip((*names, "count", "last"), r, strict=True)))
        return out

    def take_quarantined(
        self, system: str, code: str, sites: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        where, values = _waiting(system, code, sites)
        return [
            json.loads(r[0]) for r in self._run(f"SELECT body {where} ORDER BY received", values)
        ]

    def drop_quarantined(self, system: str, code: str, sites: Collection[str] = ()) -> int:
        """See :class:`Store`."""
        with self._transaction():
            where, values = _waiting(system, code, sites)
            count = int(self._run(f"SELECT COUNT(*) {where}", values)[0][0])
            self._run(f"DELETE {where}", values)
            return count


def _waiting(system: str, code: str, sites: Collection[str]) -> tuple[str, tuple[str, ...]]:
    theirs, values = within(sites)
    where = f"FROM quarantine WHERE system = ? AND code = ? AND body IS NOT NULL{theirs}"
    return where, (system, code, *values)


def _event(r: tuple) -> Event:
    return Event(r[0], r[1], r[2], r[3], r[4], r[5], json.loads(r[6]), r[7])
