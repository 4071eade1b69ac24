"""Receivers: webhooks with a signature, and HL7 v2 device data over MLLP."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.data.clinical.hl7.times import write_time
from foretell.errors import ParameterError
from foretell.serving.client_tls import client_tls
from foretell.serving.config import SinkConfig
from foretell.serving.outbox.dispatcher import PermanentError, Sink
from foretell.serving.resources import transaction
from foretell.serving.store.base import OutboxRow


def make_sink(config: SinkConfig, systems: Mapping[str, str] | None = None) -> Sink:
    """The receiver that a configuration describes.

    Args:
        config: of the receiver.
        systems: site -> system of its patients' identifiers, where it has one.
    """
    if config.kind == "webhook":
        return WebhookSink(config)
    if config.kind == "fhir":
        return FhirSink(config, systems)
    return MllpSink(config)


class _Base:
    name: str
    kinds: frozenset[str]
    attempts: int
    longest: float

    def __init__(self, config: SinkConfig) -> None:
        self.name, self.kinds = config.name, frozenset(config.kinds)
        self.attempts, self.longest = config.attempts, config.longest_pause_seconds
        self._config = config
        self._tls = None if config.tls is None else client_tls(
            config.tls, f"the sink {config.name!r}"
        )  # fmt: skip


class WebhookSink(_Base):
    """Posts a row as JSON.

    ``Idempotency-Key`` is the row's key. With a secret ``X-Foretell-Signature`` is
    ``t=SECONDS,v1=HMAC-SHA256(secret, "SECONDS." + body)``. Redirects are not followed. 4xx
    answers other than 408, 409, 425 and 429 are final; 409 means that it is known.
    """

    def __init__(self, config: SinkConfig) -> None:
        import httpx

        super().__init__(config)
        self._secret: bytes | None = None
        if config.secret_file is not None:
            try:
                self._secret = Path(config.secret_file).read_bytes().strip()
            except OSError as error:
                raise ParameterError(
                    f"secret_file of the sink {config.name!r} cannot be read: {error}"
                ) from None
        self._client = httpx.Client(
            timeout=config.timeout_seconds, follow_redirects=False, verify=self._tls or True
        )

    def send(self, row: OutboxRow) -> None:
        """See :class:`Sink`."""
        told: dict[str, Any] = {
            "key": row.key, "kind": row.kind, "site": row.site, "patient": row.patient,
            "time": row.time, **row.body,
        }  # fmt: skip
        body = json.dumps(told, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": row.key}
        if self._secret is not None:
            now = str(int(time.time()))
            mac = hmac.new(self._secret, now.encode() + b"." + body, hashlib.sha256).hexdigest()
            headers["X-Foretell-Signature"] = f"t={now},v1={mac}"
        assert self._config.url is not None
        answer = self._client.post(self._config.url, content=body, headers=headers)
        judged(answer.status_code)

    def close(self) -> None:
        """See :class:`Sink`."""
        self._client.close()


class FhirSink(_Base):
    """Posts a row as a transaction to a FHIR R4 server, created once under its identifiers."""

    def __init__(self, config: SinkConfig, systems: Mapping[str, str] | None = None) -> None:
        import httpx

        super().__init__(config)
        self._systems = systems or {}
        self._client = httpx.Client(
            timeout=config.timeout_seconds, follow_redirects=False, verify=self._tls or True
        )

    def send(self, row: OutboxRow) -> None:
        """See :class:`Sink`."""
        if row.kind == "action":
            return
        headers = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
        if self._config.token_file is not None:
            token = Path(self._config.token_file).read_text("utf-8").strip()
            headers["Authorization"] = f"Bearer {token}"
        assert self._config.url is not None
        told = transaction(row, self._systems.get(row.site))
        body = json.dumps(told, separators=(",", ":")).encode()
        judged(self._client.post(self._config.url, content=body, headers=headers).status_code)

    def close(self) -> None:
        """See :class:`Sink`."""
        self._client.close()


def judged(status: int) -> None:
    """Takes an answer's status for an acknowledgement, a final refusal, or neither."""
    if 200 <= status < 300 or status == 409:
        return
    if 300 <= status < 500 and status not in (408, 425, 429):
        raise PermanentError(f"answered {status}")
    raise OSError(f"answered {status}")


class MllpSink(_Base):
    """Sends a row as ORU^R01 device data and waits for its acknowledgement.

    MSH-10 is taken from the row's key, so that a repeat is known. AR is final; AE, a lost
    connection or no answer is not. Encrypted where the configuration has ``tls``.
    """

    def __init__(self, config: SinkConfig) -> None:
        super().__init__(config)
        self._socket: socket.socket | None = None

    def send(self, row: OutboxRow) -> None:
        """See :class:`Sink`."""
        content = device_message(row)
        try:
            if self._socket is None:
                assert self._config.host is not None and self._config.port is not None
                self._socket = socket.create_connection(
                    (self._config.host, self._config.port), self._config.timeout_seconds
                )
                if self._tls is not None:
                    self._socket = self._tls.wrap_socket(
                        self._socket, server_hostname=self._config.host
                    )
            self._socket.sendall(b"\x0b" + content + b"\x1c\r")
            answer = self._read(self._socket)
        except OSError:
            self.close()
            raise
        try:
            told = Message.from_bytes(answer)
        except Hl7Error:
            self.close()
            raise OSError("the answer is no acknowledgement") from None
        msa = told.get("MSA")
        code, control = told.part(msa, 1), told.part(msa, 2)
        if control and control != control_id(row):
            self.close()
            raise OSError("the answer belongs to another message")
        if code in ("AA", "CA"):
            return
        if code in ("AR", "CR"):
            raise PermanentError("answered AR")
        raise OSError("answered AE")

    def _read(self, connection: socket.socket) -> bytes:
        held = b""
        end = time.monotonic() + self._config.timeout_seconds
        while b"\x1c\r" not in held:
            if len(held) > 1 << 20 or time.monotonic() > end:
                raise OSError("no acknowledgement")
            part = connection.recv(65536)
            if not part:
                raise OSError("the connection was closed")
            held += part
        return held.partition(b"\x1c\r")[0].rpartition(b"\x0b")[2]

    def close(self) -> None:
        """See :class:`Sink`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def control_id(row: OutboxRow) -> str:
    """MSH-10 of a row: the same at every attempt, at most 20 characters."""
    return hashlib.sha256(row.key.encode()).hexdigest()[:20]


def device_message(row: OutboxRow) -> bytes:
    """A row as ORU^R01: score, status, model and what happened as OBX of a local system."""
    body = row.body
    moment = write_time(row.time)
    control = control_id(row)
    lines = [
        f"MSH|^~\\&|FORETELL|{_escaped(row.site)}|||{moment}||ORU^R01^ORU_R01|{control}|P|2.6"
        "||||||UNICODE UTF-8",
        f"PID|||{_escaped(row.patient)}",
        f"PV1||I|||||||||||||||||{_escaped(body.get('visit') or '')}",
        f"OBR|1||{control}|RISK^Sepsis risk^99FORETELL|||{moment}",
    ]
    final = "C" if row.kind == "correction" else "F"
    told = (
        ("NM", "SCORE", "Risk, fraction from 0 to 1", body.get("risk"), "1"),
        ("ST", "KIND", "What is told", row.kind, ""),
        ("ST", "STATUS", "Status of the score", body.get("status") or body.get("change"), ""),
        ("ST", "MODEL", "Model and version", body.get("model"), ""),
        ("ST", "ALARM", "Identifier of the alarm", body.get("alarm"), ""),
        ("ST", "TIER", "Tier of the alarm", body.get("tier"), ""),
    )
    kept = [t for t in told if t[3] is not None]
    for number, (kind, code, title, value, unit) in enumerate(kept, 1):
        text = format(value, ".6g") if isinstance(value, float) else _escaped(str(value))
        lines.append(
            f"OBX|{number}|{kind}|{code}^{title}^99FORETELL||{text}|{unit}|||||{final}|||{moment}"
        )
    return ("\r".join(lines) + "\r").encode()


def _escaped(text: str) -> str:
    out = text.replace("\\", "\\E\\")
    for mark, letter in (("|", "F"), ("^", "S"), ("&", "T"), ("~", "R")):
        out = out.replace(mark, f"\\{letter}\\")
    return "".join(c for c in out if c >= " ")
