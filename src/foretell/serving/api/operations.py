"""What whoever runs the service looks after: what was set aside, dead letters, and clocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from foretell.serving.api.auth import Admin
from foretell.serving.api.words import WHOLE, Refused
from foretell.serving.worker.ticks import send_ticks

if TYPE_CHECKING:
    from foretell.serving.service import Service


class ClockBody(BaseModel):
    """What time it is, where time comes from outside."""

    model_config = ConfigDict(extra="forbid")
    time: Annotated[float, Field(ge=0, le=4e9, allow_inf_nan=False, strict=True)]


class CodeBody(BaseModel):
    """A code that was set aside and is known by now."""

    model_config = ConfigDict(extra="forbid")
    system: Annotated[str, Field(max_length=80, pattern=WHOLE)] = ""
    code: Annotated[str, Field(min_length=1, max_length=40, pattern=WHOLE)]


def operation_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/v1/quarantine``, ``/v1/outbox``, ``/v1/senders`` and ``/v1/clock``."""

    @app.get("/v1/quarantine", tags=["operations"])
    def quarantine(caller: Admin) -> dict[str, Any]:
        """What could not be used at the caller's sites, by reason, code and unit."""
        with service.stores.use() as store:
            return {"quarantine": store.quarantine(1000, caller.sites)}

    @app.post("/v1/quarantine/retry", tags=["operations"])
    def retry(caller: Admin, body: CodeBody) -> dict[str, Any]:
        """Reads again what waits at the caller's sites for a code that is known by now."""
        with service.stores.use() as store:
            count = service.requeue(store, body.system, body.code, caller.sites)
            service.audit(store, caller, "requeue", "", detail=f"{count} results")
        service.wake()
        return {"read": count}

    @app.get("/v1/outbox/dead", tags=["operations"])
    def dead(caller: Admin) -> dict[str, Any]:
        """What no receiver would take of the caller's sites."""
        with service.stores.use() as store:
            return {"dead": store.dead(1000, caller.sites)}

    @app.post("/v1/outbox/{row}/revive", tags=["operations"],
              responses={404: {"model": Refused, "description": "there is none"}})  # fmt: skip
    def revive(caller: Admin, row: int) -> dict[str, Any]:
        """Sends a dead letter again."""
        if not 0 < row < 2**62:
            raise HTTPException(404, "there is no such dead letter")
        with service.stores.use() as store:
            if not store.revive(row, caller.sites):
                raise HTTPException(404, "there is no such dead letter")
            service.audit(store, caller, "revive", "", detail=f"row {row}")
        return {"revived": row}

    @app.get("/v1/senders", tags=["operations"])
    def senders(caller: Admin) -> dict[str, Any]:
        """Whose clock is how far ahead of ours, the furthest first, as this process heard them.

        Of HL7 v2 a sender is the sending application and facility (MSH-3 and MSH-4), at most of 100
        characters. ``limit`` are the seconds beyond which results are flagged.
        """
        skews = service.intake.skews
        found = sorted(skews.told().items(), key=lambda f: (-abs(f[1].ahead), f[0]))
        told = [
            {
                "site": who.site, "door": who.door, "sender": who.name,
                "ahead": round(clock.ahead, 1), "messages": clock.messages,
                "flagged": abs(clock.ahead) > skews.limit,
            }
            for who, clock in found if caller.may("admin", who.site)
        ]  # fmt: skip
        return {"senders": told, "limit": skews.limit}

    @app.post("/v1/clock", tags=["operations"],
              responses={409: {"model": Refused,
                               "description": "the service has its own clock"}})  # fmt: skip
    def clock(caller: Admin, body: Annotated[ClockBody, Body()]) -> dict[str, Any]:
        """Says what time it is, in a replay."""
        if service.config.service.clock != "external":
            raise HTTPException(409, "the service has a clock of its own")
        with service.stores.use() as store, contextlib.suppress(OverflowError):
            count = send_ticks(store, body.time, everywhere=True)
        service.wake()
        return {"partitions": count}
