"""The settings of a training run, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretell.errors import ParameterError
from foretell.training.optimizer import OptimizerFactory
from foretell.training.schedule import Schedule


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`foretell.training.fit` that say how to train."""

    max_steps: int = 1000
    batch_size: int = 128
    optimizer: str | OptimizerFactory = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str | Schedule = "one_cycle"
    gradient_clip: float | None = 1.0
    accumulate: int = 1
    validate_every: int = 100
    patience: int | None = None
    best_weights: bool = True
    time_limit: float | None = None
    seed: int = 0
    precision: str = "32-true"
    checkpoint: Path | None = None
    checkpoint_every: int = 200
    resume: bool = False
    progress: bool = False
    on_log: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        counts = ("batch_size", "accumulate", "validate_every", "checkpoint_every", "patience")
        for name in (*counts, "max_steps", "seed"):
            value, least = getattr(self, name), 1 if name in counts else 0
            if name == "patience" and value is None:
                continue
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or value < least:
                raise ParameterError(f"{name} must be a whole number >= {least}, not {value!r}")
            object.__setattr__(self, name, int(value))  # numpy's integers are not JSON's
        for name in ("learning_rate", "gradient_clip", "time_limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParameterError(f"{name} must be positive, not {value!r}")
            object.__setattr__(self, name, None if value is None else float(value))
        if self.learning_rate is None:
            raise ParameterError("learning_rate must be a positive number, not None")
        if not self.weight_decay >= 0:
            raise ParameterError(f"weight_decay must not be negative, not {self.weight_decay!r}")
        object.__setattr__(self, "weight_decay", float(self.weight_decay))
        if self.resume and self.checkpoint is None:
            raise ParameterError("resume=True needs the folder of the checkpoint: checkpoint=...")
