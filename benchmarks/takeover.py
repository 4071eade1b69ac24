"""Kills one of two workers, and measures how long its patients are without a worker.

    python benchmarks/takeover.py --rounds 20 --out benchmarks/results/takeover.json

From ``kill -9`` to the moment at which the other worker has folded a result of a patient in each of
the partitions that the dead one held; on SQLite and on PostgreSQL. Wanted are 5 seconds at most.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from _service import Nursery, Postgres, Running

from foretell.serving.events import MEASURED, NewEvent, digest, partition_of
from foretell.serving.store import Store, open_store

T0 = 1_767_225_600.0
PARTITIONS = 16
SITE = "BENCH"


def patients() -> dict[int, str]:
    """A patient of each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTITIONS:
        name = f"P{number}"
        found.setdefault(partition_of(SITE, name, PARTITIONS), name)
        number += 1
    return found


def owned(store: Store, pid: int) -> list[int]:
    """Partitions that a process holds."""
    rows = store._run("SELECT part, owner FROM lease WHERE kind = 'work' AND owner IS NOT NULL")
    return sorted(int(p) for p, owner in rows if f"-{pid}-" in owner)


def shared(store: Store, running: list[Running], patience: float = 120.0) -> None:
    """Waits until both workers hold half of the partitions."""
    end = time.monotonic() + patience
    while any(len(owned(store, one.pid)) != PARTITIONS // 2 for one in running):
        if time.monotonic() > end:
            raise SystemExit("the partitions were not shared")
        time.sleep(0.05)


def tell(store: Store, names: list[str], turn: int) -> int:
    """A result for each patient; returns the last event's number."""
    events = []
    for name in names:
        time_ = T0 + 60.0 * turn
        item = [digest(name, turn).hex()[:16], "HR", 80.0 + turn % 40, time_, time_, 1]
        events.append(NewEvent(SITE, name, MEASURED, time_, {"visit": None},
                               [(digest("k", name, turn), item)]))  # fmt: skip
    store.append_events(events)
    return store.head()


def folded(store: Store, parts: list[int]) -> bool:
    """Whether nothing of some partitions waits."""
    marks = ", ".join(str(p) for p in parts)
    rows = store._run(
        f"SELECT COUNT(*) FROM event e JOIN lease l ON l.part = e.part AND l.kind = 'work' "
        f"WHERE e.part IN ({marks}) AND e.seq > l.applied"
    )
    return rows[0][0] == 0


def measure(engine: str, rounds: int, seed: int) -> dict:
    """The seconds of some kills on an engine."""
    folder = Path(tempfile.mkdtemp(prefix="ftake"))
    database = Postgres(folder) if engine == "postgres" else None
    address = str(folder / "s.db") if database is None else database.address
    config = folder.parent / f"{folder.name}.toml"
    config.write_text(
        f'[service]\nstore = "{address}"\npartitions = {PARTITIONS}\nclock = "external"\n'
        "[mllp]\nport = 0\n[http]\nport = 0\n"
    )
    rng, nursery, people = random.Random(seed), Nursery(), patients()
    running: list[Running] = []
    seconds = []
    try:
        running = [nursery.start(config, "worker") for _ in range(2)]
        store = open_store(address, partitions=PARTITIONS)
        for turn in range(rounds):
            shared(store, running)
            # At any moment between two renewals of its leases.
            time.sleep(rng.uniform(0.0, 1.5))
            victim = running.pop(0)
            parts = owned(store, victim.pid)
            begun = time.monotonic()
            victim.kill()
            tell(store, [people[p] for p in parts], turn)
            while not folded(store, parts):
                if time.monotonic() - begun > 60:
                    raise SystemExit("nobody took over")
                time.sleep(0.01)
            seconds.append(time.monotonic() - begun)
            print(f"{engine} {turn + 1}: {seconds[-1]:.2f} s", flush=True)
            running.append(nursery.start(config, "worker"))
        store.close()
    finally:
        for one in running:
            one.kill()
        nursery.close()
        if database is not None:
            database.stop()
        shutil.rmtree(folder, ignore_errors=True)
        for file in folder.parent.glob(f"{folder.name}*"):
            file.unlink()
    return {
        "engine": engine, "kills": len(seconds), "median": round(statistics.median(seconds), 2),
        "most": round(max(seconds), 2), "within_5_seconds": sum(s <= 5 for s in seconds),
        "seconds": [round(s, 2) for s in seconds],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--engines", default="sqlite,postgres")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    out = {
        "lease_seconds": 3.0, "partitions": PARTITIONS, "load_before": round(load, 1),
        "cores": os.cpu_count(),
        "takeover": [measure(e, args.rounds, args.seed) for e in args.engines.split(",")],
    }  # fmt: skip
    print(json.dumps(out, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
