"""Plays feeds to a running service, as a hospital's interface engine would."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError
from foretell.serving.errors import ServingError


class MllpClient:
    """Sends HL7 v2 messages and waits for their answers; several may be on their way.

    Args:
        host: of the door.
        port: of the door.
        window: messages on their way at most.
        timeout: seconds to wait for an answer.
        tls: of the client, None for plain connections.
    """

    def __init__(
        self, host: str, port: int, *, window: int = 32, timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        connection = socket.create_connection((host, port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = connection
        if tls is not None:
            self._socket = tls.wrap_socket(connection, server_hostname=host)
        self._window = window
        self._waiting: deque[object] = deque()
        self._held = b""

    def __enter__(self) -> MllpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def send(self, content: bytes, name: object = None) -> list[tuple[object, str]]:
        """Sends a message; returns (name, code) of the answers that came meanwhile.

        Raises:
            OSError: the connection is lost; what was not answered has to be sent again.
        """
        out = []
        while len(self._waiting) >= self._window:
            out.append(self._answer())
        self._socket.sendall(b"\x0b" + content + b"\x1c\r")
        self._waiting.append(name)
        return out

    def flush(self) -> list[tuple[object, str]]:
        """Waits for all answers."""
        out = []
        while self._waiting:
            out.append(self._answer())
        return out

    def _answer(self) -> tuple[object, str]:
        while b"\x1c\r" not in self._held:
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionResetError("the service closed the connection")
            self._held += part
        content, _, self._held = self._held.partition(b"\x1c\r")
        try:
            message = Message.from_bytes(content.lstrip(b"\x0b"))
        except Hl7Error as error:
            raise ServingError(f"the answer is no message: {error}") from None
        return self._waiting.popleft(), message.part(message.get("MSA"), 1)


class FeedClient(Protocol):
    """Sends messages and tells of their answers."""

    def send(self, content: bytes, name: object = None) -> Sequence[tuple[object, str]]:
        """Sends one; returns (name, code) of the answers that came meanwhile."""

    def flush(self) -> Sequence[tuple[object, str]]:
        """Waits for all answers."""


class FhirClient:
    """Posts FHIR bundles; ``"AA"`` stands for an answer of 200.

    Args:
        address: of the HTTP face.
        token: with the scope ``ingest``.
        site: whose patients they are.
        patience: seconds for which a busy service is asked again.
    """

    def __init__(self, address: str, token: str, site: str, *, patience: float = 60.0) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        self._client = httpx.Client(base_url=address, headers=headers, timeout=30)
        self._site, self._patience = site, patience

    def __enter__(self) -> FhirClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, content: bytes, name: object = None) -> list[tuple[object, str]]:
        """Posts a bundle and waits for the answer.

        Raises:
            OSError: the service cannot be reached.
        """
        import httpx

        end = time.monotonic() + self._patience
        while True:
            try:
                answer = self._client.post("/fhir", params={"site": self._site}, content=content)
            except httpx.TransportError as error:
                raise ConnectionError(type(error).__name__) from None
            busy = answer.status_code in (429, 503)
            if not busy or time.monotonic() > end:
                return [(name, "AA" if answer.status_code == 200 else str(answer.status_code))]
            time.sleep(0.2)

    def flush(self) -> list[tuple[object, str]]:
        """Nothing is on its way."""
        return []


def feed_of(
    stays: Stays, *, form: str = "hl7", begin: float = 1_767_225_600.0, spread: float = 0.0,
    site: str = "SIM",
) -> list[tuple[float, bytes]]:  # fmt: skip
    """(time, message) of stays, interleaved in time.

    Args:
        stays: that are played.
        form: ``"hl7"`` or ``"fhir"``.
        begin: when the first stay begins.
        spread: hours over which the stays begin, evenly.
        site: MSH-4 of HL7 messages.
    """
    from foretell.data.clinical.fhir.writer import bundles_of
    from foretell.data.clinical.hl7.writer import messages_of

    feed: list[tuple[float, bytes]] = []
    for i in range(len(stays)):
        one = stays.select([i])
        start = begin + 3600.0 * spread * i / max(len(stays), 1)
        if form == "hl7":
            feed.extend(messages_of(one, begin=start, facility=site, name=f"{i}."))
        else:
            for moment, bundle in bundles_of(one, begin=start, name=f"{i}."):
                feed.append((moment, json.dumps(bundle).encode()))
    feed.sort(key=lambda m: m[0])
    return feed


def clock_of(address: str, token: str) -> Callable[[float], None]:
    """Tells a service what time it is.

    Raises:
        ParameterError: by what it returns: the service has a clock of its own, or refuses.
    """
    import httpx

    client = httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60
    )

    def tick(moment: float) -> None:
        try:
            answer = client.post("/v1/clock", json={"time": moment})
        except httpx.TransportError as error:
            raise ConnectionError(type(error).__name__) from None
        if answer.status_code == 409:
            raise ParameterError('the service has a clock of its own: set clock = "external"')
        if answer.status_code != 200:
            raise ParameterError(
                f"the service does not take the time: {answer.status_code}; "
                "the token needs the scope admin"
            )

    return tick


def play(
    messages: Iterable[tuple[float, bytes]],
    client: FeedClient,
    *,
    speed: float | None = 60.0,
    tick: Callable[[float], None] | None = None,
    every: float = 600.0,
    told: Callable[[object, str], None] | None = None,
) -> int:
    """Plays (time, message) pairs in their order; returns how many were taken.

    Args:
        messages: ascending in time.
        client: of the service.
        speed: seconds of the feed a second; None for as fast as the service takes them.
        tick: told the feed's time every ``every`` seconds of it, for services with an external
            clock; what was sent before is durable by then.
        every: see ``tick``.
        told: told of each answer.
    """
    begun = time.monotonic()
    first: float | None = None
    ticked = -1e300
    count = 0

    def settle(answers: Sequence[tuple[object, str]]) -> None:
        nonlocal count
        for name, code in answers:
            count += code in ("AA", "CA")
            if told is not None:
                told(name, code)

    last = -1e300
    for moment, content in messages:
        # What becomes known at a moment is sent before that moment is over.
        if tick is not None and first is not None and moment > last >= ticked + every:
            settle(client.flush())
            ticked = last
            tick(last)
        first, last = moment if first is None else first, moment
        if speed is not None:
            pause = (last - first) / speed - (time.monotonic() - begun)
            if pause > 0:
                settle(client.flush())
                time.sleep(pause)
        settle(client.send(content, last))
    settle(client.flush())
    if tick is not None and first is not None:
        tick(last)
    return count
