"""What a door hears, and when: clocks of senders that are wrong, channels that fell silent."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

LIMIT = 300.0
"""Seconds by which a sender's clock may differ before its results are flagged."""
_MOST_SOURCES = 500


class Sender(NamedTuple):
    """Who sends, as a site's operators know them.

    The ``name`` is the sender's own word: it is for those who may ask for it, and no label of a
    metric.
    """

    site: str
    door: str
    name: str


class Clock(NamedTuple):
    """How far a sender's clock is ahead of ours, in seconds, judged by so many messages."""

    ahead: float
    messages: int


class ClockSkews:
    """How far the clocks of senders are from ours, judged by their last messages.

    Of each source the median of (time that the message says - time of its receipt) counts: some
    messages that lie about their time, or that waited in a queue, do not move it. A queue that is
    worked off for long does, downwards: a sender that seems slow may be one that was cut off.

    Args:
        limit: seconds beyond which a clock is called wrong.
        window: messages of a source that are looked at.
        least: below which nothing is said.
    """

    def __init__(self, *, limit: float = LIMIT, window: int = 101, least: int = 9) -> None:
        self._limit, self._window, self._least = limit, window, least
        self._held: dict[Sender, deque[float]] = {}
        self._skews: dict[Sender, float] = {}
        self._lock = threading.Lock()

    @property
    def limit(self) -> float:
        """Seconds beyond which a clock is called wrong."""
        return self._limit

    def heard(self, source: Sender, sent: float | None, received: float) -> float | None:
        """Takes a message; returns the skew of its source where that is beyond the limit.

        Args:
            source: who sent it.
            sent: when, by its own clock; None where it does not say.
            received: when it came, by ours.
        """
        if sent is None or not math.isfinite(sent):
            return None
        with self._lock:
            held = self._held.get(source)
            if held is None:
                if len(self._held) >= _MOST_SOURCES:
                    return None
                held = self._held[source] = deque(maxlen=self._window)
            held.append(sent - received)
            if len(held) < self._least:
                return None
            skew = self._skews[source] = statistics.median(held)
        return skew if abs(skew) > self._limit else None

    def told(self) -> dict[Sender, Clock]:
        """The clock of each sender of whom enough was heard."""
        with self._lock:
            return {who: Clock(s, len(self._held[who])) for who, s in self._skews.items()}

    def worst(self, named: Callable[[str], str] = str) -> dict[tuple[str, str], float]:
        """(site, door) -> seconds by which that clock is ahead which is furthest from ours.

        Args:
            named: what a site is called; sites of one name count as one.
        """
        found: dict[tuple[str, str], float] = {}
        for who, clock in self.told().items():
            place = named(who.site), who.door
            found[place] = max(found.get(place, 0.0), clock.ahead, key=abs)
        return found


class Silences:
    """When each channel of each site was heard of last.

    Args:
        limits: (site, channel) -> hours of silence that are too long. These channels count as
            heard when the process begins, so that one that never speaks is missed, too.
        now: when that is.
    """

    def __init__(self, limits: Mapping[tuple[str, str], float], now: float | None = None) -> None:
        moment = time.time() if now is None else now
        self.limits = dict(limits)
        self._last = dict.fromkeys(self.limits, moment)
        self._lock = threading.Lock()

    def heard(self, site: str, channels: Iterable[str], received: float) -> None:
        """Takes the channels of a message."""
        with self._lock:
            for channel in channels:
                key = (site, channel)
                self._last[key] = max(self._last.get(key, received), received)

    def told(self, now: float) -> dict[tuple[str, str], float]:
        """(site, channel) -> seconds of silence."""
        with self._lock:
            return {key: max(now - last, 0.0) for key, last in self._last.items()}
