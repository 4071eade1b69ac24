"""The service under load: ingest to commit, drain of a backlog, ingest to score, memory.

    python benchmarks/bench_serving.py --engine sqlite --messages 20000 --out results.json

Door and worker are processes of their own for the backlog, and one process for what comes after it;
PostgreSQL is started here where it is asked for. Messages are ORU^R01 with five results each; every
stay is heard every five minutes of the feed, and hours pass.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from _service import Postgres

from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.replay import MllpClient
from foretell.serving.store import open_store

TOKEN = "bench"
T0 = 1_767_225_600.0
CODES = (("8867-4", 80.0, "/min"), ("9279-1", 16.0, "/min"), ("8480-6", 120.0, "mm[Hg]"),
         ("8310-5", 37.2, "Cel"), ("59408-5", 99.0, "%"))  # fmt: skip
STEPS = {"8867-4": 1.0, "9279-1": 0.5, "8480-6": 1.0, "8310-5": 0.1, "59408-5": -0.5}
"""By what the twenty-three values of a channel differ: all of them possible in a patient."""


def message(number: int, patients: int, every: float, prefix: str = "") -> bytes:
    """One of a stream in which every patient is heard ``every`` so many seconds of the feed."""
    turn, patient = divmod(number, patients)
    step = (number * 7 + turn) % 23
    results = [Result(c, round(v + step * STEPS[c], 1), u) for c, v, u in CODES]
    return result_message(
        "BENCH", f"P{patient}", results, time=T0 + turn * every, control=f"{prefix}{number}"
    )


class Process:
    def __init__(self, config: Path, roles: str, run: Path | None = None) -> None:
        code = "from foretell.cli import app; app()"
        command = [sys.executable, "-c", code, "serve", "--config", str(config), "--roles", roles]
        if run is not None:
            command.append(str(run))
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=open(f"{config}.log", "a"), text=True, env=env
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready"):
                pairs = (p.split("=") for p in line.split()[1:])
                self.ports = {n: int(v) for n, v in pairs}
                return
        raise SystemExit(f"{roles} did not start: {Path(f'{config}.log').read_text()[-1500:]}")

    def memory(self) -> float:
        """Most resident MB so far."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)


def send_all(port: int, contents: list[bytes], connections: int = 4) -> float:
    """Seconds from the first byte to the last acknowledgement."""
    failed = []

    def run(part: list[bytes]) -> None:
        with MllpClient("127.0.0.1", port, window=64, timeout=300) as client:
            for content in part:
                failed.extend(c for _, c in client.send(content) if c != "AA")
            failed.extend(c for _, c in client.flush() if c != "AA")

    threads = [
        threading.Thread(target=run, args=(contents[i::connections],)) for i in range(connections)
    ]
    begun = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed[:3]
    return time.monotonic() - begun


def backlog(door: Process, args: argparse.Namespace) -> float:
    """Sends all messages, an hour of the feed at once, and after each tells the time.

    Returns:
        Seconds between first byte and last acknowledgement, the ticks left out.
    """
    hour = max(round(3600 / args.every), 1) * args.stays
    seconds = 0.0
    for begin in range(0, args.messages, hour):
        end = min(begin + hour, args.messages)
        contents = [message(i, args.stays, args.every) for i in range(begin, end)]
        seconds += send_all(door.ports["mllp"], contents)
        if end - begin == hour:
            tick(door, T0 + end // args.stays * args.every)
    return seconds


def tick(door: Process, moment: float) -> None:
    """Tells the service what time it is."""
    httpx.post(
        f"http://127.0.0.1:{door.ports['http']}/v1/clock", json={"time": moment}, timeout=60,
        headers={"Authorization": f"Bearer {TOKEN}"},
    ).raise_for_status()  # fmt: skip


def drained(store, every: float = 0.05) -> None:
    while store.counts()["lag"] > 0:
        time.sleep(every)


def quantile(text: str, name: str, q: float) -> tuple[float, int]:
    """Upper bound of the bucket that holds a quantile, and the number of observations."""
    buckets = []
    for line in text.splitlines():
        if line.startswith(f"{name}_bucket"):
            bound = float(line.split('le="')[1].split('"')[0])
            buckets.append((bound, float(line.split()[-1])))
    total = buckets[-1][1]
    return next((b for b, n in buckets if n >= q * total), float("inf")), int(total)


def measure(engine: str, args: argparse.Namespace) -> dict:
    folder = Path(tempfile.mkdtemp(prefix="fbench"))
    server = Postgres(folder) if engine == "postgres" else None
    address = str(folder / "store.db") if server is None else server.address
    config = folder.parent / f"{folder.name}.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    config.write_text(
        f'[service]\nstore = "{address}"\nclock = "external"\n[mllp]\nport = 0\n[http]\nport = 0\n'
        f'[[tokens]]\nname = "bench"\nsha256 = "{digest}"\nscopes = ["admin", "read"]\n'
    )
    out: dict = {
        "engine": engine,
        "messages": args.messages,
        "results_per_message": len(CODES),
        "scorer": "news2" if args.run is None else str(args.run.name),
    }
    processes: list[Process] = []
    try:
        door = Process(config, "ingest", args.run)
        processes.append(door)
        store = open_store(address)
        out["load_before"] = os.getloadavg()[0]
        out["ingest_per_second"] = args.messages / backlog(door, args)
        print(engine, "ingest/s", round(out["ingest_per_second"]), flush=True)
        assert store.counts()["quarantined"] == 0, "all results of the load must be possible"
        begun = time.monotonic()  # a worker's start belongs to the time a backlog takes
        workers = [Process(config, "worker", args.run) for _ in range(args.workers)]
        processes += workers
        drained(store, every=0.5)
        out["workers"] = args.workers
        out["drain_per_second"] = args.messages / (time.monotonic() - begun)
        print(engine, "drain/s", round(out["drain_per_second"]), flush=True)
        out["worker_peak_mb"] = max(worker.memory() for worker in workers)
        out["door_peak_mb"] = door.memory()
        out["open_stays"] = store.counts()["stays"]
        for process in processes:
            process.stop()
        processes.clear()
        # One process, as it runs at most sites; its histogram knows nothing of the backlog.
        whole = Process(config, "ingest,worker,dispatcher", args.run)
        processes.append(whole)
        time.sleep(2)
        count = int(args.rate * args.seconds)
        with MllpClient("127.0.0.1", whole.ports["mllp"], timeout=60) as client:
            begun = time.monotonic()
            for i in range(count):
                pause = i / args.rate - (time.monotonic() - begun)
                if pause > 0:
                    time.sleep(pause)
                client.send(message(args.messages + i, args.stays, args.every, "l"))
            client.flush()
        drained(store)
        time.sleep(0.5)
        text = httpx.get(f"http://127.0.0.1:{whole.ports['http']}/metrics").text
        name = "foretell_ingest_to_score_seconds"
        for q in (0.5, 0.95, 0.99):
            bound, seen = quantile(text, name, q)
            out[f"score_p{round(q * 100)}_at_most"] = bound
        out["score_observations"], out["rate"] = seen, args.rate
        begun = time.monotonic()
        tick(whole, T0 + (args.messages // args.stays) * args.every + 3700)
        drained(store)
        out["hour_of_all_stays_seconds"] = time.monotonic() - begun
        out["one_process_peak_mb"] = whole.memory()
        out["load_after"] = os.getloadavg()[0]
        store.close()
    finally:
        for process in processes:
            process.stop()
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        config.unlink()
        Path(f"{config}.log").unlink(missing_ok=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--stays", type=int, default=5_000)
    parser.add_argument("--every", type=float, default=300.0, help="seconds between a stay's")
    parser.add_argument("--run", type=Path, help="folder of a run whose model scores")
    parser.add_argument("--workers", type=int, default=1, help="that share the backlog")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    engines = ("sqlite", "postgres") if args.engine == "both" else (args.engine,)
    results = [measure(engine, args) for engine in engines]
    print(json.dumps(results, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
