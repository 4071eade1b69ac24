"""The HTTP application: health, metrics, FHIR in, and the REST interface of version 1.

Every read of a patient and every change is written to the audit record, patients under their
pseudonyms. Errors say what was wrong, never what was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route

from foretell import __version__
from foretell.errors import ParameterError
from foretell.serving.api.auth import Caller, needs
from foretell.serving.api.board import board_routes
from foretell.serving.api.bounds import MOST_BYTES, BodyBound
from foretell.serving.api.cds import cds_routes
from foretell.serving.api.export import export_routes
from foretell.serving.api.fhir import FHIR_JSON, fhir_routes, outcome
from foretell.serving.api.governance import governance_routes, reading
from foretell.serving.api.results import result_routes
from foretell.serving.api.subscriptions import subscription_routes
from foretell.serving.api.words import WHOLE, MaybeQuery, Name, NamePath, Refused
from foretell.serving.audit import first_break
from foretell.serving.drift import found_last
from foretell.serving.errors import StoreUnavailableError
from foretell.serving.events import action as action_event
from foretell.serving.events import digest
from foretell.serving.reasons import ReasonCode
from foretell.serving.worker.policy import check_action
from foretell.serving.worker.ticks import send_ticks

if TYPE_CHECKING:
    from foretell.serving.service import Service
    from foretell.serving.store.base import OutboxRow

log = logging.getLogger("foretell.serving.api")
Hours = Annotated[int, Field(ge=1, le=72)]


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stay: Name | None = None
    key: Annotated[str, Field(min_length=8, max_length=100)]


class Answer(_Action):
    """A clinician has seen a stay's alarm, or lets its alarms go on."""

    action: Literal["acknowledge", "resume"]
    reason: ReasonCode | None = None


class Snooze(_Action):
    """A clinician has a stay's alarms wait for hours, and says why; a graver one breaks through."""

    action: Literal["snooze"]
    hours: Hours
    reason: ReasonCode


class Suppress(_Action):
    """A clinician silences a stay's alarms for hours, and says why."""

    action: Literal["suppress"]
    hours: Hours
    reason: ReasonCode


ActionBody = Annotated[Answer | Snooze | Suppress, Body(discriminator="action")]


class ClockBody(BaseModel):
    """What time it is, where time comes from outside."""

    model_config = ConfigDict(extra="forbid")
    time: Annotated[float, Field(ge=0, le=4e9, allow_inf_nan=False, strict=True)]


class CodeBody(BaseModel):
    """A code that was set aside and is known by now."""

    model_config = ConfigDict(extra="forbid")
    system: Annotated[str, Field(max_length=80, pattern=WHOLE)] = ""
    code: Annotated[str, Field(min_length=1, max_length=40, pattern=WHOLE)]


Reader = Annotated[Caller, Depends(needs("read"))]
Actor = Annotated[Caller, Depends(needs("act"))]
Admin = Annotated[Caller, Depends(needs("admin"))]
Auditor = Annotated[Caller, Depends(needs("audit"))]


def _visible(caller: Caller, site: str) -> None:
    if not caller.may("act", site):
        # Whether there is such a site is not told, either.
        raise HTTPException(404, "there is no such patient")


def build_app(service: Service) -> FastAPI:
    """The application of a service."""
    app = FastAPI(
        title="foretell",
        # Their pages would load code from elsewhere.
        docs_url=None,
        redoc_url=None,
        version=__version__,
        responses={
            401: {"model": Refused, "description": "a bearer token is needed"},
            403: {"model": Refused, "description": "the token has not the scope"},
            422: {"model": Refused},
            429: {"model": Refused, "description": "too many requests"},
            503: {"model": Refused, "description": "the store is not available"},
        },
        description="Early warning: scores, alarms and their handling. Decision support, "
        "not a diagnostic device.",
    )
    app.state.service = service
    http = service.config.http
    most = MOST_BYTES if http is None else http.max_bytes
    # Inside of what counts requests: what is refused here is counted, too.
    app.add_middleware(BodyBound, most=most, refuse=_told_no, metrics=service.metrics)
    _errors(app)
    _health(app, service)
    _patients(app, service)
    _operations(app, service)
    subscription_routes(app, service)
    fhir_routes(app, service)
    result_routes(app, service)
    cds_routes(app, service)
    export_routes(app, service)
    board_routes(app, service)
    governance_routes(app, service)
    _describe(app, service, most)
    return app


def _describe(app: FastAPI, service: Service, most: int) -> None:
    """Adds to the description what the framework and the configuration know."""
    plain = app.openapi
    schema = {"$ref": "#/components/schemas/Refused"}
    unread = {"description": "the body is no text",
              "content": {"application/json": {"schema": schema}}}  # fmt: skip
    large = {**unread, "description": f"the body has more than {most:,} bytes"}

    def told() -> dict[str, Any]:
        held = plain()
        for name in ("Snooze", "Suppress"):
            hours = held["components"]["schemas"][name]["properties"]["hours"]
            # The longest of all sites; one may have less.
            sites = (None, *service.config.sites)
            hours["maximum"] = max(service.config.longest_silence(s) for s in sites)
        for path in held["paths"].values():
            for operation in path.values():
                if "application/json" in operation.get("requestBody", {}).get("content", {}):
                    operation["responses"].setdefault("400", unread)
                if "requestBody" in operation:
                    operation["responses"].setdefault("413", large)
        return held

    app.openapi = told  # type: ignore[method-assign]


def _told_no(
    request: Request, detail: Any, status: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A refusal, in the words of the door it came to."""
    if not request.url.path.startswith("/fhir"):
        return JSONResponse({"detail": detail}, status, headers)
    text = detail if isinstance(detail, str) else "; ".join(
        f"{d['where']}: {d['problem']}" for d in detail
    )  # fmt: skip
    told = outcome("error", _ISSUES.get(status, "processing"), text)
    return JSONResponse(told, status, headers, media_type=FHIR_JSON)


# FHIR R4, value set issue-type.
_ISSUES = {
    400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported",
    409: "conflict", 413: "too-costly", 415: "not-supported", 422: "invalid", 429: "throttled",
    500: "exception", 503: "transient",
}  # fmt: skip


def _allowed(request: Request) -> str:
    """Methods of all routes of a path: the router names those of the first one only."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    found = {
        method for route in request.app.router.routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    }  # fmt: skip
    return ", ".join(sorted(found))


def _errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(request)
        return _told_no(request, error.detail, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it may be anything.
        told = [
            {"where": ".".join(str(p) for p in e["loc"]), "problem": e["type"]}
            for e in error.errors()[:10]
        ]
        return _told_no(request, told, 422)

    @app.exception_handler(StoreUnavailableError)
    async def unavailable(request: Request, error: StoreUnavailableError) -> JSONResponse:
        return _told_no(request, "the store is not available", 503, {"Retry-After": "2"})

    @app.exception_handler(ParameterError)
    async def wrong(request: Request, error: ParameterError) -> JSONResponse:
        return _told_no(request, str(error), 422)

    @app.middleware("http")
    async def counted(request: Request, call_next: Callable) -> Response:
        try:
            response: Response = await call_next(request)
        except Exception as error:
            # Here, not in a handler: the server would log the error's words, which may name
            # somebody, and close the connection.
            log.error("a request failed: %s", type(error).__name__)
            response = _told_no(request, "an internal error", 500)
        route = getattr(request.scope.get("route"), "path", "none")
        service = request.app.state.service
        service.metrics.requests.labels(route, str(response.status_code)).inc()
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"])
    def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "not ready"}})
    def readyz() -> JSONResponse:
        """Whether the service works: store, clock and workers."""
        problems = service.problems()
        body = {"status": "not ready" if problems else "ok", "problems": problems}
        return JSONResponse(body, 503 if problems else 200)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def metrics() -> Response:
        """For Prometheus."""
        # Two that ask at once must not see each other's gauges half set.
        with service.metrics.page, service.stores.use() as store:
            told = store.lineup(0)
            service.metrics.models(None if told is None else told["lineup"], service.versions)
            now = time.time() if service.config.service.clock == "wall" else None
            if now is not None:
                service.metrics.sites(store.open_since(), now)
            if "ingest" in service.roles:
                service.metrics.heard(service.intake.skews, service.intake.silences, time.time())
            service.metrics.drift(found_last(store), time.time())
            text = service.metrics.text(store, now)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _patients(app: FastAPI, service: Service) -> None:
    missing: dict[int | str, dict[str, Any]] = {
        404: {"model": Refused, "description": "there is no such patient"}
    }

    @app.get("/v1/patients", tags=["patients"])
    def patients(
        caller: Reader,
        site: MaybeQuery = None,
        unit: MaybeQuery = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 500,
    ) -> dict[str, Any]:
        """Patients with an open stay, the highest risk first."""
        with service.stores.use() as store:
            why = ""
            if site is None or caller.may("read", site):
                found = [v for v in store.views(site) if caller.may("read", v["site"])]
            else:
                try:
                    why = reading(service, store, caller, site)
                    found = store.views(site)
                except HTTPException:
                    found = []
            if unit is not None:
                found = [v for v in found if v["unit"] == unit]
            service.audit(store, caller, "list", f"{site or '*'}", purpose=why,
                          detail=f"{len(found)} stays")  # fmt: skip
        return {"patients": found[:limit], "total": len(found)}

    @app.get("/v1/patients/{site}/{patient:path}/risk", tags=["patients"], responses=missing)
    def risk(caller: Reader, site: NamePath, patient: NamePath) -> dict[str, Any]:
        """A patient's present risk and its course, with what drove it."""
        with service.stores.use() as store:
            why = reading(service, store, caller, site)
            row = store.state(site, patient)
            if row is None or row.view is None:
                raise HTTPException(404, "there is no such patient")
            stay = str(row.view["stay"])
            scores = store.scores(site, patient, stay)
            raised = _raised(store.notes_of(site, patient), stay)
            service.audit(store, caller, "read", service.pseudonyms(site, patient), purpose=why)
        course = [
            {
                "hour": s.hour, "time": s.time, "risk": s.risk, "issued": s.issued,
                "status": s.status, "model": s.model, "reason": s.reason, "drivers": s.drivers,
            }
            for s in scores
        ]  # fmt: skip
        return {"patient": dict(row.view), "course": course, "alarms": raised}

    @app.post("/v1/patients/{site}/{patient:path}/actions", tags=["patients"], status_code=202,
              responses={**missing, 409: {"model": Refused,
                                          "description": "it is another stay"}})  # fmt: skip
    def act(caller: Actor, site: NamePath, patient: NamePath, body: ActionBody) -> dict[str, Any]:
        """Acknowledges, snoozes, suppresses or resumes a stay's alarms; ``key`` makes it once.

        A silence has a reason, of which free text is no part, and an end. ``until`` is when the
        silence that holds then ends, which may be a longer one from before, unless hours close
        meanwhile.
        """
        _visible(caller, site)
        told = body.model_dump(exclude={"key"}, exclude_none=True)
        check_action(told, service.config.longest_silence(site))
        with service.stores.use() as store:
            row = store.state(site, patient)
            if row is None or row.due is None or row.view is None:
                raise HTTPException(404, "there is no such patient")
            if body.stay is not None and body.stay != row.view["stay"]:
                raise HTTPException(409, "the stay is not the present one")
            told |= {"by": caller.name, "stay": row.view["stay"]}
            key = digest("action", site, patient, caller.name, body.key)
            until = None
            if isinstance(body, Snooze | Suppress):
                last = service.reference.quiet_after(row.body, told)
                until = None if last is None else float(row.view["begin"]) + 3600.0 * last
            event = action_event(site, patient, told, float(row.view["updated"]), key)
            new = store.append_events([event])
            service.audit(
                store, caller, body.action, service.pseudonyms(site, patient),
                purpose=body.reason or "",
                detail=f"hours={told.get('hours')} until={until} new={bool(new)}",
            )  # fmt: skip
        service.wake()
        return {"accepted": True, "repeated": not new, "until": until if new else None}

    @app.get("/v1/alarms", tags=["alarms"])
    def alarms(
        caller: Reader,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Alarms, corrections and actions in order, for those who poll."""
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
        after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
        changes: bool = False,
    ) -> StreamingResponse:
        """The same as server-sent events; goes on after ``Last-Event-ID``.

        With ``changes`` an event ``changed`` says, at most once a second, that something was
        scored.
        """
        begin = after
        if begin is None and last_event_id and last_event_id.isdecimal():
            begin = min(int(last_event_id), 2**62)

        async def feed() -> AsyncIterator[str]:
            at = begin or 0
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


def _head(service: Service) -> int:
    with service.stores.use() as store:
        return store.head()


def _raised(notes: list, stay: str) -> list[int]:
    """Hours of the alarms of a stay that stand."""
    hours: dict[str, int] = {}
    for note in notes:
        if note.body.get("stay") != stay:
            continue
        if note.kind == "alarm":
            hours[note.key] = int(note.body["hour"])
        elif note.kind == "correction" and note.body["change"] == "retracted":
            hours.pop(note.body["alarm"], None)
        elif note.kind == "correction":
            hours[note.body["alarm"]] = int(note.body["hour"])
    return sorted(hours.values())


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


def _operations(app: FastAPI, service: Service) -> None:
    @app.get("/v1/quarantine", tags=["operations"])
    def quarantine(caller: Admin) -> dict[str, Any]:
        """What could not be used, by reason, code and unit."""
        with service.stores.use() as store:
            return {"quarantine": store.quarantine(1000)}

    @app.post("/v1/quarantine/retry", tags=["operations"])
    def retry(caller: Admin, body: CodeBody) -> dict[str, Any]:
        """Reads again what waits for a code that the configuration knows by now."""
        with service.stores.use() as store:
            count = service.requeue(store, body.system, body.code)
            service.audit(store, caller, "requeue", "", detail=f"{count} results")
        service.wake()
        return {"read": count}

    @app.get("/v1/outbox/dead", tags=["operations"])
    def dead(caller: Admin) -> dict[str, Any]:
        """What no receiver would take."""
        with service.stores.use() as store:
            return {"dead": store.dead(1000)}

    @app.post("/v1/outbox/{row}/revive", tags=["operations"],
              responses={404: {"model": Refused, "description": "there is none"}})  # fmt: skip
    def revive(caller: Admin, row: int) -> dict[str, Any]:
        """Sends a dead letter again."""
        if not 0 < row < 2**62:
            raise HTTPException(404, "there is no such dead letter")
        with service.stores.use() as store:
            if not store.revive(row):
                raise HTTPException(404, "there is no such dead letter")
            service.audit(store, caller, "revive", "", detail=f"row {row}")
        return {"revived": row}

    @app.get("/v1/audit", tags=["operations"])
    def audit(
        caller: Auditor,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> dict[str, Any]:
        """Who did what, in order."""
        with service.stores.use() as store:
            return {"rows": store.audit_rows(after, limit)}

    @app.get("/v1/audit/verify", tags=["operations"])
    def verify(
        caller: Auditor, anchor: Annotated[str, Query(max_length=64)] = ""
    ) -> dict[str, Any]:
        """Whether a row was changed, moved or deleted."""
        rows: list[dict[str, Any]] = []
        with service.stores.use() as store:
            while part := store.audit_rows(rows[-1]["id"] if rows else 0, 10_000):
                rows += part
        broken = first_break(rows, anchor)
        last = rows[-1]["hash"] if rows else ""
        return {"intact": broken is None, "first_break": broken, "rows": len(rows), "last": last}

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
