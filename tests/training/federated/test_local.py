from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import Regression, flat, gradient, make_clients, make_data
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import DataError, ParameterError
from foretell.training import L2ToReference, TensorExamples, fit
from foretell.training.federated import ListedClients, LocalTraining, SplitClients, run_federated
from foretell.training.federated.local import WholeEpochs
from foretell.training.schedule import warmup_cosine


class Counting(TensorExamples):
    def __init__(self, size: int) -> None:
        super().__init__({"x": torch.zeros(size, 3), "y": torch.zeros(size)})
        self.seen: list[np.ndarray] = []

    def batch(self, indices, rng):
        self.seen.append(np.asarray(indices))
        return super().batch(indices, rng)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 3))
def test_an_epoch_sees_every_example_once(size, batch_size, epochs):
    local = LocalTraining(epochs=epochs, batch_size=batch_size)
    examples = Counting(size)
    fit(
        Regression(),
        examples,
        strategies=[WholeEpochs()],
        max_steps=local.steps(size),
        batch_size=batch_size,
        optimizer=local.make_optimizer,
        learning_rate=0.1,
        threads=1,
    )
    seen = np.concatenate(examples.seen)
    assert len(seen) == epochs * size == local.samples(size)
    for epoch in np.split(seen, epochs):
        assert sorted(epoch) == list(range(size))


def test_schedules_run_over_the_steps_of_all_rounds():
    local = LocalTraining(schedule=warmup_cosine)
    for steps in (1, 3):  # a client with one batch a round warms up as well
        rates = [
            local.schedule_in_round(number, 40)(step, steps)
            for number in range(1, 41)
            for step in range(steps)
        ]
        assert rates == [warmup_cosine(i, 40 * steps) for i in range(40 * steps)]


def test_each_client_has_a_schedule_of_its_own_size():
    sizes = (2, 10)
    local = LocalTraining(batch_size=2, schedule="cosine", learning_rate=0.2)
    result = run_federated(Regression, make_clients(sizes), rounds=2, local=local)
    assert result.rounds["samples"].to_list() == [12, 12]
    assert local.steps(10) == 5


def test_kept_optimizers_go_on_where_they_were():
    local = LocalTraining(max_steps=2, batch_size=100, momentum=0.9, keep_optimizer=True)
    result = run_federated(Regression, make_clients((6,)), rounds=3, local=local)
    weights = torch.nn.Parameter(
        flat(run_federated(Regression, make_clients((6,)), rounds=0).learner)
    )
    optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9)
    for _ in range(6):
        weights.grad = gradient(weights.detach(), *make_data((6,))[0])
        optimizer.step()
    torch.testing.assert_close(flat(result.learner), weights.detach())
    fresh = LocalTraining(max_steps=2, batch_size=100, momentum=0.9)
    other = run_federated(Regression, make_clients((6,)), rounds=3, local=fresh)
    assert not torch.allclose(flat(other.learner), flat(result.learner))
    assert result.state["clients"] and not other.state["clients"]


def test_kept_adam_is_adam_over_all_rounds():
    local = LocalTraining(max_steps=3, batch_size=100, optimizer="adam", keep_optimizer=True)
    result = run_federated(Regression, make_clients((6,)), rounds=2, local=local)
    weights = torch.nn.Parameter(
        flat(run_federated(Regression, make_clients((6,)), rounds=0).learner)
    )
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for _ in range(6):
        weights.grad = gradient(weights.detach(), *make_data((6,))[0])
        optimizer.step()
    torch.testing.assert_close(flat(result.learner), weights.detach())


def test_strategies_of_the_local_training_are_heard_and_copied():
    penalty = L2ToReference(5.0)
    with_penalty = run_federated(Regression, make_clients(), rounds=2, strategies=[penalty])
    fedprox = run_federated(
        Regression, make_clients(), rounds=2, strategy="fedprox", proximal_mu=5.0
    )
    torch.testing.assert_close(flat(with_penalty.learner), flat(fedprox.learner))
    assert penalty.anchor == {}


def test_clients_share_examples_by_rows():
    x, y = make_data((20,))[0]
    everything = TensorExamples({"x": x, "y": y})
    rows = [[0, 3, 5], [1, 2], list(range(6, 20))]
    split = SplitClients(everything, rows)
    listed = ListedClients([TensorExamples({"x": x[own], "y": y[own]}) for own in rows])
    found = [run_federated(Regression, c, rounds=3) for c in (split, listed)]
    assert torch.equal(flat(found[0].learner), flat(found[1].learner))
    assert [split.activity(k) for k in range(3)] == [3, 2, 14]
    with pytest.raises(DataError, match="client 1 has rows 5 to 20"):
        SplitClients(everything, [[0], [5, 20]])


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": True},
        {"optimizer": "lion"},
        {"momentum": 1.0},
        {"optimizer": "adam", "momentum": 0.9},
        {"schedule": "sawtooth"},
        {"max_steps": 0},
    ],
    ids=lambda options: "-".join(options),
)
def test_local_training_out_of_range_is_refused(options):
    with pytest.raises(ParameterError):
        LocalTraining(**options)
