"""The door for HL7: however bytes come, every message gets its answer, after it is durable."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.hl7 import Hl7Error, Hl7Reader, Message
from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.errors import ParameterError
from foretell.serving.config import (
    Config,
    MllpConfig,
    PollConfig,
    SinkConfig,
    TlsConfig,
    read_config,
)
from foretell.serving.errors import StoreUnavailableError
from foretell.serving.ingest import Committer, Framer, Intake, MllpServer
from foretell.serving.ingest.acknowledge import acknowledgements, refusal
from foretell.serving.ingest.client import FhirClient
from foretell.serving.ingest.mllp import FrameTooLargeError, frame
from foretell.serving.metrics import Metrics
from foretell.serving.outbox import MllpSink, make_sink
from foretell.serving.store import OutboxRow, open_store

NOW = 1_767_225_600.0


def oru(control: str, value: float = 80.0, patient: str = "P") -> bytes:
    return result_message("H", patient, [Result("8867-4", value, "/min")], time=NOW,
                          control=control)  # fmt: skip


@given(
    st.lists(st.binary(max_size=30).filter(lambda b: b"\x0b" not in b and b"\x1c\r" not in b
                                           and not b.endswith(b"\x1c"))),
    st.data(),
)  # fmt: skip
def test_frames_come_out_however_they_are_cut(contents, data):
    stream = b"noise\r".join(frame(c) for c in contents)
    framer, found, at = Framer(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += framer.feed(stream[at : at + size])
        at += size
    assert found == contents and not framer.partial


def test_a_frame_cut_off_by_another_is_dropped_and_a_large_one_refused():
    framer = Framer(100)
    assert list(framer.feed(b"\x0bMSH|cut" + frame(b"whole") + b"junk")) == [b"whole"]
    assert (framer.truncated, framer.noise) == (1, 4)
    with pytest.raises(FrameTooLargeError):
        list(framer.feed(b"\x0b" + b"x" * 101))
    with pytest.raises(FrameTooLargeError):
        list(Framer(100).feed(frame(b"x" * 101)))


def test_an_answer_never_ends_its_own_frame():
    data = oru("a\x1cb\x0bc").replace(b"|P|2.5.1", b"|P|2.5\x1c").replace(b"|H|", b"|H\x0b|")
    message = Message.from_bytes(data)
    for answer in (*acknowledgements(message, NOW), refusal(data, NOW, Hl7Error("no"))):
        assert b"\x0b" not in answer and b"\x1c" not in answer
        assert Message.from_bytes(answer).part(Message.from_bytes(answer).get("MSA"), 2) == "a_b_c"


class Door:
    """A server on a free port with its store."""

    def __init__(self, tmp_path, **options) -> None:
        self.config = Config(mllp=MllpConfig(port=0, **options))
        self.store = open_store(tmp_path / "s.db", partitions=4)
        self.committer = Committer(self.store)
        self.server = MllpServer(
            self.config.mllp, Intake(self.config), self.committer, Metrics(), lambda: NOW
        )

    async def __aenter__(self):
        self.port = await self.server.start()
        return self

    async def __aexit__(self, *_):
        await self.server.stop(60)
        await asyncio.to_thread(self.committer.close)

    async def connect(self, **options):
        return await asyncio.open_connection("127.0.0.1", self.port, **options)


async def answers(reader, count: int) -> list[Message]:
    out = []
    for _ in range(count):
        data = await asyncio.wait_for(reader.readuntil(b"\x1c\r"), 180)
        out.append(Message.from_bytes(data.strip(b"\x0b\x1c\r")))
    return out


def codes(messages: list[Message]) -> list[tuple[str, str]]:
    return [(m.part(m.get("MSA"), 1), m.part(m.get("MSA"), 2)) for m in messages]


def test_several_in_one_segment_one_in_many_and_repeats(tmp_path):
    async def run():
        async with Door(tmp_path) as door:
            reader, writer = await door.connect()
            writer.write(b"".join(frame(oru(str(i), 80 + i)) for i in range(5)))
            assert codes(await answers(reader, 5)) == [("AA", str(i)) for i in range(5)]
            for byte in frame(oru("slow", 99)):
                writer.write(bytes([byte]))
                await writer.drain()
            writer.write(frame(oru("0", 80)))
            assert codes(await answers(reader, 2)) == [("AA", "slow"), ("AA", "0")]
            writer.close()
            assert door.store.head() == 6

    asyncio.run(run())


def test_every_refusal_is_a_proper_answer(tmp_path):
    good = oru("9").decode()
    cases = {
        b"hello": ("AE", ""),
        b"": ("AE", ""),
        good.replace("ORU^R01^ORU_R01", "SIU^S12").encode(): ("AR", "9"),
        good.replace("ORU^R01^ORU_R01", "ADT^A99").encode(): ("AR", "9"),
        good.replace("|P|2.5.1", "|T|2.5.1").encode(): ("AR", "9"),
        good.replace("|P|2.5.1", "|P|3.0").encode(): ("AR", "9"),
        good.replace("|9|P", "||P").encode(): ("AE", ""),
        good.replace("PID|||P^^^^MR\r", "").encode(): ("AE", "9"),
        good.replace("P^^^^MR", "").encode(): ("AE", "9"),
        good.replace("|P|2.5.1", "|P|2.5.1||||||MARTIAN").encode(): ("AR", "9"),
        good.replace("|P|2.5.1", "|P|2.5.1||||||UNICODE UTF-8").encode() + b"\xff": ("AE", "9"),
        b"MSH|^~\\&|\x00|\xfe\xfe": ("AE", ""),
    }

    async def run():
        async with Door(tmp_path) as door:
            for data, wanted in cases.items():
                reader, writer = await door.connect()
                writer.write(frame(data))
                (answer,) = await answers(reader, 1)
                assert codes([answer]) == [wanted], data
                assert answer.get("ERR"), data
                writer.close()
            assert door.store.head() == 0

    asyncio.run(run())


def test_an_answer_is_in_the_words_of_the_version_and_the_kind_of_the_message():
    """Before 2.5 ERR has its place and code in one field, and MSA-3 says why."""
    error = Hl7Error("the patient's identifier is missing", code=101, where="PID-3")
    for version, old in (("2.3", True), ("2.3.1", True), ("2.4", True), ("2.5", False),
                         ("2.8", False)):  # fmt: skip
        message = Message.from_bytes(oru("9").replace(b"|P|2.5.1", f"|T|{version}".encode()))
        (data,) = acknowledgements(message, NOW, error)
        told = Message.from_bytes(data)
        head, msa, err = (told.get(name) for name in ("MSH", "MSA", "ERR"))
        assert (told.part(head, 11), told.part(head, 12)) == ("T", version)
        assert told.part(msa, 1) == "AE" and told.part(msa, 2) == "9"
        assert told.part(msa, 3) == (error.problem if old else "")
        place = [told.part(err, 1 if old else 2, n) for n in (1, 2, 3)]
        assert place == ["PID", "1", "3"]
        assert told.part(err, *((1, 4) if old else (3, 1))) == "101"
        assert told.part(err, 8) == ("" if old else error.problem)


def test_what_is_missing_of_a_merge_is_said_where_it_is():
    merge = oru("9").decode().replace("ORU^R01^ORU_R01", "ADT^A40")
    for more in ("", "MRG|^^^MR\r"):
        with pytest.raises(Hl7Error) as told:
            Hl7Reader("A").read(Message.from_bytes((merge + more).encode()))
        assert (told.value.where, told.value.code) == ("MRG-1", 101)


def test_enhanced_mode_answers_as_it_is_asked(tmp_path):
    def asked(control: str, accept: str, application: str, kind: str = "ORU^R01^ORU_R01"):
        text = oru(control).decode().replace("ORU^R01^ORU_R01", kind)
        return text.replace("|2.5.1\r", f"|2.5.1|||{accept}|{application}\r").encode()

    async def run():
        async with Door(tmp_path) as door:
            reader, writer = await door.connect()
            for control, accept, application, kind, wanted in (
                ("1", "AL", "NE", "ORU^R01", ["CA"]),
                ("2", "AL", "AL", "ORU^R01", ["CA", "AA"]),
                ("3", "ER", "SU", "ORU^R01", ["AA"]),
                ("4", "ER", "NE", "XXX^R01", ["CR"]),
                ("5", "NE", "NE", "ORU^R01", []),
                ("6", "AL", "NE", "ORU^R01", ["CA"]),
            ):
                writer.write(frame(asked(control, accept, application, kind)))
                found = await answers(reader, len(wanted))
                assert codes(found) == [(w, control) for w in wanted]
            assert door.store.head() == 5
            writer.close()

    asyncio.run(run())


def test_a_large_message_is_refused_and_its_connection_closed(tmp_path):
    async def run():
        async with Door(tmp_path, max_bytes=2048) as door:
            reader, writer = await door.connect()
            writer.write(b"\x0b" + b"M" * 5000)
            assert codes(await answers(reader, 1)) == [("AR", "")]
            assert await asyncio.wait_for(reader.read(), 180) == b""

    asyncio.run(run())


def test_nothing_is_acknowledged_that_is_not_stored(tmp_path):
    async def run():
        async with Door(tmp_path) as door:
            original = type(door.store).append

            def full(self, deliveries):
                raise StoreUnavailableError("the disk is full")

            type(door.store).append = full
            try:
                reader, writer = await door.connect()
                writer.write(frame(oru("1")))
                assert codes(await answers(reader, 1)) == [("AE", "1")]
            finally:
                type(door.store).append = original
            assert door.store.head() == 0
            writer.write(frame(oru("1")))
            assert codes(await answers(reader, 1)) == [("AA", "1")]
            assert door.store.head() == 1

    asyncio.run(run())


def test_tls_with_certificates_of_both_sides(tmp_path, certificate):
    cert, key = certificate

    async def run():
        tls = TlsConfig(certificate=cert, key=key, client_ca=cert)
        async with Door(tmp_path, tls=tls) as door:
            client = ssl.create_default_context(cafile=cert)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                reader, writer = await door.connect(ssl=client, server_hostname="localhost")
                writer.write(frame(oru("1")))
                await answers(reader, 1)
            client.load_cert_chain(cert, key)
            reader, writer = await door.connect(ssl=client, server_hostname="localhost")
            writer.write(frame(oru("1")))
            assert codes(await answers(reader, 1)) == [("AA", "1")]
            writer.close()

    asyncio.run(run())


def test_device_data_go_out_over_tls_to_who_proves_who_it_is(tmp_path, certificate):
    cert, key = certificate
    row = OutboxRow("S", "P", 0, "k", "alarm", NOW, {"alarm": "k", "risk": 0.5, "tier": "urgent"})

    async def run():
        tls = TlsConfig(certificate=cert, key=key, client_ca=cert)
        async with Door(tmp_path, tls=tls) as door:

            def send(**shown) -> None:
                told = {"name": "ehr", "kind": "mllp", "host": "localhost", "port": door.port}
                sink = MllpSink(SinkConfig(**told, timeout_seconds=180, **shown))
                try:
                    sink.send(row)
                finally:
                    sink.close()

            for shown in ({}, {"tls": {}}, {"tls": {"ca": cert}}):
                with pytest.raises(OSError):
                    await asyncio.to_thread(send, **shown)
            assert door.store.quarantine() == []
            proof = {"tls": {"ca": cert, "certificate": cert, "key": key}}
            await asyncio.to_thread(send, **proof)
            assert door.store.quarantine()

    asyncio.run(run())


@pytest.mark.parametrize(
    "told", [{"ca": "nothing.pem"}, {"certificate": "nothing.pem", "key": "nothing.pem"}]
)
def test_files_of_tls_that_are_not_there_are_said_at_the_start(told):
    sink = SinkConfig(name="ehr", kind="mllp", host="localhost", port=1, tls=told)
    with pytest.raises(ParameterError, match="tls of the sink 'ehr'"):
        make_sink(sink)
    with pytest.raises(ParameterError, match="tls of the poll of 'A'"):
        FhirClient(PollConfig(site="A", url="https://ehr.example", tls=told))
    with pytest.raises(ParameterError, match="a certificate needs its key"):
        read_config({"sinks": [{**sink.model_dump(), "tls": {"certificate": "c.pem"}}]})


def test_a_sender_that_leaves_without_listening_harms_nobody(tmp_path):
    async def run():
        async with Door(tmp_path) as door:
            for i in range(10):
                raw = socket.create_connection(("127.0.0.1", door.port))
                raw.sendall(frame(oru(str(i), 60 + i)) + b"\x0bMSH|half")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                raw.close()
            reader, writer = await door.connect()
            writer.write(frame(oru("last", 99)))
            assert codes(await answers(reader, 1)) == [("AA", "last")]
            writer.close()

    asyncio.run(run())
