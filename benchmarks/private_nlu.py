"""Private training of an intent and slot model on Snips: what privacy costs, and what it says.

    python benchmarks/private_nlu.py --out benchmarks/results/private_nlu.json
    python benchmarks/private_nlu.py --ways exact_8,plain --seeds 1 --steps 30     # a look

A BiLSTM of 616,000 weights (words 48, LSTM 64), 12 passes in steps of 512 utterances, Adam, bound
1, delta N^-1.1, scores on the test part. CPU seconds of the whole ``fit``, with the search for
the noise and the statement, on one thread. Runs that the output file holds are not repeated.

    plain        no privacy
    exact_8      exact clipping, epsilon 8
    exact_3      exact clipping, epsilon 3
    micro_8      micro-batches of 16 with the noise of exact_8: "epsilon 8", if one example could
                 move a slot's clipped gradient by the bound only
    micro_8_true micro-batches of 16 with the noise that really makes epsilon 8
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _common import machine, save, table

from foretell.data import registry
from foretell.data.text import TextSet
from foretell.estimators import NLU
from foretell.evaluation.language import evaluate_understanding
from foretell.training.private import (
    MicroBatchTraining,
    NoisySteps,
    PrivateTraining,
    epsilon,
    noise_for,
)

BATCH, EPOCHS, MICRO = 512, 12, 16
WAYS = ("plain", "exact_8", "exact_3", "micro_8", "micro_8_true")
TITLES = {
    "plain": "not private",
    "exact_8": "exact clipping",
    "exact_3": "exact clipping",
    "micro_8": "micro-batches of 16, accounted as if by example",
    "micro_8_true": "micro-batches of 16, accounted truly",
}
CLAIMED = {"plain": None, "exact_8": 8.0, "exact_3": 3.0, "micro_8": 8.0, "micro_8_true": 8.0}


@cache
def noise(target: float, examples: int, steps: int) -> float:
    """Noise multiplier of exact clipping."""
    return noise_for(target, examples**-1.1, [NoisySteps(BATCH / examples, 1.0, steps)])


def strategies(way: str, examples: int, steps: int) -> list[Any]:
    """Of one way."""
    if way == "plain":
        return []
    if way == "micro_8":
        return [
            MicroBatchTraining(
                noise(8.0, examples, steps), microbatch_size=MICRO, layer_scale=None, noise_seed=0
            )
        ]
    if way == "micro_8_true":
        return [
            MicroBatchTraining(
                target_epsilon=8.0, microbatch_size=MICRO, layer_scale=None, noise_seed=0
            )
        ]
    return [PrivateTraining(target_epsilon=float(way.removeprefix("exact_")), noise_seed=0)]


def run(text: TextSet, way: str, seed: int, steps: int) -> dict[str, Any]:
    """Trains and scores once."""
    train, test = text.part("train"), text.part("test")
    listed = strategies(way, len(train), steps)
    model = NLU(
        embedding=48, hidden=64, max_steps=steps, batch_size=BATCH,
        accumulate=1 if way.startswith("micro") else 4,
        learning_rate=2e-3 if way == "plain" else 4e-3, random_state=seed, threads=1,
    )  # fmt: skip
    cpu, wall = time.process_time(), time.perf_counter()
    model.fit(train, strategies=listed)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    statement = model.privacy_
    scores = evaluate_understanding(test, model.predict(test))
    return {
        "way": way, "seed": seed, "steps": steps, "batch": BATCH,
        "epsilon": None if statement is None else statement.epsilon,
        "delta": None if statement is None else statement.delta,
        "claimed": CLAIMED[way],
        "noise": None if statement is None else listed[0].first_noise,
        "intent_accuracy": scores["intent_accuracy"], "slot_f1": scores["slot_f1"],
        "exact_match": scores["exact_match"], "cpu_seconds": cpu, "wall_seconds": wall,
        "statement": None if statement is None else statement.to_dict(),
    }  # fmt: skip


def accounting(examples: int, steps: int) -> dict[str, float]:
    """Epsilon of a noise that decays by 0.9 an epoch, between those of its first and last noise."""
    q, delta, first = BATCH / examples, examples**-1.1, 1.5
    every = max(1, round(1 / q))
    sizes = [min(every, steps - begin) for begin in range(0, steps, every)]
    decaying = [NoisySteps(q, first * 0.9**epoch, size) for epoch, size in enumerate(sizes)]
    return {
        "first_noise_throughout": epsilon([NoisySteps(q, first, steps)], delta),
        "decaying_noise": epsilon(decaying, delta),
        "last_noise_throughout": epsilon(
            [NoisySteps(q, decaying[-1].noise_multiplier, steps)], delta
        ),
    }


def verdicts(rows: list[dict[str, Any]], accounts: dict[str, float]) -> list[dict[str, Any]]:
    """What must hold, and whether it does."""
    by = {r["way"]: r for r in rows}
    found = []

    def require(what: str, value: float, holds: bool) -> None:
        found.append({"required": what, "measured": value, "verdict": "PASS" if holds else "FAIL"})

    if "exact_8" in by:
        intent, f1 = by["exact_8"]["intent_accuracy"], by["exact_8"]["slot_f1"]
        require("exact, epsilon 8: intent accuracy >= 0.90", intent, intent >= 0.90)
        require("exact, epsilon 8: slot F1 >= 0.40", f1, f1 >= 0.40)
    if "plain" in by:
        intent = by["plain"]["intent_accuracy"]
        require("not private: intent accuracy >= 0.94", intent, intent >= 0.94)
    if {"exact_8", "micro_8_true"} <= set(by):
        gain = by["exact_8"]["intent_accuracy"] - by["micro_8_true"]["intent_accuracy"]
        require("exact - true micro-batches, intent accuracy >= 0.05", gain, gain >= 0.05)
    if {"exact_8", "plain"} <= set(by):
        ratio = by["exact_8"]["cpu_seconds"] / by["plain"]["cpu_seconds"]
        require("exact / not private, CPU seconds <= 1.4", ratio, ratio <= 1.4)
    low, middle, high = accounts.values()
    require("epsilon of decaying noise lies between", middle, low < middle < high)
    return found


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--steps", type=int, help="of the optimizer; 12 passes by default")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    text = registry.load("nlu_atis_snips", corpus="snips")
    examples = len(text.part("train"))
    steps = args.steps or int(EPOCHS * examples / BATCH)
    about = machine("foretell", "torch", "dp-accounting")
    print(about, flush=True)
    runs: list[dict[str, Any]] = []
    if args.out and args.out.exists():
        runs = json.loads(args.out.read_text())["runs"]
    for seed in range(args.seeds):
        for way in args.ways.split(","):
            if any((r["way"], r["seed"], r["steps"]) == (way, seed, steps) for r in runs):
                continue
            runs.append(run(text, way, seed, steps))
            shown = ("way", "seed", "epsilon", "intent_accuracy", "slot_f1", "cpu_seconds")
            print({key: runs[-1][key] for key in shown}, flush=True)
            save(args.out, {"machine": about, "runs": runs})
    rows = []
    for way in WAYS:
        mine = [r for r in runs if r["way"] == way and r["steps"] == steps]
        if mine:
            rows.append({
                "way": way, "training": TITLES[way], "seeds": len(mine),
                "claimed_epsilon": CLAIMED[way], "true_epsilon": mine[0]["epsilon"],
                "intent_accuracy": mean(r["intent_accuracy"] for r in mine),
                "least": min(r["intent_accuracy"] for r in mine),
                "slot_f1": mean(r["slot_f1"] for r in mine),
                "cpu_seconds": min(r["cpu_seconds"] for r in mine),
            })  # fmt: skip
    accounts = accounting(examples, steps)
    judged = verdicts(rows, accounts)
    print(table(rows, list(rows[0])))
    print(table(judged, list(judged[0])))
    save(args.out, {"machine": about, "runs": runs, "table": rows, "accounting": accounts,
                    "verdicts": judged})  # fmt: skip


if __name__ == "__main__":
    main()
