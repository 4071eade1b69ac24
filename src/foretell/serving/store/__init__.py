"""Where the service keeps what must not be lost: SQLite for one node, PostgreSQL for several."""

from foretell.serving.store.base import (
    Appended,
    Effects,
    Lease,
    OutboxRow,
    ScoreRow,
    StateRow,
    Store,
)
from foretell.serving.store.linked import Heard, Occurrence, SubscriptionRow
from foretell.serving.store.open import open_store

__all__ = [
    "Appended",
    "Effects",
    "Heard",
    "Lease",
    "Occurrence",
    "OutboxRow",
    "ScoreRow",
    "StateRow",
    "Store",
    "SubscriptionRow",
    "open_store",
]
