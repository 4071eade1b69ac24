"""What a federation states: over clients, and what composes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated'")
pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

from foretell.errors import ParameterError
from foretell.training.federated import (
    ClientPrivacy,
    LocalTraining,
    federated_statement,
    local_statement,
)
from foretell.training.federated.accounting import ClientLedger
from foretell.training.private import NoisySteps, epsilon


def ledger(rounds: int = 5) -> ClientLedger:
    kept = ClientLedger(ClientPrivacy(1.0, 0.5, 1e-4, "rdp"))
    for _ in range(rounds):
        kept.note(range(4), np.array([0.01, 0.01, 0.05, 0.2]), np.array([1.0, 1.0, 3.0, 9.0]))
    return kept


def test_the_distribution_is_over_clients_and_ends_with_the_worst():
    statement = federated_statement(ledger())
    spread = dict(statement.distribution)
    assert list(spread) == ["median", "90%", "99%", "largest"] and statement.clients == 4
    assert spread["median"] < spread["90%"] <= spread["largest"] == statement.worst.epsilon
    costs = dict(statement.by_activity)
    assert costs[1.0] < costs[9.0] == pytest.approx(statement.worst.epsilon)
    assert statement.worst.unit == "client" and statement.local is None
    text = str(statement)
    for part in ("delta 0.0001", "of 4 clients", "do not add up", "are public", "largest"):
        assert part in text
    assert json.loads(json.dumps(statement.to_dict()))["distribution"] == spread


def test_rounds_of_a_client_compose_and_clients_do_not():
    local = LocalTraining(epochs=1, batch_size=4)
    own = local_statement([8, 40, 8], [3, 3, 0], local, 1.5, 1e-5, accountant="rdp")
    few = epsilon([NoisySteps(0.5, 1.5, 6)], 1e-5, accountant="rdp")
    many = epsilon([NoisySteps(0.1, 1.5, 30)], 1e-5, accountant="rdp")
    assert own.epsilon == pytest.approx(max(few, many)) and own.unit == "example"
    once = local_statement([8, 40], [1, 1], local, 1.5, 1e-5, accountant="rdp")
    assert once.epsilon < own.epsilon < 3 * once.epsilon + 1
    both = federated_statement(ledger(), own)
    text = str(both)
    assert both.worst.epsilon == federated_statement(ledger()).worst.epsilon
    assert "one client and of one example do not add up" in text and "what composes" in text
    assert both.to_dict()["local"]["unit"] == "example"
    with pytest.raises(ParameterError, match="as many"):
        local_statement([8], [1, 2], local, 1.0, 1e-5)
    with pytest.raises(ParameterError, match="nothing to state"):
        local_statement([8, 0], [0, 4], local, 1.0, 1e-5)


def test_without_noise_nothing_is_guaranteed():
    kept = ClientLedger(ClientPrivacy(0.0, 0.5, 1e-4, "rdp"))
    kept.note(range(2), np.array([0.1, 0.2]), np.array([1.0, 2.0]))
    statement = federated_statement(kept)
    assert statement.to_dict()["distribution"]["largest"] is None
    assert "no differential privacy" in str(statement)
