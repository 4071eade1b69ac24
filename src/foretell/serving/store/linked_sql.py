"""Subscriptions and used tokens in SQL that both engines understand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretell.serving.events import partition_of
from foretell.serving.store.linked import Heard, LinkedStore, Occurrence, SubscriptionRow
from foretell.serving.store.statements import Statements

if TYPE_CHECKING:
    from foretell.serving.store.base import Lease, OutboxRow

_SUBSCRIPTION = (
    "id, owner, part, status, error, body, version, since, changed, events, noted, period"
)
_FOLDED = "('alarm', 'correction', 'score')"
_MOST_RANGES = 1000
NOTIFICATION = "notification"


def owner_of(name: str) -> str:
    """What stands for the patient in outbox rows of a subscription: it orders them."""
    return f"Subscription/{name}"


class SqlLinked(Statements, LinkedStore):
    """See :class:`LinkedStore`."""

    _lock_rows: str

    if TYPE_CHECKING:

        def _fence(self, lease: Lease) -> None:
            raise NotImplementedError

        def notes_where(self, where: str, values: Sequence[Any]) -> list[OutboxRow]:
            """Outbox rows by a condition."""
            raise NotImplementedError

    # -------------------------------------------------- tokens

    def use_token(self, issuer: str, token: str, expires: float) -> bool:
        """See :class:`LinkedStore`."""
        with self._transaction():
            self._run("DELETE FROM used_token WHERE expires < ?", (self._now() - 60,))
            # Both engines tell a repeat by returning no row; a race is settled by the key.
            return bool(
                self._run(
                    "INSERT INTO used_token VALUES (?, ?, ?) ON CONFLICT DO NOTHING "
                    "RETURNING token",
                    (issuer, token, expires),
                )
            )

    # -------------------------------------------------- subscriptions of others

    def note(self, key: str) -> OutboxRow | None:
        """See :class:`LinkedStore`."""
        found = self.notes_where("key = ?", (key,))
        return found[0] if found else None

    def add_subscription(self, row: SubscriptionRow) -> SubscriptionRow:
        """See :class:`LinkedStore`."""
        with self._transaction():
            now = self._now()
            self._many(
                "INSERT INTO subscription VALUES (?, ?, ?, ?, NULL, ?, 1, ?, ?, 0, 0, ?, ?)",
                [(row.id, row.owner, partition_of("", owner_of(row.id), self.partitions),
                  row.status, json.dumps(row.body), now, now, row.period,
                  None if row.period is None else now + row.period)],
            )  # fmt: skip
            if row.status == "requested":
                self._greet(row.id, now)
            made = self._subscription(row.id)
            assert made is not None
            return made

    def subscription(self, name: str) -> SubscriptionRow | None:
        """See :class:`LinkedStore`."""
        return self._subscription(name)

    def _subscription(self, name: str, *, lock: bool = False) -> SubscriptionRow | None:
        hold = " FOR UPDATE" if lock and self._lock_rows else ""
        found = self._run(f"SELECT {_SUBSCRIPTION} FROM subscription WHERE id = ?{hold}", (name,))
        return _row(found[0]) if found else None

    def subscriptions(
        self, *, owner: str | None = None, statuses: Sequence[str] = ()
    ) -> list[SubscriptionRow]:
        """See :class:`LinkedStore`."""
        wheres, values = ["1 = 1"], []
        if owner is not None:
            wheres.append("owner = ?")
            values.append(owner)
        if statuses:
            wheres.append(f"status IN ({', '.join('?' * len(statuses))})")
            values.extend(statuses)
        sql = f"SELECT {_SUBSCRIPTION} FROM subscription WHERE {' AND '.join(wheres)} ORDER BY id"
        return [_row(r) for r in self._run(sql, values)]

    def change_subscription(
        self, name: str, body: Mapping[str, Any], status: str, period: float | None
    ) -> SubscriptionRow | None:
        """See :class:`LinkedStore`."""
        with self._transaction():
            held = self._subscription(name, lock=True)
            if held is None:
                return None
            self._unsend(held)
            now = self._now()
            beat = None if period is None else now + period
            self._run(
                "UPDATE subscription SET body = ?, status = ?, error = NULL, period = ?, beat = ?, "
                "version = version + 1, changed = ? WHERE id = ?",
                (json.dumps(body), status, period, beat, now, name),
            )
            if status == "off":
                # What happens while it is off is none of its events.
                self._run("UPDATE subscription SET noted = events WHERE id = ?", (name,))
            elif held.status == "off":
                self._run("UPDATE subscription SET since = ? WHERE id = ?", (now, name))
            if status == "requested":
                self._greet(name, now)
            return self._subscription(name)

    def drop_subscription(self, name: str) -> bool:
        """See :class:`LinkedStore`."""
        with self._transaction():
            if self._subscription(name, lock=True) is None:
                return False
            self._run("DELETE FROM subscribed WHERE subscription = ?", (name,))
            self._run("DELETE FROM outbox WHERE site = '' AND patient = ?", (owner_of(name),))
            self._run("DELETE FROM subscription WHERE id = ?", (name,))
            return True

    def greet_subscription(self, name: str) -> None:
        """See :class:`LinkedStore`."""
        with self._transaction():
            self._greet(name, self._now())

    def _greet(self, name: str, now: float) -> None:
        held = self._subscription(name)
        if held is not None:
            told = {"type": "handshake", "version": held.version}
            self._put(held, f"handshake/{held.version}", told, now)

    def _put(self, held: SubscriptionRow, key: str, told: dict[str, Any], now: float) -> None:
        body = json.dumps({"subscription": held.id, **told}, separators=(",", ":"))
        self._run(
            "INSERT INTO outbox (part, site, patient, key, kind, time, body, created) "
            "VALUES (?, '', ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            (held.partition, owner_of(held.id), f"{owner_of(held.id)}/{key}", NOTIFICATION, now,
             body, now),
        )  # fmt: skip

    def _send(self, held: SubscriptionRow, last: int, most: int, now: float) -> None:
        """Puts the events after those in the outbox there, several in a notification."""
        for first in range(held.noted + 1, last + 1, most):
            until = min(first + most - 1, last)
            told = {"type": "event-notification", "version": held.version, "first": first,
                    "last": until}  # fmt: skip
            self._put(held, f"{held.version}/{first}-{until}", told, now)
        self._run("UPDATE subscription SET noted = ? WHERE id = ?", (last, held.id))

    def _unsend(self, held: SubscriptionRow) -> None:
        """Takes what waits out of the outbox; its events count as not sent."""
        waiting = self._run(
            "SELECT body FROM outbox WHERE status <> 'sent' AND site = '' AND patient = ?",
            (owner_of(held.id),),
        )
        firsts = [json.loads(r[0]).get("first") for r in waiting]
        numbers = [int(n) for n in firsts if n is not None]
        if numbers:
            self._run("UPDATE subscription SET noted = ? WHERE id = ?", (min(numbers) - 1, held.id))
        self._run(
            "DELETE FROM outbox WHERE status <> 'sent' AND site = '' AND patient = ?",
            (owner_of(held.id),),
        )

    def activate_subscription(self, name: str, version: int, most: int = 1) -> bool:
        """See :class:`LinkedStore`."""
        with self._transaction():
            held = self._subscription(name, lock=True)
            if held is None or held.status != "requested" or held.version != version:
                return False
            now = self._now()
            beat = None if held.period is None else now + held.period
            self._run(
                "UPDATE subscription SET status = 'active', error = NULL, beat = ? WHERE id = ?",
                (beat, name),
            )
            self._send(held, held.events, most, now)
            return True

    def fail_subscription(self, name: str, error: str, version: int | None = None) -> None:
        """See :class:`LinkedStore`."""
        with self._transaction():
            held = self._subscription(name, lock=True)
            if held is None or held.status == "off" or version not in (None, held.version):
                return
            self._run(
                "UPDATE subscription SET status = 'error', error = ?, beat = NULL, changed = ? "
                "WHERE id = ?",
                (error, self._now(), name),
            )
            self._unsend(held)

    def fresh_notes(self, partition: int, limit: int) -> list[OutboxRow]:
        """See :class:`LinkedStore`."""
        # Rows of the fold in one partition become visible in the order of their numbers, because
        # one worker at a time writes them; those of others do not, and move no mark.
        return self.notes_where(
            f"part = ? AND kind IN {_FOLDED} AND id > (SELECT applied FROM lease "
            "WHERE kind = 'notify' AND part = ?) ORDER BY id LIMIT ?",
            (partition, partition, limit),
        )

    def notify(
        self, lease: Lease, until: int, found: Mapping[str, Sequence[Occurrence]], *,
        most: Mapping[str, int], keep: int,
    ) -> int:  # fmt: skip
        """See :class:`LinkedStore`."""
        count = 0
        with self._transaction():
            self._fence(lease)
            self._run(
                "UPDATE lease SET applied = ? WHERE kind = ? AND part = ?",
                (until, lease.kind, lease.partition),
            )
            now = self._now()
            # In one order everywhere, so that two senders never wait for each other.
            for name in sorted(found):
                held = self._subscription(name, lock=True)
                if held is None or held.status == "off":
                    continue
                last = held.events + len(found[name])
                self._many(
                    "INSERT INTO subscribed VALUES (?, ?, ?, ?, ?)",
                    [
                        (name, held.events + i, o.source, o.time, json.dumps(o.focus))
                        for i, o in enumerate(found[name], 1)
                    ],
                )
                self._run("UPDATE subscription SET events = ? WHERE id = ?", (last, name))
                self._run(
                    "DELETE FROM subscribed WHERE subscription = ? AND number <= ?",
                    (name, last - keep),
                )
                if held.status == "active":
                    self._send(held, last, most.get(name, 1), now)
                count += len(found[name])
        return count

    def occurrences(self, name: str, first: int, last: int, limit: int) -> list[Occurrence]:
        """See :class:`LinkedStore`."""
        rows = self._run(
            "SELECT source, time, focus, number FROM subscribed WHERE subscription = ? "
            "AND number >= ? AND number <= ? ORDER BY number LIMIT ?",
            (name, first, last, limit),
        )
        return [Occurrence(r[0], r[1], tuple(json.loads(r[2])), int(r[3])) for r in rows]

    def heartbeats(self, partition: int) -> int:
        """See :class:`LinkedStore`."""
        now = self._now()
        sql = "SELECT id FROM subscription WHERE part = ? AND status = 'active' AND beat <= ?"
        due = self._run(sql, (partition, now))
        for (name,) in due:
            with self._transaction():
                held = self._subscription(name, lock=True)
                if held is None or held.status != "active" or held.period is None:
                    continue
                ours = self._run(
                    "UPDATE subscription SET beat = ? WHERE id = ? AND beat <= ? RETURNING id",
                    (now + held.period, name, now),
                )
                if not ours:
                    continue
                waits = self._run(
                    "SELECT 1 FROM outbox WHERE status = 'waiting' AND site = '' AND patient = ? "
                    "LIMIT 1", (owner_of(name),),
                )  # fmt: skip
                if not waits:
                    told = {"type": "heartbeat", "version": held.version}
                    self._put(held, f"heartbeat/{now:.3f}", told, now)
        return len(due)

    def told_subscription(self, name: str) -> None:
        """See :class:`LinkedStore`."""
        with self._transaction():
            self._run(
                "UPDATE subscription SET beat = ? + period WHERE id = ? AND period IS NOT NULL "
                "AND status = 'active'",
                (self._now(), name),
            )
            # What was taken is of no more use: the events themselves are kept elsewhere.
            self._run(
                "DELETE FROM outbox WHERE site = '' AND patient = ? AND status = 'sent'",
                (owner_of(name),),
            )

    # -------------------------------------------------- subscriptions at other servers

    def hear(
        self, site: str, name: str, kind: str, status: str, total: int | None,
        numbers: Sequence[int],
    ) -> Heard:  # fmt: skip
        """See :class:`LinkedStore`."""
        # One after another: two first notifications of a subscription may come at once.
        with self._transaction(append=True):
            found = self._run(
                "SELECT last, missing FROM heard WHERE site = ? AND subscription = ?", (site, name)
            )
            fresh = not found
            last, ranges = (int(found[0][0]), json.loads(found[0][1])) if found else (0, [])
            gap: tuple[int, int] | None = None
            if kind == "handshake" and total is not None and total < last:
                # The server counts anew.
                last, ranges = total, []
            for number in sorted(set(numbers)):
                if number > last:
                    if number > last + 1:
                        gap = (last + 1 if gap is None else gap[0], number - 1)
                        ranges.append([last + 1, number - 1])
                    last = number
                else:
                    ranges = _without(ranges, number)
            if total is not None and total > last:
                gap = (last + 1 if gap is None else gap[0], total)
                ranges.append([last + 1, total])
                last = total
            ranges = ranges[-_MOST_RANGES:]
            self._many(
                "INSERT INTO heard VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (site, subscription) "
                "DO UPDATE SET last = excluded.last, missing = excluded.missing, "
                "status = excluded.status, seen = excluded.seen",
                [(site, name, last, json.dumps(ranges), status, self._now())],
            )
            return Heard(last, gap, sum(b - a + 1 for a, b in ranges), fresh)

    def heard(self, site: str | None = None) -> list[dict[str, Any]]:
        """See :class:`LinkedStore`."""
        names = ("site", "subscription", "last", "missing", "status", "seen")
        sql = f"SELECT {', '.join(names)} FROM heard"
        where, values = (" WHERE site = ?", (site,)) if site is not None else ("", ())
        out = []
        for r in self._run(f"{sql}{where} ORDER BY site, subscription", values):
            told = dict(zip(names, r, strict=True))
            out.append(told | {"missing": json.loads(told["missing"])})
        return out


def _without(ranges: Sequence[Sequence[int]], number: int) -> list[list[int]]:
    """The ranges without a number that has come after all."""
    out: list[list[int]] = []
    for first, last in ranges:
        if first <= number <= last:
            out += [r for r in ([first, number - 1], [number + 1, last]) if r[0] <= r[1]]
        else:
            out.append([first, last])
    return out


def _row(r: tuple) -> SubscriptionRow:
    return SubscriptionRow(
        r[0], r[1], int(r[2]), r[3], r[4], json.loads(r[5]), int(r[6]), r[7], r[8], int(r[9]),
        int(r[10]), r[11],
    )  # fmt: skip
