"""From the outbox to receivers: in order per patient, again until taken, dead letters said."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from threading import Event as Signal
from typing import Protocol

from foretell.serving.errors import FencedError, ServingError, StoreUnavailableError
from foretell.serving.metrics import Metrics
from foretell.serving.store.base import Lease, OutboxRow, Store
from foretell.serving.worker.leases import worker_name

log = logging.getLogger("foretell.serving.outbox")


class PermanentError(ServingError):
    """The receiver will never take it: trying again is of no use."""


class Sink(Protocol):
    """A receiver.

    Attributes:
        name: for metrics.
        kinds: of rows that it takes.
        attempts: after which a row is a dead letter.
        longest: seconds between attempts at most.
    """

    name: str
    kinds: frozenset[str]
    attempts: int
    longest: float

    def send(self, row: OutboxRow) -> None:
        """Hands a row over; it may be the second time, which ``row.key`` tells the receiver.

        Raises:
            PermanentError: it will never be taken.
            OSError: not now; try again.
        """

    def close(self) -> None:
        """Ends its connections."""


class Feeder(Protocol):
    """Puts into the outbox what follows from what is in it."""

    def feed(self, store: Store, lease: Lease) -> int:
        """Looks at a partition that the sender has; returns how much it found."""


class Dispatcher:
    """Sends what waits in the partitions it has leases for.

    A row is marked only after the receiver took it: a crash in between sends it again, under the
    same key. With several sinks a row counts as sent when all have it; those that had it before a
    failure get it again, under the same key.

    Args:
        store: of this thread.
        sinks: the receivers; rows of kinds that none takes are done at once.
        name: of the sender; unique by default.
        ttl: seconds after which a silent sender's partitions are free.
        metrics: counts.
        feeder: is asked for each partition before it is sent.
        notifications: whether it sends those of subscriptions, and nothing else: with leases of
            its own, so that somebody's slow endpoint holds up no alarm.
    """

    def __init__(
        self,
        store: Store,
        sinks: Sequence[Sink],
        *,
        name: str | None = None,
        ttl: float = 5.0,
        metrics: Metrics | None = None,
        feeder: Feeder | None = None,
        notifications: bool = False,
    ) -> None:
        self._store, self._sinks, self._ttl = store, list(sinks), ttl
        self.name = name or worker_name()
        self._notifications = notifications
        self._kind = "notify" if notifications else "send"
        self._metrics, self._feeder = metrics, feeder
        self._leases: dict[int, Lease] = {}
        self._renew = 0.0

    def run(self, stop: Signal, pause: float = 0.1) -> None:
        """Sends until told to stop."""
        while not stop.is_set():
            try:
                self.keep_leases()
                count = self.once(stop)
            except FencedError:
                self._leases, self._renew = {}, 0.0
                continue
            except StoreUnavailableError as error:
                log.warning("the store is not available: %s", error)
                self._leases, self._renew, count = {}, 0.0, 0
                stop.wait(0.5)
            if count == 0:
                stop.wait(pause)
        try:
            self._store.release(self._kind, self.name)
            self._store.leave(self._kind, self.name)
        except StoreUnavailableError:
            log.warning("the leases could not be given back and will expire")
        for sink in self._sinks:
            sink.close()

    def keep_leases(self) -> None:
        """Renews leases and shares with others."""
        moment = time.monotonic()
        if moment < self._renew:
            return
        alive = max(self._store.join(self._kind, self.name, self._ttl), 1)
        share = math.ceil(self._store.partitions / alive)
        if len(self._leases) > share:
            self._store.release(self._kind, self.name, sorted(self._leases)[share:])
        found = self._store.acquire(self._kind, self.name, self._ttl, share)
        self._leases = {lease.partition: lease for lease in found}
        self._renew = moment + self._ttl / 3

    def once(self, stop: Signal | None = None) -> int:
        """Tries what can be sent now; returns how many rows were settled or tried."""
        count = 0
        for part, lease in sorted(self._leases.items()):
            if self._feeder is not None:
                count += self._feeder.feed(self._store, lease)
            for row in self._store.outbox(part, time.time(), 50, notifications=self._notifications):
                if stop is not None and stop.is_set():
                    return count
                self._settle(lease, row)
                count += 1
                # Renewed here as well: a slow receiver must not cost the lease.
                self.keep_leases()
                if part not in self._leases or self._leases[part].token != lease.token:
                    return count
        return count

    def _settle(self, lease: Lease, row: OutboxRow) -> None:
        refused: str | None = None
        for sink in self._sinks:
            if row.kind not in sink.kinds:
                continue
            try:
                sink.send(row)
            except PermanentError as error:
                self._count(sink, "refused")
                # The other receivers shall have it all the same.
                refused = f"{sink.name}: {error}"
                log.error("row %d is a dead letter: %s refused it", row.id, sink.name)
                continue
            except Exception as error:
                # Only the kind: the words may hold an address or a message.
                told = f"{sink.name}: {type(error).__name__}"
                attempts = row.attempts + 1
                if attempts >= sink.attempts:
                    self._count(sink, "dead")
                    self._store.sent(lease, row.id, error=told)
                    log.error("row %d is a dead letter after %d attempts", row.id, attempts)
                    return
                pause = min(0.2 * 2 ** min(attempts - 1, 20), sink.longest)
                self._count(sink, "retried")
                self._store.sent(lease, row.id, error=told, retry=time.time() + pause)
                return
            self._count(sink, "sent")
        self._store.sent(lease, row.id, error=refused)

    def _count(self, sink: Sink, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.sent.labels(sink.name, outcome).inc()
