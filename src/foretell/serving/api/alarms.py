"""Alarms, corrections and actions in order: asked for, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from foretell.serving.api.auth import Caller, Reader
from foretell.serving.api.words import After

if TYPE_CHECKING:
    from foretell.serving.service import Service
    from foretell.serving.store.base import OutboxRow

_LAST = 2**62


def alarm_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/v1/alarms``, the number of the last note, and the stream."""

    @app.get("/v1/alarms", tags=["alarms"])
    def alarms(
        caller: Reader,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Alarms, corrections and actions in order, for those who poll.

        ``next`` is what to give as ``after`` the next time.
        """
        mine, end = _read(service, caller, after, limit)
        return {"notes": [_told(r) for r in mine], "next": end}

    @app.get("/v1/alarms/last", tags=["alarms"])
    def last(caller: Reader) -> dict[str, int]:
        """The number of the last note: whoever reads on from it hears what is new."""
        with service.stores.use() as store:
            return {"last": store.last_note()}

    @app.get("/v1/alarms/stream", tags=["alarms"], response_class=StreamingResponse)
    async def stream(
        caller: Reader,
        after: After = 0,
        last_event_id: Annotated[str | None, Header()] = None,
        changes: bool = False,
    ) -> StreamingResponse:
        """The same as server-sent events; goes on after ``Last-Event-ID``, or ``after``.

        The later one counts: who lost the connection asks again at the same address. Without either
        it begins with all that is kept; ``/v1/alarms/last`` tells where news begin.
        With ``changes`` an event ``changed`` says, at most once a second, that something was
        scored.
        """
        begin = max(after, _number(last_event_id))

        async def feed() -> AsyncIterator[str]:
            at = begin
            silent = checked = time.monotonic()
            head = -1
            yield ": foretell\n\n"
            while not service.stopping.is_set():
                if changes and time.monotonic() - checked > 1:
                    checked = time.monotonic()
                    now = await run_in_threadpool(_head, service)
                    if now != head and head >= 0:
                        silent = checked
                        yield "event: changed\ndata: {}\n\n"
                    head = now
                begun = at
                rows, at = await run_in_threadpool(_read, service, caller, begun)
                for row in rows:
                    data = json.dumps(_told(row), separators=(",", ":"))
                    yield f"id: {row.id}\nevent: {row.kind}\ndata: {data}\n\n"
                    silent = time.monotonic()
                if at == begun:
                    await asyncio.sleep(0.25)
                    if time.monotonic() - silent > 15:
                        silent = time.monotonic()
                        yield ": still here\n\n"

        return StreamingResponse(feed(), media_type="text/event-stream")


def _number(told: str | None) -> int:
    """The number that a header tells; 0 where it tells none."""
    if not told or not told.isdecimal():
        return 0
    # Python reads no number of thousands of digits.
    return min(int(told), _LAST) if len(told) <= len(str(_LAST)) else _LAST


def _head(service: Service) -> int:
    with service.stores.use() as store:
        return store.head()


def _read(
    service: Service, caller: Caller, after: int, limit: int = 200
) -> tuple[list[OutboxRow], int]:
    """Notes that a caller may read, recorded by patient; and the number of the last one seen."""
    with service.stores.use() as store:
        rows = store.notes(after, limit)
        mine = [row for row in rows if caller.may("read", row.site)]
        read = Counter((row.site, row.patient) for row in mine)
        # What cannot be recorded is not told.
        for (site, patient), count in read.items():
            service.audit(store, caller, "notes", service.pseudonyms(site, patient),
                          detail=f"{count} notes")  # fmt: skip
    return mine, rows[-1].id if rows else after


def _told(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "key": row.key, "kind": row.kind, "site": row.site,
        "patient": row.patient, "time": row.time, **row.body,
    }  # fmt: skip
