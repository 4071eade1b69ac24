"""What a client does in a round: so many epochs, with such an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.optim import Optimizer

from foretell.errors import ParameterError
from foretell.training.context import Context
from foretell.training.examples import Examples
from foretell.training.optimizer import load_optimizer_state
from foretell.training.sampling import EPOCH, generator
from foretell.training.schedule import Schedule, get_schedule
from foretell.training.strategy import Strategy

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class LocalTraining:
    """Local training of one client in one round.

    Args:
        epochs: passes through the client's examples. The last batch of a pass may be smaller, so
            that each example counts once.
        batch_size: examples a step.
        optimizer: ``sgd`` (plain: momentum 0 unless ``momentum`` says otherwise), ``adam`` or
            ``adamw``.
        learning_rate: its rate, the highest of the schedule.
        momentum: of ``sgd``.
        weight_decay: on matrices and kernels.
        gradient_clip: largest norm of a gradient; None for no limit.
        schedule: of the learning rate, as in :func:`foretell.training.fit`. It runs over the
            client's steps of *all* rounds, so that a client with one batch a round warms up and
            cools down as one with many does.
        keep_optimizer: whether a client keeps its optimizer's moments for its next round (in
            Flower's client state). Fresh each round by default.
        max_steps: steps a round, instead of ``epochs``.
        threads: of torch, in each client. With one, results do not depend on the machine.
        device: where clients compute.
        precision: as in :func:`foretell.training.fit`.

    Raises:
        ParameterError: a value out of its range.
    """

    epochs: int = 1
    batch_size: int = 8
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    schedule: str | Schedule = "constant"
    keep_optimizer: bool = False
    max_steps: int | None = None
    threads: int = 1
    device: str = "cpu"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        if self.optimizer not in OPTIMIZERS:
            raise ParameterError(
                f"unknown optimizer {self.optimizer!r}: one of {', '.join(OPTIMIZERS)}"
            )
        for name in ("epochs", "batch_size", "threads", "max_steps"):
            value = getattr(self, name)
            if value is None and name == "max_steps":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number >= 1, not {value!r}")
        if not 0 <= self.momentum < 1:
            raise ParameterError(f"momentum must be in [0, 1), not {self.momentum!r}")
        if self.momentum and self.optimizer != "sgd":
            raise ParameterError(f"momentum is for 'sgd', not for {self.optimizer!r}")
        get_schedule(self.schedule)

    def steps(self, examples: int) -> int:
        """Steps of a round, of a client with so many examples."""
        if self.max_steps is not None:
            return self.max_steps
        return self.epochs * math.ceil(examples / self.batch_size)

    def samples(self, examples: int) -> int:
        """Examples that a round goes through, counted as often as they are used."""
        if self.max_steps is not None:
            return self.max_steps * min(self.batch_size, examples)
        return self.epochs * examples

    def make_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer over parameter groups."""
        rate = self.learning_rate
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, lr=rate)

    def schedule_in_round(self, server_round: int, rounds: int) -> Schedule:
        """The schedule inside round ``server_round`` (from 1) of ``rounds``, on global steps."""
        _, schedule = get_schedule(self.schedule)

        def factor(step: int, steps: int) -> float:
            return schedule((server_round - 1) * steps + step, max(rounds, server_round) * steps)

        return factor


class KeptOptimizer:
    """Makes an optimizer that starts from kept moments, and hands its moments out afterwards."""

    def __init__(
        self,
        make: Callable[[list[dict[str, Any]]], Optimizer],
        state: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        self.make, self.state = make, state
        self.optimizer: Optimizer | None = None

    def __call__(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimizer over parameter groups."""
        self.optimizer = self.make(groups)
        if self.state:
            load_optimizer_state(self.optimizer, self.state)
        return self.optimizer


class WholeEpochs(Strategy):
    """Goes through whole epochs: the last batch of each holds what is left.

    :func:`foretell.training.fit` by itself fills the last batch from the next permutation, which
    over one epoch of a small client would count some examples twice.
    """

    examples_apart = True

    def draw(self, context: Context) -> np.ndarray:
        """The next examples of this epoch's permutation."""
        length = len(context.examples)
        size = min(context.batch_size, length)
        epoch, batch = divmod(context.step, math.ceil(length / size))
        order = generator(context.seed, EPOCH, epoch).permutation(length)
        return order[batch * size : (batch + 1) * size]


def whole_epochs(
    examples: Examples, local: LocalTraining, strategies: tuple[Strategy, ...]
) -> tuple[Strategy, ...]:
    """Strategies of a round: whole epochs, unless the examples or a strategy draw otherwise."""
    drawn = local.max_steps is not None or getattr(examples, "sampling_weights", None) is not None
    if drawn or any(strategy.overrides("draw") for strategy in strategies):
        return strategies
    return (*strategies, WholeEpochs())
