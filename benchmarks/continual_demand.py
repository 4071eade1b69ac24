"""EWC and replay on the demand MQ-CNN: types of Walmart stores in sequence.

    python benchmarks/continual_demand.py --out benchmarks/results/continual_demand.json

Stores of type C, then B, then A (small to large). One network learns them one after the other,
without the earlier ones' data; the score is minus the weighted quantile loss of the last 13 weeks
of a type, so that higher is better. Statistics of the input are those of the first type. Strengths
are common ones and were not searched for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import load, machine, save

from foretell.data import Panel, registry
from foretell.estimators import MQCNN
from foretell.evaluation.metrics import weighted_quantile_loss
from foretell.training.continual import (
    ContinualMethod,
    ContinualTask,
    ElasticWeightConsolidation,
    ExperienceReplay,
    Naive,
    train_sequence,
)

HORIZON = 13


def task(model: MQCNN, name: str, panel: Panel) -> ContinualTask:
    """One type of store."""

    def score(learner: Any) -> float:
        learner.eval()
        with torch.inference_mode():
            values, _ = model._run_origins(learner, panel, [HORIZON])
        ends = panel.starts + panel.lengths - HORIZON - 1
        y = panel.outcomes(panel.ids, ends, HORIZON)
        return -weighted_quantile_loss(y, values, np.asarray(model.quantiles))

    return ContinualTask(name, model._make_examples(panel.cut(HORIZON), None), score)


def main() -> None:
    """Trains through the types with every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    panel = registry.load("walmart")
    kinds = panel.static_categorical["Type"]
    names = np.array(["", *kinds.vocabulary], object)[kinds.codes]
    methods: dict[str, Any] = {
        "naive": Naive,
        "ewc": lambda: ElasticWeightConsolidation(100.0, fisher_examples=200),
        "replay": lambda: ExperienceReplay(200, weight=1.0, batch_size=32),
    }
    results: dict[str, Any] = {"machine": machine("torch"), "runs": {}}
    for seed in arguments.seeds:
        for name, make in methods.items():
            model = MQCNN(h=HORIZON, n_forks=24, seed=seed, threads=1)
            parts = {t: panel.select(names == t) for t in ("C", "B", "A")}
            model._learn_data(parts["C"].cut(HORIZON))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                learner = model._make_learner()
            method: ContinualMethod = make()
            found = train_sequence(
                learner, [task(model, t, p) for t, p in parts.items()], method, seed=seed,
                max_steps=arguments.steps, batch_size=64, learning_rate=3e-3, threads=1,
            )  # fmt: skip
            told = {
                "wql": (-found.scores).tolist(), "final_mean_wql": -found.final_mean(),
                "forgetting": found.forgetting(),
            }  # fmt: skip
            results["runs"].setdefault(name, {})[str(seed)] = told
            print(seed, name, np.round(-found.scores, 4).tolist(), f"mean {-found.final_mean():.4f}"
                  f" forgetting {found.forgetting():.4f} load {load()}", flush=True)  # fmt: skip
            save(arguments.out, results)


if __name__ == "__main__":
    main()
