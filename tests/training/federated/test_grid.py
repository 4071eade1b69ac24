from __future__ import annotations

import threading

import numpy as np
import pytest
from federation import Regression, make_clients
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from foretell.errors import ParameterError
from foretell.training.federated import (
    ClientGrid,
    InProcessGrid,
    Server,
    client_app,
    make_strategy,
)
from foretell.training.federated.client import Workshop
from foretell.training.federated.flower import FlowerVersionError, check_version


def plain_app(fault=None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        seen = int(context.state.metric_records.get("seen", MetricRecord({"n": 0}))["n"]) + 1
        context.state["seen"] = MetricRecord({"n": seen})
        if fault is not None:
            fault(client)
        values = message.content["arrays"].to_numpy_ndarrays()[0] + client
        metrics = MetricRecord({"num-examples": client + 1, "seen": seen})
        content = RecordDict({"arrays": ArrayRecord([values]), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def test_plain_flower_apps_run_unchanged():
    server, found = ServerApp(), []

    @server.main()
    def main(grid, context):
        strategy = FedAvg(fraction_evaluate=0.0)
        arrays = ArrayRecord([np.zeros(2)])
        found.append(strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3))

    grid = InProcessGrid(plain_app(), 3)
    grid.serve(server)
    # Each round adds the mean of 0, 1, 2 weighted by 1, 2, 3.
    np.testing.assert_allclose(found[0].arrays.to_numpy_ndarrays()[0], 3 * 8 / 6)
    assert found[0].train_metrics_clientapp[3]["seen"] == 3
    assert {node: state["seen"]["n"] for node, state in grid.states.items()} == {0: 3, 1: 3, 2: 3}


def test_the_identity_of_the_task_is_restored():
    before = TaskIdentity._run_id
    with InProcessGrid(plain_app(), 1).open() as grid:
        assert TaskIdentity.run_id == grid.run.run_id
    assert TaskIdentity._run_id == before


def _messages(nodes):
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)]), "config": ConfigRecord({"a": 1})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


def test_clients_that_raise_answer_with_an_error():
    def fault(client):
        if client == 1:
            raise ValueError("no data today")

    with InProcessGrid(plain_app(fault), 3).open() as grid:
        replies = list(grid.send_and_receive(_messages([0, 1, 2, 9])))
    assert [reply.has_error() for reply in replies] == [False, True, False, True]
    assert "no data today" in replies[1].error.reason
    assert "there is no node 9" in replies[3].error.reason


def test_clients_that_hang_are_left_behind():
    hold, earlier = threading.Event(), set(threading.enumerate())

    def fault(client):
        if client == 0:
            hold.wait(600)

    with InProcessGrid(plain_app(fault), 3).open() as grid:
        # The two that answer are given more time until it is enough for this machine.
        for timeout in (0.2, 1.0, 5.0, 25.0, 125.0):
            replies = list(grid.send_and_receive(_messages([0, 1, 2]), timeout=timeout))
            if len(replies) >= 2:
                break
        again = list(grid.send_and_receive(_messages([1]), timeout=600))
        # What a client kept before it hung is not kept: its call has never been.
        assert set(grid.states) == {1, 2}
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2]
    seen = replies[0].content["metrics"]["seen"]
    assert again[0].content["metrics"]["seen"] == seen + 1
    hold.set()
    for thread in set(threading.enumerate()) - earlier:
        thread.join(120)
        assert not thread.is_alive()


def test_messages_are_pushed_and_pulled_once():
    with InProcessGrid(plain_app(), 2).open() as grid:
        names = list(grid.push_messages(_messages([0, 1])))
        assert len(list(grid.pull_messages(names))) == 2
        assert list(grid.pull_messages(names)) == []


class Shuffled(InProcessGrid):
    """A runtime that calls its nodes by numbers of its own, as Flower's do."""

    def get_node_ids(self):
        return [1000 - node for node in range(self.nodes)]

    def send_and_receive(self, messages, *, timeout=None):
        named = {m.metadata.dst_node_id: m for m in messages}
        inner = [
            Message(m.content, dst_node_id=1000 - node, message_type=m.metadata.message_type)
            for node, m in named.items()
        ]
        for reply in super().send_and_receive(inner, timeout=timeout):
            asked = named[1000 - reply.metadata.src_node_id]
            if reply.has_error():
                yield Message(reply.error, reply_to=asked)
            else:
                yield Message(reply.content, reply_to=asked)


def test_nodes_are_called_by_their_clients_numbers():
    app = client_app(Regression, make_clients((5, 9, 3)))
    with Shuffled(app, 3).open() as inner:
        grid = ClientGrid(inner, 3)
        assert list(grid.get_node_ids()) == [0, 1, 2]
        grid.activities[0] = 7.0  # a reply has come since
        assert grid.query_activity() == {0: 7.0, 1: 9.0, 2: 3.0}
        query = Message(RecordDict(), dst_node_id=2, message_type="query.activity")
        (reply,) = grid.send_and_receive([query])
        assert reply.metadata.src_node_id == 2
        assert reply.content["metrics"]["client"] == 2
    with InProcessGrid(app, 3).open() as inner:
        grid = ClientGrid(inner, 3)
        grid.activities[1] = 4.0
        assert grid.query_activity() == {0: 5.0, 1: 9.0, 2: 3.0}


def test_federations_are_the_same_whatever_nodes_are_called():
    def run(kind):
        clients = make_clients()
        app = client_app(Regression, clients)
        strategy = make_strategy("fedadam", 2)
        with kind(app, len(clients)).open() as grid:
            return Server(Workshop(Regression), strategy, len(clients), 3).run(grid)

    first, second = run(InProcessGrid), run(Shuffled)
    assert first["rows"]["clients"] == second["rows"]["clients"]
    for name, values in first["arrays"].items():
        np.testing.assert_array_equal(values, second["arrays"][name])


def test_other_versions_of_flower_are_refused():
    assert check_version("1.42.3") == "1.42.3"
    with pytest.raises(FlowerVersionError, match=r"1\.60\.0 is installed"):
        check_version("1.60.0")
    with pytest.raises(ParameterError, match="nodes"):
        InProcessGrid(plain_app(), 0)
