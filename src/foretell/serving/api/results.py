"""The plain door: results as JSON, for senders that speak neither HL7 v2 nor FHIR."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from foretell.data.clinical.feed import Measurement
from foretell.serving.api.auth import Caller, Sender
from foretell.serving.api.taken import count_taken
from foretell.serving.api.words import WHOLE, Name, Refused
from foretell.serving.events import Delivery
from foretell.serving.ingest.committer import BusyError

if TYPE_CHECKING:
    from foretell.serving.service import Service

Seconds = Annotated[float, Field(ge=0, le=4e9, allow_inf_nan=False, strict=True)]
Short = Annotated[str, Field(min_length=1, max_length=80, pattern=WHOLE)]


class Result(BaseModel):
    """One result: seconds are since 1970, ``id`` is shared by the versions of one result."""

    model_config = ConfigDict(extra="forbid")
    id: Name
    patient: Name
    visit: Name | None = None
    system: Short = "LN"
    code: Short
    value: Annotated[float, Field(allow_inf_nan=False, strict=True)] | None = None
    comparator: Literal["<", ">"] | None = None
    unit: Short | None = None
    time: Seconds
    issued: Seconds | None = None
    status: Literal["preliminary", "final", "corrected", "deleted"] = "final"


class ResultsBody(BaseModel):
    """Results of one site under a name by which the same message is known again."""

    model_config = ConfigDict(extra="forbid")
    id: Name
    site: Name
    events: Annotated[list[Result], Field(min_length=1, max_length=1000)]


class Taken(BaseModel):
    """What became of a message: results that are new, known already, or set aside."""

    new: int
    repeated: int
    set_aside: int


def result_routes(app: FastAPI, service: Service) -> None:
    """Adds ``POST /v1/events``."""

    @app.post(
        "/v1/events", tags=["events"], response_model=Taken,
        responses={
            403: {"model": Refused, "description": "the site is not yours"},
            429: {"model": Refused, "description": "the service is busy, or too many requests"},
        },
    )  # fmt: skip
    async def events(sender: Sender, body: ResultsBody) -> Taken:
        """Takes results of a site; answered when they are durable.

        A result that is ``deleted`` needs no value; one that is ``corrected`` without any takes the
        number back. What has no code or unit that is known is set aside, see ``/v1/quarantine``.
        """
        received = time.time()
        if not sender.may("ingest", body.site) or not service.intake.knows_site(body.site):
            raise HTTPException(403, "the site is not yours")
        delivery = await run_in_threadpool(_delivery, service, sender, body, received)
        try:
            taken = await asyncio.wrap_future(service.committer.submit(delivery))
        except BusyError:
            service.metrics.messages.labels("json", "", "busy").inc()
            raise HTTPException(
                429, "the service is busy; send again", {"Retry-After": "1"}
            ) from None
        count_taken(service, "json", "events", taken, received)
        return Taken(new=taken.items, repeated=taken.repeated, set_aside=taken.quarantined)


def _delivery(service: Service, sender: Caller, body: ResultsBody, received: float) -> Delivery:
    records = [_measurement(body.site, result) for result in body.events]
    told: dict[str, Any] = body.model_dump(mode="json")
    data = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    content = hashlib.sha256(data).digest()[:16]
    source = f"json|{body.site}|{sender.name}"
    return service.intake.plain(records, source, body.site, body.id, content, received)


def _measurement(site: str, told: Result) -> Measurement:
    deleted = told.status == "deleted"
    return Measurement(
        site, told.patient, told.visit, ((told.system, told.code),),
        math.nan if told.value is None or deleted else told.value, told.unit, told.time,
        max(told.time, told.issued or 0.0), told.status,
        f"json|{told.id}", told.comparator,
        "there is no value" if told.value is None and not deleted else None,
    )  # fmt: skip
