"""A duty that one process at a time has for all: doors with the same polls ask a server once."""

from __future__ import annotations

import logging
import threading
import time
from threading import Event as Signal

from foretell.serving.errors import FencedError, StoreUnavailableError
from foretell.serving.store.base import Lease, Store
from foretell.serving.worker.leases import worker_name

log = logging.getLogger("foretell.serving.duty")


class Duty:
    """A lease in the store, renewed by a thread of its own as long as the process lives.

    Whoever has it says so by :attr:`lease` with every mark that it writes: a process that stood
    still, and whose duty is another's by now, writes none.

    Args:
        store: of the thread that renews.
        name: of the duty; those who mean the same have the same.
        owner: name of the process; unique by default.
        ttl: seconds after which the duty of a silent process is free.
    """

    def __init__(
        self, store: Store, name: str, *, owner: str | None = None, ttl: float = 5.0
    ) -> None:
        self._store, self._name, self._ttl = store, name, ttl
        self._owner = owner or worker_name()
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._until = 0.0
        store.share(name)

    @property
    def lease(self) -> Lease:
        """The lease.

        Raises:
            FencedError: it is not, or not surely, this process's.
        """
        with self._lock:
            if self._lease is None or time.monotonic() >= self._until:
                raise FencedError(f"another process has the duty {self._name!r}")
            return self._lease

    @property
    def held(self) -> bool:
        """Whether the duty is this process's."""
        try:
            return self.lease is not None
        except FencedError:
            return False

    def keep(self) -> bool:
        """Takes or renews the duty; whether it is this process's."""
        begun = time.monotonic()
        try:
            found = self._store.acquire(self._name, self._owner, self._ttl, 1)
        except StoreUnavailableError:
            # What was renewed before holds until its time is over.
            return self.held
        with self._lock:
            before, self._lease = self._lease, found[0] if found else None
            self._until = begun + self._ttl
        if found and before is None:
            log.info("this process has taken over: %s", self._name.partition(" ")[0])
        return bool(found)

    def run(self, stop: Signal) -> None:
        """Keeps it until told to stop; then gives it back."""
        while not stop.is_set():
            self.keep()
            stop.wait(self._ttl / 4)
        self.leave()

    def leave(self) -> None:
        """Gives it back."""
        with self._lock:
            self._lease = None
        try:
            self._store.release(self._name, self._owner)
        except StoreUnavailableError:
            log.warning("a duty could not be given back and will expire")
