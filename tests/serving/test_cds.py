"""CDS Hooks against a running service: cards, missing data, trust."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from contextlib import nullcontext
from dataclasses import replace

import httpx
import pytest

from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.errors import ParameterError
from foretell.serving.cds import CdsTrust, UntrustedError, allowed_server, cards_of
from foretell.serving.config import CdsClientConfig

from .conftest import Running

jwt = pytest.importorskip("jwt")
HTTPException = pytest.importorskip("fastapi").HTTPException


def signed(ward, *, key=None, algorithm="ES384", headers=None, **changed) -> str:
    now = int(time.time())
    claims = {"iss": "https://ehr.example", "aud": "https://foretell.example/cds", "iat": now,
              "exp": now + 120, "jti": uuid.uuid4().hex, **changed}  # fmt: skip
    claims = {k: v for k, v in claims.items() if v is not None}
    key = (ward.folder / "key.pem").read_text() if key is None else key
    return jwt.encode(claims, key, algorithm, {"kid": "k1", **(headers or {})})


def call(ward, patient: str, hook: str = "patient-view", *, token=None, **more) -> httpx.Response:
    body = {"hook": hook, "hookInstance": str(uuid.uuid4()),
            "context": {"userId": "Practitioner/1", "patientId": patient,
                        **more.pop("context", {})}, **more}  # fmt: skip
    token = signed(ward) if token is None else token
    return httpx.post(f"{ward.url}/cds-services/sepsis-risk-{hook}", json=body, timeout=180,
                      headers={"Authorization": f"Bearer {token}"})  # fmt: skip


def test_discovery_names_hooks_and_prefetch(ward):
    found = httpx.get(f"{ward.url}/cds-services", timeout=180).json()["services"]
    assert [s["hook"] for s in found] == ["patient-view", "encounter-start", "order-select"]
    for service in found:
        assert {"hook", "id", "title", "description", "prefetch"} <= set(service)
        assert all("{{context.patientId}}" in text for text in service["prefetch"].values())


def test_cards_of_patients_that_are_followed(ward):
    listed = ward.client().get("/v1/patients").json()["patients"]
    policy = ward.deployment.policy
    seen = set()
    for view in listed:
        for hook in ("patient-view", "order-select"):
            answer = call(ward, view["patient"], hook)
            assert answer.status_code == 200, answer.text
            cards = answer.json()["cards"]
            for card in cards:
                assert 0 < len(card["summary"]) < 140
                assert card["indicator"] in ("info", "warning", "critical")
                assert card["source"]["label"] and card["overrideReasons"]
                uuid.UUID(card["uuid"])
                for suggestion in card.get("suggestions", ()):
                    for action in suggestion["actions"]:
                        resource = action["resource"]
                        assert (resource["intent"], resource["status"]) == ("proposal", "draft")
            if hook == "patient-view":
                high = view["risk"] is not None and view["risk"] >= policy.tiers[0].threshold
                quiet = view["risk"] is not None and not high and view["status"] != "ambiguous"
                assert bool(cards) == (not quiet)
                if cards:
                    seen.add(cards[0]["indicator"])
                    again = call(ward, view["patient"]).json()["cards"]
                    assert again[0]["uuid"] == cards[0]["uuid"]
            elif cards:
                # What is being ordered already is not proposed again.
                codes = [c for r in view["recommended"] for c in r["loinc"]]
                orders = {"resourceType": "Bundle", "entry": [{"resource": {
                    "resourceType": "ServiceRequest", "code": {"coding": [{"code": c}]}}}
                    for c in codes]}  # fmt: skip
                told = call(ward, view["patient"], hook, context={"draftOrders": orders})
                assert told.json()["cards"] == []
    assert seen & {"warning", "critical"}


def test_a_stranger_is_scored_from_the_prefetch_or_not_at_all(ward):
    assert call(ward, "nobody").status_code == 412
    # A server that is not listed is not asked: the data stay missing.
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        here = f"http://127.0.0.1:{server.getsockname()[1]}/fhir"
        for address in ("http://169.254.169.254/latest", here, "file:///etc"):
            assert call(ward, "nobody", fhirServer=address).status_code == 412
        with pytest.raises(BlockingIOError):
            server.accept()
    entries = [
        {"resource": {"resourceType": "Observation", "id": f"o{k}", "status": "final",
                      "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                      "subject": {"reference": "Patient/guest"},
                      "effectiveDateTime": f"2026-02-01T0{k}:10:00Z",
                      "valueQuantity": {"value": value, "unit": unit}}}
        for k in range(4)
        for code, value, unit in (("8867-4", 125.0 + k, "/min"), ("8480-6", 82.0 - k, "mm[Hg]"),
                                  ("9279-1", 29.0 + k, "/min"))
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
    answer = call(ward, "guest", prefetch={"observations": bundle})
    assert answer.status_code == 200 and isinstance(answer.json()["cards"], list)
    # Of another patient nothing is known by that.
    assert call(ward, "other", prefetch={"observations": bundle}).status_code == 412
    # It was answered, not kept.
    listed = ward.client().get("/v1/patients").json()["patients"]
    assert "guest" not in {v["patient"] for v in listed}
    nothing = {"resourceType": "Bundle", "entry": [1, {}, None]}
    for prefetch in ({"observations": 5}, {"observations": {"resourceType": "Bundle"}},
                     {"observations": nothing}):  # fmt: skip
        assert call(ward, "guest", prefetch=prefetch).status_code == 412


def test_only_a_proper_token_is_taken(ward):
    from cryptography.hazmat.primitives.asymmetric import ec

    good = signed(ward)
    patient = ward.client().get("/v1/patients").json()["patients"][0]["patient"]
    assert call(ward, patient, token=good).status_code == 200
    # A token names the address of the service it is for, as CDS Hooks wants it.
    service = "https://foretell.example/cds/cds-services/sepsis-risk-patient-view"
    for audience in (service, [service, "https://another.example"]):
        assert call(ward, patient, token=signed(ward, aud=audience)).status_code == 200
    other = ec.generate_private_key(ec.SECP384R1())
    now = int(time.time())
    wrong = {
        "another service": signed(ward, aud=service.replace("patient-view", "order-select")),
        "used before": good,
        "another key": signed(ward, key=other),
        "another issuer": signed(ward, iss="https://evil.example"),
        "another audience": signed(ward, aud="https://elsewhere.example"),
        "expired": signed(ward, iat=now - 500, exp=now - 200),
        "for ever": signed(ward, exp=now + 10**6),
        "no jti": signed(ward, jti=None),
        "no exp": signed(ward, exp=None),
        "unknown key": signed(ward, headers={"kid": "k2"}),
        "shared secret": jwt.encode({"iss": "https://ehr.example"}, "s" * 64, "HS256"),
        "no signature": jwt.encode({"iss": "https://ehr.example"}, None, "none"),
        "no token": "x.y.z",
    }
    for what, token in wrong.items():
        answer = call(ward, patient, token=token)
        assert answer.status_code == 401, what
        assert patient not in answer.text
    assert httpx.post(f"{ward.url}/cds-services/sepsis-risk-patient-view", json={},
                      timeout=180).status_code == 401  # fmt: skip


@pytest.mark.parametrize("base", ["https://x.example", "https://x.example/cds-services/"])
def test_an_audience_is_a_base_or_that_of_the_services(ward, base):
    client = CdsClientConfig(issuer="https://ehr.example", audience=base,
                             jwks_file=str(ward.folder / "jwks.json"))  # fmt: skip
    trust = CdsTrust([client])
    token = signed(ward, aud="https://x.example/cds-services/one")
    with pytest.raises(UntrustedError):
        trust.caller(token, "/cds-services/two")
    assert trust.caller(token, "/cds-services/one").name == "cds https://ehr.example"
    assert trust.caller(signed(ward, aud=base), "/cds-services/two")


def test_feedback_is_kept_by_its_code(ward):
    card = str(uuid.uuid4())
    body = {"feedback": [
        {"card": card, "outcome": "overridden", "outcomeTimestamp": "2026-02-01T10:00:00Z",
         "overrideReason": {"reason": {"code": "other-cause", "system": "urn:foretell:override"},
                            "userComment": "COMMENTCANARY John Doe"}},
        {"card": card, "outcome": "accepted", "outcomeTimestamp": "2026-02-01T10:00:00Z",
         "acceptedSuggestions": [{"id": str(uuid.uuid4())}]},
    ]}  # fmt: skip
    head = {"Authorization": f"Bearer {signed(ward)}"}
    url = f"{ward.url}/cds-services/sepsis-risk-patient-view/feedback"
    assert httpx.post(url, json=body, headers=head, timeout=180).status_code == 200
    rows = [r for r in ward.client().get("/v1/audit?limit=10000").json()["rows"]
            if r["action"] == "cds-feedback"]  # fmt: skip
    assert [r["subject"] for r in rows] == [card, card]
    assert '"reason": "other-cause"' in rows[0]["detail"] and "overridden" in rows[0]["detail"]
    assert '"suggestions": 1' in rows[1]["detail"]
    assert "CANARY" not in str(rows)
    body["feedback"][0]["outcome"] = "ignored"
    head = {"Authorization": f"Bearer {signed(ward)}"}
    assert httpx.post(url, json=body, headers=head, timeout=180).status_code == 422


def test_cards_of_a_bedside_rule_are_held_to_its_own_thresholds(deployed, tmp_path, monkeypatch):
    from foretell.serving.api import cds
    from foretell.serving.api.app import build_app
    from foretell.serving.api.auth import new_token
    from foretell.serving.config import read_config
    from foretell.serving.service import Service

    # Two points of 20 are far beyond the thresholds of the model.
    policy = AlarmPolicy(tiers=(Tier("advisory", 0.02), Tier("urgent", 0.05)))
    deployment = replace(deployed[1], policy=policy)
    token, known = new_token("ehr")
    config = read_config({
        "service": {"store": str(tmp_path / "s.db")}, "sites": {"A": {}},
        "tokens": [known.model_dump(exclude_defaults=True)],
    })  # fmt: skip
    service = Service(config, deployments=[deployment], roles=("ingest",))
    view = {"site": "A", "patient": "p", "stay": "s", "hour": 3, "status": "degraded",
            "reason": "the model failed", "drivers": [], "updated": 0.0, "unit": None}  # fmt: skip

    def cards(**said):
        monkeypatch.setattr(cds, "_view", lambda *_: view | said)
        body = {"hook": "patient-view", "hookInstance": "1", "context": {"patientId": "p"}}

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=build_app(service))
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.post(
                    "/cds-services/sepsis-risk-patient-view", json=body,
                    headers={"Authorization": f"Bearer {token}"},
                )  # fmt: skip

        answer = asyncio.run(ask())
        assert answer.status_code == 200, answer.text
        return answer.json()["cards"]

    assert cards(model="news2-1", risk=2 / 20) == []
    (card,) = cards(model="news2-1", risk=7 / 20)
    assert card["indicator"] == "critical" and "Bedside score" in card["summary"]
    assert cards(model=deployment.version, risk=2 / 20)[0]["indicator"] == "critical"
    service.store.close()


def test_a_stranger_of_one_hour_is_proposed_what_to_measure(tmp_path):
    """No hour of theirs closes here, and nobody was offered anything before."""
    from types import SimpleNamespace

    from foretell.serving.api.cds import HookRequest, _view
    from foretell.serving.config import read_config
    from foretell.serving.service import Service

    from .test_advice import make_fold

    config = read_config({"service": {"store": str(tmp_path / "s.db")}, "sites": {"A": {}}})
    service = Service(config, roles=("ingest",))
    asked = SimpleNamespace(stores=service.stores, intake=service.intake, make_fold=make_fold)
    for hours in (1, 5):
        entries = [
            {"resource": {"resourceType": "Observation", "id": f"o{k}", "status": "final",
                          "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                          "subject": {"reference": "Patient/guest"},
                          "effectiveDateTime": f"2026-02-01T0{k}:10:00Z",
                          "valueQuantity": {"value": 125.0, "unit": "/min"}}}
            for k in range(hours)
        ]  # fmt: skip
        bundle = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
        body = HookRequest.model_validate({
            "hook": "order-select", "hookInstance": "1", "context": {"patientId": "guest"},
            "prefetch": {"observations": bundle},
        })  # fmt: skip
        view = _view(asked, None, "A", body)
        assert view["hour"] == hours
        assert [r["panel"] for r in view["recommended"]] == ["lactate", "blood count"]
    service.store.close()


def test_who_is_asked_for_is_known_by_the_patient_that_is_sent_along(tmp_path):
    """The feed names patients by a number, the record by the id of a resource."""
    from types import SimpleNamespace

    from foretell.serving.api.cds import HookRequest, _view
    from foretell.serving.config import read_config
    from foretell.serving.service import Service

    from .test_advice import make_fold

    config = read_config({
        "service": {"store": str(tmp_path / "s.db")},
        "sites": {"A": {"identifier_systems": ["urn:mrn"]}},
    })  # fmt: skip
    service = Service(config, roles=("ingest",))
    asked = SimpleNamespace(stores=service.stores, intake=service.intake, make_fold=make_fold)
    person = {"resourceType": "Patient", "id": "guest", "birthDate": "1956-01-01",
              "gender": "female", "identifier": [{"system": "urn:mrn", "value": "M7"}]}  # fmt: skip
    entry = {"resource": {
        "resourceType": "Observation", "id": "o", "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/guest"}, "effectiveDateTime": "2026-02-01T01:10:00Z",
        "valueQuantity": {"value": 125.0, "unit": "/min"}}}  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [entry]}
    body = HookRequest.model_validate({
        "hook": "patient-view", "hookInstance": "1", "context": {"patientId": "guest"},
        "prefetch": {"patient": person, "observations": bundle},
    })  # fmt: skip
    # One whom the service does not follow is who they are said to be.
    view = _view(asked, None, "A", body)
    assert (view["patient"], view["age"], view["sex"]) == ("M7", 70.0, "female")
    # No store keeps what such a name holds: none is asked for it.
    for odd in ("\x00", "\ud800"):
        told = {**person, "identifier": [{"system": "urn:mrn", "value": odd}]}
        with pytest.raises(HTTPException) as refused:
            _view(asked, None, "A", body.model_copy(update={"prefetch": {"patient": told}}))
        assert refused.value.status_code == 412
    # One whom it follows is found by the identifier, and by what was told of it before.
    store = service.store
    state = SimpleNamespace(due=1.0, view={"patient": "M7", "risk": 0.3})
    followed = {"M7": state}
    named = SimpleNamespace(current=store.current, state=lambda _, patient: followed.get(patient))
    asked.stores = SimpleNamespace(use=lambda: nullcontext(named))
    assert _view(asked, None, "A", body) == state.view
    alone = body.model_copy(update={"prefetch": None})
    assert _view(asked, None, "A", alone) is None
    told = {**person, "meta": {"lastUpdated": "2026-02-01T00:00:00Z"}}
    store.append([service.intake.fhir(told, "A", 0.0)])
    assert _view(asked, None, "A", alone) == state.view
    service.store.close()


def test_cards_by_tier_and_without_a_score():
    policy = AlarmPolicy(tiers=(Tier("advisory", 0.2), Tier("urgent", 0.5)))
    view = {"site": "A", "patient": "p", "stay": "s", "hour": 3, "risk": 0.1, "status": "ok",
            "reason": None, "drivers": [["HR", 0.1]], "model": "m-1", "updated": 0.0,
            "unit": None}  # fmt: skip
    assert cards_of(view, policy, hook="patient-view") == []
    assert cards_of({**view, "risk": 0.3}, policy, hook="patient-view")[0]["indicator"] == "warning"
    assert (
        cards_of({**view, "risk": 0.6}, policy, hook="patient-view")[0]["indicator"] == "critical"
    )
    silent = {**view, "risk": None, "status": "invalid_input", "reason": "a [link](x) *is* stuck"}
    (card,) = cards_of(silent, policy, hook="encounter-start")
    assert card["indicator"] == "info" and "No sepsis score" in card["summary"]
    assert "a link(x) is stuck" in card["detail"]


def test_a_token_counts_once_whichever_process_is_asked(ward, nursery, tmp_path):
    """A second door on the same store, as behind a load balancer."""
    patient = ward.client().get("/v1/patients").json()["patients"][0]["patient"]
    other = Running(nursery, ward.folder / "c.toml", "ingest", tmp_path, None)
    try:
        port = other.wait().ports["http"]
        here = f"{ward.url}/cds-services/sepsis-risk-patient-view"
        there = f"http://127.0.0.1:{port}/cds-services/sepsis-risk-patient-view"
        body = {"hook": "patient-view", "hookInstance": str(uuid.uuid4()),
                "context": {"userId": "Practitioner/1", "patientId": patient}}  # fmt: skip
        for first, second in ((here, there), (there, here)):
            head = {"Authorization": f"Bearer {signed(ward)}"}
            assert httpx.post(first, json=body, headers=head, timeout=180).status_code == 200
            refused = httpx.post(second, json=body, headers=head, timeout=180)
            assert refused.status_code == 401 and "used before" in refused.text
    finally:
        other.kill()


def test_a_card_links_a_smart_app_where_there_is_one():
    policy = AlarmPolicy(tiers=(Tier("urgent", 0.5),))
    view = {"site": "A", "patient": "p", "stay": "s", "hour": 3, "risk": 0.9, "status": "ok",
            "reason": None, "drivers": [], "model": "m-1", "updated": 0.0,
            "unit": None}  # fmt: skip
    (plain,) = cards_of(view, policy, hook="patient-view")
    assert "links" not in plain
    (card,) = cards_of(view, policy, hook="patient-view", board="https://b.example/board",
                       smart_app="https://app.example/launch")  # fmt: skip
    smart, board = card["links"]
    assert (smart["type"], smart["url"]) == ("smart", "https://app.example/launch")
    # The client tells the app who it is about; the card does not.
    assert json.loads(smart["appContext"]) == {"hook": "patient-view", "hour": 3}
    assert board["type"] == "absolute" and "appContext" not in board


def test_which_servers_may_be_asked(tmp_path):
    allowed = ["https://ehr.example/r4"]
    assert allowed_server("https://ehr.example/r4", allowed)
    assert allowed_server("https://ehr.example/r4/tenant", allowed)
    for address in ("https://ehr.example/other", "http://ehr.example/r4",
                    "https://ehr.example:444/r4", "https://ehr.example@evil/r4",
                    "https://ehr.example/r4/../admin", "https://ehr.example/r4?x=1",
                    "https://[::1/r4", "", "https://ehr.example.evil/r4"):  # fmt: skip
        assert not allowed_server(address, allowed), address
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": [{"kty": "oct", "k": "AAAA"}]}')
    client = {"issuer": "i", "audience": "a", "jwks_file": str(keys)}
    with pytest.raises(ParameterError, match="no key pair"):
        CdsTrust([CdsClientConfig(**client)])
    with pytest.raises(ParameterError, match="HS256"):
        CdsTrust([CdsClientConfig(**client, algorithms=("HS256",))])
