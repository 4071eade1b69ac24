"""Canary clients: what a private federation claims is not refuted, and without noise it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra 'federated'")
pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

from foretell.audits.dp import (
    PlantedClients,
    PrivacyViolation,
    audit_clients,
    dirac_features,
    weight_scores,
)
from foretell.errors import ParameterError
from foretell.learners.language import BagOfWordsLearner
from foretell.training import TensorExamples
from foretell.training.federated import (
    ActivitySelection,
    ClientPrivacy,
    LocalTraining,
    federated_statement,
    make_strategy,
    run_federated,
)

FEATURES, CANARIES, REAL, ROUNDS, NOISE, DELTA = 12, 200, 40, 4, 3.0, 1e-5


@pytest.fixture(scope="module")
def planted() -> tuple[PlantedClients, TensorExamples]:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.random((2 * REAL, FEATURES), np.float32) / 4)
    labels = torch.from_numpy(rng.integers(3, size=2 * REAL))
    real = TensorExamples({"features": features, "intent": labels})
    canaries, coins = dirac_features(FEATURES, CANARIES, 3)
    clients = PlantedClients(
        real, np.array_split(np.arange(2 * REAL), REAL), canaries, coins, activity=2
    )
    return clients, TensorExamples(canaries)


def build() -> BagOfWordsLearner:
    learner = BagOfWordsLearner(FEATURES + CANARIES, 3)
    learner.intent.bias.requires_grad_(False)  # all clients move it, which hides canaries
    return learner


def train(clients: PlantedClients, noise: float):
    strategy = make_strategy(
        "fedavg", 120, selection=ActivitySelection("log", "poisson", q_max=0.5),
        aggregation="equal", privacy=ClientPrivacy(noise, 0.5, DELTA, noise_seed=0), seed=0,
    )  # fmt: skip
    result = run_federated(
        build, clients, strategy=strategy, rounds=ROUNDS, seed=0, timeout=float("inf"),
        local=LocalTraining(batch_size=8, learning_rate=2.0),
    )  # fmt: skip
    return result, strategy


def test_bounds_stay_below_the_claim_and_find_noise_that_is_missing(planted):
    clients, canaries = planted
    before = build().state_dict()
    noisy, strategy = train(clients, NOISE)
    statement = federated_statement(strategy.ledger)
    assert statement.worst == noisy.statements[0]
    bounds = {}
    for noise, result in ((NOISE, noisy), (0.0, train(clients, 0.0)[0])):
        scores = weight_scores(result.learner, before, canaries, normalise=False)
        for method in ("fdp", "steinke"):
            bounds[noise, method] = audit_clients(scores, clients.included, DELTA, method=method)
    for method in ("fdp", "steinke"):
        bound = bounds[NOISE, method]
        bound.check(statement.worst)
        assert bound.unit == "client" and bound.canaries == CANARIES
        with pytest.raises(PrivacyViolation, match="one client is false"):
            bounds[0.0, method].check(statement.worst)
    assert bounds[NOISE, "fdp"].epsilon < statement.worst.epsilon < bounds[0.0, "fdp"].epsilon


def test_canaries_that_are_out_change_nothing_but_their_updates(planted):
    clients, _ = planted
    assert len(clients) == REAL + CANARIES and clients.canaries[0] == REAL
    assert {clients.activity(c) for c in clients.canaries} == {2}
    out = int(clients.canaries[np.flatnonzero(~clients.included)[0]])
    inside = int(clients.canaries[np.flatnonzero(clients.included)[0]])
    with pytest.raises(LookupError, match="left out"):
        clients.examples(out)
    batch = clients.examples(inside).batch(np.arange(2), np.random.default_rng(0))
    assert batch["features"][0].nonzero().item() == FEATURES + inside - REAL
    assert torch.equal(batch["features"][0], batch["features"][1])
    real = clients.examples(0).batch(np.arange(2), np.random.default_rng(0))
    assert real["features"].shape == (2, FEATURES + CANARIES) and len(clients.examples(0)) == 2
    with pytest.raises(ParameterError, match="at least 1"):
        PlantedClients(real, [], {}, np.zeros(0, bool), activity=0)
