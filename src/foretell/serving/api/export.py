"""What the service knows, as FHIR R4: assessments, proposals, provenance, audit events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.responses import JSONResponse

from foretell import __version__
from foretell.serving.api.auth import Caller, needs
from foretell.serving.api.fhir import FHIR_JSON, FhirResponse
from foretell.serving.resources import (
    alarm_resources,
    audit_event,
    provenance,
    risk_assessment,
    searchset,
    service_request,
)

if TYPE_CHECKING:
    from foretell.serving.service import Service

Reader = Annotated[Caller, Depends(needs("read"))]
Auditor = Annotated[Caller, Depends(needs("audit"))]
Name = Annotated[str, Query(min_length=1, max_length=200)]
_KINDS = ("RiskAssessment", "Flag", "CommunicationRequest", "ServiceRequest", "Provenance")


def export_routes(app: FastAPI, service: Service) -> None:
    """Adds the searches of resources."""

    def answer(body: dict[str, Any]) -> JSONResponse:
        return JSONResponse(body, media_type=FHIR_JSON)

    @app.get("/fhir/metadata", tags=["fhir"], response_class=FhirResponse)
    def metadata() -> JSONResponse:
        """The CapabilityStatement."""
        search = [{"type": kind, "interaction": [{"code": "search-type"}]} for kind in _KINDS]
        return answer({
            "resourceType": "CapabilityStatement", "status": "active", "kind": "instance",
            "date": "2026-01-01", "fhirVersion": "4.0.1", "format": ["json"],
            "software": {"name": "foretell", "version": __version__},
            "implementation": {"description": "foretell early warning"},
            "rest": [{"mode": "server", "resource": search}],
        })  # fmt: skip

    @app.get("/fhir/AuditEvent", tags=["fhir"], response_class=FhirResponse)
    def events(
        caller: Auditor,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        count: Annotated[int, Query(alias="_count", ge=1, le=10_000)] = 1000,
    ) -> JSONResponse:
        """The audit record, in order."""
        with service.stores.use() as store:
            rows = store.audit_rows(after, count)
        return answer(searchset([audit_event(r) for r in rows]))

    @app.get("/fhir/{kind}", tags=["fhir"], response_class=FhirResponse,
             responses={404: {"description": "there is no such patient or resource"}})  # fmt: skip
    def search(caller: Reader, kind: str, site: Name, patient: Name) -> JSONResponse:
        """What is said of a patient's present stay."""
        if kind not in _KINDS:
            raise HTTPException(404, "the resource is not kept here")
        if not caller.may("read", site):
            raise HTTPException(404, "there is no such patient")
        with service.stores.use() as store:
            row = store.state(site, patient)
            if row is None or row.view is None:
                raise HTTPException(404, "there is no such patient")
            view = row.view
            scores = store.scores(site, patient, str(view["stay"]))
            notes = []
            if kind in ("Flag", "CommunicationRequest"):
                notes = store.notes_of(site, patient)
            service.audit(
                store, caller, "fhir-read", service.pseudonyms(site, patient), detail=kind
            )
        wanted = view.get("recommended") or ()
        visit = view.get("visit")
        if kind == "RiskAssessment":
            found = [
                risk_assessment(
                    s, visit=visit, recommended=wanted if s.hour == scores[-1].hour else ()
                )
                for s in scores
            ]
        elif kind == "Provenance":
            found = [provenance(s, __version__) for s in scores]
        elif kind == "ServiceRequest":
            found = [service_request(patient, visit, r, float(view["updated"])) for r in wanted]
        else:
            changed = {n.body["alarm"]: n.body["change"] for n in notes if n.kind == "correction"}
            found = []
            for note in notes:
                if note.kind != "alarm" or note.body["stay"] != view["stay"]:
                    continue
                flag, request = alarm_resources(note)
                if changed.get(note.key) == "retracted":
                    flag["status"], request["status"] = "entered-in-error", "entered-in-error"
                found.append(flag if kind == "Flag" else request)
        return answer(searchset(found))
