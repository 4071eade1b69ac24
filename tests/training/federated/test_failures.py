"""Clients that fail: their replies are dropped and counted, the others' are used."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from federation import Misbehaving, Regression, flat, make_clients
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from foretell.errors import ParameterError, TrainingError
from foretell.training.federated import (
    ActivitySelection,
    ClientPrivacy,
    InProcessGrid,
    LocalTraining,
    Server,
    SizeCap,
    client_app,
    make_strategy,
    run_federated,
)
from foretell.training.federated.client import Workshop

SIZES = (5, 9, 3, 12)
DEFAULT_CAP = SizeCap()


class Tampering(ClientApp):
    """An app of which one client changes its honest reply."""

    def __init__(self, honest: ClientApp, tamper, who: int = 1) -> None:
        super().__init__()
        self.honest, self.tamper, self.who = honest, tamper, who

    def __call__(self, message, context):
        reply = self.honest(message, context)
        if (
            context.node_config["partition-id"] == self.who
            and reply.metadata.message_type == "train"
        ):
            self.tamper(reply.content)
        return reply


def run_tampered(tamper, cap=DEFAULT_CAP, strategy="fedavg", rounds=2, who=1, **options):
    app = client_app(Regression, make_clients(SIZES))
    server = Server(
        Workshop(Regression), make_strategy(strategy, **options), len(SIZES), rounds, cap=cap
    )
    grid = InProcessGrid(Tampering(app, tamper, who), len(SIZES))
    with grid.open():
        return server.run(grid)


def without(who: int):
    """The same federation in which a client never answers."""
    return run_federated(Regression, Misbehaving({who: "raises"}), rounds=2)


def poison(value):
    def tamper(content):
        arrays = dict(content["arrays"])
        values = arrays["linear.weight"].numpy().copy()
        values[0, 1] = value
        content["arrays"] = ArrayRecord({**arrays, "linear.weight": _array(values)})

    return tamper


def _array(values):
    from flwr.app import Array

    return Array(np.asarray(values))


def replace_array(name, values):
    def tamper(content):
        content["arrays"] = ArrayRecord({**dict(content["arrays"]), name: _array(values)})

    return tamper


def drop_array(content):
    arrays = dict(content["arrays"])
    del arrays["linear.bias"]
    content["arrays"] = ArrayRecord(arrays)


def no_arrays(content):
    del content["arrays"]


def no_metrics(content):
    del content["metrics"]


def size(value):
    def tamper(content):
        content["metrics"]["num-examples"] = value

    return tamper


def other_metrics(content):
    content["metrics"]["mood"] = 1.0


FAULTS = {
    "nan": (poison(np.nan), "not finite"),
    "inf": (poison(np.inf), "not finite"),
    "minus-inf": (poison(-np.inf), "not finite"),
    "shape": (replace_array("linear.weight", np.zeros((2, 3), np.float32)), "shape"),
    "broadcast": (replace_array("linear.weight", np.zeros((1, 1), np.float32)), "shape"),
    "integers": (replace_array("linear.bias", np.zeros(1, np.int64)), "int64"),
    "unknown-array": (replace_array("backdoor", np.zeros(1, np.float32)), "1 unknown"),
    "missing-array": (drop_array, "1 missing"),
    "no-arrays": (no_arrays, "no arrays"),
    "no-metrics": (no_metrics, "no metrics"),
    "negative-size": (size(-5), "not a positive number"),
    "zero-size": (size(0), "not a positive number"),
    "nan-size": (size(float("nan")), "not a positive number"),
    "infinite-size": (size(float("inf")), "not a positive number"),
    "other-metrics": (other_metrics, "mood"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_replies_are_never_averaged_in(fault):
    tamper, reason = FAULTS[fault]
    final = run_tampered(tamper)
    rows = final["rows"]["rounds"]
    assert [row["failures"] for row in rows] == [1, 1]
    assert [row["completed"] for row in rows] == [3, 3]
    failed = [row for row in final["rows"]["clients"] if row["failure"]]
    assert {row["client"] for row in failed} == {1}
    assert all(reason in row["failure"] for row in failed)
    honest = without(1).state["arrays"]
    for name, values in final["arrays"].items():
        np.testing.assert_array_equal(values, honest[name])


def test_the_first_reply_does_not_decide_over_the_others():
    final = run_tampered(other_metrics, who=0)
    failed = [row["client"] for row in final["rows"]["clients"] if row["failure"]]
    assert failed == [0, 0]
    honest = without(0).state["arrays"]
    for name, values in final["arrays"].items():
        np.testing.assert_array_equal(values, honest[name])


def test_with_privacy_no_reply_decides_over_another():
    final = run_tampered(
        other_metrics, aggregation="equal", selection=ActivitySelection("uniform", "poisson", 0, 1),
        clients_per_round=4, privacy=ClientPrivacy(1.0),
    )  # fmt: skip
    assert [row["completed"] for row in final["rows"]["rounds"]] == [4, 4]


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm", "scaffold", "fedprox"])
def test_every_algorithm_is_guarded(strategy):
    final = run_tampered(poison(np.nan), strategy=strategy)
    assert all(np.isfinite(values).all() for values in final["arrays"].values())
    assert [row["failures"] for row in final["rows"]["rounds"]] == [1, 1]


def test_clients_that_raise_are_counted():
    result = without(2)
    assert result.rounds["failures"].to_list() == [1, 1]
    assert result.failures["client"].to_list() == [2, 2]
    assert result.failures["failure"].str.contains("the disk is gone").all()
    assert result.clients["completed"].to_list() == [2, 2, 0, 2]


def test_clients_whose_training_diverges_are_counted():
    result = run_federated(Regression, Misbehaving({1: "diverges"}), rounds=1)
    assert result.failures["failure"].str.contains("not finite").all()
    assert torch.isfinite(flat(result.learner)).all()


class Patient(InProcessGrid):
    """Only client 1 is ever short of time: the others have what a busy machine makes them need."""

    given: ClassVar[set[float | None]] = set()

    def send_and_receive(self, messages, *, timeout=None):
        self.given.add(timeout)
        for message in messages:
            short = message.metadata.dst_node_id == 1
            yield from super().send_and_receive([message], timeout=timeout if short else 600)


def test_clients_that_never_answer_are_not_waited_for(monkeypatch):
    monkeypatch.setattr("foretell.training.federated.run.InProcessGrid", Patient)
    result = run_federated(Regression, Misbehaving({1: "hangs"}), rounds=2, timeout=0.5)
    assert Patient.given == {0.5}
    assert result.failures["failure"].to_list() == ["no answer in time"] * 2
    honest = without(1)
    assert torch.equal(flat(result.learner), flat(honest.learner))


def test_a_round_without_replies_keeps_the_model():
    class Silent(Misbehaving):
        def examples(self, client):
            raise OSError("gone")

    for strategy in ("fedavg", "fedadam", "scaffold"):
        result = run_federated(Regression, Silent({}), rounds=2, strategy=strategy)
        start = run_federated(Regression, make_clients(), rounds=0)
        assert torch.equal(flat(result.learner), flat(start.learner))
        assert result.rounds["completed"].to_list() == [0, 0]
        assert result.rounds["samples_cumulative"].to_list() == [0, 0]


def test_sizes_beyond_belief_are_cut_to_the_others_quantile():
    honest = run_federated(Regression, make_clients(SIZES), rounds=1, local=LocalTraining())
    lying = run_tampered(size(10**9), rounds=1)
    assert lying["rows"]["rounds"][0]["capped"] == 1
    row = next(row for row in lying["rows"]["clients"] if row["client"] == 1)
    assert row["capped_to"] == 12
    start = run_federated(Regression, make_clients(), rounds=0).state["arrays"]
    believed = run_tampered(size(10**9), cap=None, rounds=1)
    expected = honest.state["arrays"]["linear.weight"]
    moved = {
        key: np.abs(found["arrays"]["linear.weight"] - expected).max()
        for key, found in {"capped": lying, "believed": believed}.items()
    }
    assert moved["capped"] < 0.2 * moved["believed"]
    assert set(start) == set(lying["arrays"])


def test_honest_heavy_clients_are_believed():
    cap, sizes = SizeCap(), {0: 5.0, 1: 40.0, 2: 3.0}
    assert cap.cut(1, 40.0, sizes) == 40.0
    assert SizeCap(tolerance=1.0).cut(1, 40.0, sizes) == 5.0
    assert SizeCap(quantile=0.5).cut(1, 400.0, {0: 5.0, 1: 400.0, 2: 3.0, 3: 4.0}) == 4.0
    assert cap.cut(0, 7.0, {0: 7.0}) == 7.0
    for options in ({"quantile": 0.0}, {"quantile": 1.2}, {"tolerance": 0.5}):
        with pytest.raises(ParameterError):
            SizeCap(**options)


def test_a_server_that_diverges_says_so():
    with pytest.raises(TrainingError, match="Lower the server's learning rate"):
        run_federated(
            Regression,
            make_clients(),
            strategy="fedavgm",
            server_learning_rate=1e41,
            rounds=3,
            local=LocalTraining(learning_rate=1e-3),
        )


def test_more_clients_than_there_are_means_all(caplog):
    result = run_federated(Regression, make_clients(), rounds=1, clients_per_round=9)
    assert result.rounds["participants"].to_list() == [4]
    assert "taking all" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": -1}, "rounds"),
        ({"rounds": 1.5}, "rounds"),
        ({"timeout": 0.0}, "timeout"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"clients_per_round": 0}, "clients_per_round"),
        ({"resume": True}, "folder"),
        ({"backend": "mpi"}, "unknown backend 'mpi'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        run_federated(Regression, make_clients(), **arguments)


def test_apps_of_others_may_reply_with_what_they_like():
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        record = RecordDict({"metrics": MetricRecord({"num-examples": 1})})
        return Message(record, reply_to=message)

    grid = InProcessGrid(app, 2)
    with grid.open():
        final = Server(Workshop(Regression), make_strategy("fedavg"), 2, 1).run(grid)
    assert final["rows"]["rounds"][0]["failures"] == 2
