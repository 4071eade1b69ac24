"""Whether the service lives, whether it works, and what it counts: doors without a token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from foretell.serving.drift import found_last

if TYPE_CHECKING:
    from foretell.serving.service import Service


def health_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/healthz``, ``/readyz`` and ``/metrics``."""

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
