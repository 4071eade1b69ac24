"""A partition of the log: how far a worker has folded it, and how far in the batch at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from foretell.serving.events import Event
from foretell.serving.store.base import Lease, StateRow, StayRow
from foretell.serving.worker.availability import (
    ON,
    OWE,
    SETTLE,
    SPARE,
    Availability,
    JournalRow,
    lot,
)
from foretell.serving.worker.state import PatientState

Key = tuple[str, str]
"""Site and patient."""

_LONGEST_PAUSE = 3600.0


class Partition:
    """What a worker knows of a partition that it holds.

    Of the batch at hand it keeps what only counts once that is committed: :meth:`begin` drops it,
    :meth:`committed` makes it the past.

    Args:
        lease: under which it is held.
        rows: of its stays.
        journal: of what failed and was owed in it.
        lineup: who speaks, as far as it is folded.
        retry: moment (monotonic) from which on what failed is tried again: what failed for another
            worker may not fail for this one.

    Attributes:
        cursor: the last event that is folded and committed.
        due: patient -> when their next hour ends.
        owed: patients of whom closed hours are still to be computed anew.
        spared: of those, the ones for whom that has failed.
        reached: the last event that is folded.
        moved: whether there is anything to commit.
        first: the first event of the batch.
        speaks: the lineup that holds behind ``reached``.
    """

    def __init__(
        self, lease: Lease, rows: Iterable[StayRow], journal: Iterable[JournalRow],
        lineup: dict[str, Any] | None, retry: float,
    ) -> None:  # fmt: skip
        rows = list(rows)
        self.number, self.lease, self.cursor = lease.partition, lease, lease.applied
        self.due: dict[Key, float] = {(r.site, r.patient): r.due for r in rows if r.due is not None}
        self.owed: set[Key] = {(r.site, r.patient) for r in rows if r.owed is not None}
        self.spared: set[Key] = set()
        self.journal = Availability(journal, lease.applied)
        self._lineup = lineup
        self._retry, self._pause = retry, 0.0
        # How many rows of the journal that say what was computed were followed.
        self._followed = sum(row.at <= lease.applied for row in self.journal.settled)
        self.begin()

    def begin(self) -> None:
        """Begins a batch behind what is committed."""
        self.reached, self.moved = self.cursor, False
        self.first: int | None = None
        self.speaks = self._lineup
        self._follows = self._followed

    def reach(self, seq: int) -> None:
        """Takes an event as folded."""
        self.reached, self.moved = seq, True

    def committed(self) -> None:
        """Takes what was folded as kept."""
        self.cursor, self._lineup = self.reached, self.speaks
        # What this worker has computed it need not follow.
        new = self.journal.advance(self.cursor)
        self._followed = self._follows + sum(row.kind == SETTLE for row in new)
        if not self.journal.any_off:
            self._pause = 0.0

    def keep(self, row: StateRow) -> None:
        """Takes what was written of a patient."""
        key = (row.site, row.patient)
        if row.due is None:
            self.due.pop(key, None)
        else:
            self.due[key] = row.due
        if row.owed is None:
            self.owed.discard(key)
            self.spared.discard(key)
        else:
            self.owed.add(key)

    def ending(self, time: float, touched: Mapping[Key, PatientState]) -> list[Key]:
        """Patients of whom an hour ends by a time, also in this batch, in order."""
        due = dict(self.due)
        for key, state in touched.items():
            if state.partition != self.number:
                continue
            if state.open:
                due[key] = state.hour_end(state.closed + 1)
            else:
                due.pop(key, None)
        return sorted(key for key, when in due.items() if when <= time)

    def owing(self, touched: Mapping[Key, PatientState]) -> list[Key]:
        """Of whom something is owed, also in this batch, in the order in which it is computed."""
        found = set(self.owed)
        for key, state in touched.items():
            if state.partition == self.number:
                (found.discard if state.owed is None else found.add)(key)
        return sorted(found, key=lambda key: lot(*key))

    def to_follow(self, seq: int) -> JournalRow | None:
        """What, by the journal, was computed next before an event; None for nothing more."""
        settled = self.journal.settled
        if self._follows >= len(settled) or settled[self._follows].at >= seq:
            return None
        row = settled[self._follows]
        self._follows += 1
        self.moved = True
        return row

    def say(self, kind: str, at: int, key: Key = ("", ""), version: str = "",
            reason: str = "") -> None:  # fmt: skip
        """Keeps in the journal what happened, with the batch."""
        self.journal.pending.append(JournalRow(self.number, at, *key, version, kind, reason))

    def undo(self) -> None:
        """After a batch that failed: nothing of what is owed was computed."""
        self.journal.pending = [r for r in self.journal.pending if r.kind != SETTLE]

    def spare(self, at: int, key: Key) -> None:
        """Leaves owing what a patient is owed, until the next event of theirs."""
        self.spared.add(key)
        self.say(SPARE, at, key)

    def burdened(self, event: Event) -> bool:
        """Before an event: from here on recomputation is owed; returns whether that is new."""
        if self.journal.owing(event.seq):
            return False
        self.say(OWE, event.seq)
        return True

    def failed(self, recover: float | None) -> None:
        """Puts off when what failed is tried again: twice as long after each further failure."""
        if recover is not None:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE) or recover
            self._retry = time.monotonic() + self._pause

    def tried_again(self, event: Event) -> list[str]:
        """Before an event: what failed long ago is asked again; returns which scorers."""
        journal = self.journal
        if not journal.any_off or journal.pending or time.monotonic() < self._retry:
            return []
        versions = journal.versions()
        for version in versions:
            self.say(ON, event.seq, version=version)
        # Until it has proved itself, what follows is another failure.
        self._retry = math.inf
        return versions
