"""What SQL of both engines stands on; each engine has it in its own way."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any


class Statements:
    """Promised to parts of a store in SQL, kept by :class:`foretell.serving.store.sql.SqlStore`."""

    partitions: int

    if TYPE_CHECKING:

        def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
            raise NotImplementedError

        def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
            raise NotImplementedError

        def _new_keys(self, keys: Sequence[bytes]) -> set[bytes]:
            raise NotImplementedError

        def _transaction(self, *, append: bool = False) -> AbstractContextManager[None]:
            raise NotImplementedError

        def _now(self) -> float:
            raise NotImplementedError


def within(sites: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The end of a condition that lets sites pass, and its values; all pass where none is named."""
    if not sites:
        return "", ()
    return f" AND site IN ({', '.join('?' * len(sites))})", tuple(sorted(sites))


def as_json(value: Any) -> str:
    """A value as columns hold it."""
    return json.dumps(value, separators=(",", ":"))
