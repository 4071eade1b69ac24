"""Waiting for what happens in other processes and threads, however slow the machine is."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from typing import Any

# Nothing here is fast or slow enough to be judged by: it only ends a test that hangs.
PATIENCE = 180.0


def until(check: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Waits until something holds; returns it."""
    end = time.monotonic() + seconds
    while True:
        # Whoever was stopped for long between a look and the clock looks once more.
        late = time.monotonic() > end
        found = check()
        if found:
            return found
        assert not late, "it did not happen"
        time.sleep(0.02)


def settled(store: Any) -> None:
    """Waits until all that is in the log of a store is folded."""
    until(lambda: store.counts()["lag"] == 0)


_TURNS = itertools.count()


def free_port() -> int:
    """A port that nobody has, and that no connection is given by chance.

    It lies below those of which the system draws: a service that is started anew finds it free.
    """
    first, count = 20_000, 12_000
    for turn in itertools.islice(_TURNS, count):
        port = first + (os.getpid() * 97 + turn) % count
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("there is no free port")
