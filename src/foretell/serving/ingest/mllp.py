"""MLLP on asyncio: frames however the network cuts them, answers in the order of the messages."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator

from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.serving.client_tls import show, unusable
from foretell.serving.config import MllpConfig, TlsConfig
from foretell.serving.errors import StoreUnavailableError
from foretell.serving.ingest.acknowledge import acknowledgements, refusal
from foretell.serving.ingest.committer import BusyError, Committer
from foretell.serving.ingest.intake import Intake
from foretell.serving.metrics import Metrics

log = logging.getLogger("foretell.serving.mllp")
START, END, CR = 0x0B, 0x1C, 0x0D
_IN_FLIGHT = 64


class FrameTooLargeError(Exception):
    """A frame exceeds the limit; its connection cannot go on."""


class Framer:
    """Cuts a stream of bytes into the contents of frames (0x0B ... 0x1C 0x0D).

    Args:
        most: bytes of a frame's content.

    Attributes:
        noise: bytes that were in no frame.
        truncated: frames that another one began within.
    """

    def __init__(self, most: int = 1 << 20) -> None:
        self._most = most
        self._held = bytearray()
        self._inside = False
        self._searched = 0
        self.noise = self.truncated = 0

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._inside

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The contents of the frames that these bytes complete.

        Raises:
            FrameTooLargeError: a frame is too large.
        """
        self._held += data
        while True:
            if not self._inside:
                start = self._held.find(START)
                if start < 0:
                    self.noise += len(self._held)
                    self._held.clear()
                    return
                self.noise += start
                del self._held[: start + 1]
                self._inside, self._searched = True, 0
            end = self._held.find(b"\x1c\r", self._searched)
            again = self._held.find(START, 0, end if end >= 0 else len(self._held))
            if again >= 0:
                # A new frame within one: the first was cut off by its sender.
                again = self._held.rfind(START, 0, end if end >= 0 else len(self._held))
                self.truncated += 1
                del self._held[: again + 1]
                self._searched = 0
                continue
            if end < 0:
                if len(self._held) > self._most:
                    raise FrameTooLargeError
                self._searched = max(len(self._held) - 1, 0)
                return
            if end > self._most:
                raise FrameTooLargeError
            content = bytes(self._held[:end])
            del self._held[: end + 2]
            self._inside = False
            yield content


def frame(content: bytes) -> bytes:
    """A message in its frame."""
    return b"\x0b" + content + b"\x1c\r"


def server_tls(config: TlsConfig, what: str) -> ssl.SSLContext:
    """A server's side of TLS 1.2 or newer; with a ``client_ca`` clients must show a certificate.

    Args:
        config: the certificate that is shown, and the authority of clients.
        what: which door it is, for errors.

    Raises:
        ParameterError: a file cannot be read, a key is encrypted, or does not fit its certificate.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        show(context, config.certificate, config.key, what)
        if config.client_ca is not None:
            context.load_verify_locations(config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise unusable(error, what) from None
    return context


class MllpServer:
    """Takes HL7 v2 messages.

    Each is parsed, made durable by the committer and only then acknowledged. Several may be on
    their way on one connection; when too many are, its bytes stay in the network.

    Args:
        config: of the door.
        intake: reads messages.
        committer: makes them durable.
        metrics: counts.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        config: MllpConfig,
        intake: Intake,
        committer: Committer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._intake, self._committer = config, intake, committer
        self._metrics, self._clock = metrics, clock
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()
        self._stopping = asyncio.Event()

    async def start(self) -> int:
        """Listens; returns the port."""
        config = self._config
        context = server_tls(config.tls, "mllp") if config.tls is not None else None
        self._server = await asyncio.start_server(
            self._serve, config.host, config.port, ssl=context, limit=1 << 18, backlog=256
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, patience: float = 10.0) -> None:
        """Accepts nothing more, answers what is on its way, and closes."""
        self._stopping.set()
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in list(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= self._config.connections or self._stopping.is_set():
            writer.close()
            return
        self._tasks.add(task)
        self._metrics.connections.set(len(self._tasks))
        pending: asyncio.Queue[Awaitable[list[bytes]] | None] = asyncio.Queue(_IN_FLIGHT)
        answers = asyncio.create_task(self._answer(pending, writer))
        try:
            await self._read(reader, pending)
        except (ConnectionError, TimeoutError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            try:
                await asyncio.wait_for(pending.put(None), 30)
                await asyncio.wait_for(answers, 30)
            except (TimeoutError, ConnectionError, asyncio.CancelledError):
                answers.cancel()
            writer.close()
            self._tasks.discard(task)
            self._metrics.connections.set(len(self._tasks))

    async def _read(
        self,
        reader: asyncio.StreamReader,
        pending: asyncio.Queue[Awaitable[list[bytes]] | None],
    ) -> None:
        framer = Framer(self._config.max_bytes)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                while self._committer.busy and not self._stopping.is_set():
                    await asyncio.sleep(0.01)
                reading = asyncio.create_task(reader.read(1 << 16))
                limit = self._config.frame_seconds if framer.partial else None
                done, _ = await asyncio.wait(
                    {reading, stopping}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
                )
                if reading not in done:
                    reading.cancel()
                    if not done:
                        self._metrics.messages.labels("mllp", "", "slow").inc()
                    return
                data = reading.result()
                if not data:
                    if framer.partial:
                        self._metrics.messages.labels("mllp", "", "truncated").inc()
                    return
                try:
                    for content in framer.feed(data):
                        await pending.put(self._take(content))
                except FrameTooLargeError:
                    self._metrics.messages.labels("mllp", "", "too_large").inc()
                    error = Hl7Error("the message is too large", code=207, reject=True)
                    await pending.put(_done([refusal(b"", self._clock(), error)]))
                    return
        finally:
            stopping.cancel()

    def _take(self, content: bytes) -> Awaitable[list[bytes]]:
        """Begins with a message; what is returned gives its answers."""
        received = self._clock()
        kind = ""
        message: Message | None = None
        try:
            message = Message.from_bytes(content)
            kind = _counted(message)
            delivery = self._intake.hl7(message, content, received)
            future = asyncio.wrap_future(self._committer.submit(delivery))
        except Hl7Error as error:
            return self._refused(content, message, kind, error)
        except BusyError:
            busy = Hl7Error("the service is busy; send again", code=207)
            return self._refused(content, message, kind, busy)
        except Exception as problem:
            # Whatever a message holds, its sender gets an answer and others their service.
            log.error("a message could not be read: %s", type(problem).__name__)
            unread = Hl7Error("the message cannot be read", code=207)
            return self._refused(content, message, kind, unread)
        return self._stored(message, kind, received, future)

    async def _stored(
        self, message: Message, kind: str, received: float, future: asyncio.Future
    ) -> list[bytes]:
        error: Hl7Error | None = None
        try:
            result = await future
            outcome = "duplicate" if result.duplicate else "stored"
            items = self._metrics.items
            items.labels("new").inc(result.items)
            items.labels("repeated").inc(result.repeated)
            items.labels("quarantined").inc(result.quarantined)
            self._metrics.commit.observe(max(self._clock() - received, 0.0))
        except StoreUnavailableError:
            outcome, error = "unavailable", Hl7Error("not stored; send again", code=207)
        except Exception as problem:
            log.error("a message could not be stored: %s", type(problem).__name__)
            outcome, error = "failed", Hl7Error("not stored", code=207)
        self._metrics.messages.labels("mllp", kind, outcome).inc()
        return acknowledgements(message, self._clock(), error)

    def _refused(
        self, content: bytes, message: Message | None, kind: str, error: Hl7Error
    ) -> Awaitable[list[bytes]]:
        self._metrics.messages.labels("mllp", kind, "refused").inc()
        if message is None:
            return _done([refusal(content, self._clock(), error)])
        return _done(acknowledgements(message, self._clock(), error))

    async def _answer(
        self,
        pending: asyncio.Queue[Awaitable[list[bytes]] | None],
        writer: asyncio.StreamWriter,
    ) -> None:
        gone = False
        while (waiting := await pending.get()) is not None:
            answers = await waiting
            if gone:
                continue
            try:
                for answer in answers:
                    writer.write(frame(answer))
                if pending.empty():
                    await writer.drain()
            except ConnectionError:
                # The sender left; what it sent is stored all the same.
                gone = True


_COUNTED = {"ORU": ("R01", "R30", "R31", "R32"), "ORM": ("O01",), "OML": ("O21", "O33", "O35"),
            "RAS": ("O17",), "RDE": ("O11",),
            "ADT": ("A01", "A02", "A03", "A04", "A08", "A11", "A12", "A13", "A40")}  # fmt: skip


def _counted(message: Message) -> str:
    """Type and event for metrics: of those that are known, as any text may stand in MSH-9."""
    kind, event = message.kind
    if kind not in _COUNTED:
        return "other"
    return f"{kind}^{event}" if event in _COUNTED[kind] else f"{kind}^other"


async def _done(answers: list[bytes]) -> list[bytes]:
    return answers
