"""The hands of the clock: time reaches the fold only as events."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from threading import Event as Signal

from foretell.serving.errors import StoreUnavailableError
from foretell.serving.events import tick
from foretell.serving.store.base import Store

log = logging.getLogger("foretell.serving.ticks")


class Ticker:
    """Appends a tick to every partition in which an hour has ended, and beats the heart.

    Several may run: ticks of the same moment are one.

    Args:
        store: of this thread.
        clock: seconds since 1970; None where ticks come from outside, as in a replay.
        every: seconds between looks.
        beats: whether :meth:`run` beats the heart, whose silence must page somebody.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float] | None = time.time, every: float = 5.0
    ) -> None:
        self._store, self._clock, self._every = store, clock, every
        self._last = -math.inf

    def run(self, stop: Signal, wake: Signal | None = None) -> None:
        """Ticks until told to stop."""
        while not stop.is_set():
            try:
                if self.once() and wake is not None:
                    wake.set()
            except StoreUnavailableError as error:
                log.warning("no tick: %s", error)
            stop.wait(self._every)

    def once(self) -> int:
        """Ticks where something is due; returns how many partitions."""
        self._store.beat()
        if self._clock is None:
            return 0
        # Several tickers agree on whole steps of time; a clock that jumps back says nothing new.
        now = math.floor(self._clock() / self._every) * self._every
        if now <= self._last:
            return 0
        self._last = now
        return send_ticks(self._store, now)


def send_ticks(store: Store, now: float, *, everywhere: bool = False) -> int:
    """Ticks the partitions in which an hour ends by a time; returns how many.

    Args:
        store: of this thread.
        now: what time it is.
        everywhere: whether all partitions are told: where a time is told once only, stays that
            are in the log and not yet folded must hear it, too.
    """
    parts = list(range(store.partitions)) if everywhere else store.anything_due(now)
    if parts:
        store.append_events([tick(part, now) for part in parts])
    return len(parts)
