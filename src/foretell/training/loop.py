"""The training loop: the only one of the library.

Fabric gives the device, the precision and the processes. The learner is not wrapped in torch's
data-parallel module: the loss is a weighted mean over *all* processes' examples, and strategies
may replace the backward pass, so gradients are summed once, explicitly, where they are complete
(:meth:`Context.sum_gradients`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.context import Context
from foretell.training.examples import Examples
from foretell.training.gradient import weighted_gradient
from foretell.training.machine import PRECISIONS, all_sum
from foretell.training.optimizer import make_optimizer
from foretell.training.progress import Progress
from foretell.training.result import FitResult, TrainingInterrupted, interruptible
from foretell.training.resume import State, restore_run, save_run
from foretell.training.sampling import STEP, Sampler, generator, seed_torch
from foretell.training.schedule import get_schedule
from foretell.training.settings import Settings
from foretell.training.strategy import Strategy
from foretell.training.validation import Validation, validation_score

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Trainer:
    """One training run, in one process."""

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
        own = {f"strategy.{i}": s.module for i, s in enumerate(strategies)}
        self.modules = {name: module for name, module in own.items() if module is not None}
        parameters = self._prepare_modules()
        self.optimizer = make_optimizer(
            settings.optimizer, parameters, settings.learning_rate, settings.weight_decay
        )
        size = min(settings.batch_size, len(examples))
        if size < fabric.world_size:
            raise ParameterError(f"{fabric.world_size} devices cannot share a batch of {size}")
        size *= settings.accumulate
        weights = getattr(examples, "sampling_weights", None)
        self.sampler = Sampler(len(examples), size, settings.seed, weights)
        self.schedule_name, self.schedule = get_schedule(settings.schedule)
        self.context = Context(
            learner=learner,
            examples=examples,
            parameters=parameters,
            strategies=tuple(strategies),
            fabric=fabric,
            seed=settings.seed,
            max_steps=settings.max_steps,
            batch_size=size,
        )
        replacing = next((s for s in strategies if s.overrides("gradient")), None)
        self.gradient = weighted_gradient if replacing is None else replacing.gradient
        self.drawing = next((s for s in strategies if s.overrides("draw")), None)
        self.averaging = next((s for s in strategies if s.overrides("final_weights")), None)
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self.good: dict[str, Tensor] = {}

    def run(self) -> FitResult:
        """Trains, and leaves the learner with the weights to keep, in evaluation mode."""
        context, settings = self.context, self.settings
        try:
            for strategy in context.strategies:
                strategy.setup(context)
            if settings.resume:
                restore_run(self)
            state = self.state
            self.good = _copy(self.learner)
            start = time.monotonic() - state.seconds
            self._train_mode()
            with interruptible() as interrupted, Progress(settings, state.step) as progress:
                while (stopped := self._stopped(interrupted.is_set())) is None:
                    self._step()
                    state.seconds = time.monotonic() - start
                    last = state.step == settings.max_steps
                    if last or state.step % settings.validate_every == 0:
                        self._log(progress)
                    if state.step % settings.checkpoint_every == 0:
                        save_run(self)
                    progress.update(state.step, state.loss_sum, state.loss_steps)
                if stopped == "time_limit" and state.loss_steps:
                    self._log(progress)  # so that the last steps can be the best ones
                path = save_run(self)
            if interrupted.is_set() and self.fabric.world_size == 1:
                stopped = "interrupted"  # after the last step too: the caller wants to stop
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
            history=state.history,
            steps=state.step,
            best_step=state.best_step,
            best_score=state.best_score,
            stopped=stopped,
            seconds=state.seconds,
            skipped=state.skipped,
        )
        if stopped == "interrupted":
            raise TrainingInterrupted(result, path)
        return result

    def _stopped(self, interrupted: bool) -> str | None:
        """Why to stop before the next step: the same answer in every process."""
        state, settings = self.state, self.settings
        if state.step >= settings.max_steps:
            return "max_steps"
        if settings.patience is not None and state.without_gain >= settings.patience:
            return "patience"
        late = settings.time_limit is not None and state.seconds >= settings.time_limit
        if self.fabric.world_size > 1:
            flags = torch.tensor([float(late), float(interrupted)], device=self.fabric.device)
            late, interrupted = map(bool, all_sum(self.fabric, flags).tolist())
        return "interrupted" if interrupted else "time_limit" if late else None

    def _step(self) -> None:
        """One step: draw, backward, clip, move."""
        context, state, settings = self.context, self.state, self.settings
        step, rank = state.step, self.fabric.global_rank
        context.step = step
        context.rng = generator(settings.seed, STEP, step, rank)
        seed_torch(self.fabric.device, settings.seed, step, rank)
        context.learning_rate = settings.learning_rate * self.schedule(step, settings.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = context.learning_rate
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
        if weight:
            for strategy in context.strategies:
                strategy.after_step(context)
            state.loss_sum += loss
            state.loss_steps += 1
        else:
            state.skipped += 1
        state.step += 1

    def _batches(self, step: int) -> Iterator[Batch]:
        """The micro-batches of this process, collated as they are asked for."""
        context = self.context
        drawing = self.drawing
        indices = self.sampler.indices(step) if drawing is None else drawing.draw(context)
        for part in np.array_split(indices, self.settings.accumulate):
            mine = part[self.fabric.global_rank :: self.fabric.world_size]
            if len(mine):
                batch: Batch = self._place(self.examples.batch(mine, context.rng))
                for strategy in context.strategies:
                    batch = strategy.prepare(batch, context)
                yield batch

    def _clip(self, loss: float) -> None:
        """Limits the gradient's norm; refuses one that is not finite before it can do harm."""
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
                self.context.parameters.values(), self.settings.gradient_clip, norm
            )

    def _log(self, progress: Progress) -> None:
        """Validates, remembers the best weights, and writes an entry of the history."""
        state = self.state
        score = None
        if self.validation is not None:
            self.learner.eval()
            try:
                with self._final_weights():
                    score = validation_score(
                        self.learner, self.validation, self.fabric, self.settings, self._place
                    )
                    if state.best_score is None or score < state.best_score:
                        state.best_score, state.best_step, state.without_gain = score, state.step, 0
                        self.best = _copy(self.learner) if self.settings.best_weights else None
                    else:
                        state.without_gain += 1
            except TrainingError as error:
                self._return_to_finite()
                raise TrainingError(f"after {state.step} steps: {error}") from error
        self.good = _copy(self.learner)
        entry = {
            "step": state.step,
            "loss": state.loss_sum / state.loss_steps if state.loss_steps else None,
            "lr": self.context.learning_rate,
            "validation": score,
            "seconds": state.seconds,
        }
        state.loss_sum, state.loss_steps = 0.0, 0
        state.history.append(entry)
        if self.fabric.is_global_zero:
            progress.log(entry)
            if self.settings.on_log is not None:
                self.settings.on_log(dict(entry))
        self._train_mode()

    @contextmanager
    def _final_weights(self) -> Iterator[None]:
        """Puts the weights to keep in, and the trained ones back afterwards."""
        weights = None if self.averaging is None else self.averaging.final_weights(self.context)
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
        """Leaves the weights to keep in the learner: the best, or the averaged, or the last."""
        weights = self.best
        if weights is None and self.averaging is not None:
            weights = dict(self.averaging.final_weights(self.context) or {})
        if weights is not None:
            self.learner.load_state_dict({**self.learner.state_dict(), **weights})
        self.optimizer.zero_grad(set_to_none=True)
        self.learner.eval()

    def _prepare_modules(self) -> dict[str, nn.Parameter]:
        """Brings all modules to the device and the precision; names what is to be trained."""
        named = {}
        for prefix, module in {"": self.learner, **self.modules}.items():
            module.to(self.fabric.device)
            if self.settings.precision.endswith("-true") and self.settings.precision != "32-true":
                module.to(PRECISIONS[self.settings.precision])
            for name, parameter in module.named_parameters(prefix):
                if parameter.requires_grad:
                    named[name] = parameter
        if not named:
            name = type(self.learner).__name__
            raise TrainingError(f"{name} has no parameter that can be trained")
        return named

    def _train_mode(self) -> None:
        for module in (self.learner, *self.modules.values()):
            module.train()

    def _place(self, batch: Batch) -> dict[str, Tensor]:
        """The batch on the device, floating tensors in the precision of the parameters."""
        placed = {k: v.to(self.fabric.device, non_blocking=True) for k, v in batch.items()}
        dtype = PRECISIONS[self.settings.precision]
        if dtype not in (None, torch.float32):
            placed = {k: v.to(dtype) if v.is_floating_point() else v for k, v in placed.items()}
        return placed

    def _return_to_finite(self) -> None:
        """After a failure: the last weights that were as finite as those before them."""
        now = self.learner.state_dict()
        if any(bool((~now[k].isfinite() & good.isfinite()).any()) for k, good in self.good.items()):
            self.learner.load_state_dict(self.good)


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}
