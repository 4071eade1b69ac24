"""An electronic record for the tests: a FHIR server with tokens, paging, bulk export and hooks."""

from __future__ import annotations

import json
import threading
import time
import uuid
import zlib
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from .waiting import until

CLIENT = "foretell-backend"


def instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )  # fmt: skip


def observation(
    name: str, patient: str, time: float, code: str = "8867-4", value: float = 80.0,
    unit: str = "/min", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "resourceType": "Observation", "id": name, "status": "final",
        "meta": {"lastUpdated": instant(time), "versionId": "1"},
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{patient}"}, "effectiveDateTime": instant(time),
        "issued": instant(time), "valueQuantity": {"value": value, "unit": unit}, **more,
    }  # fmt: skip


def encounter(name: str, patient: str, time: float) -> dict[str, Any]:
    return {
        "resourceType": "Encounter", "id": name, "status": "in-progress",
        "meta": {"lastUpdated": instant(time)}, "class": {"code": "IMP"},
        "subject": {"reference": f"Patient/{patient}"}, "period": {"start": instant(time)},
    }  # fmt: skip


def write_key(folder: Path, kind: str = "ES384", name: str = "client.pem") -> tuple[Path, dict]:
    """A private key in a file, and its public half as JWK."""
    key: Any
    if kind == "ES384":
        key = ec.generate_private_key(ec.SECP384R1())
        told = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        told = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    path = folder / name
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return path, {**told, "kid": "k1", "alg": kind}


class Ehr:
    """A server in a thread.

    Attributes:
        resources: type -> resources, as searches find them.
        jwks: public keys of the client; without any, no token is asked for.
        told: (method, path, headers, body) of what hooks were told, in order.
        hook_answers: statuses that the next calls of the hook are answered with.
        troubles: part of a path -> answers of the next requests: (status, Retry-After).
        asked: paths with queries, in order.
        counts: requests by path.
    """

    def __init__(self) -> None:
        self.resources: dict[str, list[dict]] = {}
        self.jwks: list[dict] = []
        self.told: list[tuple[str, str, dict, Any]] = []
        self.hook_answers: deque[int] = deque()
        self.troubles: dict[str, deque[tuple[int, str | None]]] = {}
        self.asked: list[str] = []
        self.counts: Counter[str] = Counter()
        self.page = 3
        self.lifetime = 300
        self.tokens: dict[str, float] = {}
        self.scopes: list[str] = []
        self.refused: list[str] = []
        self.used: set[str] = set()
        self.exports: dict[str, dict] = {}
        self.extra_lines: dict[str, list[str]] = {}
        self.cut: dict[str, int] = {}
        self.subscriptions: dict[str, dict] = {}
        self.busy_polls = 1
        self.discovery: dict[str, Any] = {}
        app = FastAPI()
        self._routes(app)
        self.server = uvicorn.Server(
            uvicorn.Config(
                app, port=0, log_level="error", lifespan="off", access_log=False, ws="none"
            )
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until(lambda: self.server.started or not self.thread.is_alive())
        assert self.server.started
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/r4"
        self.hook = f"{self.root}/hook"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)

    def bundles(self, kind: str | None = None) -> list[dict]:
        """Notifications that the hook has taken, by the type their status says."""
        found = [b for m, _, _, b in self.told if m == "POST" and isinstance(b, dict)]
        return [b for b in found if kind is None or status(b)["type"] == kind]

    def _trouble(self, request: Request) -> Response | None:
        path = request.url.path
        self.counts[path] += 1
        self.asked.append(f"{path}?{request.url.query}" if request.url.query else path)
        for part, queue in self.troubles.items():
            if part in path and queue:
                code, wait = queue.popleft()
                headers = {} if wait is None else {"Retry-After": wait}
                return Response(status_code=code, headers=headers)
        if self.jwks and not path.endswith("smart-configuration"):
            _, _, token = request.headers.get("authorization", "").partition(" ")
            if self.tokens.get(token, 0) < time.time():
                return Response(status_code=401)
        return None

    def _routes(self, app: FastAPI) -> None:
        @app.get("/r4/.well-known/smart-configuration")
        def discovery(request: Request) -> Response:
            self.counts["discovery"] += 1
            return JSONResponse({
                "token_endpoint": f"{self.root}/auth/token",
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
                "capabilities": ["client-confidential-asymmetric", "permission-v1"],
                **self.discovery,
            })  # fmt: skip

        @app.post("/auth/token")
        async def token(request: Request) -> Response:
            form = dict(await _form(request))
            self.counts["token"] += 1
            problem = self._assertion(form)
            if problem is not None:
                self.refused.append(problem)
                return JSONResponse({"error": "invalid_client"}, 400)
            made = uuid.uuid4().hex
            self.tokens[made] = time.time() + self.lifetime
            self.scopes.append(form["scope"])
            return JSONResponse({"access_token": made, "token_type": "bearer",
                                 "expires_in": self.lifetime, "scope": form["scope"]})  # fmt: skip

        @app.get("/r4/$export")
        def export(request: Request) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            if request.headers.get("prefer") != "respond-async":
                return Response(status_code=400)
            name = uuid.uuid4().hex[:8]
            types = request.query_params.get("_type", "").split(",")
            self.exports[name] = {"polls": self.busy_polls, "types": types}
            return Response(
                status_code=202, headers={"Content-Location": f"{self.root}/r4/bulk/{name}"}
            )

        @app.get("/r4/bulk/{name}")
        def progress(request: Request, name: str) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            held = self.exports.get(name)
            if held is None:
                return Response(status_code=404)
            if held["polls"] > 0:
                held["polls"] -= 1
                return Response(status_code=202, headers={"Retry-After": "0", "X-Progress": "half"})
            output = [{"type": t, "url": f"{self.root}/r4/files/{t}.ndjson",
                       "count": len(self.resources[t])}
                      for t in held["types"] if self.resources.get(t)]  # fmt: skip
            errors = f"{self.root}/r4/files/errors.ndjson"
            return JSONResponse({
                "transactionTime": instant(time.time()), "request": f"{self.url}/$export",
                "requiresAccessToken": True, "output": output,
                "error": [{"type": "OperationOutcome", "url": errors}],
            })  # fmt: skip

        @app.delete("/r4/bulk/{name}")
        def forget(request: Request, name: str) -> Response:
            self.exports.pop(name, None)
            return Response(status_code=202)

        @app.get("/r4/files/{kind}.ndjson")
        def file(request: Request, kind: str) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            lines = [json.dumps(r) for r in self.resources.get(kind, [])]
            lines += self.extra_lines.get(kind, [])
            text = "".join(f"{line}\n" for line in lines).encode()
            cut = self.cut.pop(kind, None)

            def parts():
                # In odd pieces, so that lines are torn.
                for i in range(0, len(text) if cut is None else cut, 997):
                    yield text[i : min(i + 997, len(text) if cut is None else cut)]
                if cut is not None:
                    raise ConnectionError("cut")

            return StreamingResponse(parts(), media_type="application/fhir+ndjson")

        @app.post("/r4/Subscription")
        async def subscribe(request: Request) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            told = await request.json()
            name = f"s{len(self.subscriptions) + 1}"
            self.subscriptions[name] = {**told, "id": name, "status": "active"}
            return JSONResponse(self.subscriptions[name], 201,
                                {"Location": f"{self.url}/Subscription/{name}"})  # fmt: skip

        @app.get("/r4/Subscription/{name}")
        def subscription(request: Request, name: str) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            held = self.subscriptions.get(name)
            return Response(status_code=404) if held is None else JSONResponse(held)

        @app.put("/r4/Subscription/{name}")
        async def resubscribe(request: Request, name: str) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            self.subscriptions[name] = {**(await request.json()), "status": "active"}
            return JSONResponse(self.subscriptions[name])

        @app.get("/r4/{kind}")
        def search(request: Request, kind: str) -> Response:
            bad = self._trouble(request)
            if bad is not None:
                return bad
            since = request.query_params.get("_lastUpdated", "ge")[2:]
            found = [r for r in self.resources.get(kind, []) if r["meta"]["lastUpdated"] >= since]
            if kind == "Subscription":
                url = request.query_params.get("url")
                found = [s for s in self.subscriptions.values() if s["channel"]["endpoint"] == url]
            begin = int(request.query_params.get("page", 0))
            some = found[begin : begin + self.page]
            link = []
            after = begin + self.page
            if after < len(found):
                url = f"{self.url}/{kind}?_lastUpdated=ge{since}&page={after}"
                link = [{"relation": "next", "url": url}]
            body = {"resourceType": "Bundle", "type": "searchset", "link": link,
                    "entry": [{"resource": r} for r in some]}  # fmt: skip
            tag = f'W/"{zlib.crc32(json.dumps(body).encode())}"'
            if request.headers.get("if-none-match") == tag:
                self.counts["304"] += 1
                return Response(status_code=304)
            return JSONResponse(body, headers={"ETag": tag})

        @app.post("/hook")
        @app.put("/hook/{kind}/{name}")
        async def hook(request: Request) -> Response:
            data = await request.body()
            code = self.hook_answers.popleft() if self.hook_answers else 200
            if 200 <= code < 300:
                body = json.loads(data) if data else None
                path = request.url.path.removeprefix("/hook")
                self.told.append((request.method, path, dict(request.headers), body))
            return Response(status_code=code)

    def _assertion(self, form: dict[str, str]) -> str | None:
        if form.get("grant_type") != "client_credentials":
            return "grant"
        if form.get("client_assertion_type") != (
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        ):
            return "assertion type"
        try:
            head = jwt.get_unverified_header(form["client_assertion"])
            key = next(k for k in self.jwks if k["kid"] == head.get("kid"))
            claims = jwt.decode(
                form["client_assertion"], jwt.PyJWK(key).key, algorithms=[key["alg"]],
                audience=f"{self.root}/auth/token", issuer=CLIENT,
                options={"require": ["iss", "sub", "aud", "exp", "jti"]},
            )  # fmt: skip
        except (jwt.PyJWTError, KeyError, StopIteration) as error:
            return type(error).__name__
        if claims["sub"] != CLIENT or claims["jti"] in self.used:
            return "claims"
        if claims["exp"] > time.time() + 300:
            return "lives too long"
        self.used.add(claims["jti"])
        return None


async def _form(request: Request) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl((await request.body()).decode())


def status(bundle: dict) -> dict[str, Any]:
    """The status of a notification, whatever the version in whose words it is."""
    first = bundle["entry"][0]["resource"]
    if first["resourceType"] == "SubscriptionStatus":
        numbers = [int(e["eventNumber"]) for e in first.get("notificationEvent", ())]
        return {"type": first["type"], "status": first["status"],
                "total": int(first["eventsSinceSubscriptionStart"]), "numbers": numbers,
                "focus": [e.get("focus") for e in first.get("notificationEvent", ())]}  # fmt: skip
    out: dict[str, Any] = {"numbers": [], "focus": []}
    for one in first["parameter"]:
        if one["name"] == "events-since-subscription-start":
            out["total"] = int(one["valueString"])
        elif one["name"] == "notification-event":
            parts = {p["name"]: p for p in one["part"]}
            out["numbers"].append(int(parts["event-number"]["valueString"]))
            out["focus"].append(parts.get("focus", {}).get("valueReference"))
        elif one["name"] in ("type", "status"):
            out[one["name"]] = one["valueCode"]
    return out
