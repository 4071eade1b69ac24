"""Every algorithm against its published update, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import Deep, Regression, flat, gradient, make_clients, make_data
from flwr.serverapp.strategy import FedAvg, FedAvgM

from foretell.errors import ParameterError
from foretell.training.federated import LocalTraining, run_federated

STEP = LocalTraining(max_steps=1, batch_size=100, learning_rate=0.1)
STEPS = LocalTraining(max_steps=4, batch_size=100, learning_rate=0.1)


def start(seed: int = 0):
    return flat(run_federated(Regression, make_clients(), rounds=0, seed=seed).learner)


def descend(weights, x, y, steps=1, rate=0.1, extra=lambda w: 0.0):
    for _ in range(steps):
        weights = weights - rate * (gradient(weights, x, y) + extra(weights))
    return weights


def mean(updates, sizes):
    sizes = torch.tensor(sizes, dtype=torch.float32)
    return (torch.stack(updates) * (sizes / sizes.sum())[:, None]).sum(0)


SIZES = [5, 9, 3, 12]


def test_one_full_step_of_all_clients_is_a_central_step():
    result = run_federated(Regression, make_clients(), rounds=3, local=STEP)
    x, y = (torch.cat(part) for part in zip(*make_data(), strict=True))
    torch.testing.assert_close(flat(result.learner), descend(start(), x, y, 3))


def test_fedavg_is_the_mean_weighted_by_examples():
    result = run_federated(Regression, make_clients(), rounds=2, local=STEPS)
    weights = start()
    for _ in range(2):
        weights = mean([descend(weights, x, y, 4) for x, y in make_data()], SIZES)
    torch.testing.assert_close(flat(result.learner), weights)


def test_fedprox_adds_the_square_around_the_rounds_start():
    result = run_federated(
        Regression, make_clients(), strategy="fedprox", proximal_mu=0.7, rounds=2, local=STEPS
    )
    weights = start()
    for _ in range(2):
        weights = mean(
            [
                descend(weights, x, y, 4, extra=lambda w, x0=weights: 0.7 * (w - x0))
                for x, y in make_data()
            ],
            SIZES,
        )
    torch.testing.assert_close(flat(result.learner), weights)


def test_fedadam_is_adam_on_the_mean_update():
    result = run_federated(
        Regression, make_clients(), strategy="fedadam", eta=0.05, rounds=3, local=STEPS
    )
    weights, m, v = start().double(), torch.zeros(4).double(), torch.zeros(4).double()
    for t in range(1, 4):
        delta = mean([descend(weights.float(), x, y, 4) for x, y in make_data()], SIZES) - weights
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        rate = 0.05 * np.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        weights = weights + rate * m / (v.sqrt() + 1e-3)
    torch.testing.assert_close(flat(result.learner).double(), weights, atol=1e-5, rtol=1e-4)


def test_fedadam_sends_single_precision_on():
    result = run_federated(Regression, make_clients(), strategy="fedadam", rounds=3)
    assert result.rounds["bytes_down"].n_unique() == 1
    assert all(values.dtype == np.float32 for values in result.state["arrays"].values())


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_fedavgm_is_sgd_with_momentum_on_the_mean_update(rate):
    result = run_federated(
        Regression,
        make_clients(),
        strategy="fedavgm",
        server_learning_rate=rate,
        server_momentum=0.8,
        rounds=4,
        local=STEPS,
    )
    weights = torch.nn.Parameter(start())
    optimizer = torch.optim.SGD([weights], lr=rate, momentum=0.8)
    for _ in range(4):
        now = weights.detach()
        weights.grad = now - mean([descend(now, x, y, 4) for x, y in make_data()], SIZES)
        optimizer.step()
    torch.testing.assert_close(flat(result.learner), weights.detach(), atol=1e-5, rtol=1e-4)


def test_scaffold_follows_its_algorithm():
    clients = 2
    result = run_federated(
        Regression,
        make_clients(),
        strategy="scaffold",
        clients_per_round=clients,
        rounds=5,
        local=STEPS,
        server_learning_rate=0.9,
    )
    data, x = make_data(), start()
    c, ci = torch.zeros(4), torch.zeros(4, 4)
    for number in range(1, 6):
        chosen = result.selection_log.filter(round=number)["client"].to_list()
        moves, changes = [], []
        for i in chosen:
            y = descend(x, *data[i], 4, extra=lambda w, by=c - ci[i]: by)
            new = ci[i] - c + (x - y) / (4 * 0.1)
            moves.append(y - x)
            changes.append(new - ci[i])
            ci[i] = new
        x = x + 0.9 * torch.stack(moves).mean(0)
        c = c + clients / 4 * torch.stack(changes).mean(0)
    torch.testing.assert_close(flat(result.learner), x, atol=1e-5, rtol=1e-4)


def test_scaffold_ends_at_the_optimum_from_which_fedavg_drifts():
    sizes = (8, 8, 8, 8)
    local = LocalTraining(max_steps=8, batch_size=100, learning_rate=0.2)
    x, y = (torch.cat(part) for part in zip(*make_data(sizes), strict=True))
    features = torch.cat([x, torch.ones(len(x), 1)], 1)
    best = torch.linalg.lstsq(features, y).solution

    def distance(strategy):
        found = run_federated(
            Regression, make_clients(sizes), strategy=strategy, rounds=40, local=local
        )
        return float((flat(found.learner) - best).norm())

    assert distance("scaffold") < 1e-3 < 0.02 < distance("fedavg")


def test_scaffold_needs_plain_sgd():
    result = run_federated(
        Regression,
        make_clients(),
        strategy="scaffold",
        rounds=1,
        local=LocalTraining(optimizer="adam"),
    )
    assert result.failures["failure"].str.contains("plain SGD").all()
    assert result.rounds["completed"][-1] == 0


def test_freezing_saves_exactly_its_share_of_the_bytes():

    clients = make_clients((4, 6, 3, 12))
    whole = run_federated(Deep, clients, rounds=2)
    part = run_federated(Deep, clients, rounds=2, freeze_layers=["embeddings", 0, 1])
    names = [n for n in whole.state["arrays"] if n not in part.state["arrays"]]
    assert {n.rpartition(".")[0] for n in names} == {"embeddings", "layers.0", "layers.1"}
    saved = sum(whole.state["arrays"][n].nbytes + 128 + len(n) for n in names)
    for way in ("bytes_down", "bytes_up"):
        assert (whole.rounds[way] - part.rounds[way]).to_list() == [4 * saved] * 2
    before = run_federated(Deep, clients, rounds=0).learner.state_dict()
    after = part.learner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_strategies_are_taken_by_name_or_as_objects():
    given = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    by_name = run_federated(Regression, make_clients(), rounds=2)
    by_object = run_federated(Regression, make_clients(), rounds=2, strategy=given)
    assert torch.equal(flat(by_name.learner), flat(by_object.learner))
    with pytest.raises(ParameterError, match="unknown strategy 'fedsgd'"):
        run_federated(Regression, make_clients(), strategy="fedsgd")
    with pytest.raises(ParameterError, match="by name"):
        run_federated(Regression, make_clients(), strategy=given, clients_per_round=2)


def test_the_server_keeps_its_optimizer_between_periods():
    strategy = FedAvgM(
        fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1, server_momentum=0.9
    )
    whole = run_federated(Regression, make_clients(), strategy="fedavgm", rounds=5)
    first = run_federated(Regression, make_clients(), strategy=strategy, rounds=2)
    second = run_federated(Regression, make_clients(), strategy="fedavgm", rounds=3, previous=first)
    torch.testing.assert_close(flat(second.learner), flat(whole.learner))
    assert second.rounds["round"].to_list() == [3, 4, 5]
    object_kept = run_federated(
        Regression, make_clients(), strategy=strategy, rounds=3, previous=first
    )
    torch.testing.assert_close(flat(object_kept.learner), flat(whole.learner))


def test_weights_to_start_from_reach_frozen_layers_on_clients():
    clients = make_clients((4, 6, 3, 12))
    other = run_federated(Deep, clients, rounds=2, seed=1).learner
    weights = {name: t for name, t in other.state_dict().items() if t.is_floating_point()}
    start = run_federated(Deep, clients, rounds=0, initial=weights).learner
    assert all(torch.equal(start.state_dict()[name], value) for name, value in weights.items())
    frozen = run_federated(Deep, clients, rounds=1, initial=weights, freeze_layers=[0, 1, 2])
    free = run_federated(Deep, clients, rounds=1, initial=weights)
    loss = [result.rounds["train_loss"][0] for result in (frozen, free)]
    assert loss[0] == pytest.approx(loss[1], rel=0.2)  # the same forward pass in the first step
    after = frozen.learner.state_dict()
    assert torch.equal(after["layers.1.weight"], weights["layers.1.weight"])
