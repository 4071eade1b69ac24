"""What a store keeps of other systems: subscriptions out and in, and tokens that were used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretell.serving.store.base import Lease, OutboxRow


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """A subscription of somebody else to what the service says.

    Args:
        id: identifier.
        owner: name of the caller whose it is.
        partition: in whose order its notifications leave.
        status: ``requested``, ``active``, ``error`` or ``off``.
        error: why it is in error.
        body: the resource, as it was checked.
        version: grows with every change by the owner.
        since: from when on events count, in seconds since 1970.
        changed: when it was changed last.
        events: since its start: the number of the last one.
        noted: the last number that was put into the outbox.
        period: seconds between heartbeats, None where there are none.
    """

    id: str
    owner: str
    partition: int
    status: str
    error: str | None
    body: Mapping[str, Any]
    version: int
    since: float
    changed: float
    events: int = 0
    noted: int = 0
    period: float | None = None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event of a subscription: ``source`` is the key of the outbox row it is about."""

    source: str
    time: float
    focus: tuple[str, ...]
    number: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of a subscription at another server after a notification.

    Args:
        last: the highest number that was heard of.
        gap: numbers that went missing just now, first and last; None where none did.
        missing: how many are missing altogether.
        fresh: whether the subscription was not known before.
    """

    last: int
    gap: tuple[int, int] | None
    missing: int
    fresh: bool = False


class LinkedStore(ABC):
    """The part of a store that is about other systems; see :class:`Store` for what is promised."""

    @abstractmethod
    def use_token(self, issuer: str, token: str, expires: float) -> bool:
        """Whether a token is used for the first time, by any process; forgotten once expired."""

    @abstractmethod
    def note(self, key: str) -> OutboxRow | None:
        """The outbox row of a key, whatever its state."""

    @abstractmethod
    def add_subscription(self, row: SubscriptionRow) -> SubscriptionRow:
        """Keeps a new subscription, with the store's time as its beginning."""

    @abstractmethod
    def subscription(self, name: str) -> SubscriptionRow | None:
        """A subscription."""

    @abstractmethod
    def subscriptions(
        self, *, owner: str | None = None, statuses: Sequence[str] = ()
    ) -> list[SubscriptionRow]:
        """Subscriptions of an owner, or of all, in some of the states."""

    @abstractmethod
    def change_subscription(
        self, name: str, body: Mapping[str, Any], status: str, period: float | None
    ) -> SubscriptionRow | None:
        """Gives a subscription new words and a state; what waited in the outbox is dropped.

        Nothing of its events is lost: they go out when it becomes active.
        """

    @abstractmethod
    def drop_subscription(self, name: str) -> bool:
        """Forgets a subscription, its events and what waits for it."""

    @abstractmethod
    def greet_subscription(self, name: str) -> None:
        """Puts the handshake of the present version into the outbox."""

    @abstractmethod
    def activate_subscription(self, name: str, version: int, most: int = 1) -> bool:
        """Makes a requested subscription of a version active, and sends what happened meanwhile.

        ``most`` is how many events one notification may hold.
        """

    @abstractmethod
    def fail_subscription(self, name: str, error: str, version: int | None = None) -> None:
        """Puts a subscription into error: its events go on being counted, nothing is sent."""

    @abstractmethod
    def fresh_notes(self, partition: int, limit: int) -> list[OutboxRow]:
        """What the fold has said in a partition since :meth:`notify` was last told."""

    @abstractmethod
    def notify(
        self, lease: Lease, until: int, found: Mapping[str, Sequence[Occurrence]], *,
        most: Mapping[str, int], keep: int,
    ) -> int:  # fmt: skip
        """Numbers events of subscriptions, puts notifications into the outbox, moves the mark.

        Args:
            lease: to notify, of the partition that was read.
            until: number of the last outbox row that was read.
            found: subscription -> what happened.
            most: subscription -> events of one notification.
            keep: events that are kept of a subscription.

        Raises:
            FencedError: the lease does not stand; nothing was kept.
        """

    @abstractmethod
    def occurrences(self, name: str, first: int, last: int, limit: int) -> list[Occurrence]:
        """Events of a subscription by their numbers."""

    @abstractmethod
    def heartbeats(self, partition: int) -> int:
        """Puts the heartbeats that are due into the outbox; returns how many."""

    @abstractmethod
    def told_subscription(self, name: str) -> None:
        """Says that a notification was taken: the next heartbeat is a whole period away.

        Those that were taken before are forgotten.
        """

    @abstractmethod
    def hear(
        self, site: str, name: str, kind: str, status: str, total: int | None,
        numbers: Sequence[int],
    ) -> Heard:  # fmt: skip
        """Counts a notification that came in, and says what is missing.

        Args:
            site: that it is of.
            name: of the subscription, as its server calls it.
            kind: ``handshake``, ``heartbeat`` or ``event-notification``.
            status: of the subscription, as the server says.
            total: events since the subscription's start, None where it is not said.
            numbers: of the events of the notification.
        """

    @abstractmethod
    def heard(self, site: str | None = None) -> list[dict[str, Any]]:
        """Subscriptions at other servers: last number, missing ones, status, when last heard."""
