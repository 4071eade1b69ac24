"""Kills processes of the service at random moments under load, and counts what was lost.

    python benchmarks/soak_serving.py --kills 200 --engine postgres --out docs/soak.json

The sender is the oracle: what was acknowledged must be in the log at the end. It sends some
messages twice, some late, some cut off and some corrupted. In the end the whole log is folded anew
into an empty store, whose scores, outbox and snapshots must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
from bench_serving import T0, TOKEN, Process, drained, message, postgres

from foretell.serving.config import read_config
from foretell.serving.replay import MllpClient
from foretell.serving.service import make_fold
from foretell.serving.store import open_store
from foretell.serving.worker.worker import rebuild

ROLES = {"door": "ingest", "worker a": "worker", "worker b": "worker", "sender": "dispatcher"}
HEADER = {"Authorization": f"Bearer {TOKEN}"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


class Oracle(threading.Thread):
    """Sends for as long as it is not stopped, and remembers what was acknowledged."""

    def __init__(self, mllp: int, http: int, stays: int, rate: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.mllp, self.http, self.stays, self.rate = mllp, http, stays, rate
        self.random = random.Random(seed)
        self.acknowledged: set[str] = set()
        self.waiting: dict[str, bytes] = {}
        self.number = self.hour = self.reconnected = self.bad = 0
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
            except OSError:
                self.reconnected += 1
                time.sleep(0.2)

    def _settle(self, answers: list[tuple[object, str]]) -> None:
        for name, code in answers:
            if code == "AA" and name is not None:
                self.acknowledged.add(str(name))
                self.waiting.pop(str(name), None)

    def _one(self, client: MllpClient) -> None:
        draw = self.random.random()
        if draw < 0.005:
            with MllpClient("127.0.0.1", self.mllp) as other:
                other._socket.sendall(b"\x0b" + message(self.number, self.stays)[:60])
            self.bad += 1
        elif draw < 0.01:
            damaged = bytearray(message(self.number, self.stays))
            for _ in range(5):
                damaged[self.random.randrange(len(damaged))] = self.random.randrange(32, 127)
            with MllpClient("127.0.0.1", self.mllp) as other:
                other.send(bytes(damaged), None)
                other.flush()
            self.bad += 1
        elif draw < 0.06 and self.number > 10:
            past = self.random.randrange(max(self.number - 300, 0), self.number)
            self._settle(client.send(message(past, self.stays), None))
        else:
            control, content = str(self.number), message(self.number, self.stays, 60.0)
            self.number += 1
            self.waiting[control] = content
            # Some wait until the next connection, and come late.
            if self.random.random() > 0.02:
                self._settle(client.send(content, control))
            hour = int((self.number // self.stays) * 60 / 3600)
            if hour > self.hour:
                self._settle(client.flush())
                try:
                    moment = {"time": T0 + 3600.0 * hour}
                    url = f"http://127.0.0.1:{self.http}/v1/clock"
                    httpx.post(url, json=moment, headers=HEADER, timeout=20).raise_for_status()
                    self.hour = hour
                except httpx.HTTPError:
                    time.sleep(0.2)
            time.sleep(1 / self.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=5, help="of the database")
    parser.add_argument("--stays", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fsoak"))
    address, end = str(folder / "s.db"), []
    if args.engine == "postgres":
        address, end = postgres(folder)
    ports = {"mllp": free_port(), "http": free_port()}
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    configs = {}
    for name in ROLES:
        door = name == "door"
        text = (
            f'[service]\nstore = "{address}"\nclock = "external"\ntick_seconds = 1.0\n'
            f"[mllp]\nport = {ports['mllp'] if door else 0}\n"
            f"[http]\nport = {ports['http'] if door else 0}\n"
            f'[alarms]\nthreshold = 0.2\n[[tokens]]\nname = "soak"\nsha256 = "{digest}"\n'
            'scopes = ["admin", "read"]\n'
        )
        configs[name] = folder.parent / f"{folder.name}-{name.replace(' ', '-')}.toml"
        configs[name].write_text(text)
    draw = random.Random(args.seed)
    running = {name: Process(configs[name], roles) for name, roles in ROLES.items()}
    oracle = Oracle(ports["mllp"], ports["http"], args.stays, args.rate, args.seed)
    oracle.start()
    begun = time.monotonic()
    killed = dict.fromkeys(ROLES, 0)
    restarted = 0
    try:
        for i in range(args.kills):
            time.sleep(draw.uniform(0.1, 1.5))
            name = draw.choice(list(ROLES))
            os.kill(running[name].process.pid, signal.SIGKILL)
            running[name].process.wait()
            killed[name] += 1
            if end and restarted < args.restarts and i >= args.kills * restarted / args.restarts:
                restarted += 1
                restart = [*end[:-1], "restart"]
                restart[restart.index("-m") + 1] = "immediate"
                subprocess.run(restart, cwd="/", stdout=subprocess.DEVNULL, check=True)
            running[name] = Process(configs[name], ROLES[name])
            print(f"\r{i + 1} kills, {len(oracle.acknowledged)} acknowledged", end="", flush=True)
        oracle.stop.set()
        oracle.join(300)
        store = open_store(address)
        httpx.post(f"http://127.0.0.1:{ports['http']}/v1/clock", headers=HEADER, timeout=60,
                   json={"time": T0 + 3600.0 * (oracle.hour + 2)})  # fmt: skip
        drained(store)
        known = {r[0] for r in store._run("SELECT control FROM message")}
        keys = [n.key for n in store.notes(0, 10**9) if n.kind == "alarm"]
        again = open_store(folder.parent / f"{folder.name}-again.db")
        events = rebuild(store, again, lambda: make_fold(read_config(configs["door"])))
        out = {
            "engine": args.engine, "kills": killed, "database_restarts": restarted,
            "seconds": time.monotonic() - begun, "messages": oracle.number,
            "acknowledged": len(oracle.acknowledged), "damaged": oracle.bad,
            "connections_lost": oracle.reconnected,
            "acknowledged_and_lost": len(oracle.acknowledged - known),
            "events": events, "alarms": len(keys), "alarms_doubled": len(keys) - len(set(keys)),
            "replay_is_identical": again.fingerprint() == store.fingerprint(),
        }  # fmt: skip
        print("\n" + json.dumps(out, indent=2))
        if args.out is not None:
            args.out.write_text(json.dumps(out, indent=2) + "\n")
        lost = out["acknowledged_and_lost"] or out["alarms_doubled"]
        if lost or not out["replay_is_identical"] or oracle.waiting:
            raise SystemExit("something was lost")
    finally:
        oracle.stop.set()
        for process in running.values():
            process.process.kill()
            process.process.wait()
        if end:
            subprocess.run(end, cwd="/", stdout=subprocess.DEVNULL, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        for file in folder.parent.glob(f"{folder.name}-*"):
            file.unlink()


if __name__ == "__main__":
    main()
