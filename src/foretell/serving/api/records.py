"""The records that are only ever added to: who did what, and which model was let speak."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query

from foretell.serving.api.auth import Auditor
from foretell.serving.api.words import After, Anchor
from foretell.serving.audit import first_break
from foretell.serving.rollout import history

if TYPE_CHECKING:
    from foretell.serving.service import Service


def record_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/v1/audit`` and ``/v1/changes``."""
    _audit(app, service)
    _changes(app, service)


def _audit(app: FastAPI, service: Service) -> None:
    @app.get("/v1/audit", tags=["operations"])
    def audit(
        caller: Auditor,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> dict[str, Any]:
        """Who did what, in order."""
        with service.stores.use() as store:
            return {"rows": store.audit_rows(after, limit)}

    @app.get("/v1/audit/verify", tags=["operations"])
    def verify(caller: Auditor, anchor: Anchor = "") -> dict[str, Any]:
        """Whether a row was changed, moved or deleted."""
        rows: list[dict[str, Any]] = []
        with service.stores.use() as store:
            while part := store.audit_rows(rows[-1]["id"] if rows else 0, 10_000):
                rows += part
        return _verified(rows, anchor)


def _changes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/changes", tags=["operations"])
    def changes(
        caller: Auditor,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> dict[str, Any]:
        """The change-control record: which model was let speak, when, by whom and why."""
        with service.stores.use() as store:
            return {"rows": store.recorded("control", after, limit)}

    @app.get("/v1/changes/verify", tags=["operations"])
    def verify(caller: Auditor, anchor: Anchor = "") -> dict[str, Any]:
        """Whether a row of the change-control record was changed, moved or deleted."""
        with service.stores.use() as store:
            rows = [{**r, "detail": json.dumps(r["detail"], sort_keys=True)}
                    for r in history(store)]  # fmt: skip
        return _verified(rows, anchor)


def _verified(rows: list[dict[str, Any]], anchor: str) -> dict[str, Any]:
    """Whether the chain of rows holds, and ends where an anchor says."""
    broken = first_break(rows, anchor)
    last = rows[-1]["hash"] if rows else ""
    return {"intact": broken is None, "first_break": broken, "rows": len(rows), "last": last}
