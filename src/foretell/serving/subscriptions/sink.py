"""Notifications to those who subscribed, as one of the outbox's receivers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from foretell.data.clinical.fhir import FhirError
from foretell.serving.config import SubscriptionsConfig
from foretell.serving.outbox.dispatcher import PermanentError
from foretell.serving.outbox.sinks import judged
from foretell.serving.store import Occurrence, OutboxRow, Store, SubscriptionRow
from foretell.serving.store.linked_sql import NOTIFICATION
from foretell.serving.subscriptions.focus import resources_of
from foretell.serving.subscriptions.notifications import notification
from foretell.serving.subscriptions.resource import Wanted, read_subscription

_JSON = "application/fhir+json"


class SubscriptionSink:
    """Sends notifications: in order per subscription, again until taken.

    A subscription with a topic becomes active when its endpoint has taken the handshake; one by a
    search as of R4 at once. What an endpoint refuses for good, or does not take for long, puts the
    subscription into error; its events are kept and go out when the owner asks for it anew.

    Args:
        config: of subscriptions; an endpoint that is not listed there any more is not notified.
        open_store: makes a store for the sender's thread.
        systems: see :func:`resources_of`.
    """

    name = "subscriptions"
    kinds = frozenset({NOTIFICATION})

    def __init__(
        self, config: SubscriptionsConfig, open_store: Callable[[], Store],
        systems: Mapping[str, str],
    ) -> None:  # fmt: skip
        import httpx

        self.attempts, self.longest = config.attempts, config.longest_pause_seconds
        self._config, self._open, self._systems = config, open_store, systems
        self._store: Store | None = None
        self._client = httpx.Client(timeout=config.timeout_seconds, follow_redirects=False)

    def send(self, row: OutboxRow) -> None:
        """See :class:`foretell.serving.outbox.Sink`."""
        if self._store is None:
            self._store = self._open()
        store, told = self._store, row.body
        held = store.subscription(str(told["subscription"]))
        if held is None or held.version != told["version"] or held.status in ("off", "error"):
            return
        try:
            wanted = read_subscription(held.body, self._config.endpoints)
        except FhirError as error:
            store.fail_subscription(held.id, error.problem, held.version)
            raise PermanentError("the subscription cannot be served any more") from None
        try:
            self._deliver(store, row, held, wanted)
        except PermanentError as error:
            store.fail_subscription(held.id, f"the endpoint {error}", held.version)
            raise
        except Exception as error:
            if row.attempts + 1 >= self.attempts:
                why = f"the endpoint does not answer: {type(error).__name__}"
                store.fail_subscription(held.id, why, held.version)
            raise
        if told["type"] == "handshake":
            store.activate_subscription(held.id, held.version, wanted.most)
        store.told_subscription(held.id)

    def _deliver(self, store: Store, row: OutboxRow, held: SubscriptionRow, wanted: Wanted) -> None:
        kind = str(row.body["type"])
        events = _events(store, held, row.body, self._systems)
        if wanted.topic is None:
            self._plain(row, wanted, events)
            return
        total = int(row.body["last"]) if "last" in row.body else held.events
        bundle = notification(
            held, wanted, kind, key=row.key, time=row.time, total=total, events=events,
            base=self._config.base,
        )  # fmt: skip
        self._request("POST", wanted.endpoint, row.key, wanted, bundle)

    def _plain(
        self, row: OutboxRow, wanted: Wanted,
        events: list[tuple[Occurrence, list[dict[str, Any]]]],
    ) -> None:  # fmt: skip
        """As of R4: an empty POST, or the resource by PUT below the endpoint."""
        for _, resources in events:
            if wanted.content == "empty":
                self._request("POST", wanted.endpoint, row.key, wanted, None)
                continue
            for one in resources:
                if one["resourceType"] != wanted.kind:
                    continue
                address = f"{wanted.endpoint.rstrip('/')}/{one['resourceType']}/{one['id']}"
                self._request("PUT", address, row.key, wanted, one)

    def _request(
        self, method: str, address: str, key: str, wanted: Wanted, body: dict[str, Any] | None
    ) -> None:
        headers = [*wanted.headers, ("Idempotency-Key", key)]
        content = b""
        if body is not None:
            headers.append(("Content-Type", _JSON))
            content = json.dumps(body, separators=(",", ":")).encode()
        limit = self._config.timeout_seconds
        timeout = limit if wanted.timeout is None else min(float(wanted.timeout), limit)
        answer = self._client.request(
            method, address, content=content, headers=headers, timeout=timeout
        )
        judged(answer.status_code)

    def close(self) -> None:
        """See :class:`foretell.serving.outbox.Sink`."""
        self._client.close()
        if self._store is not None:
            self._store.close()
            self._store = None


def _events(
    store: Store, held: SubscriptionRow, told: Any, systems: Mapping[str, str]
) -> list[tuple[Occurrence, list[dict[str, Any]]]]:
    if told["type"] != "event-notification":
        return []
    first, last = int(told["first"]), int(told["last"])
    events = store.occurrences(held.id, first, last, last - first + 1)
    return with_resources(store, events, systems)


def with_resources(
    store: Store, events: list[Occurrence], systems: Mapping[str, str]
) -> list[tuple[Occurrence, list[dict[str, Any]]]]:
    """Events, each with the resources that it names as they were then."""
    out = []
    for event in events:
        row = store.note(event.source)
        made = [] if row is None else resources_of(store, row, systems)
        named = [r for r in made if f"{r['resourceType']}/{r['id']}" in event.focus]
        out.append((event, named))
    return out
