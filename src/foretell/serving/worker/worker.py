"""A worker: holds leases on partitions, folds their events and keeps what follows, at once."""

from __future__ import annotations

import functools
import logging
import math
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Event as Signal
from typing import Any, Protocol

from foretell.serving.errors import FencedError, ScorerFailedError, StoreUnavailableError
from foretell.serving.events import LADDER, TICK, Event
from foretell.serving.store.base import Effects, Lease, Store
from foretell.serving.worker.availability import (
    OFF,
    ON,
    OWE,
    SETTLE,
    SKIP,
    SPARE,
    Availability,
    JournalRow,
    lot,
)
from foretell.serving.worker.fold import Fold
from foretell.serving.worker.overload import Overload
from foretell.serving.worker.state import PatientState

log = logging.getLogger("foretell.serving.worker")
_LONGEST_PAUSE = 3600.0
_DEEP = 16
"""Batches that a commit takes at most."""


class Watcher(Protocol):
    """Told of what a worker did; for metrics."""

    def folded(self, effects: Effects, waited: list[float]) -> None:
        """After a commit: its effects, and the seconds since each event was received."""


def worker_name() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Worker:
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
        self.store, self.fold, self.ttl = store, fold, ttl
        fold.strict = True
        self.name = name or worker_name()
        self.leases: dict[int, Lease] = {}
        self._batch, self._keep, self._watcher = batch, keep, watcher
        self._cursor: dict[int, int] = {}
        self._due: dict[int, dict[tuple[str, str], float]] = {}
        self._overload = overload
        # By partition: of whom something is owed, and how many rows that say so were followed.
        self._owed: dict[int, set[tuple[str, str]]] = {}
        self._followed: dict[int, int] = {}
        self._follows: dict[int, int] = {}
        # Whose hours are computed just now, behind which event; for whom that has failed.
        self._settles: tuple[int, int, tuple[str, str]] | None = None
        self._spared: set[tuple[str, str]] = set()
        self._held: OrderedDict[tuple[str, str], PatientState] = OrderedDict()
        self._head = -1
        self._renew = 0.0
        self._careful = False
        self._served = -1
        # Seconds that it takes to say what is shown of a patient, learned on the way.
        self._showing = 0.002
        # By partition: what failed, who speaks (as far as is folded, and in this batch), and when
        # what failed is tried again.
        self._journal: dict[int, Availability] = {}
        self._folded_lineup: dict[int, dict[str, Any] | None] = {}
        self._lineup: dict[int, dict[str, Any] | None] = {}
        self._recover = recover
        self._pause: dict[int, float] = {}
        self._retry: dict[int, float] = {}
        # In this batch: a patient's partition and last event, a partition's first event, and behind
        # which event what a patient was owed was computed.
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._first: dict[int, int] = {}
        self._settled: dict[tuple[str, str], tuple[int, int]] = {}
        self._breathed = 0.0
        fold.history, fold.between = store.cells, self._breathe

    def run(self, stop: Signal, *, wake: Signal | None = None, pause: float = 0.02) -> None:
        """Works until told to stop, then gives its leases back."""
        delay = 0.05
        self.fold.warm()
        while not stop.is_set():
            try:
                self.keep_leases()
                count = self.work()
                delay = 0.05
            except FencedError:
                log.warning("a lease was lost; its partitions are left alone")
                self.forget()
                continue
            except StoreUnavailableError as error:
                log.warning("the store is not available: %s", error)
                self.forget()
                stop.wait(delay)
                delay = min(delay * 2, 2.0)
                continue
            if count == 0:
                if wake is not None:
                    wake.wait(pause)
                    wake.clear()
                else:
                    stop.wait(pause)
        self.leave()

    def leave(self) -> None:
        """Gives the leases back, so that others need not wait for them to expire."""
        try:
            self.store.release("work", self.name)
            self.store.leave("work", self.name)
        except StoreUnavailableError:
            log.warning("the leases could not be given back and will expire")
        self.forget()

    def forget(self) -> None:
        """Drops all that is held in memory: the store knows better."""
        self.fold.drop_effects()
        self.leases, self._cursor, self._due, self._owed = {}, {}, {}, {}
        self._spared = set()
        self._journal, self._folded_lineup, self._lineup, self._last = {}, {}, {}, {}
        self._held.clear()
        self._head, self._renew = -1, 0.0

    def keep_leases(self, *, now: bool = False) -> None:
        """Renews leases when a third of their time has passed, and shares with other workers."""
        moment = time.monotonic()
        if not now and moment < self._renew:
            return
        alive = max(self.store.join("work", self.name, self.ttl), 1)
        share = math.ceil(self.store.partitions / alive)
        if len(self.leases) > share:
            given = sorted(self.leases)[share:]
            self.store.release("work", self.name, given)
        found = self.store.acquire("work", self.name, self.ttl, share)
        held = {lease.partition: lease for lease in found}
        for part, lease in held.items():
            mine = self.leases.get(part)
            if mine is None or mine.token != lease.token:
                self._take(lease)
        for part in set(self.leases) - set(held):
            self._lose(part)
        self.leases = held
        self._renew = self._breathed = moment + self.ttl / 3

    def _breathe(self) -> None:
        """Within a batch, which may be long: renews the leases, and takes or gives none.

        Otherwise a worker that is slower than its leases would lose them before every commit, and
        with them its work, for ever.

        Raises:
            FencedError: another worker has one of the partitions by now.
        """
        moment = time.monotonic()
        if moment < self._breathed or not self.leases:
            return
        self.store.join("work", self.name, self.ttl)
        found = {x.partition: x.token for x in self.store.acquire("work", self.name, self.ttl, 0)}
        for part, lease in self.leases.items():
            if found.get(part) != lease.token:
                raise FencedError(f"another owner has partition {part} by now")
        self._breathed = moment + self.ttl / 3

    def _take(self, lease: Lease) -> None:
        part = lease.partition
        self._lose(part)
        self._cursor[part] = lease.applied
        rows = self.store.stays(part)
        self._due[part] = {(r.site, r.patient): r.due for r in rows if r.due is not None}
        self._owed[part] = {(r.site, r.patient) for r in rows if r.owed is not None}
        journal = self._journal[part] = Availability(self.store.journal(part), lease.applied)
        self._followed[part] = sum(row.at <= lease.applied for row in journal.settled)
        if self._overload is not None:
            self._overload.take(part, rows)
        told = self.store.lineup(part, lease.applied)
        self._folded_lineup[part] = None if told is None else told["lineup"]
        self._pause.pop(part, None)
        # What failed for another worker may not fail for this one.
        self._retry[part] = time.monotonic() + (self._recover or 0.0)
        self._head = -1

    def _lose(self, part: int) -> None:
        self._cursor.pop(part, None)
        self._due.pop(part, None)
        self._journal.pop(part, None)
        self._spared -= self._owed.pop(part, set())
        self._folded_lineup.pop(part, None)
        if self._overload is not None:
            self._overload.lose(part)
        for key in [k for k, s in self._held.items() if s.partition == part]:
            del self._held[key]

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
        for journal in self._journal.values():
            journal.pending = [r for r in journal.pending if r.kind != SETTLE]
        self._head = -1

    def _spare(self, error: Exception) -> None:
        """Leaves owing what a patient is owed, until the next event of theirs."""
        assert self._settles is not None
        part, at, key = self._settles
        self._settles = None
        self._held.pop(key, None)
        self._again()
        self._spared.add(key)
        self._journal[part].pending.append(JournalRow(part, at, *key, "", SPARE, ""))
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
        row = JournalRow(part, at, *key, error.version, OFF, error.reason)
        everybody = self._journal[part].failed(self._first[part], row)
        self._wait(part)
        log.error(
            "%s is left alone %s: %s", error.version,
            "for all of a partition" if everybody else "for a patient", error.reason,
        )  # fmt: skip

    def _wait(self, part: int) -> None:
        """Says when what failed in a partition is tried again."""
        if self._recover is None:
            return
        before = self._pause.get(part)
        self._pause[part] = self._recover if before is None else min(before * 2, _LONGEST_PAUSE)
        self._retry[part] = time.monotonic() + self._pause[part]

    def _tried_again(self, part: int, event: Event) -> None:
        """Before an event: what failed long ago is asked again."""
        journal = self._journal[part]
        if self._recover is None or not journal.any_off or journal.pending:
            return
        if time.monotonic() < self._retry.get(part, math.inf):
            return
        for version in journal.versions():
            log.warning("%s is asked again", version)
            journal.pending.append(JournalRow(part, event.seq, "", "", version, ON, ""))
        # Until it has proved itself, what follows is another failure.
        self._retry[part] = math.inf

    def _work(self, batch: int) -> int:
        head = self.store.head()
        if head == self._head or not self.leases:
            return 0
        begun = time.monotonic()
        events: list[Event] = []
        more = False
        parts = self._in_turn()
        effects_of: dict[int, int] = {}
        self._lineup = dict(self._folded_lineup)
        self._last, self._first, self._settled = {}, {}, {}
        self._follows, self._settles = dict(self._followed), None
        for part in parts:
            count = len(events)
            left = self._fold_part(part, batch, begun, events, effects_of)
            if not left:
                self._follow(part, head + 1, effects_of)
            if self._overload is not None:
                last = events[-1].received if len(events) > count else None
                self._overload.folded(part, last)
                left |= self._relieve(part, left, begun, effects_of)
            more |= left
            if self._spent(begun) or (self._careful and events):
                more |= part != parts[-1]
                self._served = part
                break
        if effects_of:
            touched = list(self.fold.touched.values())
            shown = time.monotonic()
            effects = self.fold.take_effects()
            cost = (time.monotonic() - shown) / max(len(touched), 1)
            self._showing = (self._showing + cost) / 2
            effects.leases = {p: self.leases[p] for p in effects_of}
            effects.applied = effects_of
            effects.paid = [
                (s.site, s.patient) for s in touched
                if s.owed is None and (s.site, s.patient) in self._owed[s.partition]
            ]  # fmt: skip
            for part, seq in effects_of.items():
                effects.journal += self._journal[part].due(seq)
            try:
                self.store.commit(effects)
            except Exception:
                for state in touched:
                    self._held.pop((state.site, state.patient), None)
                raise
            self._cursor.update(effects_of)
            self._followed = self._follows
            for part, seq in effects_of.items():
                self._advanced(part, seq)
                self._folded_lineup[part] = self._lineup.get(part)
                if not self._journal[part].any_off:
                    self._pause.pop(part, None)
            for state in touched:
                state.rest()
            for row in effects.states:
                held = self._due[row.partition]
                if row.due is None:
                    held.pop((row.site, row.patient), None)
                else:
                    held[row.site, row.patient] = row.due
                owed = self._owed[row.partition]
                if row.owed is None:
                    owed.discard((row.site, row.patient))
                    self._spared.discard((row.site, row.patient))
                else:
                    owed.add((row.site, row.patient))
                if self._overload is not None:
                    self._overload.seen(row)
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
            if self._watcher is not None:
                now = time.time()
                waited = [now - e.received for e in events if e.kind != TICK]
                self._watcher.folded(effects, waited)
        if not more:
            self._head = head
            self._careful = False
        return max(len(events), len(effects_of))

    def _advanced(self, part: int, seq: int) -> None:
        journal = self._journal[part]
        new = journal.advance(seq)
        # What this worker has computed it need not follow.
        self._followed[part] += sum(row.kind == SETTLE for row in new)

    def _in_turn(self) -> list[int]:
        """The partitions held, behind the one at which time ran out: none starves.

        Where one is behind, those with the highest risks come first, see :class:`Overload`.
        """
        parts = sorted(self.leases)
        turn = sorted(parts, key=lambda p: (p <= self._served, p))
        if self._overload is None or not any(
            self._journal[p].owing(self._cursor[p] + 1) for p in parts
        ):
            return turn
        return self._overload.in_turn(turn)

    def _fold_part(
        self, part: int, batch: int, begun: float, events: list[Event], applied: dict[int, int]
    ) -> bool:
        """Folds what is new in a partition while there is time; returns whether more is left.

        A backlog is taken deep in one partition rather than a little in each: what is shown of a
        patient is made once a commit, however many events it had.
        """
        while len(events) < _DEEP * batch:
            found = self.store.events(part, applied.get(part, self._cursor[part]), batch)
            if found and part not in self._first:
                self._first[part] = found[0].seq
                self._tried_again(part, found[0])
                self._burdened(part, found[0])
            for event in found:
                self._follow(part, event.seq, applied)
                self._apply(event)
                applied[part] = event.seq
                events.append(event)
                if self._careful or self._spent(begun):
                    return True
            if len(found) < batch:
                return False
        return True

    def _burdened(self, part: int, event: Event) -> None:
        """Before the first event of a batch: says so where the partition is behind."""
        if self._overload is None or not self._overload.behind(event.received):
            return
        journal = self._journal[part]
        if not journal.owing(event.seq):
            log.warning("a partition is behind: what late results change is computed later")
            journal.pending.append(JournalRow(part, event.seq, "", "", "", OWE, ""))

    def _owing(self, part: int) -> list[tuple[str, str]]:
        """Of whom something is owed, also in this batch, in the order in which it is computed."""
        found = set(self._owed[part])
        for key, state in self.fold.touched.items():
            if state.partition == part:
                (found.discard if state.owed is None else found.add)(key)
        return sorted(found, key=lambda key: lot(*key))

    def _relieve(self, part: int, left: bool, begun: float, applied: dict[int, int]) -> bool:
        """Computes what is owed in a partition that is behind no more, while there is time.

        Returns:
            Whether more is left.
        """
        assert self._overload is not None
        journal, at = self._journal[part], applied.get(part, self._cursor[part])
        owing = self._owing(part)
        if not journal.owing(at + 1) and all(key in self._spared for key in owing):
            return False
        if self._spent(begun) or (left and not self._overload.calm(part)):
            return True
        for key in self._spared.intersection(owing):
            if not journal.spared(at, *key):
                journal.pending.append(JournalRow(part, at, *key, "", SPARE, ""))
        last = ""
        for key in owing:
            self._settle(part, at, key)
            last = lot(*key)
            if self._spent(begun):
                break
        journal.pending.append(JournalRow(part, at, "", "", "", SETTLE, last))
        applied[part] = at
        return bool(owing) and last != lot(*owing[-1])

    def _follow(self, part: int, seq: int, applied: dict[int, int]) -> None:
        """Before an event: computes what, by the journal, was computed before it."""
        settled = self._journal[part].settled
        while self._follows[part] < len(settled) and settled[self._follows[part]].at < seq:
            row = settled[self._follows[part]]
            for key in self._owing(part):
                if lot(*key) <= row.reason:
                    self._settle(part, row.at, key)
            self._follows[part] += 1
            applied.setdefault(part, self._cursor[part])

    def _settle(self, part: int, at: int, key: tuple[str, str]) -> None:
        """Computes what a patient is owed, behind an event."""
        journal = self._journal[part]
        if journal.spared(at, *key):
            return
        self._settles = part, at, key
        off = journal.off(at, *key)
        state = self._patient(part, *key, off)
        self.fold.prepare(state, off, None)
        self.fold.settle(state)
        if self._careful:
            self.fold.row(state)
        self._settles, self._settled[key] = None, (part, at)

    def _spent(self, begun: float) -> bool:
        """Whether a commit is due: a lease must not run out over one batch."""
        owed = len(self.fold.touched) * self._showing
        return time.monotonic() - begun + owed > self.ttl / 3

    def _apply(self, event: Event) -> None:
        part = event.partition
        if event.kind == LADDER:
            self._lineup[part] = event.body["lineup"]
            return
        if event.kind != TICK:
            self._try(event, event.site, event.patient, lambda s: self.fold.apply(s, event))
            return
        due = dict(self._due[part])
        for key, state in self.fold.touched.items():
            if state.partition == part:
                if state.open:
                    due[key] = state.hour_end(state.closed + 1)
                else:
                    due.pop(key, None)
        for key in sorted(k for k, when in due.items() if when <= event.time):
            self._try(event, *key, functools.partial(self.fold.pass_time, time=event.time))

    def _try(
        self, event: Event, site: str, patient: str, apply: Callable[[PatientState], None]
    ) -> None:
        """Applies an event; where that fails among single events, it is left out for a patient."""
        part, key = event.partition, (site, patient)
        journal = self._journal[part]
        if journal.skipped(event.seq, site, patient):
            return
        self._last[key] = part, event.seq
        off = journal.off(event.seq, site, patient)
        self.fold.owing = journal.owing(event.seq)
        try:
            state = self._patient(part, site, patient, off)
            self.fold.prepare(state, off, self._lineup.get(part))
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
            journal.pending.append(JournalRow(part, event.seq, site, patient, "", SKIP, reason))
            self.fold.discard(site, patient)
            self._held.pop(key, None)

    def _patient(self, part: int, site: str, patient: str, off: Mapping[str, str]) -> PatientState:
        key = (site, patient)
        state = self._held.get(key)
        if state is None:
            row = self.store.state(site, patient)
            state = (
                PatientState(site, patient, part) if row is None
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
