"""Classical models that are slow, over the processes of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from foretell.learners.demand.legacy.spread import spreading
from foretell.runs.engine import Engine


@contextmanager
def spread_series(engine: Engine) -> Iterator[None]:
    """Lets classical models that are slow spread their series over an engine of many processes."""
    if engine.shares_memory:
        yield
        return
    with spreading(engine.map):
        yield
