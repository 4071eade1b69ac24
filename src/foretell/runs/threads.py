"""How many threads the work of a run takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


def limited_threads(threads: int | None) -> AbstractContextManager[Any]:
    """Holds the linear algebra to so many threads too: the same sums on every engine."""
    return nullcontext() if threads is None else threadpool_limits(threads)
