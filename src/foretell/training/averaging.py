"""Weight averaging: the mean of the weights along the way is better than the last ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foretell.errors import ParameterError
from foretell.training.context import Context
from foretell.training.strategy import Strategy


class WeightAveraging(Strategy):
    """Validates and ends with averaged weights; the trained ones go on as if nothing were.

    With a ``decay``, an exponential moving average (Polyak and Juditsky 1992, in the form of
    Tarvainen and Valpola 2017) with the warm-up ``min(decay, (1 + n) / (10 + n))`` after ``n``
    averaged steps, so that early weights are forgotten. With ``decay=None``, the plain mean of
    all weights since ``start`` (Izmailov et al. 2018), which wants a high, constant rate.

    Buffers are those of the trained learner: statistics of batch normalisation are not averaged.

    Args:
        decay: of the moving average, in [0, 1), or None for the plain mean.
        start: part of ``max_steps`` to let pass before averaging.
        every: steps between the weights that are averaged.
    """

    def __init__(self, decay: float | None = 0.999, *, start: float = 0.0, every: int = 1) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ParameterError(f"decay must be in [0, 1), not {decay}")
        if not 0 <= start < 1:
            raise ParameterError(f"start must be in [0, 1), not {start}")
        if every < 1:
            raise ParameterError(f"every must be at least 1, not {every}")
        self.decay, self.start, self.every = decay, start, every
        self.count = 0
        self.average: dict[str, Tensor] = {}

    def setup(self, context: Context) -> None:
        """Forgets an earlier run's average."""
        self.count, self.average = 0, {}

    @torch.no_grad()
    def after_step(self, context: Context) -> None:
        """Adds the new weights to the average."""
        step = context.step + 1
        if step <= self.start * context.max_steps or step % self.every:
            return
        weights = {n: p.detach() for n, p in context.learner.named_parameters() if p.requires_grad}
        self.count += 1
        if self.count == 1:
            self.average = {name: value.clone() for name, value in weights.items()}
            return
        part = 1.0 / self.count
        if self.decay is not None:
            part = 1.0 - min(self.decay, self.count / (9 + self.count))
        torch._foreach_lerp_(list(self.average.values()), list(weights.values()), part)

    def final_weights(self, context: Context) -> Mapping[str, Tensor] | None:
        """The averaged parameters; None before the first."""
        return self.average or None

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {"decay": self.decay, "start": self.start, "every": self.every}

    def state_dict(self) -> dict[str, Any]:
        """The average and how many weights it is of."""
        return {"count": self.count, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the average back."""
        self.count = state["count"]
        self.average = dict(state["average"])
