from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import (
    Gradient,
    ImportanceWeighting,
    L2ToReference,
    ParameterPenalty,
    Strategy,
    TensorExamples,
    WeightAveraging,
    fit,
)

# The contract's generality, in forty lines: a learner and three strategies that know nothing of
# one another.


class Line(Learner):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(2))

    def encode(self, batch: Any) -> Tensor:
        return batch["x"]

    def decode(self, encoding: Tensor, batch: Any) -> Tensor:
        return encoding @ self.slope

    def score(self, output: Tensor, batch: Any) -> Tensor:
        return 0.5 * (output - batch["y"]) ** 2


class ByGroup(Strategy):
    def weigh(self, scores: Tensor, batch: Any, context: Any) -> Tensor:
        return 1.0 + 2.0 * batch["group"]


class Ridge(Strategy):
    def penalty(self, learner: Any, encoding: Any, output: Any, batch: Any, context: Any) -> Tensor:
        return 0.5 * (learner.slope**2).sum()


class PerExample(Strategy):
    """Clips each example's gradient, as private training does."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def gradient(self, batches: Any, context: Any) -> Gradient:
        slope, total, mass = context.parameters["slope"], 0.0, 0.0
        slope.grad = torch.zeros_like(slope)
        for batch in batches:
            scores, weights, penalty = context.evaluate(batch)
            for score, weight in zip(scores, weights, strict=True):
                (grad,) = torch.autograd.grad(score, slope, retain_graph=True)
                slope.grad += weight * grad * min(1.0, self.bound / float(grad.norm() + 1e-12))
            slope.grad += weights.sum() * torch.autograd.grad(penalty, slope)[0]
            total += ((weights * scores).sum() + weights.sum() * penalty).item()
            mass += float(weights.sum())
        slope.grad /= mass
        return Gradient(total / mass, mass)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("replace", [False, True])
def test_three_strategies_compose_to_the_closed_form(accumulate: int, replace: bool) -> None:
    x, group = torch.randn(64, 2), (torch.arange(64) % 2).float()
    y = x @ torch.tensor([1.0, -1.0]) + group
    strategies = [ByGroup(), Ridge(), *([PerExample(1e9)] if replace else [])]
    learner = Line()
    fit(
        learner, TensorExamples({"x": x, "y": y, "group": group}), strategies=strategies,
        max_steps=150, batch_size=64 // accumulate, accumulate=accumulate, optimizer="sgd",
        learning_rate=0.1, weight_decay=0.0, gradient_clip=None,
    )  # fmt: skip
    w = ((1 + 2 * group) / (1 + 2 * group).sum())[:, None]
    expected = torch.linalg.solve(x.T @ (w * x) + torch.eye(2), x.T @ (w[:, 0] * y))
    torch.testing.assert_close(learner.slope.detach(), expected, atol=1e-4, rtol=1e-4)


def test_a_replaced_gradient_is_used() -> None:
    x = torch.randn(64, 2)
    data = TensorExamples({"x": x, "y": x.sum(1) * 5, "group": torch.zeros(64)})
    slopes = []
    for bound in (1e9, 0.01):
        learner = Line()
        fit(learner, data, strategies=[PerExample(bound), Ridge()], max_steps=20, batch_size=64)
        slopes.append(learner.slope.detach())
    assert not torch.allclose(*slopes)


class Draws(Strategy):
    """Poisson sampling: every example with a chance of its own, sometimes none at all."""

    def __init__(self, chance: float) -> None:
        self.chance, self.sizes = chance, []

    def draw(self, context: Any) -> np.ndarray:
        chosen = np.flatnonzero(context.rng.random(len(context.examples)) < self.chance)
        self.sizes.append(len(chosen))
        return chosen


def test_drawing_can_be_replaced_even_by_nothing(linear, examples) -> None:
    strategy = Draws(0.005)
    result = fit(linear(), examples, strategies=[strategy], max_steps=100)
    assert result.skipped == strategy.sizes.count(0) > 0
    assert len(set(strategy.sizes)) > 2


class Doubling(Strategy):
    def prepare(self, batch: Any, context: Any) -> Any:
        return {**batch, "y": 2 * batch["y"]}


def test_batches_can_be_prepared(linear, regression, examples) -> None:
    one, other = linear(), linear()
    fit(one, examples, strategies=[Doubling()], max_steps=20)
    fit(other, TensorExamples({**regression, "y": 2 * regression["y"]}), max_steps=20)
    assert torch.equal(one.layer.weight, other.layer.weight)


class Project(Strategy):
    """Keeps the gradient from undoing a memory, as A-GEM does (Chaudhry et al. 2019, eq. 11)."""

    def __init__(self, memory: Any) -> None:
        self.memory, self.dots = memory, []

    def adjust_gradient(self, context: Any) -> None:
        parameters = list(context.parameters.values())
        loss = context.learner.loss(self.memory).mean()
        reference = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        current = torch.cat([p.grad.flatten() for p in parameters])
        dot = current @ reference
        if dot < 0:
            current = current - dot / (reference @ reference) * reference
            for p, part in zip(
                parameters, current.split([p.numel() for p in parameters]), strict=True
            ):
                p.grad.copy_(part.view_as(p))
        self.dots.append(float(current @ reference))


def test_gradients_can_be_projected(linear, regression, examples) -> None:
    memory = {"x": regression["x"][:50], "y": -regression["y"][:50]}
    strategy = Project(memory)
    fit(linear(), examples, strategies=[strategy], max_steps=30)
    assert min(strategy.dots) > -1e-3


class Adversary(Strategy):
    """Has parameters of its own, which the optimizer moves too."""

    def __init__(self) -> None:
        self.module = nn.Linear(3, 1)

    def penalty(self, learner: Any, encoding: Any, output: Any, batch: Any, context: Any) -> Tensor:
        return ((self.module(encoding)[:, 0] - batch["x"][:, 0]) ** 2).mean()


def test_a_strategys_module_is_trained_along(linear, examples) -> None:
    strategy = Adversary()
    fit(linear(), examples, strategies=[strategy], max_steps=300, learning_rate=0.1)
    weight = strategy.module.weight.detach()
    torch.testing.assert_close(weight, torch.tensor([[1.0, 0.0, 0.0]]), atol=0.02, rtol=0)


class Events(Strategy):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def setup(self, context: Any) -> None:
        self.seen.append("setup")

    def teardown(self, context: Any) -> None:
        self.seen.append("teardown")

    def after_step(self, context: Any) -> None:
        self.seen.append(str(context.step))
        if context.step == 2:
            raise RuntimeError("stop")


def test_teardown_is_called_after_an_error(linear, examples) -> None:
    strategy = Events()
    with pytest.raises(RuntimeError, match="stop"):
        fit(linear(), examples, strategies=[strategy])
    assert strategy.seen == ["setup", "0", "1", "2", "teardown"]


class Proud(Strategy):
    def conflict(self, other: Strategy) -> str | None:
        return "penalties are not private; leave it out" if isinstance(other, Ridge) else None


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ([PerExample(1), PerExample(2)], "PerExample and PerExample both replace the backward"),
        ([Draws(0.1), ByGroup(), Draws(0.2)], "both choose the examples"),
        ([WeightAveraging(), WeightAveraging()], "both decide the weights"),
        ([Ridge(), Proud()], "Ridge and Proud cannot be combined: penalties are not private"),
        ([Ridge], "write it with brackets"),
        (["ridge"], "must be foretell.training.Strategy"),
        ([ridge := Ridge(), ridge], "listed twice"),
    ],
)
def test_what_cannot_be_combined_is_refused_before_training(pair: Any, message: str) -> None:
    learner = Line()
    with pytest.raises(TrainingError, match=message):
        fit(learner, TensorExamples({"x": torch.ones(4, 2), "y": torch.ones(4)}), strategies=pair)
    assert (learner.slope == 0).all()


class WrongShape(Strategy):
    def weigh(self, scores: Tensor, batch: Any, context: Any) -> Tensor:
        return scores.mean()


def test_a_weight_of_the_wrong_shape_is_refused(linear, examples) -> None:
    with pytest.raises(TrainingError, match=r"WrongShape\.weigh returned shape \(\)"):
        fit(linear(), examples, strategies=[WrongShape()])


# The strategies that are shipped.


def weights(learner: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in learner.parameters()]


def test_importance_weighting_by_key_and_by_function_is_the_weight_key(linear, regression) -> None:
    w = torch.rand(200)
    found = []
    for data, strategy in (
        ({**regression, "weight": w}, []),
        ({**regression, "density_ratio": w}, [ImportanceWeighting("density_ratio")]),
        ({**regression, "r": w**2}, [ImportanceWeighting(lambda s, b: b["r"], power=0.5)]),
    ):
        learner = linear()
        fit(learner, TensorExamples(data), strategies=strategy, max_steps=30)
        found.append(learner.layer.weight.detach())
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_importance_weights_are_clipped_and_checked(linear, examples) -> None:
    strategy = ImportanceWeighting(lambda s, b: torch.full_like(s, 9.0), clip=4.0)
    assert strategy.weigh(torch.ones(2), {}, None).tolist() == [4.0, 4.0]  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="no key 'ratio', only"):
        fit(linear(), examples, strategies=[ImportanceWeighting("ratio")])
    with pytest.raises(TrainingError, match="negative"):
        fit(linear(), examples, strategies=[ImportanceWeighting(lambda s, b: -s)])
    with pytest.raises(ParameterError, match="clip"):
        ImportanceWeighting("w", clip=0)


def test_parameter_penalty_reaches_the_posterior_mode() -> None:
    """Least squares with a Gaussian prior has a closed form."""
    x = torch.randn(100, 2)
    y = x @ torch.tensor([1.0, 2.0])
    anchor, precision = torch.tensor([-1.0, 3.0]), torch.tensor([0.5, 4.0])
    learner = Line()
    strategy = ParameterPenalty({"slope": anchor}, {"slope": precision}, strength=2.0)
    fit(
        learner, TensorExamples({"x": x, "y": y}), strategies=[strategy], max_steps=200,
        batch_size=100, optimizer="sgd", learning_rate=0.05, gradient_clip=None,
    )  # fmt: skip
    prior = 2 * torch.diag(precision)
    expected = torch.linalg.solve(x.T @ x / 100 + prior, x.T @ y / 100 + prior @ anchor)
    torch.testing.assert_close(learner.slope.detach(), expected, atol=1e-4, rtol=1e-4)


def test_a_strong_l2_to_reference_keeps_the_weights(linear, examples) -> None:
    moved = []
    for strength in (0.0, 1.0, 1000.0):
        learner = linear()
        start = weights(learner)
        fit(
            learner, examples, strategies=[L2ToReference(strength)], max_steps=300,
            learning_rate=0.05, weight_decay=0.0,
        )  # fmt: skip
        moved.append(
            sum(float((a - b).norm()) for a, b in zip(start, weights(learner), strict=True))
        )
    assert moved[0] > 1.3 * moved[1] > 10 * moved[2]


@pytest.mark.parametrize(
    ("anchor", "precision", "message"),
    [
        ({"slop": torch.zeros(2)}, 1.0, "no parameter 'slop'; it has slope"),
        ({"slope": torch.zeros(3)}, 1.0, "shape"),
    ],
)
def test_anchors_must_fit_the_learner(anchor: Any, precision: Any, message: str) -> None:
    data = TensorExamples({"x": torch.ones(4, 2), "y": torch.ones(4)})
    with pytest.raises(TrainingError, match=message):
        fit(Line(), data, strategies=[ParameterPenalty(anchor, precision)])


def test_bad_precisions_are_refused() -> None:
    with pytest.raises(ParameterError, match="negative"):
        ParameterPenalty({"a": torch.zeros(2)}, -1.0)
    with pytest.raises(ParameterError, match="shape"):
        ParameterPenalty({"a": torch.zeros(2)}, {"a": torch.ones(3)})
    with pytest.raises(ParameterError, match="same parameters"):
        ParameterPenalty({"a": torch.zeros(2)}, {"b": torch.ones(2)})


class Record(Strategy):
    def __init__(self) -> None:
        self.path: list[Tensor] = []

    def after_step(self, context: Any) -> None:
        self.path.append(context.learner.layer.weight.detach().clone())


def test_plain_averaging_is_the_mean_of_the_path(linear, examples) -> None:
    record, learner = Record(), linear()
    fit(learner, examples, strategies=[record, WeightAveraging(None, start=0.5)], max_steps=40)
    torch.testing.assert_close(learner.layer.weight.detach(), torch.stack(record.path[20:]).mean(0))


def test_exponential_averaging_is_its_recursion_and_leaves_training_alone(linear, examples) -> None:
    record, plain, learner = Record(), linear(), linear()
    validated: list[Tensor] = []

    def validation(model: Any) -> float:
        validated.append(model.layer.weight.detach().clone())
        return -float(len(validated))

    fit(
        learner, examples, strategies=[record, WeightAveraging(0.8)], max_steps=40,
        validation=validation, validate_every=10,
    )  # fmt: skip
    average = record.path[0]
    for n, value in enumerate(record.path[1:], start=1):
        decay = min(0.8, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(learner.layer.weight.detach(), average)
    assert torch.equal(validated[-1], learner.layer.weight)
    fit(plain, examples, max_steps=40)
    assert torch.equal(plain.layer.weight, record.path[-1])
