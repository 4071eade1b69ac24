"""Group commit: messages of many connections become durable in one transaction."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from foretell.serving.errors import ServingError, StoreUnavailableError
from foretell.serving.events import Delivery
from foretell.serving.store.base import Appended, Store

log = logging.getLogger("foretell.serving.ingest")


class BusyError(ServingError):
    """Too many messages wait: send again later."""


class Committer:
    """A thread that appends what was submitted, as much as waits at once.

    Args:
        store: from which its thread opens its own.
        most: messages that may wait; with more :meth:`submit` refuses.
        group: messages of one transaction.
        done: called after each commit.
    """

    def __init__(
        self, store: Store, *, most: int = 2048, group: int = 256,
        done: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._source, self._most, self._group, self._done = store, most, group, done
        self._waiting: deque[tuple[Delivery, Future[Appended]]] = deque()
        self._bell = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a door should stop reading."""
        return len(self._waiting) >= self._most

    def submit(self, delivery: Delivery) -> Future[Appended]:
        """Puts a message in line; the future is done when it is durable.

        Raises:
            BusyError: too many wait, or the service is stopping.
        """
        future: Future[Appended] = Future()
        with self._bell:
            if self._closing or len(self._waiting) >= self._most:
                raise BusyError("too many messages wait; send again later")
            self._waiting.append((delivery, future))
            self._bell.notify()
        return future

    def close(self) -> None:
        """Commits what waits and ends."""
        with self._bell:
            self._closing = True
            self._bell.notify()
        self._thread.join(60)

    def _run(self) -> None:
        store: Store | None = None
        while True:
            with self._bell:
                while not self._waiting and not self._closing:
                    self._bell.wait()
                if not self._waiting:
                    break
                size = min(len(self._waiting), self._group)
                group = [self._waiting.popleft() for _ in range(size)]
            try:
                if store is None:
                    store = self._source.another()
                self._commit(store, group)
            except Exception as error:
                if not isinstance(error, StoreUnavailableError):
                    # Its words may hold a message's content: only its kind is logged.
                    log.error("messages were not stored: %s", type(error).__name__)
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
                time.sleep(0.05)
            if self._done is not None:
                self._done()
        if store is not None:
            store.close()

    @staticmethod
    def _commit(store: Store, group: list[tuple[Delivery, Future[Appended]]]) -> None:
        try:
            results = store.append([d for d, _ in group])
        except StoreUnavailableError:
            raise
        except Exception:
            if len(group) == 1:
                raise
            # One message that cannot be stored must not take the others with it.
            for pair in group:
                try:
                    pair[1].set_result(store.append([pair[0]])[0])
                except Exception as error:
                    pair[1].set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            future.set_result(result)
