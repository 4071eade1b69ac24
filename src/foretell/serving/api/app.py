"""The HTTP application: health, metrics, FHIR in, and the REST interface of version 1.

Every read of a patient and every change is written to the audit record, patients under their
pseudonyms. Errors say what was wrong, never what was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from foretell import __version__
from foretell.serving.api.alarms import alarm_routes
from foretell.serving.api.answers import answer_all, refusal
from foretell.serving.api.auth import Needs
from foretell.serving.api.board import board_routes
from foretell.serving.api.bounds import MOST_BYTES, BodyBound
from foretell.serving.api.cds import cds_routes
from foretell.serving.api.export import export_routes
from foretell.serving.api.fhir import fhir_routes
from foretell.serving.api.governance import governance_routes
from foretell.serving.api.health import health_routes
from foretell.serving.api.operations import operation_routes
from foretell.serving.api.patients import patient_routes
from foretell.serving.api.records import record_routes
from foretell.serving.api.results import result_routes
from foretell.serving.api.subscriptions import subscription_routes
from foretell.serving.api.words import Refused

if TYPE_CHECKING:
    from foretell.serving.service import Service


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
    app.add_middleware(BodyBound, most=most, refuse=refusal, metrics=service.metrics)
    answer_all(app, service)
    health_routes(app, service)
    patient_routes(app, service)
    alarm_routes(app, service)
    operation_routes(app, service)
    record_routes(app, service)
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

    scopes = _scopes(app)

    def told() -> dict[str, Any]:
        held = plain()
        for name in ("Snooze", "Suppress"):
            hours = held["components"]["schemas"][name]["properties"]["hours"]
            # The longest of all sites; one may have less.
            sites = (None, *service.config.sites)
            hours["maximum"] = max(service.config.longest_silence(s) for s in sites)
        for path, operations in held["paths"].items():
            for method, operation in operations.items():
                scope = scopes.get((path, method))
                if scope is not None:
                    operation["security"] = [{"bearer": [scope]}]
                if "security" not in operation:
                    # Who need not say who they are is not refused for it.
                    for status in ("401", "403", "429"):
                        operation["responses"].pop(status, None)
                if "application/json" in operation.get("requestBody", {}).get("content", {}):
                    operation["responses"].setdefault("400", unread)
                if "requestBody" in operation:
                    operation["responses"].setdefault("413", large)
        return held

    app.openapi = told  # type: ignore[method-assign]


def _scopes(app: FastAPI) -> dict[tuple[str, str], str]:
    """The scope that each operation needs, by path and method."""
    found: dict[tuple[str, str], str] = {}
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        for dependency in route.dependant.dependencies:
            needs = getattr(dependency.call, "__self__", None)
            if isinstance(needs, Needs):
                found |= {(route.path_format, m.lower()): needs.scope for m in route.methods or ()}
    return found
