"""Where slow models run series after series: in this process, or where a caller lets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Map = Callable[..., Iterable[Any]]
"""``map(function, *iterables)``: results in the order of the arguments."""


@dataclass(frozen=True)
class Spread:
    """A map over other processes or machines, and how many series are worth a call of it."""

    map: Map
    rows_at_once: int = 64


_CURRENT: ContextVar[Spread | None] = ContextVar("spread", default=None)


@contextmanager
def spreading(map: Map, *, rows_at_once: int = 64) -> Iterator[None]:
    """Within it, models that go from series to series do so through ``map``.

    Series are independent, so that results do not depend on it.
    """
    token = _CURRENT.set(Spread(map, rows_at_once))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_spread() -> Spread | None:
    """The map to use; ``None`` for this process."""
    return _CURRENT.get()
