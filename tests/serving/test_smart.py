"""A service proves to a FHIR server who it is, subscribes there, and notices what it misses."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("jwt")

import jwt

from foretell.errors import ParameterError
from foretell.serving.config import PollConfig, SmartConfig, read_config
from foretell.serving.ingest.client import FhirClient
from foretell.serving.ingest.errors import PollError, retry_after
from foretell.serving.ingest.smart import BackendToken, read_key, safe_endpoint

from .conftest import Running
from .ehr import CLIENT, Ehr, encounter, observation, write_key
from .waiting import until

TOPIC = "http://ehr.example/SubscriptionTopic/results"


@pytest.fixture
def ehr() -> Iterator[Ehr]:
    held = Ehr()
    yield held
    held.close()


def client_of(ehr: Ehr, folder: Path, kind: str = "ES384", **more) -> FhirClient:
    key, public = write_key(folder, kind)
    ehr.jwks = [public]
    smart = SmartConfig(client_id=CLIENT, key_file=str(key), key_id="k1", algorithm=kind, **more)
    return FhirClient(PollConfig(site="west", url=ehr.url, smart=smart))


@pytest.mark.parametrize("kind", ["ES384", "RS384"])
def test_a_token_is_asked_for_once_and_again_when_it_is_refused(ehr, tmp_path, kind):
    client = client_of(ehr, tmp_path, kind, scope="system/Observation.read")
    address = client.address("Observation")
    for _ in range(5):
        assert client.ask(address).status_code == 200
    assert (ehr.counts["token"], ehr.counts["discovery"]) == (1, 1)
    assert ehr.scopes == ["system/Observation.read"]
    # The server has forgotten it before its time: one more, and nobody notices.
    ehr.tokens.clear()
    assert client.ask(address).status_code == 200
    assert (ehr.counts["token"], ehr.counts["discovery"]) == (2, 1)
    # What is refused again is not asked for ever.
    ehr.lifetime = -5
    ehr.tokens.clear()
    assert client.ask(address).status_code == 401
    assert ehr.counts["token"] == 3
    ehr.lifetime = 300
    assert client.ask(address).status_code == 200
    seen = ehr.counts["token"]
    assert ehr.refused == []
    # Nobody but the server sees it.
    assert client.ask(f"{ehr.root}/r4/Patient").status_code == 200
    client.ask(ehr.url.replace("127.0.0.1", "localhost") + "/Encounter")
    assert ehr.counts["token"] == seen and "/r4/Encounter" in ehr.asked
    client.close()


def test_a_token_is_renewed_shortly_before_it_ends(ehr, tmp_path):
    key, public = write_key(tmp_path)
    ehr.jwks, ehr.lifetime = [public], 50
    smart = SmartConfig(client_id=CLIENT, key_file=str(key), key_id="k1")
    # A clock that is behind: what it signs is good at any time of this test.
    begun = time.time() - 60
    now = [begun]
    with httpx.Client(timeout=180) as http:
        held = BackendToken(smart, ehr.url, http, clock=lambda: now[0])
        first = held.token()
        now[0] = begun + 39
        assert held.token() == first and ehr.counts["token"] == 1
        now[0] = begun + 41
        assert held.token() != first and ehr.counts["token"] == 2
    assert ehr.refused == []


def test_a_key_that_is_not_ours_gets_nothing(ehr, tmp_path):
    client = client_of(ehr, tmp_path)
    _, ehr.jwks[0] = write_key(tmp_path, name="other.pem")
    with pytest.raises(PollError, match="invalid_client"):
        client.ask(client.address("Observation"))
    assert ehr.refused == ["InvalidSignatureError"]
    # A new key in the file is taken without a restart.
    _, ehr.jwks[0] = write_key(tmp_path)
    assert client.ask(client.address("Observation")).status_code == 200
    client.close()


def test_what_a_server_says_of_itself_is_heeded(ehr, tmp_path):
    for changed, problem in (
        ({"token_endpoint_auth_methods_supported": ["client_secret_basic"]}, "signed assertions"),
        ({"token_endpoint_auth_signing_alg_values_supported": ["RS384"]}, "ES384"),
        ({"token_endpoint": None}, "names no token endpoint"),
        ({"token_endpoint": "ftp://elsewhere/token"}, "no safe address"),
        ({"token_endpoint": "http://user@127.0.0.1/token"}, "no safe address"),
    ):
        ehr.discovery = changed
        client = client_of(ehr, tmp_path)
        with pytest.raises(PollError, match=problem):
            client.ask(client.address("Observation"))
        client.close()
    assert ehr.counts["token"] == 0
    # From https the way never leads to http; the other way it may.
    assert not safe_endpoint("http://ehr.example/token", "https://ehr.example/r4")
    assert safe_endpoint("https://login.example/token", "https://ehr.example/r4")
    assert safe_endpoint("https://ehr.example/token", "http://ehr.example/r4")


def test_keys_that_do_not_fit_are_refused_at_the_start(tmp_path):
    rsa, _ = write_key(tmp_path, "RS384", "rsa.pem")
    held, public = write_key(tmp_path)
    with pytest.raises(ParameterError, match="P-384"):
        read_key(SmartConfig(client_id="c", key_file=str(rsa)))
    with pytest.raises(ParameterError, match="RSA"):
        read_key(SmartConfig(client_id="c", key_file=str(held), algorithm="RS384"))
    (tmp_path / "public.json").write_text(json.dumps(public))
    with pytest.raises(ParameterError, match="private key"):
        read_key(SmartConfig(client_id="c", key_file=str(tmp_path / "public.json")))
    with pytest.raises(ParameterError, match="FileNotFoundError"):
        read_key(SmartConfig(client_id="c", key_file=str(tmp_path / "none.pem")))
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(held.read_bytes(), None)
    told = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**told, "kid": "a"}]}))
    assert read_key(SmartConfig(client_id="c", key_file=str(tmp_path / "keys.json")))[1] == "a"
    with pytest.raises(ParameterError, match="not both"):
        read_config({"sites": {"a": {}}, "polls": [{
            "site": "a", "url": "https://e", "token_file": "t",
            "smart": {"client_id": "c", "key_file": "k"}}]})  # fmt: skip


def test_pauses_are_numbers_or_dates():
    assert retry_after({"Retry-After": "7"}) == 7.0 and retry_after({}) is None
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"Retry-After": "9" * 30}) == 3600.0


CONFIG = """
[service]
store = "{folder}/s.db"
partitions = 2
clock = "external"
tick_seconds = 0.5
[mllp]
port = 0
[http]
port = 0
[[tokens]]
name = "ehr"
sha256 = "{token}"
scopes = ["ingest"]
[[tokens]]
name = "us"
sha256 = "{ours}"
scopes = ["read", "admin"]
[sites.west]
[[polls]]
site = "west"
url = "{url}"
every_seconds = 600
resources = ["Encounter", "Observation"]
smart = {{ client_id = "{client}", key_file = "{folder}/client.pem", key_id = "k1" }}
subscribe = {{ criteria = "{topic}", endpoint = "https://us.example/fhir", \
heartbeat_seconds = 1, token_file = "{folder}/hook.token" }}
"""


def told(kind: str, total: int, numbers=(), resources=(), version: str = "r4") -> dict:
    """A notification as a server writes it."""
    name = {"reference": "https://ehr.example/r4/Subscription/s1"}
    if version == "r4":
        parameters = [
            {"name": "subscription", "valueReference": name},
            {"name": "topic", "valueCanonical": TOPIC},
            {"name": "status", "valueCode": "active"}, {"name": "type", "valueCode": kind},
            {"name": "events-since-subscription-start", "valueString": str(total)},
            *({"name": "notification-event", "part": [
                {"name": "event-number", "valueString": str(n)},
                {"name": "timestamp", "valueInstant": "2026-01-01T00:00:00Z"}]} for n in numbers),
        ]  # fmt: skip
        status = {"resourceType": "Parameters", "parameter": parameters}
    else:
        status = {"resourceType": "SubscriptionStatus", "status": "active", "type": kind,
                  "eventsSinceSubscriptionStart": str(total), "subscription": name,
                  "notificationEvent": [{"eventNumber": str(n)} for n in numbers]}  # fmt: skip
    entries = [{"resource": status}, *({"resource": r} for r in resources)]
    kind_of = "history" if version == "r4" else "subscription-notification"
    return {"resourceType": "Bundle", "type": kind_of, "entry": entries}


def test_a_subscription_is_made_and_what_goes_missing_is_fetched(nursery, tmp_path, ehr):
    _, public = write_key(tmp_path)
    ehr.jwks = [public]
    begin = time.time() - 5000
    ehr.resources = {"Encounter": [encounter("v1", "p1", begin)], "Observation": []}
    # Busy at first: the service comes again when it was told to.
    from collections import deque

    ehr.troubles = {"/r4/Subscription": deque([(503, "0")]),
                    "/r4/Encounter": deque([(429, "0")])}  # fmt: skip
    token = "token-of-the-hook"
    (tmp_path / "hook.token").write_text(token)
    config = tmp_path / "c.toml"
    config.write_text(CONFIG.format(
        folder=tmp_path, url=ehr.url, client=CLIENT, topic=TOPIC,
        token=hashlib.sha256(token.encode()).hexdigest(), ours=hashlib.sha256(b"us").hexdigest(),
    ))  # fmt: skip
    running = Running(nursery, config, "ingest,worker,dispatcher", tmp_path, None)
    try:
        running.wait()
        url = f"http://127.0.0.1:{running.ports['http']}"

        def ask(path: str) -> httpx.Response:
            return httpx.get(url + path, headers={"Authorization": "Bearer us"}, timeout=180)

        def say(*args, **more) -> httpx.Response:
            name, _, value = ehr.subscriptions["s1"]["channel"]["header"][0].partition(": ")
            body = told(*args, **more)
            return httpx.post(f"{url}/fhir", json=body, timeout=180, headers={name: value})

        def count(name: str) -> float:
            lines = ask("/metrics").text.splitlines()
            return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith(name))

        until(lambda: ehr.subscriptions)
        made = ehr.subscriptions["s1"]
        assert (
            made["criteria"] == TOPIC and made["channel"]["endpoint"] == "https://us.example/fhir"
        )
        assert made["channel"]["header"] == [f"Authorization: Bearer {token}"]
        until(lambda: ehr.counts["/r4/Observation"] >= 1)
        until(lambda: ask("/v1/patients").json()["patients"])

        assert say("handshake", 0).status_code == 200
        one = observation("o1", "p1", begin + 60)
        assert say("event-notification", 1, [1], [one]).status_code == 200
        # The same again is nothing new; the next in the words of R5.
        assert "known already" in say("event-notification", 1, [1], [one]).text
        two = observation("o2", "p1", begin + 120)
        assert "1 new" in say("event-notification", 2, [2], [two], version="r5").text
        assert count("foretell_notifications_missed_total") == 0
        rounds = ehr.counts["/r4/Observation"]

        # Two events never came: the server is asked at once, and all of it is there.
        ehr.resources["Observation"] = [
            observation(f"m{k}", "p1", begin + 180 + k) for k in range(5)
        ]
        three = observation("o5", "p1", begin + 200)
        assert say("event-notification", 5, [5], [three]).status_code == 200
        assert count("foretell_notifications_missed_total") == 2
        until(lambda: ehr.counts["/r4/Observation"] >= rounds + 2)
        results = lambda: ask("/v1/patients").json()["patients"][0]["results"]  # noqa: E731
        until(lambda: results() == 8)
        notes = ask("/v1/quarantine").json()["quarantine"]
        assert [(n["reason"], n["code"]) for n in notes] == [("notification_gap", "3-4")]
        # A heartbeat tells of what was lost at the end, and of silence the poller hears itself.
        rounds = ehr.counts["/r4/Observation"]
        assert say("heartbeat", 7).status_code == 200
        assert count("foretell_notifications_missed_total") == 4
        until(lambda: ehr.counts["/r4/Observation"] > rounds)
        until(lambda: count("foretell_subscription_silences_total") >= 1)
        # An event that names its resource only is fetched, too.
        rounds = ehr.counts["/r4/Observation"]
        assert say("event-notification", 8, [8]).status_code == 200
        until(lambda: ehr.counts["/r4/Observation"] > rounds)
        assert count("foretell_notifications_missed_total") == 4
        assert say("surprise", 9).status_code == 400
        # A hook of R4 that says nothing at all is understood. A page that has not changed since
        # is not sent again.
        rounds = ehr.counts["/r4/Observation"]
        head = {"Authorization": f"Bearer {token}"}
        assert httpx.post(f"{url}/fhir", headers=head, timeout=180).status_code == 200
        until(lambda: ehr.counts["/r4/Observation"] > rounds)
        until(lambda: ehr.counts["304"] >= 1)
        # A process that comes back finds its subscription and makes no second one.
        running.kill()
        ehr.subscriptions["s1"]["status"] = "error"
        running = Running(nursery, config, "ingest,worker,dispatcher", tmp_path, None)
        running.wait()
        until(lambda: ehr.subscriptions["s1"]["status"] == "active")
        assert list(ehr.subscriptions) == ["s1"]
        text = running.text()
        assert token not in text and "p1" not in text
    finally:
        running.kill()
