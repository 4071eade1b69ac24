"""Notifications of other servers: handshakes, heartbeats, and bundles that tell of events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foretell.data.clinical.fhir import FhirError
from foretell.serving.events import Delivery, Quarantined, digest
from foretell.serving.store import Heard, Store

_KINDS = frozenset({"handshake", "heartbeat", "event-notification"})
_MOST = 10_000


@dataclass(frozen=True)
class Notification:
    """What the status of a notification says.

    Args:
        subscription: reference, as the server writes it.
        kind: ``handshake``, ``heartbeat`` or ``event-notification``.
        status: of the subscription.
        total: events since its start, None where that is not said.
        numbers: of the events that are told.
        resources: entries with a resource.
        told: events that are told, by number or not.
    """

    subscription: str
    kind: str
    status: str
    total: int | None
    numbers: tuple[int, ...]
    resources: tuple[dict[str, Any], ...]
    told: int


def read_notification(bundle: Mapping[str, Any]) -> Notification | None:
    """The notification that a bundle is, in the words of R4, R4B or R5; None where it is none.

    Raises:
        FhirError: it is one, but its status cannot be understood.
    """
    if bundle.get("resourceType") != "Bundle":
        return None
    if bundle.get("type") not in ("history", "subscription-notification"):
        return None
    entries = bundle.get("entry")
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], dict):
        return None
    status = entries[0].get("resource")
    if not isinstance(status, dict):
        return None
    if status.get("resourceType") == "Parameters":
        told = _from_parameters(status)
        if told is None:
            return None
    elif status.get("resourceType") == "SubscriptionStatus":
        told = {
            "subscription": _reference(status.get("subscription")),
            "status": status.get("status"), "type": status.get("type"),
            "total": status.get("eventsSinceSubscriptionStart"),
            "events": [
                e.get("eventNumber") for e in _list(status.get("notificationEvent"))
                if isinstance(e, dict)
            ],
        }  # fmt: skip
    else:
        return None
    where = "Bundle.entry[0]"
    if told["type"] not in _KINDS:
        raise FhirError("the type of the notification is not taken", where=where)
    name = told["subscription"]
    # Half characters and controls cannot be kept, to know it again.
    if not isinstance(name, str) or not 0 < len(name) <= 500 or not name.isprintable():
        raise FhirError("the subscription is not named", where=where)
    total = None if told["total"] is None else _number(told["total"], where)
    events = told["events"][:_MOST]
    numbers = tuple(_number(n, where) for n in events if n is not None)
    resources = tuple(
        e["resource"] for e in entries[1:]
        if isinstance(e, dict) and isinstance(e.get("resource"), dict)
    )  # fmt: skip
    if told["type"] == "event-notification" and not numbers and total is not None:
        # An older form counts the events of the notification, not each of them.
        count = _number(told.get("count") or 1, where)
        numbers = tuple(range(max(total - min(count, _MOST), 0) + 1, total + 1))
    held = told["status"]
    status_told = held[:20] if isinstance(held, str) and held.isprintable() else ""
    return Notification(
        name, str(told["type"]), status_told, total, numbers, resources, len(events)
    )


def catch_up_name(site: str) -> str:
    """Mark of the store by which the poller of a site is asked for a round."""
    return f"catch-up {site}"


def ask_poller(store: Store, site: str) -> None:
    """Asks whoever polls for a site, in any process, to do so at once."""
    store.set_mark(catch_up_name(site), repr(time.time()))


def heed(store: Store, site: str, told: Notification) -> Heard:
    """Counts a notification whose resources are durable, and has what is missing fetched.

    Numbers that went missing are noted in the quarantine. Where a notification holds fewer
    resources than events, or the first one is heard of a subscription that had some before, the
    site's poller is asked, too.
    """
    heard = store.hear(site, told.subscription, told.kind, told.status, told.total, told.numbers)
    if heard.gap is not None:
        first, last = heard.gap
        key = digest("gap", site, told.subscription, first, last)
        note = Quarantined(
            key, site, "notification_gap", "subscription", f"{first}-{last}"[:40], ""
        )
        source = f"subscription|{site}"
        store.append([Delivery(source, key.hex(), key, "gap", time.time(), [], [note])])
    if heard.gap is not None or len(told.resources) < told.told:
        ask_poller(store, site)
    return heard


def _from_parameters(status: Mapping[str, Any]) -> dict[str, Any] | None:
    out: dict[str, Any] = {"subscription": None, "status": None, "type": None, "total": None,
                           "events": []}  # fmt: skip
    for one in _list(status.get("parameter")):
        if not isinstance(one, dict):
            continue
        name, value = one.get("name"), _value(one)
        if name == "subscription":
            out["subscription"] = _reference(value)
        elif name in ("status", "type"):
            out[name] = value
        elif name == "events-since-subscription-start":
            out["total"] = value
        elif name == "events-in-notification":
            out["count"] = value
        elif name == "notification-event":
            parts = [p for p in _list(one.get("part")) if isinstance(p, dict)]
            found = [_value(p) for p in parts if p.get("name") == "event-number"]
            out["events"].append(found[0] if found else None)
    # Other Parameters are none of this business.
    return out if out["type"] is not None else None


def _value(parameter: Mapping[str, Any]) -> Any:
    return next((v for k, v in parameter.items() if k.startswith("value")), None)


def _reference(value: Any) -> str | None:
    told = value.get("reference") if isinstance(value, dict) else value
    return told if isinstance(told, str) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any, where: str) -> int:
    """A count, which R4 writes as a text, older drafts as a number."""
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise FhirError("an event is counted by something that is no number", where=where)
    return int(text)
