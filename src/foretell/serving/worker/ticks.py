"""The hands of the clock: time reaches the fold only as events."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from threading import Event as Signal

from foretell.serving.errors import StoreUnavailableError
from foretell.serving.events import tick
from foretell.serving.store.base import Store

log = logging.getLogger("foretell.serving.ticks")
HOLD = "hold ticks"
"""Mark of the store: exports that are read, and until when each holds the clock (since 1970)."""

JUMP = 120.0
"""Seconds by which the clock may be set at once."""


def _uptime() -> float:
    # Goes on while the machine is suspended, unlike the monotonic clock.
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


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
        self._anchor: tuple[float, float] | None = None

    def run(self, stop: Signal, wake: Signal | None = None) -> None:
        """Ticks until told to stop."""
        while not stop.is_set():
            try:
                if self.once() and wake is not None:
                    wake.set()
            except StoreUnavailableError as error:
                log.warning("no tick: %s", error)
            stop.wait(self._every)

    def _steady(self, now: float) -> bool:
        """Whether the clock went as far as the machine's uptime did.

        A jump ahead would close hours that have not passed, for good; the heart stops beating
        until the clock is right again or the service is started anew.
        """
        up = _uptime()
        if self._anchor is None:
            self._anchor = (now, up)
        skew = (now - self._anchor[0]) - (up - self._anchor[1])
        if abs(skew) > JUMP:
            log.critical("the clock jumped by %.0f seconds: no tick", skew)
            return False
        # What is slewed slowly is right.
        if abs(skew) < 2.0:
            self._anchor = (now, up)
        return True

    def once(self) -> int:
        """Ticks where something is due; returns how many partitions."""
        if self._clock is None:
            self._store.beat()
            return 0
        if not self._steady(self._clock()):
            return 0
        self._store.beat()
        if warming(self._store):
            return 0
        # Several tickers agree on whole steps of time; a clock that jumps back says nothing new.
        now = math.floor(self._clock() / self._every) * self._every
        if now <= self._last:
            return 0
        self._last = now
        return send_ticks(self._store, now)


def warming(store: Store) -> bool:
    """Whether a bulk export is being read: what happened in an hour may still come."""
    told = store.mark(HOLD)
    return told is not None and max(json.loads(told).values(), default=0.0) > time.time()


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
