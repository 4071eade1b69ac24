"""Decision surfaces against brute force, a mixed-integer solver and scikit-learn.

    python benchmarks/bench_thresholds.py [--out benchmarks/results/bench_thresholds.json]

Each row solves the same problem both ways in this process and checks that both find the same
optimum; the ratio is the peer's time over ours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, save, table
from sklearn.isotonic import IsotonicRegression

from foretell.decisions.thresholds import fit_decision_surface
from foretell.decisions.thresholds.candidates import Goals, LevelCurves
from foretell.decisions.thresholds.dynamic_programming import (
    BinTable,
    equal_weight,
    variable_weight,
)
from foretell.decisions.thresholds.holdout import HoldOut
from foretell.decisions.thresholds.isotonic import IsotonicLevels
from foretell.decisions.thresholds.milp import solve

SIGMA = 0.7


def timed(function: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Least of several times, and the result."""
    best, result = np.inf, None
    for _ in range(times):
        begin = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - begin)
    return best, result


def bins(levels: int, width: int, equal: bool, seed: int = 0) -> BinTable:
    rng = np.random.default_rng(seed)
    counts = np.full((levels, width), 100) if equal else rng.integers(50, 200, (levels, width))
    rate = np.linspace(0.01, 0.95, width) * rng.uniform(0.7, 1.0, (levels, 1))
    positives = rng.binomial(counts, rate)

    def above(values: np.ndarray) -> np.ndarray:
        cumulated = np.cumsum(values[:, ::-1], axis=1)
        return np.column_stack([np.zeros(levels), cumulated]).astype(float)

    cuts = np.tile(np.append(np.inf, np.arange(width)[::-1].astype(float)), (levels, 1))
    return BinTable(cuts, above(positives), above(counts))


def programme(solver: Callable[[BinTable], Any], data: BinTable) -> float:
    family = solver(data)
    total = float(data.mass[:, -1].sum())
    at = Goals(SIGMA).choose(family, float(data.hits[:, -1].sum()), total)
    return 0.0 if at is None else float(family.tp[at])


def brute_force(data: BinTable) -> float:
    most = 0.0
    hits, mass = data.hits.tolist(), data.mass.tolist()
    for boundary in product(range(len(hits[0])), repeat=len(hits)):
        n = sum(row[j] for row, j in zip(mass, boundary, strict=True))
        tp = sum(row[j] for row, j in zip(hits, boundary, strict=True))
        if n and tp >= SIGMA * n - 1e-9 and tp > most:
            most = tp
    return most


def mixed_integer(data: BinTable) -> float:
    total, positives = float(data.mass[:, -1].sum()), float(data.hits[:, -1].sum())
    label = np.zeros(int(total))
    label[: int(positives)] = 1
    blank = np.zeros(int(total))
    rows = HoldOut(blank, blank, label, np.ones(int(total)))
    index, _ = solve(data, rows, blank.astype(np.int32), Goals(SIGMA))
    return 0.0 if index is None else float(data.hits[np.arange(len(index)), index].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for equal in (True, False):  # compile
        programme(equal_weight, bins(2, 3, equal))
        programme(variable_weight, bins(2, 3, equal))
    rows: list[dict[str, Any]] = []

    def compare(what: str, peer: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        mine, a = timed(ours)
        other, b = timed(theirs, 1)
        rows.append(
            {
                "what": what,
                "peer": peer,
                "ours, s": mine,
                "peer, s": other,
                "ratio": other / mine,
                "same optimum": bool(np.allclose(a, b)),
            }
        )

    for solver, name, equal in (
        (equal_weight, "EW-DPMT", True),
        (variable_weight, "VW-DP", False),
    ):
        for levels, width, peer, theirs in (
            (3, 40, "brute force", brute_force),
            (4, 100, "MILP (HiGHS)", mixed_integer),
            (4, 500, "MILP (HiGHS)", mixed_integer),
        ):
            data = bins(levels, width, equal)
            compare(
                f"{name} K={levels} L={width}",
                peer,
                lambda solver=solver, data=data: programme(solver, data),
                lambda theirs=theirs, data=data: theirs(data),
            )
    rng = np.random.default_rng(0)
    n = 1_000_000
    score = rng.random(n)
    y = (rng.random(n) < score).astype(float)
    flat = np.zeros(n, np.int32)

    def calibrated() -> np.ndarray:
        curves = LevelCurves.of(score, y, np.ones(n), flat, 1)
        return IsotonicLevels.of(curves).rates(0)[[0, -1]]

    def scikit() -> np.ndarray:
        model = IsotonicRegression(out_of_bounds="clip").fit(score, y)
        return model.predict([score.min(), score.max()])

    calibrated()
    compare("isotonic blocks, 1e6 rows", "scikit-learn IsotonicRegression", calibrated, scikit)
    uncertainty = rng.random(n)
    surface = fit_decision_surface(
        score[:50_000], uncertainty[:50_000], y[:50_000], min_precision=SIGMA
    )
    surface.predict(score[:100], uncertainty[:100])
    edges, cuts = surface.partition.score_edges, surface.partition.level_edges

    def plain_numpy() -> int:
        level = (cuts[np.searchsorted(edges, score, side="right")] <= uncertainty[:, None]).sum(1)
        return int((score >= surface.thresholds[level]).sum())

    compare(
        "scoring 1e6 rows",
        "the same in plain numpy",
        lambda: int((surface.predict(score, uncertainty) == 1).sum()),
        plain_numpy,
    )
    columns = list(rows[0])
    print(table(rows, columns))
    save(
        arguments.out,
        {"machine": machine("foretell", "numpy", "scipy", "scikit-learn", "numba"), "rows": rows},
    )


if __name__ == "__main__":
    main()
