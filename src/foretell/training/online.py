"""Training that goes on as data arrives: many small runs of the loop that are one long one.

:func:`foretell.training.fit` starts a new optimizer with every call. An online learner makes
thousands of calls of a step or two each; its moments must survive between them, and its examples
are taken in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

from foretell.errors import ParameterError
from foretell.training.context import Context
from foretell.training.optimizer import make_optimizer
from foretell.training.strategy import Strategy


class CarriedOptimizer:
    """An optimizer that lives on from one call of ``fit`` to the next.

    Hand the same object to every call, as ``optimizer=``. The calls must train the same
    parameters.

    Args:
        name: ``adam``, ``adamw`` or ``sgd``.
        learning_rate: of the first call; later ones set their own.

    Raises:
        ParameterError: a call that trains other parameters than the first.
    """

    def __init__(self, name: str = "adam", learning_rate: float = 1e-3) -> None:
        self.name, self.learning_rate = name, learning_rate
        self._optimizer: Optimizer | None = None
        self._waiting: Mapping[str, NDArray[Any]] | None = None

    def __call__(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer of these groups: made at the first call, the same ever after."""
        parameters = [parameter for group in groups for parameter in group["params"]]
        if self._optimizer is None:
            named = {str(i): parameter for i, parameter in enumerate(parameters)}
            decay = max(float(group["weight_decay"]) for group in groups)
            self._optimizer = make_optimizer(self.name, named, self.learning_rate, decay)
            if self._waiting is not None:
                self._restore(self._waiting)
        known = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        if known != {id(parameter) for parameter in parameters}:
            raise ParameterError(
                "this optimizer carries the moments of other parameters: each learner needs a "
                "CarriedOptimizer of its own"
            )
        return self._optimizer

    def state(self) -> dict[str, NDArray[Any]]:
        """Moments and step counters as arrays, ``"<parameter>.<moment>"``; empty before any."""
        if self._optimizer is None:
            return dict(self._waiting or {})
        state = self._optimizer.state_dict()["state"]
        return {
            f"{number}.{key}": value.detach().cpu().numpy().copy()
            for number, moments in state.items()
            for key, value in moments.items()
            if isinstance(value, torch.Tensor)
        }

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes back what :meth:`state` gave; the moments enter with the next call."""
        self._optimizer, self._waiting = None, dict(arrays) or None

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        assert self._optimizer is not None
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, values in arrays.items():
            number, key = name.split(".", 1)
            state.setdefault(int(number), {})[key] = torch.from_numpy(np.array(values))
        content = self._optimizer.state_dict()
        content["state"] = state
        self._optimizer.load_state_dict(content)
        self._waiting = None


class Chronological(Strategy):
    """Takes the examples in their order, each once: a pass over a stream.

    Args:
        batch_size: examples of a step; the last step takes what is left.
    """

    def __init__(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ParameterError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = int(batch_size)

    def steps(self, examples: int) -> int:
        """Steps of one pass over so many examples."""
        return -(-examples // self.batch_size)

    def draw(self, context: Context) -> NDArray[np.int64]:
        """The next examples."""
        length = len(context.examples)
        begin = (context.step * self.batch_size) % max(length, 1)
        return np.arange(begin, min(begin + self.batch_size, length), dtype=np.int64)

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {"batch_size": self.batch_size}
