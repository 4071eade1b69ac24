"""Bodies that are too large, at every door of a running service."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.responses import Response

from foretell.serving.api.bounds import BodyBound
from foretell.serving.metrics import Metrics

from .test_api import SCOPES, as_, observation, token_table

MOST = 4096
DOORS = (
    ("POST", "/fhir"), ("POST", "/fhir/Observation"), ("PUT", "/fhir/Observation/o"),
    ("POST", "/fhir/Subscription"), ("POST", "/v1/events"),
    ("POST", "/cds-services/sepsis-risk-patient-view"),
    ("POST", "/cds-services/sepsis-risk-patient-view/feedback"), ("POST", "/v1/clock"),
    ("POST", "/v1/patients/A/p1/actions"), ("PUT", "/v1/model"), ("POST", "/v1/model/rollback"),
    ("POST", "/v1/quarantine/retry"), ("POST", "/v1/break-glass"),
)  # fmt: skip


@pytest.fixture
def client(tmp_path, launch):
    config = tmp_path / "c.toml"
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\nclock = "external"\n'
        f"[mllp]\nport = 0\n[http]\nport = 0\nmax_bytes = {MOST}\n[sites.A]\n"
        + token_table("all", [*SCOPES, "subscribe"])
    )
    service = launch(config).wait()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{service.ports['http']}", timeout=180, headers=as_("all")
    ) as held:
        yield held


def refusal(path: str, told: dict) -> str:
    """The words of a refusal in the shape of its door."""
    if path.startswith("/fhir"):
        assert told["resourceType"] == "OperationOutcome"
        (issue,) = told["issue"]
        assert issue["code"] == "too-costly" and issue["severity"] == "error"
        return issue["diagnostics"]
    assert set(told) == {"detail"}
    return told["detail"]


def in_chunks(size: int, count: int):
    """A body that says no length."""
    for _ in range(count):
        yield b" " * size


def test_every_door_refuses_what_is_too_large(client):
    described = client.get("/openapi.json").json()["paths"]
    for method, path in DOORS:
        whole = client.request(method, path, content=b'{"a": "' + b"x" * MOST + b'"}')
        assert whole.status_code == 413, path
        assert "4,096 bytes" in refusal(path, whole.json())
        chunked = client.request(method, path, content=in_chunks(1024, 5))
        assert chunked.status_code == 413, path
        assert refusal(path, chunked.json()) == refusal(path, whole.json())
        assert whole.headers["cache-control"] == "no-store"
    for path, operations in described.items():
        for name, operation in operations.items():
            assert ("413" in operation["responses"]) == ("requestBody" in operation), (name, path)
    page = client.get("/metrics").text
    for door, count in (("fhir", 8), ("json", 2)):
        line = f'foretell_messages_total{{door="{door}",outcome="too_large",type=""}} {count}.0'
        assert line in page, line
    # What fits is taken as before, and nothing was kept of the rest.
    assert 'foretell_items_total{outcome="new"}' not in page
    send = {"params": {"site": "A"}, "headers": {"Content-Type": "application/fhir+json"}}
    fits = json.dumps(observation("o", 80.0)).encode()
    assert client.post("/fhir", content=fits.ljust(MOST), **send).status_code == 200
    assert client.post("/fhir", content=iter([fits, b" " * 900]), **send).status_code == 200


def test_a_body_is_refused_before_it_is_read(client):
    # A length alone, of which not a byte follows: whoever waited for it would not answer.
    host, port = client.base_url.host, client.base_url.port
    for path in ("/fhir", "/v1/events"):
        with socket.create_connection((host, port), timeout=180) as door:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n"
            door.sendall(head.encode())
            assert door.recv(4096).startswith(b"HTTP/1.1 413 ")
    # Chunks without end, on another connection, and the service goes on.
    with socket.create_connection((host, port), timeout=180) as door:
        head = f"POST /v1/clock HTTP/1.1\r\nHost: x\r\nAuthorization: {as_('all')['Authorization']}"
        door.sendall(f"{head}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(5):
            door.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert door.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert client.get("/healthz").status_code == 200


def test_a_body_counts_once_however_often_it_is_asked_for():
    metrics, refusals = Metrics(), []

    async def application(scope, receive, send):
        for _ in range(4):
            try:
                await receive()
            except HTTPException as error:
                refusals.append(error.status_code)

    async def chunk():
        return {"type": "http.request", "body": b" " * 6, "more_body": True}

    async def send(message):
        raise AssertionError("nobody answers here")

    door = BodyBound(application, 10, lambda *_: Response(), metrics)
    asyncio.run(door({"type": "http", "path": "/v1/events", "headers": []}, chunk, send))
    assert refusals == [413, 413, 413]
    assert metrics.messages.labels("json", "", "too_large")._value.get() == 1
