"""Flower's Grid inside one process: no Ray, no sockets, no actors.

The same ServerApp, strategies and ClientApp run on it unchanged.
"""

from __future__ import annotations

import itertools
import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from foretell.errors import ParameterError
from foretell.training.federated.flower import (
    RAISED,
    UNAVAILABLE,
    check_version,
    empty_run,
    task_identity,
)

SERVER_NODE = 1 << 62
"""Node id of the server: no client's number."""


class InProcessGrid(Grid):
    """Runs a ClientApp for each message, one after the other, in this process.

    Node ids are the clients' numbers ``0 .. nodes - 1``. Each node has a Flower context of its
    own, with ``partition-id`` and ``num-partitions`` in its ``node_config`` as in Flower's
    simulation, and a ``state`` that lasts as long as the grid. A client that raises becomes an
    error reply, as in every Flower runtime.

    ``timeout`` of :meth:`send_and_receive` is granted to each client, not to all of them together,
    since outside of a simulation they work at the same time. A client that takes longer is
    abandoned without reply; its thread cannot be killed and ends when it ends.

    Args:
        client_app: what each node runs.
        nodes: number of nodes.
        run_config: handed to every client in its context.
        states: states of the nodes to go on with, by node.

    Raises:
        ParameterError: no nodes.
        FlowerVersionError: a Flower that this class was not checked against.
    """

    _runs = itertools.count(1)

    def __init__(
        self,
        client_app: ClientApp,
        nodes: int,
        *,
        run_config: UserConfig | None = None,
        states: dict[int, RecordDict] | None = None,
    ) -> None:
        check_version()
        if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
            raise ParameterError(f"nodes must be a whole number >= 1, not {nodes!r}")
        self.client_app, self.nodes = client_app, nodes
        self.run_config = dict(run_config or {})
        self._run = empty_run(next(self._runs))
        self._contexts: dict[int, Context] = {}
        for node, state in (states or {}).items():
            self._context(node).state = state
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count()
        self._worker: _Worker | None = None

    @contextmanager
    def open(self) -> Iterator[InProcessGrid]:
        """Lets messages be made in this process: what Flower's runtimes set before a ServerApp."""
        with task_identity(self._run.run_id, SERVER_NODE, 1):
            try:
                yield self
            finally:
                self._end_worker()

    def serve(self, server_app: ServerApp, run_config: UserConfig | None = None) -> Context:
        """Runs a ServerApp to its end, and returns its context."""
        context = Context(self._run.run_id, SERVER_NODE, {}, RecordDict(), dict(run_config or {}))
        with self.open():
            server_app(grid=self, context=context)
        return context

    @property
    def states(self) -> dict[int, RecordDict]:
        """What the nodes keep between rounds, of those that keep anything."""
        return {node: c.state for node, c in sorted(self._contexts.items()) if len(c.state)}

    def set_run(self, run: Run) -> None:
        """Sets the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message from the server."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The clients' numbers."""
        return list(range(self.nodes))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Works messages off, and keeps the replies to be pulled."""
        return [name for name, _ in self._work(messages, None)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to messages of these ids, each handed out once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Works messages off in their order; replies come in the same order."""
        names = [name for name, _ in self._work(messages, timeout)]
        return self.pull_messages(names)

    def _work(
        self, messages: Iterable[Message], timeout: float | None
    ) -> list[tuple[str, Message | None]]:
        done = []
        for message in messages:
            name = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name
            reply = self._reply(message, timeout)
            if reply is not None:
                reply.metadata.__dict__["_message_id"] = f"reply-{name}"
                self._replies[name] = reply
            done.append((name, reply))
        return done

    def _reply(self, message: Message, timeout: float | None) -> Message | None:
        node = message.metadata.dst_node_id
        if not 0 <= node < self.nodes:
            reason = f"there is no node {node}: nodes are 0 to {self.nodes - 1}"
            return Message(Error(UNAVAILABLE, reason), reply_to=message)
        if timeout is None or timeout == float("inf"):
            return self._call(message, self._context(node))
        if self._worker is None:
            self._worker = _Worker(self._call)
        context = self._context(node)
        # Taken before the call: one that ends just after its time must leave nothing behind.
        before = RecordDict(dict(context.state))
        try:
            return self._worker(message, context, timeout)
        except queue.Empty:
            # What the abandoned call may still write goes to a context that nobody reads.
            self._contexts[node] = self._new_context(node, before)
            self._end_worker()
            return None

    def _call(self, message: Message, context: Context) -> Message:
        try:
            return self.client_app(message, context)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"
            return Message(Error(RAISED, reason), reply_to=message)

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            self._contexts[node] = self._new_context(node, RecordDict())
        return self._contexts[node]

    def _new_context(self, node: int, state: RecordDict) -> Context:
        place: UserConfig = {"partition-id": node, "num-partitions": self.nodes}
        return Context(self._run.run_id, node, place, state, dict(self.run_config))

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """A thread that answers messages, and that can be left alone with one it never answers."""

    def __init__(self, call: Callable[[Message, Context], Message]) -> None:
        self._call = call
        self._tasks: queue.SimpleQueue[tuple[Message, Context] | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Message] = queue.SimpleQueue()
        # A daemon, so that the interpreter does not wait at its exit for a client that hangs.
        threading.Thread(target=self._run, name="foretell-client", daemon=True).start()

    def __call__(self, message: Message, context: Context, timeout: float) -> Message:
        """The reply; raises ``queue.Empty`` when there is none in time."""
        self._tasks.put((message, context))
        return self._replies.get(timeout=timeout)

    def end(self) -> None:
        """Lets the thread end."""
        self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._replies.put(self._call(*task))
