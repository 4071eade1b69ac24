"""The store in SQL that both engines understand; what differs is asked of the subclass."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from foretell.errors import ParameterError
from foretell.serving.errors import FencedError
from foretell.serving.events import MERGED, VISIT, Delivery, Event, NewEvent, partition_of
from foretell.serving.store.base import (
    Appended,
    Effects,
    Lease,
    OutboxRow,
    ScoreRow,
    StateRow,
    StayRow,
    Store,
)
from foretell.serving.store.governed_sql import SqlGoverned
from foretell.serving.store.linked_sql import NOTIFICATION, SqlLinked
from foretell.serving.store.tables import VERSION

LEASE_KINDS = ("work", "send", "notify")
_EVENT = "seq, part, site, patient, kind, time, body, received"
_OUTBOX = "site, patient, part, key, kind, time, body, id, attempts, created"


class SqlStore(SqlLinked, SqlGoverned, Store):
    """A store in a database; see :class:`Store`."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    # -------------------------------------------------- what engines do in their own way

    @abstractmethod
    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        """Runs a statement with ``?`` for values; returns its rows."""

    @abstractmethod
    def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once a row."""

    @abstractmethod
    def _new_keys(self, keys: Sequence[bytes]) -> set[bytes]:
        """Adds keys to those seen; returns the ones that were not."""

    @contextmanager
    @abstractmethod
    def _transaction(self, *, append: bool = False) -> Iterator[None]:
        """A transaction; ``append`` ones commit in the order in which they number events."""

    @abstractmethod
    def _now(self) -> float:
        """The store's clock, one for all that use it; for leases only."""

    _lock_rows = ""

    def _prepare(self) -> None:
        """Checks or writes what the store was made with, and its leases."""
        held = dict(self._run("SELECT name, value FROM meta"))
        if not held:
            rows = [("version", str(VERSION)), ("partitions", str(self.partitions))]
            self._many("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
            held = dict(self._run("SELECT name, value FROM meta"))
        if held.get("version") != str(VERSION):
            raise ParameterError(
                f"the store is of version {held.get('version')}, this foretell reads {VERSION}"
            )
        if held.get("partitions") != str(self.partitions):
            raise ParameterError(
                f"the store has {held.get('partitions')} partitions, not {self.partitions}: "
                "their number is fixed when it is made"
            )
        leases = [(kind, p) for kind in LEASE_KINDS for p in range(self.partitions)]
        self._many("INSERT INTO lease VALUES (?, ?, NULL, 0, 0, 0) ON CONFLICT DO NOTHING", leases)

    # -------------------------------------------------- the log

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
        merges = bool(self._run("SELECT 1 FROM alias LIMIT 1"))
        owners = {(e.site, e.patient) for e in events if e.patient} if merges else set()
        out: dict[tuple[str, str], str] = {}
        for site, patient in owners:
            name = self._current(site, patient)
            if name != patient:
                out[site, patient] = name
        return out

    def _current(self, site: str, patient: str) -> str:
        """The identifier that a patient has now, through any chain of merges."""
        passed = {patient}
        while True:
            found = self._run(
                "SELECT patient FROM alias WHERE site = ? AND prior = ?", (site, patient)
            )
            if not found or found[0][0] in passed:
                return patient
            patient = found[0][0]
            passed.add(patient)

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
            self._merge(event, patient, part, body, received, rows)
            return len(items)
        rows.append((part, event.site, patient, event.kind, event.time, received, _json(body)))
        return len(items)

    def _merge(
        self, event: NewEvent, patient: str, part: int, body: dict, received: float,
        rows: list[tuple],
    ) -> None:  # fmt: skip
        """Closes the retired identifier and hands its history to the one that stays."""
        site, prior = event.site, self._current(event.site, body["prior"])
        patient = self._current(site, patient)
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
        there = partition_of(site, prior, self.partitions)
        gone = _json({"into": True})
        rows.append((there, site, prior, MERGED, event.time, received, gone))
        told = _json({"history": history})
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

    # -------------------------------------------------- leases

    def acquire(self, kind: str, owner: str, ttl: float, most: int) -> list[Lease]:
        """See :class:`Store`."""
        with self._transaction():
            now = self._now()
            self._run(
                "UPDATE lease SET expires = ? WHERE kind = ? AND owner = ?",
                (now + ttl, kind, owner),
            )
            columns = "kind, part, token, applied"
            held = self._run(
                f"SELECT {columns} FROM lease WHERE kind = ? AND owner = ? ORDER BY part",
                (kind, owner),
            )
            if len(held) < most:
                free = self._run(
                    "SELECT part FROM lease WHERE kind = ? AND (owner IS NULL OR expires < ?) "
                    f"ORDER BY part LIMIT ?{self._lock_rows}",
                    (kind, now, most - len(held)),
                )
                for (part,) in free:
                    self._run(
                        "UPDATE lease SET owner = ?, token = token + 1, expires = ? "
                        "WHERE kind = ? AND part = ?",
                        (owner, now + ttl, kind, part),
                    )
                if free:
                    held = self._run(
                        f"SELECT {columns} FROM lease WHERE kind = ? AND owner = ? ORDER BY part",
                        (kind, owner),
                    )
        return [Lease(k, int(p), int(token), int(applied)) for k, p, token, applied in held]

    def share(self, kind: str) -> None:
        """See :class:`Store`."""
        with self._transaction():
            self._many(
                "INSERT INTO lease VALUES (?, 0, NULL, 0, 0, 0) ON CONFLICT DO NOTHING", [(kind,)]
            )

    def release(self, kind: str, owner: str, partitions: Sequence[int] | None = None) -> None:
        """See :class:`Store`."""
        with self._transaction():
            if partitions is None:
                self._run(
                    "UPDATE lease SET owner = NULL, expires = 0 WHERE kind = ? AND owner = ?",
                    (kind, owner),
                )
            for part in partitions or ():
                self._run(
                    "UPDATE lease SET owner = NULL, expires = 0 "
                    "WHERE kind = ? AND owner = ? AND part = ?",
                    (kind, owner, part),
                )

    def join(self, kind: str, owner: str, ttl: float) -> int:
        """See :class:`Store`."""
        with self._transaction():
            now = self._now()
            self._run("DELETE FROM worker WHERE kind = ? AND expires < ?", (kind, now))
            self._many(
                "INSERT INTO worker VALUES (?, ?, ?) ON CONFLICT (kind, name) "
                "DO UPDATE SET expires = excluded.expires",
                [(kind, owner, now + ttl)],
            )
            return int(self._run("SELECT COUNT(*) FROM worker WHERE kind = ?", (kind,))[0][0])

    def leave(self, kind: str, owner: str) -> None:
        """See :class:`Store`."""
        with self._transaction():
            self._run("DELETE FROM worker WHERE kind = ? AND name = ?", (kind, owner))

    def _fence(self, lease: Lease) -> None:
        found = self._run(
            "SELECT token FROM lease WHERE kind = ? AND part = ? AND owner IS NOT NULL"
            + (" FOR UPDATE" if self._lock_rows else ""),
            (lease.kind, lease.partition),
        )
        if not found or found[0][0] != lease.token:
            raise FencedError(f"another owner has partition {lease.partition} by now")

    # -------------------------------------------------- effects

    def commit(self, effects: Effects) -> None:
        """See :class:`Store`."""
        with self._transaction():
            for part in sorted(effects.leases):
                self._fence(effects.leases[part])
            self._many(
                "UPDATE lease SET applied = ? WHERE kind = ? AND part = ?",
                [(seq, "work", part) for part, seq in sorted(effects.applied.items())],
            )
            self._many(
                "INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (site, patient) "
                "DO UPDATE SET part = excluded.part, due = excluded.due, risk = excluded.risk, "
                "body = excluded.body, shown = excluded.shown",
                [
                    (s.site, s.patient, s.partition, s.due,
                     None if s.view is None else s.view.get("risk"), s.body,
                     None if s.view is None else _json(s.view))
                    for s in effects.states
                ],
            )  # fmt: skip
            self._many("DELETE FROM owed WHERE site = ? AND patient = ?", effects.paid)
            self._many(
                "INSERT INTO owed VALUES (?, ?, ?, ?) ON CONFLICT (site, patient) "
                "DO UPDATE SET hour = excluded.hour",
                [(s.site, s.patient, s.partition, s.owed) for s in effects.states if s.owed],
            )
            self._many(
                "INSERT INTO cell VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (site, patient, stay, hour) DO UPDATE SET body = excluded.body",
                [(c.site, c.patient, c.stay, c.hour, c.body) for c in effects.cells],
            )
            self._many(
                "INSERT INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (site, patient, stay, hour) DO UPDATE SET risk = excluded.risk, "
                "status = excluded.status, model = excluded.model, reason = excluded.reason, "
                "drivers = excluded.drivers, time = excluded.time",
                [
                    (s.site, s.patient, s.stay, s.hour, s.time, s.risk, s.issued, s.status,
                     s.model, s.reason, _json(s.drivers))
                    for s in effects.scores
                ],
            )  # fmt: skip
            now = self._now()
            self._many(
                "INSERT INTO outbox (part, site, patient, key, kind, time, body, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                [
                    (o.partition, o.site, o.patient, o.key, o.kind, o.time, _json(o.body), now)
                    for o in effects.outbox
                ],
            )
            self._keep_shadows(effects.shadows)
            self._keep_journal(effects.journal)

    def state(self, site: str, patient: str) -> StateRow | None:
        """See :class:`Store`."""
        sql = (
            "SELECT site, patient, part, body, due, shown FROM state WHERE site = ? AND patient = ?"
        )
        found = self._run(sql, (site, patient))
        return _state(found[0]) if found else None

    def cells(self, site: str, patient: str, stay: str) -> dict[int, bytes]:
        """See :class:`Store`."""
        sql = "SELECT hour, body FROM cell WHERE site = ? AND patient = ? AND stay = ?"
        return {int(h): bytes(body) for h, body in self._run(sql, (site, patient, stay))}

    def stays(self, partition: int) -> list[StayRow]:
        """See :class:`Store`."""
        sql = (
            "SELECT s.site, s.patient, s.due, s.risk, "
            "CASE WHEN s.shown LIKE ? OR s.shown LIKE ? THEN 1 ELSE 0 END, o.hour "
            "FROM state s LEFT JOIN owed o ON o.site = s.site AND o.patient = s.patient "
            "WHERE s.part = ? AND (s.due IS NOT NULL OR o.hour IS NOT NULL)"
        )
        stands = [f'%"policy":"{status}"%' for status in ("alarmed", "snoozed")]
        found = self._run(sql, (*stands, partition))
        return [
            StayRow(site, patient, due, risk, bool(alarmed), owed)
            for site, patient, due, risk, alarmed, owed in found
        ]

    def anything_due(self, time: float) -> list[int]:
        """See :class:`Store`."""
        found = self._run("SELECT DISTINCT part FROM state WHERE due <= ?", (time,))
        return sorted(int(r[0]) for r in found)

    # -------------------------------------------------- what is read

    def views(self, site: str | None = None) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        sql = "SELECT shown FROM state WHERE due IS NOT NULL AND shown IS NOT NULL"
        rows = self._run(sql + (" AND site = ?" if site else ""), (site,) if site else ())
        shown = [json.loads(r[0]) for r in rows]
        return sorted(
            shown, key=lambda v: (-(v["risk"] if v["risk"] is not None else -1.0), v["stay"])
        )

    def scores(self, site: str, patient: str, stay: str | None = None) -> list[ScoreRow]:
        """See :class:`Store`."""
        sql = (
            "SELECT site, patient, stay, hour, time, risk, issued, status, model, reason, drivers "
            "FROM score WHERE site = ? AND patient = ?"
        )
        values = [site, patient]
        if stay is not None:
            sql += " AND stay = ?"
            values.append(stay)
        rows = self._run(sql + " ORDER BY stay, hour", values)
        out = []
        for r in rows:
            drivers = tuple((str(n), float(v)) for n, v in json.loads(r[10]))
            out.append(ScoreRow(*(*r[:10], drivers)))
        return out

    def outbox(
        self, partition: int, now: float, limit: int, *, notifications: bool = False
    ) -> list[OutboxRow]:
        """See :class:`Store`."""
        which = "=" if notifications else "<>"
        sql = (
            f"SELECT {_OUTBOX} FROM outbox o WHERE part = ? AND status = 'waiting' AND due <= ? "
            f"AND kind {which} '{NOTIFICATION}' "
            "AND NOT EXISTS (SELECT 1 FROM outbox b WHERE b.status = 'waiting' "
            "AND b.site = o.site AND b.patient = o.patient AND b.id < o.id) ORDER BY id LIMIT ?"
        )
        return [_outbox(r) for r in self._run(sql, (partition, now, limit))]

    def sent(
        self, lease: Lease, row: int, *, error: str | None = None, retry: float | None = None
    ) -> None:
        """See :class:`Store`."""
        status = "sent" if error is None else ("dead" if retry is None else "waiting")
        with self._transaction():
            self._fence(lease)
            self._run(
                "UPDATE outbox SET status = ?, error = ?, due = ?, attempts = attempts + 1 "
                "WHERE id = ?",
                (status, error, 0.0 if retry is None else retry, row),
            )

    def notes(self, after: int, limit: int) -> list[OutboxRow]:
        """See :class:`Store`."""
        where = "id > ? AND kind <> ? ORDER BY id LIMIT ?"
        return self.notes_where(where, (after, NOTIFICATION, limit))

    def notes_where(self, where: str, values: Sequence[Any]) -> list[OutboxRow]:
        """Outbox rows by a condition of this package."""
        sql = f"SELECT {_OUTBOX} FROM outbox WHERE {where}"
        return [_outbox(r) for r in self._run(sql, values)]

    def last_note(self) -> int:
        """See :class:`Store`."""
        return int(self._run("SELECT COALESCE(MAX(id), 0) FROM outbox")[0][0])

    def notes_of(self, site: str, patient: str, limit: int = 1000) -> list[OutboxRow]:
        """See :class:`Store`."""
        sql = f"SELECT {_OUTBOX} FROM outbox WHERE site = ? AND patient = ? ORDER BY id LIMIT ?"
        return [_outbox(r) for r in self._run(sql, (site, patient, limit))]

    def dead(self, limit: int = 100) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        names = ("id", "site", "kind", "time", "attempts", "error")
        sql = f"SELECT {', '.join(names)} FROM outbox WHERE status = 'dead' ORDER BY id LIMIT ?"
        return [dict(zip(names, r, strict=True)) for r in self._run(sql, (limit,))]

    def revive(self, row: int) -> bool:
        """See :class:`Store`."""
        with self._transaction():
            sql = "SELECT 1 FROM outbox WHERE id = ? AND status = 'dead'"
            if not self._run(sql, (row,)):
                return False
            self._run(
                "UPDATE outbox SET status = 'waiting', attempts = 0, due = 0 WHERE id = ?", (row,)
            )
            return True

    def quarantine(self, limit: int = 100) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        names = ("site", "reason", "system", "code", "unit")
        columns = ", ".join(names)
        sql = (
            f"SELECT {columns}, COUNT(*), MAX(received) FROM quarantine GROUP BY {columns} "
            f"ORDER BY COUNT(*) DESC, {columns} LIMIT ?"
        )
        out = []
        for r in self._run(sql, (limit,)):
            out.append(dict(zip((*names, "count", "last"), r, strict=True)))
        return out

    def take_quarantined(self, system: str, code: str) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        sql = (
            "SELECT body FROM quarantine WHERE system = ? AND code = ? AND body IS NOT NULL "
            "ORDER BY received"
        )
        return [json.loads(r[0]) for r in self._run(sql, (system, code))]

    def drop_quarantined(self, system: str, code: str) -> int:
        """See :class:`Store`."""
        with self._transaction():
            where = "FROM quarantine WHERE system = ? AND code = ? AND body IS NOT NULL"
            count = int(self._run(f"SELECT COUNT(*) {where}", (system, code))[0][0])
            self._run(f"DELETE {where}", (system, code))
            return count

    # -------------------------------------------------- audit and counts

    def audit(self, row: Mapping[str, Any]) -> str:
        """See :class:`Store`."""
        return self.record("audit", row)

    def audit_rows(self, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        return self.recorded("audit", after, limit)

    def counts(self) -> dict[str, float]:
        """See :class:`Store`."""
        now = self._now()
        found = {
            "events": self.head(),
            "partitions": self.partitions,
            "stays": self._run("SELECT COUNT(*) FROM state WHERE due IS NOT NULL")[0][0],
            "quarantined": self._run("SELECT COUNT(*) FROM quarantine")[0][0],
            "owned": self._run(
                "SELECT COUNT(*) FROM lease WHERE kind = 'work' AND owner IS NOT NULL "
                "AND expires >= ?", (now,),
            )[0][0],
            "workers": self._run("SELECT COUNT(*) FROM worker WHERE expires >= ?", (now,))[0][0],
            "dead": self._run("SELECT COUNT(*) FROM outbox WHERE status = 'dead'")[0][0],
            "overloaded": self._run(
                "SELECT COUNT(*) FROM journal j WHERE kind = 'owe' AND NOT EXISTS "
                "(SELECT 1 FROM journal x WHERE x.part = j.part AND x.id > j.id "
                "AND x.kind IN ('owe', 'settle'))"
            )[0][0],
            "recompute_owed": self._run("SELECT COUNT(*) FROM owed")[0][0],
        }  # fmt: skip
        waiting, oldest = self._run(
            "SELECT COUNT(*), MIN(created) FROM outbox WHERE status = 'waiting'"
        )[0]
        found |= {"outbox": waiting, "outbox_age": max(now - oldest, 0.0) if waiting else 0.0}
        lag = self._run(
            "SELECT MIN(e.received) FROM lease l JOIN event e ON e.seq = (SELECT MIN(seq) "
            "FROM event x WHERE x.part = l.part AND x.seq > l.applied) WHERE l.kind = 'work'"
        )[0][0]
        found["lag"] = 0.0 if lag is None else max(now - lag, 0.0)
        heart = self._run("SELECT value FROM meta WHERE name = 'heartbeat'")
        found["heartbeat_age"] = now - float(heart[0][0]) if heart else float("inf")
        return {name: float(value) for name, value in found.items()}

    def mark(self, name: str) -> str | None:
        """See :class:`Store`."""
        found = self._run("SELECT value FROM meta WHERE name = ?", (name,))
        return str(found[0][0]) if found else None

    def set_mark(self, name: str, value: str, lease: Lease | None = None) -> None:
        """See :class:`Store`."""
        with self._transaction():
            if lease is not None:
                self._fence(lease)
            self._set_mark(name, value)

    def change_mark(self, name: str, change: Callable[[str | None], str]) -> None:
        """See :class:`Store`."""
        # One after another, as appends: there may be no row yet that could be locked.
        with self._transaction(append=True):
            self._set_mark(name, change(self.mark(name)))

    def _set_mark(self, name: str, value: str) -> None:
        self._many(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) "
            "DO UPDATE SET value = excluded.value",
            [(name, value)],
        )

    def beat(self) -> None:
        """See :class:`Store`."""
        self.set_mark("heartbeat", repr(self._now()))

    def fingerprint(self) -> dict[str, str]:
        """See :class:`Store`."""
        queries = {
            "scores": "SELECT site, patient, stay, hour, time, risk, issued, status, model, "
            "reason, drivers FROM score",
            # Notifications are no part of the fold: they depend on who listened.
            "outbox": "SELECT site, patient, key, kind, time, body FROM outbox "
            f"WHERE kind <> '{NOTIFICATION}'",
            "states": "SELECT site, patient, part, due, body, shown FROM state",
            "shadows": "SELECT * FROM shadow",
        }
        out = {}
        for name, sql in queries.items():
            rows = sorted(repr(tuple(map(_plain, r))) for r in self._run(sql))
            out[name] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        return out


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _event(r: tuple) -> Event:
    return Event(r[0], r[1], r[2], r[3], r[4], r[5], json.loads(r[6]), r[7])


def _state(r: tuple) -> StateRow:
    return StateRow(r[0], r[1], r[2], bytes(r[3]), r[4], None if r[5] is None else json.loads(r[5]))


def _outbox(r: tuple) -> OutboxRow:
    site, patient, part, key, kind, time, body, number, attempts, created = r
    return OutboxRow(
        site, patient, part, key, kind, time, json.loads(body), number, attempts, created
    )
