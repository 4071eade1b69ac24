"""What the service knows, as FHIR R4: assessments, proposals, provenance, audit events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query
from fastapi.responses import JSONResponse

from foretell import __version__
from foretell.serving.api.auth import Auditor, Reader
from foretell.serving.api.fhir import FHIR_JSON, FhirResponse, refusals
from foretell.serving.api.governance import reading
from foretell.serving.api.words import WHOLE, After, NameQuery
from foretell.serving.events import digest
from foretell.serving.resources import (
    alarm_resources,
    audit_event,
    provenance,
    risk_assessment,
    searchset,
    service_request,
)
from foretell.serving.store import OutboxRow, ScoreRow
from foretell.serving.subscriptions import TOPICS
from foretell.serving.subscriptions.resource import BACKPORT

if TYPE_CHECKING:
    from foretell.serving.service import Service

_READ = ("RiskAssessment", "Flag", "CommunicationRequest")
_OPERATION = (
    "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-"
)
_KINDS = ("RiskAssessment", "Flag", "CommunicationRequest", "ServiceRequest", "Provenance")


def export_routes(app: FastAPI, service: Service) -> None:
    """Adds the searches of resources."""
    horizons = service.reference.ladder.horizons
    systems = service.config.patient_systems

    def answer(body: dict[str, Any]) -> JSONResponse:
        return JSONResponse(body, media_type=FHIR_JSON)

    @app.get("/fhir/metadata", tags=["fhir"], response_class=FhirResponse, responses=refusals())
    def metadata() -> JSONResponse:
        """The CapabilityStatement."""
        search: list[dict[str, Any]] = [
            {"type": kind, "interaction": [{"code": "search-type"}]
             + ([{"code": "read"}] if kind in _READ else [])}
            for kind in _KINDS
        ]  # fmt: skip
        if service.config.subscriptions.endpoints:
            search.append({
                "type": "Subscription",
                "interaction": [{"code": c} for c in ("create", "read", "update", "delete",
                                                      "search-type")],
                "extension": [{"url": BACKPORT + "capabilitystatement-subscriptiontopic-canonical",
                               "valueCanonical": topic} for topic in TOPICS],
                "operation": [{"name": name, "definition": _OPERATION + name}
                              for name in ("status", "events")],
            })  # fmt: skip
        return answer({
            "resourceType": "CapabilityStatement", "status": "active", "kind": "instance",
            "date": "2026-01-01", "fhirVersion": "4.0.1", "format": ["json"],
            "software": {"name": "foretell", "version": __version__},
            "implementation": {"description": "foretell early warning"},
            "rest": [{"mode": "server", "resource": search}],
        })  # fmt: skip

    @app.get("/fhir/AuditEvent", tags=["fhir"], response_class=FhirResponse, responses=refusals())
    def events(
        caller: Auditor,
        after: After = 0,
        count: Annotated[int, Query(alias="_count", ge=1, le=10_000)] = 1000,
    ) -> JSONResponse:
        """The audit record, in order."""
        with service.stores.use() as store:
            rows = store.audit_rows(after, count)
        return answer(searchset([audit_event(r) for r in rows]))

    @app.get("/fhir/{kind:fhirtype}", tags=["fhir"], response_class=FhirResponse,
             responses=refusals({404: "there is no such patient or resource"}))  # fmt: skip
    def search(caller: Reader, kind: str, site: NameQuery, patient: NameQuery) -> JSONResponse:
        """What is said of a patient's present stay."""
        if kind not in _KINDS:
            raise HTTPException(404, "the resource is not kept here")
        with service.stores.use() as store:
            why = reading(service, store, caller, site)
            # Whoever was merged goes on under another name: of that one is what stands now.
            patient = store.current(site, patient)
            row = store.state(site, patient)
            if row is None or row.view is None:
                raise HTTPException(404, "there is no such patient")
            view = row.view
            scores = store.scores(site, patient, str(view["stay"]))
            notes = []
            if kind in ("Flag", "CommunicationRequest"):
                notes = store.notes_of(site, patient)
            service.audit(
                store, caller, "fhir-read", service.pseudonyms(site, patient), purpose=why,
                detail=kind,
            )  # fmt: skip
        wanted = view.get("recommended") or ()
        visit, system = view.get("visit"), systems.get(site)
        if kind == "RiskAssessment":
            found = [
                _named(
                    _assessment_id(s),
                    risk_assessment(
                        s,
                        visit=visit,
                        recommended=wanted if s.hour == scores[-1].hour else (),
                        horizon=horizons.get(s.model),
                        system=system,
                    ),
                )
                for s in scores
            ]
        elif kind == "Provenance":
            found = [provenance(s, __version__) for s in scores]
        elif kind == "ServiceRequest":
            at = float(view["updated"])
            found = [service_request(patient, visit, r, at, system) for r in wanted]
        else:
            found = [
                _of_alarm(note, notes, kind, system)
                for note in notes
                if note.kind == "alarm" and note.body["stay"] == view["stay"]
            ]
        return answer(searchset(found))

    @app.get("/fhir/{kind:fhirtype}/{identity}", tags=["fhir"], response_class=FhirResponse,
             responses=refusals({404: "there is no such resource"}))  # fmt: skip
    def read(
        caller: Reader, kind: str, identity: Annotated[str, Path(max_length=64, pattern=WHOLE)]
    ) -> JSONResponse:
        """A resource as it stands now: where an event of a subscription has pointed."""
        gone = HTTPException(404, "there is no such resource")
        if kind not in _READ:
            raise gone
        with service.stores.use() as store:
            row = store.note(identity)
            system = None if row is None else systems.get(row.site)
            wanted = "score" if kind == "RiskAssessment" else "alarm"
            if row is None or row.kind != wanted:
                raise gone
            try:
                why = reading(service, store, caller, row.site)
            except HTTPException:
                # In the same words: whether there is one is not told.
                raise gone from None
            if kind == "RiskAssessment":
                scores = store.scores(row.site, row.patient, str(row.body["stay"]))
                held = [s for s in scores if s.hour == row.body["hour"]]
                if not held:
                    raise gone
                made = risk_assessment(
                    held[0], visit=row.body.get("visit"), horizon=horizons.get(held[0].model),
                    system=system,
                )  # fmt: skip
                found = _named(identity, made)
            else:
                found = _of_alarm(row, store.notes_of(row.site, row.patient), kind, system)
            service.audit(
                store, caller, "fhir-read", service.pseudonyms(row.site, row.patient),
                purpose=why, detail=kind,
            )  # fmt: skip
        return answer(found)


def _named(name: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": resource["resourceType"], "id": name, **resource}


def _assessment_id(score: ScoreRow) -> str:
    """The key under which the fold has sent the score of an hour."""
    return digest("score", score.site, score.patient, score.stay, score.hour).hex()


def _of_alarm(
    row: OutboxRow, notes: Sequence[OutboxRow], kind: str, system: str | None
) -> dict[str, Any]:
    """Flag or CommunicationRequest of an alarm, after all that was said of it since."""
    resource = alarm_resources(row, system)[0 if kind == "Flag" else 1]
    changes = [
        n.body["change"] for n in notes if n.kind == "correction" and n.body["alarm"] == row.key
    ]
    if changes and changes[-1] == "retracted":
        resource["status"] = "entered-in-error"
    return _named(row.key, resource)
