"""The validation score: on fixed examples, with fixed randomness, nothing learned from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foretell.errors import TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.examples import Examples
from foretell.training.machine import all_sum
from foretell.training.sampling import VALIDATION, generator, seed_torch

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from foretell.training.settings import Settings

Validation = Examples | Callable[[Learner], float]


def validation_score(
    learner: Learner,
    validation: Validation,
    fabric: Fabric,
    settings: Settings,
    place: Callable[[Batch], dict[str, Tensor]],
) -> float:
    """Weighted mean score of the validation examples, or what the caller's function returns.

    Each process scores its share of the examples; a function is called in each.

    Args:
        learner: in evaluation mode.
        validation: examples, or a function of the learner.
        fabric: of this process.
        settings: batch size and seed.
        place: brings a batch to the device.

    Raises:
        TrainingError: weights that sum to 0, or a score that is not a number.
    """
    seed_torch(fabric.device, settings.seed, VALIDATION)
    with torch.no_grad():
        if isinstance(validation, Examples):
            score = _mean_score(learner, validation, fabric, settings, place)
        else:
            score = float(fabric.broadcast(float(validation(learner))))
    if score != score:
        raise TrainingError("the validation score is not a number")
    return score


def _mean_score(
    learner: Learner,
    examples: Examples,
    fabric: Fabric,
    settings: Settings,
    place: Callable[[Batch], dict[str, Tensor]],
) -> float:
    total = mass = 0.0
    size, rank, processes = settings.batch_size, fabric.global_rank, fabric.world_size
    for start in range(rank * size, len(examples), processes * size):
        indices = np.arange(start, min(start + size, len(examples)))
        batch = place(examples.batch(indices, generator(settings.seed, VALIDATION, start)))
        with fabric.autocast():
            scores = learner.loss(batch)
        weights = batch.get("weight", torch.ones_like(scores)).to(scores.dtype)
        scores = torch.where(weights == 0, torch.zeros_like(scores), scores)
        sums = torch.stack([(scores * weights).sum(), weights.sum()]).tolist()
        total, mass = total + sums[0], mass + sums[1]
    if processes > 1:
        mine = torch.tensor([total, mass], device=fabric.device)
        total, mass = all_sum(fabric, mine).tolist()
    if mass <= 0:
        raise TrainingError("the weights of the validation examples sum to 0")
    return total / mass
