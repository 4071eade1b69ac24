"""Bundles that tell of events, in the form that brings topics of R5 to R4 and R4B.

HL7, Subscriptions R5 Backport, version 1.1: a bundle of type ``history`` whose first entry is the
status of the subscription, as Parameters in R4 and as SubscriptionStatus in R4B.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from foretell.serving.resources import instant
from foretell.serving.store import Occurrence, SubscriptionRow
from foretell.serving.subscriptions.resource import BACKPORT, Wanted


def status_of(
    row: SubscriptionRow, wanted: Wanted, kind: str, *, total: int | None = None,
    events: Sequence[Occurrence] = (), base: str | None = None, focus: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The status of a subscription.

    Args:
        row: as it is kept.
        wanted: as it was checked.
        kind: ``handshake``, ``heartbeat``, ``event-notification``, ``query-status`` or
            ``query-event``.
        total: events since the subscription's start.
        events: that are told.
        base: address of our FHIR interface.
        focus: whether events name their resources.
    """
    total = row.events if total is None else total
    name = _address(base, f"Subscription/{row.id}")
    if wanted.r4b:
        out: dict[str, Any] = {
            "resourceType": "SubscriptionStatus", "status": row.status, "type": kind,
            "eventsSinceSubscriptionStart": str(total), "subscription": {"reference": name},
        }  # fmt: skip
        if wanted.topic is not None:
            out["topic"] = wanted.topic
        if events:
            out["notificationEvent"] = [_event(e, base, focus) for e in events]
        if row.error is not None:
            out["error"] = [{"text": row.error}]
        return out
    told: list[dict[str, Any]] = [{"name": "subscription", "valueReference": {"reference": name}}]
    if wanted.topic is not None:
        told.append({"name": "topic", "valueCanonical": wanted.topic})
    told.append({"name": "status", "valueCode": row.status})
    told.append({"name": "type", "valueCode": kind})
    told.append({"name": "events-since-subscription-start", "valueString": str(total)})
    for event in events:
        one = _event(event, base, focus)
        part: list[dict[str, Any]] = [
            {"name": "event-number", "valueString": one["eventNumber"]},
            {"name": "timestamp", "valueInstant": one["timestamp"]},
        ]
        if "focus" in one:
            part.append({"name": "focus", "valueReference": one["focus"]})
        part += [
            {"name": "additional-context", "valueReference": c}
            for c in one.get("additionalContext", ())
        ]
        told.append({"name": "notification-event", "part": part})
    if row.error is not None:
        told.append({"name": "error", "valueCodeableConcept": {"text": row.error}})
    return {
        "resourceType": "Parameters",
        "meta": {"profile": [BACKPORT + "backport-subscription-status-r4"]},
        "parameter": told,
    }


def _event(event: Occurrence, base: str | None, focus: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"eventNumber": str(event.number), "timestamp": instant(event.time)}
    if focus and event.focus:
        named = [{"reference": _address(base, name)} for name in event.focus]
        out["focus"] = named[0]
        if named[1:]:
            out["additionalContext"] = named[1:]
    return out


def notification(
    row: SubscriptionRow, wanted: Wanted, kind: str, *, key: str, time: float,
    total: int | None = None,
    events: Sequence[tuple[Occurrence, Sequence[Mapping[str, Any]]]] = (),
    base: str | None = None, content: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The bundle of a notification; the same key gives the same bundle.

    Args:
        row: the subscription as it is kept.
        wanted: as it was checked.
        kind: see :func:`status_of`.
        key: tells notifications apart.
        time: of the bundle.
        total: events since the subscription's start.
        events: that are told, each with its resources.
        base: address of our FHIR interface.
        content: ``empty``, ``id-only`` or ``full-resource``; that of the subscription by default.
    """
    content = wanted.content if content is None else content
    status = status_of(
        row, wanted, kind, total=total, events=[e for e, _ in events], base=base,
        focus=content != "empty",
    )  # fmt: skip
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:foretell:notification:{row.id}:{key}")
    status["id"] = str(name)
    entries: list[dict[str, Any]] = [{
        "fullUrl": f"urn:uuid:{name}",
        "resource": status,
        "request": {"method": "GET", "url": _address(base, f"Subscription/{row.id}/$status")},
        "response": {"status": "200"},
    }]  # fmt: skip
    if content == "full-resource":
        # Of a resource that several events are about the last state counts.
        last = {f"{r['resourceType']}/{r['id']}": r for _, several in events for r in several}
        for identity, resource in last.items():
            made = resource.get("status") not in ("entered-in-error", "corrected")
            entries.append({
                "fullUrl": _address(base, identity) if base else _urn(identity),
                "resource": dict(resource),
                "request": {"method": "POST" if made else "PUT",
                            "url": str(resource["resourceType"]) if made else identity},
                "response": {"status": "201" if made else "200"},
            })  # fmt: skip
    profile = "backport-subscription-notification" + ("" if wanted.r4b else "-r4")
    return {
        "resourceType": "Bundle",
        "id": str(name),
        "meta": {"profile": [BACKPORT + profile]},
        "type": "history",
        "timestamp": instant(time),
        "entry": entries,
    }


def _urn(identity: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:foretell:{identity}')}"


def _address(base: str | None, name: str) -> str:
    return name if base is None else f"{base.rstrip('/')}/{name}"
