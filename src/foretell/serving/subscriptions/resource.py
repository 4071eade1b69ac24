"""The Subscription resource of R4, and the form that brings topics of R5 to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from foretell.data.clinical.fhir import FhirError, read_instant
from foretell.serving.cds.trust import allowed_server
from foretell.serving.resources import instant
from foretell.serving.store.linked import SubscriptionRow
from foretell.serving.subscriptions.criteria import TOPICS, Criteria, read_criteria

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
HIDDEN = "***"
_TOPIC_OF = {kind: topic for topic, kind in TOPICS.items()}
_CONTENTS = ("empty", "id-only", "full-resource")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}): ?([\x20-\x7e\t]{0,4000})")
# What the sender says itself, or what would let a header change the meaning of a request.
_KEPT = frozenset({
    "host", "content-length", "content-type", "transfer-encoding", "connection", "te", "trailer",
    "upgrade", "expect", "idempotency-key", "accept-encoding", "content-encoding",
})  # fmt: skip
_MOST = 100
_LONGEST = 2000


@dataclass(frozen=True)
class Wanted:
    """A subscription as it was checked.

    Args:
        kind: type of resource that it is about.
        criteria: all of them must hold.
        topic: canonical address; None where it is a search as of R4, without handshakes.
        endpoint: where notifications go.
        headers: (name, value) of each.
        content: ``empty``, ``id-only`` or ``full-resource``.
        r4b: whether the status is a resource of R4B, not Parameters of R4.
        heartbeat: seconds between heartbeats.
        timeout: seconds that the receiver has for an answer.
        most: events of one notification.
        end: when it ends, in seconds since 1970.
        body: the resource, with what is known of it and nothing else.
    """

    kind: str
    criteria: tuple[Criteria, ...]
    topic: str | None
    endpoint: str
    headers: tuple[tuple[str, str], ...]
    content: str
    r4b: bool
    heartbeat: int | None
    timeout: int | None
    most: int
    end: float | None
    body: dict[str, Any]

    def matches(self, site: str, resource: Mapping[str, Any]) -> bool:
        """Whether a resource of a site is one of its events."""
        return resource.get("resourceType") == self.kind and all(
            c.matches(site, resource) for c in self.criteria
        )


def read_subscription(
    told: Mapping[str, Any], endpoints: Sequence[str], *, held: Mapping[str, Any] | None = None,
    shortest: int = 1,
) -> Wanted:  # fmt: skip
    """A subscription that can be served.

    Args:
        told: the resource.
        endpoints: addresses that may be notified; nothing else ever is.
        held: the resource before a change: headers that were hidden are taken from it.
        shortest: seconds between heartbeats at least.

    Raises:
        FhirError: something of it cannot be served, and where that stands.
    """
    if told.get("resourceType") != "Subscription":
        raise FhirError("this is no Subscription", where="resourceType")
    if "modifierExtension" in told or "implicitRules" in told:
        raise FhirError("modifier extensions are not understood", where="Subscription")
    reason = _text(told, "reason", "Subscription.reason")
    criteria = _text(told, "criteria", "Subscription.criteria")
    channel = told.get("channel")
    if not isinstance(channel, Mapping):
        raise FhirError("the channel is missing", where="Subscription.channel")
    if channel.get("type") != "rest-hook":
        raise FhirError("only rest-hook channels are served", where="Subscription.channel.type")
    endpoint = _text(channel, "endpoint", "Subscription.channel.endpoint")
    if not allowed_server(endpoint, endpoints):
        raise FhirError(
            "the endpoint is not among those of the configuration",
            where="Subscription.channel.endpoint",
        )
    mime = channel.get("payload")
    content = _extension(channel.get("_payload"), "backport-payload-content", "valueCode")
    r4b = False
    if mime is not None:
        kind, _, parameters = str(mime).partition(";")
        r4b = "4.3" in parameters
        if kind.strip().lower() not in ("application/fhir+json", "application/json"):
            raise FhirError("only JSON is sent", where="Subscription.channel.payload")
    if content is not None and content not in _CONTENTS:
        raise FhirError("the content is not known", where="Subscription.channel.payload")
    filters = _extensions(told.get("_criteria"), "backport-filter-criteria", "valueString")
    if criteria in TOPICS:
        topic: str | None = criteria
        kind_of = TOPICS[criteria]
        found = tuple(read_criteria(f) for f in filters)
        if any(c.kind != kind_of for c in found):
            raise FhirError("a filter is not about the topic", where="Subscription.criteria")
        content = content or "empty"
    elif ":" in criteria.partition("?")[0]:
        raise FhirError("the topic is not known here", where="Subscription.criteria")
    else:
        found = (read_criteria(criteria), *(read_criteria(f) for f in filters))
        kind_of = found[0].kind
        # A content that is asked for in the words of the topics makes it a topic's subscription.
        topic = _TOPIC_OF.get(kind_of) if content is not None else None
        if content is not None and topic is None:
            raise FhirError("there is no topic of this type", where="Subscription.criteria")
        content = content or ("empty" if mime is None else "full-resource")
    heartbeat = _number(channel, "backport-heartbeat-period", "valueUnsignedInt")
    if heartbeat is not None:
        heartbeat = max(heartbeat, shortest)
    timeout = _number(channel, "backport-timeout", "valueUnsignedInt")
    most = _number(channel, "backport-max-count", "valuePositiveInt")
    end = None
    if told.get("end") is not None:
        end = read_instant(told["end"], UTC)
        if end is None:
            raise FhirError("the end is no instant", where="Subscription.end")
    headers = _headers(channel.get("header"), held)
    kept: dict[str, Any] = {
        "resourceType": "Subscription", "reason": reason, "criteria": criteria,
        "channel": {k: channel[k] for k in ("extension", "type", "endpoint", "payload", "_payload")
                    if k in channel},
    }  # fmt: skip
    if headers:
        kept["channel"]["header"] = [f"{n}: {v}" for n, v in headers]
    if filters:
        kept["_criteria"] = told["_criteria"]
    if end is not None:
        kept["end"] = told["end"]
    if topic is not None:
        kept["meta"] = {"profile": [BACKPORT + "backport-subscription"]}
    try:
        # Extensions are kept as they are: what no answer could show again is not taken.
        json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise FhirError("a number or a text cannot be told again", where="Subscription") from None
    return Wanted(
        kind_of, found, topic, endpoint, headers, content, r4b, heartbeat, timeout,
        1 if most is None else min(most, _MOST), end, kept,
    )  # fmt: skip


def shown(row: SubscriptionRow) -> dict[str, Any]:
    """The resource as its owner may see it: values of headers are hidden."""
    body = dict(row.body)
    out: dict[str, Any] = {
        "resourceType": "Subscription",
        "id": row.id,
        "meta": {**body.pop("meta", {}), "versionId": str(row.version),
                 "lastUpdated": instant(row.changed)},
        "status": row.status,
        **{k: v for k, v in body.items() if k not in ("resourceType", "id", "status", "error")},
    }  # fmt: skip
    channel = dict(body["channel"])
    if "header" in channel:
        channel["header"] = [f"{h.partition(':')[0]}: {HIDDEN}" for h in channel["header"]]
    out["channel"] = channel
    if row.error is not None:
        out["error"] = row.error
    return out


def _headers(told: Any, held: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    where = "Subscription.channel.header"
    if told is None:
        return ()
    if not isinstance(told, list) or len(told) > 20:
        raise FhirError("the headers are no short list", where=where)
    before: dict[str, str] = {}
    for line in (held or {}).get("channel", {}).get("header", ()):
        name, _, value = line.partition(": ")
        before[name.lower()] = value
    out = []
    for line in told:
        found = _HEADER.fullmatch(line) if isinstance(line, str) else None
        if found is None:
            raise FhirError("a header is no line of name and value", where=where)
        name, value = found[1], found[2]
        if name.lower() in _KEPT or name.lower().startswith("proxy-"):
            raise FhirError("a header is not taken: the service sets it itself", where=where)
        if value == HIDDEN:
            value = before.get(name.lower(), "")
        out.append((name, value))
    return tuple(out)


def _text(held: Mapping[str, Any], name: str, where: str) -> str:
    value = held.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST:
        raise FhirError("a text of sensible length is needed", where=where)
    if not value.isprintable():
        raise FhirError("the text holds control characters", where=where)
    return value.strip()


def _extensions(held: Any, name: str, value: str) -> list[Any]:
    found = held.get("extension") if isinstance(held, Mapping) else None
    return [
        e[value] for e in (found if isinstance(found, list) else ())
        if isinstance(e, Mapping) and e.get("url") == BACKPORT + name
        and isinstance(e.get(value), str | int) and not isinstance(e.get(value), bool)
    ]  # fmt: skip


def _extension(held: Any, name: str, value: str) -> Any:
    found = _extensions(held, name, value)
    return found[0] if found else None


def _number(channel: Mapping[str, Any], name: str, value: str) -> int | None:
    told = _extension(channel, name, value)
    if told is None:
        return None
    if not isinstance(told, int) or not 1 <= told <= 86400 * 30:
        raise FhirError(f"{name} is no sensible number", where="Subscription.channel")
    return told
