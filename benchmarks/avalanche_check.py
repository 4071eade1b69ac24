"""EWC and SI beside Avalanche's: the same net, the same batches in the same order.

    pip install avalanche-lib torchvision   # in an environment of its own, see docs/methods.md
    python benchmarks/avalanche_check.py --out benchmarks/results/avalanche.json

Two simulated hospitals, one after the other; a net of two layers, plain gradient descent. Three
questions: is the importance of EWC the same, and what does the peer's squaring of a batch's mean do
to it; does EWC end at the same weights over two tasks; does SI. Modules of Avalanche's logging and
downloads that are not there are stood in for: nothing that is compared uses them.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from _common import machine, save
from torch import Tensor, nn

from foretell.data.clinical import CausalFeatureBuilder, target
from foretell.data.simulators import hospitals
from foretell.learners.contract import Batch, Learner
from foretell.training import TensorExamples, fit
from foretell.training import continual as cl

ROWS = 768
RATE = 0.02
STRENGTH = 20.0
"""Of the peer's penalty, which has no factor of a half: ours is twice that."""


class Net(nn.Module):
    """What both train."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Log-odds (B,)."""
        return self.net(x).squeeze(-1)


class Ours(Learner):
    """The same net with the score that the library asks for."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net.net

    def encode(self, batch: Batch) -> Tensor:
        """The row."""
        return batch["x"]

    def decode(self, encoding: Tensor, batch: Batch) -> Any:
        """Log-odds."""
        return self.net(encoding).squeeze(-1)

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy."""
        return nn.functional.binary_cross_entropy_with_logits(
            output, batch["label"], reduction="none"
        )


class InOrder(TensorExamples):
    """Batches in the order of the rows, whatever is asked for."""

    at = 0

    def batch(self, indices: Any, rng: np.random.Generator) -> dict[str, Tensor]:
        """The next rows."""
        rows = (self.at + np.arange(len(indices))) % len(self)
        self.at = (self.at + len(indices)) % len(self)
        return super().batch(rows, rng)


def loss(output: Tensor, label: Tensor) -> Tensor:
    """The peer's criterion."""
    return nn.functional.binary_cross_entropy_with_logits(output, label.float())


def tasks() -> list[tuple[Tensor, Tensor]]:
    """Rows and labels of two hospitals that contradict each other, standardised by the first."""
    made, _ = hospitals(stays=400, sites=2, kappa=1.0, common=0.5, seed=0)
    sites = made.by("site")
    found, builder = [], None
    for stays in sites.values():
        wanted = target(stays, 4)
        rng = np.random.default_rng(0)
        ill = np.flatnonzero(wanted.label == 1)[: ROWS // 2]
        well = np.flatnonzero(wanted.at_risk & (wanted.label == 0))
        rows = rng.permutation(np.append(ill, rng.choice(well, ROWS - len(ill), replace=False)))
        if builder is None:
            builder = CausalFeatureBuilder("p19-v1", schema=stays.schema).fit(stays)
        x = torch.from_numpy(builder.transform(stays, np.sort(rows)))[np.argsort(np.argsort(rows))]
        found.append((x.clamp(-5, 5), torch.from_numpy(wanted.label[rows].astype(np.float32))))
    return found


def stand_in() -> None:
    """Makes Avalanche importable beside a torch without its own vision library's operators."""
    for name in ("wandb", "gdown", "bs4"):
        if importlib.util.find_spec(name) is None or name == "wandb":
            sys.modules[name] = MagicMock()
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Built for another torch: its operators on images are declared, and never called.
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        globals()["_library"] = library


def importance(data: list[tuple[Tensor, Tensor]], net: Net) -> dict[str, Any]:
    """EWC's importance of a trained net, by size of the peer's batches."""
    from avalanche.training.plugins import EWCPlugin
    from torch.utils.data import TensorDataset

    x, y = data[0]
    ours = cl.diagonal_fisher(Ours(net), TensorExamples({"x": x, "label": y})).values
    flat = torch.cat([v.flatten() for v in ours.values()]).double()
    mean = torch.autograd.grad(loss(net(x), y), list(net.parameters()))
    squared = float(sum(g.double().square().sum() for g in mean))
    told: dict[str, Any] = {"rows": len(x), "parameters": len(flat)}
    for size in (1, 2, 8, 32, 128):
        found = EWCPlugin(1.0).compute_importances(
            net, loss, torch.optim.SGD(net.parameters(), 0.0),
            TensorDataset(x, y, torch.zeros(len(x))), "cpu", size,
        )  # fmt: skip
        theirs = torch.cat([v.data.flatten() for v in found.values()]).double()
        n, one = len(x), float(flat.sum())
        # Of a random part of n rows without replacement: squares of its own, and of pairs.
        pairs = (n * n * squared - n * one) / (n * (n - 1))
        told[str(size)] = {
            "share_of_ours": float(theirs.sum()) / one,
            "by_theory": 1 / size + (1 - 1 / size) * pairs / one,
            "largest_difference": float((theirs - flat).abs().max() / flat.max()),
        }
    return told


def plain(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Gradient descent without momentum."""
    return torch.optim.SGD(groups, RATE)


def ours_through(data: list[tuple[Tensor, Tensor]], net: Net, method: Any, size: int) -> Net:
    """Both tasks with a method of ours, one pass each."""
    net = copy.deepcopy(net)
    learner = Ours(net)
    for x, y in data:
        task = InOrder({"x": x, "label": y})
        fit(
            learner, method.examples(task), strategies=method.begin(learner),
            max_steps=len(x) // size, batch_size=size, optimizer=plain, learning_rate=RATE,
            weight_decay=0.0, schedule="constant", gradient_clip=None, best_weights=False,
            device="cpu", threads=1,
        )  # fmt: skip
        method.end(learner, TensorExamples({"x": x, "label": y}))
    return net


def theirs_through(data: list[tuple[Tensor, Tensor]], net: Net, plugin: Any, size: int) -> Net:
    """Both tasks with a plugin of Avalanche, one pass each."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    net = copy.deepcopy(net)
    sets = [
        AvalancheDataset([torch.utils.data.TensorDataset(x, y, torch.zeros(len(x)))])
        for x, y in data
    ]
    strategy = Naive(
        model=net, optimizer=torch.optim.SGD(net.parameters(), RATE), criterion=loss,
        train_mb_size=size, train_epochs=1, plugins=[] if plugin is None else [plugin],
        evaluator=EvaluationPlugin(), device="cpu",
    )  # fmt: skip
    for experience in benchmark_from_datasets(train=sets).train_stream:
        strategy.train(experience, shuffle=False, num_workers=0)
    return net


def apart(one: Net, other: Net, start: Net) -> float:
    """Distance of weights over how far they moved."""
    a, b, c = (nn.utils.parameters_to_vector(n.parameters()).detach() for n in (one, other, start))
    return float((a - b).norm() / (a - c).norm())


def elastic(data: list[tuple[Tensor, Tensor]], net: Net) -> dict[str, Any]:
    """EWC over two tasks."""
    from avalanche.training.plugins import EWCPlugin

    told: dict[str, Any] = {}
    for size in (1, 32):

        def ours(strength: float, size: int = size) -> Net:
            method = cl.ElasticWeightConsolidation(strength, fisher_examples=ROWS)
            return ours_through(data, net, method, size)

        peer = theirs_through(data, net, EWCPlugin(STRENGTH), size)
        told[f"batches of {size}"] = {
            "without_penalty": apart(
                ours_through(data, net, cl.Naive(), size),
                theirs_through(data, net, None, size), net,
            ),
            "twice_the_strength": apart(ours(2 * STRENGTH), peer, net),
            "twice_over_size_of_batch": apart(ours(2 * STRENGTH / size), peer, net),
            "penalty_matters": apart(ours(2 * STRENGTH), ours(0.0), net),
        }  # fmt: skip
    return told


def synaptic(data: list[tuple[Tensor, Tensor]], net: Net) -> dict[str, Any]:
    """SI over one task, and over two, of the peer as it is and with copies of its weights."""
    from avalanche.training.plugins import SynapticIntelligencePlugin as Peer

    told: dict[str, Any] = {}
    kept = Peer.extract_weights

    def copied(model: Any, target: Any, excluded: Any) -> None:
        kept(model, target, excluded)
        for value in target.values():
            value.data = value.data.clone()

    for name, extract in (("as it is", kept), ("weights copied", copied)):
        Peer.extract_weights = staticmethod(extract)
        xi = 1e-3
        plugin = Peer(1.0, eps=xi)
        theirs_through(data[:1], net, plugin, 32)
        omega = torch.cat([-v.data for v in plugin.syn_data["cum_trajectory"].values()])
        used = torch.cat([v.data for v in plugin.ewc_data[1].values()])
        method = cl.SI(1.0, xi=xi)
        ours_through(data[:1], net, method, 32)
        mine = torch.cat([v.flatten() for v in method.held[1].values()])
        told[name] = {
            "largest_omega": float(omega.max()),
            "difference_where_positive": float(
                (omega.clamp(min=0) - mine).abs().max() / mine.max()
            ),
            "share_below_0": float((used < 0).float().mean()),
            "share_cut_at_0.001": float((omega > 1e-3).float().mean()),
        }  # fmt: skip
    Peer.extract_weights = staticmethod(kept)
    return told


def main() -> None:
    """Compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stand_in()
    data = tasks()
    net = Net(data[0][0].shape[1])
    trained = ours_through(data[:1], net, cl.Naive(), 8)
    found = {
        "avalanche": importlib.metadata.version("avalanche-lib"),
        "machine": machine("torch", "numpy"),
        "importance": importance(data, trained),
        "ewc": elastic(data, net),
        "si": synaptic(data, net),
    }
    for name in ("importance", "ewc", "si"):
        for key, value in found[name].items():
            print(name, key, value)
    save(arguments.out, found)


if __name__ == "__main__":
    main()
