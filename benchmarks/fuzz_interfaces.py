"""Grammar fuzzer of the doors: HL7 v2 in MLLP frames, FHIR R4, CDS Hooks.

    python benchmarks/fuzz_interfaces.py --inputs 860000 --hooks 60000 --doors 90000

Inputs grow from valid ones, see ``_grammar.py``. Readers do all that the doors do with bytes:
framing, parsing, reading, the answer; every ``--store`` th input is stored and folded as well.
Calls of CDS Hooks are answered by the application in this process. Doors are those of a running
service, which is sent inputs over its sockets. ``fuzz_coverage.py`` is guided by coverage.

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
from _answers import contents_of, expected, match
from _grammar import T0, Mutator
from _hooks import Hooks, hook_seed

from foretell.data.clinical.fhir import FhirError
from foretell.data.clinical.hl7 import Hl7Error, Message
from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.api.fhir import parsed
from foretell.serving.config import Config, MllpConfig
from foretell.serving.ingest import Framer, Intake
from foretell.serving.ingest.acknowledge import acknowledgements, refusal
from foretell.serving.ingest.mllp import FrameTooLargeError, frame
from foretell.serving.service import make_fold
from foretell.serving.store import open_store
from foretell.serving.worker import Worker
from foretell.serving.worker.ticks import send_ticks

LETTERS = {"AA", "AE", "AR", "CA", "CE", "CR"}


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


def answered(answers: list[bytes], message: Message | None) -> list[str]:
    """The letters of the answers.

    Raises:
        AssertionError: an answer is no proper one.
    """
    letters = []
    for answer in answers:
        assert b"\x0b" not in answer and b"\x1c" not in answer, "an answer breaks its frame"
        read = Message.from_bytes(answer)
        names = [name for name, _ in read.segments]
        assert names[:2] == ["MSH", "MSA"] and len(names) <= 3, f"segments {names}"
        letters.append(read.part(read.get("MSA"), 1))
        assert letters[-1] in LETTERS, f"the answer is {letters[-1]!r}"
        if message is not None:
            # As it was sent, but for bytes that would end the answer's frame.
            head = message.get("MSH")
            own = head[10].translate({0x0B: "_", 0x1C: "_"}) if len(head) > 10 else ""
            told = read.get("MSA")
            assert told[2] == own.encode("utf-8", "replace").decode(), (
                "the control id is not that of the message"
            )
    return letters


class Readers:
    """All that the doors do with bytes, in this process."""

    def __init__(self, args: argparse.Namespace, findings: Findings, folder: Path) -> None:
        self.args, self.findings = args, findings
        self.intake = Intake(Config(mllp=MllpConfig(port=0)))
        self.outcomes: Counter[str] = Counter()
        # Seconds of CPU: of the slowest input, and of storing and folding a hundred.
        self.slowest = self.longest = self.folding = 0.0
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
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 10 * self.args.patience)
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
        # Most inputs tell of the days from the tenth on.
        now = T0 + 86400.0 * 9 + 7200.0 * (self.hours % 240)
        send_ticks(self.store, now, everywhere=self.hours % 7 == 0)
        for _ in range(1000):
            try:
                if not self.worker.work():
                    break
            except Exception as error:
                self.findings.error("fold", kept[-1][0] if kept else b"", error)
                self.worker.forget()
                self.worker.keep_leases(now=True)
        signal.setitimer(signal.ITIMER_PROF, self.args.patience)
        spent = time.process_time() - begun
        self.folding += spent
        self.longest = max(self.longest, spent)

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
            letters, good = answered(answers, message), outcome == "taken"
            wanted = expected(message, good)
            assert [one[0] for one in letters] == list(wanted), (
                f"{outcome}: {letters} where {wanted} are asked for"
            )
            assert all((one[1] == "A") == good for one in letters), f"{outcome} but {letters}"
            told = " ".join(letters) if letters else "silent as asked"
            self.outcomes[f"hl7 {outcome} {told}"] += 1
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
                resource = parsed(data)
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
        signal.signal(signal.SIGPROF, _hang)
        done, patience = 0, self.args.patience
        while done < inputs:
            # Seconds of CPU: how busy the machine is is not the readers' fault.
            signal.setitimer(signal.ITIMER_PROF, patience)
            begun, folded = time.process_time(), self.folding
            data = b""
            try:
                # Four messages at once: half of the inputs are HL7.
                if mutator.random.random() < 0.2:
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
            spent = time.process_time() - begun - (self.folding - folded)
            self.slowest = max(self.slowest, spent)
        self.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


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
    seen = frames = 0
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
            stream = mutator.stream(contents) + b"\x1c\r" + frame(last)
            codes, problem = _exchange(service.ports["mllp"], stream, last, args.patience)
            seen += len(contents)
            outcomes.update(f"mllp {code}" for code in codes)
            sent = contents_of(stream)
            silent, at = match(sent, codes)
            if problem or at is not None:
                kind = problem or "the answers are not those that were asked for"
                data = sent[at] if at is not None and at < len(sent) else stream
                findings.add(f"mllp door: {kind}", data, f"{len(sent)} messages, message {at}")
            frames += len(sent)
            outcomes.update({f"mllp silent, {asked}": n for asked, n in silent.items()})
            for _ in range(25):
                hook = hooks and mutator.random.random() < 0.4
                path = f"/cds-services/{mutator.random.choice(hooks)}" if hook else "/fhir"
                data = mutator.json(hook_seed(path[26:])) if hook else mutator.fhir()
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
    return {"inputs": seen, "frames": frames, "outcomes": dict(sorted(outcomes.items()))}


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return {} if answer.status_code == 404 else None


def _exchange(port: int, stream: bytes, last: bytes, patience: float) -> tuple[list[str], str]:
    """The letters of the answers to a stream of frames up to its last message; what went wrong."""
    codes: list[str] = []
    control = last.split(b"|")[9]
    with socket.create_connection(("127.0.0.1", port), patience * 4) as connection:
        connection.sendall(stream)
        held = b""
        while True:
            try:
                part = connection.recv(1 << 16)
            except OSError as error:
                return codes, type(error).__name__
            if not part:
                return codes, "closed"
            held += part
            while b"\x1c\r" in held:
                content, _, held = held.partition(b"\x1c\r")
                try:
                    answer = Message.from_bytes(content.lstrip(b"\x0b"))
                except Hl7Error as error:
                    return codes, f"unreadable {error.problem}"
                own = answer.get("MSA")
                codes.append(answer.part(own, 1))
                if codes[-1] not in LETTERS:
                    return codes, f"the answer is {codes[-1]!r}"
                if answer.part(own, 2).encode() == control:
                    return codes, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="for the readers")
    parser.add_argument("--hooks", type=int, default=10_000, help="calls of CDS Hooks")
    parser.add_argument("--doors", type=int, default=5_000, help="over the sockets of a service")
    parser.add_argument("--store", type=int, default=20, help="one in so many is stored and folded")
    parser.add_argument("--patience", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    findings = Findings(args.findings)
    logging.getLogger("foretell.serving").addHandler(_Left(findings))
    # In memory, where it can be: what is tested is what is read, not the disk.
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="ffuzz", dir=fast))
    begun = time.monotonic()
    try:
        readers = Readers(args, findings, folder)
        done, step = 0, 20_000
        while done < args.inputs:
            # Fresh seeds in fixed steps: a finding can be had again without all before it.
            size = min(step, args.inputs - done)
            readers.run(size, args.seed * 10_000_000 + done)
            done += size
            pace = done / (time.monotonic() - begun)
            print(
                f"{done} inputs, {pace:.0f}/s, findings {sum(findings.kinds.values())}", flush=True
            )
        hooks: dict[str, Any] | None = None
        if args.hooks:
            caller = Hooks(folder, args.seed + 2_000_003)
            slowest = asyncio.run(
                caller.run(args.hooks, args.patience, findings.add, findings.error)
            )
            hooks = {"inputs": args.hooks, "outcomes": dict(sorted(caller.outcomes.items())),
                     "slowest_seconds": round(slowest, 3)}  # fmt: skip
            print(f"{args.hooks} calls of hooks", flush=True)
        door = asyncio.run(doors(args, findings, folder)) if args.doors else None
        out = {
            "seed": args.seed, "reader_inputs": done, "seconds": round(time.monotonic() - begun),
            "load": os.getloadavg()[0], "outcomes": dict(sorted(readers.outcomes.items())),
            "stored_and_folded": readers.count // args.store, "events": readers.store.head(),
            "slowest_seconds": round(readers.slowest, 3),
            "slowest_fold_of_100": round(readers.longest, 3), "hooks": hooks, "doors": door,
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
