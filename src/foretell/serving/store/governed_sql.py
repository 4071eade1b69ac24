"""Comparisons, failures, changes and grants in SQL that both engines understand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretell.errors import ParameterError
from foretell.serving.audit import chained
from foretell.serving.events import LADDER, TICK
from foretell.serving.store.governed import GovernedStore, Grant, Purged, ShadowRow
from foretell.serving.store.statements import Statements

if TYPE_CHECKING:
    from foretell.serving.events import Event
    from foretell.serving.worker.availability import JournalRow

LOGS = ("audit", "control")
_CHAINED = ("time", "actor", "action", "subject", "purpose", "outcome", "detail", "previous",
            "hash")  # fmt: skip
_SHADOW = "site, patient, stay, hour, version, unit, risk, status, alarm, spoke, said, raised"
# Tables of patients, all with site and patient.
_OF_PATIENTS = ("event", "state", "cell", "score", "shadow", "outbox")


class SqlGoverned(Statements, GovernedStore):
    """See :class:`GovernedStore`."""

    _own_numbers = ""

    # -------------------------------------------------- the journal and lineups

    def journal(self, partition: int | None = None) -> list[JournalRow]:
        """See :class:`GovernedStore`."""
        # A worker's module: the store is below it in every other way.
        from foretell.serving.worker.availability import JournalRow

        sql = "SELECT part, at, site, patient, version, kind, reason FROM journal"
        where, values = ("", ()) if partition is None else (" WHERE part = ?", (partition,))
        return [JournalRow(*r) for r in self._run(f"{sql}{where} ORDER BY id", values)]

    def _keep_journal(self, rows: Sequence[JournalRow]) -> None:
        self._many(
            "INSERT INTO journal (part, at, site, patient, version, kind, reason) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(r.partition, r.at, r.site, r.patient, r.version, r.kind, r.reason) for r in rows],
        )

    def lineup(self, partition: int, until: int | None = None) -> dict[str, Any] | None:
        """See :class:`GovernedStore`."""
        sql = (
            f"SELECT body FROM event WHERE part = ? AND kind = '{LADDER}' AND seq <= ? "
            "ORDER BY seq DESC LIMIT 1"
        )
        found = self._run(sql, (partition, 2**62 if until is None else until))
        return json.loads(found[0][0]) if found else None

    def open_since(self) -> dict[str, float]:
        """See :class:`GovernedStore`."""
        sql = "SELECT site, MIN(due) FROM state WHERE due IS NOT NULL GROUP BY site"
        return {str(site): float(due) for site, due in self._run(sql)}

    def newest_score(self, site: str) -> float | None:
        """See :class:`GovernedStore`."""
        newest = self._run("SELECT MAX(time) FROM score WHERE site = ?", (site,))[0][0]
        return None if newest is None else float(newest)

    def scored_since(self, site: str, time: float) -> list[tuple[str, str, int, int]]:
        """See :class:`GovernedStore`."""
        sql = (
            "SELECT patient, stay, MIN(hour), MAX(hour) FROM score WHERE site = ? AND time > ? "
            "GROUP BY patient, stay"
        )
        return [(str(p), str(s), int(a), int(b)) for p, s, a, b in self._run(sql, (site, time))]

    def hours_scored(
        self, site: str, patient: str, stay: str, first: int, last: int
    ) -> list[tuple[int, float | None, str, bytes | None]]:
        """See :class:`GovernedStore`."""
        sql = (
            "SELECT s.hour, s.risk, s.model, c.body FROM score s LEFT JOIN cell c "
            "ON c.site = s.site AND c.patient = s.patient AND c.stay = s.stay AND c.hour = s.hour "
            "WHERE s.site = ? AND s.patient = ? AND s.stay = ? AND s.hour BETWEEN ? AND ? "
            "ORDER BY s.hour"
        )
        found = self._run(sql, (site, patient, stay, first, last))
        return [(int(h), p, str(m), None if b is None else bytes(b)) for h, p, m, b in found]

    def take_over(self, events: Sequence[Event], journal: Sequence[JournalRow] = ()) -> None:
        """See :class:`GovernedStore`."""
        with self._transaction(append=True):
            self._many(
                "INSERT INTO event (seq, part, site, patient, kind, time, received, body) "
                f"{self._own_numbers}VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (e.seq, e.partition, e.site, e.patient, e.kind, e.time, e.received,
                     json.dumps(e.body, separators=(",", ":")))
                    for e in events
                ],
            )  # fmt: skip
            self._numbered()
            self._keep_journal(journal)

    def _numbered(self) -> None:
        """After events came with numbers of their own: the next one is higher."""

    # -------------------------------------------------- comparisons

    def _keep_shadows(self, rows: Sequence[ShadowRow]) -> None:
        self._many(
            f"INSERT INTO shadow ({_SHADOW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (site, patient, stay, hour, version) DO UPDATE SET "
            "unit = excluded.unit, risk = excluded.risk, status = excluded.status, "
            "alarm = excluded.alarm, spoke = excluded.spoke, said = excluded.said, "
            "raised = excluded.raised",
            [
                (r.site, r.patient, r.stay, r.hour, r.version, r.unit, r.risk, r.status, r.alarm,
                 r.spoke, r.said, r.raised)
                for r in rows
            ],
        )  # fmt: skip

    def shadows(self, version: str | None = None, site: str | None = None) -> list[dict[str, Any]]:
        """See :class:`GovernedStore`."""
        names = ("version", "spoke", "site", "unit")
        wanted = {n: v for n, v in (("version", version), ("site", site)) if v is not None}
        where = " AND ".join(f"{n} = ?" for n in wanted)
        group = ", ".join(names)
        both = "risk IS NOT NULL AND said IS NOT NULL"
        sql = (
            f"SELECT {group}, COUNT(*), SUM(CASE WHEN {both} THEN 1 ELSE 0 END), "
            "AVG(ABS(risk - said)), AVG(risk - said), "
            "SUM(CASE WHEN alarm IS NOT NULL THEN 1 ELSE 0 END), "
            "SUM(CASE WHEN raised IS NOT NULL THEN 1 ELSE 0 END), "
            "SUM(CASE WHEN alarm IS NOT NULL AND raised IS NOT NULL THEN 1 ELSE 0 END), "
            "SUM(CASE WHEN status = 'no_score' THEN 1 ELSE 0 END) "
            f"FROM shadow{' WHERE ' + where if where else ''} GROUP BY {group}"
        )
        out = []
        for row in self._run(sql, tuple(wanted.values())):
            hours, known, difference, bias, alarms, raised, either, silent = row[4:]
            out.append(
                dict(zip(names, row[:4], strict=True))
                | {"hours": int(hours), "both": int(known), "difference": difference,
                   "bias": bias, "alarms": {"compared": int(alarms), "spoken": int(raised)},
                   "alarms_of_both": int(either), "no_score": int(silent)}
            )  # fmt: skip
        return sorted(out, key=lambda r: tuple(r[n] for n in names))

    def shadow_rows(self, site: str, patient: str) -> list[ShadowRow]:
        """See :class:`GovernedStore`."""
        sql = f"SELECT {_SHADOW} FROM shadow WHERE site = ? AND patient = ? ORDER BY stay, hour"
        return [ShadowRow(*r) for r in self._run(sql, (site, patient))]

    # -------------------------------------------------- records

    def record(self, log: str, row: Mapping[str, Any]) -> str:
        """See :class:`GovernedStore`."""
        table = _named(log)
        with self._transaction(append=True):
            last = self._run(f"SELECT hash FROM {table} ORDER BY id DESC LIMIT 1")
            told = chained(row, str(last[0][0]) if last else "")
            marks = ", ".join("?" * len(_CHAINED))
            self._run(
                f"INSERT INTO {table} ({', '.join(_CHAINED)}) VALUES ({marks})",
                [told[n] for n in _CHAINED],
            )
            return str(told["hash"])

    def recorded(self, log: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """See :class:`GovernedStore`."""
        names = ("id", *_CHAINED)
        sql = f"SELECT {', '.join(names)} FROM {_named(log)} WHERE id > ? ORDER BY id LIMIT ?"
        return [dict(zip(names, r, strict=True)) for r in self._run(sql, (after, limit))]

    def last_recorded(self, log: str) -> dict[str, Any] | None:
        """See :class:`GovernedStore`."""
        names = ("id", *_CHAINED)
        found = self._run(f"SELECT {', '.join(names)} FROM {_named(log)} ORDER BY id DESC LIMIT 1")
        return dict(zip(names, found[0], strict=True)) if found else None

    # -------------------------------------------------- grants

    def grant(self, grant: Grant) -> None:
        """See :class:`GovernedStore`."""
        with self._transaction():
            self._many(
                "INSERT INTO broken_glass (caller, site, begin_time, until_time, reason) "
                "VALUES (?, ?, ?, ?, ?)",
                [(grant.caller, grant.site, grant.begin, grant.until, grant.reason)],
            )

    def granted(self, caller: str, site: str) -> Grant | None:
        """See :class:`GovernedStore`."""
        sql = (
            "SELECT caller, site, begin_time, until_time, reason FROM broken_glass "
            "WHERE caller = ? AND site = ? AND until_time > ? ORDER BY until_time DESC LIMIT 1"
        )
        found = self._run(sql, (caller, site, self._now()))
        return Grant(*found[0]) if found else None

    # -------------------------------------------------- retention

    def purge(
        self, before: float, *, dry: bool = True, sites: Mapping[str, float] | None = None
    ) -> Purged:
        """See :class:`GovernedStore`."""
        own = dict(sites or {})
        newest, longest = max([before, *own.values()]), min([before, *own.values()])
        # Time of the world and time of receipt: what was told late was heard of late.
        gone = (
            "SELECT e.site, e.patient, MAX(e.received), MAX(e.time) FROM event e "
            "WHERE e.patient <> '' "
            "GROUP BY e.site, e.patient HAVING MAX(e.received) < ? AND MAX(e.time) < ? "
            "AND NOT EXISTS (SELECT 1 FROM state s WHERE s.site = e.site "
            "AND s.patient = e.patient AND s.due IS NOT NULL) "
            "AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.site = e.site "
            "AND o.patient = e.patient AND o.status = 'waiting')"
        )
        rows: dict[str, int] = {}
        with self._transaction(append=True):
            # What is not folded yet is not old, whatever its time says.
            behind = self._run(
                "SELECT MIN(l.applied) FROM lease l WHERE l.kind = 'work' AND EXISTS "
                "(SELECT 1 FROM event x WHERE x.part = l.part AND x.seq > l.applied)"
            )[0][0]
            if behind is not None:
                raise ParameterError("the log is not folded to its end: run a worker first")
            people = [
                (site, patient)
                for site, patient, received, told in self._run(gone, (newest, newest))
                if max(received, told) < own.get(site, before)
            ]
            for table in _OF_PATIENTS:
                rows[table] = 0
            for table in _OF_PATIENTS:
                for site, patient in people:
                    where = f"FROM {table} WHERE site = ? AND patient = ?"
                    rows[table] += int(self._run(f"SELECT COUNT(*) {where}", (site, patient))[0][0])
                    if not dry:
                        self._run(f"DELETE {where}", (site, patient))
            if not dry:
                for site, patient in people:
                    self._run("DELETE FROM alias WHERE site = ? AND patient = ?", (site, patient))
                    self._run("DELETE FROM journal WHERE site = ? AND patient = ?", (site, patient))
                    self._run("DELETE FROM owed WHERE site = ? AND patient = ?", (site, patient))
            # The clock went by for others as well: ticks go only from before all that is left.
            for part in range(self.partitions):
                oldest = self._oldest(part, people)
                where = f"FROM event WHERE part = ? AND kind = '{TICK}' AND time < ? AND seq < ?"
                values = (part, longest, oldest)
                rows["event"] += int(self._run(f"SELECT COUNT(*) {where}", values)[0][0])
                if not dry:
                    self._run(f"DELETE {where}", values)
            for table in ("message", "quarantine"):
                where = f"FROM {table} WHERE received < ?"
                rows[table] = int(self._run(f"SELECT COUNT(*) {where}", (longest,))[0][0])
                if not dry:
                    self._run(f"DELETE {where}", (longest,))
        return Purged(before, len(people), rows)

    def _oldest(self, part: int, people: Sequence[tuple]) -> int:
        """The first event of a patient of a partition who is not among some."""
        found = self._run(
            "SELECT site, patient, MIN(seq) FROM event WHERE part = ? AND patient <> '' "
            "GROUP BY site, patient", (part,),
        )  # fmt: skip
        known = set(people)
        left = [int(seq) for site, patient, seq in found if (site, patient) not in known]
        return min(left, default=2**62)


def _named(log: str) -> str:
    if log not in LOGS:
        raise ParameterError(f"a record is one of {LOGS}, not {log!r}")
    return log
