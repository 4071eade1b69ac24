"""SCAFFOLD (Karimireddy et al. 2020): control variates against drifting clients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from foretell.errors import TrainingError
from foretell.training.context import Context
from foretell.training.federated.local import LocalTraining
from foretell.training.federated.records import from_record, load_record, to_record
from foretell.training.strategy import Strategy

CONTROL = "control"


class ControlVariates(Strategy):
    """The client's half: every step goes along ``g(y) - c_i + c`` (algorithm 1, line 10).

    Afterwards ``c_i+ = c_i - c + (x - y) / sum of the steps' learning rates`` (option II, line 12;
    with a constant rate the sum is ``K * eta_l``).

    Args:
        server: ``c``, by name of the tensor.
        client: ``c_i``.
        start: ``x``, the weights of the server.
    """

    examples_apart = True

    def __init__(
        self, server: dict[str, Tensor], client: dict[str, Tensor], start: dict[str, Tensor]
    ) -> None:
        self.server, self.client, self.start = server, client, start
        self.correction = {name: server[name] - client[name] for name in server}
        self.rates = 0.0
        self.moved: set[str] = set()

    @classmethod
    def of_client(
        cls,
        control: ArrayRecord,
        state: RecordDict,
        tensors: Mapping[str, Tensor],
        local: LocalTraining,
    ) -> ControlVariates:
        """From what the server sent and the client kept.

        Raises:
            TrainingError: an optimizer other than plain SGD, for which the variates mean nothing.
        """
        if local.optimizer != "sgd" or local.momentum or local.gradient_clip is not None:
            raise TrainingError(
                "SCAFFOLD estimates a client's gradient from the way it went, which needs plain "
                "SGD: optimizer='sgd', momentum=0 and gradient_clip=None"
            )
        server = from_record(control)
        mine = {name: torch.zeros_like(value) for name, value in server.items()}
        if CONTROL in state.array_records:
            load_record(mine, state.array_records[CONTROL])
        return cls(server, mine, {name: tensors[name].clone() for name in server})

    def adjust_gradient(self, context: Context) -> None:
        """Adds ``c - c_i`` to the gradient."""
        for name, parameter in context.parameters.items():
            if name in self.correction:
                change = self.correction[name].to(parameter)
                gradient = parameter.grad
                parameter.grad = change.clone() if gradient is None else gradient + change
                self.moved.add(name)
        self.rates += context.learning_rate

    def finish(self, state: RecordDict, tensors: Mapping[str, Tensor]) -> ArrayRecord:
        """Keeps ``c_i+`` in the client's state, and returns ``c_i+ - c_i`` for the server."""
        if not self.rates:
            raise TrainingError("SCAFFOLD: the client made no step")
        change = {
            name: (self.start[name] - tensors[name]).cpu() / self.rates - server
            if name in self.moved
            else torch.zeros_like(server)  # running statistics have no gradient
            for name, server in self.server.items()
        }
        state[CONTROL] = to_record({name: self.client[name] + change[name] for name in change})
        return to_record(change)
