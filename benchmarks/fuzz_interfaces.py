"""Grammar fuzzer of the doors: HL7 v2 in MLLP frames, FHIR R4, CDS Hooks.

    python benchmarks/fuzz_interfaces.py --inputs 1000000 --out benchmarks/results/fuzz.json

Inputs grow from valid ones, which are cut, repeated, mixed and filled with what breaks parsers, on
the level of bytes, of segments, fields and components, and of JSON values. ``readers`` runs all
that the doors do with bytes: framing, parsing, reading, the answer; every ``--store`` th input is
stored and folded as well. ``doors`` sends them to a running service over its sockets.

An error that is not a refusal, an answer that is none, or an input that takes longer than
``--patience`` seconds is a finding: it is printed and kept in ``--findings``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from foretell.data.clinical.fhir import FhirError
from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.data.clinical.hl7.writer import Result, result_message, visit_message
from foretell.serving.api.fhir import _parsed
from foretell.serving.config import Config, MllpConfig
from foretell.serving.ingest import Framer, Intake
from foretell.serving.ingest.acknowledge import acknowledgements, refusal
from foretell.serving.ingest.mllp import FrameTooLargeError, frame
from foretell.serving.service import make_fold
from foretell.serving.store import open_store
from foretell.serving.worker import Worker
from foretell.serving.worker.ticks import send_ticks

T0 = 1_767_225_600.0
LETTERS = {"AA", "AE", "AR", "CA", "CE", "CR"}
CODES = ("8867-4", "9279-1", "8480-6", "8310-5", "59408-5", "2524-7", "6690-2", "no-code")
JUNK = (
    "", '""', "0", "-1", "1e309", "-1e309", "1e-400", "nan", "inf", "9" * 400, "1,5", "<5", ">=7",
    "<>", "\\F\\", "\\X00\\", "\\X0D0A\\", "\\Xzz\\", "\\", "\\\\\\", "^~\\&", "|", "&&&",
    "^" * 50, "~" * 50, "\x00", "\ufeff", "\u202e", "\U0001f600", "ÄÖÜß", "\t", " " * 100,
    "99999999999999", "20260101", "2026010125", "20260230120000", "%s%n", "A" * 5000,
    "99991231235959", "00010101000000",
    "20260329023000", "20261025023000", "20260101120000+9999", "20260101120000-0000", "2026-01-01",
    "99990101000000-2359", "00010101000000+2359", "P", "T", "2.5.1", "3.0", "UNICODE UTF-8",
    "8859/1", "ISO IR87", "UNICODE UTF-16", "NM", "SN", "CWE", "ED", "F", "C", "D", "W", "X", "LN",
    "AL", "NE", "ER", "SU", "ORU^R01", "ADT^A40", "ADT^A99", "ORM^O01", "MDM^T02", "null", "../..",
    "'; DROP TABLE event; --", "<!ENTITY x SYSTEM 'file:///'>", "\u0663", "1_000", "0x10", "½",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**400, -(10**30), 1.5, 1e308, -1e308, 1e-320, "", [], {}, [[]],
    [None], {"": None}, {"value": {}}, "x" * 5000, *JUNK,
    "2026-01-01T10:00:00Z", "2026-01-01", "2026", "2026-13-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:60-14:00", "2026-10-25T02:30:00", "Patient/p1", "urn:uuid:", "#", "/",
    "final", "entered-in-error", "Bundle", "Observation", "Encounter", "Patient", "http://loinc.org",
    "8867-4", "/min", "in-progress", "finished", "batch", "replaces", "patient-view",
)  # fmt: skip


def hl7_seeds() -> list[bytes]:
    """Valid messages of every type that is taken."""
    out = []
    for i in range(12):
        results = [Result(c, 60.0 + i, "/min", T0 + 60 * i, "FPCDWX"[i % 6]) for c in CODES]
        out.append(result_message("H", f"P{i % 4}", results[: 1 + i % 8], time=T0 + 600 * i,
                                  control=f"c{i}", visit=f"V{i % 3}"))  # fmt: skip
    for event in ("A01", "A02", "A03", "A04", "A08", "A11", "A12", "A13"):
        out.append(visit_message("H", "P1", event, time=T0, control=event, visit="V1", unit="MICU",
                                 admitted=T0, born="19500101", sex="F"))  # fmt: skip
    out.append(visit_message("H", "P2", "A40", time=T0, control="m", prior="P3"))
    head = "MSH|^~\\&|A|H|B|B|20260101120000||{}|k|P|2.5|||AL|AL||8859/1\r"
    order = "PID|1||P1^^^H^MR\rPV1|1|I|MICU||||||||||||||||V1\rORC|NW|7\rOBR|1|7||2524-7^L^LN\r"
    for kind in ("ORM^O01", "OML^O21"):
        out.append((head.format(kind) + order).encode("latin-1"))
    unusual = "PID|1||A^^^X~B^^^H^MR\rOBR|1|1|2|x|||20260101\rOBX|1|SN|8867-4^^LN||<^5|/min|||||F\r"
    out.append((head.format("ORU^R01") + unusual).encode("latin-1"))
    return out


def fhir_seeds() -> list[dict]:
    """Valid resources of every type that is taken, and bundles."""
    subject = {"reference": "Patient/p1"}
    code = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
    pulse = {
        "resourceType": "Observation", "id": "o1", "status": "final", "code": code,
        "subject": subject, "effectiveDateTime": "2026-01-01T10:00:00Z",
        "issued": "2026-01-01T10:01:00Z", "encounter": {"reference": "Encounter/e1"},
        "valueQuantity": {"value": 88, "code": "/min", "comparator": "<"},
    }  # fmt: skip
    part = {"code": code, "valueQuantity": {"value": 120, "unit": "mm[Hg]"}}
    panel = {**pulse, "id": "o2", "component": [part, part]}
    del panel["valueQuantity"]
    stay = {
        "resourceType": "Encounter", "id": "e1", "status": "in-progress", "subject": subject,
        "period": {"start": "2026-01-01T08:00:00Z", "end": "2026-01-02T08:00:00Z"},
        "location": [{"status": "active", "location": {"display": "MICU"}}],
        "meta": {"lastUpdated": "2026-01-01T09:00:00Z"},
    }  # fmt: skip
    person = {
        "resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-01-01",
        "meta": {"lastUpdated": "2026-01-01T09:00:00Z"},
        "identifier": [{"system": "s", "value": "m"}],
        "link": [{"type": "replaces", "other": {"reference": "Patient/p2"}}],
    }  # fmt: skip
    wish = {"resourceType": "ServiceRequest", "id": "s", "status": "active", "code": code,
            "subject": subject, "authoredOn": "2026-01-01T10:00:00Z"}  # fmt: skip
    drug = {"resourceType": "MedicationAdministration", "id": "m", "status": "completed",
            "medicationCodeableConcept": code, "subject": subject,
            "effectiveDateTime": "2026-01-01T10:00:00Z"}  # fmt: skip
    ill = {"resourceType": "Condition", "id": "c", "code": code, "subject": subject,
           "recordedDate": "2026-01-01"}  # fmt: skip
    some = [pulse, panel, stay, person, wish, drug, ill, {**stay, "status": "finished"}]
    for kind in ("batch", "transaction", "message", "collection", "searchset"):
        entries = [{"resource": r} for r in some[:4]]
        some.append({"resourceType": "Bundle", "type": kind, "entry": entries})
    return some


class Mutator:
    """Makes inputs; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.messages, self.resources = hl7_seeds(), fhir_seeds()

    def _bytes(self, data: bytes) -> bytes:
        r, out = self.random, bytearray(data)
        for _ in range(r.choice((1, 1, 2, 4, 16))):
            at = r.randrange(len(out) + 1)
            draw = r.randrange(5)
            if draw == 0 and out:
                out[min(at, len(out) - 1)] = r.randrange(256)
            elif draw == 1:
                del out[at : at + r.choice((1, 2, 8, 64))]
            elif draw == 2:
                out[at:at] = bytes(r.randrange(256) for _ in range(r.choice((1, 2, 8))))
            elif draw == 3:
                other = r.choice(self.messages)
                begin = r.randrange(len(other))
                out[at:at] = other[begin : begin + r.randrange(80)]
            else:
                out[at:at] = r.choice(JUNK).encode("utf-8", "surrogatepass")
        return bytes(out)

    def hl7(self) -> bytes:
        """A message, or something like one."""
        r = self.random
        data = r.choice(self.messages)
        if r.random() < 0.15:
            return self._bytes(data)
        text = data.decode("utf-8", "replace").replace("20260101", f"202601{r.randrange(10, 30)}")
        text = text.replace("|P", f"|P{r.randrange(9)}")
        lines = text.rstrip("\r").split("\r")
        for _ in range(r.choice((0, 1, 1, 2, 3, 6))):
            draw = r.random()
            i = r.randrange(len(lines))
            if draw < 0.08:
                del lines[i]
                lines = lines or ["MSH"]
            elif draw < 0.16:
                lines.insert(i, r.choice(lines))
            elif draw < 0.2:
                r.shuffle(lines)
            elif draw < 0.24:
                other = r.choice(self.messages).decode("utf-8", "replace").split("\r")
                lines.insert(r.randrange(len(lines) + 1), r.choice(other))
            elif draw < 0.26:
                lines.append("NTE|" * r.choice((1, 2000)))
            else:
                fields = lines[i].split("|")
                k = r.randrange(len(fields))
                if r.random() < 0.5:
                    fields[k] = r.choice(JUNK)
                elif r.random() < 0.5:
                    parts = fields[k].split("^")
                    parts[r.randrange(len(parts))] = r.choice(JUNK)
                    fields[k] = "^".join(parts)
                elif r.random() < 0.5:
                    fields.insert(k, r.choice(fields))
                else:
                    fields[k] += r.choice("^~&|\\") + r.choice(JUNK)
                lines[i] = "|".join(fields)
        mark = r.choice(("\r",) * 20 + ("\n", "\r\n", "\r\r"))
        text = mark.join(lines) + mark
        if r.random() < 0.03:
            a, b = r.choice("^~&|\\"), r.choice("^~&|\\#$!aZ0\r\xa7")
            text = text.replace(a, b)
        code = r.choice(("utf-8",) * 20 + ("latin-1", "utf-16", "utf-32", "cp1252"))
        data = text.encode(code, "replace" if code != "utf-8" else "surrogatepass")
        return self._bytes(data) if r.random() < 0.1 else data

    def stream(self, contents: list[bytes]) -> bytes:
        """Bytes as a network might bring them: frames with noise, cut and run together."""
        r, out = self.random, bytearray()
        for content in contents:
            draw = r.random()
            if draw < 0.02:
                out += bytes(r.randrange(256) for _ in range(20))
            framed = frame(content)
            if draw > 0.98:
                framed = framed[: r.randrange(len(framed))]
            elif draw > 0.97:
                framed = framed.replace(b"\x1c\r", b"\x1c")
            out += framed
        return bytes(out)

    def value(self, seed: Any, depth: int = 0) -> Any:
        """A JSON value with something in it changed."""
        r = self.random
        if depth > 12 or r.random() < 0.12 or not isinstance(seed, dict | list) or not seed:
            draw = r.random()
            if draw < 0.1:
                nested: Any = r.choice(VALUES)
                for _ in range(r.choice((5, 40))):
                    nested = [nested] if r.random() < 0.5 else {"resource": nested}
                return nested
            if draw < 0.2:
                return r.choice(self.resources)
            return r.choice(VALUES)
        if isinstance(seed, dict):
            out = dict(seed)
            key = r.choice(list(out))
            draw = r.random()
            if draw < 0.1:
                del out[key]
            elif draw < 0.2:
                out[r.choice(list(r.choice(self.resources)))] = r.choice(VALUES)
            else:
                out[key] = self.value(out[key], depth + 1)
            return out
        items = list(seed)
        at = r.randrange(len(items))
        if r.random() < 0.15:
            items.append(items[at])
        else:
            items[at] = self.value(items[at], depth + 1)
        return items

    def json(self, seed: Any) -> bytes:
        """A document that grew from a valid one, or bytes that look like it."""
        r = self.random
        value = seed
        for _ in range(r.choice((0, 1, 1, 2, 4))):
            value = self.value(value)
        text = json.dumps(value, ensure_ascii=r.random() < 0.5)
        if r.random() < 0.02:
            text = text.replace(
                "null", r.choice(("NaN", "Infinity", "1e999", '"\\ud800"', "[" * 3000))
            )
        data = text.encode("utf-8", "surrogatepass")
        return self._bytes(data) if r.random() < 0.08 else data

    def fhir(self) -> bytes:
        """A resource, or something like one."""
        return self.json(self.random.choice(self.resources))


class Findings:
    """What went wrong, once of a kind."""

    def __init__(self, folder: Path | None) -> None:
        self.kinds: Counter[str] = Counter()
        self.folder = folder

    def add(self, kind: str, data: bytes, told: str) -> None:
        self.kinds[kind] += 1
        if self.kinds[kind] == 1:
            print(f"\nFINDING {kind}\n{told}\n{data[:600]!r}", file=sys.stderr, flush=True)
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                name = hashlib.sha256(kind.encode()).hexdigest()[:12]
                (self.folder / name).write_bytes(data)

    def error(self, place: str, data: bytes, error: BaseException) -> None:
        trace = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{place}: {type(error).__name__} in {Path(trace.filename).name}:{trace.lineno}"
        self.add(kind, data, "".join(traceback.format_exception(error)[-3:]))


class _Hang(BaseException):
    pass


def _hang(*_: object) -> None:
    raise _Hang


def answered(answers: list[bytes], message: Message | None) -> str:
    """The letters of the answers; ``""`` where there is none.

    Raises:
        AssertionError: an answer is no proper one.
    """
    letters = ""
    for answer in answers:
        assert b"\x0b" not in answer and b"\x1c" not in answer, "an answer breaks its frame"
        read = Message.from_bytes(answer)
        names = [name for name, _ in read.segments]
        assert names[:2] == ["MSH", "MSA"] and len(names) <= 3, f"segments {names}"
        letters = read.part(read.get("MSA"), 1)
        assert letters in LETTERS, f"the answer is {letters!r}"
        if message is not None:
            told, own = read.part(read.get("MSA"), 2), message.control_id
            framing = {0x0B: "_", 0x1C: "_"}
            assert told == own or told == own.translate(framing), (
                "the control id is not that of the message"
            )
    return letters


class Readers:
    """All that the doors do with bytes, in this process."""

    def __init__(self, args: argparse.Namespace, findings: Findings, folder: Path) -> None:
        self.args, self.findings = args, findings
        self.intake = Intake(Config(mllp=MllpConfig(port=0)))
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.store = open_store(folder / "fuzz.db", partitions=4)
        self.store._run("PRAGMA synchronous=OFF")
        self.worker = Worker(self.store, make_fold(Config()), ttl=1e6)
        self.worker.keep_leases(now=True)
        self.kept: list[tuple[bytes, Any]] = []
        self.count = self.hours = 0

    def _keep(self, data: bytes, delivery: Any) -> None:
        json.dumps([[e.body, [item for _, item in e.items]] for e in delivery.events],
                   allow_nan=False)  # fmt: skip
        self.count += 1
        if self.count % self.args.store:
            return
        # Otherwise most would be known already.
        delivery.control = f"{delivery.control}/{self.count}"
        self.kept.append((data, delivery))
        if len(self.kept) >= 100:
            self.flush()

    def flush(self) -> None:
        """Stores and folds what was kept."""
        kept, self.kept = self.kept, []
        try:
            self.store.append([d for _, d in kept])
        except Exception as error:
            self.findings.error("store", b"", error)
            for data, delivery in kept:
                try:
                    self.store.append([delivery])
                except Exception as single:
                    self.findings.error("store", data, single)
        self.hours += 1
        send_ticks(self.store, T0 + 3600.0 * (self.hours % 60), everywhere=self.hours % 7 == 0)
        for _ in range(1000):
            try:
                if not self.worker.work():
                    break
            except Exception as error:
                self.findings.error("fold", kept[-1][0] if kept else b"", error)
                self.worker.forget()
                self.worker.keep_leases(now=True)

    def hl7(self, data: bytes) -> None:
        message: Message | None = None
        try:
            try:
                message = Message.from_bytes(data)
                delivery = self.intake.hl7(message, data, T0 + 7200)
                answers = acknowledgements(message, T0)
                outcome = "taken"
            except Hl7Error as error:
                outcome = "refused"
                answers = (
                    [refusal(data, T0, error)] if message is None
                    else acknowledgements(message, T0, error)
                )  # fmt: skip
            letters = answered(answers, message)
            if letters:
                good = letters[1] == "A"
                assert good == (outcome == "taken"), f"{outcome} but {letters}"
            self.outcomes[f"hl7 {outcome} {letters}".rstrip()] += 1
            if outcome == "taken":
                self._keep(data, delivery)
        except Exception as error:
            self.findings.error("hl7", data, error)

    def frames(self, data: bytes, draw: random.Random) -> list[bytes]:
        """What a connection makes of a stream of bytes that comes in pieces."""
        framer, out, at = Framer(1 << 20), [], 0
        try:
            while at < len(data):
                size = draw.choice((1, 7, 100, 1 << 16))
                out += framer.feed(data[at : at + size])
                at += size
        except FrameTooLargeError:
            self.outcomes["frame too large"] += 1
        except Exception as error:
            self.findings.error("frames", data, error)
        return out

    def fhir(self, data: bytes) -> None:
        try:
            try:
                resource = _parsed(data)
                delivery = self.intake.fhir(resource, "fhir", T0 + 7200)
            except FhirError as error:
                str(error)
                self.outcomes["fhir refused"] += 1
                return
            self.outcomes["fhir taken"] += 1
            self._keep(data, delivery)
        except Exception as error:
            self.findings.error("fhir", data, error)

    def run(self, inputs: int, seed: int) -> None:
        mutator = Mutator(seed)
        signal.signal(signal.SIGALRM, _hang)
        done, patience = 0, self.args.patience
        while done < inputs:
            signal.setitimer(signal.ITIMER_REAL, patience)
            begun = time.perf_counter()
            data = b""
            try:
                if mutator.random.random() < 0.55:
                    contents = [mutator.hl7() for _ in range(4)]
                    data = b"".join(contents)
                    for data in self.frames(mutator.stream(contents), mutator.random):
                        self.hl7(data)
                    done += len(contents)
                else:
                    data = mutator.fhir()
                    self.fhir(data)
                    done += 1
            except _Hang:
                self.findings.add("hang", data, f"longer than {patience} s")
            self.slowest = max(self.slowest, time.perf_counter() - begun)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.flush()


class _Left(logging.Handler):
    """Events that the fold could not take are findings, although the service goes on."""

    def __init__(self, findings: Findings) -> None:
        super().__init__(logging.ERROR)
        self._findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        self._findings.add(f"log: {record.msg}", b"", record.getMessage())


async def doors(args: argparse.Namespace, findings: Findings, folder: Path) -> dict[str, Any]:
    """Sends inputs to a service over its sockets."""
    from _service import Nursery

    digest = hashlib.sha256(b"fuzz").hexdigest()
    config = folder / "fuzz.toml"
    config.write_text(
        f'[service]\nstore = "{folder / "door.db"}"\nclock = "external"\n[mllp]\nport = 0\n'
        f'[http]\nport = 0\n[[tokens]]\nname = "fuzz"\nsha256 = "{digest}"\n'
        'scopes = ["ingest", "read", "act"]\n'
    )
    nursery = await asyncio.to_thread(Nursery)
    mutator = Mutator(args.seed + 1_000_003)
    outcomes: Counter[str] = Counter()
    seen = 0
    try:
        service = await asyncio.to_thread(nursery.start, config, "ingest,worker,dispatcher")
        base = f"http://127.0.0.1:{service.ports['http']}"
        header = {"Authorization": "Bearer fuzz", "Content-Type": "application/fhir+json"}
        client = httpx.Client(base_url=base, headers=header, timeout=args.patience * 4)
        hooks = [s["id"] for s in _json(client.get("/cds-services")).get("services", [])]
        while seen < args.doors:
            contents = [mutator.hl7() for _ in range(50)]
            last = result_message("H", "P0", [Result("8867-4", 80.0, "/min")], time=T0,
                                  control=f"last{seen}")  # fmt: skip
            codes = _exchange(service.ports["mllp"], mutator.stream(contents), last, args.patience)
            seen += len(contents)
            for code in codes:
                outcomes[f"mllp {code}"] += 1
                if code not in LETTERS:
                    findings.add(f"mllp door: {code}", b"\n".join(contents), "no proper answer")
            for _ in range(25):
                hook = hooks and mutator.random.random() < 0.4
                path = f"/cds-services/{mutator.random.choice(hooks)}" if hook else "/fhir"
                data = mutator.json(hook_seed()) if hook else mutator.fhir()
                seen += 1
                try:
                    answer = client.post(path, content=data)
                except httpx.HTTPError as error:
                    findings.error(path, data, error)
                    continue
                outcomes[f"{path} {answer.status_code}"] += 1
                good = answer.status_code < 500 and isinstance(_json(answer), dict)
                if not good:
                    findings.add(f"{path}: {answer.status_code}", data, answer.text[:500])
            if not service.alive:
                findings.add("the service died", b"\n".join(contents), service.text()[-2000:])
                service = await asyncio.to_thread(nursery.start, config, "ingest,worker,dispatcher")
        log = service.text()
        for sign in ("is left out", "cannot be folded", "could not be read", "could not be stored",
                     "were not stored", "ended:", "Traceback"):  # fmt: skip
            if sign in log:
                findings.add(f"service log: {sign}", b"", log[max(log.find(sign) - 300, 0) :][:900])
        service.kill()
    finally:
        nursery.close()
    return {"inputs": seen, "outcomes": dict(sorted(outcomes.items()))}


def hook_seed() -> dict[str, Any]:
    """A valid call of a CDS Hooks service."""
    return {
        "hook": "patient-view", "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "fhirServer": "http://localhost/fhir", "context": {"userId": "Practitioner/x",
        "patientId": "P0", "encounterId": "V1"},
        "prefetch": {"patient": fhir_seeds()[3], "encounter": fhir_seeds()[2]},
    }  # fmt: skip


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return {} if answer.status_code == 404 else None


def _exchange(port: int, stream: bytes, last: bytes, patience: float) -> list[str]:
    """The answers to a stream of frames, up to that of the last message."""
    codes = []
    control = last.split(b"|")[9]
    with socket.create_connection(("127.0.0.1", port), patience * 4) as connection:
        connection.sendall(stream + b"\x1c\r" + frame(last))
        held = b""
        while True:
            try:
                part = connection.recv(1 << 16)
            except OSError as error:
                return [*codes, type(error).__name__]
            if not part:
                return [*codes, "closed"]
            held += part
            while b"\x1c\r" in held:
                content, _, held = held.partition(b"\x1c\r")
                try:
                    answer = Message.from_bytes(content.lstrip(b"\x0b"))
                except Hl7Error as error:
                    codes.append(f"unreadable {error.problem}")
                    continue
                own = answer.get("MSA")
                codes.append(answer.part(own, 1))
                if answer.part(own, 2).encode() == control:
                    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="for the readers")
    parser.add_argument("--doors", type=int, default=5_000, help="over the sockets of a service")
    parser.add_argument("--store", type=int, default=20, help="one in so many is stored and folded")
    parser.add_argument("--patience", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    findings = Findings(args.findings)
    logging.getLogger("foretell.serving").addHandler(_Left(findings))
    folder = Path(tempfile.mkdtemp(prefix="ffuzz"))
    begun = time.monotonic()
    try:
        readers = Readers(args, findings, folder)
        done, step = 0, 20_000
        while done < args.inputs:
            # Fresh seeds in fixed steps: a finding can be had again without all before it.
            size = min(step, args.inputs - done)
            readers.run(size, args.seed * 1_000_000 + done)
            done += size
            pace = done / (time.monotonic() - begun)
            print(
                f"{done} inputs, {pace:.0f}/s, findings {sum(findings.kinds.values())}", flush=True
            )
        door = asyncio.run(doors(args, findings, folder)) if args.doors else None
        out = {
            "seed": args.seed, "reader_inputs": done, "seconds": round(time.monotonic() - begun),
            "load": os.getloadavg()[0], "outcomes": dict(sorted(readers.outcomes.items())),
            "stored_and_folded": readers.count // args.store, "events": readers.store.head(),
            "slowest_seconds": round(readers.slowest, 3), "doors": door,
            "findings": dict(findings.kinds),
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(out, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(out, indent=2) + "\n")
    if findings.kinds:
        raise SystemExit("there are findings")


if __name__ == "__main__":
    main()
