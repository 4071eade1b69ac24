"""The training loop: the only one of the library."""

from __future__ import annotations

import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.checkpoint import FILE, check_same, load_checkpoint, save_checkpoint
from foretell.training.context import Context
from foretell.training.examples import Examples
from foretell.training.gradient import weighted_gradient
from foretell.training.machine import PRECISIONS
from foretell.training.optimizer import (
    OptimizerFactory,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from foretell.training.progress import Progress
from foretell.training.sampling import STEP, VALIDATION, Sampler, generator, torch_seed
from foretell.training.schedule import Schedule, get_schedule
from foretell.training.strategy import Strategy

Validation = Examples | Callable[[Learner], float]


@dataclass(frozen=True)
class FitResult:
    """How training went.

    Attributes:
        history: one entry each ``validate_every`` steps: ``step``, ``loss`` (mean since the entry
            before), ``lr``, ``validation`` (None without), ``seconds``.
        steps: steps made.
        best_step: number of steps after which the validation score was best; None without one.
        best_score: that score, lower is better; None without one.
        stopped: ``max_steps``, ``patience``, ``time_limit`` or ``interrupted``.
        seconds: time in training, over all resumptions.
        skipped: steps whose examples all had weight 0, in which nothing was learned.
    """

    history: list[dict[str, Any]]
    steps: int
    best_step: int | None
    best_score: float | None
    stopped: str
    seconds: float
    skipped: int = 0


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C, between two steps.

    Attributes:
        result: how far it went; the learner holds the weights it would have ended with.
        checkpoint: file to resume from, by the same call with ``resume=True``; None when no
            folder was given.
    """

    def __init__(self, result: FitResult, checkpoint: Path | None) -> None:
        self.result, self.checkpoint = result, checkpoint
        how = f"resume from {checkpoint}" if checkpoint else "no checkpoint folder was given"
        super().__init__(f"training interrupted after {result.steps} steps: {how}")


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
        for name in ("learning_rate", "gradient_clip", "time_limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParameterError(f"{name} must be positive, not {value!r}")
        if not self.weight_decay >= 0:
            raise ParameterError(f"weight_decay must not be negative, not {self.weight_decay!r}")
        if self.resume and self.checkpoint is None:
            raise ParameterError("resume=True needs the folder of the checkpoint: checkpoint=...")


@dataclass
class State:
    """What changes while training, besides weights: plain numbers, saved in checkpoints."""

    step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int | None = None
    best_score: float | None = None
    without_gain: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """One training run of one process."""

    def __init__(
        self,
        fabric: Fabric,
        learner: Learner,
        examples: Examples,
        strategies: Sequence[Strategy],
        validation: Validation | None,
        settings: Settings,
    ) -> None:
        self.fabric, self.learner, self.examples = fabric, learner, examples
        self.validation, self.settings = validation, settings
        self.dtype = PRECISIONS[settings.precision] or torch.float32
        self.modules = {f"strategy.{i}": s.module for i, s in enumerate(strategies) if s.module}
        for module in (learner, *self.modules.values()):
            module.to(fabric.device)
            if settings.precision != "32-true":
                module.to(self.dtype)
        named = dict(learner.named_parameters())
        for prefix, module in self.modules.items():
            named |= {f"{prefix}.{name}": p for name, p in module.named_parameters()}
        named = {name: p for name, p in named.items() if p.requires_grad}
        if not named:
            raise TrainingError(f"{type(learner).__name__} has no parameter that can be trained")
        self.optimizer = make_optimizer(
            settings.optimizer, named, settings.learning_rate, settings.weight_decay
        )
        size = min(settings.batch_size, len(examples)) * settings.accumulate
        if size < fabric.world_size * settings.accumulate:
            raise ParameterError(f"{fabric.world_size} devices cannot share a batch of {size}")
        weights = getattr(examples, "sampling_weights", None)
        self.sampler = Sampler(len(examples), size, settings.seed, weights)
        self.schedule_name, self.schedule = get_schedule(settings.schedule)
        self.context = Context(
            learner, examples, named, tuple(strategies), fabric, settings.seed,
            settings.max_steps, size,
        )  # fmt: skip
        exclusive = {
            hook: next((s for s in strategies if s.overrides(hook)), None)
            for hook in ("gradient", "draw", "final_weights")
        }
        self.gradient = exclusive["gradient"].gradient if exclusive["gradient"] else weighted_gradient
        self.drawer, self.averager = exclusive["draw"], exclusive["final_weights"]
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self.good = _copy(learner)

    def run(self) -> FitResult:
        """Trains, and leaves the learner with the weights to keep, in evaluation mode."""
        context, state, settings = self.context, self.state, self.settings
        try:
            for strategy in context.strategies:
                strategy.setup(context)
            if settings.resume:
                self._restore()
            state, start = self.state, time.monotonic() - self.state.seconds
            with _interruptible() as interrupted, Progress(settings, state.step) as progress:
                while (stopped := self._stopped()) is None and not interrupted.is_set():
                    self._step()
                    state.seconds = time.monotonic() - start
                    if state.step % settings.validate_every == 0 or state.step == settings.max_steps:
                        self._log(progress)
                    if state.step % settings.checkpoint_every == 0:
                        self._save()
                    progress.update(state.step, state.loss_sum / max(state.loss_steps, 1))
                if stopped == "time_limit" and state.loss_steps:
                    self._log(progress)  # so that the last steps can be the best ones
            path = self._save()
            if state.step and state.skipped == state.step:
                raise TrainingError(
                    f"in all {state.step} steps the examples' weights summed to 0: nothing was "
                    "learned. Look at the key 'weight' and the strategies that weigh"
                )
            self._finish()
        finally:
            for strategy in context.strategies:
                strategy.teardown(context)
        result = FitResult(
            state.history, state.step, state.best_step, state.best_score,
            stopped or "interrupted", state.seconds, state.skipped,
        )  # fmt: skip
        if stopped is None:
            raise TrainingInterrupted(result, path)
        return result

    def _stopped(self) -> str | None:
        state, settings = self.state, self.settings
        if state.step >= settings.max_steps:
            return "max_steps"
        if settings.patience is not None and state.without_gain >= settings.patience:
            return "patience"
        over = settings.time_limit is not None and state.seconds >= settings.time_limit
        return "time_limit" if self.fabric.broadcast(over) else None

    def _step(self) -> None:
        """One step: draw, backward, clip, move."""
        context, state, settings = self.context, self.state, self.settings
        rank = self.fabric.global_rank
        step = context.step = state.step
        context.rng = generator(settings.seed, STEP, step, rank)
        torch.manual_seed(torch_seed(settings.seed, step, rank))
        context.learning_rate = settings.learning_rate * self.schedule(step, settings.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = context.learning_rate
        for module in (self.learner, *self.modules.values()):
            module.train()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss, weight = self.gradient(self._batches(step), context)
            if weight:
                for strategy in context.strategies:
                    strategy.adjust_gradient(context)
                self._clip(loss)
                self.optimizer.step()
        except TrainingError:
            self._return_to_finite()
            raise
        state.step += 1
        if weight:
            state.loss_sum += loss
            state.loss_steps += 1
            for strategy in context.strategies:
                strategy.after_step(context)
        else:
            state.skipped += 1

    def _batches(self, step: int) -> Iterator[Batch]:
        """The micro-batches of this process, collated as they are asked for."""
        context, parts = self.context, self.settings.accumulate
        indices = self.drawer.draw(context) if self.drawer else self.sampler.indices(step)
        for part in np.array_split(indices, parts):
            mine = part[self.fabric.global_rank :: self.fabric.world_size]
            if len(mine):
                batch: Batch = self._place(self.examples.batch(mine, context.rng))
                for strategy in context.strategies:
                    batch = strategy.prepare(batch, context)
                yield batch

    def _place(self, batch: Batch) -> dict[str, Tensor]:
        """The batch on the device, floating tensors in the precision of the parameters."""
        placed = {k: v.to(self.fabric.device, non_blocking=True) for k, v in batch.items()}
        if self.settings.precision in ("64-true", "bf16-true"):
            placed = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in placed.items()}
        return placed

    def _clip(self, loss: float) -> None:
        named = {n: p.grad for n, p in self.context.parameters.items() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(list(named.values()))
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            bad = [name for name, grad in named.items() if not torch.isfinite(grad).all()]
            what = f"the gradient of {', '.join(bad[:3])}" if bad else "the loss or gradient norm"
            raise TrainingError(
                f"step {self.state.step}: {what} is not finite (loss {loss}). Lower the learning "
                "rate, or look for extreme values in the data"
            )
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(
                list(self.context.parameters.values()), self.settings.gradient_clip, norm
            )

    def _return_to_finite(self) -> None:
        """After a failure: the last weights that were all finite."""
        now = self.learner.state_dict()
        if any(bool((~now[k].isfinite() & good.isfinite()).any()) for k, good in self.good.items()):
            self.learner.load_state_dict(self.good)

    def _log(self, progress: Progress) -> None:
        """Validates, remembers the best weights, and writes an entry of the history."""
        state = self.state
        score = None if self.validation is None else self._validate()
        if score is not None:
            if state.best_score is None or score < state.best_score:
                state.best_score, state.best_step, state.without_gain = score, state.step, 0
                if self.settings.best_weights:
                    with self._final_weights():
                        self.best = _copy(self.learner)
            else:
                state.without_gain += 1
        entry = {
            "step": state.step,
            "loss": state.loss_sum / state.loss_steps if state.loss_steps else None,
            "lr": self.context.learning_rate,
            "validation": score,
            "seconds": state.seconds,
        }
        state.loss_sum, state.loss_steps = 0.0, 0
        state.history.append(entry)
        self.good = self.best if self.best is not None else _copy(self.learner)
        if self.fabric.is_global_zero:
            progress.log(entry)
            if self.settings.on_log is not None:
                self.settings.on_log(entry)

    def _validate(self) -> float:
        """Score of the weights to keep on the validation examples, the same draw every time."""
        seed = self.settings.seed
        torch.manual_seed(torch_seed(seed, VALIDATION))
        self.learner.eval()
        with self._final_weights(), torch.no_grad():
            if not isinstance(self.validation, Examples):
                score = float(self.validation(self.learner))  # type: ignore[misc]
            else:
                total = mass = 0.0
                size = self.settings.batch_size
                for start in range(0, len(self.validation), size):
                    indices = np.arange(start, min(start + size, len(self.validation)))
                    rng = generator(seed, VALIDATION, start)
                    batch = self._place(self.validation.batch(indices, rng))
                    with self.fabric.autocast():
                        scores = self.learner.loss(batch)
                    weights = batch.get("weight", torch.ones_like(scores))
                    scores = torch.where(weights == 0, 0.0, scores).double()
                    total += float((scores * weights).sum())
                    mass += float(weights.sum())
                if mass <= 0:
                    raise TrainingError("the weights of the validation examples sum to 0")
                score = total / mass
        score = self.fabric.broadcast(score)
        if math.isnan(score):
            self._return_to_finite()
            raise TrainingError(f"after step {self.state.step}: the validation score is not finite")
        return score

    @contextmanager
    def _final_weights(self) -> Iterator[None]:
        """Puts a strategy's averaged weights in, and the trained ones back afterwards."""
        weights = self.averager.final_weights(self.context) if self.averager else None
        if weights is None:
            yield
            return
        trained = _copy(self.learner)
        self.learner.load_state_dict({**trained, **weights})
        try:
            yield
        finally:
            self.learner.load_state_dict(trained)

    def _finish(self) -> None:
        if self.best is not None:
            self.learner.load_state_dict(self.best)
        elif self.averager:
            weights = self.averager.final_weights(self.context)
            self.learner.load_state_dict({**self.learner.state_dict(), **(weights or {})})
        self.optimizer.zero_grad(set_to_none=True)
        self.learner.eval()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the run that was begun."""
        settings, examples = self.settings, self.examples
        names = ("batch_size", "learning_rate", "weight_decay", "gradient_clip", "accumulate")
        same = {n: getattr(settings, n) for n in (*names, "seed", "precision", "best_weights")}
        weights = getattr(examples, "sampling_weights", None)
        optimizer = settings.optimizer
        return same | {
            "optimizer": optimizer if isinstance(optimizer, str) else "custom",
            "schedule": self.schedule_name,
            # A constant rate is the one whose past does not depend on where it ends.
            "max_steps": None if self.schedule_name == "constant" else settings.max_steps,
            "validate_every": settings.validate_every if self.validation is not None else None,
            "devices": self.fabric.world_size,
            "number of examples": len(examples),
            "fingerprint of the examples": getattr(examples, "fingerprint", None),
            "sampling weights": None if weights is None else zlib.crc32(np.asarray(weights)),
            "strategies": [strategy.name for strategy in self.context.strategies],
            "shapes of the learner": {k: list(v.shape) for k, v in self.learner.state_dict().items()},
        }

    def _save(self) -> Path | None:
        folder = self.settings.checkpoint
        if folder is None:
            return None
        if self.fabric.is_global_zero:
            strategies = self.context.strategies
            state = {
                "settings": self._identity(),
                "state": vars(self.state),
                "learner": self.learner.state_dict(),
                "modules": {name: m.state_dict() for name, m in self.modules.items()},
                "best": self.best,
                "optimizer": optimizer_state(self.optimizer),
                "strategies": [strategy.state_dict() for strategy in strategies],
            }
            save_checkpoint(folder, state)
        self.fabric.barrier()
        return Path(folder) / FILE

    def _restore(self) -> None:
        folder = self.settings.checkpoint
        saved = load_checkpoint(folder) if folder is not None else None
        if saved is None:
            return
        check_same(saved["settings"], self._identity(), Path(str(folder)))
        self.state = State(**saved["state"])
        self.learner.load_state_dict(saved["learner"])
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
        if saved["best"] is not None:
            self.best = {k: v.to(self.fabric.device) for k, v in saved["best"].items()}
        load_optimizer_state(self.optimizer, saved["optimizer"])
        for strategy, state in zip(self.context.strategies, saved["strategies"], strict=True):
            strategy.load_state_dict(state)
        self.good = self.best if self.best is not None else _copy(self.learner)


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event, seen between steps; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
