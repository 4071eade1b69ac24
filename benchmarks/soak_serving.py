"""Kills processes of the service at random moments under load, and counts what was lost.

    python benchmarks/soak_serving.py --kills 200 --engine postgres --out results.json

The sender is the oracle: what was acknowledged must be in the log at the end. It sends some
messages twice, some late and out of order, some corrected, some cut off and some corrupted. Beside
``kill -9`` of single processes and of all at once, workers are paused until others have taken over,
the database is stopped at once and started again, files cannot grow, as on a full disk, and wrong
times are told. In the
end the whole log is folded anew into an empty store, whose scores, outbox and snapshots must be the
same, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import httpx
from _service import Nursery, Postgres, Running, children, full_disk
from bench_serving import CODES, T0, TOKEN, drained, message

from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.config import read_config
from foretell.serving.errors import ServingError
from foretell.serving.replay import MllpClient
from foretell.serving.service import make_fold
from foretell.serving.store import Store, open_store
from foretell.serving.worker.worker import rebuild

ROLES = {"door": "ingest", "worker a": "worker", "worker b": "worker", "sender": "dispatcher"}
HEADER = {"Authorization": f"Bearer {TOKEN}"}
SPREAD = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


class Oracle(threading.Thread):
    """Sends for as long as it is not stopped, and remembers what was acknowledged."""

    def __init__(self, mllp: int, http: int, stays: int, rate: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.mllp, self.http, self.stays, self.rate = mllp, http, stays, rate
        self.random = random.Random(seed)
        self.acknowledged: set[tuple[str, bytes]] = set()
        self.waiting: dict[str, bytes] = {}
        self.number = self.hour = self.reconnected = self.refused = 0
        self.sent = dict.fromkeys(("new", "repeated", "late", "corrected", "cut off", "corrupted"),
                                  0)  # fmt: skip
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set() or self.waiting:
            try:
                with MllpClient("127.0.0.1", self.mllp, window=32, timeout=20) as client:
                    for control, content in list(self.waiting.items()):
                        self._settle(client.send(content, control))
                    self._settle(client.flush())
                    while not self.stop.is_set():
                        self._one(client)
            except (OSError, ServingError):
                self.reconnected += 1
                time.sleep(0.2)

    def _settle(self, answers: list[tuple[object, str]]) -> None:
        for name, code in answers:
            if code == "AA" and name is not None:
                content = self.waiting.pop(str(name), None)
                if content is not None:
                    key = hashlib.sha256(content).digest()[:16]
                    self.acknowledged.add((str(name), key))
            elif code != "AA":
                self.refused += 1

    def _correction(self, control: str) -> bytes:
        past = self.random.randrange(max(self.number - 2000, 0), self.number)
        turn, patient = divmod(past, self.stays)
        code, value, unit = self.random.choice(CODES)
        wrong = self.random.choice("CCD")
        result = Result(code, value + self.random.randrange(60), unit, None, wrong)
        now = T0 + (self.number // self.stays) * SPREAD
        return result_message("BENCH", f"P{patient}", [result], time=T0 + turn * SPREAD,
                              control=control, order=str(past), sent=now)  # fmt: skip

    def _one(self, client: MllpClient) -> None:
        draw = self.random.random()
        if draw < 0.005:
            with MllpClient("127.0.0.1", self.mllp) as other:
                part = b"\x0b" + message(self.number, self.stays, SPREAD)
                other._socket.sendall(part[: self.random.randrange(1, len(part))])
            self.sent["cut off"] += 1
        elif draw < 0.01:
            damaged = bytearray(message(self.number, self.stays, SPREAD))
            for _ in range(5):
                damaged[self.random.randrange(len(damaged))] = self.random.randrange(32, 127)
            with contextlib.suppress(ServingError):
                with MllpClient("127.0.0.1", self.mllp) as other:
                    other.send(bytes(damaged), None)
                    other.flush()
            self.sent["corrupted"] += 1
        elif draw < 0.06 and self.number > 10:
            past = self.random.randrange(max(self.number - 300, 0), self.number)
            self._settle(client.send(message(past, self.stays, SPREAD), None))
            self.sent["repeated"] += 1
        else:
            control = str(self.number)
            if draw < 0.09 and self.number > 10:
                content = self._correction(control)
                self.sent["corrected"] += 1
            else:
                content = message(self.number, self.stays, SPREAD)
                self.sent["new"] += 1
            self.number += 1
            self.waiting[control] = content
            # Some wait until the next connection, and come late and out of order.
            if self.random.random() > 0.02:
                self._settle(client.send(content, control))
            else:
                self.sent["late"] += 1
            hour = int((self.number // self.stays) * SPREAD / 3600)
            if hour > self.hour:
                self._settle(client.flush())
                try:
                    self.tick(hour)
                except httpx.HTTPError:
                    time.sleep(0.2)
            time.sleep(1 / self.rate)

    def tick(self, hour: int) -> None:
        """Says that an hour has passed."""
        url = f"http://127.0.0.1:{self.http}/v1/clock"
        moment = {"time": T0 + 3600.0 * hour}
        httpx.post(url, json=moment, headers=HEADER, timeout=20).raise_for_status()
        self.hour = hour


class Campaign:
    """What is done to the service."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.random = random.Random(args.seed)
        self.database = Postgres(folder) if args.engine == "postgres" else None
        address = str(folder / "s.db") if self.database is None else self.database.address
        self.address = address
        self.ports = {"mllp": free_port(), "http": free_port()}
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        self.configs: dict[str, Path] = {}
        for name in ROLES:
            door = name == "door"
            text = (
                f'[service]\nstore = "{address}"\nclock = "external"\ntick_seconds = 1.0\n'
                f"[mllp]\nport = {self.ports['mllp'] if door else 0}\n"
                f"[http]\nport = {self.ports['http'] if door else 0}\n"
                f'[alarms]\nthreshold = 0.2\n[[tokens]]\nname = "soak"\nsha256 = "{digest}"\n'
                'scopes = ["admin", "read"]\n'
            )
            self.configs[name] = folder.parent / f"{folder.name}-{name.replace(' ', '-')}.toml"
            self.configs[name].write_text(text)
        self.nursery = Nursery()
        self.running: dict[str, Running] = {}
        for name in ROLES:
            self.start(name)
        self.done = {**dict.fromkeys(ROLES, 0), "all at once": 0, "paused": 0,
                     "database restarts": 0, "full disk": 0, "clock jumps": 0}  # fmt: skip
        self.takeovers: list[float] = []
        self.oracle: Oracle
        self.store = open_store(address)

    def start(self, name: str) -> None:
        self.running[name] = self.nursery.start(self.configs[name], ROLES[name])

    @property
    def kills(self) -> int:
        """Processes killed so far."""
        return sum(self.done[n] for n in ROLES) + len(ROLES) * self.done["all at once"]

    def _owners(self) -> dict[int, tuple[str | None, int]]:
        rows = self.store._run("SELECT part, owner, token FROM lease WHERE kind = 'work'")
        return {int(p): (o, int(t)) for p, o, t in rows}

    def step(self) -> None:
        """Does something bad, and mends it."""
        draw = self.random.random()
        if draw < 0.04:
            for one in self.running.values():
                one.signal(signal.SIGKILL)
            for one in self.running.values():
                one.kill()
            self.done["all at once"] += 1
            for name in ROLES:
                self.start(name)
        elif draw < 0.12:
            self._pause(self.random.choice(("worker a", "worker b")))
        elif draw < 0.15 and self.database is not None:
            self.database.restart()
            self.done["database restarts"] += 1
        elif draw < 0.18:
            self._full()
        elif draw < 0.21:
            self._jump()
        else:
            name = self.random.choice(list(ROLES))
            self.running[name].kill()
            self.done[name] += 1
            self.start(name)

    def _pause(self, name: str) -> None:
        """Stops a worker until others hold all it had, then lets it go on."""
        pid = self.running[name].pid
        with contextlib.suppress(ServingError):
            before = {p: o for p, o in self._owners().items() if o[0] and f"-{pid}-" in o[0]}
            os.kill(pid, signal.SIGSTOP)
            begun = time.monotonic()
            try:
                while time.monotonic() - begun < 30:
                    now = self._owners()
                    if all(now[p][1] > token for p, (_, token) in before.items()):
                        if before:
                            self.takeovers.append(time.monotonic() - begun)
                        break
                    time.sleep(0.05)
            finally:
                os.kill(pid, signal.SIGCONT)
            self.done["paused"] += 1

    def _jump(self) -> None:
        """Says a wrong time: ten hours ago, or two hours on."""
        try:
            hour = self.oracle.hour + self.random.choice((-10, 2))
            url = f"http://127.0.0.1:{self.ports['http']}/v1/clock"
            moment = {"time": T0 + 3600.0 * max(hour, 0)}
            httpx.post(url, json=moment, headers=HEADER, timeout=20).raise_for_status()
        except httpx.HTTPError:
            return  # the door is not there
        self.done["clock jumps"] += 1

    def _full(self) -> None:
        pids = [one.pid for one in self.running.values()]
        if self.database is not None:
            pids = children(self.database.pid)[1:]
        # Far below what the files have: whatever is appended to them fails.
        try:
            full_disk(pids, 4096)
        except PermissionError:
            return  # another user's processes may be out of reach
        time.sleep(self.random.uniform(0.3, 1.5))
        full_disk(pids, None)
        self.done["full disk"] += 1

    def close(self) -> None:
        for one in self.running.values():
            one.kill()
        self.nursery.close()
        self.store.close()
        if self.database is not None:
            self.database.stop()
        for file in self.folder.parent.glob(f"{self.folder.name}-*"):
            file.unlink()


def differences(one: Store, other: Store) -> dict[str, list[str]]:
    """The first rows that differ, by table."""
    tables = {
        "score": "site, patient, stay, hour, time, risk, issued, status, model, reason, drivers",
        "outbox": "site, patient, key, kind, time, body", "state": "site, patient, due, shown",
    }  # fmt: skip
    out = {}
    for table, columns in tables.items():
        sql = f"SELECT {columns} FROM {table}"
        mine, theirs = ({repr(r) for r in s._run(sql)} for s in (one, other))
        if mine != theirs:
            out[table] = [*sorted(mine - theirs)[:3], "not:", *sorted(theirs - mine)[:3]]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stays", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--most", type=float, default=1.5, help="seconds between two faults")
    parser.add_argument("--seconds", type=float, default=1800, help="after which to stop killing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fsoak"))
    load = os.getloadavg()[0]
    campaign = Campaign(args, folder)
    ports = campaign.ports
    oracle = Oracle(ports["mllp"], ports["http"], args.stays, args.rate, args.seed)
    campaign.oracle = oracle
    oracle.start()
    begun = time.monotonic()
    try:
        while campaign.kills < args.kills and time.monotonic() - begun < args.seconds:
            time.sleep(campaign.random.uniform(0.1, args.most))
            campaign.step()
            told = f"{campaign.kills} kills, {len(oracle.acknowledged)} acknowledged"
            print(f"\r{told}", end="", flush=True)
        oracle.stop.set()
        oracle.join(300)
        store = open_store(campaign.address)
        oracle.tick(oracle.hour + 2)
        drained(store)
        seconds = time.monotonic() - begun
        known = {(r[0], bytes(r[1])) for r in store._run("SELECT control, content FROM message")}
        keys = [n.key for n in store.notes(0, 10**9) if n.kind == "alarm"]
        again = open_store(folder.parent / f"{folder.name}-again.db")
        fold = make_fold(read_config(campaign.configs["door"]))
        events = rebuild(store, again, lambda: fold)
        same = again.fingerprint() == store.fingerprint()
        kills = {n: campaign.done[n] for n in (*ROLES, "all at once")}
        rest = {n: k for n, k in campaign.done.items() if n not in kills}
        log = "".join(f.read_text("utf-8", "replace")
                      for f in folder.parent.glob(f"{folder.name}-*.log"))  # fmt: skip
        out = {
            "engine": args.engine, "seed": args.seed, "processes_killed": campaign.kills,
            "kills": kills, "faults": rest, "seconds": round(seconds), "load_before": load,
            "messages": oracle.sent, "acknowledged": len(oracle.acknowledged),
            "refused_and_sent_again": oracle.refused, "connections_lost": oracle.reconnected,
            "takeover_seconds": {"median": round(statistics.median(campaign.takeovers), 2),
                                 "most": round(max(campaign.takeovers), 2)}
            if campaign.takeovers else None,
            "writes_fenced": log.count("a lease was lost"),
            "events_left_out": log.count("is left out"),
            "acknowledged_and_lost": len(oracle.acknowledged - known),
            "never_acknowledged": len(oracle.waiting),
            "events": events, "alarms": len(keys), "alarms_doubled": len(keys) - len(set(keys)),
            "replay_is_identical": same,
        }  # fmt: skip
        print("\n" + json.dumps(out, indent=2))
        if not same:
            print(json.dumps(differences(store, again), indent=2))
        if args.out is not None:
            args.out.write_text(json.dumps(out, indent=2) + "\n")
        lost = out["acknowledged_and_lost"] or out["alarms_doubled"] or oracle.waiting
        if lost or not same:
            raise SystemExit("something was lost")
    finally:
        oracle.stop.set()
        campaign.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
