from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foretell.errors import DataError, ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import Strategy, TensorExamples, fit
from foretell.training.sampling import EPOCH, STEP, VALIDATION, Sampler, generator


def weights_of(learner: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def least_squares(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor | None = None) -> np.ndarray:
    design = np.column_stack([x.double().numpy(), np.ones(len(x))])
    root = np.ones(len(x)) if w is None else np.sqrt(w.double().numpy())
    return np.linalg.lstsq(design * root[:, None], y.double().numpy() * root, rcond=None)[0]


def coefficients(learner: Any) -> np.ndarray:
    weight, bias = learner.layer.weight.detach(), learner.layer.bias.detach()
    return np.append(weight.double().numpy()[0], bias.double().numpy())


FULL = {"batch_size": 200, "learning_rate": 0.1, "weight_decay": 0.0, "gradient_clip": None}


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_reaches_the_least_squares_solution(linear, regression, examples, optimizer) -> None:
    learner = linear()
    result = fit(learner, examples, optimizer=optimizer, max_steps=400, **FULL)
    np.testing.assert_allclose(coefficients(learner), least_squares(**regression), atol=1e-4)
    assert (result.steps, result.stopped, result.skipped) == (400, "max_steps", 0)
    assert [entry["step"] for entry in result.history] == [100, 200, 300, 400]
    assert not learner.training


def test_double_precision(linear, regression, examples) -> None:
    learner = linear()
    fit(learner, examples, precision="64-true", max_steps=800, **FULL)
    assert learner.layer.weight.dtype == torch.float64
    np.testing.assert_allclose(coefficients(learner), least_squares(**regression), atol=1e-9)


def test_mixed_precision_trains(linear, regression, examples) -> None:
    learner = linear()
    fit(learner, examples, precision="bf16-mixed", max_steps=200, **FULL)
    assert learner.layer.weight.dtype == torch.float32
    np.testing.assert_allclose(coefficients(learner), least_squares(**regression), atol=0.1)


def test_weights_give_the_weighted_solution(linear, regression) -> None:
    weight = torch.rand(200) * 5
    learner = linear()
    fit(learner, TensorExamples({**regression, "weight": weight}), max_steps=400, **FULL)
    np.testing.assert_allclose(
        coefficients(learner), least_squares(**regression, w=weight), atol=1e-4
    )


def test_weight_zero_is_removal_whatever_the_score(linear, regression) -> None:
    """Scores of rows of weight 0 overflow to infinity: they must not reach the loss."""
    kept = {key: value[:150] for key, value in regression.items()}
    spoiled = {key: value.clone() for key, value in regression.items()}
    spoiled["y"][150:] = 1e30
    spoiled["weight"] = (torch.arange(200) < 150).float()
    one, other = linear(), linear()
    options = {**FULL, "optimizer": "sgd", "max_steps": 100}
    fit(one, TensorExamples(spoiled), **options)
    fit(other, TensorExamples(kept), **options)
    np.testing.assert_allclose(coefficients(one), coefficients(other), atol=1e-5)


def test_micro_batches_of_unequal_weight_are_one_batch(linear, regression) -> None:
    """The mean is over the step's examples, not the mean of micro-batches' means."""
    weight = torch.rand(200) ** 4
    examples = TensorExamples({**regression, "weight": weight})
    one, other = linear(), linear()
    options = {"learning_rate": 0.1, "max_steps": 30, "weight_decay": 0.0, "optimizer": "sgd"}
    fit(one, examples, batch_size=40, **options)
    fit(other, examples, batch_size=10, accumulate=4, **options)
    np.testing.assert_allclose(coefficients(one), coefficients(other), atol=1e-5)


def test_steps_without_weight_are_skipped_and_counted(linear, regression) -> None:
    half = {**regression, "weight": (torch.arange(200) % 2).float()}
    result = fit(linear(), TensorExamples(half), batch_size=1, max_steps=200)
    assert result.skipped == 100
    none = {**regression, "weight": torch.zeros(200)}
    with pytest.raises(TrainingError, match=r"all 20 steps .* summed to 0"):
        fit(linear(), TensorExamples(none), max_steps=20)


class GradientNorms(Strategy):
    def __init__(self) -> None:
        self.norms: list[float] = []

    def after_step(self, context: Any) -> None:
        grads = [p.grad.norm() ** 2 for p in context.parameters.values()]
        self.norms.append(float(sum(grads)) ** 0.5)


def test_gradient_clipping(linear, examples) -> None:
    clipped, free = GradientNorms(), GradientNorms()
    fit(linear(), examples, strategies=[clipped], max_steps=20, gradient_clip=0.5)
    fit(linear(), examples, strategies=[free], max_steps=20, gradient_clip=None)
    assert max(free.norms) > 1
    assert max(clipped.norms) <= 0.5 + 1e-6
    assert clipped.norms[0] == pytest.approx(0.5, abs=1e-5)


def test_early_stopping_and_best_weights(linear, examples) -> None:
    """A validation function that gets worse after the third look."""
    seen: list[dict[str, torch.Tensor]] = []

    def validation(learner: Learner) -> float:
        assert not learner.training
        assert not torch.is_grad_enabled()
        seen.append(weights_of(learner))
        return [5.0, 4.0, 1.0, 2.0, 1.0, 3.0, 0.0][len(seen) - 1]

    learner = linear()
    result = fit(
        learner, examples, validation=validation, validate_every=10, patience=3, max_steps=500
    )
    assert (result.stopped, result.steps) == ("patience", 60)
    assert (result.best_step, result.best_score) == (30, 1.0)
    assert same(weights_of(learner), seen[2])

    seen.clear()
    learner = linear()
    fit(
        learner, examples, validation=validation, validate_every=10, patience=3, max_steps=500,
        best_weights=False,
    )  # fmt: skip
    assert same(weights_of(learner), seen[5])


def test_validation_examples_are_scored_by_weight(linear, regression, examples) -> None:
    weight = torch.rand(200)
    learner = linear()
    result = fit(
        learner, examples, max_steps=5, batch_size=64,
        validation=TensorExamples({**regression, "weight": weight}),
    )  # fmt: skip
    with torch.no_grad():
        scores = learner.loss(regression)
    assert result.best_score == pytest.approx(float((scores * weight).sum() / weight.sum()))


def test_same_seed_same_weights_other_seed_other_weights(linear, examples) -> None:
    runs = []
    for seed in (0, 0, 1):
        torch.rand(3)  # the global generator is elsewhere each time
        learner = linear(dropout=0.5)
        torch.rand(seed + 2)
        fit(learner, examples, max_steps=20, batch_size=16, seed=seed)
        runs.append(weights_of(learner))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_validating_more_often_changes_nothing(linear, examples) -> None:
    runs = []
    for every in (3, 50):
        learner = linear(dropout=0.5)
        fit(
            learner, examples, validation=examples, validate_every=every, max_steps=50,
            best_weights=False,
        )  # fmt: skip
        runs.append(weights_of(learner))
    assert same(*runs)


def test_the_callers_generators_and_threads_are_left_alone(linear, examples) -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    learner = linear()
    torch.manual_seed(7)
    used: list[int] = []
    fit(
        learner, examples, max_steps=3, threads=3,
        on_log=lambda _: used.append(torch.get_num_threads()),
    )  # fmt: skip
    assert used == [3]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


def test_time_limit_stops_and_validates(linear, examples) -> None:
    result = fit(linear(), examples, max_steps=10**6, time_limit=0.05, validation=examples,
                 validate_every=10**6)  # fmt: skip
    assert result.stopped == "time_limit"
    assert 0 < result.steps < 10**6
    assert result.best_step == result.steps


def test_no_steps_is_allowed(linear, examples) -> None:
    learner = linear()
    before = weights_of(learner)
    result = fit(learner, examples, max_steps=0)
    assert (result.steps, result.history) == (0, [])
    assert same(before, weights_of(learner))


class Sums(Learner):
    """A value that is the mean of the masked values of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def encode(self, batch: Any) -> Any:
        return (batch["x"] * batch["mask"]).sum(1) / batch["mask"].sum(1)

    def decode(self, encoding: Any, batch: Any) -> Any:
        return self.scale * encoding

    def score(self, output: Any, batch: Any) -> Any:
        return (output - batch["y"]) ** 2


def test_mixed_lengths_are_padded_and_masked() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(100):
        x = rng.normal(size=rng.integers(1, 9)).astype(np.float32)
        rows.append({"x": x, "y": np.float32(2 * x.mean())})
    examples = TensorExamples(rows, pad_value=99.0)
    batch = examples.batch(np.arange(3), rng)
    assert batch["x"].shape == batch["mask"].shape == (3, max(len(r["x"]) for r in rows[:3]))
    assert (batch["x"][~batch["mask"]] == 99).all()
    assert batch["mask"].sum(1).tolist() == [len(row["x"]) for row in rows[:3]]
    learner = Sums()
    fit(learner, examples, max_steps=300, learning_rate=0.1, batch_size=32)
    assert learner.scale.item() == pytest.approx(2, abs=1e-3)


def test_sampling_weights_draw_in_proportion() -> None:
    sampler = Sampler(4, 1000, 0, np.array([0.0, 1.0, 3.0, 0.0]))
    counts = np.bincount(np.concatenate([sampler.indices(s) for s in range(20)]), minlength=4)
    assert counts[0] == counts[3] == 0
    assert counts[2] / counts[1] == pytest.approx(3, rel=0.1)


def test_epochs_see_every_example_equally_often_and_in_any_order_of_asking() -> None:
    sampler = Sampler(7, 3, 0)
    drawn = np.concatenate([sampler.indices(step) for step in range(7)])
    for epoch in range(3):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == list(range(7))
    later = Sampler(7, 3, 0)
    assert later.indices(5).tolist() == drawn[15:18].tolist()
    assert sampler.indices(0).tolist() == drawn[:3].tolist()


def test_streams_of_one_seed_are_all_different() -> None:
    keys = [(), (EPOCH,), (EPOCH, 0), (STEP, 0), (STEP, 0, 0), (STEP, 0, 1), (VALIDATION, 0)]
    assert len({generator(0, *key).integers(2**63) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "shape"),
        (np.array([1, -1, 1, 1.0]), "row 1"),
        (np.array([1, math.nan, 1, 1.0]), "row 1"),
        (np.zeros(4), "all sampling weights are 0"),
    ],
)
def test_bad_sampling_weights_are_refused(weights: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Sampler(4, 2, 0, weights)


def test_not_finite_score_names_step_and_row(linear, regression) -> None:
    regression["y"][17] = math.nan
    learner = linear()
    with pytest.raises(TrainingError, match=r"step 0: the score of 1 of 200 .* row \d+"):
        fit(learner, TensorExamples(regression), batch_size=200, max_steps=10)
    assert all(torch.isfinite(p).all() for p in learner.parameters())


def test_divergence_restores_the_last_finite_weights(linear, examples) -> None:
    learner = linear()
    with pytest.raises(TrainingError, match=r"step \d+: .*not finite"):
        fit(learner, examples, optimizer="sgd", learning_rate=1e30, gradient_clip=None,
            schedule="constant", max_steps=500)  # fmt: skip
    assert all(torch.isfinite(p).all() for p in learner.parameters())


class Spoil(Strategy):
    def adjust_gradient(self, context: Any) -> None:
        if context.step == 4:
            context.parameters["layer.bias"].grad.fill_(math.inf)


def test_not_finite_gradient_names_the_parameter_and_moves_nothing(linear, examples) -> None:
    learner, reference = linear(), linear()
    with pytest.raises(TrainingError, match=r"step 4: the gradient of layer\.bias"):
        fit(learner, examples, strategies=[Spoil()], schedule="constant", max_steps=9)
    fit(reference, examples, schedule="constant", max_steps=4)
    assert same(weights_of(learner), weights_of(reference))


def test_not_finite_validation_is_an_error(linear, examples) -> None:
    with pytest.raises(TrainingError, match="after 10 steps: the validation score"):
        fit(linear(), examples, validation=lambda _: math.nan, validate_every=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"gradient_clip": -1.0}, "gradient_clip"),
        ({"optimizer": "adamm"}, "adamw, adam, sgd"),
        ({"schedule": "cosin"}, "one_cycle, cosine"),
        ({"precision": "16-mixed"}, "32-true"),
        ({"device": "gpu0"}, "auto, cpu"),
        ({"threads": 0}, "threads"),
        ({"devices": 0}, "devices"),
        ({"resume": True}, "checkpoint"),
        ({"patience": 0}, "patience"),
    ],
)
def test_bad_arguments_are_refused(linear, examples, options, message) -> None:
    with pytest.raises(ParameterError, match=message):
        fit(linear(), examples, **options)


class Reduced(Sums):
    def score(self, output: Any, batch: Any) -> Any:
        return super().score(output, batch).mean()


def test_a_reduced_score_is_refused() -> None:
    tensors = {"x": torch.ones(4, 2), "mask": torch.ones(4, 2), "y": torch.ones(4)}
    with pytest.raises(TrainingError, match=r"Reduced\.score returned shape \(\)"):
        fit(Reduced(), TensorExamples(tensors), max_steps=1)


def test_a_learner_without_parameters_is_refused(linear, examples) -> None:
    learner = linear().requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter"):
        fit(learner, examples, max_steps=1)


def test_examples_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="equally many"):
        TensorExamples({"x": torch.ones(3), "y": torch.ones(4)})
    with pytest.raises(DataError, match="row 1"):
        TensorExamples([{"x": 1.0}, {"y": 1.0}])
    with pytest.raises(DataError, match="no example"):
        TensorExamples([])


def test_frozen_parameters_stay(linear, examples) -> None:
    learner = linear()
    learner.layer.bias.requires_grad_(False)
    before = weights_of(learner)
    fit(learner, examples, max_steps=10)
    assert torch.equal(before["layer.bias"], learner.layer.bias)
    assert not torch.equal(before["layer.weight"], learner.layer.weight)
