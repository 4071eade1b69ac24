"""Leases, who works, and marks, in SQL that both engines understand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foretell.serving.errors import FencedError
from foretell.serving.store.base import Lease
from foretell.serving.store.statements import Statements


class SqlLeases(Statements):
    """See :class:`~foretell.serving.store.base.Store`."""

    _lock_rows = ""

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

    # -------------------------------------------------- marks

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
