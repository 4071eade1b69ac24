"""Which partitions a worker holds: leases that are shared with others, renewed, lost and left."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import time
from collections import OrderedDict
from threading import Event as Signal

from foretell.serving.errors import FencedError, StoreUnavailableError
from foretell.serving.store.base import Lease, Store
from foretell.serving.worker.fold import Fold
from foretell.serving.worker.overload import Overload
from foretell.serving.worker.partition import Key, Partition
from foretell.serving.worker.state import PatientState

log = logging.getLogger("foretell.serving.worker")


def worker_name() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Leases:
    """Holds partitions, and the patients of theirs that are in memory.

    See :class:`foretell.serving.worker.Worker` for its arguments.
    """

    def __init__(
        self, store: Store, fold: Fold, name: str | None, ttl: float, recover: float | None,
        overload: Overload | None,
    ) -> None:  # fmt: skip
        self.store, self.fold, self.ttl = store, fold, ttl
        self.name = name or worker_name()
        self._recover, self._overload = recover, overload
        self._parts: dict[int, Partition] = {}
        self._held: OrderedDict[Key, PatientState] = OrderedDict()
        # The last event of the log when there was nothing left to fold.
        self._head = -1
        self._renew = self._breathed = 0.0
        fold.strict = True
        fold.history, fold.between = store.cells, self._breathe

    @property
    def leases(self) -> dict[int, Lease]:
        """By partition."""
        return {number: part.lease for number, part in self._parts.items()}

    def work(self) -> int:
        """Folds what is new in the partitions held; returns how many events that were."""
        raise NotImplementedError

    def run(self, stop: Signal, *, wake: Signal | None = None, pause: float = 0.02) -> None:
        """Works until told to stop, then gives its leases back."""
        delay = 0.05
        self.fold.warm()
        while not stop.is_set():
            try:
                self.keep_leases()
                count = self.work()
                delay = 0.05
            except FencedError:
                log.warning("a lease was lost; its partitions are left alone")
                self.forget()
                continue
            except StoreUnavailableError as error:
                log.warning("the store is not available: %s", error)
                self.forget()
                stop.wait(delay)
                delay = min(delay * 2, 2.0)
                continue
            if count == 0:
                if wake is not None:
                    wake.wait(pause)
                    wake.clear()
                else:
                    stop.wait(pause)
        self.leave()

    def leave(self) -> None:
        """Gives the leases back, so that others need not wait for them to expire."""
        try:
            self.store.release("work", self.name)
            self.store.leave("work", self.name)
        except StoreUnavailableError:
            log.warning("the leases could not be given back and will expire")
        self.forget()

    def forget(self) -> None:
        """Drops all that is held in memory: the store knows better."""
        self.fold.drop_effects()
        self._parts = {}
        self._held.clear()
        self._head, self._renew = -1, 0.0

    def keep_leases(self, *, now: bool = False) -> None:
        """Renews leases when a third of their time has passed, and shares with other workers."""
        moment = time.monotonic()
        if not now and moment < self._renew:
            return
        alive = max(self.store.join("work", self.name, self.ttl), 1)
        share = math.ceil(self.store.partitions / alive)
        if len(self._parts) > share:
            given = sorted(self._parts)[share:]
            self.store.release("work", self.name, given)
        found = self.store.acquire("work", self.name, self.ttl, share)
        for number in set(self._parts) - {lease.partition for lease in found}:
            self._lose(number)
        for lease in found:
            mine = self._parts.get(lease.partition)
            if mine is None or mine.lease.token != lease.token:
                self._take(lease)
            else:
                mine.lease = lease
        self._renew = self._breathed = moment + self.ttl / 3

    def _breathe(self) -> None:
        """Within a batch, which may be long: renews the leases, and takes or gives none.

        Otherwise a worker that is slower than its leases would lose them before every commit, and
        with them its work, for ever.

        Raises:
            FencedError: another worker has one of the partitions by now.
        """
        moment = time.monotonic()
        if moment < self._breathed or not self._parts:
            return
        self.store.join("work", self.name, self.ttl)
        found = {x.partition: x.token for x in self.store.acquire("work", self.name, self.ttl, 0)}
        for number, part in self._parts.items():
            if found.get(number) != part.lease.token:
                raise FencedError(f"another owner has partition {number} by now")
        self._breathed = moment + self.ttl / 3

    def _take(self, lease: Lease) -> None:
        number = lease.partition
        self._lose(number)
        rows = self.store.stays(number)
        told = self.store.lineup(number, lease.applied)
        self._parts[number] = Partition(
            lease, rows, self.store.journal(number), None if told is None else told["lineup"],
            time.monotonic() + (self._recover or 0.0),
        )  # fmt: skip
        if self._overload is not None:
            self._overload.take(number, rows)
        self._head = -1

    def _lose(self, number: int) -> None:
        if self._parts.pop(number, None) is None:
            return
        if self._overload is not None:
            self._overload.lose(number)
        for key in [k for k, s in self._held.items() if s.partition == number]:
            del self._held[key]
