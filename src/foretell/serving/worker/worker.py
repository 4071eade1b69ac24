"""A worker: holds leases on partitions, folds their events and keeps what follows, at once."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from foretell.serving.errors import FencedError, ScorerFailedError, StoreUnavailableError
from foretell.serving.events import LADDER, TICK, Event
from foretell.serving.store.base import Effects, Store
from foretell.serving.worker.availability import OFF, SETTLE, SKIP, JournalRow, lot
from foretell.serving.worker.fold import Fold
from foretell.serving.worker.leases import Leases
from foretell.serving.worker.overload import Overload
from foretell.serving.worker.partition import Key, Partition
from foretell.serving.worker.state import PatientState

log = logging.getLogger("foretell.serving.worker")
_DEEP = 16
"""Batches that a commit takes at most."""


class Watcher(Protocol):
    """Told of what a worker did; for metrics."""

    def folded(self, effects: Effects, waited: list[float]) -> None:
        """After a commit: its effects, and the seconds since each event was received."""


class Worker(Leases):
    """Folds the events of its partitions.

    A scorer that fails is left alone, for a patient or (where it fails for several) for all of a
    partition, until it is tried again. Both are kept in a journal, in the transaction of what
    follows from them: a replay leaves the same ones alone at the same events, and gives the same
    bytes although nothing fails in it.

    A worker that is behind takes the partitions with the highest risks first, and leaves owing what
    late results change in closed hours, until it is behind no more or the stay's next hour closes:
    see :class:`Overload`. From when to when is in the journal, too.

    Args:
        store: of this thread.
        fold: of this thread.
        name: of the worker; unique by default.
        ttl: seconds after which a silent worker's partitions are free.
        batch: events of a partition that are read at once.
        keep: patients held in memory.
        watcher: told after each commit.
        recover: seconds after which a scorer that failed is tried again, doubled with every
            further failure; None for never, as in a replay.
        overload: when it is behind; None for never, as in a replay: what the journal says was owed
            and computed is so all the same.
    """

    def __init__(
        self,
        store: Store,
        fold: Fold,
        *,
        name: str | None = None,
        ttl: float = 3.0,
        batch: int = 256,
        keep: int = 20_000,
        watcher: Watcher | None = None,
        recover: float | None = 60.0,
        overload: Overload | None = None,
    ) -> None:
        super().__init__(store, fold, name, ttl, recover, overload)
        self._batch, self._keep, self._watcher = batch, keep, watcher
        # Whether events are taken one by one, to find the one that cannot be taken.
        self._careful = False
        # The partition at which time ran out.
        self._served = -1
        # Seconds that it takes to say what is shown of a patient, learned on the way.
        self._showing = 0.002
        # In this batch: a patient's partition and last event, and behind which event what a patient
        # was owed was computed; whose hours are computed just now.
        self._last: dict[Key, tuple[Partition, int]] = {}
        self._settled: dict[Key, tuple[Partition, int]] = {}
        self._settles: tuple[Partition, int, Key] | None = None

    def forget(self) -> None:
        """Drops all that is held in memory: the store knows better."""
        super().forget()
        self._last, self._settled, self._settles = {}, {}, None

    def work(self) -> int:
        """Folds what is new in the partitions held; returns how many events that were.

        An event that the fold cannot take is left out for its patient alone, and said in the log:
        it must not stop the partition. To find it the events are taken one by one.
        """
        try:
            return self._work(1 if self._careful else self._batch)
        except (FencedError, StoreUnavailableError):
            raise
        except Exception as error:
            if self._settles is not None:
                self._spare(error)
                return 1
            if isinstance(error, ScorerFailedError):
                self._failed(error)
                return 1
            if self._careful:
                raise
            log.error("events cannot be folded together: %s", type(error).__name__)
            self._again()
            self._careful = True
            return 1

    def _again(self) -> None:
        """Forgets a batch: its events are folded anew."""
        for key in list(self.fold.touched):
            self._held.pop(key, None)
        self.fold.drop_effects()
        for part in self._parts.values():
            part.undo()
        self._head = -1

    def _spare(self, error: Exception) -> None:
        """Leaves owing what a patient is owed, until the next event of theirs."""
        assert self._settles is not None
        part, at, key = self._settles
        self._settles = None
        self._held.pop(key, None)
        self._again()
        part.spare(at, key)
        log.error("what is owed cannot be computed for a patient: %s", type(error).__name__)

    def _failed(self, error: ScorerFailedError) -> None:
        """Leaves a scorer alone from the event on in which it failed."""
        key = (error.site, error.patient)
        if key not in self._last:
            # No event of theirs: it failed on the open hour, behind those that were owed.
            self._settles = (*self._settled[key], key)
            self._spare(error)
            return
        # Not among what was touched where it could not even be restored.
        self._held.pop(key, None)
        self._again()
        part, at = self._last[key]
        assert part.first is not None
        row = JournalRow(part.number, at, *key, error.version, OFF, error.reason)
        everybody = part.journal.failed(part.first, row)
        part.failed(self._recover)
        log.error(
            "%s is left alone %s: %s", error.version,
            "for all of a partition" if everybody else "for a patient", error.reason,
        )  # fmt: skip

    def _work(self, batch: int) -> int:
        head = self.store.head()
        if head == self._head or not self._parts:
            return 0
        begun = time.monotonic()
        events: list[Event] = []
        more = False
        parts = self._in_turn()
        for part in parts:
            part.begin()
        self._last, self._settled, self._settles = {}, {}, None
        for part in parts:
            count = len(events)
            left = self._fold_part(part, batch, begun, events)
            if not left:
                self._follow(part, head + 1)
            if self._overload is not None:
                last = events[-1].received if len(events) > count else None
                self._overload.folded(part.number, last)
                left |= self._relieve(part, left, begun)
            more |= left
            if self._spent(begun) or (self._careful and events):
                more |= part is not parts[-1]
                self._served = part.number
                break
        moved = [part for part in parts if part.moved]
        if moved:
            effects = self._commit(moved)
            if self._watcher is not None:
                now = time.time()
                waited = [now - e.received for e in events if e.kind != TICK]
                self._watcher.folded(effects, waited)
        if not more:
            self._head = head
            self._careful = False
        return max(len(events), len(moved))

    def _commit(self, moved: list[Partition]) -> Effects:
        """Keeps what followed in partitions, in one transaction."""
        touched = list(self.fold.touched.values())
        shown = time.monotonic()
        effects = self.fold.take_effects()
        cost = (time.monotonic() - shown) / max(len(touched), 1)
        self._showing = (self._showing + cost) / 2
        effects.leases = {part.number: part.lease for part in moved}
        effects.applied = {part.number: part.reached for part in moved}
        effects.paid = [
            (s.site, s.patient) for s in touched
            if s.owed is None and (s.site, s.patient) in self._parts[s.partition].owed
        ]  # fmt: skip
        for part in moved:
            effects.journal += part.journal.due(part.reached)
        try:
            self.store.commit(effects)
        except Exception:
            for state in touched:
                self._held.pop((state.site, state.patient), None)
            raise
        for part in moved:
            part.committed()
        for state in touched:
            state.rest()
        for row in effects.states:
            self._parts[row.partition].keep(row)
            if self._overload is not None:
                self._overload.seen(row)
        while len(self._held) > self._keep:
            self._held.popitem(last=False)
        return effects

    def _in_turn(self) -> list[Partition]:
        """The partitions held, behind the one at which time ran out: none starves.

        Where one is behind, those with the highest risks come first, see :class:`Overload`.
        """
        turn = sorted(self._parts, key=lambda p: (p <= self._served, p))
        if self._overload is not None and any(
            part.journal.owing(part.cursor + 1) for part in self._parts.values()
        ):
            turn = self._overload.in_turn(turn)
        return [self._parts[number] for number in turn]

    def _fold_part(self, part: Partition, batch: int, begun: float, events: list[Event]) -> bool:
        """Folds what is new in a partition while there is time; returns whether more is left.

        A backlog is taken deep in one partition rather than a little in each: what is shown of a
        patient is made once a commit, however many events it had.
        """
        while len(events) < _DEEP * batch:
            found = self.store.events(part.number, part.reached, batch)
            if found and part.first is None:
                part.first = found[0].seq
                self._before(part, found[0])
            for event in found:
                self._follow(part, event.seq)
                self._apply(part, event)
                part.reach(event.seq)
                events.append(event)
                if self._careful or self._spent(begun):
                    return True
            if len(found) < batch:
                return False
        return True

    def _before(self, part: Partition, event: Event) -> None:
        """Before the first event of a batch: who is asked again, and whether it is behind."""
        if self._recover is not None:
            for version in part.tried_again(event):
                log.warning("%s is asked again", version)
        behind = self._overload is not None and self._overload.behind(event.received)
        if behind and part.burdened(event):
            log.warning("a partition is behind: what late results change is computed later")

    def _relieve(self, part: Partition, left: bool, begun: float) -> bool:
        """Computes what is owed in a partition that is behind no more, while there is time.

        Returns:
            Whether more is left.
        """
        assert self._overload is not None
        at = part.reached
        owing = part.owing(self.fold.touched)
        if not part.journal.owing(at + 1) and part.spared.issuperset(owing):
            return False
        if self._spent(begun) or (left and not self._overload.calm(part.number)):
            return True
        for key in owing:
            if key in part.spared and not part.journal.spared(at, *key):
                part.spare(at, key)
        last = ""
        for key in owing:
            self._settle(part, at, key)
            last = lot(*key)
            if self._spent(begun):
                break
        part.say(SETTLE, at, reason=last)
        part.reach(at)
        return bool(owing) and last != lot(*owing[-1])

    def _follow(self, part: Partition, seq: int) -> None:
        """Before an event: computes what, by the journal, was computed before it."""
        while (row := part.to_follow(seq)) is not None:
            for key in part.owing(self.fold.touched):
                if lot(*key) <= row.reason:
                    self._settle(part, row.at, key)

    def _settle(self, part: Partition, at: int, key: Key) -> None:
        """Computes what a patient is owed, behind an event."""
        if part.journal.spared(at, *key):
            return
        self._settles = part, at, key
        off = part.journal.off(at, *key)
        state = self._patient(part, key, off)
        self.fold.prepare(state, off, None)
        self.fold.settle(state)
        if self._careful:
            self.fold.row(state)
        self._settles, self._settled[key] = None, (part, at)

    def _spent(self, begun: float) -> bool:
        """Whether a commit is due: a lease must not run out over one batch."""
        owed = len(self.fold.touched) * self._showing
        return time.monotonic() - begun + owed > self.ttl / 3

    def _apply(self, part: Partition, event: Event) -> None:
        if event.kind == LADDER:
            part.speaks = event.body["lineup"]
        elif event.kind == TICK:
            for key in part.ending(event.time, self.fold.touched):
                passed = functools.partial(self.fold.pass_time, time=event.time)
                self._try(part, event, key, passed)
        else:
            key = (event.site, event.patient)
            self._try(part, event, key, lambda state: self.fold.apply(state, event))

    def _try(
        self, part: Partition, event: Event, key: Key, apply: Callable[[PatientState], None]
    ) -> None:
        """Applies an event; where that fails among single events, it is left out for a patient."""
        journal = part.journal
        if journal.skipped(event.seq, *key):
            return
        self._last[key] = part, event.seq
        off = journal.off(event.seq, *key)
        self.fold.owing = journal.owing(event.seq)
        try:
            state = self._patient(part, key, off)
            self.fold.prepare(state, off, part.speaks)
            apply(state)
            if self._careful:
                self.fold.row(state)
        except (FencedError, StoreUnavailableError, ScorerFailedError):
            raise
        except Exception as error:
            if not self._careful:
                raise
            reason = type(error).__name__
            log.critical("event %d (%s) is left out: %s", event.seq, event.kind, reason)
            part.say(SKIP, event.seq, key, reason=reason)
            self.fold.discard(*key)
            self._held.pop(key, None)

    def _patient(self, part: Partition, key: Key, off: Mapping[str, str]) -> PatientState:
        state = self._held.get(key)
        if state is None:
            row = self.store.state(*key)
            state = (
                PatientState(*key, part.number) if row is None
                else self.fold.restore(row.body, off)
            )  # fmt: skip
            self._held[key] = state
        else:
            self._held.move_to_end(key)
            state.wake()
        return state


def rebuild(source: Store, target: Store, fold: Callable[[], Fold], *, batch: int = 1000) -> int:
    """Folds the whole log of a store anew, into an empty one; returns how many events it has.

    The scores, snapshots and outbox of both must then be the same, byte for byte:
    compare :meth:`Store.fingerprint`.
    """
    target.take_over([], source.journal())
    worker = Worker(target, fold(), name="rebuild", ttl=3600.0, batch=batch, recover=None)
    after = count = 0
    while events := source.all_events(after, batch):
        after = events[-1].seq
        count += len(events)
        target.take_over(events)
        worker.keep_leases(now=True)
        while worker.work():
            pass
    worker.leave()
    return count
