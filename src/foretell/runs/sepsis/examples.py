"""Example alarms with what drove them: some right, some wrong, and hours without a score."""

from __future__ import annotations

from typing import Any

import numpy as np

from foretell.data.clinical import Stays
from foretell.decisions.abstention import Status
from foretell.serving.deployment import Deployment, Judged

_TOP = 6
_MOST_HOURS = 96


def example_alarms(
    deployment: Deployment, test: Stays, told: Judged, *, most: int, horizon: float, seed: int
) -> list[dict[str, Any]]:
    """Trajectories of stays, half with a true first alarm and half with a false one.

    Stays are named by number and site, never by their ids.
    """
    if most == 0:
        return []
    offsets, rng = test.offsets, np.random.default_rng(seed)
    raised, hours = told.alarms.raised, test.hours()
    first = np.full(len(test), -1, np.int64)
    rows = np.flatnonzero(raised)
    for row, owner in zip(rows[::-1], test.stay_of_row()[rows][::-1], strict=True):
        first[owner] = row
    alarmed = np.flatnonzero(first >= 0)
    ahead = test.onset[alarmed] - hours[first[alarmed]]
    true = (ahead > 0) & (ahead <= horizon)
    kinds = (("true", alarmed[true]), ("false", alarmed[np.isnan(test.onset[alarmed])]))
    chosen = []
    for kind, stays in kinds:
        size = min(len(stays), (most + (kind == "true")) // 2)
        chosen += [(kind, int(i)) for i in sorted(rng.choice(stays, size, replace=False))]
    return [
        _told(deployment, test, told, kind, i, int(first[i]), offsets, number)
        for number, (kind, i) in enumerate(chosen, start=1)
    ]


def _told(
    deployment: Deployment, test: Stays, told: Judged, kind: str, stay: int, row: int,
    offsets: Any, number: int,
) -> dict[str, Any]:  # fmt: skip
    begin, end = int(offsets[stay]), int(offsets[stay + 1])
    begin = max(begin, row - _MOST_HOURS // 2)
    end = min(end, begin + _MOST_HOURS)
    mine = slice(begin, end)
    hours = test.hours()[mine]
    one = test.select([stay])
    status = told.gated.status[mine]
    silent = [
        {"hour": int(hours[k]), "status": Status(int(status[k])).name.lower(),
         "reasons": told.gated.reasons(int(begin + k))}
        for k in np.flatnonzero(~told.gated.issued[mine])
    ]  # fmt: skip
    onset = float(test.onset[stay])
    return {
        "name": f"example {number}",
        "kind": kind,
        "site": str(test.names("site")[stay]),
        "age": _plain(test.number("age")[stay]),
        "sex": str(test.names("sex")[stay]) if "sex" in test.categories else "unknown",
        "hours": hours.tolist(),
        "score": [_plain(v) for v in told.gated.score[mine]],
        "alarms": hours[told.alarms.raised[mine]].tolist(),
        "onset": _plain(onset),
        "alarm_hour": int(test.hours()[row]),
        "alarm_score": float(told.gated.score[row]),
        "silent": silent[:40],
        "drivers": _drivers(deployment, one, row - int(offsets[stay])),
    }


def _drivers(deployment: Deployment, stay: Stays, row: int) -> list[dict[str, Any]]:
    explain = getattr(deployment.model, "explain", None)
    if explain is None:
        return []
    table = explain(stay, rows=np.array([row]), top=_TOP)
    return table.select("words", "value", "unit", "contribution").to_dicts()


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
