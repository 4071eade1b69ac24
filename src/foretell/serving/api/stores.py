"""Stores for the threads that answer requests."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

from foretell.serving.errors import StoreUnavailableError
from foretell.serving.store.base import Store


class StorePool:
    """Lends connections to a store.

    Args:
        store: of which further ones are opened.
        most: lent at once; others wait.
    """

    def __init__(self, store: Store, most: int = 8) -> None:
        self._store = store
        self._free: queue.LifoQueue[Store | None] = queue.LifoQueue()
        for _ in range(most):
            self._free.put(None)

    @contextmanager
    def use(self, patience: float = 10.0) -> Iterator[Store]:
        """A store for as long as the block lasts.

        Raises:
            StoreUnavailableError: none became free in time.
        """
        try:
            held = self._free.get(timeout=patience)
        except queue.Empty:
            raise StoreUnavailableError("all connections to the store are busy") from None
        try:
            if held is None:
                held = self._store.another()
            yield held
        except StoreUnavailableError:
            if held is not None:
                held.close()
                held = None
            raise
        finally:
            self._free.put(held)

    def close(self) -> None:
        """Closes what is not lent."""
        while True:
            try:
                held = self._free.get_nowait()
            except queue.Empty:
                return
            if held is not None:
                held.close()
