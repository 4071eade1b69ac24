"""The door for subscriptions: to make, read, change and end them, their state and their events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from foretell.data.clinical.fhir import FhirError
from foretell.serving.api.auth import Caller, Subscriber
from foretell.serving.api.fhir import (
    FHIR_JSON,
    FhirResponse,
    TooLargeError,
    answer,
    outcome,
    parsed,
    read_body,
    refusals,
)
from foretell.serving.resources import searchset
from foretell.serving.store import Store, SubscriptionRow
from foretell.serving.subscriptions import (
    Wanted,
    notification,
    read_subscription,
    shown,
    status_of,
)
from foretell.serving.subscriptions.sink import with_resources

if TYPE_CHECKING:
    from foretell.serving.service import Service

Identity = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9.-]+$")]
# One or, as searches of FHIR have it, several between commas; all of them fit into an address.
Ids = Annotated[str, Field(max_length=2000, pattern="^[A-Za-z0-9.,-]*$")]
_MOST_BYTES = 64 << 10
_MOST_EVENTS = 100


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, text: str, where: str = "") -> None:
        super().__init__(text)
        self.response = answer(status, outcome("error", code, text, where))


def _body(*statuses: str) -> dict[str, Any]:
    """The description of a subscription: its parts that do not depend on each other."""
    text = {"type": "string", "minLength": 1, "maxLength": 2000}
    schema = {
        "type": "object",
        "required": ["resourceType", "reason", "criteria", "channel"],
        "properties": {
            "resourceType": {"const": "Subscription"}, "status": {"enum": list(statuses)},
            "reason": text, "criteria": text,
            "end": {"type": ["string", "null"], "format": "date-time"},
            "channel": {
                "type": "object",
                "required": ["type", "endpoint"],
                "properties": {
                    "type": {"const": "rest-hook"}, "endpoint": text,
                    "payload": {"type": ["string", "null"]},
                    "header": {"type": ["array", "null"], "items": {"type": "string"},
                               "maxItems": 20},
                },
            },
        },
    }  # fmt: skip
    return {"requestBody": {"required": True, "content": {FHIR_JSON: {"schema": schema}}}}


def subscription_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/fhir/Subscription``; before the general doors, which would take it for theirs."""
    told = refusals({404: "there is no such subscription"})
    written = refusals({400: "it cannot be served", 404: "there is no such subscription",
                        413: "too large", 429: "too many subscriptions"})  # fmt: skip
    settings = service.config.subscriptions

    async def wanted_of(
        request: Request, held: SubscriptionRow | None = None
    ) -> tuple[Any, Wanted]:
        try:
            data = await read_body(request, _MOST_BYTES)
        except TooLargeError:
            raise _RefusedError(413, "too-costly", "the body is too large") from None
        try:
            resource = parsed(data)
            wanted = read_subscription(
                resource, settings.endpoints, held=None if held is None else held.body,
                shortest=settings.shortest_heartbeat_seconds,
            )  # fmt: skip
        except FhirError as error:
            raise _RefusedError(400, "invalid", error.problem, error.where) from None
        return resource, wanted

    @app.post(
        "/fhir/Subscription", tags=["subscriptions"], status_code=201, responses=written,
        openapi_extra=_body("requested"), response_class=FhirResponse,
    )  # fmt: skip
    async def create(request: Request, caller: Subscriber) -> Response:
        """Makes a subscription: ``requested`` until its endpoint has taken the handshake."""
        if not caller.may("read"):
            raise HTTPException(403, "the scope 'read' is needed")
        try:
            resource, wanted = await wanted_of(request)
            if resource.get("status", "requested") != "requested":
                raise _RefusedError(
                    400, "business-rule", "a new subscription is 'requested'",
                    "Subscription.status",
                )  # fmt: skip
        except _RefusedError as refused:
            return refused.response

        def keep() -> SubscriptionRow | None:
            with service.stores.use() as store:
                if len(store.subscriptions(owner=caller.name)) >= settings.most:
                    return None
                row = SubscriptionRow(
                    secrets.token_hex(12), caller.name, 0, "requested", None, wanted.body, 1, 0.0,
                    0.0, period=wanted.heartbeat if wanted.topic is not None else None,
                )  # fmt: skip
                row = store.add_subscription(row)
                service.audit(store, caller, "subscribe", "", detail=f"{row.id} {wanted.kind}")
            return row

        made = await run_in_threadpool(keep)
        if made is None:
            return answer(429, outcome("error", "throttled", "there are too many subscriptions"))
        where = f"{_base(service, request)}/Subscription/{made.id}"
        return answer(201, shown(made), Location=where)

    @app.get("/fhir/Subscription", tags=["subscriptions"], response_class=FhirResponse,
             responses=refusals())  # fmt: skip
    def search(
        caller: Subscriber,
        status: Annotated[str | None, Query(pattern="^(requested|active|error|off)$")] = None,
    ) -> JSONResponse:
        """The caller's subscriptions; of all callers for those with the scope ``admin``."""
        with service.stores.use() as store:
            found = store.subscriptions(
                owner=None if caller.may("admin") else caller.name,
                statuses=() if status is None else (status,),
            )
        return answer(200, searchset([shown(r) for r in found]))

    @app.get("/fhir/Subscription/$status", tags=["subscriptions"], response_class=FhirResponse,
             responses=refusals())  # fmt: skip
    def statuses(
        caller: Subscriber,
        identity: Annotated[list[Ids], Query(alias="id", max_length=20, default_factory=list)],
    ) -> JSONResponse:
        """The states of the caller's subscriptions."""
        with service.stores.use() as store:
            found = store.subscriptions(owner=caller.name)
            wanted = set(",".join(identity).split(",")) - {""}
            found = [r for r in found if not wanted or r.id in wanted]
        return answer(200, searchset([_status(service, r) for r in found]))

    @app.get(
        "/fhir/Subscription/{identity:fhirid}", tags=["subscriptions"], responses=told,
        response_class=FhirResponse,
    )  # fmt: skip
    def read(caller: Subscriber, identity: Identity) -> JSONResponse:
        """A subscription; values of its headers are not shown."""
        with service.stores.use() as store:
            return answer(200, shown(_mine(store, caller, identity)))

    @app.put(
        "/fhir/Subscription/{identity:fhirid}", tags=["subscriptions"], responses=written,
        openapi_extra=_body("requested", "active", "off"), response_class=FhirResponse,
    )  # fmt: skip
    async def update(request: Request, caller: Subscriber, identity: Identity) -> Response:
        """Changes a subscription; ``requested`` starts it again, ``off`` stops it."""
        if not caller.may("read"):
            raise HTTPException(403, "the scope 'read' is needed")

        def held() -> SubscriptionRow:
            with service.stores.use() as store:
                return _mine(store, caller, identity)

        before = await run_in_threadpool(held)
        try:
            resource, wanted = await wanted_of(request, before)
            status = resource.get("status", "requested")
            if resource.get("id", identity) != identity:
                raise _RefusedError(
                    400, "invalid", "the id is not that of the address", "Subscription.id"
                )
            if status not in ("requested", "active", "off"):
                raise _RefusedError(
                    400, "business-rule", "a subscription is asked to be 'requested' or 'off'",
                    "Subscription.status",
                )  # fmt: skip
        except _RefusedError as refused:
            return refused.response

        def keep() -> SubscriptionRow | None:
            with service.stores.use() as store:
                row = store.change_subscription(
                    identity, wanted.body, "off" if status == "off" else "requested",
                    wanted.heartbeat if wanted.topic is not None else None,
                )  # fmt: skip
                service.audit(store, caller, "subscribe", "", detail=f"{identity} {status}")
            return row

        made = await run_in_threadpool(keep)
        if made is None:
            raise HTTPException(404, "there is no such subscription")
        return answer(200, shown(made))

    @app.delete(
        "/fhir/Subscription/{identity:fhirid}", tags=["subscriptions"], status_code=204,
        responses=told, response_class=FhirResponse,
    )  # fmt: skip
    def delete(caller: Subscriber, identity: Identity) -> Response:
        """Ends a subscription and forgets its events."""
        with service.stores.use() as store:
            _mine(store, caller, identity)
            store.drop_subscription(identity)
            service.audit(store, caller, "unsubscribe", "", detail=identity)
        return Response(status_code=204)

    @app.get(
        "/fhir/Subscription/{identity:fhirid}/$status", tags=["subscriptions"], responses=told,
        response_class=FhirResponse,
    )  # fmt: skip
    def status_(caller: Subscriber, identity: Identity) -> JSONResponse:
        """The state of a subscription, and how many events there were."""
        with service.stores.use() as store:
            row = _mine(store, caller, identity)
        return answer(200, searchset([_status(service, row)]))

    @app.get(
        "/fhir/Subscription/{identity:fhirid}/$events", tags=["subscriptions"], responses=told,
        response_class=FhirResponse,
    )  # fmt: skip
    def events(
        caller: Subscriber, identity: Identity,
        since: Annotated[int, Query(alias="eventsSinceNumber", ge=0, le=2**53)] = 1,
        until: Annotated[int | None, Query(alias="eventsUntilNumber", ge=0, le=2**53)] = None,
        content: Annotated[str | None, Query(pattern="^(empty|id-only|full-resource)$")] = None,
    ) -> JSONResponse:  # fmt: skip
        """Events that were missed, by their numbers: at most a hundred in an answer."""
        if not caller.may("read"):
            raise HTTPException(403, "the scope 'read' is needed")
        with service.stores.use() as store:
            row = _mine(store, caller, identity)
            wanted = _checked(service, row)
            last = row.events if until is None else min(until, row.events)
            told = store.occurrences(identity, since, last, _MOST_EVENTS)
            found = with_resources(store, told, service.config.patient_systems)
            found = _permitted(store, caller, found)
            service.audit(
                store,
                caller,
                "fhir-read",
                "",
                detail=f"Subscription/{identity} {len(found)} events",
            )
        bundle = notification(
            row, wanted, "query-event", key=f"query/{since}/{last}", time=time.time(),
            events=found, base=settings.base, content=content or wanted.content,
        )  # fmt: skip
        return answer(200, bundle)

    def _checked(service: Service, row: SubscriptionRow) -> Wanted:
        try:
            return read_subscription(row.body, settings.endpoints)
        except FhirError:
            # Its endpoint is listed no more: what there is to tell can still be told.
            return read_subscription(row.body, [str(row.body["channel"]["endpoint"])])

    def _status(service: Service, row: SubscriptionRow) -> dict[str, Any]:
        return {
            "id": row.id,
            **status_of(row, _checked(service, row), "query-status", base=settings.base),
        }


def _permitted(store: Store, caller: Caller, found: Sequence[Any]) -> list[Any]:
    """The events; those of sites that the caller has lost since are told without resources."""
    out = []
    for event, resources in found:
        row = store.note(event.source)
        may = row is not None and caller.may("read", row.site)
        out.append((event, resources if may else []))
    return out


def _mine(store: Store, caller: Caller, identity: str) -> SubscriptionRow:
    row = store.subscription(identity)
    if row is None or (row.owner != caller.name and not caller.may("admin")):
        # Whether others have one is not told.
        raise HTTPException(404, "there is no such subscription")
    return row


def _base(service: Service, request: Request) -> str:
    base = service.config.subscriptions.base
    return (base or f"{request.base_url}fhir").rstrip("/")
