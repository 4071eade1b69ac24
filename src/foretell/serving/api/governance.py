"""Who speaks and who decided it: models on trial, and broken glass."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from foretell.errors import ParameterError
from foretell.serving.api.auth import Admin, Caller, Reader
from foretell.serving.api.words import TOLD, MaybeQuery, Name, Reason, Refused
from foretell.serving.drift import found_last
from foretell.serving.rollout import change, not_asked, roll_back, told
from foretell.serving.store.governed import Grant
from foretell.serving.worker.lineup import Lineup

if TYPE_CHECKING:
    from foretell.serving.service import Service
    from foretell.serving.store.base import Store

log = logging.getLogger("foretell.serving.governance")
Names = Annotated[list[Name], Field(max_length=1000)]


class _Decision(BaseModel):
    model_config = ConfigDict(extra="forbid")
    primary: Name
    units: Names = []
    sites: Names = []
    reason: Reason


class Alone(_Decision):
    """A model speaks, no other is asked; and why."""

    candidate: Name | None = None
    mode: Literal["off"] = "off"


class Shadowed(_Decision):
    """A model speaks, a candidate is only compared; and why."""

    candidate: Name
    mode: Literal["shadow"]


class Canary(_Decision):
    """A candidate speaks in some units or sites, another model elsewhere; and why."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"anyOf": [
            {"required": [name], "properties": {name: {"minItems": 1}}}
            for name in ("units", "sites")
        ]},
    )  # fmt: skip
    candidate: Name
    mode: Literal["canary"]


LineupBody = Alone | Shadowed | Canary


class ReasonBody(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason


class GlassBody(BaseModel):
    """Which site has to be read, and why."""

    model_config = ConfigDict(extra="forbid")
    site: Name
    reason: Annotated[str, Field(min_length=10, max_length=500, pattern=TOLD)]
    minutes: Annotated[int, Field(ge=1, le=24 * 60)] | None = None


def reading(service: Service, store: Store, caller: Caller, site: str) -> str:
    """Under what a caller may read a site: ``""`` for their own, else why the glass was broken.

    Raises:
        HTTPException: 404 where they may not; whether there is such a site is not told, either.
    """
    if caller.may("read", site):
        return ""
    if caller.break_glass and caller.may("read"):
        grant = store.granted(caller.name, site)
        if grant is not None:
            return f"broken glass: {grant.reason}"
    raise HTTPException(404, "there is no such patient")


def governance_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/v1/model``, ``/v1/drift``, ``/v1/shadow`` and ``/v1/break-glass``."""
    _models(app, service)

    @app.post("/v1/break-glass", tags=["patients"], status_code=201,
              responses={403: {"model": Refused, "description": "not this token"},
                         404: {"model": Refused, "description": "no site"},
                         409: {"model": Refused, "description": "the site is theirs"}})  # fmt: skip
    def break_glass(caller: Reader, body: GlassBody) -> dict[str, Any]:
        """Opens another site to a clinician for a while; every read is recorded with the reason."""
        if not caller.break_glass:
            raise HTTPException(403, "this token may not break the glass")
        if caller.may("read", body.site):
            raise HTTPException(409, "the site may be read as it is")
        if body.site not in service.config.sites:
            raise HTTPException(404, "there is no such site")
        longest = service.config.access.break_glass_minutes
        minutes = min(body.minutes or longest, longest)
        now = time.time()
        grant = Grant(caller.name, body.site, now, now + 60 * minutes, body.reason)
        with service.stores.use() as store:
            # What cannot be recorded is not granted.
            service.audit(
                store, caller, "break-glass", body.site, purpose=body.reason,
                detail=f"minutes={minutes}",
            )  # fmt: skip
            store.grant(grant)
        service.metrics.glass.inc()
        log.warning("the glass was broken: %s reads %s for %d min", caller.name, body.site, minutes)
        return {"site": body.site, "until": grant.until, "minutes": minutes}


def _models(app: FastAPI, service: Service) -> None:
    refused: dict[int | str, dict[str, Any]] = {
        409: {"model": Refused, "description": "it is so already, a version is not loaded, "
              "a site is pinned to another, or there is none before"}
    }  # fmt: skip

    @app.get("/v1/model", tags=["operations"])
    def model(caller: Reader) -> dict[str, Any]:
        """Which model speaks, since when and by whose decision, and which stand by.

        ``calibrations`` say of the gate of each: version, time, patients and hours.
        """
        with service.stores.use() as store:
            found = told(store, service.versions, not_asked(store))
        made = {version: one._asdict() for version, one in service.calibrations.items()}
        return {**found, "calibrations": made}

    @app.put("/v1/model", tags=["operations"], responses=refused)
    def decide(caller: Admin, body: Annotated[LineupBody, Body()]) -> dict[str, Any]:
        """Lets another model speak, or tries one, from the next hour that closes on."""
        line = Lineup(body.primary, body.candidate, body.mode, tuple(body.units),
                      tuple(body.sites))  # fmt: skip
        with service.stores.use() as store:
            try:
                new = change(store, line, actor=caller.name, reason=body.reason,
                             loaded=service.versions, pins=service.config.pins)  # fmt: skip
            except ParameterError as error:
                # The request is sound; it is the service that has no such version, or a pin.
                raise HTTPException(409, str(error)) from None
            if not new:
                raise HTTPException(409, "it is so already")
            service.audit(store, caller, "lineup", line.primary, purpose=body.reason,
                          detail=json.dumps(line.to_json(), sort_keys=True))  # fmt: skip
        log.warning("%s speaks from now on", line.primary)
        service.wake()
        return line.to_json()

    @app.post("/v1/model/rollback", tags=["operations"], responses=refused)
    def rollback(caller: Admin, body: ReasonBody) -> dict[str, Any]:
        """Goes back to what spoke before, at once: its memory of every stay is kept warm."""
        with service.stores.use() as store:
            try:
                line = roll_back(
                    store, actor=caller.name, reason=body.reason, loaded=service.versions,
                    pins=service.config.pins,
                )  # fmt: skip
            except ParameterError as error:
                raise HTTPException(409, str(error)) from None
            service.audit(store, caller, "rollback", line.primary, purpose=body.reason,
                          detail=json.dumps(line.to_json(), sort_keys=True))  # fmt: skip
        log.warning("rolled back: %s speaks from now on", line.primary)
        service.wake()
        return line.to_json()

    @app.get("/v1/drift", tags=["operations"])
    def drift(caller: Admin) -> dict[str, Any]:
        """Whether inputs and scores of sites are as where their model was validated; no patients.

        ``time`` is null where nobody has looked: no model has a monitor, or no worker runs.
        """
        with service.stores.use() as store:
            found = found_last(store)
        if found is None:
            return {"time": None, "seconds": None, "sites": {}}
        sites = {name: of for name, of in found["sites"].items() if caller.may("admin", name)}
        return {**found, "sites": sites}

    @app.get("/v1/shadow", tags=["operations"])
    def shadow(
        caller: Admin,
        version: MaybeQuery = None,
        site: MaybeQuery = None,
    ) -> dict[str, Any]:
        """How a model that is only compared differs from the one that speaks; no patients."""
        with service.stores.use() as store:
            found = store.shadows(version, site)
        return {"compared": [row for row in found if caller.may("admin", row["site"])]}
