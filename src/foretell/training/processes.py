"""Training on several devices: processes that are spawned, and what they hand back."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foretell.errors import ForetellError, TrainingError
from foretell.learners.contract import Learner
from foretell.training.checkpoint import load_checkpoint, save_checkpoint
from foretell.training.examples import Examples
from foretell.training.loop import Trainer
from foretell.training.machine import use_threads
from foretell.training.result import FitResult, TrainingInterrupted, interruptible
from foretell.training.settings import Settings
from foretell.training.strategy import Strategy
from foretell.training.validation import Validation

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def train_in_processes(
    fabric: Fabric,
    learner: Learner,
    examples: Examples,
    strategies: Sequence[Strategy],
    validation: Validation | None,
    settings: Settings,
    threads: int | None,
) -> FitResult:
    """Trains in as many processes as ``fabric`` has devices; the caller's objects get the results.

    What the processes learned comes back through a file, in the format of checkpoints.
    """
    with tempfile.TemporaryDirectory(prefix="foretell-") as name, interruptible():
        folder = Path(name)
        job: Any = _Job(folder, learner, examples, strategies, validation, settings, threads)
        try:
            fabric.launch(job)
        except torch.multiprocessing.ProcessRaisedException as error:
            failed = load_checkpoint(folder / "failed")
            if failed is None:
                raise TrainingError(f"a training process failed: {error}") from error
            learner.load_state_dict(failed["learner"])
            raise TrainingError(failed["error"]) from error
        except (AttributeError, TypeError) as error:
            if "pickle" not in str(error):
                raise
            raise TrainingError(
                f"devices > 1 needs learner, examples, strategies and functions that can be "
                f"pickled ({error}): define them at the top of a module"
            ) from error
        done = load_checkpoint(folder)
    if done is None:
        raise TrainingError("the training processes ended without a result")
    learner.load_state_dict(done["learner"])
    learner.eval()
    for strategy, state in zip(strategies, done["strategies"], strict=True):
        strategy.load_state_dict(state["state"])
        if strategy.module is not None:
            strategy.module.load_state_dict(state["module"])
    result = FitResult(**done["result"])
    if result.stopped == "interrupted":
        path = done["checkpoint"]
        raise TrainingInterrupted(result, None if path is None else Path(path))
    return result


class _Job:
    """What each process does: one object, so that nothing looks into the collections in it."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder, self.arguments = folder, arguments

    def __call__(self, fabric: Fabric) -> None:
        learner, examples, strategies, validation, settings, threads = self.arguments
        # Tensors arrive in memory that the processes share: each trains a copy.
        learner, strategies = copy.deepcopy((learner, strategies))
        checkpoint: Path | None = None
        try:
            with use_threads(threads, fabric.world_size):
                trainer = Trainer(fabric, learner, examples, strategies, validation, settings)
                result = trainer.run()
        except TrainingInterrupted as stop:
            result, checkpoint = stop.result, stop.checkpoint
        except ForetellError as error:
            failed = {"error": str(error), "learner": learner.state_dict()}
            save_checkpoint(self.folder / "failed", failed)
            raise
        if fabric.is_global_zero:
            states: list[dict[str, Any]] = [
                {"state": s.state_dict(), "module": s.module.state_dict() if s.module else {}}
                for s in strategies
            ]
            content = {
                "result": asdict(result),
                "learner": learner.state_dict(),
                "strategies": states,
                "checkpoint": None if checkpoint is None else str(checkpoint),
            }
            save_checkpoint(self.folder, content)
        fabric.barrier()
