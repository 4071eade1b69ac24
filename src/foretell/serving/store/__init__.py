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
from foretell.serving.store.governed import Grant, Purged, ShadowRow
from foretell.serving.store.linked import Heard, Occurrence, SubscriptionRow
from foretell.serving.store.open import open_store

__all__ = [
    "Appended",
    "Effects",
    "Grant",
    "Heard",
    "Lease",
    "Occurrence",
    "OutboxRow",
    "Purged",
    "ScoreRow",
    "ShadowRow",
    "StateRow",
    "Store",
    "SubscriptionRow",
    "open_store",
]
