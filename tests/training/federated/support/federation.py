"""A small federation: linear regression, whose every step can be followed by hand."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn

from foretell.learners.contract import Learner
from foretell.training import TensorExamples
from foretell.training.federated import ListedClients

FEATURES = 3


class Regression(Learner):
    """Half the squared error of a linear prediction; a counter and a frozen scale come along."""

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(features))

    def encode(self, batch):
        return batch["x"] * self.scale

    def decode(self, encoding, batch):
        return self.linear(encoding)[:, 0]

    def score(self, output, batch):
        return 0.5 * (output - batch["y"]) ** 2


class Deep(Learner):
    """Layers to freeze: an embedding, a stack and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Linear(FEATURES, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 1)

    def encode(self, batch):
        hidden = self.embeddings(batch["x"])
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden))
        return self.norm(hidden)

    def decode(self, encoding, batch):
        return self.head(encoding)[:, 0]

    def score(self, output, batch):
        return 0.5 * (output - batch["y"]) ** 2


def make_data(sizes=(5, 9, 3, 12), seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Clients whose best weights differ."""
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        x = rng.normal(size=(size, FEATURES)).astype(np.float32)
        weights = rng.normal(size=FEATURES).astype(np.float32)
        y = x @ weights + rng.normal(size=size).astype(np.float32) * 0.1 + 1.0
        found.append((torch.from_numpy(x), torch.from_numpy(y)))
    return found


def make_clients(sizes=(5, 9, 3, 12), seed: int = 0) -> ListedClients:
    return ListedClients([TensorExamples({"x": x, "y": y}) for x, y in make_data(sizes, seed)])


def gradient(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean loss, by weights ``(F + 1,)`` whose last entry is the bias."""
    features = torch.cat([x, torch.ones(len(x), 1)], 1)
    return features.T @ (features @ weights - y) / len(x)


def flat(learner: Learner) -> Tensor:
    return torch.cat([learner.linear.weight.data[0], learner.linear.bias.data])


class Misbehaving(ListedClients):
    """Clients of which some do what they should not: ``{1: "raises", 2: "hangs"}``."""

    def __init__(self, how: dict[int, str] | str, who: int = 1, sizes=(5, 9, 3, 12)) -> None:
        super().__init__(make_clients(sizes)._examples)
        self.how = {who: how} if isinstance(how, str) else how
        self.sizes = sizes

    def examples(self, client: int):
        how = self.how.get(client)
        if how == "raises":
            raise OSError("the disk is gone")
        if how == "hangs":
            # For good: one that trained after all would reseed torch in the midst of other tests.
            time.sleep(86_400)
        if how == "diverges":
            x, y = make_data(self.sizes)[client]
            return TensorExamples({"x": x * 1e30, "y": y})
        return super().examples(client)
