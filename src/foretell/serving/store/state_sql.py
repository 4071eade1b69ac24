"""Patients as they stand and their scores, in SQL that both engines understand."""

from __future__ import annotations

import json
from typing import Any

from foretell.serving.store.base import ScoreRow, StateRow, StayRow
from foretell.serving.store.statements import Statements


class SqlStates(Statements):
    """See :class:`~foretell.serving.store.base.Store`."""

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
            "SELECT s.site, s.patient, s.due, s.risk, s.shown, o.hour "
            "FROM state s LEFT JOIN owed o ON o.site = s.site AND o.patient = s.patient "
            "WHERE s.part = ? AND (s.due IS NOT NULL OR o.hour IS NOT NULL)"
        )
        out = []
        for site, patient, due, risk, shown, owed in self._run(sql, (partition,)):
            view = {} if shown is None else json.loads(shown)
            alarmed = view.get("policy") in ("alarmed", "snoozed")
            out.append(
                StayRow(site, patient, due, risk, alarmed, owed, view.get("unit"),
                        view.get("model", ""))
            )  # fmt: skip
        return out

    def stays_by_site(self) -> dict[str, tuple[int, int]]:
        """See :class:`Store`."""
        # One statement: what changes in between is in both counts or in neither.
        sql = (
            "SELECT site, SUM(stays), SUM(owing) FROM ("
            "SELECT site, COUNT(*) AS stays, 0 AS owing FROM state WHERE due IS NOT NULL "
            "GROUP BY site UNION ALL SELECT site, 0, COUNT(*) FROM owed GROUP BY site"
            ") AS counted GROUP BY site"
        )
        return {str(s): (int(stays), int(owing)) for s, stays, owing in self._run(sql)}

    def anything_due(self, time: float) -> list[int]:
        """See :class:`Store`."""
        found = self._run("SELECT DISTINCT part FROM state WHERE due <= ?", (time,))
        return sorted(int(r[0]) for r in found)

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


def _state(r: tuple) -> StateRow:
    return StateRow(r[0], r[1], r[2], bytes(r[3]), r[4], None if r[5] is None else json.loads(r[5]))
