"""What is counted of a delivery that a door of HTTP has taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foretell.serving.service import Service
    from foretell.serving.store.base import Appended


def count_taken(service: Service, door: str, kind: str, result: Appended, received: float) -> None:
    """Counts a message and its results, and how long it took to be durable."""
    status = "duplicate" if result.duplicate else "stored"
    service.metrics.messages.labels(door, kind, status).inc()
    items = service.metrics.items
    items.labels("new").inc(result.items)
    items.labels("repeated").inc(result.repeated)
    items.labels("quarantined").inc(result.quarantined)
    service.metrics.commit.observe(max(time.time() - received, 0.0))
