"""What a store does for the service: one small interface, whatever lies below."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foretell.serving.events import Delivery, Event, NewEvent
from foretell.serving.store.governed import GovernedStore, ShadowRow
from foretell.serving.store.linked import LinkedStore

if TYPE_CHECKING:
    from foretell.serving.worker.availability import JournalRow


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one delivery: whether it was known, and how many items were new."""

    duplicate: bool
    items: int
    repeated: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a partition's effects, until another takes it.

    ``token`` grows with every change of hands: a write with an old one is refused.
    """

    kind: str
    partition: int
    token: int
    applied: int


@dataclass(frozen=True, slots=True)
class StateRow:
    """Snapshot of a patient.

    ``due`` is when the open hour ends, None where no stay is open; ``owed`` the first hour that is
    still to be computed anew, None where none is.
    """

    site: str
    patient: str
    partition: int
    body: bytes
    due: float | None
    view: Mapping[str, Any] | None
    owed: int | None = None


@dataclass(frozen=True, slots=True)
class StayRow:
    """What a worker knows of a patient without their snapshot.

    ``due`` and ``owed`` as of :class:`StateRow`; ``risk``, ``unit`` and who spoke as they are
    shown, ``alarmed`` whether there was an alarm of late that nobody has answered.
    """

    site: str
    patient: str
    due: float | None
    risk: float | None
    alarmed: bool
    owed: int | None
    unit: str | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """The score of one hour of a stay.

    ``issued`` is what was first said of the hour; ``risk`` what is known now, after late results.
    """

    site: str
    patient: str
    stay: str
    hour: int
    time: float
    risk: float | None
    issued: float | None
    status: str
    model: str
    reason: str | None
    drivers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Something to be sent; ``key`` is sent along so that the receiver can tell a repeat.

    ``created`` is when it was kept, by the store's clock.
    """

    site: str
    patient: str
    partition: int
    key: str
    kind: str
    time: float
    body: Mapping[str, Any]
    id: int = 0
    attempts: int = 0
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class CellRow:
    """The measurements of one hour of a stay that is too old to change but by a correction."""

    site: str
    patient: str
    stay: str
    hour: int
    body: bytes


@dataclass(slots=True)
class Effects:
    """All that follows from a run of events of some partitions: kept together or not at all.

    ``paid`` are patients of whom nothing is owed any more.
    """

    leases: dict[int, Lease] = field(default_factory=dict)
    applied: dict[int, int] = field(default_factory=dict)
    states: list[StateRow] = field(default_factory=list)
    cells: list[CellRow] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    shadows: list[ShadowRow] = field(default_factory=list)
    journal: list[JournalRow] = field(default_factory=list)
    doubts: dict[str, int] = field(default_factory=dict)
    paid: list[tuple[str, str]] = field(default_factory=list)


class Store(LinkedStore, GovernedStore):
    """The event log with its outbox, snapshots and leases.

    An instance belongs to one thread; :meth:`another` opens one more for another thread. Every
    method is one transaction, durable when it returns.

    Raises:
        StoreUnavailableError: from any method, where the store does not answer, is full or locked
            for long. Nothing was kept, or (if the answer was lost) all of it: every write can be
            repeated.
    """

    partitions: int

    @abstractmethod
    def another(self) -> Store:
        """The same store for another thread."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection."""

    @abstractmethod
    def append(self, deliveries: Sequence[Delivery]) -> list[Appended]:
        """Makes messages durable in one transaction, and says of each what was new."""

    @abstractmethod
    def append_events(self, events: Sequence[NewEvent]) -> int:
        """Appends events that no message brought; returns how many were new."""

    @abstractmethod
    def head(self) -> int:
        """The last event's number, 0 where there is none."""

    @abstractmethod
    def events(self, partition: int, after: int, limit: int) -> list[Event]:
        """Events of a partition, in order."""

    @abstractmethod
    def patient_events(self, site: str, patient: str, until: int | None = None) -> list[Event]:
        """All events of a patient, in order."""

    @abstractmethod
    def current(self, site: str, patient: str) -> str:
        """The identifier that a patient has now, through any chain of merges."""

    @abstractmethod
    def all_events(self, after: int, limit: int) -> list[Event]:
        """Events of all partitions, in order."""

    @abstractmethod
    def acquire(self, kind: str, owner: str, ttl: float, most: int) -> list[Lease]:
        """Renews what the owner holds and takes free partitions until it holds ``most``."""

    @abstractmethod
    def share(self, kind: str) -> None:
        """Makes the one lease of a kind: of something that one process at a time does for all."""

    @abstractmethod
    def release(self, kind: str, owner: str, partitions: Sequence[int] | None = None) -> None:
        """Gives leases back, all by default."""

    @abstractmethod
    def join(self, kind: str, owner: str, ttl: float) -> int:
        """Says that a worker lives, and returns how many do."""

    @abstractmethod
    def leave(self, kind: str, owner: str) -> None:
        """Says that a worker is gone."""

    @abstractmethod
    def commit(self, effects: Effects) -> None:
        """Keeps the effects if every lease still stands.

        Raises:
            FencedError: one does not; nothing was kept.
        """

    @abstractmethod
    def state(self, site: str, patient: str) -> StateRow | None:
        """A patient's snapshot."""

    @abstractmethod
    def cells(self, site: str, patient: str, stay: str) -> dict[int, bytes]:
        """The sealed hours of a stay."""

    @abstractmethod
    def stays(self, partition: int) -> list[StayRow]:
        """Patients of a partition with an open stay, or of whom hours are owed."""

    @abstractmethod
    def stays_by_site(self) -> dict[str, tuple[int, int]]:
        """Site -> open stays, and patients of whom hours are owed; sites without either are not."""

    @abstractmethod
    def anything_due(self, time: float) -> list[int]:
        """Partitions in which an hour ends by a time."""

    @abstractmethod
    def views(self, site: str | None = None) -> list[dict[str, Any]]:
        """What is shown of every patient with an open stay, the highest risk first."""

    @abstractmethod
    def scores(self, site: str, patient: str, stay: str | None = None) -> list[ScoreRow]:
        """A patient's scores by stay and hour."""

    @abstractmethod
    def outbox(
        self, partition: int, now: float, limit: int, *, notifications: bool = False
    ) -> list[OutboxRow]:
        """What can be sent: of each patient only the oldest that waits, if its time has come.

        Notifications of subscriptions are a line of their own.
        """

    @abstractmethod
    def sent(
        self, lease: Lease, row: int, *, error: str | None = None, retry: float | None = None
    ) -> None:
        """Marks a row as delivered, to be tried again at ``retry``, or (neither) as dead.

        Raises:
            FencedError: the lease does not stand.
        """

    @abstractmethod
    def notes(self, after: int, limit: int) -> list[OutboxRow]:
        """Outbox rows of any state after a number, but for notifications: for feeds of alarms."""

    @abstractmethod
    def last_note(self) -> int:
        """The highest number of an outbox row, 0 where there is none."""

    @abstractmethod
    def notes_of(self, site: str, patient: str, limit: int = 1000) -> list[OutboxRow]:
        """Outbox rows of any state of one patient, in order."""

    @abstractmethod
    def dead(self, limit: int = 100, sites: Collection[str] = ()) -> list[dict[str, Any]]:
        """Rows that nobody would take; of all sites where none is named."""

    @abstractmethod
    def revive(self, row: int, sites: Collection[str] = ()) -> bool:
        """Puts a dead row back in line; False where there is none, or it is of another site."""

    @abstractmethod
    def quarantine(self, limit: int = 100, sites: Collection[str] = ()) -> list[dict[str, Any]]:
        """What was set aside, counted by site, reason, code and unit; no values, no patients."""

    @abstractmethod
    def take_quarantined(
        self, system: str, code: str, sites: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """The bodies that wait for a code, for reading them again; see :meth:`drop_quarantined`."""

    @abstractmethod
    def drop_quarantined(self, system: str, code: str, sites: Collection[str] = ()) -> int:
        """Forgets what was set aside for a code, once it was read again."""

    @abstractmethod
    def audit(self, row: Mapping[str, Any]) -> str:
        """Adds a row to the hash-chained record of who did what; returns its hash."""

    @abstractmethod
    def audit_rows(self, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Rows of the record in order."""

    @abstractmethod
    def mark(self, name: str) -> str | None:
        """A named text, such as how far a poller has read."""

    @abstractmethod
    def set_mark(self, name: str, value: str, lease: Lease | None = None) -> None:
        """Keeps a named text.

        Raises:
            FencedError: a lease was given and does not stand.
        """

    @abstractmethod
    def change_mark(self, name: str, change: Callable[[str | None], str]) -> None:
        """Puts a named text in the place of what was there, which nobody changes meanwhile."""

    @abstractmethod
    def beat(self) -> None:
        """Says that the clock of the service runs: its absence must page somebody."""

    @abstractmethod
    def counts(self) -> dict[str, float]:
        """Sizes and ages for metrics: events, lag, outbox, dead, quarantine, stays, owners."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Hashes of scores, outbox and snapshots: equal where the same log was folded."""
