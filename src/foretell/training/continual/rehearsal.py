"""Strategies that rehearse what was kept of earlier tasks while a new one is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.context import Context
from foretell.training.continual.cone import multipliers
from foretell.training.continual.memory import floats
from foretell.training.examples import Examples
from foretell.training.private import PrivateTraining
from foretell.training.strategy import Strategy

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""``(new outputs, old outputs) -> (B,)`` how far apart they are, example by example."""


def squared_distance(new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of each example's outputs ``(B,)``."""
    apart = [(a - b).flatten(1) if a.ndim > 1 else (a - b)[:, None] for a, b in zip(
        new, old, strict=True)]  # fmt: skip
    return torch.cat(apart, dim=1).square().mean(1)


def soft_labels(new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """Cross-entropy against the old probabilities, for outputs that are one logit ``(B,)``."""
    target = torch.sigmoid(old[0])
    return torch.nn.functional.binary_cross_entropy_with_logits(new[0], target, reduction="none")


class _Rehearsal(Strategy):
    """Draws from memories as a function of seed and step, so that a resumed run draws the same."""

    def __init__(self, weight: float, batch_size: int) -> None:
        if not weight >= 0:
            raise ParameterError(f"the weight must not be negative, not {weight}")
        if batch_size < 1:
            raise ParameterError(f"batch_size must be at least 1, not {batch_size}")
        self.weight, self.batch_size = float(weight), int(batch_size)

    def _draw(self, memory: Examples, context: Context, number: int) -> np.ndarray:
        rng = np.random.default_rng((context.seed, context.step, number, 7919))
        return rng.integers(0, len(memory), min(self.batch_size, len(memory)))

    def _batch(self, memory: Examples, chosen: np.ndarray, context: Context) -> dict[str, Tensor]:
        rng = np.random.default_rng((context.seed, context.step, 7907))
        return {k: v.to(context.device) for k, v in memory.batch(chosen, rng).items()}

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {"weight": self.weight, "batch_size": self.batch_size}


class _OfEach(_Rehearsal):
    """Adds ``weight`` times the mean over memories of their mean loss on a drawn batch."""

    def __init__(self, memories: Sequence[Examples], weight: float, batch_size: int) -> None:
        super().__init__(weight, batch_size)
        self.memories = tuple(memories)

    def _loss(self, learner: Learner, kept: dict[str, Tensor]) -> Tensor:
        """Losses ``(B,)`` of a batch."""
        raise NotImplementedError

    def penalty(
        self, learner: Learner, encoding: Tensor, output: Any, batch: Batch, context: Context
    ) -> Tensor | None:
        """The rehearsed loss."""
        losses = [
            self._loss(learner, self._batch(m, self._draw(m, context, i), context)).mean()
            for i, m in enumerate(self.memories)
        ]
        return self.weight * torch.stack(losses).mean() if losses else None


class Replay(_OfEach):
    """Adds ``weight`` times the mean over memories of their mean loss on a drawn batch.

    Raw examples of earlier tasks are needed: where data must not leave its site this is the
    reference to compare with, not a method to use.

    Args:
        memories: examples kept of each earlier task.
        weight: on the rehearsed loss.
        batch_size: examples drawn of each memory a step.
    """

    def __init__(
        self, memories: Sequence[Examples], *, weight: float = 1.0, batch_size: int = 128
    ) -> None:
        super().__init__(memories, weight, batch_size)

    def _loss(self, learner: Learner, kept: dict[str, Tensor]) -> Tensor:
        return learner.loss(kept)


class RepresentationReplay(_OfEach):
    """Rehearses stored representations: no raw example of an earlier task is needed.

    Adds ``weight * mean over tasks of mean score(decode(h), y)``. What computes ``h`` must be
    frozen, or the stored representations grow stale.

    Args:
        memories: of each earlier task, with ``h`` and the keys that decoding and scoring need; see
            :func:`~foretell.training.continual.representations`.
        weight: on the rehearsed loss.
        batch_size: representations drawn of each task a step.
    """

    def __init__(
        self, memories: Sequence[Examples], *, weight: float = 0.5, batch_size: int = 512
    ) -> None:
        super().__init__(memories, weight, batch_size)

    def _loss(self, learner: Learner, kept: dict[str, Tensor]) -> Tensor:
        hidden = kept.pop("h")
        return learner.score(learner.decode(hidden, kept), kept)


class DarkReplay(_Rehearsal):
    """DER++: rehearses examples together with what the model once said of them.

    Adds ``alpha * distance(output, stored output) + beta * loss`` on two draws from the memory
    (Buzzega et al. 2020, eq. 6).

    Args:
        memory: examples kept of earlier tasks.
        stored: their outputs at the time, tensors ``(n, ...)``; see
            :func:`~foretell.training.continual.outputs`.
        alpha: on the distance.
        beta: on the loss.
        batch_size: examples of each draw.
        distance: between outputs; squared by default, as published.
    """

    def __init__(
        self,
        memory: Examples,
        stored: Sequence[Tensor],
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        batch_size: int = 128,
        distance: Distance = squared_distance,
    ) -> None:
        super().__init__(alpha, batch_size)
        if not beta >= 0:
            raise ParameterError(f"beta must not be negative, not {beta}")
        if any(len(values) != len(memory) for values in stored):
            raise ParameterError(f"stored outputs must be of all {len(memory)} examples")
        self.memory, self.stored, self.beta = memory, tuple(stored), float(beta)
        self.distance = distance

    def penalty(
        self, learner: Learner, encoding: Tensor, output: Any, batch: Batch, context: Context
    ) -> Tensor | None:
        """Distance and loss on the draws."""
        chosen = self._draw(self.memory, context, 0)
        new = floats(learner(self._batch(self.memory, chosen, context)))
        old = [values[torch.as_tensor(chosen)].to(context.device) for values in self.stored]
        again = self._batch(self.memory, self._draw(self.memory, context, 1), context)
        far = self.distance(new, old).mean()
        return self.weight * far + self.beta * learner.loss(again).mean()

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {**super().settings(), "beta": self.beta}


class Distillation(Strategy):
    """Learning without forgetting: holds outputs on *new* examples near the old model's.

    Adds ``weight`` times the mean distance between what the learner and its older self say of the
    current batch (Li and Hoiem 2016, eq. 4). Nothing of earlier tasks is kept but the model.

    Args:
        teacher: the older model; it is not trained.
        weight: on the distance.
        distance: between outputs.
    """

    def __init__(
        self, teacher: Learner, *, weight: float = 1.0, distance: Distance = squared_distance
    ) -> None:
        if not weight >= 0:
            raise ParameterError(f"the weight must not be negative, not {weight}")
        self.teacher, self.weight, self.distance = teacher, float(weight), distance

    def setup(self, context: Context) -> None:
        """Brings the teacher to the device."""
        self.teacher.to(context.device).eval()

    def penalty(
        self, learner: Learner, encoding: Tensor, output: Any, batch: Batch, context: Context
    ) -> Tensor | None:
        """The distance to the teacher's outputs."""
        with torch.no_grad():
            old = floats(self.teacher(batch))
        return self.weight * self.distance(floats(output), old).mean()

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {"weight": self.weight}


class _Projecting(_Rehearsal):
    """Changes the gradient by those of kept examples."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(1.0, batch_size)
        self.projected = 0

    def conflict(self, other: Strategy) -> str | None:
        """Refuses private training, whose noise the projection would come after."""
        if isinstance(other, PrivateTraining):
            return (
                "the projection goes by raw gradients of kept examples, neither clipped nor noisy, "
                "so that no statement would be true of them"
            )
        return None

    def _reference(
        self, memory: Examples, context: Context, number: int, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Gradient of the mean loss on a draw from a memory."""
        batch = self._batch(memory, self._draw(memory, context, number), context)
        loss = context.learner.loss(batch).mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


class AveragedGradientMemory(_Projecting):
    """A-GEM: no step may, to first order, raise the loss on the memory.

    Where the gradient ``g`` opposes the memory's gradient ``r``, it is projected:
    ``g - (g . r / r . r) r`` (Chaudhry et al. 2019, eq. 11).

    Args:
        memory: examples kept of earlier tasks.
        batch_size: examples whose gradient is the reference.
    """

    def __init__(self, memory: Examples, *, batch_size: int = 256) -> None:
        super().__init__(batch_size)
        self.memory = memory

    def adjust_gradient(self, context: Context) -> None:
        """Projects the gradient if it opposes the memory's."""
        parameters = [p for p in context.parameters.values() if p.grad is not None]
        reference = self._reference(self.memory, context, 0, parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        inner = sum((g * r).sum() for g, r in zip(gradients, reference, strict=True))
        if float(inner) >= 0:
            return
        self.projected += 1
        length = sum((r * r).sum() for r in reference)
        for gradient, other in zip(gradients, reference, strict=True):
            gradient.sub_(inner / length * other)


class GradientEpisodicMemory(_Projecting):
    """GEM: no step may, to first order, raise the loss on the memory of *any* earlier task.

    Where the gradient ``g`` opposes the gradient of at least one memory, it becomes the nearest
    vector that opposes none (Lopez-Paz and Ranzato 2017, eq. 8-11); see
    :func:`~foretell.training.continual.cone.multipliers`. Nothing else is carried from step to
    step, so that a resumed run goes on as if it had not been stopped.

    Args:
        memories: examples kept of each earlier task, one constraint each.
        margin: what every multiplier is at least, in steps that are projected (``gamma`` of section
            3.2 of the paper, which used 0.5): it leans on the memories' own gradients. 0 gives
            the nearest vector.
        batch_size: examples drawn of each memory a step; a memory of no more is taken whole, as
            published.
    """

    def __init__(
        self, memories: Sequence[Examples], *, margin: float = 0.5, batch_size: int = 256
    ) -> None:
        super().__init__(batch_size)
        if not 0 <= margin < float("inf"):
            raise ParameterError(f"the margin must be finite and not negative, not {margin}")
        self.memories, self.margin = tuple(memories), float(margin)

    def _draw(self, memory: Examples, context: Context, number: int) -> np.ndarray:
        if len(memory) <= self.batch_size:
            return np.arange(len(memory))
        return super()._draw(memory, context, number)

    def adjust_gradient(self, context: Context) -> None:
        """Projects the gradient if it opposes that of a memory."""
        parameters = [p for p in context.parameters.values() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        references = [
            self._reference(memory, context, i, parameters)
            for i, memory in enumerate(self.memories)
        ]
        against = np.array([_inner(r, gradients) for r in references])
        if not np.isfinite(against).all():
            if not np.isfinite([_inner(r, r) for r in references]).all():
                raise TrainingError(
                    f"step {context.step}: the gradient on the memory of an earlier task is not "
                    "finite"
                )
            return  # the step's own gradient is not finite, which the loop refuses
        if not (against < 0).any():
            return
        gram = np.array([[_inner(a, b) for b in references] for a in references])
        self.projected += 1
        for factor, reference in zip(multipliers(gram, against, self.margin), references,
                                     strict=True):  # fmt: skip
            for gradient, other in zip(gradients, reference, strict=True):
                gradient.add_(other, alpha=float(factor))

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {**super().settings(), "margin": self.margin}


def _inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Inner product over all parameters, in double precision: its sign decides."""
    return float(sum((a.double() * b.double()).sum() for a, b in zip(first, second, strict=True)))
