"""Lower bounds on epsilon: of mechanisms, of trainings at their worst, and of 20 Newsgroups.

    python benchmarks/dp_audit.py --out benchmarks/results/dp_audit.json
    python benchmarks/dp_audit.py --parts mechanism,runs          # without data

Parts:

    mechanism  a million draws of a noisy clipped sum with and without a canary: an example moves
               it by C, a micro-batch's clipped mean can go from +C to -C. Is the epsilon that is
               accounted with C, or with 2C, exceeded?
    runs       the same of whole trainings: 32 examples that pull one way and a canary that pulls
               the other way; one step, audited from the updates of many runs
    newsgroups softmax regression on 20 Newsgroups with Dirac canaries, trained privately (sample
               rate 0.05, 200 steps, bound 1, learning rate 40), and audited from the final weights
               of one run

Parts that the output file holds are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import machine, save, table
from torch import Tensor, nn

from foretell.audits.dp import (
    ClippingOnly,
    IterateScores,
    LowerBound,
    WithCanaries,
    audit_clopper_pearson,
    audit_one_run,
    dirac_features,
    flip,
    weight_scores,
)
from foretell.audits.dp.gaussian import epsilon_of
from foretell.data import registry
from foretell.errors import PrivacyViolation
from foretell.learners.contract import Learner
from foretell.learners.language import BagExamples, BagOfWordsLearner, BagReader
from foretell.training import TensorExamples, fit
from foretell.training.private import (
    MicroBatchTraining,
    NoisySteps,
    PrivateTraining,
    epsilon,
    noise_for,
)

DELTA = 1e-5
KINDS = {"example": 1.0, "micro-batch": 2.0}


def mechanism(draws: int, canaries: int) -> list[dict[str, Any]]:
    """Bounds of the mechanism alone."""
    rows = []
    for sigma in (1.0, 2.0):
        claims = {factor: epsilon_of(factor / sigma, DELTA) for factor in (1.0, 2.0)}
        for kind, factor in KINDS.items():
            rng = np.random.default_rng([int(sigma), int(factor)])
            inside = factor + sigma * rng.standard_normal(draws)
            outside = sigma * rng.standard_normal(draws)
            many = audit_clopper_pearson(inside, outside, DELTA, threat_model="white_box_iterates")
            coins = flip(canaries, int(10 * sigma + factor))
            scores = factor * coins + sigma * rng.standard_normal(canaries)
            one = {
                method: audit_one_run(
                    scores, coins, DELTA, method=method, threat_model="white_box_iterates"
                )
                for method in ("fdp", "steinke")
            }
            rows.append(
                {
                    "noise": sigma, "mechanism": kind, "claim_with_C": claims[1.0],
                    "claim_with_2C": claims[2.0], "many_draws": many.epsilon,
                    "one_run_fdp": one["fdp"].epsilon, "one_run_steinke": one["steinke"].epsilon,
                    "refutes_C": refuted(many, claims[1.0]),
                    "refutes_2C": refuted(many, claims[2.0]),
                }
            )  # fmt: skip
    return rows


def refuted(bound: LowerBound, claim: float) -> bool:
    """Whether a bound refutes a claim."""
    try:
        bound.check(claim)
    except PrivacyViolation:
        return True
    return False


class Value(NamedTuple):
    """The one number that is predicted."""

    value: Tensor


class Dot(Learner):
    """The loss is linear, so that an example's gradient is the example."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.weights.weight)

    def encode(self, batch):
        """The example."""
        return batch["x"]

    def decode(self, encoding, batch):
        """Its product with the weights."""
        return Value(self.weights(encoding)[:, 0])

    def score(self, output, batch):
        """The same."""
        return output.value


def train_once(strategy: Any, included: bool, seed: int) -> float:
    """Score of the canary in one training."""
    x = torch.zeros(33, 2)
    x[:32, 0] = 1.0
    x[32, 0] = -100.0 if included else 0.0
    seen = IterateScores(TensorExamples({"x": torch.tensor([[-1.0, 0.0]])}))
    fit(
        Dot(), TensorExamples({"x": x}), strategies=[strategy, seen], max_steps=1, batch_size=33,
        optimizer="sgd", learning_rate=0.1, schedule="constant", gradient_clip=None, seed=seed,
        device="cpu", threads=1,
    )  # fmt: skip
    return float(seen.scores[0])


def runs(number: int) -> list[dict[str, Any]]:
    """Bounds of whole trainings from many runs."""
    rows = []
    for sigma in (1.0, 2.0):
        claim = epsilon([NoisySteps(1.0, sigma, 1)], DELTA)
        for kind, make in (
            ("exact clipping", lambda s=sigma: PrivateTraining(s, noise_seed=0)),
            (
                "micro-batches of 16",
                lambda s=sigma: MicroBatchTraining(
                    s, microbatch_size=16, layer_scale=None, noise_seed=0
                ),
            ),
        ):
            coins = flip(number, int(sigma))
            scores = np.empty(number)
            for seed, included in enumerate(coins):
                strategy = make()
                scores[seed] = train_once(strategy, bool(included), seed)
            true = strategy.statement(DELTA)
            bound = audit_clopper_pearson(
                scores[coins], scores[~coins], DELTA, curve="gaussian",
                threat_model="white_box_iterates",
            )  # fmt: skip
            bound.check(true)
            rows.append(
                {
                    "noise": sigma, "training": kind, "runs": number,
                    "accounted_with_C": claim, "statement": true.epsilon,
                    "lower_bound": bound.epsilon, "refutes_C": refuted(bound, claim),
                    "refutes_statement": refuted(bound, true.epsilon),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def newsgroups(canaries: int, targets: list[float | None]) -> list[dict[str, Any]]:
    """Bounds of one training each on real text."""
    text = registry.load("newsgroups20").part("train")
    reader = BagReader.learn(text)
    labels, features = len(reader.intents), reader.vocabulary.buckets
    drawn, coins = dirac_features(features, canaries, labels)
    examples = WithCanaries(BagExamples(text, reader), drawn, coins)
    tensors = TensorExamples(drawn)
    size, steps, rate = round(0.05 * len(examples)), 200, 40.0
    rows = []
    for target in targets:
        if target is None:
            strategy: PrivateTraining = ClippingOnly(target_delta=DELTA, noise_seed=0)
        else:
            # The noise of the published protocol is that of the quick accountant.
            plan = [NoisySteps(size / len(examples), 1.0, steps)]
            noise = noise_for(target, DELTA, plan, accountant="rdp")
            strategy = PrivateTraining(noise, target_delta=DELTA, noise_seed=0)
        learner = BagOfWordsLearner(features + canaries, labels)
        initial = {name: value.clone() for name, value in learner.state_dict().items()}
        begun = time.process_time()
        fit(
            learner, examples, strategies=[strategy], max_steps=steps, batch_size=size,
            optimizer="sgd", learning_rate=rate, weight_decay=0.0, schedule="constant",
            gradient_clip=None, seed=0, device="cpu", threads=1,
        )  # fmt: skip
        seconds = time.process_time() - begun
        scores = weight_scores(learner, initial, tensors)
        statement = strategy.statement()
        row: dict[str, Any] = {
            "target": target,
            "statement": statement.epsilon if math.isfinite(statement.epsilon) else None,
            "noise": strategy.first_noise,
            "canaries": canaries, "included": int(coins.sum()), "cpu_seconds": seconds,
        }  # fmt: skip
        for method in ("fdp", "steinke"):
            bound = audit_one_run(scores, coins, DELTA, method=method)
            bound.check(statement)
            row[method] = bound.epsilon
            row[f"{method}_guesses"] = bound.details["guesses"]
            row[f"{method}_right"] = bound.details["right"]
        rows.append(row)
        print(row, flush=True)
    return rows


def verdicts(parts: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What must hold, and whether it does."""
    found = []

    def require(what: str, value: Any, holds: bool) -> None:
        found.append({"required": what, "measured": value, "verdict": "PASS" if holds else "FAIL"})

    for row in parts.get("mechanism", ()):
        name = f"noise {row['noise']:g}, {row['mechanism']}"
        bound, small, large = row["many_draws"], row["claim_with_C"], row["claim_with_2C"]
        if row["mechanism"] == "example":
            require(f"{name}: <= {small:.3g}, accounted with C", bound, bound <= small)
        else:
            require(
                f"{name}: > {small:.3g} and <= {large:.3g}, accounted with 2C", bound,
                small < bound <= large,
            )  # fmt: skip
    for row in parts.get("runs", ()):
        name = f"{row['training']}, noise {row['noise']:g}: C refuted"
        wrong = row["training"].startswith("micro")
        right = row["refutes_C"] is wrong and not row["refutes_statement"]
        require(f"{name} is {wrong}", row["lower_bound"], right)
    for row in parts.get("newsgroups", ()):
        if row["target"] in (4.0, 8.0):
            limit = row["statement"]
            require(
                f"newsgroups, epsilon {row['target']:g}: above 0, at most {limit:.3g}",
                row["fdp"], 0 < row["fdp"] <= limit,
            )  # fmt: skip
        elif row["target"] is None:
            require("newsgroups without noise: at least 4", row["fdp"], row["fdp"] >= 4)
    return found


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default="mechanism,runs,newsgroups")
    parser.add_argument("--draws", type=int, default=1_000_000)
    parser.add_argument("--one-run", type=int, default=20_000, help="canaries of one run")
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--canaries", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    about = machine("foretell", "torch", "dp-accounting")
    print(about, flush=True)
    parts: dict[str, list[dict[str, Any]]] = {}
    if args.out and args.out.exists():
        parts = json.loads(args.out.read_text())["parts"]
    jobs = {
        "mechanism": lambda: mechanism(args.draws, args.one_run),
        "runs": lambda: runs(args.runs),
        "newsgroups": lambda: newsgroups(args.canaries, [1.0, 4.0, 8.0, None]),
    }
    for name in args.parts.split(","):
        if name in parts:
            continue
        parts[name] = jobs[name]()
        save(args.out, {"machine": about, "delta": DELTA, "parts": parts})
    for rows in parts.values():
        print(table(rows, list(rows[0])))
    judged = verdicts(parts)
    print(table(judged, list(judged[0])))
    save(args.out, {"machine": about, "delta": DELTA, "parts": parts, "verdicts": judged})


if __name__ == "__main__":
    main()
