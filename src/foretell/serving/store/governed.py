"""What a store keeps for those who answer for the service: comparisons, failures, changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretell.serving.events import Event
    from foretell.serving.worker.availability import JournalRow


@dataclass(frozen=True, slots=True)
class ShadowRow:
    """What a model that is only compared said of an hour, beside what was said.

    Args:
        site: of the patient.
        patient: identifier within the site.
        stay: of which stay.
        hour: of the stay.
        version: that is compared.
        unit: ``""`` where it is not known.
        risk: that it gave, None where none.
        status: of that.
        alarm: tier that its policy would have raised.
        spoke: the version that spoke.
        said: the risk that was said.
        raised: tier of the alarm that was raised.
    """

    site: str
    patient: str
    stay: str
    hour: int
    version: str
    unit: str
    risk: float | None
    status: str
    alarm: str | None
    spoke: str
    said: float | None
    raised: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """A way through the glass: somebody may read a site for a while, and said why."""

    caller: str
    site: str
    begin: float
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Purged:
    """What was, or would be, deleted: rows by table."""

    before: float
    patients: int
    rows: Mapping[str, int]


class GovernedStore(ABC):
    """The part of a store that is there for those who answer for the service."""

    @abstractmethod
    def journal(self, partition: int | None = None) -> list[JournalRow]:
        """What failed when, in order; of all partitions by default."""

    @abstractmethod
    def lineup(self, partition: int, until: int | None = None) -> dict[str, Any] | None:
        """The body of the last lineup event of a partition, up to an event."""

    @abstractmethod
    def open_since(self) -> dict[str, float]:
        """Site -> when the earliest hour ends that is open there; sites with open stays only."""

    @abstractmethod
    def newest_score(self, site: str) -> float | None:
        """When the last hour ended that was scored at a site; None where none was."""

    @abstractmethod
    def scored_since(self, site: str, time: float) -> list[tuple[str, str, int, int]]:
        """(patient, stay, first hour, last hour) of a site's hours that ended after a time."""

    @abstractmethod
    def hours_scored(
        self, site: str, patient: str, stay: str, first: int, last: int
    ) -> list[tuple[int, float | None, str, bytes | None]]:
        """(hour, risk, model, sealed results) of hours of a stay, ascending."""

    @abstractmethod
    def take_over(self, events: Sequence[Event], journal: Sequence[JournalRow] = ()) -> None:
        """Copies events of another store under their numbers, and what failed then."""

    @abstractmethod
    def shadows(self, version: str | None = None, site: str | None = None) -> list[dict[str, Any]]:
        """Comparisons by compared version, speaking version, site and unit.

        Each has ``hours``, ``both`` (hours in which both gave a score), ``difference`` (mean of
        the absolute differences), ``bias`` (mean of compared less said), ``alarms`` of either,
        ``alarms_of_both`` and ``no_score`` of the compared one.
        """

    @abstractmethod
    def shadow_rows(self, site: str, patient: str) -> list[ShadowRow]:
        """A patient's comparisons by stay and hour."""

    @abstractmethod
    def record(self, log: str, row: Mapping[str, Any]) -> str:
        """Adds a row to a hash-chained record, ``"audit"`` or ``"control"``; returns its hash."""

    @abstractmethod
    def recorded(self, log: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Rows of such a record in order."""

    @abstractmethod
    def last_recorded(self, log: str) -> dict[str, Any] | None:
        """The last row of such a record."""

    @abstractmethod
    def grant(self, grant: Grant) -> None:
        """Keeps a grant."""

    @abstractmethod
    def granted(self, caller: str, site: str) -> Grant | None:
        """The grant that holds now by the store's clock, None where none does."""

    @abstractmethod
    def purge(
        self, before: float, *, dry: bool = True, sites: Mapping[str, float] | None = None
    ) -> Purged:
        """Deletes patients of whom nothing was heard since a time; counts only where ``dry``.

        A patient's events are deleted all or not at all, so that the rest of the log still folds
        to the same. What was recorded of who did what stays, and so do hashes of messages.

        Args:
            before: the time.
            dry: whether only to count.
            sites: site -> the time that holds there. What is of no site is kept for the longest.
        """
