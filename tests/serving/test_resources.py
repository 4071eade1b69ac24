"""What goes out as FHIR R4 is what R4 takes."""

from __future__ import annotations

import importlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from foretell.serving.config import SinkConfig
from foretell.serving.outbox import FhirSink, PermanentError
from foretell.serving.resources import (
    alarm_resources,
    audit_event,
    named,
    provenance,
    reference,
    risk_assessment,
    service_request,
    transaction,
)
from foretell.serving.store.base import OutboxRow, ScoreRow

pytest.importorskip("fhir.resources")


def valid(resource: dict) -> dict:
    """Fails where the R4B model of the type does not take it."""
    kind = resource["resourceType"]
    module = importlib.import_module(f"fhir.resources.R4B.{kind.lower()}")
    getattr(module, kind).model_validate_json(json.dumps(resource))
    return resource


def score(risk: float | None = 0.31, **changed) -> ScoreRow:
    told = {"site": "A", "patient": "p 1/x", "stay": "s", "hour": 3, "time": 1.76e9, "risk": risk,
            "issued": risk, "status": "ok", "model": "m-1", "reason": None,
            "drivers": (("HR", 0.1), ("Temp", -0.02)), **changed}  # fmt: skip
    return ScoreRow(**told)


def test_assessments_with_and_without_a_score():
    told = valid(risk_assessment(score(), visit="V1", horizon=12.0, recommended=[
        {"panel": "lactate", "reason": "never measured", "loinc": ["2524-7"]}]))  # fmt: skip
    (prediction,) = told["prediction"]
    assert prediction["probabilityDecimal"] == 0.31 and "fraction" in prediction["rationale"]
    assert "lactate" in told["mitigation"] and told["status"] == "final"
    assert told["subject"] == {"type": "Patient", "identifier": {"value": "p 1/x"}}
    assert (prediction["whenRange"]["low"]["value"], prediction["whenRange"]["high"]) == (
        0, {"value": 12.0, "unit": "h", "system": "http://unitsofmeasure.org", "code": "h"}
    )  # fmt: skip
    assert told["basis"] == [
        {"type": "Observation", "display": "heart rate (LOINC 8867-4)"},
        {"type": "Observation", "display": "body temperature (LOINC 8310-5)"},
    ]
    assert "basis" not in valid(risk_assessment(score(drivers=(("age", 0.1),))))
    withheld = valid(risk_assessment(score(None, status="invalid_input", reason="HR is stuck")))
    (prediction,) = withheld["prediction"]
    assert "probabilityDecimal" not in prediction and "HR is stuck" in prediction["rationale"]
    assert prediction["_probabilityDecimal"]["extension"][0]["valueCode"] == "unknown"
    assert valid(risk_assessment(score(issued=0.2)))["status"] == "corrected"
    # Of what is not known, and of a rule, no hours are claimed.
    assert "whenRange" not in risk_assessment(score())["prediction"][0]
    rule = valid(risk_assessment(score(0.35, model="news2-1", status="degraded"), horizon=4.0))
    assert "whenRange" not in rule["prediction"][0]
    # Points of a rule are no probability.
    assert "probabilityDecimal" not in rule["prediction"][0]
    assert "not a probability" in rule["prediction"][0]["qualitativeRisk"]["text"]


def test_alarms_proposals_provenance_and_audit():
    body = {"alarm": "k", "stay": "s", "visit": "V1", "hour": 3, "tier": "urgent", "risk": 0.6,
            "status": "ok", "model": "m-1", "horizon": 6.0, "drivers": [["HR", 0.2]]}  # fmt: skip
    row = OutboxRow("A", "p1", 0, "k", "alarm", 1.76e9, body)
    flag, request = (valid(r) for r in alarm_resources(row))
    assert flag["status"] == "active" and request["priority"] == "urgent"
    bundle = valid(transaction(row))
    kinds = [e["resource"]["resourceType"] for e in bundle["entry"]]
    assert kinds == ["RiskAssessment", "Flag", "CommunicationRequest"]
    (assessed,) = bundle["entry"][0]["resource"]["prediction"]
    assert assessed["whenRange"]["high"]["value"] == 6.0
    assert all(e["request"]["ifNoneExist"].startswith("identifier=urn:") for e in bundle["entry"])
    assert transaction(row) == bundle
    told = {"alarm": "k", "stay": "s", "visit": "V1", "hour": 3, "change": "retracted",
            "tier": "urgent", "raised": 1.76e9}  # fmt: skip
    note = OutboxRow("A", "p1", 0, "k/1", "correction", 1.77e9, told)
    taken_back = valid(transaction(note))["entry"]
    assert [e["request"] for e in taken_back] == [
        {"method": "PUT", "url": "Flag?identifier=urn:foretell:alarm|k"},
        {"method": "PUT", "url": "CommunicationRequest?identifier=urn:foretell:alarm-request|k"},
    ]
    # Nothing else of them changes.
    gone = {"status": "entered-in-error"}
    assert [e["resource"] for e in taken_back] == [{**r, **gone} for r in alarm_resources(row)]
    back = replace(note, body={**told, "change": "reinstated"})
    assert [e["resource"] for e in transaction(back)["entry"]] == alarm_resources(row)
    told = {"panel": "lactate", "reason": "never measured", "loinc": ["2524-7"]}
    proposal = valid(service_request("p1", "V1", told, 1.76e9))
    assert (proposal["intent"], proposal["status"]) == ("proposal", "draft")
    valid(provenance(score(), "1.0"))
    event = valid(audit_event({"id": 3, "time": 1.76e9, "actor": "nurse", "action": "suppress",
                               "subject": "abc", "purpose": "palliative", "outcome": "ok",
                               "detail": "hours=4", "previous": "", "hash": "ff"}))  # fmt: skip
    assert event["action"] == "E" and event["entity"][0]["detail"][0]["valueString"] == "ff"


def test_who_is_known_by_an_identifier_is_referred_to_by_it():
    known = {"type": "Patient", "identifier": {"system": "urn:mrn", "value": "M1"}}
    assert reference("Patient", "M1", "urn:mrn") == known
    # An id of a resource is an address at any site, and so is every name where sites use ids.
    assert reference("Patient", "Patient/7", "urn:mrn") == {"reference": "Patient/7"}
    assert reference("Patient", "M1") == reference("Patient", "Patient/M1")
    assert reference("Patient", "M1") == {"reference": "Patient/M1"}
    for told in (known, {"reference": "Patient/M1"}):
        assert named(told) == ("Patient", "M1")
    body = {"alarm": "k", "stay": "s", "visit": "V1", "hour": 3, "tier": "urgent", "risk": 0.6,
            "status": "ok", "model": "m-1", "drivers": []}  # fmt: skip
    alarm = OutboxRow("A", "M1", 0, "k", "alarm", 1.76e9, body)
    change = OutboxRow("A", "M1", 0, "k/1", "correction", 1.77e9, {**body, "change": "retracted"})
    for row in (alarm, change):
        plain, bundle = transaction(row), valid(transaction(row, "urn:mrn"))
        assert [e["resource"]["subject"] for e in bundle["entry"]] == [known] * len(plain["entry"])
        # Nothing else changes: neither keys nor what is created once.
        for entry in (*plain["entry"], *bundle["entry"]):
            del entry["resource"]["subject"]
        assert bundle == plain
    wanted = {"panel": "lactate", "reason": "never measured", "loinc": ["2524-7"]}
    assert valid(service_request("M1", "V1", wanted, 1.76e9, "urn:mrn"))["subject"] == known


def test_a_running_service_answers_in_fhir(ward):
    with ward.client() as client:
        views = client.get("/v1/patients").json()["patients"]
        view = next(v for v in views if v["alarms"])
        about = {"site": view["site"], "patient": view["patient"]}
        count = {}
        for kind in ("RiskAssessment", "Flag", "CommunicationRequest", "ServiceRequest",
                     "Provenance"):  # fmt: skip
            answer = client.get(f"/fhir/{kind}", params=about)
            assert answer.headers["content-type"].startswith("application/fhir+json")
            bundle = valid(answer.json())
            count[kind] = bundle["total"]
            for entry in bundle.get("entry", ())[:5]:
                valid(entry["resource"])
            for entry in bundle.get("entry", ()) if kind == "RiskAssessment" else ():
                (one,) = entry["resource"]["prediction"]
                spoken = entry["resource"]["method"]["text"].startswith("FeedForwardRisk")
                assert one.get("whenRange", {}).get("high", {}).get("value") == (
                    4.0 if spoken else None
                )
        assert count["RiskAssessment"] == count["Provenance"] >= 9
        assert count["Flag"] == count["CommunicationRequest"] >= 1
        assert client.get("/fhir/Medication", params=about).status_code == 404
        assert client.get("/fhir/Flag", params={**about, "patient": "no"}).status_code == 404
        events = valid(client.get("/fhir/AuditEvent").json())
        for entry in events["entry"][-5:]:
            valid(entry["resource"])
        assert view["patient"] not in {
            e["resource"]["entity"][0]["what"]["identifier"]["value"] for e in events["entry"]
        }
        valid(client.get("/fhir/metadata").json())


def test_a_fhir_server_gets_transactions(tmp_path):
    got: list[tuple[str, dict]] = []
    answers = [500, 200, 422, 200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Authorization"], json.loads(body)))
            self.send_response(answers[len(got) - 1])
            self.end_headers()

        def log_message(self, *told):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("secret\n")
    sink = FhirSink(SinkConfig(name="ehr", kind="fhir", token_file=str(tmp_path / "token"),
                               url=f"http://127.0.0.1:{server.server_port}/r4",
                               timeout_seconds=180), {"B": "urn:mrn"})  # fmt: skip
    row = OutboxRow("A", "p1", 0, "k", "alarm", 1.76e9, {
        "alarm": "k", "stay": "s", "visit": "V1", "hour": 3, "tier": "urgent", "risk": 0.6,
        "status": "ok", "model": "m-1", "drivers": []})  # fmt: skip
    with pytest.raises(OSError, match="500"):
        sink.send(row)
    sink.send(row)
    with pytest.raises(PermanentError, match="422"):
        sink.send(row)
    sink.send(replace(row, site="B"))
    sink.close()
    server.shutdown()
    assert got[0] == got[1] and got[0][0] == "Bearer secret"
    for (_, bundle), system in zip(got[2:], (None, "urn:mrn"), strict=True):
        subjects = [e["resource"]["subject"] for e in bundle["entry"]]
        assert subjects == [reference("Patient", "p1", system)] * 3
