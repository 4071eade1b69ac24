"""Calls of CDS Hooks, sound and damaged, answered by the service's application in this process."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from _grammar import CODES, T0, VALUES, Mutator, fhir_seeds
from cryptography.hazmat.primitives.asymmetric import ec

from foretell.data.clinical.hl7 import Message
from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.api.app import build_app
from foretell.serving.config import read_config
from foretell.serving.service import Service, make_fold
from foretell.serving.worker import Worker

CANARY = "canary7731"
"""A patient's identifier: what is refused must not repeat it."""

ISSUER, AUDIENCE = "https://ehr.example", "https://foretell.example/cds"
HOOKS = ("patient-view", "encounter-start", "order-select")
STATUSES = {200, 400, 401, 403, 404, 405, 412, 413, 415, 422, 429}
INDICATORS = {"info", "warning", "critical"}


def hook_seed(hook: str = "patient-view", patient: str = "P0", hours: int = 1) -> dict[str, Any]:
    """A valid call of a CDS Hooks service, with a prefetch that gives a score."""
    observations = []
    for k, code in enumerate(CODES[:6]):
        for hour in range(hours):
            observations.append({"resource": {
                "resourceType": "Observation", "id": f"{k}-{hour}", "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "subject": {"reference": f"Patient/{patient}"},
                "effectiveDateTime": f"2026-01-01T{10 + hour}:00:00Z",
                "valueQuantity": {"value": (130, 30, 85, 39.2, 88, 4.1)[k]},
            }})  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": observations}
    code = {"coding": [{"system": "http://loinc.org", "code": "2524-7"}]}
    order = {"resourceType": "ServiceRequest", "id": "d", "status": "draft", "code": code}
    return {
        "hook": hook, "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "fhirServer": "http://localhost/fhir",
        "fhirAuthorization": {"access_token": "t", "token_type": "Bearer", "expires_in": 300,
                              "scope": "patient/Observation.read", "subject": "cds"},
        "context": {
            "userId": "Practitioner/x", "patientId": patient, "encounterId": "V1",
            "selections": ["ServiceRequest/d"],
            "draftOrders": {"resourceType": "Bundle", "entry": [{"resource": order}]},
        },
        "prefetch": {"patient": fhir_seeds()[3], "observations": bundle},
    }  # fmt: skip


def feedback_seed() -> dict[str, Any]:
    """A valid report of what became of a card."""
    return {"feedback": [
        {"card": str(uuid.UUID(int=5)), "outcome": "overridden",
         "outcomeTimestamp": "2026-01-01T10:00:00Z",
         "overrideReason": {"reason": {"code": "not-now", "system": "urn:foretell:override"},
                            "userComment": "no"}},
        {"card": str(uuid.UUID(int=6)), "outcome": "accepted",
         "acceptedSuggestions": [{"id": str(uuid.UUID(int=7))}],
         "outcomeTimestamp": "2026-01-01T10:00:00Z"},
    ]}  # fmt: skip


class Calls:
    """Makes calls: (method, path, headers, body)."""

    def __init__(self, seed: int, key: ec.EllipticCurvePrivateKey, token: str) -> None:
        self.mutator = Mutator(seed)
        self.random: random.Random = self.mutator.random
        self._key, self._token = key, token
        self._seeds = [
            hook_seed(h, p, n) for h in HOOKS for p, n in (("P0", 1), (CANARY, 1), (CANARY, 3))
        ]

    def _jwt(self) -> str:
        r, now = self.random, time.time()
        claims: dict[str, Any] = {
            "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300,
            "jti": f"{r.getrandbits(64):x}",
        }  # fmt: skip
        header: dict[str, Any] = {"kid": "k1"}
        draw = r.random()
        if draw < 0.35:
            del claims[r.choice(list(claims))]
        elif draw < 0.6:
            claims[r.choice([*claims, "nbf", "sub"])] = r.choice(VALUES)
        elif draw < 0.7:
            header[r.choice(("kid", "jku", "x5u", "typ", "cty"))] = r.choice(VALUES)
        try:
            if draw > 0.97:
                return jwt.encode(claims, None, "none", header)
            if draw > 0.94:
                return jwt.encode(claims, "x" * 32, "HS256", header)
            text = jwt.encode(claims, self._key, "ES384", header)
        except (TypeError, ValueError, OverflowError, jwt.PyJWTError):
            # What cannot be signed is written by hand.
            parts = [json.dumps(p, default=str).encode() for p in ({"alg": "ES384"}, claims)]
            text = b".".join(base64.urlsafe_b64encode(p).rstrip(b"=") for p in parts).decode()
            text += ".AAAA"
        if r.random() < 0.2:
            at = r.randrange(len(text))
            text = text[:at] + r.choice(("", ".", "A", "%", "\xff", "é")) + text[at + 1 :]
        return text

    def _authorization(self) -> bytes | None:
        draw = self.random.random()
        if draw < 0.85:
            return b"Bearer " + self._token.encode()
        if draw < 0.97:
            return b"Bearer " + self._jwt().encode("latin-1", "replace")
        return self.random.choice((None, b"", b"Bearer", b"Bearer ", b"Basic QQ==", b"\xff\xfe",
                                   b"bearer " + b"." * 5000))  # fmt: skip

    def make(self) -> tuple[str, str, list[tuple[bytes, bytes]], bytes]:
        """A call."""
        r = self.random
        name = f"sepsis-risk-{r.choice(HOOKS)}"
        draw = r.random()
        method = "POST"
        if draw < 0.02:
            method, path, body = "GET", "/cds-services", b""
        elif draw < 0.2:
            seed = copy.deepcopy(feedback_seed())
            path = f"/cds-services/{name}/feedback"
            body = self.mutator.json(seed)
        else:
            seed = r.choice(self._seeds)
            if r.random() < 0.8:
                name = f"sepsis-risk-{seed['hook']}"
            if r.random() < 0.03:
                name = r.choice(("x", "..", "%2e%2e", "a" * 3000, "ä", "feedback", "\x00"))
            path, body = f"/cds-services/{name}", self.mutator.json(seed)
        if r.random() < 0.01:
            method = r.choice(("PUT", "GET", "DELETE", "HEAD", "PATCH", "BREW"))
        kind = b"application/json"
        if r.random() < 0.02:
            kind = r.choice((b"", b"text/plain", b"application/fhir+json", b"application/xml",
                             b"application/json; charset=utf-16", b"\xff"))  # fmt: skip
        headers = [(b"content-type", kind), (b"host", b"localhost")]
        authorization = self._authorization()
        if authorization is not None:
            headers.append((b"authorization", authorization))
        return method, path, headers, body


class Hooks:
    """The application with one patient whom it follows, and how it is called."""

    def __init__(self, folder: Path, seed: int) -> None:
        import hashlib

        key = ec.generate_private_key(ec.SECP384R1())
        told = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        (folder / "jwks.json").write_text(json.dumps({"keys": [{**told, "kid": "k1"}]}))
        file = folder / "hooks.toml"
        digest = hashlib.sha256(b"fuzz").hexdigest()
        file.write_text(
            f'[service]\nstore = "{folder / "hooks.db"}"\nclock = "external"\npartitions = 2\n'
            "[http]\nport = 0\nrequests_per_minute = 100000000\n"
            f'[[tokens]]\nname = "fuzz"\nsha256 = "{digest}"\nscopes = ["read"]\n'
            '[cds]\nboard = "https://board.example/board"\n'
            f'[[cds.clients]]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
            f'jwks_file = "{folder / "jwks.json"}"\nalgorithms = ["ES384"]\nsites = ["fhir"]\n'
        )
        config = read_config(file)
        self.service = Service(config, roles=("ingest",))
        self.app = build_app(self.service)
        self.calls = Calls(seed, key, "fuzz")
        self.outcomes: Counter[str] = Counter()
        results = [Result(c, v, "") for c, v in zip(CODES[:5], (130.0, 30.0, 85.0, 39.2, 88.0),
                                                     strict=True)]  # fmt: skip
        data = result_message("fhir", "P0", results, time=T0, control="1", visit="V1")
        store = self.service.store
        store.append([self.service.intake.hl7(Message.from_bytes(data), data, T0)])
        worker = Worker(store, make_fold(config), ttl=1e6)
        worker.keep_leases(now=True)
        while worker.work():
            pass

    async def _call(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, Any]] = []
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        messages = [{"type": "http.request", "body": p, "more_body": not k}
                    for k, p in enumerate(parts)]  # fmt: skip

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode("utf-8", "replace"),
            "query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.app(scope, receive, send)
        told = {k.decode("latin-1"): v.decode("latin-1") for k, v in sent[0]["headers"]}
        return sent[0]["status"], told, b"".join(m.get("body", b"") for m in sent[1:])

    async def run(
        self, count: int, patience: float, found: Callable[[str, bytes, str], None],
        error: Callable[[str, bytes, BaseException], None],
    ) -> float:  # fmt: skip
        """Makes calls; returns the seconds of the slowest.

        Args:
            count: of calls.
            patience: seconds after which a call hangs.
            found: told (kind, body, words) of an answer that is none.
            error: told (place, body, error) of what broke.
        """
        slowest = 0.0
        for _ in range(count):
            method, path, headers, body = self.calls.make()
            begun = time.perf_counter()
            task = asyncio.ensure_future(self._call(method, path, headers, body))
            done, _ = await asyncio.wait({task}, timeout=patience)
            if not done:
                found("hang", body, f"{method} {path}: longer than {patience} s")
                continue
            slowest = max(slowest, time.perf_counter() - begun)
            place = "feedback" if path.endswith("/feedback") else "hook"
            try:
                status, told, answer = task.result()
                problem = judged(method, path, status, told, answer)
                if problem:
                    found(f"{place}: {problem}", body, f"{method} {path} {status} {answer[:300]!r}")
                kind = f"{place} {status}"
                if status == 200 and place == "hook" and method == "POST":
                    kind += " with a card" if json.loads(answer)["cards"] else " without"
                self.outcomes[kind] += 1
            except Exception as problem:
                error(place, body, problem)
        return slowest


def judged(
    method: str, path: str, status: int, headers: dict[str, str], answer: bytes
) -> str | None:
    """What is wrong with an answer."""
    if status not in STATUSES:
        return f"status {status}"
    if method == "HEAD":
        return None
    if headers.get("content-type", "").partition(";")[0] != "application/json":
        return "no JSON is announced"
    value = json.loads(answer)
    if not isinstance(value, dict):
        return "the answer is no object"
    if status != 200:
        if "detail" not in value:
            return "a refusal says nothing"
        if CANARY.encode() in answer:
            return "a refusal names a patient"
        if status == 401 and headers.get("www-authenticate") != "Bearer":
            return "401 without WWW-Authenticate"
        return None
    if path == "/cds-services":
        return None if value.get("services") else "no services"
    if path.endswith("/feedback"):
        return None if value == {} else "feedback is answered with something"
    if set(value) != {"cards"}:
        return "no cards"
    for card in value["cards"]:
        if not (0 < len(card["summary"]) < 140 and card["indicator"] in INDICATORS):
            return "a card's summary or indicator"
        if not card["source"]["label"] or len(card["uuid"]) != 36:
            return "a card's source or uuid"
        for suggestion in card.get("suggestions", ()):
            for action in suggestion["actions"]:
                if action["resource"]["intent"] != "proposal":
                    return "a suggestion is no proposal"
    return None
