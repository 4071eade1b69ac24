"""Rounds: any Flower strategy, with what every federation needs around it.

The rounds themselves are Flower's own (``Strategy.start``). This wrapper seeds the choice of
clients, refuses broken replies, counts bytes and samples, evaluates on the clients, and numbers
rounds on from an earlier run.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from foretell.errors import TrainingError
from foretell.training.federated.client import round_seed
from foretell.training.federated.guard import Checked, SizeCap, check_replies
from foretell.training.federated.nodes import ClientGrid
from foretell.training.federated.records import serialised_bytes, to_array, to_numpy

SELECT = 7

_log = logging.getLogger(__name__)


class Rounds(Strategy):
    """Flower strategy around another one.

    Args:
        inner: what chooses clients and aggregates.
        seed: of the choice of clients, for strategies that draw from Python's ``random``, as
            Flower's do.
        before: rounds made already.
        total: rounds at the end.
        cap: what sizes are believed.
        evaluate_every: rounds between evaluations on the clients; None for never.
        evaluated: clients with test examples.

    Attributes:
        rows: figures of each round.
        client_rows: one entry for each client asked in each round.
        evaluations: one entry for each client evaluated in each round.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        seed: int = 0,
        before: int = 0,
        total: int = 1,
        cap: SizeCap | None = None,
        evaluate_every: int | None = None,
        evaluated: list[int] | None = None,
    ) -> None:
        self.inner, self.seed, self.before, self.total, self.cap = inner, seed, before, total, cap
        self.evaluate_every, self.evaluated = evaluate_every, evaluated or []
        self.rows: list[dict[str, Any]] = []
        self.client_rows: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.samples = 0
        self._arrays = ArrayRecord()
        self._asked: list[int] = []
        self._sizes: dict[int, float] = {}
        self._down = 0

    def summary(self) -> None:
        """Logs the settings of the strategy inside."""
        self.inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages of the strategy inside, its clients chosen by the seed."""
        number = self.before + server_round
        config["rounds"] = self.total
        self._arrays = arrays
        if isinstance(grid, ClientGrid):
            self._sizes = grid.activities
        self._limit_to(len(list(grid.get_node_ids())))
        outside = random.getstate()
        random.seed(round_seed(self.seed, SELECT, number))
        try:
            messages = list(self.inner.configure_train(number, arrays, config, grid))
        finally:
            random.setstate(outside)
        self._asked = [message.metadata.dst_node_id for message in messages]
        self._down = serialised_bytes(message.content for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The aggregate of what can be believed; None, which keeps the model, without any."""
        replies = list(replies)
        up = serialised_bytes(reply.content for reply in replies if reply.has_content())
        checked = check_replies(
            self._asked, replies, self._arrays, self._sizes, cap=self.cap,
            # One client must not decide over the others' updates, which no noise would hide.
            alike=getattr(self.inner, "privacy", None) is None, **self._keys(),
        )  # fmt: skip
        sound = [reply for reply in checked.replies if not reply.has_error()]
        arrays: ArrayRecord | None = None
        metrics: MetricRecord | None = None
        if sound or getattr(self.inner, "aggregates_nothing", False):
            number = self.before + server_round
            arrays, metrics = self.inner.aggregate_train(number, checked.replies)
        else:
            _log.warning("round %d: no usable reply, the model stays", self.before + server_round)
        self._record(server_round, checked, sound, metrics, up)
        if arrays is None:
            return None, metrics
        return self._as_sent(arrays, server_round), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages to all clients with test examples, in rounds in which they are evaluated."""
        number = self.before + server_round
        every = self.evaluate_every
        self._asked, self._down = [], 0
        if every is None or (number % every and number != self.total):
            return []
        there = set(grid.get_node_ids())
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number})})
        self._asked = [client for client in self.evaluated if client in there]
        messages = [
            Message(content, dst_node_id=client, message_type="evaluate") for client in self._asked
        ]
        self._down = serialised_bytes(message.content for message in messages)
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Means over clients, weighted by their test examples."""
        if not self._asked:
            return None
        found: list[dict[str, Any]] = []
        up = 0
        for reply in replies:
            if not reply.has_content():
                continue
            up += serialised_bytes([reply.content])
            figures: dict[str, Any] = dict(next(iter(reply.content.metric_records.values())))
            size = figures.pop("num-examples", 0)
            if all(isinstance(v, int | float) and math.isfinite(v) for v in figures.values()):
                client = reply.metadata.src_node_id
                found.append({"client": client, "test_examples": int(size), **figures})  # type: ignore[arg-type]
        number = self.before + server_round
        self.evaluations += [{"round": number, **row} for row in found]
        row = self.rows[-1]
        row["evaluation_bytes_down"], row["evaluation_bytes_up"] = self._down, up
        row["evaluated_clients"] = len(found)
        weight = sum(entry["test_examples"] for entry in found)
        if not weight:
            return None
        names = [name for name in found[0] if name not in ("client", "test_examples")]
        means = {
            name: sum(e[name] * e["test_examples"] for e in found if name in e) / weight
            for name in names
        }
        row.update({f"clients_{name}": value for name, value in means.items()})
        return MetricRecord(dict(means))

    def _limit_to(self, available: int) -> None:
        """Asks for no more clients than there are: Flower would wait for them for ever."""
        for name in ("min_train_nodes", "min_available_nodes"):
            wanted = getattr(self.inner, name, 0)
            if wanted > available:
                _log.warning("%s is %d, but %d clients there: taking all", name, wanted, available)
                setattr(self.inner, name, available)

    def _keys(self) -> dict[str, str]:
        return {
            "weight_key": getattr(self.inner, "weighted_by_key", "num-examples"),
            "arrays_key": getattr(self.inner, "arrayrecord_key", "arrays"),
        }

    def _as_sent(self, arrays: ArrayRecord, server_round: int) -> ArrayRecord:
        """The aggregate in the precision that was sent: Flower's FedAdam makes it double."""
        for name, array in arrays.items():
            values = to_numpy(array)
            if not np.isfinite(values).all():
                raise TrainingError(
                    f"round {self.before + server_round}: {name!r} of the server is not finite "
                    f"after {type(self.inner).__name__}. Lower the server's learning rate"
                )
            if array.dtype != self._arrays[name].dtype:
                arrays[name] = to_array(np.asarray(values, dtype=self._arrays[name].dtype))
        return arrays

    def _record(
        self,
        server_round: int,
        checked: Checked,
        sound: list[Message],
        metrics: MetricRecord | None,
        up: int,
    ) -> None:
        number = self.before + server_round
        samples = 0
        answered = {}
        for reply in sound:
            figures = next(iter(reply.content.metric_records.values()))
            used = figures.get("samples", figures.get("num-examples", 0))
            samples += int(used)  # type: ignore[arg-type]
            answered[reply.metadata.src_node_id] = int(used)  # type: ignore[arg-type]
        self.samples += samples
        loss = None if metrics is None else metrics.get("train-loss")
        self.rows.append(
            {
                "round": number,
                "participants": len(self._asked),
                "completed": len(sound),
                "failures": len(checked.failures),
                "capped": len(checked.capped),
                "samples": samples,
                "samples_cumulative": self.samples,
                "bytes_down": self._down,
                "bytes_up": up,
                "train_loss": loss,
            }
        )
        for client in self._asked:
            self.client_rows.append(
                {
                    "round": number,
                    "client": client,
                    "samples": answered.get(client, 0),
                    "failure": checked.failures.get(client),
                    "capped_to": checked.capped[client][1] if client in checked.capped else None,
                }
            )
