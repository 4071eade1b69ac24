"""What the service says, as FHIR R4 resources."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from foretell.data.clinical.schema import Schema
from foretell.serving.events import digest
from foretell.serving.store.base import OutboxRow, ScoreRow

SYSTEM = "urn:foretell"
SEPSIS = {"system": "http://snomed.info/sct", "code": "91302008", "display": "Sepsis"}
NOTE = "Decision support, not a diagnosis. The clinician decides."
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_RULES = ("news2-", "sirs-", "qsofa-")
_HOURS = {"unit": "h", "system": "http://unitsofmeasure.org", "code": "h"}


def instant(time: float) -> str:
    """Seconds since 1970 as an instant."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def reference(kind: str, name: str, system: str | None = None) -> dict[str, Any]:
    """A reference by address where the name can be one, else by identifier.

    Args:
        kind: type of the resource.
        name: by which the service knows it: ``kind/`` and an id, or a name of its site's.
        system: of which the names of the site are identifiers, None where they are ids.
    """
    identity = name.removeprefix(f"{kind}/")
    if system is not None and identity == name:
        return {"type": kind, "identifier": {"system": system, "value": name or "unknown"}}
    if _ID.fullmatch(identity):
        return {"reference": f"{kind}/{identity}"}
    return {"type": kind, "identifier": {"value": name or "unknown"}}


def named(told: Mapping[str, Any]) -> tuple[str, str]:
    """Type and name of what :func:`reference` refers to, each empty where it is not said."""
    kind, _, identity = str(told.get("reference", "")).partition("/")
    if identity:
        return kind, identity
    return str(told.get("type", "")), str((told.get("identifier") or {}).get("value", ""))


def _identifier(name: str, value: str) -> list[dict[str, str]]:
    return [{"system": f"{SYSTEM}:{name}", "value": value}]


def score_key(site: str, patient: str, stay: str, hour: int) -> str:
    """The identifier of the assessment of an hour."""
    return digest("assessment", site, patient, stay, hour).hex()


def risk_assessment(
    score: ScoreRow, *, visit: str | None = None,
    recommended: Sequence[Mapping[str, Any]] = (), horizon: float | None = None,
    system: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """RiskAssessment of an hour.

    Args:
        score: of the hour.
        visit: identifier of the encounter.
        recommended: what to measure.
        horizon: hours ahead of which the model speaks; None where it is not known, or where a
            bedside rule spoke, which foretells no hours.
        system: of the site's patient identifiers, see :func:`reference`.

    A withheld score has no probability: a data-absent-reason stands in its place, and the reason
    in the rationale. The points of a bedside rule are no probability, either, and are told in
    words.
    """
    key = score_key(score.site, score.patient, score.stay, score.hour)
    prediction: dict[str, Any] = {"outcome": {"coding": [SEPSIS]}}
    if horizon is not None and not score.model.startswith(_RULES):
        prediction["whenRange"] = {
            "low": {"value": 0, **_HOURS},
            "high": {"value": horizon, **_HOURS},
        }
    if score.risk is None:
        code = "error" if score.status == "no_score" else "unknown"
        prediction["_probabilityDecimal"] = {"extension": [{"url": _ABSENT, "valueCode": code}]}
        prediction["rationale"] = f"No score ({score.status}): {score.reason or 'not known'}"
    elif score.model.startswith(_RULES):
        prediction["qualitativeRisk"] = {
            "text": f"{score.model}: {score.risk:.0%} of the most points; not a probability"
        }
        prediction["rationale"] = score.reason or "A bedside rule speaks."
    else:
        prediction["probabilityDecimal"] = round(score.risk, 6)
        drivers = ", ".join(f"{name} {by:+.3f}" for name, by in score.drivers)
        prediction["rationale"] = (
            f"A fraction from 0 to 1, not a percentage. Status {score.status}."
            + (f" Moved by: {drivers}." if drivers else "")
        )
    out: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "identifier": _identifier("score", key),
        "status": "final" if score.risk == score.issued else "corrected",
        "method": {"text": score.model or "none"},
        "code": {"text": "Risk of sepsis"},
        "subject": reference("Patient", score.patient, system),
        "occurrenceDateTime": instant(score.time),
        "prediction": [prediction],
        "note": [{"text": NOTE}],
    }
    basis = [_observed(name) for name, _ in score.drivers if name in _variables()]
    if basis:
        out["basis"] = basis
    if visit:
        out["encounter"] = reference("Encounter", visit)
    if recommended:
        out["mitigation"] = "; ".join(f"consider {r['panel']}: {r['reason']}" for r in recommended)
    return out


@cache
def _variables() -> Schema:
    return Schema.default()


def _observed(name: str) -> dict[str, Any]:
    """What moved a score: the latest observation of a variable, by its words and its code."""
    variable = _variables()[name]
    codes = f" (LOINC {variable.loinc[0]})" if variable.loinc else ""
    return {"type": "Observation", "display": f"{variable.title}{codes}"}


def alarm_resources(row: OutboxRow, system: str | None = None) -> list[dict[str, Any]]:
    """Flag and CommunicationRequest of an alarm; ``system`` as of :func:`reference`."""
    body = row.body
    urgent = body.get("tier") != "advisory"
    about: dict[str, Any] = {"subject": reference("Patient", row.patient, system)}
    if body.get("visit"):
        about["encounter"] = reference("Encounter", str(body["visit"]))
    told = " ".join(filter(None, (body.get("tier"), "alarm")))
    text = f"Sepsis risk: {told} at hour {body.get('hour')}"
    flag = {
        "resourceType": "Flag",
        "identifier": _identifier("alarm", row.key),
        "status": "active",
        "category": [{"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/flag-category", "code": "clinical",
        }]}],
        "code": {"coding": [SEPSIS], "text": text},
        "period": {"start": instant(row.time)},
        **about,
    }  # fmt: skip
    request = {
        "resourceType": "CommunicationRequest",
        "identifier": _identifier("alarm-request", row.key),
        "status": "active",
        "priority": "urgent" if urgent else "routine",
        "authoredOn": instant(row.time),
        "payload": [{"contentString": f"{text}. {NOTE}"}],
        "reasonCode": [{"coding": [SEPSIS]}],
        **about,
    }
    return [flag, request]


def service_request(
    patient: str, visit: str | None, recommendation: Mapping[str, Any], time: float,
    system: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A proposal to measure something: a draft that somebody may sign, never an order.

    Who is named by a client's own id of a resource has no ``system``, see :func:`reference`.
    """
    codes = [{"system": "http://loinc.org", "code": c} for c in recommendation["loinc"]]
    out: dict[str, Any] = {
        "resourceType": "ServiceRequest",
        "status": "draft",
        "intent": "proposal",
        "code": {"coding": codes, "text": recommendation["panel"]},
        "subject": reference("Patient", patient, system),
        "authoredOn": instant(time),
        "note": [{"text": f"{recommendation['reason']}. Proposed, not ordered."}],
    }
    if visit:
        out["encounter"] = reference("Encounter", visit)
    return out


def provenance(score: ScoreRow, version: str) -> dict[str, Any]:
    """Provenance of an assessment: which software and model made it, from which stay."""
    key = score_key(score.site, score.patient, score.stay, score.hour)
    return {
        "resourceType": "Provenance",
        "target": [{"type": "RiskAssessment", "identifier": _identifier("score", key)[0]}],
        "recorded": instant(score.time),
        "agent": [
            {
                "type": {"coding": [{
                    "system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
                    "code": "assembler",
                }]},
                "who": {"type": "Device", "display": f"foretell {version}, {score.model}"},
            }
        ],
        "entity": [
            {"role": "source", "what": {"identifier": {"value": score.stay}, "type": "Encounter"}}
        ],
    }  # fmt: skip


_ACTIONS = {"list": "R", "read": "R", "cds": "R", "fhir-read": "R", "requeue": "U", "revive": "U"}


def audit_event(row: Mapping[str, Any]) -> dict[str, Any]:
    """AuditEvent of a row of the audit record; patients stay under their pseudonyms."""
    entity: dict[str, Any] = {
        "what": {"identifier": {"system": f"{SYSTEM}:pseudonym", "value": row["subject"] or "-"}},
        "detail": [
            {"type": "hash", "valueString": row["hash"]},
            {"type": "previous", "valueString": row["previous"] or "-"},
        ],
    }
    if row["detail"]:
        entity["description"] = row["detail"]
    out: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": str(row["id"]),
        "type": {
            "system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest",
        },
        "subtype": [{"system": f"{SYSTEM}:action", "code": row["action"] or "none"}],
        "action": _ACTIONS.get(row["action"], "E"),
        "recorded": instant(row["time"]),
        "outcome": "0" if row["outcome"] == "ok" else "4",
        "agent": [{"requestor": True, "altId": row["actor"] or "-"}],
        "source": {"observer": {"display": "foretell"}},
        "entity": [entity],
    }  # fmt: skip
    if row["purpose"]:
        out["purposeOfEvent"] = [{"text": row["purpose"]}]
    return out


def searchset(resources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A bundle of what was found."""
    entries = [{"resource": dict(r), "search": {"mode": "match"}} for r in resources]
    out: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return out | ({"entry": entries} if entries else {})


def assessment_of(row: OutboxRow, system: str | None = None) -> dict[str, Any]:
    """RiskAssessment of the hour of an outbox row; ``system`` as of :func:`reference`."""
    body = row.body
    score = ScoreRow(
        row.site, row.patient, str(body["stay"]), int(body["hour"]), row.time, body.get("risk"),
        body.get("risk"), str(body.get("status") or ""), str(body.get("model") or ""),
        body.get("reason"), tuple((n, v) for n, v in body.get("drivers") or ()),
    )  # fmt: skip
    return risk_assessment(
        score, visit=body.get("visit"), horizon=body.get("horizon"), system=system
    )


def transaction(row: OutboxRow, system: str | None = None) -> dict[str, Any]:
    """A row of the outbox as a transaction that a server takes once, however often it comes.

    Everything is created under an identifier, unless it is there; a retraction sets the alarm's
    flag and request to ``entered-in-error`` and a reinstatement makes them active again. The
    patient is named as :func:`reference` does with ``system``.
    """
    body = row.body
    if row.kind == "correction":
        raised = OutboxRow(
            row.site, row.patient, row.partition, str(body["alarm"]), "alarm",
            float(body.get("raised", row.time)), body,
        )  # fmt: skip
        changed = []
        for resource in alarm_resources(raised, system):
            gone = body.get("change") == "retracted"
            resource["status"] = "entered-in-error" if gone else "active"
            known = resource["identifier"][0]
            found = f"{resource['resourceType']}?identifier={known['system']}|{known['value']}"
            changed.append({"resource": resource, "request": {"method": "PUT", "url": found}})
        return {"resourceType": "Bundle", "type": "transaction", "entry": changed}
    made = [assessment_of(row, system)]
    if row.kind == "alarm":
        made += alarm_resources(row, system)
    entries = []
    for resource in made:
        known = resource["identifier"][0]
        entries.append({
            "resource": resource,
            "request": {
                "method": "POST", "url": resource["resourceType"],
                "ifNoneExist": f"identifier={known['system']}|{known['value']}",
            },
        })  # fmt: skip
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}
