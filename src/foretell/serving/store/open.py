"""A store from its address."""

from __future__ import annotations

from pathlib import Path

from foretell.errors import ParameterError
from foretell.serving.store.base import Store


def open_store(address: str | Path, *, partitions: int = 16) -> Store:
    """Opens a store, making its tables where there are none.

    Args:
        address: path of a SQLite file, or ``postgresql://...``.
        partitions: over which patients are spread; fixed when the store is made.

    Raises:
        StoreUnavailableError: it does not answer.
        ParameterError: it was made with another number of partitions, or by a newer version.
    """
    if not 1 <= partitions <= 1024:
        raise ParameterError(f"a store has 1 to 1024 partitions, not {partitions}")
    text = str(address)
    if text.startswith(("postgresql://", "postgres://")):
        from foretell.serving.store.postgres import PostgresStore

        return PostgresStore(text, partitions)
    if "://" in text:
        raise ParameterError("a store is a file or postgresql://..., nothing else")
    from foretell.serving.store.sqlite import SqliteStore

    return SqliteStore(text, partitions)
