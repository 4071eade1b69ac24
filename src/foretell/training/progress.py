"""A line that says how training goes: loss, validation score, time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from foretell.training.settings import Settings


class Progress:
    """Rich progress on standard error; silent unless asked for and before a terminal.

    Args:
        settings: whose ``progress`` and ``max_steps`` count.
        step: steps made before.
        console: where to draw; standard error by default.
    """

    def __init__(self, settings: Settings, step: int = 0, console: Console | None = None) -> None:
        self._bar: Bar | None = None
        if not settings.progress:
            return
        console = console or Console(stderr=True)
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  validation {task.fields[validation]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "training", total=settings.max_steps, completed=step, loss="-", validation="-"
            )

    def __enter__(self) -> Progress:
        """Starts drawing."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clears the line."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss_sum: float, loss_steps: int) -> None:
        """Moves the bar; the loss shown is the mean since the last entry of the history."""
        if self._bar is None:
            return
        self._bar.update(self._task, completed=step)
        if loss_steps:
            self._bar.update(self._task, loss=f"{loss_sum / loss_steps:.4g}")

    def log(self, entry: dict[str, Any]) -> None:
        """Shows a validation score."""
        if self._bar is not None and entry["validation"] is not None:
            self._bar.update(self._task, validation=f"{entry['validation']:.4g}")
