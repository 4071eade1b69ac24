"""From what the fold has said to the events of those who subscribed, numbered without gaps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from foretell.data.clinical.fhir import FhirError
from foretell.serving.config import SubscriptionsConfig
from foretell.serving.store import Lease, Occurrence, Store, SubscriptionRow
from foretell.serving.subscriptions.focus import resources_of
from foretell.serving.subscriptions.resource import Wanted, read_subscription

if TYPE_CHECKING:
    from foretell.serving.api.auth import Caller

log = logging.getLogger("foretell.serving.subscriptions")
_BATCH = 200


class FanOut:
    """Reads a partition's outbox once and numbers events, in the transaction that moves the mark.

    The owner's rights are looked up each time: whose token is gone from the configuration, or has
    lost a site, hears no more of it.

    Args:
        config: of subscriptions.
        callers: the caller of a name, None where there is none any more.
        systems: see :func:`resources_of`.
    """

    def __init__(
        self, config: SubscriptionsConfig, callers: Callable[[str], Caller | None],
        systems: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._config, self._callers, self._systems = config, callers, systems
        self._read: dict[tuple[str, int], Wanted] = {}
        self._looked = 0.0
        self._beaten: dict[int, float] = {}

    def feed(self, store: Store, lease: Lease) -> int:
        """What is new in a partition; returns how many rows were read."""
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._looked = now
            self._end(store)
        if now - self._beaten.get(lease.partition, 0.0) > 0.5:
            self._beaten[lease.partition] = now
            store.heartbeats(lease.partition)
        rows = store.fresh_notes(lease.partition, _BATCH)
        if not rows:
            return 0
        # Read after the rows: whoever subscribed before one was written is among them.
        live = self._live(store)
        found: dict[str, list[Occurrence]] = {}
        for row in rows:
            wants = [
                (s, w) for s, c, w in live if row.created >= s.since and c.may("read", row.site)
            ]
            resources = resources_of(store, row, self._systems) if wants else []
            for subscription, wanted in wants:
                matching = [r for r in resources if wanted.matches(row.site, r)]
                if not matching:
                    continue
                others = [r for r in resources if r not in matching]
                if wanted.topic is None:
                    others = []
                focus = tuple(f"{r['resourceType']}/{r['id']}" for r in matching + others)
                event = Occurrence(row.key, row.time, focus)
                found.setdefault(subscription.id, []).append(event)
        most = {s.id: w.most for s, _, w in live}
        store.notify(lease, rows[-1].id, found, most=most, keep=self._config.keep)
        return len(rows)

    def _live(self, store: Store) -> list[tuple[SubscriptionRow, Caller, Wanted]]:
        out = []
        for row in store.subscriptions(statuses=("requested", "active", "error")):
            caller = self._callers(row.owner)
            if caller is None or not {"read", "subscribe"} <= caller.scopes:
                if row.status != "error":
                    log.warning("a subscription's owner may not read any more")
                    store.fail_subscription(row.id, "the owner may not read any more")
                continue
            wanted = self._wanted(store, row)
            if wanted is not None:
                out.append((row, caller, wanted))
        return out

    def _wanted(self, store: Store, row: SubscriptionRow) -> Wanted | None:
        key = (row.id, row.version)
        held = self._read.get(key)
        if held is None:
            try:
                held = read_subscription(row.body, self._config.endpoints)
            except FhirError as error:
                if row.status != "error":
                    store.fail_subscription(row.id, error.problem)
                return None
            if len(self._read) > 10_000:
                self._read.clear()
            self._read[key] = held
        return held

    def _end(self, store: Store) -> None:
        """Switches off what has an end that has come."""
        for row in store.subscriptions(statuses=("requested", "active", "error")):
            if "end" not in row.body:
                continue
            wanted = self._wanted(store, row)
            if wanted is not None and wanted.end is not None and wanted.end <= time.time():
                store.change_subscription(row.id, row.body, "off", None)
