"""Exact clipping against one backward pass an example."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training.per_sample import example_by_example
from foretell.training.private.clipping import ExactClipper

WORDS, WIDTH, STEPS, SIZE = 20, 6, 7, 9


class Network(Learner):
    """Reads padded tokens, predicts a class a token; the mean loss of an example's own tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.build()

    def build(self) -> None: ...

    def read(self, x, tokens): ...

    def encode(self, batch):
        return self.read(self.embedding(batch["tokens"]), batch["tokens"])

    def decode(self, encoding, batch):
        return self.out(encoding)

    def score(self, output, batch):
        mask = (batch["tokens"] != 0).to(output.dtype)
        loss = F.cross_entropy(output.flatten(0, 1), batch["y"].flatten(), reduction="none")
        return (loss.view_as(mask) * mask).sum(1) / mask.sum(1)


class Recurrent(Network):
    def build(self):
        self.lstm = nn.LSTM(WIDTH, 5, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, WORDS)

    def read(self, x, tokens):
        hidden, (state, cell) = self.lstm(x)
        return hidden + (state[-1] + cell[0]).repeat(1, 2)[:, None]


class Forwards(Network):
    def build(self):
        self.lstm = nn.LSTM(WIDTH, 5, bias=False)
        self.out = nn.Linear(5, WORDS)

    def read(self, x, tokens):
        start = x.mean(1)[None, :, :5]
        return self.lstm(x.transpose(0, 1), (start, 2 * start))[0].transpose(0, 1)


class Packed(Network):
    def build(self):
        self.lstm = nn.LSTM(WIDTH, 5, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, WORDS)

    def read(self, x, tokens):
        lengths = (tokens != 0).sum(1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden, (state, _) = self.lstm(packed)
        hidden = pad_packed_sequence(hidden, batch_first=True, total_length=STEPS)[0]
        return hidden + state[0].repeat(1, 2)[:, None]


class Convolutional(Network):
    def build(self):
        self.wide = nn.Conv1d(WIDTH, 8, 3, dilation=2, padding="same")
        self.norm = nn.GroupNorm(2, 8)
        self.grouped = nn.Conv1d(8, 8, 2, groups=4)
        self.out = nn.Linear(8, WORDS)

    def read(self, x, tokens):
        hidden = self.norm(F.relu_(self.wide(x.transpose(1, 2))))
        return (hidden + F.pad(self.grouped(hidden), (1, 0))).transpose(1, 2)


class Tied(Network):
    """One layer used twice, and a table that is also the output layer."""

    def build(self):
        self.norm, self.root = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.twice = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WORDS, bias=False)
        self.out.weight = self.embedding.weight

    def read(self, x, tokens):
        return self.root(self.norm(self.twice(x)) + self.twice(x * 0.5))


class Loose(Network):
    """A parameter outside of any layer, and a layer called without the examples."""

    def build(self):
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.places = nn.Embedding(STEPS, WIDTH)
        self.out = nn.Linear(WIDTH, WORDS)

    def read(self, x, tokens):
        return x * self.scale + self.places(torch.arange(STEPS))


NETWORKS = [Recurrent, Forwards, Packed, Convolutional, Tied, Loose]


def tokens_of(seed: int):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, WORDS, (SIZE, STEPS), generator=generator)
    ends = torch.randint(2, STEPS + 1, (SIZE, 1), generator=generator)
    tokens = tokens * (torch.arange(STEPS) < ends)
    return {"tokens": tokens, "y": torch.randint(0, WORDS, (SIZE, STEPS), generator=generator)}


def truth(network, batch, weights, factors):
    """Norms and clipped sums by definition."""
    found = example_by_example(network, batch, list(network.parameters()))
    found = {p: torch.einsum("b,b...->b...", weights, g) for p, g in found.items()}
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
    return norms, {p: torch.tensordot(factors(norms), g, dims=1) for p, g in found.items()}


@pytest.mark.parametrize("clipping", ["book_keeping", "ghost", "per_sample"])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:no rule explains")
def test_norms_and_clipped_sums_are_those_of_a_loop_over_examples(kind, clipping, dtype, tolerance):
    torch.manual_seed(1)
    network, batch = kind().to(dtype), tokens_of(2)
    weights = torch.rand(SIZE, dtype=dtype)

    def factors(norms):
        return (0.3 * norms.max() / norms).clamp(max=1)

    norms, sums = truth(network, batch, weights, factors)
    clipper = ExactClipper(network, clipping)
    result = clipper(batch, lambda given: (network.loss(given), weights), factors)
    torch.testing.assert_close(result.norms, norms, rtol=tolerance, atol=0)
    whole = torch.stack([g.norm() for g in sums.values()]).norm()
    for parameter, expected in sums.items():
        # A key's bias has no gradient at all: errors are relative to the whole.
        found = result.gradients.get(parameter, torch.zeros_like(expected))
        assert (found - expected).norm() <= tolerance * whole
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.filterwarnings("ignore:no rule explains")
def test_parameters_that_no_rule_explains_are_formed_and_only_those():
    torch.manual_seed(0)
    network, batch = Loose(), tokens_of(0)
    clipper = ExactClipper(network)
    clipper(batch, lambda given: (network.loss(given), torch.ones(SIZE)), torch.ones_like)
    assert clipper.names() == ["scale", "places.weight"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), bound=st.floats(1e-3, 10))
def test_one_example_moves_the_sum_by_no_more_than_the_bound(seed, bound):
    torch.manual_seed(seed)
    network, batch = Tied().double(), tokens_of(seed)
    clipper = ExactClipper(network)

    def total(rows):
        part = {key: value[rows] for key, value in batch.items()}
        result = clipper(
            part,
            lambda given: (network.loss(given), torch.ones(len(rows), dtype=torch.float64)),
            lambda norms: (bound / norms).clamp(max=1),
        )
        return result.gradients

    everyone, without = total(list(range(SIZE))), total(list(range(1, SIZE)))
    moved = torch.stack([(everyone[p] - without[p]).norm() for p in everyone]).norm()
    assert moved <= bound * (1 + 1e-9)


@pytest.mark.parametrize("clipping", ["book_keeping", "ghost", "per_sample"])
def test_an_example_without_a_finite_gradient_counts_as_nothing(clipping):
    class Plain(Learner):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def encode(self, batch):
            return batch["x"]

        def decode(self, encoding, batch):
            return self.layer(encoding)[:, 0]

        def score(self, output, batch):
            return output.square()

    torch.manual_seed(0)
    network, x = Plain(), torch.randn(4, 3)
    clipper = ExactClipper(network, clipping)

    def run(values):
        return clipper(
            {"x": values},
            lambda given: (network.loss(given), torch.ones(len(values))),
            lambda norms: (1 / norms.clamp(min=1e-9)).clamp(max=1),
        )

    rest = run(x[1:])
    x[0, 1] = float("nan")
    result = run(x)
    assert result.dropped == 1
    for parameter, gradient in result.gradients.items():
        torch.testing.assert_close(gradient, rest.gradients[parameter])
    assert torch.isnan(x[0, 1])  # the caller's data are as they were


def test_modules_that_mix_examples_are_named():
    class Mixing(Recurrent):
        def build(self):
            super().build()
            self.norm = nn.BatchNorm1d(3)

    with pytest.raises(TrainingError, match=r"norm is a BatchNorm1d.*GroupNorm"):
        ExactClipper(Mixing())


def test_running_statistics_are_refused():
    class Keeping(Recurrent):
        def build(self):
            super().build()
            self.norm = nn.InstanceNorm1d(3, track_running_stats=True)

    with pytest.raises(TrainingError, match=r"norm is a InstanceNorm1d that keeps means"):
        ExactClipper(Keeping())


def test_buffers_that_follow_the_examples_are_refused():
    """They are saved with the weights, and hold what no noise was added to."""

    class Centred(nn.Linear):
        def __init__(self):
            super().__init__(4, 1)
            self.register_buffer("centre", torch.full((4,), float("nan")))
            self.moves = True

        def forward(self, x):
            if self.training and self.moves:
                self.centre.copy_(x.detach().mean(0))
            return super().forward(x)

    class Net(Learner):
        def __init__(self):
            super().__init__()
            self.layer = Centred()

        def encode(self, batch):
            return self.layer(batch["x"])

        def decode(self, encoding, batch):
            return encoding

        def score(self, output, batch):
            return output.squeeze(1).square()

    net, given = Net(), {"x": torch.randn(6, 4)}

    def evaluate(batch):
        return net.loss(batch), torch.ones(len(batch["x"]))

    with pytest.raises(TrainingError, match=r"changes layer\.centre"):
        ExactClipper(net)(given, evaluate, torch.ones_like)
    net.layer.moves = False
    net.layer.centre.fill_(float("nan"))
    ExactClipper(net)(given, evaluate, torch.ones_like)


@pytest.mark.filterwarnings("ignore:no rule explains")
def test_a_way_is_not_proven_by_gradients_that_are_zero():
    """A weight that is also used outside of its layer, behind an output that starts at 0."""

    class Late(Learner):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(3, 4), nn.Linear(4, 1)
            nn.init.zeros_(self.out.weight)

        def encode(self, batch):
            return self.inner(batch["x"]) + F.linear(batch["x"] ** 2, self.inner.weight)

        def decode(self, encoding, batch):
            return self.out(encoding)[:, 0]

        def score(self, output, batch):
            return (output - 1) ** 2

    torch.manual_seed(0)
    network, batch = Late(), {"x": torch.randn(SIZE, 3)}
    clipper = ExactClipper(network, "ghost")

    def run():
        return clipper(batch, lambda b: (network.loss(b), torch.ones(SIZE)), torch.ones_like)

    run()
    nn.init.ones_(network.out.weight)
    found = run()
    formed = example_by_example(network, batch, list(network.parameters()))
    norms = torch.stack([g.flatten(1).square().sum(1) for g in formed.values()]).sum(0).sqrt()
    torch.testing.assert_close(found.norms, norms)


def test_losses_that_look_at_other_examples_are_refused():
    """What a layer reads may hold other examples, and its gradients still be told apart."""

    class Centred(Forwards):
        def read(self, x, tokens):
            return super().read(5 * (x - x.mean(0)), tokens)

    network = Centred()
    batch = tokens_of(0)
    with pytest.raises(TrainingError, match="Centred mixes examples"):
        ExactClipper(network)(
            batch,
            lambda given: (network.loss(given), torch.ones(len(given["tokens"]))),
            torch.ones_like,
        )
    assert network.training


def test_a_reduced_loss_is_refused():
    network = Tied()
    clipper = ExactClipper(network)
    with pytest.raises(TrainingError, match=r"one loss for each example, shape \(B,\)"):
        clipper(
            tokens_of(0),
            lambda given: (network.loss(given).mean(), torch.ones(())),
            torch.ones_like,
        )


def test_an_unknown_way_is_refused():
    with pytest.raises(ParameterError, match="book_keeping"):
        ExactClipper(Tied(), "fast")  # type: ignore[arg-type]


def test_frozen_parameters_stay_out_of_the_norm():
    torch.manual_seed(0)
    network, batch = Tied().double(), tokens_of(3)
    network.twice.requires_grad_(False)
    clipper = ExactClipper(network)
    result = clipper(
        batch,
        lambda given: (network.loss(given), torch.ones(SIZE, dtype=torch.float64)),
        torch.ones_like,
    )
    free = [p for p in network.parameters() if p.requires_grad]
    found = example_by_example(network, batch, free)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
    torch.testing.assert_close(result.norms, norms)
    assert set(result.gradients) == set(free)
    assert not network.twice.weight.requires_grad
