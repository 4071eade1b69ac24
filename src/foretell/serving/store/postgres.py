"""The store in PostgreSQL, for several machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from foretell.errors import ParameterError
from foretell.serving.errors import ServingError, StoreUnavailableError
from foretell.serving.store.sql import SqlStore
from foretell.serving.store.tables import names, statements

# Appends take this lock to their end, so that events become visible in the order of their
# numbers: a reader that saw one has seen all before it.
_APPEND_LOCK = 0x666F7265


class PostgresStore(SqlStore):
    """A store in PostgreSQL; a lost connection is opened anew by the next call."""

    _lock_rows = " FOR UPDATE SKIP LOCKED"
    _own_numbers = "OVERRIDING SYSTEM VALUE "

    _db: Any

    def __init__(self, address: str, partitions: int) -> None:
        super().__init__(partitions)
        try:
            import psycopg
        except ImportError as error:
            raise ParameterError(
                "PostgreSQL needs psycopg: pip install 'foretell[serve]'"
            ) from error
        self._psycopg = psycopg
        self._address = address
        self._db = None
        self._depth = 0
        with self._transaction(append=True):
            # Only once: to look whether an index is there would wait for all who write.
            # A store of an earlier version gets the tables that it lacks.
            made = self._run(
                "SELECT bool_and(to_regclass(n) IS NOT NULL) FROM unnest(%s::text[]) n", (names(),)
            )[0][0]
            for sql in (
                ()
                if made
                else statements(
                    binary="BYTEA",
                    real="DOUBLE PRECISION",
                    serial="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
                )
            ):
                self._db.execute(sql)
            self._prepare()

    def another(self) -> PostgresStore:
        """See :class:`Store`."""
        return PostgresStore(self._address, self.partitions)

    def close(self) -> None:
        """See :class:`Store`."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connected(self) -> Any:
        if self._db is None or self._db.closed:
            told = self._psycopg.conninfo.conninfo_to_dict(self._address)
            # What the address says itself holds.
            try:
                wait = int(told.get("connect_timeout") or 5)
            except ValueError:
                raise ParameterError(
                    "connect_timeout in the address of the store is a whole number of seconds"
                ) from None
            self._db = self._psycopg.connect(self._address, autocommit=True, connect_timeout=wait)
            # Commits wait for the disk whatever the server's default is.
            self._db.execute("SET synchronous_commit = on")
            self._db.execute("SET lock_timeout = '20s'")
        return self._db

    @contextmanager
    def _transaction(self, *, append: bool = False) -> Iterator[None]:
        try:
            with self._connected().transaction():
                self._depth += 1
                try:
                    if append:
                        self._db.execute("SELECT pg_advisory_xact_lock(%s)", (_APPEND_LOCK,))
                    yield
                finally:
                    self._depth -= 1
        except self._psycopg.Error as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> ServingError:
        p = self._psycopg
        if isinstance(error, p.DataError | p.IntegrityError | p.ProgrammingError):
            # The rows are at fault, not the store: trying again is of no use.
            return ServingError(f"the store refuses the rows: {type(error).__name__}")
        return self._unavailable(error)

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        # The server's words may hold values of rows; only their kind is passed on.
        state = getattr(error, "sqlstate", None)
        if self._db is not None and (self._db.closed or self._db.broken):
            self._db = None
        return StoreUnavailableError(
            f"the store does not answer or refuses: {type(error).__name__} {state or ''}".rstrip()
        )

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        try:
            cursor = self._connected().execute(sql.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []
        except self._psycopg.Error as error:
            if self._depth:
                raise
            raise self._told(error) from None

    def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            with self._db.cursor() as cursor:
                cursor.executemany(sql.replace("?", "%s"), rows)

    def _new_keys(self, keys: Sequence[bytes]) -> set[bytes]:
        if not keys:
            return set()
        sql = "INSERT INTO seen SELECT unnest(%s::bytea[]) ON CONFLICT DO NOTHING RETURNING key"
        return {bytes(r[0]) for r in self._db.execute(sql, (list(dict.fromkeys(keys)),))}

    def _numbered(self) -> None:
        self._run(
            "SELECT setval(pg_get_serial_sequence('event', 'seq'), "
            "(SELECT COALESCE(MAX(seq), 1) FROM event))"
        )

    def _now(self) -> float:
        found = self._run("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(found[0][0])
