"""Training that goes on over many calls."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from foretell.errors import ParameterError
from foretell.learners.tabular import ResponseNet, Trunk
from foretell.training import TensorExamples, fit
from foretell.training.machine import make_fabric
from foretell.training.online import CarriedOptimizer, Chronological


def _net() -> ResponseNet:
    torch.manual_seed(0)
    return ResponseNet(Trunk(3, hidden_sizes=(4,), batch_norm=False))


def _data(n: int = 60) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    return {"numbers": x, "label": (x[:, 0] > 0).long()}


def _fit(net, data, optimizer, steps=None, size=20):
    order = Chronological(size)
    fit(
        net, TensorExamples(data), strategies=(order,), optimizer=optimizer,
        max_steps=order.steps(len(data["label"])) if steps is None else steps,
        learning_rate=1e-2, weight_decay=1e-3, schedule="constant", device="cpu", threads=1,
    )  # fmt: skip


def _same(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_many_calls_are_one_long_run():
    data, whole, parts = _data(), _net(), _net()
    _fit(whole, data, CarriedOptimizer("adam", 1e-2))
    carried = CarriedOptimizer("adam", 1e-2)
    for begin in (0, 20, 40):
        _fit(parts, {k: v[begin : begin + 20] for k, v in data.items()}, carried)
    assert _same(whole, parts)
    fresh = _net()
    for begin in (0, 20, 40):
        part = {k: v[begin : begin + 20] for k, v in data.items()}
        _fit(fresh, part, CarriedOptimizer("adam", 1e-2))
    assert not _same(whole, fresh)


def test_moments_survive_saving():
    data, net = _data(), _net()
    carried = CarriedOptimizer("adam", 1e-2)
    _fit(net, data, carried)
    other, restored = copy.deepcopy(net), CarriedOptimizer("adam", 1e-2)
    restored.load_state(carried.state())
    assert restored.state().keys() == carried.state().keys()
    _fit(net, data, carried)
    _fit(other, data, restored)
    assert _same(net, other)


def test_one_optimizer_serves_one_learner():
    carried = CarriedOptimizer()
    _fit(_net(), _data(), carried)
    with pytest.raises(ParameterError, match="other parameters"):
        _fit(_net(), _data(), carried)


def test_a_pass_in_order_takes_each_example_once():
    seen = []

    class Spy(Chronological):
        def draw(self, context):
            seen.append(super().draw(context))
            return seen[-1]

    data, spy = _data(45), Spy(20)
    fit(_net(), TensorExamples(data), strategies=(spy,), max_steps=spy.steps(45), device="cpu",
        threads=1)  # fmt: skip
    assert [len(part) for part in seen] == [20, 20, 5]
    assert np.array_equal(np.concatenate(seen), np.arange(45))
    with pytest.raises(ParameterError, match="batch_size"):
        Chronological(0)


def test_one_fabric_serves_all_runs_of_a_process():
    assert make_fabric("cpu", 1, "32-true") is make_fabric("cpu", 1, "32-true")
    assert make_fabric("cpu", 1, "32-true") is not make_fabric("cpu", 1, "64-true")
