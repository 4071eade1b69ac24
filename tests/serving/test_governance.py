"""Who may do what at a running service: roles, broken glass, rates, clocks and silent channels."""

from __future__ import annotations

import hashlib
import time

import httpx
import pytest

from foretell.data.clinical.hl7.writer import Result, drug_message, result_message
from foretell.errors import ParameterError
from foretell.serving.config import read_config
from foretell.serving.replay import MllpClient
from foretell.serving.store import open_store

from .test_api import as_
from .waiting import until

SITES = """
[service]
store = "{folder}/s.db"
partitions = 2
tick_seconds = 0.5
[alarms]
threshold = 0.2
[access]
break_glass_minutes = 30
[mllp]
port = 0
[http]
port = 0
[retention]
anchors = "{folder}/anchors.jsonl"
[sites.A]
facilities = ["A"]
alarms = {{ threshold = 0.2 }}
[sites.A.treatments]
"LOCAL|VANC" = "antibiotic"
[sites.A.silence_hours]
HR = 0.5
Lactate = 12
[sites.B]
facilities = ["B"]
alarms = {{ threshold = 0.2 }}
"""


def token(name: str, rest: str) -> str:
    digest = hashlib.sha256(f"token-{name}".encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\n{rest}\n'


TOKENS = (
    token("nurse", 'roles = ["clinician"]\nsites = ["A"]\nbreak_glass = true')
    + token("clerk", 'roles = ["viewer"]\nsites = ["A"]')
    + token("guest", 'roles = ["viewer"]\nsites = ["A"]\nrequests_per_minute = 1')
    + token("auditor", 'roles = ["auditor"]')
    + token("chief", 'roles = ["admin", "clinician"]')
    + token("caretaker", 'roles = ["admin"]\nsites = ["B"]')
)


def test_a_day_with_two_sites(tmp_path, launch):
    config = tmp_path / "c.toml"
    config.write_text(SITES.format(folder=tmp_path) + TOKENS)
    running = launch(config).wait()
    bad = [Result("8867-4", 135.0, "/min"), Result("9279-1", 30.0, "/min")]
    # A's clock is ten minutes ahead of ours.
    ahead = {"A": 600.0, "B": 0.0}
    now = time.time()
    with MllpClient("127.0.0.1", running.ports["mllp"]) as door:
        for site, skew in ahead.items():
            for k in range(12):
                sent = now - 5000 + 400 * k if site == "C" else time.time() + skew
                data = result_message(site, "P", bad, time=now - 5400 + 300 * k,
                                      control=f"{site}{k}", sent=sent)  # fmt: skip
                door.send(data, f"{site}{k}")
        door.send(drug_message("A", "P", ("LOCAL", "VANC"), time=now, control="d", visit=None), "d")
        assert all(code == "AA" for _, code in door.flush())
    with httpx.Client(base_url=f"http://127.0.0.1:{running.ports['http']}", timeout=180) as client:

        def get(path: str, who: str, **params) -> httpx.Response:
            return client.get(path, headers=as_(who), params=params)

        until(lambda: get("/v1/patients/A/P/risk", "nurse").status_code == 200)
        until(lambda: get("/v1/patients/A/P/risk", "nurse").json()["patient"]["skewed"] > 0)
        until(lambda: get("/v1/patients/B/P/risk", "chief").status_code == 200)
        page = client.get("/metrics").text
        line = next(x for x in page.splitlines() if x.startswith("foretell_clock_skew_seconds{"
                    'door="hl7",site="A"'))  # fmt: skip
        # However late they were heard: what waited makes a clock seem slower, never faster.
        assert 300 < float(line.split()[-1]) < 601
        assert "REPLAY" not in page
        # Which sender it is learns who may ask.
        assert get("/v1/senders", "nurse").status_code == 403
        found = get("/v1/senders", "chief").json()
        assert found["limit"] == 300
        first, second = found["senders"]
        assert 300 < first.pop("ahead") < 601 and -300 < second.pop("ahead") < 1
        assert first == {"site": "A", "door": "hl7", "sender": "REPLAY|A", "messages": 13,
                         "flagged": True}  # fmt: skip
        assert second == {"site": "B", "door": "hl7", "sender": "REPLAY|B", "messages": 12,
                          "flagged": False}  # fmt: skip
        # What a sender calls itself may be anything: it stays among those of its site.
        assert [s["site"] for s in get("/v1/senders", "caretaker").json()["senders"]] == ["B"]
        assert 'foretell_channel_silence_seconds{channel="Lactate",site="A"}' in page
        assert 'foretell_site_overdue_seconds{site="A"}' in page
        assert 'foretell_channel_silence_limit_seconds{channel="HR",site="A"} 1800.0' in page
        # Roles.
        assert get("/v1/patients", "auditor").status_code == 403
        assert get("/v1/audit", "nurse").status_code == 403
        assert get("/v1/changes", "auditor").status_code == 200
        assert get("/v1/shadow", "nurse").status_code == 403
        assert get("/v1/model", "nurse").json()["version"] == "news2-1"
        body = {"primary": "sirs-1", "reason": "a drill"}
        assert client.put("/v1/model", json=body, headers=as_("nurse")).status_code == 403
        assert client.put("/v1/model", json=body, headers=as_("chief")).status_code == 200
        # Through the glass.
        assert get("/v1/patients/B/P/risk", "nurse").status_code == 404
        assert get("/fhir/RiskAssessment", "nurse", site="B", patient="P").status_code == 404
        assert get("/v1/patients", "nurse", site="B").json()["total"] == 0
        assert {p["site"] for p in get("/v1/patients", "nurse").json()["patients"]} == {"A"}

        def glass(who: str, **told) -> httpx.Response:
            return client.post("/v1/break-glass", json=told, headers=as_(who))

        why = "transferred in an emergency"
        assert glass("clerk", site="B", reason=why).status_code == 403
        assert glass("nurse", site="A", reason=why).status_code == 409
        assert glass("nurse", site="C", reason=why).status_code == 404
        assert glass("nurse", site="B", reason="short").status_code == 422
        held = [*get("/v1/board", "nurse").json()["sites"]]
        granted = glass("nurse", site="B", reason=why, minutes=500)
        # The board colours what is read through the glass by the site's own thresholds.
        assert held == ["A"] and [*get("/v1/board", "nurse").json()["sites"]] == ["A", "B"]
        assert granted.status_code == 201 and granted.json()["minutes"] == 30
        assert get("/v1/patients/B/P/risk", "nurse").status_code == 200
        assert get("/fhir/RiskAssessment", "nurse", site="B", patient="P").status_code == 200
        assert get("/v1/patients", "nurse", site="B").json()["total"] == 1
        act = client.post("/v1/patients/B/P/actions", headers=as_("nurse"),
                          json={"action": "resume", "key": "k" * 10})  # fmt: skip
        assert act.status_code == 404
        rows = get("/v1/audit", "auditor").json()["rows"]
        broken = [r for r in rows if r["action"] == "break-glass"]
        assert len(broken) == 1 and broken[0]["purpose"] == why and broken[0]["subject"] == "B"
        assert sum(r["purpose"] == f"broken glass: {why}" for r in rows) == 3
        assert "foretell_break_glass_total 1.0" in client.get("/metrics").text
        assert "the glass was broken" in running.text()
        store = open_store(tmp_path / "s.db", partitions=2)
        store._run("UPDATE broken_glass SET until_time = ?", (time.time() - 1,))
        assert get("/v1/patients/B/P/risk", "nurse").status_code == 404
        # A dose that the site's own code names was taken for one.
        kinds = [e.body.get("means") for e in store.patient_events("A", "P") if e.kind == "order"]
        assert kinds == ["antibiotic"]
        # One token has its own rate; the others go on.
        answers = [get("/v1/model", "guest") for _ in range(12)]
        codes = [a.status_code for a in answers]
        assert 429 in codes and codes[0] == 200
        assert int(next(a for a in answers if a.status_code == 429).headers["Retry-After"]) >= 1
        assert get("/v1/model", "nurse").status_code == 200
        anchors = tmp_path / "anchors.jsonl"
        until(lambda: anchors.exists() and '"control"' in anchors.read_text())
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"tokens": [{"name": "t", "sha256": "0" * 64}]}, "roles or scopes"),
        ({"tokens": [{"name": "t", "sha256": "0" * 64, "roles": ["auditor"], "break_glass": True}]},
         "may read"),
        ({"tokens": [{"name": "t", "sha256": "0" * 64, "roles": ["king"]}]}, "roles"),
        ({"rollout": {"candidate": "x", "mode": "canary"}}, "units or sites"),
        ({"sites": {"A": {"treatments": {"X|1": "aspirin"}}}}, "treatments"),
        ({"sites": {"A": {"silence_hours": {"Pulse": 1}}}}, "no variable"),
        ({"quiet": {"antibiotics_hours": 500}}, "antibiotics_hours"),
    ],
)  # fmt: skip
def test_what_the_configuration_refuses(table, told):
    with pytest.raises(ParameterError, match=told):
        read_config(table)
