"""What a run saves, and how it goes on from it as if it had never stopped."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretell.training.checkpoint import FILE, check_same, load_checkpoint, save_checkpoint
from foretell.training.optimizer import load_optimizer_state, optimizer_state

if TYPE_CHECKING:
    from foretell.training.loop import Trainer


@dataclass
class State:
    """What changes while training, besides weights: plain numbers.

    No generator's state is among them: randomness is a function of seed and step.
    """

    step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int | None = None
    best_score: float | None = None
    without_gain: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def save_run(run: Trainer) -> Path | None:
    """Writes the run's checkpoint, if it has a folder; the path of the file."""
    folder = run.settings.checkpoint
    if folder is None:
        return None
    if run.fabric.is_global_zero:
        content = {
            "settings": _identity(run),
            "state": vars(run.state),
            "learner": run.learner.state_dict(),
            "modules": {name: module.state_dict() for name, module in run.modules.items()},
            "best": run.best,
            "optimizer": optimizer_state(run.optimizer),
            "strategies": [strategy.state_dict() for strategy in run.context.strategies],
        }
        save_checkpoint(folder, content)
    run.fabric.barrier()
    return Path(folder) / FILE


def restore_run(run: Trainer) -> None:
    """Puts a run where its checkpoint is; nothing to do when there is none.

    Raises:
        TrainingError: a checkpoint that is damaged, or of a run with other settings.
    """
    folder = run.settings.checkpoint
    saved = load_checkpoint(folder, run.fabric.device) if folder is not None else None
    if folder is None or saved is None:
        return
    check_same(saved["settings"], _identity(run), folder)
    run.state = State(**saved["state"])
    run.learner.load_state_dict(saved["learner"])
    for name, module in run.modules.items():
        module.load_state_dict(saved["modules"][name])
    run.best = saved["best"]
    load_optimizer_state(run.optimizer, saved["optimizer"])
    for strategy, state in zip(run.context.strategies, saved["strategies"], strict=True):
        strategy.load_state_dict(state)


def _identity(run: Trainer) -> dict[str, Any]:
    """What must be the same for a resumed run to be the run that was begun."""
    settings, examples = run.settings, run.examples
    names = ("batch_size", "learning_rate", "weight_decay", "gradient_clip", "accumulate")
    same = {name: getattr(settings, name) for name in (*names, "seed", "precision", "best_weights")}
    weights = getattr(examples, "sampling_weights", None)
    optimizer = settings.optimizer
    return same | {
        "optimizer": optimizer if isinstance(optimizer, str) else "custom",
        "schedule": run.schedule_name,
        # A constant rate is the one whose past does not depend on where it ends.
        "max_steps": None if run.schedule_name == "constant" else settings.max_steps,
        "validate_every": settings.validate_every if run.validation is not None else None,
        "devices": run.fabric.world_size,
        "number of examples": len(examples),
        "fingerprint of the examples": getattr(examples, "fingerprint", None),
        "sampling weights": None if weights is None else zlib.crc32(np.asarray(weights).tobytes()),
        "strategies": [[s.name, s.settings()] for s in run.context.strategies],
        "learner": {name: list(v.shape) for name, v in run.learner.state_dict().items()},
    }
