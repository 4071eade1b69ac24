"""Strategies: objects with a few hooks around a step of the training loop.

A step of :func:`foretell.training.fit` is, in order::

    indices = draw(context)                 which examples       (one strategy may replace it)
    batch = prepare(batch, context)         augment, relabel     (every strategy, in turn)
    weights = weigh(scores, ...)            how much they count  (factors, multiplied)
    penalty = penalty(learner, ...)         what else costs      (summed)
    gradient(batches, context)              the backward pass    (one strategy may replace it)
    adjust_gradient(context)                project, perturb     (every strategy, in turn)
    clip, optimizer step
    after_step(context)                     average, accumulate  (every strategy, in turn)

Hooks that are not overridden cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from foretell.errors import TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.context import Context


class Gradient(NamedTuple):
    """What a backward pass reports.

    Attributes:
        loss: the loss of the step, for the log and the check that it is finite.
        weight: total weight of the examples behind it; 0 marks a step to be skipped.
    """

    loss: float
    weight: float


class Strategy:
    """Base of all strategies: every hook is there and does nothing.

    Attributes:
        module: parameters of the strategy's own (a domain classifier, say) that are trained
            together with the learner by the same optimizer and saved in checkpoints.
        examples_apart: whether ``prepare`` and ``weigh`` treat each example by itself, as private
            training needs.
    """

    module: nn.Module | None = None
    examples_apart: bool = False

    @property
    def name(self) -> str:
        """How errors and checkpoints call this strategy."""
        return type(self).__name__

    def conflict(self, other: Strategy) -> str | None:
        """Why this strategy cannot be combined with ``other``, and what to do; None if it can.

        Asked for every pair, both ways round, before training starts.
        """
        return None

    def setup(self, context: Context) -> None:
        """Called once before the first step, and before a resumed run's state is loaded."""

    def teardown(self, context: Context) -> None:
        """Called once when training ends, however it ends: remove hooks, free memory."""

    def draw(self, context: Context) -> np.ndarray:
        """Replaces the choice of examples of this step: indices, of any number, even none.

        Must be a function of ``context.rng`` or of the seed and the step only, so that a resumed
        run draws the same.
        """
        raise NotImplementedError

    def prepare(self, batch: Batch, context: Context) -> Batch:
        """Changes a batch before the learner sees it."""
        return batch

    def weigh(self, scores: Tensor, batch: Batch, context: Context) -> Tensor:
        """Factor ``(B,)`` on each example's weight, given the detached scores ``(B,)``.

        The encoding and the output behind the scores are ``context.encoding`` and
        ``context.output``. Factors of several strategies and ``batch["weight"]`` are multiplied;
        no gradient flows through them.
        """
        raise NotImplementedError

    def penalty(
        self, learner: Learner, encoding: Tensor, output: Any, batch: Batch, context: Context
    ) -> Tensor | None:
        """Scalar that is added to the loss; None for none."""
        raise NotImplementedError

    def gradient(self, batches: Iterable[Batch], context: Context) -> Gradient:
        """Replaces the backward pass of a whole step.

        Fills ``.grad`` of ``context.parameters`` (which come cleared) from the step's
        micro-batches, which are collated as they are asked for. ``context.evaluate(batch)`` gives
        scores, weights and penalty with every other strategy already heard;
        :func:`foretell.training.weighted_gradient` is what is replaced. On several devices each
        process sees its share of the examples: sum with ``context.sum_gradients``.
        """
        raise NotImplementedError

    def adjust_gradient(self, context: Context) -> None:
        """Changes ``.grad`` of ``context.parameters`` after the backward pass, before clipping."""

    def after_step(self, context: Context) -> None:
        """Sees the learner after the optimizer's step; gradients are still there."""

    def final_weights(self, context: Context) -> Mapping[str, Tensor] | None:
        """Weights to validate, to keep as best, and to end with, by name of the learner's state.

        None for the learner's own.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, numbers, strings, dicts and lists of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, after ``setup``; tensors come on the device."""

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters that a resumed run must find unchanged: numbers and strings by name."""
        return {}

    def overrides(self, hook: str) -> bool:
        """Whether this strategy defines ``hook`` itself."""
        return getattr(type(self), hook) is not getattr(Strategy, hook)


EXCLUSIVE = {
    "gradient": "replace the backward pass, which only one can do",
    "draw": "choose the examples of a step, which only one can do",
    "final_weights": "decide the weights to end with, which only one can do",
}


def check_strategies(strategies: Sequence[Strategy]) -> None:
    """Refuses strategies that cannot be combined, before anything is trained.

    Raises:
        TrainingError: naming the pair, the reason and what to do.
    """
    for strategy in strategies:
        if not isinstance(strategy, Strategy):
            raise TrainingError(
                f"strategies must be foretell.training.Strategy objects, not {strategy!r}"
                + (": write it with brackets" if isinstance(strategy, type) else "")
            )
    for i, first in enumerate(strategies):
        for second in strategies[i + 1 :]:
            if first is second:
                raise TrainingError(f"strategy {first.name} is listed twice: list it once")
            for hook, reason in EXCLUSIVE.items():
                if first.overrides(hook) and second.overrides(hook):
                    raise TrainingError(
                        f"strategies {first.name} and {second.name} both {reason}: "
                        "train with one of them, or with one after the other"
                    )
            conflict = first.conflict(second) or second.conflict(first)
            if conflict is not None:
                raise TrainingError(
                    f"strategies {first.name} and {second.name} cannot be combined: {conflict}"
                )
