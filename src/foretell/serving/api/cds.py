"""The door for CDS Hooks 2.0: discovery, services, feedback."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from foretell.data.clinical.fhir import FhirError
from foretell.serving.api.auth import Bearer, Caller
from foretell.serving.api.words import WHOLE, Refused
from foretell.serving.cds import OVERRIDES, SERVICES, UntrustedError, allowed_server, cards_of
from foretell.serving.events import VISIT, Event, events_of
from foretell.serving.ingest.intake import fhir_content
from foretell.serving.worker.state import PatientState

if TYPE_CHECKING:
    from foretell.serving.service import Service

log = logging.getLogger("foretell.serving.cds")
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=WHOLE)]
_BY_ID = {s["id"]: s for s in SERVICES}
_MOST = 20_000_000
# What was measured longer ago says nothing of now.
_HOURS = 72


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")


class HookContext(_Loose):
    """What the hook is about; hooks have further fields."""

    patientId: Text  # noqa: N815
    userId: Annotated[str, Field(max_length=400)] | None = None  # noqa: N815
    encounterId: Annotated[str, Field(max_length=200)] | None = None  # noqa: N815
    draftOrders: dict[str, Any] | None = None  # noqa: N815
    selections: list[str] | None = None


class Authorization(_Loose):
    """Access to the FHIR server of the client."""

    access_token: Annotated[str, Field(max_length=20_000)]


class HookRequest(_Loose):
    """A call of a hook."""

    hook: Text
    hookInstance: Text  # noqa: N815
    context: HookContext
    prefetch: dict[str, Any] | None = None
    fhirServer: Annotated[str, Field(max_length=2000)] | None = None  # noqa: N815
    fhirAuthorization: Authorization | None = None  # noqa: N815


class OverrideCode(_Loose):
    """The coded reason of an override."""

    code: Annotated[str, Field(max_length=100)] | None = None


class Override(_Loose):
    """Why a card was overridden; comments are not kept: they may name people."""

    reason: OverrideCode | None = None


class Accepted(_Loose):
    """A suggestion that was taken."""

    id: Text


class FeedbackItem(_Loose):
    """What became of a card."""

    card: Text
    outcome: Annotated[str, Field(pattern="^(accepted|overridden)$")]
    outcomeTimestamp: Annotated[str, Field(max_length=64)]  # noqa: N815
    acceptedSuggestions: Annotated[list[Accepted], Field(max_length=100)] | None = None  # noqa: N815
    overrideReason: Override | None = None  # noqa: N815


class Feedback(_Loose):
    """A report of what became of cards."""

    feedback: Annotated[list[FeedbackItem], Field(min_length=1, max_length=1000)]


def _trusted(request: Request, bearer: Bearer) -> Caller:
    """The caller, by a JWT of a CDS client or by a token of the service."""
    service: Service = request.app.state.service
    authorization = request.headers.get("authorization")
    scheme, _, token = (authorization or "").partition(" ")
    caller = service.tokens.caller(authorization)
    headers = {"WWW-Authenticate": "Bearer"}
    if caller is None and scheme.lower() == "bearer":
        try:
            # Feedback goes to the service that gave the card.
            called = request.url.path.removesuffix("/feedback")
            caller = service.cds.caller(token.strip(), called)
        except UntrustedError as error:
            raise HTTPException(401, str(error), headers=headers) from None
    if caller is None:
        raise HTTPException(401, "a bearer token is needed", headers=headers)
    if service.tokens.wait(caller) > 0:
        raise HTTPException(429, "too many requests", headers={"Retry-After": "1"})
    if "read" not in caller.scopes:
        raise HTTPException(403, "the scope 'read' is needed")
    return caller


Trusted = Annotated[Caller, Depends(_trusted)]


def cds_routes(app: FastAPI, service: Service) -> None:
    """Adds discovery, the services and their feedback."""
    refused: dict[int | str, dict[str, Any]] = {
        400: {"model": Refused, "description": "another hook's call, or for one of several sites"},
        401: {"model": Refused, "description": "the token proves nothing"},
        404: {"model": Refused, "description": "there is no such service"},
        412: {"model": Refused, "description": "the data that are needed are missing"},
    }

    @app.get("/cds-services", tags=["cds"])
    def discovery() -> dict[str, Any]:
        """The services there are."""
        return {"services": list(SERVICES)}

    # Plain functions, for threads: scoring and asking back must not hold up the others.
    @app.post("/cds-services/{name}", tags=["cds"], responses=refused)
    def call(caller: Trusted, name: str, body: HookRequest) -> JSONResponse:
        """Answers a hook with cards, often with none."""
        known = _BY_ID.get(name)
        if known is None:
            raise HTTPException(404, "there is no such service")
        if body.hook != known["hook"]:
            raise HTTPException(400, "the service is for another hook")
        site = _site(service, caller)
        view = _view(service, caller, site, body)
        if view is None:
            raise HTTPException(412, "observations of the patient are needed: send the prefetch")
        patient = str(view["patient"])
        # Cards name people as the client does, whatever the feed of the service calls them.
        view["patient"] = body.context.patientId
        if body.context.encounterId:
            view["visit"] = body.context.encounterId
        cards = cards_of(
            view, service.policy_at(site, str(view["model"])), hook=body.hook,
            ordered=_drafted(body.context.draftOrders), board=service.config.cds.board,
            smart_app=service.config.cds.smart_app,
        )  # fmt: skip
        with service.stores.use() as store:
            service.audit(
                store, caller, "cds", service.pseudonyms(site, patient),
                detail=f"{body.hook} cards={len(cards)}",
            )  # fmt: skip
        return JSONResponse({"cards": cards})

    @app.post("/cds-services/{name}/feedback", tags=["cds"], responses=refused)
    def feedback(caller: Trusted, name: str, body: Feedback) -> dict[str, Any]:
        """Keeps what became of cards: accepted or overridden, and the coded reason."""
        if name not in _BY_ID:
            raise HTTPException(404, "there is no such service")
        codes = {o["code"] for o in OVERRIDES}
        with service.stores.use() as store:
            for item in body.feedback:
                reason = item.overrideReason.reason.code if (
                    item.overrideReason and item.overrideReason.reason) else None  # fmt: skip
                told = {
                    "service": name, "outcome": item.outcome,
                    "reason": reason if reason in codes else ("other" if reason else None),
                    "suggestions": len(item.acceptedSuggestions or ()),
                }  # fmt: skip
                card = item.card if _is_card(item.card) else "unknown"
                service.audit(
                    store, caller, "cds-feedback", card, detail=json.dumps(told, sort_keys=True)
                )
        return {}


def _is_card(text: str) -> bool:
    return len(text) == 36 and all(c in "0123456789abcdef-" for c in text.lower())


def _site(service: Service, caller: Caller) -> str:
    names = sorted(caller.sites) or sorted(service.config.sites) or ["fhir"]
    if len(names) != 1:
        raise HTTPException(400, "the client is for several sites: configure one for it")
    return names[0]


def _drafted(bundle: Any) -> set[str]:
    """LOINC codes of draft orders."""
    out: set[str] = set()
    entries = bundle.get("entry") if isinstance(bundle, dict) else None
    for entry in entries[:200] if isinstance(entries, list) else ():
        resource = entry.get("resource") if isinstance(entry, dict) else None
        code = resource.get("code") if isinstance(resource, dict) else None
        coding = code.get("coding") if isinstance(code, dict) else None
        for told in coding[:50] if isinstance(coding, list) else ():
            if isinstance(told, dict) and isinstance(told.get("code"), str):
                out.add(told["code"])
    return out


def _view(service: Service, caller: Caller, site: str, body: HookRequest) -> dict[str, Any] | None:
    """The patient as the service follows them, or as what was sent along tells."""
    reader = service.intake.fhir_reader(site)
    person = _person(body)
    try:
        fhir_content(person)
    except FhirError as error:
        raise _unread(error) from None
    # Read first, so that an identifier of theirs is known.
    reader.read(person)
    patient = reader.name_of(body.context.patientId)
    with service.stores.use() as store:
        patient = store.current(site, patient)
        row = store.state(site, patient)
    if row is not None and row.due is not None and row.view is not None:
        return dict(row.view)
    found = _observations(body.prefetch)
    if found is None and body.fhirServer:
        found = _asked(service, body)
    if found is None:
        return None
    _, normaliser = service.intake.of_site(site)
    try:
        records = reader.read({"resourceType": "Bundle", "type": "collection", "entry": found})
        events, _ = events_of(records, normaliser)
    except FhirError as error:
        raise _unread(error) from None
    named = reader.name_of(body.context.patientId)
    mine = [e for e in events if e.patient == named and e.kind == "measured"]
    if not mine:
        return None
    fold = service.make_fold()
    fold.watched = False
    state = PatientState(site, patient, 0)
    newest = max(item[3] for event in mine for _, item in event.items)
    age, sex, _ = reader.person(person, newest)
    told = {"kind": "update", "age": age, "sex": sex}
    fold.apply(state, Event(0, 0, site, patient, VISIT, newest, told, 0.0))
    for event in sorted(mine, key=lambda e: e.time):
        items = sorted(
            (item for _, item in event.items if item[3] > newest - 3600 * _HOURS),
            key=lambda i: i[3],
        )
        if not items:
            continue
        kept = {**event.body, "items": items}
        fold.apply(state, Event(0, 0, site, patient, event.kind, event.time, kept, 0.0))
    fold.pass_time(state, state.last)
    view = fold.view(state)
    fold.drop_effects()
    return view


def _unread(error: FhirError) -> HTTPException:
    return HTTPException(412, f"the prefetch cannot be read: {error.problem}")


def _person(body: HookRequest) -> dict[str, Any]:
    """The Patient that was sent along, if it is the one in question."""
    for value in (body.prefetch or {}).values():
        if isinstance(value, dict) and value.get("resourceType") == "Patient":
            if value.get("id") == body.context.patientId:
                return value
    return {"resourceType": "Patient"}


def _observations(prefetch: Any) -> list[dict[str, Any]] | None:
    """Entries of the bundles of observations among what was sent along."""
    found: list[dict[str, Any]] = []
    for value in prefetch.values() if isinstance(prefetch, dict) else ():
        if not isinstance(value, dict) or value.get("resourceType") != "Bundle":
            continue
        entries = value.get("entry")
        for entry in entries[:5000] if isinstance(entries, list) else ():
            resource = entry.get("resource") if isinstance(entry, dict) else None
            if isinstance(resource, dict) and resource.get("resourceType") == "Observation":
                found.append({"resource": resource})
    return found or None


def _asked(service: Service, body: HookRequest) -> list[dict[str, Any]] | None:
    """Observations of the client's own server, if it is one that may be asked."""
    import httpx

    address = (body.fhirServer or "").rstrip("/")
    if not allowed_server(address, service.config.cds.fhir_servers):
        # What is not listed is not contacted; the client learns that data are missing.
        return None
    headers = {"Accept": "application/fhir+json"}
    if body.fhirAuthorization is not None:
        headers["Authorization"] = f"Bearer {body.fhirAuthorization.access_token}"
    params = {"patient": body.context.patientId, "_sort": "-date", "_count": "500"}
    begun = time.monotonic()
    held = bytearray()
    try:
        with httpx.stream(
            "GET", f"{address}/Observation", params=params, headers=headers, timeout=3.0,
            follow_redirects=False,
        ) as answer:  # fmt: skip
            if answer.status_code != 200:
                return None
            for part in answer.iter_bytes():
                held += part
                if len(held) > _MOST or time.monotonic() - begun > 5.0:
                    return None
        return _observations({"observations": json.loads(held)})
    except (httpx.HTTPError, ValueError, RecursionError):
        log.warning("a FHIR server could not be asked for observations")
        return None
