"""What the hooks of a strategy are told about the step they stand in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.machine import all_sum

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from foretell.training.examples import Examples
    from foretell.training.strategy import Strategy


class Evaluation(NamedTuple):
    """A learner's loss on one batch, with every weighting and penalty strategy heard.

    Attributes:
        scores: ``(B,)`` loss of each example, with its graph.
        weights: ``(B,)`` weight of each example, without graph.
        penalty: scalar, with its graph (0 when no strategy adds one).
    """

    scores: Tensor
    weights: Tensor
    penalty: Tensor


@dataclass
class Context:
    """The state of training as strategies see it.

    Attributes:
        learner: what is trained.
        examples: what it is trained on.
        parameters: what the optimizer moves, by name (strategies' own modules included).
        strategies: all strategies, in the order in which their hooks are called.
        fabric: device, precision and the other processes.
        seed: the run's seed.
        max_steps: length of the run.
        batch_size: examples of a step: over all processes and micro-batches.
        step: index of the step that is being made, from 0; in ``after_step`` still the same.
        rng: random numbers of this step and process, a function of seed and step only.
        learning_rate: of this step.
        encoding: representation of the micro-batch evaluated last.
        output: prediction for the micro-batch evaluated last.
    """

    learner: Learner
    examples: Examples
    parameters: dict[str, nn.Parameter]
    strategies: tuple[Strategy, ...]
    fabric: Fabric
    seed: int
    max_steps: int
    batch_size: int
    step: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    learning_rate: float = 0.0
    encoding: Tensor | None = None
    output: Any = None

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    @property
    def processes(self) -> int:
        """Number of processes that share each step's examples."""
        return int(self.fabric.world_size)

    def evaluate(self, batch: Batch, *, finite: bool = True) -> Evaluation:
        """Scores, weights and penalty of a batch, in the precision of the run.

        Args:
            batch: as the examples gave it.
            finite: whether scores that are not finite end the training.
        """
        learner = self.learner
        with self.fabric.autocast():
            encoding = learner.encode(batch)
            output = learner.decode(encoding, batch)
            scores = learner.score(output, batch)
            if scores.ndim != 1:
                raise TrainingError(
                    f"{type(learner).__name__}.score returned shape {tuple(scores.shape)}: it must "
                    "return one loss for each example, shape (B,)"
                )
            self.encoding, self.output = encoding, output
            weights = batch.get("weight")
            weights = torch.ones_like(scores) if weights is None else weights.to(scores.dtype)
            if weights.shape != scores.shape:
                raise TrainingError(
                    f"batch key 'weight' has shape {tuple(weights.shape)} where the scores have "
                    f"{tuple(scores.shape)}: it must hold one weight for each example"
                )
            penalty = scores.new_zeros(())
            for strategy in self.strategies:
                if strategy.overrides("weigh"):
                    factor = strategy.weigh(scores.detach(), batch, self).detach()
                    if factor.shape != scores.shape:
                        raise TrainingError(
                            f"{strategy.name}.weigh returned shape {tuple(factor.shape)}: it must "
                            f"return one weight for each example, {tuple(scores.shape)}"
                        )
                    weights = weights * factor.to(scores.dtype)
                if strategy.overrides("penalty"):
                    value = strategy.penalty(learner, encoding, output, batch, self)
                    if value is not None:
                        if not torch.isfinite(value.detach()).all():
                            raise TrainingError(
                                f"step {self.step}: the penalty of {strategy.name} is not finite"
                            )
                        penalty = penalty + value
        weights = weights.detach()
        # An example of weight 0 is as good as absent, even if its score overflows. It stays in the
        # batch: unlabelled examples, say, have no score that counts but an encoding that does.
        scores = torch.where(weights == 0, torch.zeros_like(scores), scores)
        if finite:
            self._check_finite(scores.detach(), weights)
        return Evaluation(scores, weights, penalty)

    def _check_finite(self, scores: Tensor, weights: Tensor) -> None:
        """Names what is not finite: the one look at the device's figures in a forward pass."""
        if bool(torch.isfinite((scores * weights).sum())):
            return
        for what, values in (("weight", weights), ("score", scores)):
            bad = torch.nonzero(~torch.isfinite(values)).flatten().tolist()
            if bad:
                raise TrainingError(
                    f"step {self.step}: the {what} of {len(bad)} of {len(values)} examples is not "
                    f"finite, first at row {bad[0]} of the batch ({values[bad[0]].item()}). "
                    "Look for missing or extreme values in the data, or lower the learning rate"
                )
        raise TrainingError(f"step {self.step}: the sum of weighted scores is not finite")

    def sum_gradients(self, *totals: float) -> tuple[float, ...]:
        """Sums ``.grad`` of all parameters, and any totals, over the processes, in place.

        One message for all: gradients that no process has stay None.
        """
        if self.processes == 1:
            return totals
        parameters = list(self.parameters.values())
        double = any(p.dtype == torch.float64 for p in parameters)
        dtype = torch.float64 if double else torch.float32
        present = [float(p.grad is not None) for p in parameters]
        head = torch.tensor([*totals, *present], dtype=dtype, device=self.device)
        grads = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        flat = torch.cat([head, *(grad.to(dtype) for grad in grads)])
        flat = all_sum(self.fabric, flat)
        counts = flat[: len(head)].tolist()
        start = len(head)
        for parameter, count in zip(parameters, counts[len(totals) :], strict=True):
            end = start + parameter.numel()
            if count:
                parameter.grad = flat[start:end].view_as(parameter).to(parameter.dtype).clone()
            start = end
        return tuple(counts[: len(totals)])
