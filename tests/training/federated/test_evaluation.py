from __future__ import annotations

import pytest
import torch
from federation import Regression, flat, make_clients, make_data

from foretell.training.federated import ListedClients, LocalTraining, run_federated
from foretell.training.federated.central import central_gap, train_centrally


def mean_loss(learner):
    x, y = (torch.cat(part) for part in zip(*make_data(seed=0), strict=True))
    with torch.no_grad():
        return {"loss": float(learner.loss({"x": x, "y": y}).mean())}


def test_every_client_is_measured_on_its_own_test():
    tests = make_clients((4, 6, 2, 8), seed=1)
    tests._examples[2] = None
    result = run_federated(Regression, make_clients(), clients_evaluation=tests, rounds=3)
    found = result.clients
    assert found["test_examples"].to_list() == [4, 6, None, 8]
    data = make_data((4, 6, 2, 8), seed=1)
    for client in (0, 1, 3):
        x, y = data[client]
        with torch.no_grad():
            loss = float(result.learner.loss({"x": x, "y": y}).mean())
        assert found["loss"][client] == pytest.approx(loss, rel=1e-5)
    mean = sum(n * loss for n, loss in zip((4, 6, 8), found["loss"].drop_nulls(), strict=True)) / 18
    assert result.rounds["clients_loss"][-1] == pytest.approx(mean)
    assert result.rounds["clients_loss"][:-1].is_null().all()
    asked, trained = result.rounds["evaluation_bytes_down"][-1], result.rounds["bytes_down"][-1]
    assert 3 * 4 * 4 < asked < trained  # three clients, the weights and less config


def test_clients_measure_what_they_are_told():
    result = run_federated(
        Regression,
        make_clients(),
        clients_evaluation=make_clients(seed=1),
        evaluate_client=lambda learner, examples: {"size": len(examples)},
        evaluate_clients_every=2,
        rounds=3,
    )
    assert result.clients["size"].to_list() == [5.0, 9.0, 3.0, 12.0]
    assert result.rounds["clients_size"].is_null().to_list() == [True, False, False]


def test_the_server_measures_before_the_first_round():
    result = run_federated(
        Regression, make_clients(), rounds=5, evaluate=mean_loss, evaluate_every=2
    )
    assert result.rounds["round"].to_list() == [0, 1, 2, 3, 4, 5]
    assert result.rounds["loss"].is_null().to_list() == [False, True, False, True, False, False]
    assert result.rounds["loss"][-1] < result.rounds["loss"][0]


def test_the_gap_to_training_on_everything():
    local = LocalTraining(epochs=2, learning_rate=0.05)
    result = run_federated(Regression, make_clients(), rounds=5, local=local, evaluate=mean_loss)
    central = train_centrally(Regression, make_clients(), epochs=10, local=local)
    again = train_centrally(Regression, make_clients(), epochs=10, local=local)
    assert torch.equal(flat(central), flat(again))
    gap = central_gap(result, central, mean_loss)
    assert gap["loss"]["federated"] == pytest.approx(mean_loss(result.learner)["loss"])
    assert gap["loss"]["gap"] == pytest.approx(gap["loss"]["federated"] - gap["loss"]["central"])
    one = ListedClients([make_clients()._examples[0]])
    alone = run_federated(Regression, one, rounds=1, local=local)
    assert torch.equal(
        flat(alone.learner), flat(train_centrally(Regression, one, epochs=2, local=local))
    )
