"""Whether the watch for drift finds what changed, leaves in peace what did not, and what it costs.

    python benchmarks/drift_watch.py ../shared/data --out benchmarks/results/drift_watch.json

Hospital A of the 2019 challenge, patients in two halves by hash: one is the reference, stays of the
other arrive at random, about 150 at once, and are looked at in days that do not overlap, by blocks
of 12 hours that end in each. Scores are NEWS2's share of its points. Then the same days with a
fault in all their hours, and days of hospital B. What a look costs is measured on a store with
5,000 stays of a day, in seconds of the processor.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, save

from foretell.data.clinical import Stays
from foretell.data.clinical.schema import Schema
from foretell.data.public import physionet2019
from foretell.decisions.abstention import DriftMonitor, blocks
from foretell.learners.risk.early_warning import EarlyWarningScore
from foretell.serving.config import DriftConfig
from foretell.serving.drift import DriftWatch
from foretell.serving.store import open_store
from foretell.serving.store.base import CellRow, Effects, ScoreRow, StateRow
from foretell.serving.worker.state import Measured

BEDS, DAY, BLOCK = 150, 24, 12


def half(stays: Stays) -> np.ndarray:
    """(N,) whether a stay's patient is of the reference."""
    return np.array([hashlib.sha256(str(p).encode()).digest()[0] < 128 for p in stays.patients])


def rows_of(stays: Stays) -> np.ndarray:
    """Numbers of the rows of whole blocks."""
    keep = [
        np.arange(begin, begin + length // BLOCK * BLOCK)
        for begin, length in zip(stays.offsets[:-1], stays.lengths, strict=True)
    ]
    return np.concatenate(keep)


def days(stays: Stays, most: int, seed: int = 0) -> list[np.ndarray]:
    """Numbers of the blocks that end in each day, where stays arrive at random."""
    parts = stays.lengths // BLOCK
    rng = np.random.default_rng(seed)
    horizon = stays.lengths.sum() / BEDS
    arrival = np.repeat(rng.uniform(0, horizon, len(stays)), parts)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    end = arrival + BLOCK * (number + 1) + 2
    # Not while the ward fills, and not after the last arrivals.
    first = np.arange(100, horizon - DAY, DAY)[:most]
    return [np.flatnonzero((end > a) & (end <= a + DAY)) for a in first]


def changed(name: str, values: Callable[[np.ndarray], np.ndarray]) -> Callable[[Stays], Stays]:
    """Stays with another channel."""

    def change(stays: Stays) -> Stays:
        new = values(np.asarray(stays.channels[name])).astype(np.float32)
        return replace(stays, channels={**stays.channels, name: new})

    return change


FAULTS: dict[str, tuple[str, Callable[[Stays], Stays]]] = {
    "temperature in F": ("Temp", changed("Temp", lambda v: v * 1.8 + 32)),
    "creatinine in umol/L": ("Creatinine", changed("Creatinine", lambda v: v * 88.4)),
    "no lactate": ("Lactate", changed("Lactate", lambda v: np.full_like(v, np.nan))),
    "heart rate 5 too high": ("HR", changed("HR", lambda v: v + 5)),
    "heart rate 2 too high": ("HR", changed("HR", lambda v: v + 2)),
    "every fourth blood pressure lost": (
        "SBP",
        changed("SBP", lambda v: np.where(np.arange(len(v)) % 4 == 0, np.nan, v)),
    ),
}


def judged(
    monitor: DriftMonitor, stays: Stays, found: list[np.ndarray], scores: np.ndarray, channel: str
) -> dict[str, Any]:
    """Shares of days in which something was named."""
    parts, p = blocks(stays, BLOCK), scores[rows_of(stays)].reshape(-1, BLOCK)
    told = [monitor.compare(parts.select(day), p[day].ravel(), "A") for day in found]
    named = [set(d.channels.filter("drifted")["channel"]) for d in told]
    return {
        "days": len(found),
        "patients": float(np.mean([d.patients for d in told])),
        "any_channel": float(np.mean([bool(n) for n in named])),
        "channels": float(np.mean([len(n) for n in named])),
        "this_channel": float(np.mean([channel in n for n in named])) if channel else None,
        "others": float(np.mean([bool(n - {channel}) for n in named])),
        "scores": float(np.mean([d.scores is not None and d.scores.drifted for d in told])),
    }


def real(root: Path, most: int) -> dict[str, Any]:
    """Days of hospital A, with and without faults, and of hospital B."""
    stays = physionet2019(root / "physionet2019_sepsis").by("hospital")
    mine = half(stays["A"])
    rule = EarlyWarningScore("news2").fit(stays["A"])
    usual = stays["A"].select(mine)
    points = rule.predict(usual) / 20
    begun = time.process_time()
    monitor = DriftMonitor().fit(usual, points, 0.35, by="hospital")
    out: dict[str, Any] = {
        "reference": {n: u.patients for n, u in monitor.usual_.items()},
        "fit_seconds": time.process_time() - begun,
    }
    other = stays["A"].select(~mine)
    scores = rule.predict(other) / 20
    found = days(other, most)
    out["nothing changed"] = judged(monitor, other, found, scores, "")
    for name, (channel, fault) in FAULTS.items():
        out[name] = judged(monitor, fault(other), found[:30], scores, channel)
    away = stays["B"].select(slice(0, 6000))
    p = rule.predict(away) / 20
    out["hospital B"] = judged(monitor, away, days(away, 30), p, "")
    out["monitor"] = monitor, other.schema
    return out


def cost(
    monitor: DriftMonitor, schema: Schema, stays: int = 5000, hours: int = 26
) -> dict[str, Any]:
    """Seconds of the processor for a look at a store, and for its index while hours are kept."""
    rng, t0 = np.random.default_rng(0), 1_767_225_600.0
    out: dict[str, Any] = {"stays": stays, "hours": hours}
    with tempfile.TemporaryDirectory() as folder:
        for indexed in (False, True):
            store = open_store(str(Path(folder) / f"{indexed}.db"), partitions=4)
            if not indexed:
                store._run("DROP INDEX score_time")  # type: ignore[attr-defined]
            begun = time.process_time()
            for hour in range(1, hours + 1):
                effects, now = Effects(), t0 + 3600.0 * hour
                for i in range(stays):
                    key = ("A", f"p{i}", f"v{i}")
                    risk = float(rng.random() / 4)
                    effects.scores.append(
                        ScoreRow(*key, hour, now, risk, risk, "ok", "m-1", None, (("HR", 0.1),))
                    )
                    body = b"".join(
                        Measured(bytes(8), c, False, hour, float(rng.normal(80, 10)), now, now,
                                 now, 1).pack()
                        for c in range(7)
                    )  # fmt: skip
                    if hour <= hours - 2:
                        effects.cells.append(CellRow(*key, hour, body))
                if hour == hours:
                    effects.states = [
                        StateRow("A", f"p{i}", 0, b"", now + 3600, None) for i in range(stays)
                    ]
                store.commit(effects)
            out["keep_ms_an_hour" if indexed else "keep_ms_an_hour_without_index"] = (
                1000 * (time.process_time() - begun) / stays / hours
            )
            if indexed:
                watch = DriftWatch(store, {"m-1": monitor}, schema, DriftConfig())
                begun, wall = time.process_time(), time.perf_counter()
                found = watch.look()["sites"]["A"]
                out |= {
                    "look_cpu_seconds": time.process_time() - begun,
                    "look_seconds": time.perf_counter() - wall,
                    "blocks": found["blocks"],
                }
                # One look an hour, in which every stay has one hour scored.
                out["ms_a_scored_hour"] = 1000 * out["look_cpu_seconds"] / stays
            store.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine("numpy", "scipy", "polars")}
    result["days"] = real(arguments.data, arguments.days)
    result["cost"] = cost(*result["days"].pop("monitor"))
    save(arguments.out, result)


if __name__ == "__main__":
    main()
