"""What privacy of a whole series costs a demand network: MQ-CNN on Walmart.

    python benchmarks/private_demand.py --out benchmarks/results/private_demand.json
    python benchmarks/private_demand.py --choose --ways private_8 --steps 100 --rate 1e-2

2,936 store-department series, the last 39 weeks held out, weighted quantile loss of nine levels.
One example is one series with all its forecast dates, so the guarantee is that of a department's
whole history. Private networks must not read what is pooled over series before the training: the
seasonal profiles of departments, which the best non-private setting uses, are left out, and so is
the calibration. ``--choose`` scores another setting on 13 weeks inside the training part and never
looks at the test weeks. Runs that the output file holds are not repeated.

    plain      not private, as in the recipe ``walmart``, without its calibration
    bare       the same without profiles: what the private networks are to be compared with
    private_8  exact clipping, epsilon 8 for each series, delta N^-1.1
    private_3  epsilon 3
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from _common import machine, save, table

from foretell.data import registry
from foretell.data.panel import Panel
from foretell.data.public import walmart
from foretell.estimators import MQCNN
from foretell.evaluation.metrics import weighted_quantile_loss
from foretell.training.private import PrivateTraining

HORIZON, CHOOSE_ON = 39, 13
WAYS = ("plain", "bare", "private_8", "private_3")


def model_of(way: str, seed: int, args: argparse.Namespace) -> tuple[MQCNN, list[Any]]:
    """The forecaster of one way and its strategies."""
    shared: dict[str, Any] = {"past": [], "static": [], "threads": 1, "seed": seed}
    if not way.startswith("private"):
        groups = ["Dept"] if way == "plain" else []
        return MQCNN(HORIZON, n_forks=8, max_steps=300, profile_groups=groups, **shared), []
    model = MQCNN(
        HORIZON, n_forks=args.forks, max_steps=args.steps, batch_size=args.batch,
        learning_rate=args.rate, weight_decay=0.0, schedule=args.schedule, unknown_rate=0.0,
        hidden=args.hidden, **shared,
    )  # fmt: skip
    target = float(way.removeprefix("private_"))
    return model, [PrivateTraining(target_epsilon=target, max_grad_norm=args.bound, noise_seed=0)]


def run(panel: Panel, way: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores once."""
    back = HORIZON + CHOOSE_ON if args.choose else HORIZON
    weeks = CHOOSE_ON if args.choose else HORIZON
    train = panel.cut(back)
    model, strategies = model_of(way, seed, args)
    cpu = time.process_time()
    model.fit(train, strategies=strategies)
    cpu = time.process_time() - cpu
    forecast = model.predict(train)
    truth = panel.outcomes(forecast.ids, forecast.cutoffs, HORIZON)[:, :weeks]
    values = forecast.values[:, :weeks]
    statement = model.privacy_
    return {
        "way": way, "seed": seed, "weeks": weeks,
        "wql": float(weighted_quantile_loss(truth, values, forecast.levels)),
        "coverage_0.9": float(np.mean((truth <= values[..., -1])[np.isfinite(truth)])),
        "epsilon": None if statement is None else statement.epsilon,
        "delta": None if statement is None else statement.delta,
        "noise": None if statement is None else strategies[0].first_noise,
        "series": len(train), "cpu_seconds": cpu,
        "settings": None if statement is None else {
            key: getattr(args, key)
            for key in ("steps", "batch", "rate", "schedule", "forks", "bound", "hidden")
        },
        "statement": None if statement is None else statement.to_dict(),
    }  # fmt: skip


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=3e-2)
    parser.add_argument("--schedule", default="one_cycle")
    parser.add_argument("--forks", type=int, default=4)
    parser.add_argument("--bound", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--choose", action="store_true", help="score inside the training part")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    panel = walmart(registry.path("walmart_store_sales"))
    about = machine("foretell", "torch", "dp-accounting")
    print(about, flush=True)
    runs: list[dict[str, Any]] = []
    if args.out and args.out.exists():
        runs = json.loads(args.out.read_text())["runs"]
    for seed in range(args.seeds):
        for way in args.ways.split(","):
            if any((r["way"], r["seed"]) == (way, seed) for r in runs):
                continue
            runs.append(run(panel, way, seed, args))
            shown = ("way", "seed", "wql", "coverage_0.9", "epsilon", "noise", "cpu_seconds")
            print({key: runs[-1][key] for key in shown}, flush=True)
            save(args.out, {"machine": about, "runs": runs})
    rows = []
    for way in WAYS:
        mine = [r for r in runs if r["way"] == way]
        if mine:
            rows.append({
                "way": way, "seeds": len(mine), "epsilon": mine[0]["epsilon"],
                "wql": mean(r["wql"] for r in mine), "best": min(r["wql"] for r in mine),
                "worst": max(r["wql"] for r in mine),
                "cpu_seconds": min(r["cpu_seconds"] for r in mine),
            })  # fmt: skip
    print(table(rows, list(rows[0])))
    save(args.out, {"machine": about, "runs": runs, "table": rows})


if __name__ == "__main__":
    main()
