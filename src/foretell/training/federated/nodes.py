"""A Grid whose node ids are the clients' numbers, whatever Flower's runtime calls its nodes.

Flower draws node ids at random in every run. Strategies that sample node ids would choose other
clients on every backend; on this grid they choose the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from foretell.errors import TrainingError


class ClientGrid(Grid):
    """Wraps a Grid: messages go to clients by number, replies come in the clients' order.

    Args:
        grid: any of Flower's, or an :class:`InProcessGrid`.
        clients: number of clients; nodes of theirs that are not there are not waited for after
            ``patience``.
        patience: seconds to wait for nodes to connect.

    Attributes:
        activities: number of examples of each client, as last reported; filled by
            :meth:`query_activity`, and by the round's replies.
    """

    def __init__(self, grid: Grid, clients: int, *, patience: float = 60.0) -> None:
        self.grid, self.clients, self.patience = grid, clients, patience
        self.activities: dict[int, float] = {}
        self._nodes: dict[int, int] | None = None
        self._reported: set[int] = set()

    def query_activity(self, timeout: float | None = None) -> dict[int, float]:
        """Asks every client for its number of examples, once; those that answered.

        Args:
            timeout: seconds to wait for answers.
        """
        self._connect(timeout)
        missing = [client for client in self._mapping() if client not in self._reported]
        if missing:
            self._ask(missing, timeout)
            self._reported.update(missing)  # those that did not answer are not asked again
        return self.activities

    def _connect(self, timeout: float | None = None) -> None:
        """Waits for the nodes and learns which client each of them is."""
        if self._nodes is not None:
            return
        deadline = time.monotonic() + self.patience
        while len(nodes := sorted(self.grid.get_node_ids())) < self.clients:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if not nodes:
            raise TrainingError(f"no node connected within {self.patience:g} seconds")
        if nodes == list(range(self.clients)):
            self._nodes = {client: client for client in nodes}
            return
        self._nodes = {}
        known: dict[int, int] = {}
        for reply in self._send_query({node: node for node in nodes}, timeout):
            if reply.has_content():
                figures = reply.content["metrics"]
                client = int(figures["client"])  # type: ignore[arg-type, index, call-overload]
                if client in known:
                    raise TrainingError(
                        f"two nodes say that they are client {client}: give each node its own "
                        "'partition-id'"
                    )
                known[client] = reply.metadata.src_node_id
                self._note(client, figures)  # type: ignore[arg-type]
        self._nodes = dict(sorted(known.items()))
        if not known:
            raise TrainingError("no node answered which client it is")

    def _ask(self, clients: list[int], timeout: float | None) -> None:
        mapping = self._mapping()
        for reply in self._send_query({c: mapping[c] for c in clients}, timeout):
            if reply.has_content():
                figures = reply.content["metrics"]
                self._note(int(figures["client"]), figures)  # type: ignore[arg-type, index, call-overload]

    def _note(self, client: int, figures: MetricRecord) -> None:
        self.activities[client] = float(figures["activity"])  # type: ignore[arg-type]
        self._reported.add(client)

    def _send_query(self, nodes: dict[int, int], timeout: float | None) -> list[Message]:
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type="query.activity")
            for node in nodes.values()
        ]
        return list(self.grid.send_and_receive(messages, timeout=timeout))

    def _mapping(self) -> dict[int, int]:
        self._connect()
        assert self._nodes is not None
        return self._nodes

    def set_run(self, run: Run) -> None:
        """Sets the run of the grid inside."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a client by number."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the clients that are there, in their order."""
        return list(self._mapping())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not offered: replies could not be told whose they are."""
        raise NotImplementedError("a ClientGrid sends and receives in one call")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not offered: replies could not be told whose they are."""
        raise NotImplementedError("a ClientGrid sends and receives in one call")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Sends messages to clients by number; the replies in order of these numbers.

        A client that does not answer in ``timeout`` seconds has no reply in the list.
        """
        messages = list(messages)
        if not messages:
            return []
        mapping = self._mapping()
        if all(mapping.get(m.metadata.dst_node_id) == m.metadata.dst_node_id for m in messages):
            replies = list(self.grid.send_and_receive(messages, timeout=timeout))
            return sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        sent = {}
        for message in messages:
            client = message.metadata.dst_node_id
            if client in mapping:
                sent[mapping[client]] = message
        translated = [
            Message(
                message.content,
                dst_node_id=node,
                message_type=message.metadata.message_type,
                group_id=message.metadata.group_id,
                ttl=message.metadata.ttl,
            )
            for node, message in sent.items()
        ]
        found = []
        for reply in self.grid.send_and_receive(translated, timeout=timeout):
            asked = sent.get(reply.metadata.src_node_id)
            if asked is None:
                continue
            if reply.has_error():
                found.append(Message(reply.error, reply_to=asked))
            else:
                found.append(Message(reply.content, reply_to=asked))
        return sorted(found, key=lambda reply: reply.metadata.src_node_id)
