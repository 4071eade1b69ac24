"""Anchors and checks of the hash-chained records, and what is deleted when its time is over."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Signal
from typing import TYPE_CHECKING, Any

from foretell.errors import DataError
from foretell.serving.audit import first_break
from foretell.serving.errors import StoreUnavailableError

if TYPE_CHECKING:
    from foretell.serving.store.base import Store
    from foretell.serving.store.governed import Purged

log = logging.getLogger("foretell.serving.records")
LOGS = ("audit", "control")
YEAR = 365.2425 * 86400


def rows_of(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """All rows of a record, in order."""
    after = 0
    while part := store.recorded(name, after, 5000):
        yield from part
        after = int(part[-1]["id"])


def anchors_now(store: Store, now: float) -> list[dict[str, Any]]:
    """Where each record ends: who keeps that elsewhere can tell if its end is cut off later."""
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    out = []
    for name in LOGS:
        last = store.last_recorded(name)
        if last is not None:
            out.append({"day": day, "log": name, "id": int(last["id"]), "hash": str(last["hash"])})
    return out


def anchor(store: Store, now: float, file: str | Path | None = None) -> list[dict[str, Any]]:
    """Notes the day's anchors, once a day over all processes: in the log, and in a file.

    Args:
        store: with the records.
        now: what day it is.
        file: to which a line is added for each; keep it where the store's owner cannot write.

    Returns:
        The anchors that were noted now.

    Raises:
        DataError: the file cannot be written; the anchors are tried again then.
    """
    out = []
    for one in anchors_now(store, now):
        mark = f"anchor.{one['log']}"
        if store.mark(mark) == one["day"]:
            continue
        if file is not None:
            try:
                with Path(file).open("a", encoding="ascii") as held:
                    held.write(json.dumps(one) + "\n")
            except OSError as error:
                raise DataError(f"the anchors cannot be written: {error}", file=str(file)) from None
        store.set_mark(mark, one["day"])
        log.info("anchor of %s: %s row %d %s", one["log"], one["day"], one["id"], one["hash"])
        out.append(one)
    return out


def keep_anchoring(
    store: Store, stop: Signal, file: str | Path | None, every: float = 60.0
) -> None:
    """Notes anchors day by day until told to stop."""
    while not stop.is_set():
        try:
            anchor(store, time.time(), file)
        except StoreUnavailableError:
            log.warning("no anchors: the store is not available")
        except DataError as error:
            log.error("no anchors: %s", error.problem)
        stop.wait(every)
    store.close()


def read_anchors(file: str | Path) -> list[dict[str, Any]]:
    """The anchors of a file.

    Raises:
        DataError: it cannot be read, or a line is no anchor.
    """
    out = []
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"the anchors cannot be read: {error}", file=str(file)) from None
    for row, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            out.append({"log": str(told["log"]), "id": int(told["id"]), "hash": str(told["hash"]),
                        "day": str(told["day"])})  # fmt: skip
        except (ValueError, KeyError, TypeError):
            raise DataError("this is no anchor", file=str(file), row=row) from None
    return out


def verify(
    rows: Iterable[Mapping[str, Any]], anchors: Iterable[Mapping[str, Any]] = ()
) -> tuple[int, list[str]]:
    """Whether a record is whole.

    Args:
        rows: from its beginning, in order.
        anchors: of this record.

    Returns:
        How many rows it has, and what is wrong with it in words.
    """
    wanted = {int(a["id"]): a for a in anchors}
    count = 0

    def seen() -> Iterator[Mapping[str, Any]]:
        nonlocal count
        for row in rows:
            count += 1
            held = wanted.get(int(row["id"]))
            if held is not None and held["hash"] == row["hash"]:
                del wanted[int(row["id"])]
            yield row

    wrong = []
    watched = seen()
    broken = first_break(watched)
    if broken is not None:
        wrong.append(f"row {broken} was changed or moved, or one before it is gone")
    for _ in watched:
        pass
    for number, held in sorted(wanted.items()):
        wrong.append(f"the anchor of {held['day']} is not in the record: row {number} is another")
    return count, wrong


def purge(
    store: Store, years: float, now: float, *, dry: bool = True, by: str = "",
    sites: Mapping[str, float] | None = None,
) -> Purged:  # fmt: skip
    """Deletes patients of whom nothing was heard for some years, and records that.

    Args:
        store: with the log.
        years: of retention.
        now: what day it is.
        dry: whether only to count.
        by: who asked for it.
        sites: site -> years of retention there.
    """
    own = dict(sites or {})
    found = store.purge(
        now - years * YEAR, dry=dry, sites={s: now - y * YEAR for s, y in own.items()}
    )
    if not dry:
        counts = {"before": found.before, "patients": found.patients, "rows": dict(found.rows)}
        store.record(
            "audit",
            {"time": now, "actor": by, "action": "purge", "subject": "",
             "purpose": f"retention of {years:g} years"
             + "".join(f", of {s} {y:g}" for s, y in own.items()), "outcome": "ok",
             "detail": json.dumps(counts, sort_keys=True)},
        )  # fmt: skip
    return found
