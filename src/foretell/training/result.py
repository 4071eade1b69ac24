"""How training ended, and how Ctrl-C ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """How training went.

    Attributes:
        history: one entry each ``validate_every`` steps: ``step``, ``loss`` (mean since the entry
            before), ``lr``, ``validation`` (None without), ``seconds``.
        steps: steps made.
        best_step: number of steps after which the validation score was best; None without one.
        best_score: that score, lower is better; None without one.
        stopped: ``max_steps``, ``patience``, ``time_limit`` or ``interrupted``.
        seconds: time in training, over all resumptions.
        skipped: steps whose examples all had weight 0, in which nothing was learned.
    """

    history: list[dict[str, Any]]
    steps: int
    best_step: int | None
    best_score: float | None
    stopped: str
    seconds: float
    skipped: int = 0


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C, between two steps.

    Attributes:
        result: how far it went; the learner holds the weights it would have ended with.
        checkpoint: file to resume from, by the same call with ``resume=True``; None when no
            folder was given.
    """

    def __init__(self, result: FitResult, checkpoint: Path | None) -> None:
        self.result, self.checkpoint = result, checkpoint
        how = f"resume from {checkpoint}" if checkpoint else "no checkpoint folder was given"
        super().__init__(f"training interrupted after {result.steps} steps: {how}")


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event, seen between steps; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
