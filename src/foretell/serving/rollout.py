"""Changes of the model that speaks: events of the log, and rows of the change-control record.

What speaks is decided by the log alone. A configuration is told to the log when it differs from
the one that was told last: a restart does not undo what was decided at run time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretell.errors import ParameterError
from foretell.serving.events import digest, ladder
from foretell.serving.worker.lineup import Lineup

if TYPE_CHECKING:
    from foretell.serving.config import RolloutConfig
    from foretell.serving.store.base import Store

CHANGE, ROLLBACK = "lineup", "rollback"
_MARK = "lineup.configured"


def configured(versions: Sequence[str], candidate: str | None, settings: RolloutConfig) -> Lineup:
    """The lineup of a configuration.

    Args:
        versions: of the ladder, the one that speaks first.
        candidate: version of the model on trial, None where there is none.
        settings: what it does.
    """
    if candidate is None:
        return Lineup(versions[0])
    return Lineup(versions[0], candidate, settings.mode, settings.units, settings.sites)


def check_pins(lineup: Lineup, pins: Mapping[str, str]) -> None:
    """Refuses a lineup in which another version would speak at a site that is pinned to one.

    Args:
        lineup: that shall hold.
        pins: site -> version.

    Raises:
        ParameterError: it would; says where, and who.
    """
    for site, version in pins.items():
        for unit in (None, *(lineup.units if lineup.mode == "canary" else ())):
            speaker = lineup.speaker(site, unit)
            if speaker != version:
                where = "" if unit is None else f" in unit {unit}"
                raise ParameterError(
                    f"sites.{site}.model_version pins {version}, but {speaker} would speak "
                    f"there{where}"
                )


def history(store: Store) -> list[dict[str, Any]]:
    """Rows of the change-control record, oldest first, with what they say."""
    rows: list[dict[str, Any]] = []
    while part := store.recorded("control", rows[-1]["id"] if rows else 0, 10_000):
        rows += part
    return [{**row, "detail": json.loads(row["detail"] or "{}")} for row in rows]


def standing(store: Store) -> list[Lineup]:
    """The lineups that were decided, without those that were rolled back; the last one holds."""
    held: list[Lineup] = []
    for row in history(store):
        if row["action"] == CHANGE:
            held.append(Lineup.from_json(row["detail"]["lineup"]))
        elif row["action"] == ROLLBACK and len(held) > 1:
            held.pop()
    return held


def change(
    store: Store, lineup: Lineup, *, actor: str, reason: str, loaded: Sequence[str],
    action: str = CHANGE, pins: Mapping[str, str] | None = None,
) -> bool:  # fmt: skip
    """Lets another model speak, from the next hour that closes on.

    Args:
        store: with the log.
        lineup: that shall hold.
        actor: who decides.
        reason: why; for the record.
        loaded: versions that the service has at hand.
        action: what to call it in the record.
        pins: site -> version that alone may speak there.

    Returns:
        Whether that is news.

    Raises:
        ParameterError: a version is not loaded, there is no reason, or a site is pinned to another.
    """
    if not reason.strip():
        raise ParameterError("a change of the model needs a reason")
    wanted = {"primary": lineup.primary}
    if lineup.mode != "off":
        wanted["candidate"] = lineup.candidate or ""
    for role, version in wanted.items():
        if version not in loaded:
            # What was asked for is not repeated: the answer goes to whoever asked.
            raise ParameterError(f"the {role} is not loaded; loaded are {list(loaded)}")
    check_pins(lineup, pins or {})
    now = store.lineup(0)
    told = lineup.to_json()
    before = None if now is None else now["lineup"]
    if before == told:
        return False
    last = store.last_recorded("control")
    # Two that decide the same upon the same are one.
    key = digest("lineup", json.dumps(told, sort_keys=True), "" if last is None else last["hash"])
    body = {"lineup": told, "by": actor, "reason": reason}
    moment = time.time()
    events = [ladder(part, body, moment, key) for part in range(store.partitions)]
    if not store.append_events(events):
        return False
    detail = {"lineup": told, "before": before, "loaded": list(loaded)}
    store.record(
        "control",
        {"time": moment, "actor": actor, "action": action, "subject": lineup.primary,
         "purpose": reason, "outcome": "ok", "detail": json.dumps(detail, sort_keys=True)},
    )  # fmt: skip
    return True


def roll_back(
    store: Store, *, actor: str, reason: str, loaded: Sequence[str],
    pins: Mapping[str, str] | None = None,
) -> Lineup:  # fmt: skip
    """Goes back to the lineup before the present one.

    Raises:
        ParameterError: there is none, it is not loaded, there is no reason, or a site is pinned to
            another version.
    """
    held = standing(store)
    if len(held) < 2:
        raise ParameterError("there is no lineup to go back to")
    change(store, held[-2], actor=actor, reason=reason, loaded=loaded, action=ROLLBACK, pins=pins)
    return held[-2]


def announce(
    store: Store, lineup: Lineup, loaded: Sequence[str], pins: Mapping[str, str] | None = None
) -> bool:
    """Tells the log of a configuration that it has not heard of; returns whether it was news."""
    told = json.dumps(lineup.to_json(), sort_keys=True)
    if store.mark(_MARK) == told:
        return False
    new = change(
        store, lineup, actor="configuration", reason="configuration of the service", loaded=loaded,
        pins=pins,
    )  # fmt: skip
    store.set_mark(_MARK, told)
    return new


def told(store: Store, loaded: Sequence[str], versions_off: Mapping[str, int]) -> dict[str, Any]:
    """What there is to say of the models.

    Args:
        store: with the log.
        loaded: versions at hand.
        versions_off: version -> partitions in which it is not asked for somebody.
    """
    found = store.lineup(0)
    rows = history(store)
    lineup = Lineup(loaded[0]).to_json() if found is None else found["lineup"]
    return {
        "version": lineup["primary"],
        "lineup": lineup,
        "since": rows[-1]["time"] if rows else None,
        "by": rows[-1]["actor"] if rows else None,
        "reason": rows[-1]["purpose"] if rows else None,
        "loaded": list(loaded),
        "not_asked": dict(versions_off),
        "previous": [line.to_json() for line in standing(store)[:-1][-5:]],
        "changes": len(rows),
    }


def not_asked(store: Store) -> dict[str, int]:
    """Version -> number of partitions in which it failed and is left alone for somebody."""
    held: dict[str, set[int]] = {}
    for row in store.journal():
        if row.kind == "off":
            held.setdefault(row.version, set()).add(row.partition)
        elif row.kind == "on":
            held.get(row.version, set()).discard(row.partition)
    return {version: len(parts) for version, parts in sorted(held.items()) if parts}
