"""What is sent, in SQL that both engines understand."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from foretell.serving.store.base import Lease, OutboxRow
from foretell.serving.store.lease_sql import SqlLeases
from foretell.serving.store.linked_sql import NOTIFICATION
from foretell.serving.store.statements import within

_OUTBOX = "site, patient, part, key, kind, time, body, id, attempts, created"


class SqlOutbox(SqlLeases):
    """See :class:`~foretell.serving.store.base.Store`."""

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

    def dead(self, limit: int = 100, sites: Collection[str] = ()) -> list[dict[str, Any]]:
        """See :class:`Store`."""
        theirs, values = within(sites)
        names = ("id", "site", "kind", "time", "attempts", "error")
        where = f"status = 'dead'{theirs} ORDER BY id LIMIT ?"
        rows = self._run(f"SELECT {', '.join(names)} FROM outbox WHERE {where}", (*values, limit))
        return [dict(zip(names, r, strict=True)) for r in rows]

    def revive(self, row: int, sites: Collection[str] = ()) -> bool:
        """See :class:`Store`."""
        theirs, values = within(sites)
        with self._transaction():
            sql = f"SELECT 1 FROM outbox WHERE id = ? AND status = 'dead'{theirs}"
            if not self._run(sql, (row, *values)):
                return False
            self._run(
                "UPDATE outbox SET status = 'waiting', attempts = 0, due = 0 WHERE id = ?", (row,)
            )
            return True


def _outbox(r: tuple) -> OutboxRow:
    site, patient, part, key, kind, time, body, number, attempts, created = r
    return OutboxRow(
        site, patient, part, key, kind, time, json.loads(body), number, attempts, created
    )
