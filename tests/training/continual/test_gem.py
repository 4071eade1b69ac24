from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import Strategy, TensorExamples, fit
from foretell.training.continual import (
    GEM,
    AveragedGradientMemory,
    ContinualTask,
    GradientEpisodicMemory,
    train_sequence,
)

Output = namedtuple("Output", "logit")


class Net(Learner):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.upper = nn.Linear(4, 8), nn.Linear(8, 1)

    def encode(self, batch):
        return torch.tanh(self.first(batch["x"]))

    def decode(self, encoding, batch):
        return Output(self.upper(encoding).squeeze(-1))

    def score(self, output, batch):
        return nn.functional.binary_cross_entropy_with_logits(
            output.logit, batch["label"], reduction="none"
        )


def site(seed, weights, size=200):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 4)).astype(np.float32)
    y = rng.random(size) < 1 / (1 + np.exp(-3 * x @ np.asarray(weights, np.float32)))
    return TensorExamples({"x": x, "label": y.astype(np.float32)})


MEMORIES = [site(1, (1, 1, 0, 0)), site(2, (1, 0, -1, 0)), site(3, (0, 1, 0, 1))]
NEW = site(4, (-1, -1, 1, -1))


class Seen(Strategy):
    """Keeps the gradient of every step as it comes by."""

    def __init__(self, label):
        self.label, self.found = label, []

    @property
    def name(self):
        return self.label

    def adjust_gradient(self, context):
        self.found.append(flat([p.grad for p in context.parameters.values()]))


class References(Strategy):
    """Gradients of whole memories at the weights of every step."""

    def __init__(self, memories):
        self.memories, self.found = memories, []

    def adjust_gradient(self, context):
        parameters = list(context.parameters.values())
        rows = []
        for memory in self.memories:
            batch = memory.batch(np.arange(len(memory)), np.random.default_rng(0))
            loss = context.learner.loss(batch).mean()
            rows.append(flat(torch.autograd.grad(loss, parameters)))
        self.found.append(np.stack(rows))


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors]).double().numpy().copy()


def steps(strategy, examples=NEW, memories=MEMORIES, **options):
    """Gradients before and after, and those of the memories, of every step."""
    before, after, references = Seen("before"), Seen("after"), References(memories)
    options = {"max_steps": 30, "batch_size": 32, "learning_rate": 1e-2, "threads": 1, **options}
    fit(Net(), examples, strategies=[before, references, strategy, after], **options)
    return np.stack(before.found), np.stack(after.found), np.stack(references.found)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_no_memory_is_opposed(margin):
    strategy = GradientEpisodicMemory(MEMORIES, margin=margin)
    before, after, references = steps(strategy)
    opposed = (np.einsum("skp,sp->sk", references, before) < 0).any(1)
    assert strategy.projected == opposed.sum() and 5 < opposed.sum()
    inner = np.einsum("skp,sp->sk", references, after)
    scale = np.linalg.norm(references, axis=2) * np.linalg.norm(after, axis=1)[:, None]
    assert (inner >= -1e-5 * scale - 1e-9).all()
    np.testing.assert_array_equal(after[~opposed], before[~opposed])
    assert (np.abs(after - before).max(1)[opposed] > 1e-6).all()


def test_a_margin_leans_on_the_memories():
    options = {"max_steps": 1}
    nearest = steps(GradientEpisodicMemory(MEMORIES, margin=0.0), **options)
    leaning = steps(GradientEpisodicMemory(MEMORIES, margin=0.5), **options)
    np.testing.assert_array_equal(nearest[0], leaning[0])
    assert np.linalg.norm(nearest[1] - nearest[0]) < np.linalg.norm(leaning[1] - leaning[0])
    weights = np.linalg.lstsq(leaning[2][0].T, (leaning[1] - leaning[0])[0], rcond=None)[0]
    assert weights.min() >= 0.5 - 1e-4


def test_where_no_memory_is_opposed_nothing_changes():
    same = site(1, (1, 1, 0, 0))
    strategy = GradientEpisodicMemory([same], margin=0.5)
    before, after, _ = steps(strategy, same, [same], max_steps=5, batch_size=200)
    np.testing.assert_array_equal(before, after)
    assert strategy.projected == 0


def test_one_memory_and_no_margin_are_the_averaged_form(monkeypatch):
    # The same examples, in the same order, are the reference of both.
    monkeypatch.setattr(AveragedGradientMemory, "_draw", lambda *_: np.arange(len(MEMORIES[0])))
    one = steps(GradientEpisodicMemory(MEMORIES[:1], margin=0.0), max_steps=10)
    other = AveragedGradientMemory(MEMORIES[0])
    averaged = steps(other, max_steps=10)
    assert other.projected > 0
    np.testing.assert_allclose(one[1], averaged[1], rtol=1e-3, atol=1e-6)


class StoppedError(Exception):
    pass


class StopAt(Strategy):
    def __init__(self, step=None):
        self.step = step

    def after_step(self, context):
        if context.step == self.step:
            raise StoppedError


def run(folder, stop=None, margin=0.5):
    learner = Net()
    fit(
        learner, NEW, max_steps=20, batch_size=32, learning_rate=1e-2, threads=1,
        strategies=[GradientEpisodicMemory(MEMORIES, margin=margin, batch_size=64), StopAt(stop)],
        checkpoint=folder, checkpoint_every=4, resume=True,
    )  # fmt: skip
    return [p.detach().numpy().tobytes() for p in learner.parameters()]


def test_a_run_is_repeatable_and_a_resumed_one_ends_with_the_same_bytes(tmp_path):
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "again") == whole
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", 13)
    assert run(tmp_path / "stopped") == whole
    with pytest.raises(StoppedError):
        run(tmp_path / "changed", 13)
    with pytest.raises(TrainingError, match="margin"):
        run(tmp_path / "changed", margin=0.0)


def test_the_method_keeps_a_memory_for_each_task():
    tasks = [
        ContinualTask(name, examples, lambda _: 0.5)
        for name, examples in zip("abc", MEMORIES, strict=True)
    ]
    method = GEM(50, margin=0.25, batch_size=40)
    assert method.begin(Net()) == []
    train_sequence(Net(), tasks, method, max_steps=3, batch_size=16, threads=1)
    (strategy,) = method.begin(Net())
    assert [len(memory) for memory in strategy.memories] == [50, 50, 50]
    assert strategy.settings() == {"weight": 1.0, "batch_size": 40, "margin": 0.25}
    assert method.keeps == "raw examples" and method.name == "GEM"


def test_what_cannot_be_is_refused():
    with pytest.raises(ParameterError, match="margin"):
        GradientEpisodicMemory(MEMORIES, margin=-0.1)
    with pytest.raises(ParameterError, match="batch_size"):
        GradientEpisodicMemory(MEMORIES, batch_size=0)
    broken = TensorExamples({"x": np.full((5, 4), 1e30, np.float32), "label": np.zeros(5)})

    class Endless(Net):
        def score(self, output, batch):
            factor = torch.where(batch["x"].amax(1) > 1e20, torch.inf, 1.0)
            return super().score(output, {**batch, "label": batch["label"].float()}) * factor

    for new, memory, message in (
        (NEW, broken, "step 0: the gradient on the memory"),
        (broken, NEW, "row 0 of the batch"),
    ):
        strategy = GradientEpisodicMemory([*MEMORIES, memory])
        with pytest.raises(TrainingError, match=message):
            fit(Endless(), new, strategies=[strategy], max_steps=1, batch_size=5, threads=1)


class Spoilt(Strategy):
    """A gradient that overflowed."""

    def adjust_gradient(self, context):
        for parameter in context.parameters.values():
            parameter.grad.fill_(-torch.inf)


def test_a_gradient_that_is_not_finite_is_left_to_the_loop():
    strategies = [Spoilt(), GradientEpisodicMemory(MEMORIES)]
    with pytest.raises(TrainingError, match="the gradient of first"):
        fit(Net(), NEW, strategies=strategies, max_steps=1, batch_size=32, threads=1)
