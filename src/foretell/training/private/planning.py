"""Guarantees of trainings that are only planned."""

from __future__ import annotations

import math

from foretell.errors import ParameterError
from foretell.training.private.accounting import (
    Accountant,
    NoisySteps,
    dp_event,
    epsilon,
    noise_for,
)
from foretell.training.private.statement import PrivacyStatement


def planned_statement(
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    noise: float | None = None,
    target_epsilon: float | None = None,
    microbatch_size: int = 1,
    decay: float = 1.0,
    accountant: Accountant = "pld",
) -> PrivacyStatement:
    """What a training would guarantee.

    Args:
        sample_rate: chance q of each example to be in a step; 1 for no sampling.
        steps: how many.
        delta: in (0, 1).
        noise: noise over the clipping bound; give this or ``target_epsilon``.
        target_epsilon: the noise is chosen to meet it and never exceed it.
        microbatch_size: examples of a clipped micro-batch, above 1 of which one example moves the
            sum by twice the bound.
        decay: factor on the noise after each pass over the data.
        accountant: ``"pld"`` (tight) or ``"rdp"`` (quick).

    Raises:
        ParameterError: values out of range.
    """
    if (noise is None) == (target_epsilon is None):
        raise ParameterError("give noise or target_epsilon, and not both")
    if not 0 < sample_rate <= 1:
        raise ParameterError(f"the sample rate must lie in (0, 1], not {sample_rate}")
    if steps < 1 or microbatch_size < 1:
        raise ParameterError("steps and micro-batches must be at least 1")
    if not 0 < decay <= 1:
        raise ParameterError(f"the decay must lie in (0, 1], not {decay}")
    if noise is not None and not noise >= 0:
        raise ParameterError(f"noise must not be negative, not {noise}")
    every = max(1, round(1 / sample_rate)) if decay < 1 else steps
    sizes = [min(every, steps - e * every) for e in range(math.ceil(steps / every))]
    plan = [NoisySteps(sample_rate, decay**e, size) for e, size in enumerate(sizes)]
    sensitivity = 2.0 if microbatch_size > 1 else 1.0
    if noise is None:
        assert target_epsilon is not None
        first = noise_for(target_epsilon, delta, plan, accountant=accountant)
    else:
        first = noise / sensitivity
    done = [NoisySteps(k.sample_rate, first * k.noise_multiplier, k.steps) for k in plan]
    clipping = "exact" if microbatch_size == 1 else f"micro-batches of {microbatch_size}"
    return PrivacyStatement(
        epsilon=epsilon(done, delta, accountant=accountant),
        delta=delta,
        adjacency="add_remove_example",
        unit="example",
        sampling=f"poisson({sample_rate:.6g})" if sample_rate < 1 else "none",
        accountant=accountant,
        clipping=clipping,
        sensitivity_factor=sensitivity,
        noise_multipliers=tuple(kind.noise_multiplier for kind in done),
        steps=tuple(kind.steps for kind in done),
        assumptions=(
            "a plan: every step is made so, and divides by a public expected batch size",
            "the number of examples, the expected batch size and all hyper-parameters are public",
            "only the weights are published",
        ),
        dp_event=repr(dp_event(done)),
    )
