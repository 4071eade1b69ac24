"""Micro-batch clipping: what it costs must be said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import Strategy, TensorExamples, fit
from foretell.training.private import MicroBatchTraining, PrivateTraining

pytest.importorskip("dp_accounting", reason="needs the extra 'private'")


class Classifier(Learner):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))

    def encode(self, batch):
        return batch["x"]

    def decode(self, encoding, batch):
        return self.layers(encoding)

    def score(self, output, batch):
        return nn.functional.cross_entropy(output, batch["y"], reduction="none")


def train(strategies, **options):
    torch.manual_seed(0)
    model = Classifier()
    x = torch.randn(1000, 5)
    data = TensorExamples({"x": x, "y": (x @ torch.randn(5, 3)).argmax(1)})
    options = {"max_steps": 30, "batch_size": 100, "learning_rate": 1e-2, "seed": 3, **options}
    fit(model, data, strategies=strategies, progress=False, **options)
    return model


def test_the_statement_counts_twice_the_bound():
    exact = PrivateTraining(1.0, accountant="rdp", noise_seed=0)
    slots = MicroBatchTraining(2.0, microbatch_size=10, accountant="rdp", noise_seed=0)
    train([exact])
    train([slots])
    statement = slots.statement()
    assert statement.sensitivity_factor == 2
    assert statement.noise_multipliers == (1.0,)
    assert statement.epsilon == pytest.approx(exact.statement().epsilon)


def test_a_target_is_met_by_twice_the_noise():
    exact = PrivateTraining(target_epsilon=3, accountant="rdp", noise_seed=0)
    slots = MicroBatchTraining(target_epsilon=3, microbatch_size=10, accountant="rdp", noise_seed=0)
    train([exact], max_steps=2)
    train([slots], max_steps=2)
    assert slots.first_noise == pytest.approx(2 * exact.first_noise, rel=1e-3)


def test_groups_fixed_in_advance_are_records_of_their_own():
    groups = MicroBatchTraining(
        1.0, microbatch_size=10, fixed_groups=True, accountant="rdp", noise_seed=0
    )
    train([groups])
    statement = groups.statement()
    assert (statement.unit, statement.sensitivity_factor) == ("microbatch", 1)
    assert statement.adjacency == "add_remove_microbatch"


def test_slots_of_one_example_are_exact():
    """No two examples share a slot, or one could turn the other's gradient around."""
    one = MicroBatchTraining(1.0, microbatch_size=1, accountant="rdp", noise_seed=0)
    slots = []
    share = one.slots
    one.slots = lambda size, rng: slots.append(share(size, rng)) or slots[-1]
    train([one], max_steps=2)
    assert one.statement().sensitivity_factor == 1
    assert len(slots) == 2 and all(len(rows) == 1 for step in slots for rows in step)
    assert [rows.item() for rows in slots[0]] == list(range(len(slots[0])))


@pytest.mark.parametrize("layer_scale", [None, "uniform", "numel", "weight_norm"])
def test_one_example_can_move_the_sum_by_twice_the_bound_and_no_more(layer_scale):
    """Two slots' worth of opposite examples: the claim of one bound would be false."""
    model = Classifier()
    strategy = MicroBatchTraining(1.0, microbatch_size=2, layer_scale=layer_scale, noise_seed=0)
    train([strategy], max_steps=1)
    strategy.arrange(dict(model.named_parameters()))
    bounds = strategy.layers.bounds()
    assert sum(b**2 for b in bounds.values()) == pytest.approx(1)
    parameters = list(model.parameters())
    gradients = {p: torch.randn_like(p) * 100 for p in parameters}
    there = {p: torch.zeros_like(p) for p in parameters}
    back = {p: torch.zeros_like(p) for p in parameters}
    strategy.add_clipped(gradients, bounds, there)
    strategy.add_clipped({p: -g for p, g in gradients.items()}, bounds, back)
    moved = torch.stack([(there[p] - back[p]).norm() for p in parameters]).norm()
    assert moved.item() == pytest.approx(2.0, rel=1e-5)


def test_noise_of_layers_is_one_gaussian_of_the_multiplier():
    class Watch(Strategy):
        def adjust_gradient(self, context):
            self.seen = {n: p.grad.clone() for n, p in context.parameters.items()}

    watch = Watch()
    strategy = MicroBatchTraining(1.0, microbatch_size=10, layer_scale="uniform", noise_seed=0)
    strategy.draw = lambda context: np.zeros(0, dtype=np.int64)
    train([strategy, watch], max_steps=1)
    # C_l = 1 / sqrt(2) and sqrt(2) of it in noise: deviation 1 on every number, over 10 slots.
    noise = torch.cat([g.flatten() for g in watch.seen.values()]) * 10
    assert noise.std().item() == pytest.approx(1.0, rel=0.2)


def test_decay_composes_the_noise_that_was_used():
    strategy = MicroBatchTraining(
        2.0, microbatch_size=10, noise_decay=0.9, smallest_noise=1.7, accountant="rdp"
    )
    train([strategy], max_steps=30)
    assert strategy.statement().noise_multipliers == pytest.approx((1.0, 0.9, 0.85))
    assert strategy.statement().steps == (10, 10, 10)


def test_wrong_settings_are_named():
    with pytest.raises(ParameterError, match="microbatch_size"):
        MicroBatchTraining(1.0, microbatch_size=0, noise_seed=0)
    with pytest.raises(ParameterError, match="layer_scale"):
        MicroBatchTraining(1.0, layer_scale="size", noise_seed=0)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="no option clipping"):
        MicroBatchTraining(1.0, clipping="ghost", noise_seed=0)
    with pytest.raises(ParameterError, match="quantile"):
        MicroBatchTraining(1.0, max_grad_norm="quantile", noise_seed=0)
    with pytest.raises(TrainingError, match="accumulate=1"):
        train([MicroBatchTraining(1.0, noise_seed=0)], accumulate=2, max_steps=1)
