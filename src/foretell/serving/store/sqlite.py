"""The store in one SQLite file: write-ahead log, every commit on the disk before it returns."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from foretell.serving.errors import ServingError, StoreUnavailableError
from foretell.serving.store.sql import SqlStore
from foretell.serving.store.tables import statements


class SqliteStore(SqlStore):
    """A store in a SQLite file, for one machine; several processes may share it."""

    def __init__(self, file: str, partitions: int, *, wait: float = 30.0) -> None:
        super().__init__(partitions)
        self._file, self._wait = file, wait
        try:
            self._db = sqlite3.connect(
                file, timeout=wait, isolation_level=None, check_same_thread=False
            )
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536",
                           "temp_store=MEMORY"):  # fmt: skip
                self._db.execute(f"PRAGMA {pragma}")
            with self._transaction():
                for sql in statements(
                    binary="BLOB",
                    real="REAL",
                    serial="INTEGER PRIMARY KEY AUTOINCREMENT",
                    without=" WITHOUT ROWID",
                ):
                    self._db.execute(sql)
                self._prepare()
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the store cannot be opened: {_told(error)}") from error

    def another(self) -> SqliteStore:
        """See :class:`Store`."""
        return SqliteStore(self._file, self.partitions, wait=self._wait)

    def close(self) -> None:
        """See :class:`Store`."""
        self._db.close()

    @contextmanager
    def _transaction(self, *, append: bool = False) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _refused(error) from None

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _refused(error) from None

    def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._db.executemany(sql, rows)

    def _new_keys(self, keys: Sequence[bytes]) -> set[bytes]:
        add = self._db.execute
        sql = "INSERT OR IGNORE INTO seen VALUES (?)"
        return {key for key in keys if add(sql, (key,)).rowcount == 1}

    def _now(self) -> float:
        return time.time()


def _refused(error: sqlite3.Error) -> ServingError:
    if isinstance(error, sqlite3.OperationalError | sqlite3.InternalError) or (
        type(error) is sqlite3.DatabaseError
    ):
        return StoreUnavailableError(f"the store refuses: {_told(error)}")
    # The rows are at fault, not the store: trying again is of no use.
    return ServingError(f"the store refuses the rows: {type(error).__name__}")


def _told(error: sqlite3.Error) -> str:
    # SQLite's own words name tables and states, never values.
    return f"{type(error).__name__}: {error}"
