"""When a worker is behind, and whom it serves first then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from foretell.errors import ParameterError
from foretell.serving.store.base import StateRow, StayRow
from foretell.serving.worker.hours import UNANSWERED


class Overload:
    """What a worker knows of how far behind it is, and of the risks in its partitions.

    Args:
        bound: seconds that an event may wait before the worker counts as behind; with less than
            half of them it is behind no more.
        patience: seconds that a partition waits at most behind others with higher risks.
        urgent: score from which on a stay comes before others, by site, scorer and unit: points
            of a bedside rule have a scale of their own.
        clock: seconds since 1970, as events' receipt is told.

    Raises:
        ParameterError: bounds that are not positive.
    """

    def __init__(
        self, bound: float = 60.0, *, patience: float = 30.0,
        urgent: Callable[[str, str, str | None], float] = lambda site, model, unit: 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        if bound <= 0 or patience <= 0:
            raise ParameterError("the bounds of an overload are seconds, more than 0")
        self._bound, self._patience, self._urgent, self._clock = bound, patience, urgent, clock
        # By partition: (whether an alarm is unanswered, share of the urgent score) of stays;
        # receipt of the last event that was folded; when it was served last.
        self._risks: dict[int, dict[tuple[str, str], tuple[bool, float]]] = {}
        self._heard: dict[int, float] = {}
        self._served: dict[int, float] = {}

    def behind(self, received: float) -> bool:
        """Whether an event that is to be folded has waited too long."""
        return self._clock() - received > self._bound

    def calm(self, partition: int) -> bool:
        """Whether the last event that was folded had hardly waited."""
        return self._clock() - self._heard.get(partition, 0.0) < self._bound / 2

    def take(self, partition: int, rows: Iterable[StayRow]) -> None:
        """Takes a partition over."""
        self._risks[partition] = {
            (r.site, r.patient): (r.alarmed, self._share(r.risk, r.site, r.model, r.unit))
            for r in rows if r.due is not None
        }  # fmt: skip
        self._served[partition] = self._clock()

    def lose(self, partition: int) -> None:
        """Forgets a partition."""
        for held in (self._risks, self._heard, self._served):
            held.pop(partition, None)  # type: ignore[attr-defined]

    def folded(self, partition: int, received: float | None) -> None:
        """After what was new in a partition: when the last event was received, None for none."""
        self._served[partition] = self._clock()
        if received is not None:
            self._heard[partition] = received

    def seen(self, row: StateRow) -> None:
        """Takes what is shown of a patient."""
        held = self._risks[row.partition]
        if row.due is None or row.view is None:
            held.pop((row.site, row.patient), None)
        else:
            view = row.view
            share = self._share(view["risk"], row.site, view["model"], view["unit"])
            held[row.site, row.patient] = view["policy"] in UNANSWERED, share

    def _share(self, risk: float | None, site: str, model: str, unit: str | None) -> float:
        return 0.0 if risk is None else risk / max(self._urgent(site, model, unit), 1e-9)

    def in_turn(self, partitions: Sequence[int]) -> list[int]:
        """Partitions, those first that waited too long, then those with the most urgent stays.

        Args:
            partitions: in the order that holds among equals.
        """
        now = self._clock()

        def place(partition: int) -> tuple[float, int, float]:
            waited = now - self._served.get(partition, now)
            stays = self._risks.get(partition, {}).values()
            urgent = sum(alarmed or share >= 1 for alarmed, share in stays)
            highest = max((share for _, share in stays), default=0.0)
            return -waited if waited > self._patience else 0.0, -urgent, -highest

        return sorted(partitions, key=place)
