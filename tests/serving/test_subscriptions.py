"""Subscriptions of others to a running service, and of the service at another server."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

pytest.importorskip("jwt")

from foretell.data.clinical.fhir import FhirError
from foretell.serving.config import SubscriptionsConfig
from foretell.serving.events import partition_of
from foretell.serving.resources import alarm_resources
from foretell.serving.store import Effects, Occurrence, OutboxRow, SubscriptionRow
from foretell.serving.store.linked_sql import owner_of
from foretell.serving.subscriptions import (
    FanOut,
    notification,
    read_criteria,
    read_notification,
    read_subscription,
    shown,
    status_of,
)
from foretell.serving.subscriptions.sink import with_resources

from .conftest import Running
from .ehr import Ehr, observation, status
from .test_smart import told
from .waiting import until

T0 = 1_767_225_600.0
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
FLAG, ASSESSMENT = "urn:foretell:topic:alarm", "urn:foretell:topic:risk-assessment"
SICK = (("9279-1", 30.0, "/min"), ("59408-5", 84.0, "%"), ("8480-6", 82.0, "mm[Hg]"),
        ("8867-4", 138.0, "/min"), ("8310-5", 39.4, "Cel"))  # fmt: skip


@pytest.fixture(scope="module")
def ehr() -> Iterator[Ehr]:
    held = Ehr()
    yield held
    held.close()


class Desk:
    """A running service with two callers, and what is asked of it."""

    def __init__(self, nursery, folder: Path, ehr: Ehr, store: str | None = None) -> None:
        def token(name: str, scopes: str, sites: str = "") -> str:
            told = hashlib.sha256(name.encode()).hexdigest()
            return (f'[[tokens]]\nname = "{name}"\nsha256 = "{told}"\nscopes = [{scopes}]\n'
                    f"sites = [{sites}]\n")  # fmt: skip

        config = folder / "c.toml"
        every = '"read", "act", "ingest", "audit", "admin", "subscribe"'
        config.write_text(
            f'[service]\nstore = "{store or folder / "s.db"}"\npartitions = 3\n'
            'clock = "external"\n'
            "tick_seconds = 0.5\n[mllp]\nport = 0\n[http]\nport = 0\n"
            f'[subscriptions]\nendpoints = ["{ehr.hook}"]\nbase = "https://us.example/fhir"\n'
            "attempts = 4\nlongest_pause_seconds = 0.2\nshortest_heartbeat_seconds = 1\n"
            # A receiver that was stopped for a while is told once all the same.
            "timeout_seconds = 180\n"
            "[sites.west]\n[sites.east]\n[sites.north]\nidentifier_systems = [\"urn:mrn\"]\n"
            + token("all", every) + token("other", '"read", "subscribe"', '"east"')
            + token("reader", '"read"') + token("mute", '"subscribe"')
        )  # fmt: skip
        self.nursery, self.folder, self.ehr, self.begin = nursery, folder, ehr, T0
        self.round = 0
        self.start()

    def start(self) -> None:
        self.running = Running(
            self.nursery, self.folder / "c.toml", "ingest,worker,dispatcher", self.folder, None
        ).wait()
        self.url = f"http://127.0.0.1:{self.running.ports['http']}"

    def calm(self) -> None:
        """Ends what a test before has begun: subscriptions, and stays by days of silence."""
        self.ehr.hook_answers.clear()
        for entry in self.ask("GET", "/fhir/Subscription").json().get("entry", ()):
            self.ask("DELETE", f"/fhir/Subscription/{entry['resource']['id']}")
        # Its greeting stands behind what is under way to those just now.
        last = self.make(FLAG, "empty")["id"]
        until(lambda: self.state(last) == "active")
        self.ask("DELETE", f"/fhir/Subscription/{last}")
        self.begin += 3600 * 100
        self.round += 1
        self.tick(0)
        until(lambda: not self.ask("GET", "/v1/patients").json()["patients"])
        self.first = self.ask("GET", "/v1/alarms/last").json()["last"]
        self.ehr.told.clear()

    def told(self, name: str, kind: str | None = None) -> list[dict]:
        """What a subscription was told."""
        found = self.ehr.bundles(kind)
        return [b for b in found if b["entry"][0]["request"]["url"].split("/")[-2] == name]

    def total(self, name: str) -> int:
        """How many events a subscription has had."""
        return status(self.ask("GET", f"/fhir/Subscription/{name}/$status").json())["total"]

    def ask(self, method: str, path: str, body=None, *, who: str = "all", **more) -> httpx.Response:
        head = {"Authorization": f"Bearer {who}", "Content-Type": "application/fhir+json"}
        content = None if body is None else json.dumps(body)
        return httpx.request(
            method, f"{self.url}{path}", content=content, headers=head, timeout=180, **more
        )

    def subscription(self, criteria: str, content: str | None = "id-only", **more) -> dict:
        channel = {
            "type": "rest-hook",
            "endpoint": self.ehr.hook,
            "header": ["Authorization: Bearer secret-of-the-hook"],
            **more.pop("channel", {}),
        }
        if content is not None:
            channel.setdefault("payload", "application/fhir+json")
            channel["_payload"] = {
                "extension": [{"url": BACKPORT + "backport-payload-content", "valueCode": content}]
            }
        return {"resourceType": "Subscription", "status": "requested", "reason": "tests",
                "criteria": criteria, "channel": channel, **more}  # fmt: skip

    def make(self, *args, who: str = "all", **more) -> dict:
        answer = self.ask("POST", "/fhir/Subscription", self.subscription(*args, **more), who=who)
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"].endswith(f"/Subscription/{answer.json()['id']}")
        return answer.json()

    def state(self, name: str) -> str:
        return self.ask("GET", f"/fhir/Subscription/{name}").json()["status"]

    def alarms(self) -> list[dict]:
        return self.ask("GET", f"/v1/alarms?after={self.first}").json()["notes"]

    def who(self, patient: str) -> str:
        """Nobody is in two tests: a stay that is heard of again goes on."""
        return f"{patient}-{self.round}"

    def sick(self, patient: str, hour: int, site: str = "west") -> None:
        """An hour of somebody very ill, and its end."""
        time, patient = self.begin + 3600 * hour + 60, self.who(patient)
        entries = [
            {"resource": observation(f"{patient}-{hour}-{code}", patient, time, code, value, unit)}
            for code, value, unit in SICK
        ]
        told = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        answer = self.ask("POST", f"/fhir?site={site}", told)
        assert answer.status_code == 200, answer.text

    def tick(self, hour: float) -> None:
        self.ask("POST", "/v1/clock", {"time": self.begin + 3600 * hour + 300}).raise_for_status()


@pytest.fixture(scope="module")
def desks(nursery, tmp_path_factory, ehr) -> Iterator[Desk]:
    held = Desk(nursery, tmp_path_factory.mktemp("desk"), ehr)
    yield held
    held.running.kill()


@pytest.fixture
def desk(desks) -> Desk:
    desks.calm()
    return desks


def test_a_topic_is_greeted_told_in_order_and_asked_for_what_was_missed(desk):
    made = desk.make(FLAG, "full-resource", channel={"extension": [
        {"url": BACKPORT + "backport-heartbeat-period", "valueUnsignedInt": 1}]})  # fmt: skip
    name = made["id"]
    assert made["status"] == "requested" and "secret" not in json.dumps(made)
    (greeting,) = until(lambda: desk.ehr.bundles("handshake"))
    assert status(greeting)["status"] == "requested" and status(greeting)["total"] == 0
    until(lambda: desk.state(name) == "active")
    # The endpoint's own secret goes to it and to nobody else.
    _, path, headers, _ = desk.ehr.told[0]
    assert path == "" and headers["authorization"] == "Bearer secret-of-the-hook"
    assert headers["idempotency-key"]

    # A receiver that is busy, then broken, gets the same again; nothing is lost or doubled.
    desk.ehr.hook_answers.extend([503, 429])
    for hour, patient in enumerate(("p1", "p2", "p3")):
        desk.sick(patient, hour)
        desk.tick(hour + 1.01)
    until(lambda: len(desk.ehr.bundles("event-notification")) == 3)
    bundles = desk.ehr.bundles("event-notification")
    assert [status(b)["numbers"] for b in bundles] == [[1], [2], [3]]
    assert [status(b)["total"] for b in bundles] == [1, 2, 3]
    assert len({b["id"] for b in bundles}) == 3
    for bundle in bundles:
        assert bundle["type"] == "history" and "response" in bundle["entry"][0]
        flag = bundle["entry"][1]["resource"]
        assert flag["resourceType"] == "Flag" and flag["status"] == "active"
        focus = status(bundle)["focus"][0]["reference"]
        assert (
            focus == f"https://us.example/fhir/Flag/{flag['id']}" == bundle["entry"][1]["fullUrl"]
        )
        again = desk.ask("GET", f"/fhir/Flag/{flag['id']}")
        assert again.json() == flag
    until(lambda: status(desk.ehr.bundles()[-1])["type"] == "heartbeat")
    beat = status(desk.ehr.bundles("heartbeat")[-1])
    assert beat["total"] == 3 and beat["numbers"] == []

    # What was missed can be asked for, and how it stands.
    told = desk.ask("GET", f"/fhir/Subscription/{name}/$status").json()
    assert status(told)["type"] == "query-status" and status(told)["total"] == 3
    assert desk.ask("GET", f"/fhir/Subscription/$status?id={name}").json()["total"] == 1
    some = desk.ask(
        "GET", f"/fhir/Subscription/{name}/$events?eventsSinceNumber=2&content=id-only"
    ).json()
    assert status(some)["numbers"] == [2, 3] and len(some["entry"]) == 1
    until_two = desk.ask("GET", f"/fhir/Subscription/{name}/$events?eventsUntilNumber=2").json()
    assert status(until_two)["numbers"] == [1, 2]
    # 1 s of heartbeats and events are no alarms: feeds do not show them.
    kinds = {n["kind"] for n in desk.alarms()}
    assert "notification" not in kinds and "alarm" in kinds

    assert desk.ask("DELETE", f"/fhir/Subscription/{name}").status_code == 204
    assert desk.ask("GET", f"/fhir/Subscription/{name}").status_code == 404
    # While the heart of another one beats twice, that of this one does not.
    other = desk.make(FLAG, "empty", channel={"extension": [
        {"url": BACKPORT + "backport-heartbeat-period", "valueUnsignedInt": 1}]})["id"]  # fmt: skip
    until(lambda: desk.state(other) == "active")
    seen = len(desk.told(name))
    until(lambda: len(desk.told(other, "heartbeat")) >= 2)
    assert len(desk.told(name)) == seen


def test_searches_of_r4_put_resources_and_know_no_handshake(desk):
    plain = desk.make(f"Flag?subject=Patient/{desk.who('p1')}", None)
    whole = desk.make(f"RiskAssessment?patient={desk.who('p2')}&site=west", None,
                      channel={"payload": "application/fhir+json"})  # fmt: skip
    until(lambda: {desk.state(plain["id"]), desk.state(whole["id"])} == {"active"})
    assert desk.ehr.told == []
    for patient in ("p1", "p2"):
        desk.sick(patient, 0)
    desk.tick(1.01)
    desk.tick(2.01)
    until(lambda: len(desk.ehr.told) >= 3)
    empty = [t for t in desk.ehr.told if t[0] == "POST"]
    assert len(empty) == 1 and empty[0][3] is None
    put = [t for t in desk.ehr.told if t[0] == "PUT"]
    assert len(put) == 2
    for _, path, headers, body in put:
        assert (
            path == f"/RiskAssessment/{body['id']}"
            and body["subject"]["reference"] == f"Patient/{desk.who('p2')}"
        )
        assert headers["content-type"] == "application/fhir+json"
        read = desk.ask("GET", path.replace("/", "/fhir/", 1)).json()
        assert read["identifier"] == body["identifier"] and read["id"] == body["id"]
    found = desk.ask("GET", f"/fhir/RiskAssessment?site=west&patient={desk.who('p2')}").json()[
        "entry"
    ]
    assert {e["resource"]["id"] for e in found} == {t[3]["id"] for t in put}


def test_who_is_known_by_an_identifier_goes_out_under_it_at_every_door(desk):
    number, guest = desk.who("M1"), desk.who("p2")
    person = {"resourceType": "Patient", "id": desk.who("p1"),
              "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
              "identifier": [{"system": "urn:mrn", "value": number}]}  # fmt: skip
    desk.ask("POST", "/fhir?site=north", person).raise_for_status()
    known = {"type": "Patient", "identifier": {"system": "urn:mrn", "value": number}}
    wanted = {number: known, guest: {"reference": f"Patient/{guest}"}}
    for name in wanted:
        made = desk.make(f"Flag?subject=Patient/{name}", None,
                         channel={"payload": "application/fhir+json"})["id"]  # fmt: skip
        until(lambda name=made: desk.state(name) == "active")
    for patient in ("p1", "p2"):
        desk.sick(patient, 0, "north")
    desk.tick(1.01)
    until(lambda: len({t[1] for t in desk.ehr.told}) == 2)
    flags = {path: body for _, path, _, body in desk.ehr.told}
    told = sorted((f["subject"] for f in flags.values()), key=str)
    assert told == sorted(wanted.values(), key=str)
    for path, body in flags.items():
        assert desk.ask("GET", path.replace("/", "/fhir/", 1)).json() == body
    for kind in ("RiskAssessment", "Flag", "CommunicationRequest", "ServiceRequest"):
        for patient, subject in ((number, known), (f"Patient/{guest}", wanted[guest])):
            asked = desk.ask("GET", f"/fhir/{kind}?site=north&patient={patient}").json()
            found = [e["resource"]["subject"] for e in asked.get("entry", ())]
            assert found == [subject] * asked["total"]
            assert found or kind == "ServiceRequest"


def test_an_endpoint_that_fails_puts_into_error_and_nothing_is_lost(desk):
    name = desk.make(FLAG, "empty")["id"]
    until(lambda: desk.state(name) == "active")
    desk.ehr.hook_answers.extend([500] * 4)
    desk.sick("p1", 0)
    desk.tick(1.01)
    until(lambda: desk.state(name) == "error")
    shown = desk.ask("GET", f"/fhir/Subscription/{name}").json()
    assert "does not answer" in shown["error"]
    # It happens while nobody is told: counted all the same.
    desk.sick("p2", 1)
    desk.tick(2.01)
    until(lambda: desk.total(name) == 2)
    assert desk.ehr.bundles("event-notification") == []
    assert desk.state(name) == "error"
    # The owner asks for it again: a new handshake, and all that was missed, in order. The secret
    # that was hidden is still the one.
    answer = desk.ask("PUT", f"/fhir/Subscription/{name}", {**shown, "status": "requested"})
    assert answer.status_code == 200 and "error" not in answer.json()
    until(lambda: len(desk.ehr.bundles("event-notification")) == 2)
    assert [status(b)["numbers"] for b in desk.ehr.bundles("event-notification")] == [[1], [2]]
    assert "focus" not in json.dumps(desk.ehr.bundles("event-notification"))
    assert desk.ehr.told[-1][2]["authorization"] == "Bearer secret-of-the-hook"
    assert desk.state(name) == "active"
    # Off: what happens is none of its events.
    off = desk.ask("PUT", f"/fhir/Subscription/{name}", {**shown, "status": "off"})
    assert off.json()["status"] == "off"
    seen = len(desk.told(name))
    other = desk.make(FLAG, "empty")["id"]
    until(lambda: desk.state(other) == "active")
    desk.sick("p3", 2)
    desk.tick(3.01)
    until(lambda: len(desk.told(other, "event-notification")) == 1)
    # Events of all are counted at once.
    assert desk.total(other) == 1 and desk.total(name) == 2
    # An endpoint that says it is gone is believed at once.
    desk.ehr.hook_answers.append(410)
    desk.sick("p4", 3)
    desk.tick(4.01)
    until(lambda: desk.state(other) == "error")
    assert "410" in desk.ask("GET", f"/fhir/Subscription/{other}").json()["error"]
    assert len(desk.told(name)) == seen and desk.total(name) == 2


def test_who_may_subscribe_to_what_and_where_to(desk):
    wrong = {
        "another host": {"channel": {"endpoint": "http://169.254.169.254/latest"}},
        "another port": {"channel": {"endpoint": "http://127.0.0.1:1/hook"}},
        "another path": {"channel": {"endpoint": desk.ehr.root + "/hooked"}},
        "out of the path": {"channel": {"endpoint": desk.ehr.hook + "/../r4"}},
        "a user": {"channel": {"endpoint": desk.ehr.hook.replace("//", "//a@")}},
        "no web address": {"channel": {"endpoint": "file:///etc/passwd"}},
        "another channel": {"channel": {"type": "email"}},
        "a header of ours": {"channel": {"header": ["Host: evil"]}},
        "a torn header": {"channel": {"header": ["A: b\r\nHost: evil"]}},
        "xml": {"channel": {"payload": "application/fhir+xml"}},
        "active at once": {"status": "active"},
        "no reason": {"reason": ""},
        "an end that is none": {"end": "soon"},
        "a modifier": {"modifierExtension": []},
    }
    for what, more in wrong.items():
        told = desk.subscription(FLAG)
        told["channel"] |= more.pop("channel", {})
        answer = desk.ask("POST", "/fhir/Subscription", told | more)
        assert answer.status_code == 400, what
        assert answer.json()["resourceType"] == "OperationOutcome"
        assert "169.254" not in answer.text and "passwd" not in answer.text
    for criteria in ("Patient?name=x", "urn:foretell:topic:none", "Flag?name=x", "Flag?subject=",
                     "RiskAssessment?probability=high", "Flag?_include=*"):  # fmt: skip
        told = desk.subscription(criteria)
        assert desk.ask("POST", "/fhir/Subscription", told).status_code == 400, criteria
    assert desk.ehr.told == []
    for who, code in (("reader", 403), ("mute", 403), ("nobody", 401)):
        told = desk.subscription(FLAG)
        assert desk.ask("POST", "/fhir/Subscription", told, who=who).status_code == code
    # Others' subscriptions are not there; those of one site hear of no other.
    mine = desk.make(
        ASSESSMENT, who="other", channel={"payload": "application/fhir+json; fhirVersion=4.3"}
    )["id"]  # fmt: skip
    all_ = desk.make(ASSESSMENT, _criteria={"extension": [
        {"url": BACKPORT + "backport-filter-criteria",
         "valueString": f"RiskAssessment?subject=Patient/{desk.who('p9')}"}]})["id"]  # fmt: skip
    for method in ("GET", "DELETE"):
        assert desk.ask(method, f"/fhir/Subscription/{all_}", who="other").status_code == 404
    listed = desk.ask("GET", "/fhir/Subscription", who="other").json()
    assert [e["resource"]["id"] for e in listed["entry"]] == [mine]
    until(lambda: {desk.state(mine), desk.state(all_)} == {"active"})
    desk.sick("p9", 0)
    desk.sick("e1", 0, "east")
    desk.tick(1.01)
    until(lambda: len(desk.ehr.bundles("event-notification")) == 2)
    # What somebody else's event would be to them is counted with it, before they are told.
    assert desk.total(mine) == desk.total(all_) == 1
    told = {b["entry"][0]["request"]["url"].split("/")[-2]: status(b)["focus"]
            for b in desk.ehr.bundles("event-notification")}  # fmt: skip
    assert set(told) == {mine, all_}
    for bundle in desk.ehr.bundles():
        of = bundle["entry"][0]["request"]["url"].split("/")[-2]
        words = "SubscriptionStatus" if of == mine else "Parameters"
        assert bundle["entry"][0]["resource"]["resourceType"] == words
    for name, patient, who in ((mine, "e1", "other"), (all_, "p9", "all")):
        found = told[name][0]["reference"].rpartition("/")[2]
        read = desk.ask("GET", f"/fhir/RiskAssessment/{found}", who=who)
        assert read.json()["subject"]["reference"] == f"Patient/{desk.who(patient)}"
    west = told[all_][0]["reference"].rpartition("/")[2]
    assert desk.ask("GET", f"/fhir/RiskAssessment/{west}", who="other").status_code == 404
    named = {e["resource"].get("extension", [{}])[0].get("valueString") for e in listed["entry"]}
    assert named == {None}
    told = desk.ask("GET", "/fhir/metadata").json()["rest"][0]["resource"]
    (offered,) = [r for r in told if r["type"] == "Subscription"]
    assert {e["valueCanonical"] for e in offered["extension"]} == {FLAG, ASSESSMENT}


def test_events_survive_kill_nine_between_store_and_receiver(desk, ehr):
    name = desk.make(ASSESSMENT, "full-resource")["id"]
    until(lambda: desk.state(name) == "active")
    kills = 2
    for hour in range(kills):
        desk.sick("p1", hour)
        desk.tick(hour + 1.01)
        until(lambda h=hour: desk.total(name) > h)
        # The moment is whatever it is: before, while or after the receiver is told.
        desk.running.kill()
        desk.start()

    def numbers() -> list[int]:
        return [n for b in ehr.bundles("event-notification") for n in status(b)["numbers"]]

    until(lambda: set(numbers()) == {1, 2})
    # A kill between the receiver's answer and the mark tells the one in flight again: under the
    # same number, in order, and no other.
    assert numbers() == sorted(numbers()) and len(numbers()) <= 2 + kills
    by_number: dict[int, set] = {}
    for bundle in ehr.bundles("event-notification"):
        by_number.setdefault(status(bundle)["numbers"][0], set()).add(json.dumps(bundle))
    assert all(len(v) == 1 for v in by_number.values())


def test_hooks_go_out_and_come_in_on_postgres(nursery, tmp_path, postgres):
    # One of its own: the other service of these tests may still have something to tell.
    ehr = Ehr()
    desk = Desk(nursery, tmp_path, ehr, postgres)
    try:
        desk.calm()
        name = desk.make(FLAG, "full-resource")["id"]
        until(lambda: desk.state(name) == "active")
        ehr.hook_answers.append(503)
        for hour, patient in enumerate(("p1", "p2")):
            desk.sick(patient, hour)
            desk.tick(hour + 1.01)
        until(lambda: len(ehr.bundles("event-notification")) == 2)
        desk.running.kill()
        desk.start()
        desk.sick("p3", 2)
        desk.tick(3.01)
        until(lambda: len({b["id"] for b in ehr.bundles("event-notification")}) == 3)
        numbers = [status(b)["numbers"] for b in ehr.bundles("event-notification")]
        assert sorted({n for some in numbers for n in some}) == [1, 2, 3]
        flag = ehr.bundles("event-notification")[-1]["entry"][1]["resource"]
        assert desk.ask("GET", f"/fhir/Flag/{flag['id']}").json() == flag
        # The other way round: what another server tells, twice, and with two events lost.
        one = observation("o1", "q1", desk.begin + 60)
        said = [
            desk.ask("POST", "/fhir?site=west", told("event-notification", n, [n], [r]))
            for n, r in ((1, one), (1, one), (4, observation("o4", "q1", desk.begin + 90)))
        ]
        assert [a.status_code for a in said] == [200] * 3 and "known already" in said[1].text
        notes = desk.ask("GET", "/v1/quarantine").json()["quarantine"]
        assert [(n["reason"], n["code"]) for n in notes] == [("notification_gap", "2-3")]
        assert desk.ask("DELETE", f"/fhir/Subscription/{name}").status_code == 204
    finally:
        desk.running.kill()
        ehr.close()


# ---------------------------------------------------------------- on both engines


def note(number: int, partition: int, kind: str = "alarm", site: str = "A") -> OutboxRow:
    body = {"alarm": f"a{number}", "stay": "s", "visit": None, "hour": 1, "tier": "urgent"}
    return OutboxRow(site, f"p{number}", partition, f"k{number}", kind, T0 + number, body)


def test_numbers_have_no_gaps_whoever_counts(store):
    """Two senders with partitions of their own, one subscription."""
    from foretell.serving.api.auth import Caller

    work = {lease.partition: lease for lease in store.acquire("work", "w", 3600, 4)}
    one = {lease.partition: lease for lease in store.acquire("notify", "one", 3600, 2)}
    other = store.another()
    two = {lease.partition: lease for lease in other.acquire("notify", "two", 3600, 4)}
    assert set(one) | set(two) == {0, 1, 2, 3} and not set(one) & set(two)
    settings = SubscriptionsConfig(endpoints=("https://ehr.example/hook",), keep=100)
    body = read_subscription(
        {"resourceType": "Subscription", "reason": "r", "criteria": FLAG,
         "channel": {"type": "rest-hook", "endpoint": "https://ehr.example/hook", "extension": [
             {"url": BACKPORT + "backport-max-count", "valuePositiveInt": 5}]}},
        settings.endpoints,
    ).body  # fmt: skip
    store.commit(Effects({0: work[0]}, {0: 1}, outbox=[note(0, 0)]))
    row = SubscriptionRow("sub", "me", 0, "requested", None, body, 1, 0.0, 0.0, period=5.0)
    made = store.add_subscription(row)
    assert made.partition == partition_of("", owner_of("sub"), 4)
    callers = {"me": Caller("me", frozenset({"read", "subscribe"}), frozenset({"A"}))}
    senders = [
        (FanOut(settings, callers.get, {}), store, one),
        (FanOut(settings, callers.get, {}), other, two),
    ]
    # What was before it is none of its events, nor what is of another site.
    count = 0
    for turn in range(4):
        rows: dict[int, list[OutboxRow]] = {}
        for i in range(12):
            count += 1
            row = note(count, count % 4, site="A" if i % 6 else "B")
            rows.setdefault(row.partition, []).append(row)
        for part, some in rows.items():
            store.commit(Effects({part: work[part]}, {part: count}, outbox=some))
        for feeder, held, leases in senders:
            for lease in leases.values():
                feeder.feed(held, lease)
        if turn == 1:
            assert not store.activate_subscription("sub", 2)
            assert store.activate_subscription("sub", 1, 5)
    held = store.subscription("sub")
    assert held is not None and (held.events, held.noted) == (40, 40)
    found = store.occurrences("sub", 1, 99, 99)
    assert [o.number for o in found] == list(range(1, 41)) and "k0" not in {o.source for o in found}
    sent = [
        n for p in range(4) for n in store.notes_where("part = ? AND kind = 'notification'", (p,))
    ]
    spans = sorted((n.body["first"], n.body["last"]) for n in sent if "first" in n.body)
    covered = [n for a, b in spans for n in range(a, b + 1)]
    assert covered == list(range(1, 41)) and max(b - a for a, b in spans) == 4
    # They wait in a line of their own: nobody's slow endpoint holds up an alarm.
    lines = [store.outbox(p, time.time(), 99) for p in range(4)]
    assert {r.kind for line in lines for r in line} == {"alarm"}
    (first,) = (r for p in range(4) for r in store.outbox(p, time.time(), 99, notifications=True))
    assert first.body["type"] == "handshake" and first.partition == made.partition
    # A sender that has lost its lease writes nothing.
    from foretell.serving.errors import FencedError

    store.release("notify", "one")
    other.acquire("notify", "two", 3600, 4)
    with pytest.raises(FencedError):
        store.notify(one[0], 10**6, {"sub": [Occurrence("k1", T0, ("Flag/k1",))]}, most={}, keep=9)
    assert store.subscription("sub").events == 40
    # Whoever may not read any more hears no more.
    callers.clear()
    store.commit(Effects({0: work[0]}, {0: 99}, outbox=[note(99, 0)]))
    senders[1][0].feed(
        other, next(le for le in other.acquire("notify", "two", 3600, 4) if le.partition == 0)
    )
    held = store.subscription("sub")
    assert (held.status, held.events) == ("error", 40) and "may not read" in held.error
    other.close()


def test_who_is_known_by_an_identifier_is_found_by_address_and_told_by_it(store):
    """At site A names are identifiers, at B they are ids of resources."""
    from foretell.serving.api.auth import Caller

    systems = {"A": "urn:mrn"}
    for i, criteria in enumerate(("Flag?subject=Patient/p1", "Flag?patient:identifier=urn:mrn|p1")):
        channel = {"type": "rest-hook", "endpoint": "https://ehr.example/hook"}
        body = {"resourceType": "Subscription", "reason": "r", "criteria": criteria,
                "channel": channel}  # fmt: skip
        row = SubscriptionRow(f"sub{i}", "me", 0, "active", None, body, 1, 0.0, 0.0)
        store.add_subscription(row)
    (work,) = (le for le in store.acquire("work", "w", 3600, 4) if le.partition == 0)
    rows = [note(1, 0), note(2, 0), replace(note(1, 0, site="B"), key="of-b")]
    store.commit(Effects({0: work}, {0: 1}, outbox=rows))
    (lease,) = (le for le in store.acquire("notify", "n", 3600, 4) if le.partition == 0)
    settings = SubscriptionsConfig(endpoints=("https://ehr.example/hook",))
    callers = {"me": Caller("me", frozenset({"read", "subscribe"}), frozenset())}
    FanOut(settings, callers.get, systems).feed(store, lease)
    for name in ("sub0", "sub1"):
        events = store.occurrences(name, 1, 9, 9)
        assert [e.source for e in events] == ["k1", "of-b"]
        told = [r["subject"] for _, found in with_resources(store, events, systems) for r in found]
        assert told == [{"type": "Patient", "identifier": {"system": "urn:mrn", "value": "p1"}},
                        {"reference": "Patient/p1"}]  # fmt: skip


def test_tokens_are_used_once_by_whoever_looks(store):
    other = store.another()
    now = time.time()
    assert store.use_token("iss", "t1", now + 60)
    assert not other.use_token("iss", "t1", now + 60)
    assert other.use_token("another", "t1", now + 60) and other.use_token("iss", "t2", now - 120)
    # It is forgotten once nobody can use it any more.
    assert store.use_token("iss", "t2", now + 60)
    other.close()


def test_gaps_of_subscriptions_elsewhere_are_seen_and_filled(store):
    heard = store.hear("A", "s", "handshake", "requested", 0, [])
    assert (heard.last, heard.gap, heard.missing) == (0, None, 0) and heard.fresh
    assert store.hear("A", "s", "event-notification", "active", 2, [1, 2]).gap is None
    heard = store.hear("A", "s", "event-notification", "active", 6, [5, 6])
    assert (heard.last, heard.gap, heard.missing) == (6, (3, 4), 2)
    # Sent again, or late: no news, and a hole less.
    assert store.hear("A", "s", "event-notification", "active", 6, [5, 6]).gap is None
    assert store.hear("A", "s", "event-notification", "active", 4, [4]).missing == 1
    heard = store.hear("A", "s", "heartbeat", "active", 9, [])
    assert (heard.gap, heard.missing) == ((7, 9), 4)
    assert store.hear("B", "s", "heartbeat", "active", 0, []).missing == 0
    # A server that counts anew says so by a handshake.
    assert store.hear("A", "s", "handshake", "active", 0, []).missing == 0
    assert store.hear("A", "s", "event-notification", "active", 1, [1]).gap is None
    assert [h["last"] for h in store.heard("A")] == [1]


# ---------------------------------------------------------------- words


def test_searches_hold_what_they_say():
    assessment = {"resourceType": "RiskAssessment", "status": "final",
                  "subject": {"reference": "Patient/7"}, "encounter": {"reference": "Encounter/v"},
                  "prediction": [{"probabilityDecimal": 0.4}]}  # fmt: skip
    holds = ("RiskAssessment", "RiskAssessment?subject=Patient/7", "RiskAssessment?patient=7",
             "RiskAssessment?patient=8,7", "RiskAssessment?probability=ge0.4",
             "RiskAssessment?probability=0.4", "RiskAssessment?status=final&encounter=v",
             "RiskAssessment?site=A", "RiskAssessment?subject=https://e.x/r4/Patient/7",
             "RiskAssessment?subject:identifier=urn:x|7")  # fmt: skip
    fails = ("Flag", "RiskAssessment?subject=Patient/77", "RiskAssessment?probability=gt0.4",
             "RiskAssessment?probability=lt0.4", "RiskAssessment?status=corrected",
             "RiskAssessment?site=B", "RiskAssessment?patient=7&patient=8",
             "RiskAssessment?subject=Group/7")  # fmt: skip
    assert all(read_criteria(c).matches("A", assessment) for c in holds)
    assert not any(read_criteria(c).matches("A", assessment) for c in fails)
    # Whatever somebody is known by, a search by address finds them.
    by_number = {"type": "Patient", "identifier": {"system": "urn:mrn", "value": "7"}}
    logical = {**assessment, "subject": by_number}
    assert all(read_criteria(c).matches("A", logical) for c in holds)
    assert not any(read_criteria(c).matches("A", logical) for c in fails)
    plain = {"resourceType": "Flag", "status": "active",
             "subject": {"type": "Patient", "identifier": {"value": "a b"}}}  # fmt: skip
    assert read_criteria("Flag?subject:identifier=a b").matches("A", plain)
    withheld = {**assessment, "prediction": [{"rationale": "No score"}]}
    assert not read_criteria("RiskAssessment?probability=ge0").matches("A", withheld)


def test_what_no_answer_could_show_again_is_not_taken():
    endpoint = "https://ehr.example/hook"
    channel = {"type": "rest-hook", "endpoint": endpoint}
    plain = {"resourceType": "Subscription", "reason": "r", "criteria": FLAG, "channel": channel}
    assert read_subscription(plain, [endpoint]).kind == "Flag"
    for value in (float("inf"), float("nan"), "\ud800"):
        wrong = {**channel, "extension": [{"url": "urn:x", "valueX": value}]}
        with pytest.raises(FhirError, match="told again"):
            read_subscription({**plain, "channel": wrong}, [endpoint])


def test_notifications_are_read_in_the_words_of_three_versions():
    event = {"eventNumber": "4", "timestamp": "2026-01-01T00:00:00Z"}
    new = {"resourceType": "Bundle", "type": "subscription-notification", "entry": [
        {"resource": {"resourceType": "SubscriptionStatus", "status": "active",
                      "type": "event-notification", "eventsSinceSubscriptionStart": "4",
                      "subscription": {"reference": "https://e/Subscription/1"},
                      "notificationEvent": [event]}},
        {"resource": {"resourceType": "Observation"}}]}  # fmt: skip
    found = read_notification(new)
    assert found is not None and (found.numbers, found.total) == ((4,), 4)
    assert [r["resourceType"] for r in found.resources] == ["Observation"]
    told = [{"name": "subscription", "valueReference": {"reference": "https://e/Subscription/1"}},
            {"name": "type", "valueCode": "event-notification"},
            {"name": "status", "valueCode": "active"}]  # fmt: skip
    old = {"resourceType": "Bundle", "type": "history", "entry": [{"resource": {
        "resourceType": "Parameters", "parameter": [
            *told, {"name": "events-since-subscription-start", "valueUnsignedInt": 9},
            {"name": "events-in-notification", "valueUnsignedInt": 2}]}}]}  # fmt: skip
    assert read_notification(old).numbers == (8, 9)
    for other in ({"resourceType": "Bundle", "type": "history", "entry": []},
                  {"resourceType": "Bundle", "type": "collection", "entry": new["entry"]},
                  {"resourceType": "Observation"}):  # fmt: skip
        assert read_notification(other) is None
    for wrong in ({"eventsSinceSubscriptionStart": "four"}, {"type": "surprise"},
                  {"subscription": {}}, {"eventsSinceSubscriptionStart": -1},
                  {"notificationEvent": [{"eventNumber": "9" * 40}]},
                  {"subscription": {"reference": "Subscription/\ud800"}},
                  {"subscription": {"reference": "Subscription/\x00"}}):  # fmt: skip
        first = {**new["entry"][0]["resource"], **wrong}
        with pytest.raises(FhirError):
            read_notification({**new, "entry": [{"resource": first}]})


@pytest.mark.parametrize("version", ["", "; fhirVersion=4.3"])
@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
def test_what_is_sent_is_valid_by_the_models(version, content):
    from .test_resources import valid

    endpoint = "https://ehr.example/hook"
    told = {
        "resourceType": "Subscription", "status": "requested", "reason": "tests", "criteria": FLAG,
        "end": "2030-01-01T00:00:00Z",
        "_criteria": {"extension": [{"url": BACKPORT + "backport-filter-criteria",
                                     "valueString": "Flag?patient=p1"}]},
        "channel": {
            "type": "rest-hook", "endpoint": endpoint, "header": ["Authorization: Bearer x"],
            "payload": f"application/fhir+json{version}",
            "_payload": {"extension": [{"url": BACKPORT + "backport-payload-content",
                                        "valueCode": content}]},
            "extension": [{"url": BACKPORT + "backport-timeout", "valueUnsignedInt": 5}],
        },
    }  # fmt: skip
    wanted = read_subscription(valid(told), [endpoint])
    row = SubscriptionRow(
        "s1", "me", 0, "error", "the endpoint answered 410", wanted.body, 2, T0, T0
    )
    seen = valid(shown(row))
    assert seen["channel"]["header"] == ["Authorization: ***"] and seen["error"] == row.error
    # Read again, as a change of one's own subscription is, the hidden value is the one before.
    again = read_subscription(seen, [endpoint], held=row.body)
    assert again.body == wanted.body and again.timeout == 5
    flag, request = ({"resourceType": r["resourceType"], "id": "k1", **r}
                     for r in alarm_resources(note(1, 0)))  # fmt: skip
    event = Occurrence("k1", T0, ("Flag/k1", "CommunicationRequest/k1"), 7)
    for base in (None, "https://us.example/fhir"):
        bundle = notification(row, wanted, "event-notification", key="k", time=T0, total=7,
                              events=[(event, [flag, request])], base=base)  # fmt: skip
        assert bundle == notification(row, wanted, "event-notification", key="k", time=T0, total=7,
                                      events=[(event, [flag, request])], base=base)  # fmt: skip
        valid(bundle)
        assert len(bundle["entry"]) == (3 if content == "full-resource" else 1)
        assert ("Flag/k1" in json.dumps(bundle)) == (content != "empty")
        found = read_notification(bundle)
        # What we say we understand ourselves.
        assert found is not None and (found.kind, found.total, found.numbers) == (
            "event-notification", 7, (7,))  # fmt: skip
    valid(status_of(row, wanted, "query-status"))
