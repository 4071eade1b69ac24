"""Federated rounds in one process against Flower's Ray simulation, and thousands of devices.

    python benchmarks/bench_federated.py                  # rounds a second, ours and Ray's
    python benchmarks/bench_federated.py --devices        # 5,752 authors of 20 Newsgroups

Both runtimes are given the same ServerApp, ClientApp, clients and seed, and end with the same
weights, which is checked. Rounds a second are taken between the first and the last round, so that
starting Ray is not counted; it is shown apart. The device run takes 50 of the 5,752 authors a
round, softmax regression on 8,192 hashed tf-idf features, FedAdam with a server rate of .3.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import torch
from _common import load, machine, peak_mib, save, table
from torch import nn

from foretell.learners.contract import Learner
from foretell.training import TensorExamples
from foretell.training.federated import (
    LocalTraining,
    SplitClients,
    run_federated,
)


class Softmax(Learner):
    """Softmax regression on dense features."""

    def __init__(self, features: int = 64, classes: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def encode(self, batch):
        return batch["x"]

    def decode(self, encoding, batch):
        return self.linear(encoding)

    def score(self, output, batch):
        return nn.functional.cross_entropy(output, batch["y"], reduction="none")


class Perceptron(Softmax):
    """One hidden layer of 128."""

    def __init__(self) -> None:
        super().__init__(128)
        self.hidden = nn.Linear(64, 128)

    def encode(self, batch):
        return torch.relu(self.hidden(batch["x"]))


def make_clients(clients: int, seed: int = 0) -> SplitClients:
    """Clients of 4 to 40 examples."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 41, clients)
    x = rng.normal(size=(sizes.sum(), 64)).astype(np.float32)
    y = (x @ rng.normal(size=(64, 4))).argmax(1)
    rows = np.split(np.arange(len(x)), np.cumsum(sizes)[:-1])
    return SplitClients(TensorExamples({"x": x, "y": y}), rows)


class Clock:
    """A server evaluation that only looks at the clock."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __call__(self, learner):
        self.wall.append(time.monotonic())
        self.cpu.append(time.process_time())
        return {}


def run(build, clients, backend: str, rounds: int, chosen: int) -> dict:
    """Rounds a second of one runtime, and its weights."""
    clock, start = Clock(), time.monotonic()
    result = run_federated(
        build,
        clients,
        rounds=rounds,
        clients_per_round=chosen,
        local=LocalTraining(batch_size=8, learning_rate=0.1),
        evaluate=clock,
        backend=backend,
    )
    return {
        "rounds_per_second": rounds / (clock.wall[-1] - clock.wall[0]),
        "start_seconds": clock.wall[0] - start,
        "weights": torch.cat([p.detach().flatten() for p in result.learner.parameters()]),
    }


def compare(rounds: int, ray_rounds: int, cases: int) -> list[dict]:
    """Ours and Ray on the same inputs."""
    rows = []
    for name, build, clients, chosen in (
        ("softmax 64 x 4", Softmax, 50, 10),
        ("perceptron 64-128-4", Perceptron, 50, 10),
        ("softmax 64 x 4", Softmax, 200, 50),
    )[:cases]:
        data = make_clients(clients)
        run(build, data, "inprocess", 2, chosen)
        ours = run(build, data, "inprocess", rounds, chosen)
        same = run(build, data, "inprocess", ray_rounds, chosen)
        ray = run(build, data, "ray", ray_rounds, chosen)
        rows.append(
            {
                "model": name,
                "clients": clients,
                "per_round": chosen,
                "inprocess_rounds_per_s": ours["rounds_per_second"],
                "ray_rounds_per_s": ray["rounds_per_second"],
                "ratio": ours["rounds_per_second"] / ray["rounds_per_second"],
                "ray_start_s": ray["start_seconds"],
                "largest_difference": float((same["weights"] - ray["weights"]).abs().max()),
            }
        )
        print(table(rows, list(rows[0])), flush=True)
    return rows


def devices(folder: Path, rounds: int, chosen: int) -> dict:
    """5,752 natural devices in one process."""
    from foretell.data.public.newsgroups import newsgroups20
    from foretell.learners.language.bag_of_words import (
        BagExamples,
        BagOfWordsLearner,
        BagReader,
    )

    start = time.monotonic()
    posts = newsgroups20(folder)
    train, test = posts.part("train"), posts.part("test")
    reader = BagReader.learn(train)
    examples, held_out = BagExamples(train, reader), BagExamples(test, reader)
    authors = train.frame["author"]
    groups = (
        authors.to_frame().with_row_index().group_by("author", maintain_order=True).agg("index")
    )
    clients = SplitClients(examples, [rows.to_numpy() for rows in groups["index"]])
    truth = held_out.intents

    def accuracy(learner):
        right = 0
        with torch.no_grad():
            for first in range(0, len(held_out), 512):
                rows = np.arange(first, min(first + 512, len(held_out)))
                right += int(
                    (learner(held_out.batch(rows)).intent.argmax(1).numpy() == truth[rows]).sum()
                )
        return {"accuracy": right / len(held_out)}

    loaded, cpu = time.monotonic(), time.process_time()
    result = run_federated(
        lambda: BagOfWordsLearner(8192, len(reader.intents)),
        clients,
        strategy="fedadam",
        eta=0.3,
        rounds=rounds,
        clients_per_round=chosen,
        local=LocalTraining(batch_size=8, learning_rate=1.0),
        evaluate=accuracy,
        evaluate_every=rounds,
    )
    seconds = time.monotonic() - loaded
    return {
        "devices": len(clients),
        "per_round": chosen,
        "rounds": rounds,
        "load_seconds": loaded - start,
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "rounds_per_second": rounds / seconds,
        "accuracy": result.rounds["accuracy"][-1],
        "samples": int(result.rounds["samples_cumulative"][-1]),
        "megabytes_down": float(result.rounds["bytes_down"].sum() / 1e6),
        "megabytes_up": float(result.rounds["bytes_up"].sum() / 1e6),
        "peak_mib": peak_mib(),
    }


def main() -> None:
    """Prints tables, and writes them with the machine's description."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", action="store_true", help="the 20 Newsgroups run instead")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--ray-rounds", type=int, default=10)
    parser.add_argument("--cases", type=int, default=3, help="how many of the models")
    parser.add_argument("--per-round", type=int, default=50)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    described = {"machine": machine("flwr", "ray", "torch"), "load": load()}
    if args.devices:
        figures = devices(args.data / "newsgroups20", args.rounds, args.per_round)
        print(table([figures], list(figures)))
        described["devices"] = figures
    else:
        described["rounds"] = compare(args.rounds, args.ray_rounds, args.cases)
    if args.out:
        save(args.out, described)


if __name__ == "__main__":
    main()
