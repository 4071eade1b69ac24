"""The entrance to training: :func:`fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from foretell.errors import TrainingError
from foretell.learners.contract import Learner
from foretell.training.examples import Examples
from foretell.training.loop import Trainer
from foretell.training.machine import make_fabric, use_threads
from foretell.training.optimizer import OptimizerFactory
from foretell.training.processes import train_in_processes
from foretell.training.result import FitResult
from foretell.training.schedule import Schedule
from foretell.training.settings import Settings
from foretell.training.strategy import Strategy, check_strategies
from foretell.training.validation import Validation


def fit(
    learner: Learner,
    examples: Examples,
    *,
    strategies: Sequence[Strategy] = (),
    validation: Validation | None = None,
    max_steps: int = 1000,
    batch_size: int = 128,
    optimizer: str | OptimizerFactory = "adamw",
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    schedule: str | Schedule = "one_cycle",
    gradient_clip: float | None = 1.0,
    accumulate: int = 1,
    validate_every: int = 100,
    patience: int | None = None,
    best_weights: bool = True,
    time_limit: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    threads: int | None = None,
    devices: int = 1,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    resume: bool = False,
    progress: bool = False,
    on_log: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Trains a learner, in place, on the weighted mean of its examples' scores.

    The learner ends on the device it came from, in evaluation mode, with the best weights on the
    validation part if there is one (and ``best_weights``), else with the last ones, averaged if a
    strategy averages.

    All randomness is a function of ``seed`` and the step. A run that was killed at any step and is
    resumed from its checkpoint, on the same machine, with the same arguments and threads, ends
    with the very weights of a run that was not; only ``time_limit`` depends on the clock.

    Args:
        learner: what to train.
        examples: what to train on; a dict key ``weight`` of its batches ``(B,)`` weighs examples.
        strategies: objects that change how it is trained, in the order in which they are asked.
        validation: examples to validate on, or a function of the learner; lower is better.
        max_steps: steps of the optimizer.
        batch_size: examples of a micro-batch, over all devices; at most all examples.
        optimizer: ``adamw``, ``adam``, ``sgd`` (Nesterov momentum 0.9), or a function of parameter
            groups.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices and kernels, not on biases and gains.
        schedule: ``one_cycle``, ``cosine``, ``warmup_cosine``, ``constant``, or a function
            ``(step, max_steps) -> factor``.
        gradient_clip: largest norm of the gradient; None for no limit.
        accumulate: micro-batches a step.
        validate_every: steps between validations, and between entries of the history.
        patience: validations without a better score after which to stop; None to go on.
        best_weights: whether to end with the weights of the best validation.
        time_limit: seconds after which to stop, resumptions included; None for no limit.
        seed: of everything that is random; not negative.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``mps``.
        precision: ``32-true``, ``64-true``, ``bf16-true`` or ``bf16-mixed``.
        threads: of torch on a CPU, restored afterwards; None for the physical cores this process
            may use, never more than are set. More threads than free cores cost a multiple.
        devices: processes, each with its device, that share every batch. They are spawned: all
            that is handed over must be picklable, and the calling script needs its main guard.
        checkpoint: folder for checkpoints; None for none.
        checkpoint_every: steps between checkpoints.
        resume: go on from the checkpoint in ``checkpoint``, or start when there is none yet.
        progress: draw a progress line, if standard error is a terminal.
        on_log: called with each entry of the history.

    Returns:
        How it went.

    Raises:
        TrainingError: a loss or gradient that is not finite (the learner then holds the last
            finite weights), strategies that cannot be combined, a checkpoint of another run, or
            weights that are always 0.
        TrainingInterrupted: Ctrl-C. The step was finished and a checkpoint saved if there is a
            folder; a second Ctrl-C does not wait.
        ParameterError: an argument out of its range.
    """
    settings = Settings(
        max_steps, batch_size, optimizer, learning_rate, weight_decay, schedule, gradient_clip,
        accumulate, validate_every, patience, best_weights, time_limit, seed, precision,
        checkpoint, checkpoint_every, resume, progress, on_log,
    )  # fmt: skip
    check_strategies(strategies)
    if len(examples) == 0:
        raise TrainingError("there is no example to train on")
    fabric = make_fabric(device, devices, precision)
    home = next((p.device for p in learner.parameters()), torch.device("cpu"))
    cards = [fabric.device] if fabric.device.type == "cuda" else []
    if fabric.world_size > 1:
        return train_in_processes(
            fabric, learner, examples, strategies, validation, settings, threads
        )
    with use_threads(threads), torch.random.fork_rng(devices=cards):
        try:
            return Trainer(fabric, learner, examples, strategies, validation, settings).run()
        finally:
            learner.to(home)
