"""What every answer has in common: refusals in the words of their door, headers, and a count.

Errors say what was wrong, never what was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route

from foretell.errors import ParameterError
from foretell.serving.api.allowed import Allowed
from foretell.serving.api.fhir import FHIR_JSON, outcome
from foretell.serving.errors import StoreUnavailableError

if TYPE_CHECKING:
    from foretell.serving.service import Service

log = logging.getLogger("foretell.serving.api")
# FHIR R4, value set issue-type.
_ISSUES = {
    400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported",
    409: "conflict", 413: "too-costly", 415: "not-supported", 422: "invalid", 429: "throttled",
    500: "exception", 503: "transient",
}  # fmt: skip


def refusal(
    request: Request, detail: Any, status: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A refusal, in the words of the door it came to."""
    if not request.url.path.startswith("/fhir"):
        return JSONResponse({"detail": detail}, status, headers)
    text = detail if isinstance(detail, str) else "; ".join(
        f"{d['where']}: {d['problem']}" + (f", allowed is {d['allowed']}" if "allowed" in d else "")
        for d in detail
    )  # fmt: skip
    told = outcome("error", _ISSUES.get(status, "processing"), text)
    return JSONResponse(told, status, headers, media_type=FHIR_JSON)


def _allowed(request: Request) -> str:
    """Methods of all routes of a path: the router names those of the first one only."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    found = {
        method for route in request.app.router.routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    }  # fmt: skip
    return ", ".join(sorted(found))


def answer_all(app: FastAPI, service: Service) -> None:
    """Has refusals answered as :func:`refusal` says, and every answer counted."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(request)
        return refusal(request, error.detail, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it may be anything, and so may names of fields that there are not.
        path = getattr(request.scope.get("route"), "path_format", "")
        allowed = Allowed(request.app.openapi(), path, request.method.lower())
        told = []
        for e in error.errors()[:10]:
            where, words = allowed.at(e["loc"])
            told.append({"where": where, "problem": e["type"]})
            if words is not None:
                told[-1]["allowed"] = words
        return refusal(request, told, 422)

    @app.exception_handler(StoreUnavailableError)
    async def unavailable(request: Request, error: StoreUnavailableError) -> JSONResponse:
        return refusal(request, "the store is not available", 503, {"Retry-After": "2"})

    @app.exception_handler(ParameterError)
    async def wrong(request: Request, error: ParameterError) -> JSONResponse:
        return refusal(request, str(error), 422)

    @app.middleware("http")
    async def counted(request: Request, call_next: Callable) -> Response:
        try:
            response: Response = await call_next(request)
        except Exception as error:
            # Here, not in a handler: the server would log the error's words, which may name
            # somebody, and close the connection.
            log.error("a request failed: %s", type(error).__name__)
            response = refusal(request, "an internal error", 500)
        route = getattr(request.scope.get("route"), "path", "none")
        service.metrics.requests.labels(route, str(response.status_code)).inc()
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response
