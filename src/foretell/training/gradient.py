"""The ordinary backward pass: the gradient of the weighted mean score and the penalties."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from foretell.errors import TrainingError
from foretell.learners.contract import Batch
from foretell.training.context import Context
from foretell.training.strategy import Gradient


def weighted_gradient(batches: Iterable[Batch], context: Context) -> Gradient:
    """Fills ``.grad`` with the gradient of ``sum_i w_i s_i / sum_i w_i + penalty``.

    The mean is over all examples of the step, whatever micro-batch or process they are in: sums
    are accumulated and divided once. A micro-batch's penalty counts in proportion to its weight,
    which for penalties on parameters alone is the penalty itself.

    Raises:
        TrainingError: a sum that is not finite, or a negative total weight.
    """
    total = mass = 0.0
    for batch in batches:
        scores, weights, penalty = context.evaluate(batch)
        weight = weights.sum()
        value = (weights * scores).sum() + weight * penalty
        if value.requires_grad:
            value.backward()
        sums = torch.stack([value.detach(), weight]).tolist()  # one wait for the device
        total, mass = total + sums[0], mass + sums[1]
    total, mass = context.sum_gradients(total, mass)
    if mass < 0:
        raise TrainingError(
            f"step {context.step}: the weights of the examples sum to {mass}: they must not be "
            "negative on balance"
        )
    if mass == 0:
        return Gradient(0.0, 0.0)
    gradients = [p.grad for p in context.parameters.values() if p.grad is not None]
    if not gradients:
        raise TrainingError("the scores depend on no parameter of the learner: nothing to train")
    torch._foreach_div_(gradients, mass)
    return Gradient(total / mass, mass)
