"""What selection costs each client's privacy."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr")
pytest.importorskip("dp_accounting")

from flwr.app import Array, ArrayRecord

from foretell.errors import ParameterError
from foretell.training.federated import accounting
from foretell.training.federated.accounting import ClientLedger, ClientPrivacy, client_epsilons
from foretell.training.federated.private_mean import private_mean


def test_published_table_of_costs():
    """5,752 devices, 50 a round of 100, noise 1, delta 1e-4; 11,314 examples in all."""
    chances = [50 / 5752, *(50 * n / 11_314 for n in (1, 10, 40, 73)), 1.0]
    costs = client_epsilons(
        [[(q, 100)] for q in chances], 1.0, 1e-4, discretization=1e-3
    )  # fmt: skip
    assert costs == pytest.approx([0.445, 0.206, 2.52, 11.1, 21.7, 86.3], rel=0.01)


def test_costs_compose_over_changing_chances():
    def cost(history: list[tuple[float, int]]) -> float:
        return float(client_epsilons([history], 1.0, 1e-4, discretization=1e-2)[0])

    assert cost([(0.1, 5), (0.1, 5)]) == cost([(0.1, 10)])
    assert cost([(0.05, 10)]) < cost([(0.05, 5), (0.1, 5)]) < cost([(0.1, 10)])
    assert cost([(0.0, 50)]) == 0
    assert cost([]) == 0


def test_many_different_chances_are_rounded_up(monkeypatch):
    histories = [[(q, 3)] for q in np.geomspace(0.001, 0.02, 5)]
    exact = client_epsilons(histories, 2.0, 1e-3, accountant="rdp")
    monkeypatch.setattr(accounting, "_EXACT", 2)
    costs = client_epsilons(histories, 2.0, 1e-3, accountant="rdp")
    assert (costs >= exact - 1e-12).all()
    assert costs == pytest.approx(exact, rel=0.05)


def test_ledger_states_the_worst_client_and_survives_a_save():
    ledger = ClientLedger(ClientPrivacy(1.0, 2.0, 1e-4, "rdp"))
    with pytest.raises(ParameterError, match="no round"):
        ledger.statement()
    for _ in range(4):
        ledger.note([3, 5], np.array([0.01, 0.2]), np.array([1.0, 20.0]))
    again = ClientLedger(ledger.privacy)
    again.load_state_dict(ledger.state_dict())
    for one in (ledger, again):
        statement = one.statement()
        assert statement.unit == "client"
        assert statement.adjacency == "add_remove_client"
        assert statement.steps == (4,)
        assert "0.2" in statement.sampling
        table = one.table()
        assert table["client"].to_list() == [3, 5]
        assert table["epsilon"][0] < table["epsilon"][1] == statement.epsilon
        assert table["expected_rounds"].to_list() == pytest.approx([0.04, 0.8])
    assert ledger.statement(3).epsilon == ledger.table()["epsilon"][0]
    assert "not covered" in str(ledger.statement())
    with pytest.raises(ParameterError, match="client 9"):
        ledger.statement(9)


def test_mean_of_clipped_updates():
    def record(**arrays: list[float]) -> ArrayRecord:
        return ArrayRecord({k: Array(np.array(v, dtype=np.float32)) for k, v in arrays.items()})

    current = record(a=[1, 1], b=[1])
    trained = [
        record(a=[1.3, 1], b=[1.4]),  # norm 0.5: as it is
        record(a=[4, 1], b=[5]),  # norm 5: to 1
        record(a=[float("nan"), 1], b=[1]),
    ]
    privacy = ClientPrivacy(0.0, 1.0)
    mean = private_mean(current, trained, privacy, 10, np.random.default_rng(0))
    assert mean["a"].numpy() == pytest.approx([1 + (0.3 + 0.6) / 10, 1])
    assert mean["b"].numpy() == pytest.approx([1 + (0.4 + 0.8) / 10])
    assert mean["a"].numpy().dtype == np.float32


def test_sensitivity_of_the_mean_is_what_is_claimed():
    rng = np.random.default_rng(0)
    current = ArrayRecord({"a": Array(np.zeros(7)), "b": Array(np.zeros((2, 3)))})

    def mean(trained: list[ArrayRecord]) -> np.ndarray:
        found = private_mean(current, trained, ClientPrivacy(0.0, 0.7), 5, rng)
        return np.concatenate([found[name].numpy().ravel() for name in found])

    for _ in range(50):
        scale = 10.0 ** rng.uniform(-3, 3)
        some = [
            ArrayRecord(
                {"a": Array(scale * rng.normal(size=7)), "b": Array(rng.normal(size=(2, 3)))}
            )
            for _ in range(rng.integers(1, 6))
        ]
        assert np.linalg.norm(mean(some) - mean(some[:-1])) <= 0.7 / 5 + 1e-12


def test_noise_goes_on_when_nobody_took_part():
    current = ArrayRecord({"a": Array(np.zeros(20_000))})
    privacy = ClientPrivacy(1.5, 2.0)
    noise = private_mean(current, [], privacy, 10, np.random.default_rng(0))["a"].numpy()
    assert noise.std() == pytest.approx(1.5 * 2.0 / 10, rel=0.03)


@pytest.mark.parametrize("arguments", [(-1,), (1, 0), (1, 1, 0), (1, 1, 1)])
def test_arguments_out_of_range(arguments):
    with pytest.raises(ParameterError):
        ClientPrivacy(*arguments)
