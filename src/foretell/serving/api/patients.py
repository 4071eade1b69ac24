"""Patients with an open stay: their risk and its course, and what clinicians do about alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from foretell.serving.api.auth import Actor, Caller, Reader
from foretell.serving.api.governance import reading
from foretell.serving.api.words import MaybeQuery, Name, NamePath, Refused
from foretell.serving.events import action as action_event
from foretell.serving.events import digest
from foretell.serving.reasons import ReasonCode
from foretell.serving.worker.policy import check_action

if TYPE_CHECKING:
    from foretell.serving.service import Service

# At most as many as the site allows, which the answer then names.
Hours = Annotated[int, Field(ge=1)]


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


def patient_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/v1/patients``, the risk of one, and actions on a stay's alarms."""
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


def _visible(caller: Caller, site: str) -> None:
    if not caller.may("act", site):
        # Whether there is such a site is not told, either.
        raise HTTPException(404, "there is no such patient")


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
