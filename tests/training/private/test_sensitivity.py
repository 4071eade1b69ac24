"""What one example more or less can do to a step, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foretell.errors import ParameterError
from foretell.learners.contract import Learner
from foretell.training import Strategy, TensorExamples, fit
from foretell.training.private import ExactClipper, MicroBatchTraining, PrivateTraining

pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

WORDS, STEPS = 9, 4


class Network(Learner):
    """One of several small networks over tokens, in double precision."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(WORDS, width, padding_idx=0)
        if kind == "lstm":
            self.body = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        elif kind == "convolution":
            self.body = nn.Conv1d(width, 2 * width, 3, padding=1)
        else:
            self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.LayerNorm(2 * width))
        self.out = nn.Linear(2 * width, 3)
        self.double()

    def encode(self, batch):
        x = self.table(batch["x"])
        if self.kind == "lstm":
            return self.body(x)[0]
        return self.body(x.mT).mT if self.kind == "convolution" else self.body(x).tanh()

    def decode(self, encoding, batch):
        return self.out(encoding.mean(1))

    def score(self, output, batch):
        return F.cross_entropy(output, batch["y"], reduction="none") * batch["scale"]


def case(seed: int, kind: str, size: int):
    torch.manual_seed(seed)
    learner = Network(kind, 2 + seed % 4)
    x = torch.randint(0, WORDS, (size, STEPS))
    # Examples of very different gradients: some are clipped by far, some not at all.
    scale = torch.exp(3 * torch.randn(size, dtype=torch.float64))
    return learner, {"x": x, "y": torch.randint(0, 3, (size,)), "scale": scale}


def arranged(strategy, learner, size):
    strategy.plan(1000, size, 10)
    strategy.arrange(dict(learner.named_parameters()))
    return strategy


kinds = st.sampled_from(["lstm", "convolution", "plain"])
scales = st.sampled_from([None, "uniform", "numel", "weight_norm", "quantile"])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=kinds,
    scale=scales,
    bound=st.sampled_from([0.1, 1.0, 20.0, "automatic"]),
    clipping=st.sampled_from(["book_keeping", "per_sample"]),
)
@pytest.mark.filterwarnings("ignore")
def test_exact_clipping_moves_by_the_bound_at_most(seed, kind, scale, bound, clipping):
    size = 6
    learner, batch = case(seed, kind, size)
    if scale == "quantile" and bound == "automatic":
        with pytest.raises(ParameterError, match="needs a number"):
            PrivateTraining(1.0, layer_scale=scale, max_grad_norm=bound)
        return
    strategy = arranged(PrivateTraining(1.0, max_grad_norm=bound, layer_scale=scale), learner, size)
    clipper = ExactClipper(learner, clipping)

    def total(rows):
        part = {key: value[rows] for key, value in batch.items()}
        ones = torch.ones(len(rows), dtype=torch.float64)
        return clipper(part, lambda b: (learner.loss(b), ones), strategy.layers).gradients

    everyone = total(list(range(size)))
    for left in range(size):
        without = total([i for i in range(size) if i != left])
        moved = torch.stack([(everyone[p] - without[p]).norm() for p in everyone]).norm()
        assert moved <= (1.0 if bound == "automatic" else bound) * (1 + 1e-9)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=kinds,
    scale=scales,
    bound=st.sampled_from([0.1, 1.0, 20.0]),
    micro=st.sampled_from([1, 2, 4]),
)
@pytest.mark.filterwarnings("ignore")
def test_micro_batches_move_by_what_is_claimed_at_most(seed, kind, scale, bound, micro):
    """The others stay in their slots; one example more joins any."""
    size = 9
    learner, batch = case(seed, kind, size)
    strategy = arranged(
        MicroBatchTraining(1.0, max_grad_norm=bound, layer_scale=scale, microbatch_size=micro),
        learner, size,
    )  # fmt: skip
    slot = np.random.default_rng(seed).integers(strategy.terms, size=size)
    if micro == 1:
        slot = np.arange(size)
    parameters = list(learner.parameters())

    def total(rows):
        sums = {p: torch.zeros_like(p) for p in parameters}
        bounds = strategy.layers.bounds()
        for s in np.unique(slot[rows]):
            mine = [i for i in rows if slot[i] == s]
            loss = learner.loss({key: value[mine] for key, value in batch.items()}).mean()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            strategy.add_clipped(dict(zip(parameters, found, strict=True)), bounds, sums)
        return sums

    everyone = total(np.arange(size))
    for left in range(size):
        without = total(np.delete(np.arange(size), left))
        moved = torch.stack([(everyone[p] - without[p]).norm() for p in parameters]).norm()
        assert moved <= strategy.sensitivity * bound * (1 + 1e-9)


def test_micro_batches_move_by_more_than_the_bound():
    """Two examples of opposite gradients in one slot: who accounts C here is wrong."""

    class Sum(Learner):
        def __init__(self):
            super().__init__()
            self.weight = nn.Linear(1, 1, bias=False).double()

        def encode(self, batch):
            return batch["x"]

        def decode(self, encoding, batch):
            return self.weight(encoding)[:, 0]

        def score(self, output, batch):
            return output

    learner = Sum()
    strategy = arranged(MicroBatchTraining(1.0, microbatch_size=2, layer_scale=None), learner, 2)
    x = torch.tensor([[5.0], [-100.0]], dtype=torch.float64)
    sums = []
    for rows in ([0], [0, 1]):
        total = {learner.weight.weight: torch.zeros(1, 1, dtype=torch.float64)}
        found = torch.autograd.grad(learner.loss({"x": x[rows]}).mean(), [learner.weight.weight])
        strategy.add_clipped(dict(zip(total, found, strict=True)), strategy.layers.bounds(), total)
        sums.append(next(iter(total.values())).item())
    assert sums[0] - sums[1] == pytest.approx(2.0)


class Classifier(Learner):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))

    def encode(self, batch):
        return batch["x"]

    def decode(self, encoding, batch):
        return self.layers(encoding)

    def score(self, output, batch):
        return F.cross_entropy(output, batch["y"], reduction="none")


class Watch(Strategy):
    """Keeps each layer's noise: of steps that drew nobody."""

    def __init__(self):
        self.seen: dict[str, list[torch.Tensor]] = {}

    def adjust_gradient(self, context):
        for name, p in context.parameters.items():
            layer = name.rpartition(".")[0]
            self.seen.setdefault(layer, []).append(p.grad.flatten().clone())


@pytest.mark.parametrize("allocation", ["equal", "flat"])
@pytest.mark.parametrize("kind", [PrivateTraining, MicroBatchTraining])
def test_noise_of_layers_is_one_gaussian_of_the_multiplier(kind, allocation):
    """The squared shifts that C_l allow, over the noise, sum to one over the multiplier squared."""
    watch = Watch()
    strategy = kind(
        1.5, layer_scale="numel", noise_allocation=allocation, max_grad_norm=0.7, accountant="rdp"
    )
    strategy.draw = lambda context: np.zeros(0, dtype=np.int64)
    x = torch.randn(500, 5)
    data = TensorExamples({"x": x, "y": (x[:, 0] > 0).long()})
    fit(Classifier(), data, strategies=[strategy, watch],
        max_steps=60, batch_size=50, learning_rate=1e-9, progress=False)  # fmt: skip
    bounds = strategy.layers.bounds()
    assert sum(b**2 for b in bounds.values()) == pytest.approx(0.7**2)
    noise = {n: torch.cat(values).std().item() * strategy.terms for n, values in watch.seen.items()}
    if allocation == "equal":
        shift = sum((bounds[n] / noise[n]) ** 2 for n in bounds)
        assert shift == pytest.approx(1 / 1.5**2, rel=0.1)
    else:
        assert all(value == pytest.approx(1.5 * 0.7, rel=0.1) for value in noise.values())


@pytest.mark.parametrize("kind", [PrivateTraining, MicroBatchTraining])
@pytest.mark.parametrize("options", [{"layer_scale": "quantile"},
                                     {"layer_scale": None, "max_grad_norm": "quantile"}],
                         ids=["layers", "together"])  # fmt: skip
def test_bounds_follow_the_median_and_pay_for_it(kind, options):
    strategy = kind(1.2, accountant="rdp", **options)
    x = torch.randn(2000, 5)
    learner = Classifier()
    fit(learner, TensorExamples({"x": x, "y": (x[:, 0] > 0).long()}), strategies=[strategy],
        max_steps=60, batch_size=400, learning_rate=1e-9, progress=False)  # fmt: skip
    layers = strategy.layers
    assert layers.gradient_multiplier(1.2) > 1.2
    assert strategy.statement().noise_multipliers == pytest.approx((1.2 / strategy.sensitivity,))
    assert all(0 < value != 1.0 for value in layers.own.values())
    if kind is PrivateTraining and len(layers.groups) == 2:
        norms = ExactClipper(learner, "per_sample")
        data = {"x": x[:400], "y": (x[:400, 0] > 0).long()}
        for name, members in layers.groups.items():
            for p in learner.parameters():
                p.requires_grad_(any(p is m for m in members))
            norms = ExactClipper(learner, "per_sample")
            found = norms(data, lambda b: (learner.loss(b), torch.ones(400)), torch.ones_like)
            assert layers.own[name] == pytest.approx(found.norms.median().item(), rel=0.35)


def test_two_things_that_follow_quantiles_are_refused():
    for kind in (PrivateTraining, MicroBatchTraining):
        with pytest.raises(ParameterError, match="set layer_scale=None"):
            kind(1.0, layer_scale="numel", max_grad_norm="quantile")
        with pytest.raises(ParameterError, match="noise_allocation"):
            kind(1.0, noise_allocation="even")
        with pytest.raises(ParameterError, match="layer_scale must be"):
            kind(1.0, layer_scale="size")
