"""Event logs: build, store, open, look at a moment, emit training rows, batch and live.

    python benchmarks/bench_events.py --entities 10000000
    python benchmarks/bench_events.py --entities 1000000 --live 200000

The peer of emission is the queue that teams write by hand: one Python object an event, a heap of
what falls due. It is run on the first ``--live`` entities, as is the live engine; both must give
the same rows.
"""

from __future__ import annotations

import argparse
import heapq
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from _common import load, peak_mib, save

WINDOW, WAIT, HOURS = 96.0, 6.0, 720.0


def simulate(entities: int, features: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, HOURS, entities))
    columns = {f"x{j}": rng.random(entities, np.float32) for j in range(features)}
    table = pl.DataFrame({"id": np.arange(entities), "t": t, **columns})
    parts = []
    for kind, share, mean in (("view", 0.5, 3.0), ("conversion", 0.15, 30.0)):
        chosen = np.flatnonzero(rng.random(entities) < share)
        moments = t[chosen] + rng.exponential(mean, len(chosen))
        parts.append(
            pl.DataFrame({"id": chosen, "t_outcome": moments}).with_columns(
                pl.lit(kind).alias("kind")
            )
        )
    return table, pl.concat(parts)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def by_hand(entities: pl.DataFrame, outcomes: pl.DataFrame) -> list[tuple[float, int, int]]:
    """The rows of ES-DFM with a heap: (time, id, label)."""
    due: list[tuple[float, int, int]] = []
    for name, t in zip(entities["id"].to_list(), entities["t"].to_list(), strict=True):
        heapq.heappush(due, (t + WAIT, 1, name))
    for name, t in zip(outcomes["id"].to_list(), outcomes["t_outcome"].to_list(), strict=True):
        heapq.heappush(due, (t, 0, name))
    exposed = dict(zip(entities["id"].to_list(), entities["t"].to_list(), strict=True))
    converted: dict[int, float] = {}
    emitted: set[int] = set()
    rows = []
    while due:
        t, first, name = heapq.heappop(due)
        if first:
            emitted.add(name)
            rows.append((t, name, int(name in converted)))
        elif name not in converted and t <= exposed[name] + WINDOW:
            converted[name] = t
            if name in emitted:
                rows.append((t, name, 1))
    return rows


def live(log: Any, entities: pl.DataFrame, outcomes: pl.DataFrame, step: float) -> list[Any]:
    from foretell.data import EmissionEngine

    engine = EmissionEngine(log, "esdfm", WAIT)
    outcomes = outcomes.sort("t_outcome")
    edges = np.arange(0, HOURS + WINDOW + 2 * step, step)
    first = np.searchsorted(entities["t"].to_numpy(), edges, side="right")
    second = np.searchsorted(outcomes["t_outcome"].to_numpy(), edges, side="right")
    rows = []
    for i in range(1, len(edges)):
        engine.push_entities(entities[first[i - 1] : first[i]])
        engine.push_outcomes(outcomes[second[i - 1] : second[i]])
        rows.append(engine.advance(edges[i]))
    return rows


def main() -> None:
    from foretell.data import PROTOCOLS, EventLog, Protocol, open_events, write_events

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--live", type=int, default=200_000, help="entities of the live comparison")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one where not given")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench_events"))
    n = options.entities
    figures: dict[str, Any] = {"entities": n, "features": options.features, "load": load()}

    def show(name: str, seconds: float, text: str = "") -> None:
        figures[name] = seconds
        print(f"{name:34s} {seconds:10.4f} s   {text}", flush=True)

    try:
        seconds, (entities, outcomes) = timed(lambda: simulate(n, options.features))
        show("simulate", seconds, f"{n:,} entities, {len(outcomes):,} outcomes")
        settings: dict[str, Any] = {"attribution_window": WINDOW, "unit": "h"}
        seconds, log = timed(lambda e=entities, o=outcomes: EventLog.from_frames(e, o, **settings))
        show("from_frames", seconds, f"{n / seconds:,.0f} entities a second")
        small = entities[: options.live], outcomes.filter(pl.col("id") < options.live)
        del entities, outcomes
        seconds, _ = timed(lambda: write_events(log, folder / "log", overwrite=True))
        size = sum(f.stat().st_size for f in (folder / "log").iterdir())
        show("write_events", seconds, f"{size / 2**20:,.0f} MiB")
        del log
        seconds, log = timed(lambda: open_events(folder / "log"))
        show("open_events", seconds)
        seconds, _ = timed(lambda: [log.until(h) for h in np.linspace(1, HOURS, 1000)])
        show("until, each of 1,000", seconds / 1000)
        rng = np.random.default_rng(0)
        seconds, _ = timed(lambda: [log.matrix(rng.integers(0, n, 1024)) for _ in range(50)])
        show("matrix of 1,024 random rows", seconds / 50)
        for name in PROTOCOLS:
            kinds = ("view",) if name == "funnel" else ()
            ages = (24.0, 48.0) if name == "ages" else ()
            protocol = Protocol(name, WAIT, kinds, ages=ages)
            seconds, rows = timed(lambda p=protocol: log.emit(p))
            show(f"emit {name}", seconds, f"{len(rows) / seconds:,.0f} rows a second")
            del rows
        seconds, count = timed(
            lambda: sum(len(log.emit("esdfm", WAIT, since=h, until=h + 1)) for h in range(200, 300))
        )
        show("emit esdfm by the hour, each", seconds / 100, f"{count / seconds:,.0f} rows a second")

        events = len(small[0]) + len(small[1])
        part = EventLog.from_frames(*small, **settings)
        conversions = small[1].filter(pl.col("kind") == "conversion")
        seconds, batch = timed(lambda: part.emit("esdfm", WAIT))
        show("batch of the live part", seconds, f"{events / seconds:,.0f} events a second")
        peer, rows = timed(lambda: by_hand(small[0], conversions))
        show("queue by hand", peer, f"{events / peer:,.0f} events a second")
        mine = list(zip(batch.time.tolist(), batch.ids.tolist(), batch.label.tolist(), strict=True))
        assert sorted(rows) == sorted(mine)
        figures["batch / queue"] = peer / seconds
        step = HOURS * 1000 / max(options.live, 1000)  # a thousand entities an advance
        seconds, pieces = timed(lambda: live(part, *small, step))
        assert sum(len(p) for p in pieces) == len(batch)
        np.testing.assert_array_equal(np.concatenate([p.time for p in pieces]), batch.time)
        show("live engine", seconds, f"{events / seconds:,.0f} events a second")
        figures["live / queue"] = peer / seconds
        figures["peak_mib"] = peak_mib()
        print(
            f"batch is {figures['batch / queue']:.1f} times as fast as the queue by hand, the live "
            f"engine (features and state kept) {figures['live / queue']:.2f} times; peak memory "
            f"{figures['peak_mib']:,.0f} MiB; load {figures['load']}"
        )
        save(options.out, figures)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
