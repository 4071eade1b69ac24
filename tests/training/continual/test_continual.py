from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from foretell.errors import DataError, ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import Strategy, TensorExamples, fit
from foretell.training.continual import (
    AGEM,
    GEM,
    SI,
    AveragedGradientMemory,
    Concatenation,
    ContinualMatrix,
    ContinualTask,
    DERpp,
    ElasticWeightConsolidation,
    ExperienceReplay,
    Joint,
    LwF,
    Naive,
    Subset,
    SynapticIntelligence,
    WeightUncertaintyReplay,
    binary_outcomes,
    diagonal_fisher,
    evaluate_orders,
    exemplars,
    representations,
    soft_labels,
    train_sequence,
)
from foretell.training.per_sample import example_by_example
from foretell.training.private import PrivateTraining

Output = namedtuple("Output", "logit")


class Net(Learner):
    """A small risk net; one layer only without ``hidden``."""

    def __init__(self, inputs=4, hidden=16, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(inputs, hidden, dtype=dtype) if hidden else nn.Identity()
        self.upper = nn.Linear(hidden or inputs, 1, dtype=dtype)

    def encode(self, batch):
        return torch.tanh(self.first(batch["x"])) if self.first is not None else batch["x"]

    def decode(self, encoding, batch):
        return Output(self.upper(encoding).squeeze(-1))

    def score(self, output, batch):
        label = batch["label"].to(output.logit.dtype)
        return nn.functional.binary_cross_entropy_with_logits(output.logit, label, reduction="none")


class Plain(Net):
    def encode(self, batch):
        return batch["x"]


def site(seed, conflict, size=2000):
    """Rows whose second feature means the opposite at the other site."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 4)).astype(np.float32)
    x[:, 3] = conflict
    y = rng.random(size) < 1 / (1 + np.exp(-(1.5 * x[:, 0] + 2.5 * conflict * x[:, 1])))
    return x, y.astype(np.float32)


def task(name, conflict):
    x, y = site(1, conflict)
    tx, ty = (torch.from_numpy(v) for v in site(2, conflict))

    def accuracy(learner):
        with torch.no_grad():
            return float((((learner({"x": tx}).logit > 0).float()) == ty).float().mean())

    return ContinualTask(name, TensorExamples({"x": x, "label": y}), accuracy)


TASKS = [task("north", 1.0), task("south", -1.0)]
OPTIONS = {
    "max_steps": 150, "batch_size": 64, "learning_rate": 2e-2, "schedule": "constant",
    "weight_decay": 0.0, "threads": 1,
}  # fmt: skip


def labels(examples):
    return examples.batch(np.arange(len(examples)), np.random.default_rng(0))["label"].numpy()


METHODS = {
    "ewc": lambda: ElasticWeightConsolidation(300.0, outcomes=binary_outcomes),
    "online_ewc": lambda: ElasticWeightConsolidation(300.0, online=True),
    "si": lambda: SI(20.0),
    "agem": lambda: AGEM(500),
    "gem": lambda: GEM(500, labels=labels),
    "replay": lambda: ExperienceReplay(500, labels=labels),
    "derpp": lambda: DERpp(500, alpha=0.5, distance=soft_labels),
    "lwf": lambda: LwF(3.0, distance=soft_labels),
    "wuperr": lambda: WeightUncertaintyReplay(("first",), outcomes=binary_outcomes, labels=labels),
    "joint": Joint,
}


@pytest.fixture(scope="module")
def naive():
    found = train_sequence(Net(), TASKS, Naive(), **OPTIONS)
    assert found.forgetting() > 0.1
    return found


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_forgets_less_than_fine_tuning(name, naive):
    found = train_sequence(Net(), TASKS, METHODS[name](), **OPTIONS)
    assert found.forgetting() < 0.8 * naive.forgetting(), found.to_polars()
    # What is remembered is not bought with what is to be learned, on balance; a frozen first layer
    # under a linear one learns little of a site that contradicts the first.
    assert found.final_mean() > naive.final_mean() - 0.02


def test_fisher_of_logistic_regression_is_its_closed_form():
    learner = Plain(inputs=3, hidden=0, dtype=torch.float64)
    x = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    examples = TensorExamples({"x": x, "label": torch.zeros(500, dtype=torch.float64)})
    found = diagonal_fisher(learner, examples, outcomes=binary_outcomes)
    p = torch.sigmoid(learner({"x": x}).logit.detach())
    expected = (p * (1 - p))[:, None] * x**2
    torch.testing.assert_close(
        found.values["upper.weight"][0], expected.mean(0), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(found.values["upper.bias"][0], (p * (1 - p)).mean())
    assert found.examples == 500 and found.not_finite == 0


def test_fisher_does_not_depend_on_batches_and_empirical_one_uses_labels():
    learner = Plain(inputs=3, hidden=0, dtype=torch.float64)
    x = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).double()
    whole = diagonal_fisher(learner, TensorExamples({"x": x, "label": y}))
    residual = (torch.sigmoid(learner({"x": x}).logit.detach()) - y)[:, None]
    torch.testing.assert_close(
        whole.values["upper.weight"][0], ((residual * x) ** 2).mean(0), rtol=1e-9, atol=1e-12
    )
    twice = TensorExamples({"x": torch.cat([x, x]), "label": torch.cat([y, y])})
    torch.testing.assert_close(
        diagonal_fisher(learner, twice).values["upper.weight"], whole.values["upper.weight"]
    )
    only = diagonal_fisher(learner, twice, names=["upper.bias"])
    assert list(only.values) == ["upper.bias"]
    with pytest.raises(ParameterError, match="no parameter 'lower'"):
        diagonal_fisher(learner, twice, names=["lower"])


class Tied(Net):
    """Uses its first weight a second time, outside of its layer."""

    def decode(self, encoding, batch):
        again = 0.3 * (batch["x"] @ self.first.weight.T).sum(1)
        return Output(super().decode(encoding, batch).logit + again)


@pytest.mark.parametrize("kind", [Net, Tied])
def test_linear_layers_have_the_fisher_of_single_examples(kind):
    learner = kind(hidden=5, dtype=torch.float64)
    x = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = (x[:, 1] > 0).double()
    found = diagonal_fisher(learner, TensorExamples({"x": x, "label": y})).values
    parameters = dict(learner.named_parameters())
    formed = example_by_example(learner, {"x": x, "label": y}, parameters.values())
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], formed[parameter].square().mean(0))


class Normed(Net):
    """Batch normalisation between its layers."""

    def __init__(self):
        super().__init__(hidden=5)
        self.norm = nn.BatchNorm1d(5)

    def encode(self, batch):
        return torch.tanh(self.norm(self.first(batch["x"])))


@pytest.mark.parametrize("outcomes", [None, binary_outcomes])
@pytest.mark.parametrize("names", [None, ["norm.weight"]])
def test_fisher_leaves_running_statistics_untouched(outcomes, names):
    learner, rng = Normed().train(), torch.Generator().manual_seed(2)
    x = 3 + torch.randn(90, 4, generator=rng)
    examples = TensorExamples({"x": x, "label": (x[:, 1] > 3).float()})
    learner({"x": x[:40]})  # statistics that are not those of the start
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    found = diagonal_fisher(learner, examples, names=names, outcomes=outcomes)
    assert found.not_finite == 0 and found.values["norm.weight"].max() > 0
    assert learner.training and learner.norm.training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    learner({"x": x})  # a forward pass in training does change them
    assert not torch.equal(learner.norm.running_mean, before["norm.running_mean"])


def test_what_is_not_finite_is_counted():
    learner = Plain(inputs=2, hidden=0)
    x = torch.tensor([[1.0, torch.inf], [0.5, 1.0]])
    found = diagonal_fisher(learner, TensorExamples({"x": x, "label": torch.tensor([0.0, 1.0])}))
    assert found.not_finite >= 1 and torch.isfinite(found.values["upper.weight"]).all()


def test_penalties_of_several_tasks_become_one_with_the_same_gradient():
    method = ElasticWeightConsolidation(2.0)
    rng = torch.Generator().manual_seed(3)
    learner = Net()
    names = [n for n, _ in learner.named_parameters()]
    shapes = {n: p.shape for n, p in learner.named_parameters()}
    for _ in range(3):
        method.held.append(
            (
                {n: torch.randn(shapes[n], generator=rng) for n in names},
                {n: torch.rand(shapes[n], generator=rng) for n in names},
            )
        )
    (penalty,) = method.begin(learner)
    value = penalty.value(learner)
    got = torch.autograd.grad(value, list(learner.parameters()))
    for name, gradient, parameter in zip(names, got, learner.parameters(), strict=True):
        expected = sum(2.0 * f[name] * (parameter - a[name]) for a, f in method.held)
        torch.testing.assert_close(gradient, expected.detach(), rtol=1e-4, atol=1e-5)


def test_agem_never_opposes_the_memory():
    x, y = site(3, 1.0, 200)
    memory = TensorExamples({"x": x, "label": y})
    seen = []

    class Watch(AveragedGradientMemory):
        def adjust_gradient(self, context):
            super().adjust_gradient(context)
            chosen = self._draw(self.memory, context, 0)
            loss = context.learner.loss(self._batch(self.memory, chosen, context)).mean()
            reference = torch.autograd.grad(loss, list(context.parameters.values()))
            own = [p.grad for p in context.parameters.values()]
            seen.append(float(sum((a * b).sum() for a, b in zip(own, reference, strict=True))))

    strategy = Watch(memory)
    x, y = site(4, -1.0, 200)
    fit(Net(), TensorExamples({"x": x, "label": y}), strategies=[strategy], max_steps=40,
        batch_size=32, learning_rate=1e-2, threads=1)  # fmt: skip
    assert strategy.projected > 0 and min(seen) > -1e-6


def test_the_path_integral_is_the_fall_of_the_loss():
    """With small steps of plain gradient descent, sum_k w_k tends to the fall of the loss."""
    x, y = site(5, 1.0, 100)
    examples = TensorExamples({"x": x, "label": y})
    learner = Net()
    batch = examples.batch(np.arange(100), np.random.default_rng(0))
    before = float(learner.loss(batch).mean().detach())
    strategy = SynapticIntelligence()
    fit(
        learner, examples, strategies=[strategy], max_steps=200, batch_size=100,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=1e-2), learning_rate=1e-2,
        schedule="constant", weight_decay=0.0, gradient_clip=None, threads=1,
    )  # fmt: skip
    after = float(learner.loss(batch).mean().detach())
    total = sum(float(path.sum()) for path in strategy._path.values())
    assert total == pytest.approx(before - after, rel=0.02)


def test_wuperr_keeps_representations_only_and_freezes_what_makes_them():
    method = WeightUncertaintyReplay(("first",), memory=300, positives=100, labels=labels)
    learner = Net()
    frozen = []
    train_sequence(
        learner, TASKS, method,
        on_task=lambda _, net: frozen.append(net.first.weight.detach().clone()), **OPTIONS,
    )  # fmt: skip
    torch.testing.assert_close(frozen[0], frozen[1], rtol=0, atol=0)
    for kept in method.kept:
        batch = kept.batch(np.arange(len(kept)), np.random.default_rng(0))
        assert set(batch) == {"h", "label"} and batch["h"].shape == (300, 16)
    assert set(method.anchor) == {"upper.weight", "upper.bias"}
    with pytest.raises(ParameterError, match="nothing would be frozen"):
        WeightUncertaintyReplay(("below",)).end(learner, TASKS[0].examples)


@pytest.mark.parametrize("name", ["strength", "replay_weight", "gamma"])
@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_a_strength_that_is_no_number_is_no_strength_of_0(name, value):
    with pytest.raises(ParameterError, match=name):
        WeightUncertaintyReplay(("first",), **{name: value})


def test_a_release_changes_what_is_stored_once():
    examples = Subset(TASKS[0].examples, np.arange(50))
    plain = representations(Net(), examples)
    noisy = representations(Net(), examples, release=lambda h: h + 1)
    a, b = (e.batch(np.arange(50), np.random.default_rng(0))["h"] for e in (plain, noisy))
    torch.testing.assert_close(b, a + 1)
    with pytest.raises(DataError, match="no 'tag'"):
        representations(Net(), examples, ("tag",))


def test_exemplars_keep_more_of_the_rare_class():
    y = np.zeros(1000)
    y[:30] = 1
    rng = np.random.default_rng(0)
    chosen = exemplars(200, rng, labels=y, positives=100)
    assert y[chosen].sum() == 30 and len(chosen) == 130
    assert len(np.unique(chosen)) == len(chosen)
    assert len(exemplars(10, rng, of=1000)) == 10
    with pytest.raises(ParameterError):
        exemplars(10, rng)


def test_a_concatenation_draws_tasks_by_their_size():
    a = TensorExamples({"x": torch.zeros(30, 1)}, sampling_weights=np.r_[np.ones(10), np.zeros(20)])
    b = TensorExamples({"x": torch.ones(10, 1)})
    both = Concatenation([a, b])
    assert both.sampling_weights[:30].sum() == 30 and both.sampling_weights[30:].sum() == 10
    batch = both.batch(np.array([35, 2, 31]), np.random.default_rng(0))
    assert batch["x"].flatten().tolist() == [1.0, 0.0, 1.0]


def test_dark_replay_compares_each_example_with_what_was_said_of_it():
    method, learner = DERpp(20, alpha=1.0, beta=0.0, batch_size=40), Net()
    for one in (*TASKS, task("east", 0.5)):
        method.end(learner, one.examples)
    seen = []

    class Watch(Strategy):
        def adjust_gradient(self, context):
            (replay,) = context.strategies[:1]
            seen.append(replay.penalty(learner, None, None, {}, context).item())

    # Before the first step the learner says what it said.
    options = {**OPTIONS, "max_steps": 1}
    fit(learner, TASKS[0].examples, strategies=[*method.begin(learner), Watch()], **options)
    assert seen == pytest.approx([0.0], abs=1e-10)


@pytest.mark.parametrize("kind", [AGEM, GEM])
def test_a_projection_by_raw_examples_is_no_private_training(kind):
    pytest.importorskip("dp_accounting", reason="needs the extra 'private'")
    method, learner = kind(20), Net()
    method.end(learner, TASKS[0].examples)
    with pytest.raises(TrainingError, match=r"(AveragedGradient|GradientEpisodic)Memory.*raw"):
        fit(
            learner, TASKS[1].examples,
            strategies=[*method.begin(learner), PrivateTraining(1.0)], **OPTIONS,
        )  # fmt: skip


def test_figures_of_a_matrix_by_hand():
    scores = np.array([[0.9, 0.5, 0.4], [0.7, 0.8, 0.6], [0.8, 0.6, 0.9]])
    found = ContinualMatrix(("a", "b", "c"), scores, np.array([0.5, 0.4, 0.5]))
    assert found.final_mean() == pytest.approx((0.8 + 0.6 + 0.9) / 3)
    assert found.forgetting() == pytest.approx((0.1 + 0.2) / 2)
    assert found.backward_transfer() == pytest.approx((-0.1 - 0.2) / 2)
    assert found.forward_transfer() == pytest.approx((0.1 + 0.1) / 2)
    assert found.to_polars()["trained_on"].to_list() == ["a", "b", "c"]


def test_orders_are_compared():
    found = evaluate_orders(Net, TASKS, Naive, **{**OPTIONS, "max_steps": 20})
    assert found["order"].to_list() == ["north > south", "south > north"]
    with pytest.raises(ParameterError, match="no task 'east'"):
        evaluate_orders(Net, TASKS, Naive, orders=[["east"]])
    with pytest.raises(ParameterError, match="names of their own"):
        train_sequence(Net(), [TASKS[0], TASKS[0]], Naive())


def test_orders_of_tasks_with_one_name_are_refused():
    with pytest.raises(ParameterError, match="same name"):
        evaluate_orders(Net, [TASKS[0], TASKS[0]], Naive, **OPTIONS)


def test_a_sequence_is_repeatable():
    options = {**OPTIONS, "max_steps": 30}
    a, b = (train_sequence(Net(), TASKS, METHODS["derpp"](), **options) for _ in range(2))
    np.testing.assert_array_equal(a.scores, b.scores)
