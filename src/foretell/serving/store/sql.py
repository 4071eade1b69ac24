"""The store in SQL that both engines understand; what differs is asked of the subclass."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from foretell.errors import ParameterError
from foretell.serving.store.base import Effects, Store
from foretell.serving.store.governed_sql import SqlGoverned
from foretell.serving.store.linked_sql import NOTIFICATION, SqlLinked
from foretell.serving.store.log_sql import SqlLog
from foretell.serving.store.outbox_sql import SqlOutbox
from foretell.serving.store.state_sql import SqlStates
from foretell.serving.store.statements import as_json
from foretell.serving.store.tables import VERSION

LEASE_KINDS = ("work", "send", "notify")


class SqlStore(SqlLog, SqlOutbox, SqlStates, SqlLinked, SqlGoverned, Store):
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
                     None if s.view is None else as_json(s.view))
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
                     s.model, s.reason, as_json(s.drivers))
                    for s in effects.scores
                ],
            )  # fmt: skip
            now = self._now()
            self._many(
                "INSERT INTO outbox (part, site, patient, key, kind, time, body, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                [
                    (o.partition, o.site, o.patient, o.key, o.kind, o.time, as_json(o.body), now)
                    for o in effects.outbox
                ],
            )
            self._keep_shadows(effects.shadows)
            self._keep_journal(effects.journal)

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
