"""A demand network over stores that keep their sales: MQ-CNN on Walmart, 45 stores as clients.

    python benchmarks/federated_demand.py --out benchmarks/results/federated_demand.json
    python benchmarks/federated_demand.py --choose --rounds 10

2,936 store-department series, the last 39 weeks held out, weighted quantile loss of nine levels
over all series. The network reads nothing that is pooled over stores (no statistics of covariates,
no categories, no profiles of departments): every series is scaled by its own past, and the
holidays are public.

    central    one network on all stores' series in one place, ``training.fit`` by MQCNN
    federated  the same network; stores train it in turn, and only its weights travel
    local      45 networks, each on one store's series

``--choose`` scores 13 weeks inside the training part and never looks at the test weeks. Runs that
the output file holds are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from functools import partial
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
from foretell.learners.demand.neural.mq_learner import MQLearner
from foretell.training.federated import LocalTraining, run_federated

HORIZON, CHOOSE_ON = 39, 13
WAYS = ("central", "federated", "local")


class Stores:
    """Each store's series as the examples of one client."""

    def __init__(self, model: MQCNN, panel: Panel) -> None:
        self.model, self.panel = model, panel
        codes = panel.static_categorical["Store"].codes
        self.rows = [np.flatnonzero(codes == code) for code in np.unique(codes)]

    def __len__(self) -> int:
        return len(self.rows)

    def examples(self, client: int) -> Any:
        return self.model._make_examples(self.panel.select(self.rows[client]), None)

    def activity(self, client: int) -> int:
        return len(self.rows[client])


def make_model(seed: int, steps: int = 300) -> MQCNN:
    """The forecaster of every way."""
    return MQCNN(
        HORIZON, n_forks=8, max_steps=steps, past=[], static=[], threads=1, seed=seed
    )  # fmt: skip


def forecast(way: str, train: Panel, seed: int, args: argparse.Namespace) -> tuple[Any, Any]:
    """The forecast of all series, and what training sent (None for what sends nothing)."""
    model = make_model(seed)
    if way == "central":
        return model.fit(train).predict(train), None
    stores = Stores(model, train)
    if way == "local":
        values, last = None, None
        for rows in stores.rows:
            own = train.select(rows)
            last = make_model(seed, args.local_steps).fit(own).predict(own)
            values = np.zeros((len(train), *last.values.shape[1:])) if values is None else values
            values[rows] = last.values
        return values, None
    model._learn_data(train)
    result = run_federated(
        partial(MQLearner, model.shape_),
        stores,
        strategy="fedadam",
        eta=args.server_rate,
        rounds=args.rounds,
        clients_per_round=args.per_round,
        local=LocalTraining(
            epochs=args.epochs,
            batch_size=32,
            optimizer="adam",
            learning_rate=args.rate,
            gradient_clip=1.0,
            schedule="cosine",
        ),
        seed=seed,
    )
    model.learners_, model.history_, model.calibration_ = [result.learner], [], None
    model.privacy_, model.is_fitted_ = None, True
    return model._predict(train), result.rounds


def run(panel: Panel, way: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores once."""
    back = HORIZON + CHOOSE_ON if args.choose else HORIZON
    weeks = CHOOSE_ON if args.choose else HORIZON
    train = panel.cut(back)
    cpu = time.process_time()
    found, rounds = forecast(way, train, seed, args)
    cpu = time.process_time() - cpu
    values = getattr(found, "values", found)[:, :weeks]
    model = make_model(seed)
    truth = panel.outcomes(train.ids, train.ends - 1, HORIZON)[:, :weeks]
    return {
        "way": way, "seed": seed, "weeks": weeks,
        "wql": float(weighted_quantile_loss(truth, values, np.asarray(model.quantiles))),
        "rounds": None if rounds is None else int(rounds["round"][-1]),
        "samples": None if rounds is None else int(rounds["samples_cumulative"][-1]),
        "megabytes_down": None if rounds is None else float(rounds["bytes_down"].sum() / 1e6),
        "megabytes_up": None if rounds is None else float(rounds["bytes_up"].sum() / 1e6),
        "cpu_seconds": cpu,
    }  # fmt: skip


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--per-round", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--server-rate", type=float, default=3e-3)
    parser.add_argument("--local-steps", type=int, default=60)
    parser.add_argument("--choose", action="store_true", help="score inside the training part")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    panel = walmart(registry.path("walmart_store_sales"))
    about = machine("foretell", "torch", "flwr")
    runs: list[dict[str, Any]] = []
    if args.out and args.out.exists():
        runs = json.loads(args.out.read_text())["runs"]
    for seed in range(args.seeds):
        for way in args.ways.split(","):
            if any((r["way"], r["seed"]) == (way, seed) for r in runs):
                continue
            runs.append(run(panel, way, seed, args))
            print(runs[-1], flush=True)
            settings = {key: str(value) for key, value in vars(args).items()}
            save(args.out, {"machine": about, "settings": settings, "runs": runs})
    rows = []
    for way in WAYS:
        own = [r for r in runs if r["way"] == way]
        if own:
            rows.append({"way": way, "seeds": len(own), "wql": mean(r["wql"] for r in own)})
    print(table(rows, ["way", "seeds", "wql"]))


if __name__ == "__main__":
    main()
