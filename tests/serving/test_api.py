"""The HTTP face of a running service: who may do what, and proper answers to everything."""

from __future__ import annotations

import hashlib
import json
import time

import httpx
import pytest

from foretell.errors import ParameterError
from foretell.serving.config import read_config
from foretell.serving.privacy import Pseudonyms

from .waiting import until

SCOPES = ("read", "act", "ingest", "audit", "admin")


def token_table(name: str, scopes, sites=()) -> str:
    digest = hashlib.sha256(f"token-{name}".encode()).hexdigest()
    return (
        f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = {json.dumps(list(scopes))}\n'
        f"sites = {json.dumps(list(sites))}\n"
    )


def as_(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer token-{name}"}


@pytest.fixture
def client(tmp_path, launch):
    text = (
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\nclock = "external"\n'
        "tick_seconds = 0.5\n[alarms]\nthreshold = 0.3\n"
        "[mllp]\nport = 0\n[http]\nport = 0\nmax_bytes = 4096\n"
        '[sites.A]\ncodes = { "LOCAL|1" = "HR" }\n[sites.B]\n'
        + token_table("all", SCOPES)
        + token_table("nurse", ["read", "act"], ["A"])
        + token_table("engine", ["ingest"], ["A"])
    )
    config = tmp_path / "c.toml"
    config.write_text(text)
    service = launch(config).wait()
    with httpx.Client(base_url=f"http://127.0.0.1:{service.ports['http']}", timeout=180) as held:
        yield held


def observation(identity: str, value: float, minute: int = 0, *, code=None, patient="p1") -> dict:
    coding = code or {"system": "http://loinc.org", "code": "8867-4"}
    return {
        "resourceType": "Observation", "id": identity, "status": "final",
        "code": {"coding": [coding]}, "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": f"2026-01-01T10:{minute:02d}:00Z",
        "valueQuantity": {"value": value, "unit": "/min"},
    }  # fmt: skip


def test_an_error_of_ours_is_answered_and_its_words_stay_inside(tmp_path, caplog):
    import asyncio

    from foretell.serving.api.app import build_app
    from foretell.serving.config import read_config
    from foretell.serving.service import Service

    store = str(tmp_path / "s.db")
    service = Service(read_config({"service": {"store": store}}), roles=("ingest",))
    app = build_app(service)

    @app.get("/fhir-broken")
    def broken() -> None:
        raise KeyError("CANARY")

    async def ask() -> httpx.Response:
        # It would raise what the application raises to its server.
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/fhir-broken")

    answer = asyncio.run(ask())
    assert answer.status_code == 500 and answer.headers["cache-control"] == "no-store"
    assert answer.json()["issue"][0]["code"] == "exception"
    assert "KeyError" in caplog.text and "CANARY" not in caplog.text + answer.text
    service.store.close()


def test_who_asks_for_metrics_at_once_sees_each_page_whole(tmp_path, monkeypatch):
    import asyncio

    from foretell.serving.api.app import build_app
    from foretell.serving.config import read_config
    from foretell.serving.service import Service

    store = str(tmp_path / "s.db")
    service = Service(read_config({"service": {"store": store}}), roles=("ingest",))
    metrics, inside, most = service.metrics, [], []
    real_models, real_text = metrics.models, metrics.text

    def models(lineup, loaded):
        inside.append(1)
        real_models(lineup, loaded)
        most.append(len(inside))
        time.sleep(0.02)

    def text(store, now=None):
        most.append(len(inside))
        page = real_text(store, now)
        inside.pop()
        return page

    monkeypatch.setattr(metrics, "models", models)
    monkeypatch.setattr(metrics, "text", text)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await asyncio.gather(*(client.get("/metrics") for _ in range(6)))

    answers = asyncio.run(ask())
    assert [a.status_code for a in answers] == [200] * 6
    assert all("foretell_model_info{" in a.text for a in answers)
    assert set(most) == {1}, "from the first gauge to the text nobody else sets any"
    assert not metrics.page.locked()
    service.store.close()


def test_methods_that_are_not_there_are_answered_with_those_that_are(client):
    for path, methods in {
        "/v1/model": "GET, PUT", "/v1/model/rollback": "POST", "/fhir": "POST",
        "/fhir/metadata": "GET", "/fhir/AuditEvent": "GET", "/fhir/Subscription": "GET, POST",
        "/fhir/Subscription/$status": "GET", "/fhir/Subscription/a": "DELETE, GET, PUT",
        "/fhir/Subscription/a/$events": "GET", "/fhir/Observation": "GET, POST",
        "/fhir/Observation/1": "GET, PUT", "/cds-services": "GET",
        "/v1/patients/A/p/1/risk": "GET", "/board": "GET",
    }.items():  # fmt: skip
        answer = client.request("PATCH", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods), path
        if path.startswith("/fhir"):
            assert answer.json()["issue"][0]["code"] == "not-supported"
    # What has doors of its own is no business of the general ones.
    head = as_("engine")
    assert client.post("/fhir/metadata", json={}, headers=head).status_code == 405
    assert client.put("/fhir/Subscription/$status", json={}, headers=head).status_code == 405


def test_texts_that_no_store_keeps_and_doubled_parameters_are_refused(client):
    for path in ("/v1/patients?site=%00", "/v1/patients/A/%00/risk", "/fhir/Flag/%00",
                 "/fhir/Flag?site=A&patient=%00", "/v1/patients?site=A&site=B"):  # fmt: skip
        assert client.get(path, headers=as_("all")).status_code == 422, path
    for code in ("\x00", "\ud800"):
        body = json.dumps({"code": code})
        answer = client.post("/v1/quarantine/retry", content=body, headers=as_("all"))
        assert answer.status_code == 422, repr(code)
    path = "/v1/patients/A/p1/actions"
    for told in ({"action": "snooze"}, {"action": "suppress", "hours": 3, "reason": " \t "},
                 {"action": "snooze", "hours": None}, {"action": "snooze", "hours": 2},
                 {"action": "snooze", "reason": "other"}, {"action": "sleep"}, {},
                 {"action": "snooze", "hours": 99, "reason": "other"},
                 {"action": "snooze", "hours": 2, "reason": "Mrs Doe is asleep"},
                 {"action": "snooze", "hours": 2, "reason": "other", "note": "Doe"}):  # fmt: skip
        body = {"key": "k-12345678", **told}
        assert client.post(path, json=body, headers=as_("nurse")).status_code == 422, told


def test_refusals_say_what_is_allowed_and_never_what_was_sent(client):
    canaries = ("ZACANARY", "MRN77CANARY", "19471123")
    name, number, born = canaries
    codes = "already-treated, other-cause, comfort-care, being-assessed, awaiting-results, "
    act, key = "/v1/patients/A/p1/actions", {"key": "k-12345678"}
    held = {"action": "snooze", "hours": 2, "reason": "other", **key}
    grant = {"site": "A", "reason": "they are brought to us at once"}

    def refused(path: str, body: dict, who: str = "all", way: str = "POST") -> list[dict]:
        answer = client.request(way, path, json=body, headers=as_(who))
        assert answer.status_code == 422, body
        assert not any(word in answer.text for word in canaries), answer.text
        detail = answer.json()["detail"]
        return detail if isinstance(detail, list) else [{"allowed": detail}]

    for path, body, where, words in (
        (act, {**held, "reason": f"{name} is asleep"}, "body.snooze.reason", f"one of {codes}"),
        (act, {**held, name: number}, "body.snooze", "the fields stay, key (needed), action "),
        (act, {"action": "suppress", **key}, "body.suppress.reason", f"one of {codes}"),
        (act, {**held, "hours": name}, "body.snooze.hours", "a whole number 1 to 24"),
        (act, {**held, "key": "short"}, "body.snooze.key", "a text of 8 to 100 characters"),
        (act, {"action": name}, "body", "action: one of acknowledge, "),
        (act, {name: born}, "body", "action: one of acknowledge, "),
        (act, [name], "body", "action: one of acknowledge, "),
        ("/v1/events", results(value=name), "body.events.0.value", "a number"),
        ("/v1/events", results(status=name), "body.events.0.status", "one of preliminary, "),
        ("/v1/events", results(**{name: born}), "body.events.0", "the fields id (needed), "),
        ("/v1/events", {**results(), "events": []}, "body.events", "a list of 1 to 1000"),
        ("/v1/model", {"primary": "x", "mode": name, "reason": "why"}, "body.Alone.mode", "off"),
        ("/v1/model", {"primary": "x", "reason": "  "}, "body.Alone.reason", "not blank"),
        ("/v1/model/rollback", {"why": name}, "body", "the fields reason (needed)"),
        ("/v1/break-glass", {**grant, "minutes": name}, "body.minutes", "a whole number 1 to 1440"),
        ("/v1/break-glass", {**grant, name: 1}, "body", "the fields site (needed), "),
        ("/v1/quarantine/retry", {"code": "x" * 41}, "body.code", "a text of 1 to 40 characters"),
    ):  # fmt: skip
        who = "nurse" if path == act else "engine" if path == "/v1/events" else "all"
        found = refused(path, body, who, "PUT" if path == "/v1/model" else "POST")
        told = [one["allowed"] for one in found if one.get("where") == where]
        assert any(words in one for one in told), (body, found)
    # The site's own range is told, which is none of the description's.
    (told,) = refused(act, {**held, "hours": 10**30}, "nurse")
    assert "hours, 1 to 24" in told["allowed"]
    (told,) = client.get("/v1/alarms?limit=0", headers=as_("nurse")).json()["detail"]
    assert told == {"where": "query.limit", "problem": "greater_than_equal",
                    "allowed": "a whole number 1 to 1000"}  # fmt: skip
    wrong = {"primary": f"{name}-1", "reason": "a drill"}
    answer = client.put("/v1/model", json=wrong, headers=as_("all"))
    assert answer.status_code == 409 and "news2-1" in answer.text and name not in answer.text


def test_a_shift_at_the_board(client):
    site = {"site": "A"}
    resp = {"system": "http://loinc.org", "code": "9279-1"}
    bundle = {
        "resourceType": "Bundle", "type": "batch",
        "entry": [{"resource": observation("o1", 138.0)},
                  {"resource": observation("o2", 30.0, code=resp)}],
    }  # fmt: skip
    answer = client.post("/fhir", params=site, json=bundle, headers=as_("engine"))
    assert answer.status_code == 200 and answer.json()["type"] == "batch-response"
    assert answer.headers["content-type"].startswith("application/fhir+json")
    client.post("/v1/clock", json={"time": 1767261600 + 3600}, headers=as_("all"))
    # 2026-01-01T10:00Z is 1767261600: its first hour has ended.
    (view,) = until(
        lambda: [v for v in client.get("/v1/patients", headers=as_("nurse")).json()["patients"]
                 if v["alarms"]]
    )  # fmt: skip
    assert (view["patient"], view["policy"], view["status"]) == ("p1", "alarmed", "ok")
    found = client.get("/v1/patients/A/p1/risk", headers=as_("nurse")).json()
    assert found["course"][0]["hour"] == 1 and found["course"][0]["drivers"][0][1] == 3.0
    told = {"action": "suppress", "hours": 4, "key": "k-12345678"}
    path = "/v1/patients/A/p1/actions"
    assert client.post(path, json=told, headers=as_("nurse")).status_code == 422
    assert client.post(path, json={**told, "reason": "palliative, said Mrs Doe"},
                       headers=as_("nurse")).status_code == 422  # fmt: skip
    told["reason"] = "comfort-care"
    first = client.post(path, json=told, headers=as_("nurse")).json()
    # The silence after the alarm is longer than what is asked for.
    assert view["quiet_until"] > view["hour"] - 1 + 4
    assert first == {"accepted": True, "repeated": False,
                     "until": view["begin"] + 3600 * view["quiet_until"]}  # fmt: skip
    assert client.post(path, json=told, headers=as_("nurse")).json()["repeated"] is True
    assert client.post(path, json={**told, "hours": 70, "key": "other-key"},
                       headers=as_("nurse")).status_code == 422  # fmt: skip
    wrong = client.post(path, json={**told, "stay": "x", "key": "third-key"}, headers=as_("nurse"))
    assert wrong.status_code == 409
    until(lambda: client.get("/v1/patients", headers=as_("nurse")).json()["patients"][0]["policy"]
         == "suppressed")  # fmt: skip

    def acted() -> int:
        notes = client.get("/v1/alarms", headers=as_("nurse")).json()["notes"]
        return sum(n["kind"] == "action" for n in notes)

    # Who asks for less than what holds already is told what holds, as the view says.
    for hours, last, count in ((1, view["quiet_until"], 2), (9, view["hour"] - 1 + 9, 3)):
        told = {"action": "snooze", "hours": hours, "reason": "other", "key": f"key-of-{hours}"}
        answer = client.post(path, json=told, headers=as_("nurse")).json()
        until(lambda count=count: acted() == count)
        (shown,) = client.get("/v1/patients", headers=as_("nurse")).json()["patients"]
        assert shown["quiet_until"] == last
        assert answer["until"] == view["begin"] + 3600 * last
    events = []
    with client.stream("GET", "/v1/alarms/stream", headers=as_("nurse")) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line[5:]))
            if len(events) == 2:
                break
    assert [e["kind"] for e in events] == ["alarm", "action"]
    # Who lost the connection asks again at the same address, and hears nothing twice.
    heard = {**as_("nurse"), "Last-Event-ID": str(events[1]["id"])}
    again = {"after": events[0]["id"] - 1}
    with client.stream("GET", "/v1/alarms/stream", params=again, headers=heard) as stream:
        line = next(n for n in stream.iter_lines() if n.startswith("data:"))
    assert json.loads(line[5:])["id"] > events[1]["id"]
    heard["Last-Event-ID"] = "9" * 5000
    with client.stream("GET", "/v1/alarms/stream", headers=heard) as stream:
        assert stream.status_code == 200
    later = client.get("/v1/alarms", params={"after": events[0]["id"]}, headers=as_("nurse")).json()
    assert [n["kind"] for n in later["notes"]] == ["action"] * 3
    audit = client.get("/v1/audit", headers=as_("all")).json()["rows"]
    assert {r["action"] for r in audit} >= {"list", "read", "suppress", "notes"}
    (kept, again) = [r for r in audit if r["action"] == "suppress"]
    assert kept["purpose"] == again["purpose"] == "comfort-care"
    assert kept["detail"] == f"hours=4 until={first['until']} new=True"
    subjects = {a: {r["subject"] for r in audit if r["action"] == a} for a in ("read", "notes")}
    assert subjects["notes"] == subjects["read"]
    told = [r["detail"] for r in audit if r["action"] == "notes"]
    assert told[-1] == "3 notes" and sum(int(d.split()[0]) for d in told) >= 3
    assert "p1" not in {r["subject"] for r in audit}


def test_who_may_do_what(client):
    assert client.get("/v1/patients").status_code == 401
    stranger = client.get("/v1/patients", headers=as_("nobody"))
    assert stranger.status_code == 401 and "not known" in stranger.json()["detail"]
    assert stranger.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert client.get("/v1/patients", headers=as_("engine")).status_code == 403
    assert client.get("/v1/quarantine", headers=as_("nurse")).status_code == 403
    assert client.get("/v1/audit", headers=as_("nurse")).status_code == 403
    send = {"json": observation("o", 80.0), "headers": as_("engine")}
    assert client.post("/fhir", params={"site": "B"}, **send).status_code == 403
    assert client.post("/fhir", params={"site": "C"}, **send).status_code == 403
    assert client.post("/fhir", **send).status_code == 200
    # Another site's patient is not even said to exist.
    client.post("/fhir", params={"site": "B"}, json=observation("b", 80.0, patient="x"),
                headers=as_("all"))  # fmt: skip
    until(lambda: client.get("/v1/patients/B/x/risk", headers=as_("all")).status_code == 200)
    assert client.get("/v1/patients/B/x/risk", headers=as_("nurse")).status_code == 404
    listed = client.get("/v1/patients", headers=as_("nurse")).json()["patients"]
    assert all(v["site"] == "A" for v in listed)


def test_every_refusal_is_an_operation_outcome(client):
    head = {**as_("engine"), "Content-Type": "application/fhir+json"}
    bodies = {
        b"{": 400, b"[]": 400, b"5": 400, b'{"resourceType": 5}': 400,
        b'{"resourceType": "Bundle", "type": "x"}': 400,
        b'{"resourceType": "Observation", "value": NaN}': 400,
        b"[" * 4000: 400, b'"' + b"x" * 5000 + b'"': 413, b"\xff\xfe": 400,
        json.dumps(observation("o\x00", 1.0)).encode(): 400,
        json.dumps(observation("o\ud800", 1.0)).encode(): 400,
    }  # fmt: skip
    for body, status in bodies.items():
        answer = client.post("/fhir", content=body, headers=head)
        assert answer.status_code == status, body[:60]
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert client.post("/fhir", content=b"<x/>", headers={**as_("engine"),
                       "Content-Type": "application/xml"}).status_code == 415  # fmt: skip
    mismatch = client.post("/fhir/Patient", json=observation("o", 1.0), headers=as_("engine"))
    assert mismatch.status_code == 400
    hook = client.put("/fhir/Observation/o", json=observation("o", 80.0), headers=as_("engine"))
    assert hook.status_code == 200


def test_who_was_merged_is_found_by_the_retired_name(client):
    when = {"lastUpdated": "2026-01-01T10:30:00Z"}
    linked = {"resourceType": "Patient", "id": "p2", "meta": when,
              "link": [{"type": "replaces", "other": {"reference": "Patient/p1"}}]}  # fmt: skip
    pulses = [observation(p, 90.0, patient=p) for p in ("p1", "p2")]
    client.post("/v1/clock", json={"time": 1767261600 + 60}, headers=as_("all"))
    for one in (*pulses, linked):
        answer = client.post("/fhir", params={"site": "A"}, json=one, headers=as_("engine"))
        assert answer.status_code == 200, answer.text
    client.post("/v1/clock", json={"time": 1767261600 + 7200}, headers=as_("all"))

    def found(name: str) -> list[dict]:
        asked = {"site": "A", "patient": name}
        answer = client.get("/fhir/RiskAssessment", params=asked, headers=as_("nurse"))
        return [e["resource"] for e in answer.json().get("entry", ())]

    until(lambda: len(found("p2")) == 2)
    assert found("p1") == found("p2")
    assert found("p1")[0]["subject"] == {"reference": "Patient/p2"}


def test_a_batch_is_answered_entry_by_entry_and_every_part_set_aside_counts(client):
    post = {"method": "POST", "url": "Observation"}
    odd = {**observation("e2", 80.0), "status": "odd"}
    entries = [
        {"resource": observation("e1", 80.0, patient="batched"), "request": post},
        {"resource": odd, "request": post},
        {"resource": {**observation("e3", 80.0), "subject": {"reference": "Device/d"}}},
        {"request": {"method": "DELETE", "url": "Observation/e1"}},
        {"resource": {"resourceType": "Practitioner", "id": "p"}},
        {"resource": {"resourceType": "MessageHeader"}},
    ]

    def aside() -> dict[str, int]:
        rows = client.get("/v1/quarantine", headers=as_("all")).json()["quarantine"]
        return {q["reason"]: q["count"] for q in rows if q["site"] == "A"}

    for turn in (1, 2):
        bundle = {"resourceType": "Bundle", "type": "batch", "id": f"b{turn}", "entry": entries}
        for _ in range(2):
            answer = client.post("/fhir", json=bundle, params={"site": "A"}, headers=as_("engine"))
            told = [e["response"] for e in answer.json()["entry"]]
            assert [r["status"][:3] for r in told] == ["200", "200", "200", "405", "200", "200"]
            assert "outcome" not in told[0] and "outcome" not in told[5]
            words = [r["outcome"]["issue"][0]["diagnostics"] for r in told[1:5]]
            assert words[:2] == ["set aside: unknown_status", "set aside: unusable"]
            assert words[3] == "set aside: resource_not_taken"
        # Each message counts, however often it is sent.
        found = aside()
        for reason in ("unknown_status", "unusable", "deletion_not_taken"):
            assert found[reason] == turn
        assert found["resource_not_taken"] == 1


def test_what_was_set_aside_is_read_when_its_code_is_known(client):
    unknown = {"system": "urn:lab", "code": "ZZ"}
    send = {"params": {"site": "A"}, "headers": as_("engine")}
    client.post("/fhir", json=observation("q1", 80.0, code=unknown), **send)
    local = {"system": "LOCAL", "code": "1"}
    client.post("/fhir", json=observation("q2", 81.0, code=local), **send)
    (aside,) = client.get("/v1/quarantine", headers=as_("all")).json()["quarantine"]
    assert (aside["reason"], aside["code"], aside["count"]) == ("unknown_code", "ZZ", 1)
    until(lambda: client.get("/v1/patients", headers=as_("all")).json()["total"] == 1)
    retry = {"json": {"system": "urn:lab", "code": "ZZ"}, "headers": as_("all")}
    assert client.post("/v1/quarantine/retry", **retry).json() == {"read": 0}
    assert client.get("/v1/quarantine", headers=as_("all")).json()["quarantine"] == [aside]


def test_configurations_are_checked(tmp_path):
    for text, words in (
        ("[service]\nstorage = 1", "service.storage: there is no such key"),
        ("[service]\nclok = 1", "service.clok: there is no such key; did you mean 'clock'?"),
        ("[[tokens]]\nscope = []", "tokens.0.scope: there is no such key; did you mean 'scopes'?"),
        ("[sites.west]\ncode = {}", "sites.west.code: there is no such key; did you mean 'codes'?"),
        ("[mlp]\nport = 1", "mlp: there is no such key; did you mean 'mllp'?"),
        ('[sites.A]\nzone = "Mars/Base"', "no time zone"),
        ('[sites.A]\ncodes = { x = "Nothing" }', "no variable"),
        ('[sites.A]\nfacilities = ["F"]\n[sites.B]\nfacilities = ["F"]', "belongs to A and B"),
        ('[[sinks]]\nname = "x"\nkind = "webhook"', "needs a url"),
        ("not toml", "cannot be read"),
        ('[[tokens]]\nname = "x"\nsha256 = "SECRET"\nscopes = ["read"]', "tokens.0.sha256"),
    ):
        file = tmp_path / "c.toml"
        file.write_text(text)
        with pytest.raises(ParameterError, match=words) as caught:
            read_config(file)
        assert "SECRET" not in str(caught.value)


def test_pseudonyms_need_their_key(tmp_path):
    a = Pseudonyms.from_file(tmp_path / "key")
    assert a("S", "P") == Pseudonyms.from_file(tmp_path / "key")("S", "P") != a("T", "P")
    assert a("S", "P") != Pseudonyms()("S", "P")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


T0 = 1_767_225_600.0


def results(name: str = "m-1", site: str = "A", **changed) -> dict:
    result = {"id": "r-1", "patient": "p7", "code": "8867-4", "value": 131.0, "unit": "/min",
              "time": T0}  # fmt: skip
    return {"id": name, "site": site, "events": [{**result, **changed}]}


@pytest.fixture
def send(client):
    return lambda body, who="engine": client.post("/v1/events", json=body, headers=as_(who))


def pulse(client):
    rows = client.get("/v1/patients", headers=as_("nurse")).json()["patients"]
    mine = [row for row in rows if row["patient"] == "p7"]
    return dict(mine[0]["drivers"]).get("HR") if mine else None


def test_results_are_scored_corrected_and_withdrawn(client, send):
    assert send(results()).json() == {"new": 1, "repeated": 0, "set_aside": 0}
    assert send(results()).json() == {"new": 0, "repeated": 0, "set_aside": 0}
    assert send(results("m-2")).json() == {"new": 0, "repeated": 1, "set_aside": 0}
    until(lambda: pulse(client) == 3.0)
    right = results("m-3", value=80.0, status="corrected", issued=T0 + 60)
    assert send(right).json()["new"] == 1
    until(lambda: pulse(client) is None)
    gone = results("m-4", status="deleted", issued=T0 + 120)
    del gone["events"][0]["value"]
    assert send(gone).json()["new"] == 1


def test_what_is_not_known_is_set_aside_and_what_is_wrong_refused(client, send):
    assert send(results("m-5", code="0000-0")).json()["set_aside"] == 1
    assert send(results("m-6", value=None)).json()["set_aside"] == 1
    assert send(results("m-7", unit="furlong")).json()["set_aside"] == 1
    for wrong in (
        {"time": "now"}, {"value": "80"}, {"patient": ""}, {"status": "cancelled"}, {"more": 1},
        {"patient": "p\u0000"}, {"time": 1e12},
    ):  # fmt: skip
        answer = send(results("m-8", **wrong))
        assert answer.status_code == 422 and "detail" in answer.json()
    assert send({**results("m-9"), "events": []}).status_code == 422
    assert send(results("m-10"), who="nurse").status_code == 403
    assert send(results("m-11", site="Z")).status_code == 403
    assert client.post("/v1/events", json=results("m-12")).status_code == 401
