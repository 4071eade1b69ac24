"""The server's half of SCAFFOLD, as a Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from foretell.training.federated.records import to_numpy, to_record


class Scaffold(FedAvg):
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1), which Flower does not have.

    Sends ``x`` and the server's control variate ``c`` with every training message; then
    ``x += eta_g mean(y_i - x)`` and ``c += |S| / N mean(c_i+ - c_i)`` (lines 16 and 17). The mean
    over clients is unweighted, as in the paper, unless ``weighted`` says otherwise. The client's
    half is in :func:`foretell.training.federated.client_app`; its ``c_i`` lives in Flower's
    client state.

    Args:
        server_learning_rate: ``eta_g``.
        weighted: whether clients count by their number of examples, as in FedAvg.
        options: of Flower's FedAvg.
    """

    def __init__(
        self, *, server_learning_rate: float = 1.0, weighted: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.server_learning_rate, self.weighted = server_learning_rate, weighted
        self.current: dict[str, np.ndarray] = {}
        self.control: dict[str, np.ndarray] = {}
        self._available = 1

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Adds the control variate to what FedAvg sends."""
        self.current = {name: to_numpy(array) for name, array in arrays.items()}
        if not self.control:
            self.control = {name: np.zeros_like(value) for name, value in self.current.items()}
        self._available = len(list(grid.get_node_ids()))
        control = to_record(self.control)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        contents: dict[int, RecordDict] = {}  # FedAvg hands one content to all messages
        for message in messages:
            content = message.content
            if id(content) not in contents:
                contents[id(content)] = content
                content["control"] = control
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Moves the model and the control variate."""
        sound = [reply for reply in replies if not reply.has_error()]
        sound = [reply for reply in sound if "control" in reply.content.array_records]
        if not sound:
            return None, None
        contents = [reply.content for reply in sound]
        sizes = [float(self._figures(c)[self.weighted_by_key]) for c in contents]  # type: ignore[arg-type]
        weights = np.asarray(sizes if self.weighted else [1.0] * len(sizes), dtype=np.float64)
        weights = weights / weights.sum()
        share = len(sound) / self._available
        moved = {}
        for name, old in self.current.items():
            step = sum(
                float(w) * (c.array_records[self.arrayrecord_key][name].numpy() - old)
                for w, c in zip(weights, contents, strict=True)
            )
            change = sum(
                float(w) * c.array_records["control"][name].numpy()
                for w, c in zip(weights, contents, strict=True)
            )
            moved[name] = old + self.server_learning_rate * np.asarray(step)
            self.control[name] = self.control[name] + share * np.asarray(change)
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return to_record(moved), metrics

    @staticmethod
    def _figures(content: RecordDict) -> MetricRecord:
        return next(iter(content.metric_records.values()))
