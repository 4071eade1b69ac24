"""What leaves the service: device data, dead letters; and what it fetches from FHIR servers."""

from __future__ import annotations

import http.server
import json
import socket
import threading

import pytest

from foretell.data.clinical.hl7 import Message
from foretell.serving.config import Config, PollConfig, SinkConfig
from foretell.serving.ingest import Committer, Intake
from foretell.serving.ingest.poller import FhirPoller, PollError
from foretell.serving.metrics import Metrics
from foretell.serving.outbox import Dispatcher, MllpSink, PermanentError
from foretell.serving.outbox.sinks import control_id, device_message
from foretell.serving.store import Effects, OutboxRow, open_store

BODY = {"alarm": "id", "visit": "V^1", "risk": 0.45, "status": "ok", "model": "m-1", "tier": "t"}


def row(key: str, patient: str = "P|1") -> OutboxRow:
    return OutboxRow("S", patient, 0, key, "alarm", 1_767_225_600.0, BODY)


def test_device_data_is_a_message_that_can_be_read():
    message = Message.from_bytes(device_message(row("k")))
    assert message.kind == ("ORU", "R01") and message.control_id == control_id(row("k"))
    assert message.part(message.get("PID"), 3) == "P|1"
    assert message.part(message.get("PV1"), 19) == "V^1"
    told = {message.part(f, 3): message.part(f, 5) for n, f in message.segments if n == "OBX"}
    assert told["SCORE"] == "0.45" and told["MODEL"] == "m-1" and told["ALARM"] == "id"


def receiver(codes: list[str]) -> tuple[int, list[str]]:
    """An MLLP receiver that answers with the codes in turn; ``""`` closes the connection."""
    server = socket.create_server(("127.0.0.1", 0))
    seen: list[str] = []

    def run() -> None:
        while codes:
            connection, _ = server.accept()
            held = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    break
                held += part
                while b"\x1c\r" in held:
                    content, _, held = held.partition(b"\x1c\r")
                    message = Message.from_bytes(content.lstrip(b"\x0b"))
                    seen.append(message.control_id)
                    code = codes.pop(0) if codes else "AA"
                    if not code:
                        break
                    answer = f"MSH|^~\\&|E|E|||1||ACK|1|P|2.5\rMSA|{code}|{message.control_id}\r"
                    connection.sendall(b"\x0b" + answer.encode() + b"\x1c\r")
                else:
                    continue
                break
            connection.close()

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()[1], seen


def test_device_data_is_sent_again_under_the_same_number_until_it_is_taken():
    port, seen = receiver(["", "AE", "AA", "AR", "AA"])
    sink = MllpSink(SinkConfig(name="x", kind="mllp", host="127.0.0.1", port=port,
                               timeout_seconds=180))  # fmt: skip
    for _ in range(2):
        with pytest.raises(OSError):
            sink.send(row("1"))
    sink.send(row("1"))
    with pytest.raises(PermanentError):
        sink.send(row("2"))
    sink.close()
    assert seen == [control_id(row(k)) for k in ("1", "1", "1", "2")]


class Picky:
    name, kinds, attempts, longest = "picky", frozenset({"alarm"}), 3, 0.0

    def __init__(self) -> None:
        self.got: list[str] = []

    def send(self, row: OutboxRow) -> None:
        if row.key.startswith("never"):
            raise PermanentError("answered 400")
        if row.key.startswith("down"):
            raise ConnectionError
        self.got.append(row.key)

    def close(self) -> None:
        pass


def test_dead_letters_are_said_and_do_not_block_others(store):
    lease = store.acquire("work", "a", 3600, 4)[0]
    rows = [row("never"), row("1"), row("down", "Q"), row("2", "Q")]
    store.commit(Effects({0: lease}, {0: 1}, outbox=rows))
    sink = Picky()
    sender = Dispatcher(store, [sink], ttl=3600, metrics=Metrics())
    sender.keep_leases()
    for _ in range(8):
        sender.once()
    assert sorted(sink.got) == ["1", "2"]
    assert {d["error"] for d in store.dead()} == {"picky: answered 400", "picky: ConnectionError"}
    assert store.counts()["outbox"] == 0


class FhirServer:
    """Pages of observations, busy at first."""

    def __init__(self) -> None:
        self.busy, self.asked = 1, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.busy:
                    outer.busy -= 1
                    self.send_response(429)
                    self.send_header("Retry-After", "7")
                    self.end_headers()
                    return
                page = 2 if "page=2" in self.path else 1
                entries = [
                    {"resource": {
                        "resourceType": "Observation", "id": f"o{page}{i}", "status": "final",
                        "meta": {"lastUpdated": f"2026-01-01T1{page}:00:00Z", "versionId": "1"},
                        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                        "subject": {"reference": "Patient/p"},
                        "effectiveDateTime": f"2026-01-01T10:{page}{i}:00Z",
                        "valueQuantity": {"value": 80, "unit": "/min"}}}
                    for i in range(3)
                ]  # fmt: skip
                link = [{"relation": "next", "url": outer.next}] if page == 1 else []
                body = {"resourceType": "Bundle", "type": "searchset", "entry": entries,
                        "link": link}  # fmt: skip
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *args) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/r4"
        self.next = "Observation?page=2"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_fhir_server_is_read_page_by_page_and_overlap_costs_nothing(tmp_path):
    server = FhirServer()
    store = open_store(tmp_path / "s.db", partitions=2)
    config = Config(sites={"A": {}})
    committer = Committer(store)
    poll = PollConfig(site="A", url=server.url)
    poller = FhirPoller(poll, Intake(config), committer, store, Metrics(), lambda: 1.7672e9)
    with pytest.raises(PollError) as caught:
        poller.once("Observation")
    assert caught.value.pause == 7.0 and store.head() == 0
    assert poller.once("Observation") == 6
    assert store.head() == 6 and "_count=200" in server.asked[1]
    assert poller.once("Observation") == 6
    assert store.head() == 6
    # The second round began at the last one's newest resource, less the overlap.
    assert "2026-01-01T11%3A55%3A00Z" in server.asked[3]
    server.next = "http://elsewhere.test/Observation?page=2"
    with pytest.raises(PollError, match="another server"):
        poller.once("Observation")
    committer.close()
