"""The record of who did what: each row holds the hash of the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

_FIELDS = ("time", "actor", "action", "subject", "purpose", "outcome", "detail")


def chained(row: Mapping[str, Any], previous: str) -> dict[str, Any]:
    """A row with the hash of the row before and its own."""
    record: dict[str, Any] = {name: row.get(name, "") for name in _FIELDS}
    record["time"] = float(record["time"] or 0.0)
    record |= {"previous": previous}
    return {**record, "hash": _hash(record)}


def _hash(record: Mapping[str, Any]) -> str:
    told = [record[name] for name in (*_FIELDS, "previous")]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def first_break(rows: Iterable[Mapping[str, Any]], anchor: str = "") -> int | None:
    """Number (``id``) of the first row that was changed, moved or follows a deleted one.

    Args:
        rows: from the beginning, in order.
        anchor: hash that the last row must have, where it was noted elsewhere: it shows that rows
            were cut from the end.
    """
    previous, last = "", 0
    for row in rows:
        last = int(row["id"])
        if row["previous"] != previous or _hash(row) != row["hash"]:
            return last
        previous = row["hash"]
    return last if anchor and previous != anchor else None
