"""Which code stands for whom: a store apart from the data, for its owner alone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from foretell.errors import DataError


class Identity(NamedTuple):
    """What a code stands for.

    Args:
        kind: ``"patient"``, ``"visit"``, ``"stay"``, ``"order"``, ``"site"`` ...
        site: it belongs to.
        identity: as it was.
    """

    kind: str
    site: str
    identity: str


class Crosswalk:
    """Codes and what they stand for, in a file that never goes with the data.

    Args:
        file: SQLite, made readable for its owner alone where absent; None keeps it in memory, and
            nobody can lead a code back once the process has ended.

    Raises:
        DataError: the file is no crosswalk.
    """

    def __init__(self, file: str | Path | None = None) -> None:
        self.file = None if file is None else Path(file)
        try:
            if self.file is not None and not self.file.exists():
                self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._store = sqlite3.connect(":memory:" if self.file is None else self.file)
            self._store.execute("PRAGMA synchronous = FULL")
            self._store.execute(
                "CREATE TABLE IF NOT EXISTS codes (code TEXT PRIMARY KEY, kind TEXT NOT NULL, "
                "site TEXT NOT NULL, identity TEXT NOT NULL, maker TEXT NOT NULL, "
                "UNIQUE (kind, site, identity, maker))"
            )
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"this is no crosswalk: {error}", file=str(file)) from None
        self._known: dict[tuple[str, str, str, str], str] = {}

    def code(self, kind: str, site: str, identity: str, maker: str, make: Callable[[], str]) -> str:
        """The code of a thing: the one on record, else a new one.

        Args:
            kind: see :class:`Identity`.
            site: see :class:`Identity`.
            identity: see :class:`Identity`.
            maker: name of the key, or what stands for drawing by chance.
            make: makes a new code.
        """
        key = (kind, site, identity, maker)
        found = self._known.get(key)
        if found is None:
            row = self._store.execute(
                "SELECT code FROM codes WHERE kind=? AND site=? AND identity=? AND maker=?", key
            ).fetchone()
            if row is None:
                found = make()
                self._store.execute("INSERT INTO codes VALUES (?, ?, ?, ?, ?)", (found, *key))
            else:
                found = str(row[0])
            self._known[key] = found
        return found

    def holds(self, code: str) -> bool:
        """Whether a text is a code that was given out."""
        return self._row(code) is not None

    def identity(self, code: str) -> Identity:
        """What a code stands for.

        Raises:
            DataError: it was not given out here.
        """
        row = self._row(code)
        if row is None:
            raise DataError("this code was not given out here")
        return Identity(*row)

    def __len__(self) -> int:
        return int(self._store.execute("SELECT count(*) FROM codes").fetchone()[0])

    def commit(self) -> None:
        """Makes all codes so far last."""
        self._store.commit()

    def close(self) -> None:
        """Makes all codes last and closes the file."""
        self._store.commit()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _row(self, code: str) -> tuple[str, str, str] | None:
        found: tuple[str, str, str] | None = self._store.execute(
            "SELECT kind, site, identity FROM codes WHERE code=?", (code,)
        ).fetchone()
        return found
