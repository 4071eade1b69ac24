"""The door for FHIR: single resources, bundles and the notifications of subscriptions."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor

from foretell.data.clinical.fhir import FhirError, FhirReader
from foretell.serving.api.auth import Caller, Sender
from foretell.serving.api.taken import count_taken
from foretell.serving.api.words import MaybeQuery
from foretell.serving.errors import StoreUnavailableError
from foretell.serving.events import events_of
from foretell.serving.ingest.committer import BusyError
from foretell.serving.subscriptions.incoming import (
    Notification,
    ask_poller,
    heed,
    read_notification,
)

if TYPE_CHECKING:
    from foretell.serving.service import Service

log = logging.getLogger("foretell.serving.api")
FHIR_JSON = "application/fhir+json"
_TYPES = ("application/fhir+json", "application/json", "text/json", "")


class _TypeConvertor(Convertor[str]):
    """A type of resource that has no doors of its own: those answer for their paths alone."""

    regex = r"(?!(?:Subscription|AuditEvent|metadata)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _IdConvertor(Convertor[str]):
    """What FHIR calls an id: operations such as ``$status`` are none."""

    regex = r"[A-Za-z0-9\-.]{1,64}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("fhirtype", _TypeConvertor())
register_url_convertor("fhirid", _IdConvertor())


class Issue(BaseModel):
    """What was wrong, and where in the resource."""

    severity: Literal["fatal", "error", "warning", "information"]
    code: str
    diagnostics: str
    expression: list[str] | None = None


class OperationOutcome(BaseModel):
    """How the doors for FHIR refuse; what was sent is not repeated."""

    resourceType: Literal["OperationOutcome"]  # noqa: N815
    issue: list[Issue]


_REFUSALS = {
    401: "a bearer token is needed", 403: "the token has not the scope, or not for the site",
    422: "a parameter is not right", 429: "too many requests",
    503: "the store is not available",
}  # fmt: skip


def refusals(more: Mapping[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """The refusals of a door for FHIR, those of all such doors and ``more``, for its description.

    Args:
        more: status -> when.
    """
    told = sorted({**_REFUSALS, **(more or {})}.items())
    return {status: {"model": OperationOutcome, "description": text} for status, text in told}


class FhirResponse(JSONResponse):
    """JSON that says it is FHIR."""

    media_type = FHIR_JSON


class TooLargeError(Exception):
    """A body is larger than is taken."""


def outcome(severity: str, code: str, text: str, where: str = "") -> dict[str, Any]:
    """An OperationOutcome."""
    issue: dict[str, Any] = {"severity": severity, "code": code, "diagnostics": text}
    if where:
        issue["expression"] = [where]
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def fhir_routes(app: FastAPI, service: Service) -> None:
    """Adds ``POST /fhir`` and ``POST /fhir/{type}``, and ``PUT`` for rest-hooks with payload."""
    told = refusals({400: "no resource that can be read, or it is not said of which site",
                     413: "too large", 415: "not JSON"})  # fmt: skip
    schema = {
        "type": "object",
        "required": ["resourceType"],
        "properties": {"resourceType": {"type": "string"}},
    }

    def body(required: bool = True) -> dict[str, Any]:
        return {"requestBody": {"required": required, "content": {FHIR_JSON: {"schema": schema}}}}

    @app.post(
        "/fhir", tags=["fhir"], responses=told, openapi_extra=body(False),
        response_class=FhirResponse,
    )  # fmt: skip
    async def post(request: Request, sender: Sender, site: MaybeQuery = None) -> JSONResponse:
        """Takes a resource or a bundle; answered when it is durable.

        Without a body it is a hook that says there is something new: the site's server is asked.
        """
        return await _take(service, request, sender, site)

    @app.post(
        "/fhir/{kind:fhirtype}", tags=["fhir"], responses=told, openapi_extra=body(),
        response_class=FhirResponse,
    )  # fmt: skip
    async def create(
        request: Request, sender: Sender, kind: str, site: MaybeQuery = None
    ) -> JSONResponse:
        """Takes a resource of a type."""
        return await _take(service, request, sender, site, kind)

    @app.put(
        "/fhir/{kind:fhirtype}/{identity}", tags=["fhir"], responses=told, openapi_extra=body(),
        response_class=FhirResponse,
    )  # fmt: skip
    async def update(
        request: Request, sender: Sender, kind: str, identity: str, site: MaybeQuery = None
    ) -> JSONResponse:
        """Takes a new version of a resource, as rest-hooks send it."""
        return await _take(service, request, sender, site, kind)


def answer(status: int, body: dict[str, Any], **headers: str) -> JSONResponse:
    """FHIR as an answer; underscores in names of headers stand for hyphens."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return JSONResponse(body, status, named, media_type=FHIR_JSON)


async def _take(
    service: Service, request: Request, sender: Caller, site: str | None, kind: str | None = None
) -> JSONResponse:
    received = time.time()
    count = service.metrics.messages
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _TYPES:
        return answer(415, outcome("error", "not-supported", "only JSON is taken"))
    if site is None:
        names = sorted(sender.sites) or sorted(service.config.sites) or ["fhir"]
        if len(names) != 1:
            return answer(400, outcome("error", "required", "name the site: ?site="))
        site = names[0]
    if not sender.may("ingest", site) or not service.intake.knows_site(site):
        return answer(403, outcome("error", "forbidden", "the site is not yours"))
    data = await request.body()
    if kind is None and not data.strip():
        # A hook as of R4 without a payload: there is something new, and nothing more is said.
        await run_in_threadpool(_ask_poller, service, site)
        count.labels("fhir", "empty", "stored").inc()
        return answer(200, outcome("information", "informational", "the server is asked"))
    try:
        resource = await run_in_threadpool(parsed, data)
        if kind is not None and resource.get("resourceType") != kind:
            raise FhirError("the resource is not of the type of the address", where="resourceType")
        note = read_notification(resource)
        if note is not None:
            entries = [{"resource": r} for r in note.resources]
            resource = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        reader = service.intake.fhir_reader(site)
        delivery = await run_in_threadpool(
            partial(service.intake.fhir, resource, site, received, reader=reader)
        )
        future = service.committer.submit(delivery)
    except FhirError as error:
        count.labels("fhir", "", "refused").inc()
        return answer(400, outcome("error", "invalid", error.problem, error.where))
    except BusyError:
        count.labels("fhir", "", "busy").inc()
        busy = outcome("error", "throttled", "the service is busy; send again")
        return answer(429, busy, Retry_After="1")
    try:
        result = await asyncio.wrap_future(future)
    except StoreUnavailableError:
        count.labels("fhir", "", "unavailable").inc()
        down = outcome("error", "transient", "not stored; send again")
        return answer(503, down, Retry_After="2")
    kind_of = delivery.kind if delivery.kind in _COUNTED else "other"
    if note is not None:
        # Only what is durable counts as heard: what is not answered is sent again.
        await run_in_threadpool(_heed, service, site, note)
        kind_of = note.kind
    count_taken(service, "fhir", kind_of, result, received)
    if resource["resourceType"] == "Bundle" and resource.get("type") in ("batch", "transaction"):
        about = reader if delivery.quarantined else None
        responses = await run_in_threadpool(_responses, service, site, about, resource)
        entries = [{"response": r} for r in responses]
        told = {"resourceType": "Bundle", "type": f"{resource['type']}-response", "entry": entries}
        return answer(200, told)
    text = (
        "known already" if result.duplicate
        else f"{result.items} new, {result.repeated} known, {result.quarantined} set aside"
    )  # fmt: skip
    return answer(200, outcome("information", "informational", text))


def _responses(
    service: Service, site: str, reader: FhirReader | None, bundle: dict[str, Any]
) -> list[dict[str, Any]]:
    """What became of each entry of a bundle that is durable.

    Args:
        service: that took it.
        site: of which it is.
        reader: that has read the bundle, and knows its patients and drugs; None where nothing
            was set aside.
        bundle: a batch or transaction.
    """
    _, normaliser = service.intake.of_site(site)
    out = []
    for entry in bundle.get("entry", []):
        inner = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(inner, dict):
            problem = outcome("error", "not-supported", "only resources are taken")
            out.append({"status": "405 Method Not Allowed", "outcome": problem})
            continue
        told: dict[str, Any] = {"status": "200 OK"}
        try:
            aside = [] if reader is None else events_of(reader.read(inner), normaliser)[1]
            reasons = sorted({q.reason for q in aside})
        except FhirError:
            reasons = ["no_resource"]
        if reasons:
            text = f"set aside: {', '.join(reasons)}"
            told["outcome"] = outcome("warning", "processing", text)
        out.append(told)
    return out


def _ask_poller(service: Service, site: str) -> None:
    with service.stores.use() as store:
        ask_poller(store, site)


def _heed(service: Service, site: str, note: Notification) -> None:
    with service.stores.use() as store:
        heard = heed(store, site, note)
    if heard.gap is not None:
        service.metrics.missed.labels(site).inc(heard.gap[1] - heard.gap[0] + 1)
        log.warning("notifications of a subscription are missing; its server is asked")


_COUNTED = frozenset({"Bundle", "Observation", "Encounter", "Patient", "Condition",
                      "MedicationAdministration", "ServiceRequest"})  # fmt: skip


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        TooLargeError: it is larger than ``most`` bytes.
    """
    out = bytearray()
    async for chunk in request.stream():
        out += chunk
        if len(out) > most:
            raise TooLargeError
    return bytes(out)


def parsed(data: bytes) -> dict[str, Any]:
    """The resource that a body is.

    Raises:
        FhirError: it is none.
    """

    def no_number(text: str) -> None:
        raise ValueError

    try:
        value = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise FhirError("the body is no JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
        raise FhirError("this is no FHIR resource", where="resourceType")
    return value
