"""Differentially private training, as a strategy of the one loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch
from foretell.training.context import Context
from foretell.training.penalty import ParameterPenalty
from foretell.training.private.accounting import (
    Accountant,
    NoisySteps,
    dp_event,
    epsilon,
    noise_for,
)
from foretell.training.private.bounds import Bound, MaxGradNorm
from foretell.training.private.clipping import Clipping, ExactClipper
from foretell.training.private.layers import (
    Layers,
    LayerScale,
    NoiseAllocation,
    check_layers,
)
from foretell.training.private.noise import DRAW_STREAM, NoiseSource
from foretell.training.private.statement import PrivacyStatement
from foretell.training.strategy import Gradient, Strategy

_FEW = 100


class PrivateTraining(Strategy):
    """DP-SGD with exact clipping of each example's gradient (Abadi et al. 2016, algorithm 1).

    Each step takes every example with chance q = L / N by itself, clips each gradient to norm C,
    adds Gaussian noise to their sum and divides by L. L is the batch size that ``fit`` was asked
    for, never the number that was drawn; an empty draw is a step of noise. Micro-batches
    (``accumulate``) bound the memory and change nothing else.

    The guarantee holds for the weights. Losses that are logged, and scores of a validation part,
    are computed from raw data: do not publish them.

    Args:
        noise_multiplier: noise over C; give this or ``target_epsilon``. 0 only clips, for
            comparison, and guarantees nothing: the statement's epsilon is infinite.
        target_epsilon: the noise is chosen so that all ``max_steps`` steps cost this much.
        target_delta: ``None`` for ``N ** -1.1``.
        max_grad_norm: C, or ``"automatic"`` or ``"quantile"``; see
            :class:`~foretell.training.private.bounds.Bound`.
        clipping: see :class:`~foretell.training.private.clipping.ExactClipper`.
        noise_decay: factor on the noise after each pass over the data; at most 1.
        smallest_noise: the decay stops here.
        layer_scale: how C is shared among layers, each clipped by itself; see
            :class:`~foretell.training.private.layers.Layers`. ``None`` clips all together.
        noise_allocation: whether layers get noise in proportion to their bounds (``"equal"``
            shares of the budget) or the same on every number (``"flat"``).
        accountant: ``"pld"`` (tight) or ``"rdp"`` (quick).
        secure_mode: every number of noise and draws from the operating system's randomness; such a
            run cannot be repeated, nor resumed to the same weights.
        noise_seed: of noise and draws, for runs that must be repeated: whoever learns it can take
            the noise off, and the statement says so. None for a secret of 128 bits that the
            operating system draws for each run; no other seed tells anything of it. It is in the
            run's checkpoints, so that a killed run goes on as if it had not been.

    Attributes:
        sensitivity: how far one record can move the sum, in units of C.
        adjacency: which data sets the guarantee speaks of.
        unit: what one record is.
        poisson: whether steps are Poisson draws, which a loop of one's own may not make.

    Raises:
        ParameterError: values out of range.
    """

    sensitivity: float = 1.0
    adjacency: str = "add_remove_example"
    unit: str = "example"
    poisson: bool = True

    def __init__(
        self,
        noise_multiplier: float | None = None,
        *,
        target_epsilon: float | None = None,
        target_delta: float | None = None,
        max_grad_norm: MaxGradNorm = 1.0,
        clipping: Clipping = "auto",
        noise_decay: float = 1.0,
        smallest_noise: float = 0.2,
        layer_scale: LayerScale | None = None,
        noise_allocation: NoiseAllocation = "equal",
        accountant: Accountant = "pld",
        secure_mode: bool = False,
        noise_seed: int | None = None,
    ) -> None:
        if secure_mode and noise_seed is not None:
            raise ParameterError("secure_mode follows from no seed: leave noise_seed out")
        if (noise_multiplier is None) == (target_epsilon is None):
            raise ParameterError("give noise_multiplier or target_epsilon, and not both")
        if noise_multiplier is not None and not noise_multiplier >= 0:
            raise ParameterError(f"noise_multiplier must not be negative, not {noise_multiplier}")
        if noise_multiplier == 0 and "quantile" in (max_grad_norm, layer_scale):
            raise ParameterError("bounds that follow quantiles need noise_multiplier above 0")
        if target_delta is not None and not 0 < target_delta < 1:
            raise ParameterError(f"target_delta must lie in (0, 1), not {target_delta}")
        if not 0 < noise_decay <= 1:
            raise ParameterError(f"noise_decay must lie in (0, 1], not {noise_decay}")
        check_layers(layer_scale, noise_allocation, max_grad_norm)
        if layer_scale is not None and clipping == "ghost":
            raise ParameterError(
                "clipping='ghost' weighs each loss once, and layer_scale needs a weight for each "
                "layer: use clipping='book_keeping'"
            )
        self.layer_scale, self.noise_allocation = layer_scale, noise_allocation
        self.noise_multiplier, self.target_epsilon = noise_multiplier, target_epsilon
        self.target_delta, self.max_grad_norm = target_delta, max_grad_norm
        self.clipping, self.accountant = clipping, accountant
        self.noise_decay, self.smallest_noise = noise_decay, smallest_noise
        self.noise = NoiseSource(secure_mode, noise_seed)
        self.dropped = 0
        self._made: dict[int, int] = {}
        self._run: tuple[int, int, int | None] | None = None

    def conflict(self, other: Strategy) -> str | None:
        """Refuses what lets one example's gradient depend on another example."""
        for hook in ("weigh", "prepare"):
            if other.overrides(hook) and not other.examples_apart:
                return (
                    f"{other.name}.{hook} may look at several examples at once, and the guarantee "
                    "of each rests on its being treated alone; set examples_apart = True on a "
                    "strategy that does"
                )
        if other.overrides("penalty") and not isinstance(other, ParameterPenalty):
            return f"{other.name} adds a penalty on data, whose gradient would not be clipped"
        return None

    def setup(self, context: Context) -> None:
        """Fixes sample rate and noise before the first step.

        Raises:
            TrainingError: weighted sampling, a batch larger than the data, a module that mixes
                examples, or an object that made steps under other circumstances.
            ParameterError: an epsilon that cannot be reached.
        """
        if getattr(context.examples, "sampling_weights", None) is not None:
            raise TrainingError(
                "private training draws every example with the same chance: drop the examples' "
                "sampling weights, under which no epsilon would be true"
            )
        # One for all processes: drawn twice, an example would count twice.
        self.noise.start(context.fabric.broadcast(self.noise.fresh()), context.seed)
        self.plan(len(context.examples), context.batch_size, context.max_steps)
        self.arrange(context.parameters)
        self.clipper = ExactClipper(context.learner, self.clipping)

    def arrange(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Shares the bound among the layers of trained parameters, after :meth:`plan`."""
        adaptive = self.layer_scale is None and self.max_grad_norm == "quantile"
        self.layers = Layers(
            self.layer_scale, self.noise_allocation, self.bound, parameters, self.terms,
            adaptive=adaptive,
        )  # fmt: skip
        self.layers.gradient_multiplier(self._noise(0))

    def plan(self, examples: int, size: int, steps: int) -> None:
        """Fixes sample rate and noise for a number of steps.

        Args:
            examples: N.
            size: expected batch size L.
            steps: for which a target is to hold.

        Raises:
            TrainingError: a batch larger than the data, or other circumstances than before.
            ParameterError: an epsilon that cannot be reached.
        """
        if size > examples:
            raise TrainingError(
                f"a step of {size} examples of {examples} is no sample: lower batch_size or "
                "accumulate"
            )
        # What the noise of the steps follows from: the statement reads it off the last run's.
        run = (examples, size, steps if self.target_epsilon is not None else None)
        if self._made and run != self._run:
            raise TrainingError(
                "this object has made steps with another number of examples, batch size or length "
                "of run, and its statement cannot speak of both: take a new one for each run"
            )
        self._run = run
        self._fix(examples, size)
        if self.sample_rate > 0.5 or examples < _FEW:
            warnings.warn(
                f"{size} of {examples} examples a step: sampling hides little, so a given epsilon "
                "needs much noise",
                stacklevel=3,
            )
        if self.delta >= 1 / examples:
            warnings.warn(
                f"delta {self.delta:g} is not below one over the number of examples ({examples})",
                stacklevel=3,
            )
        if self.noise_multiplier is not None:
            self.first_noise = self.noise_multiplier
        else:
            assert self.target_epsilon is not None
            plan = [
                NoisySteps(self.rate_accounted, self.noise_decay**epoch, made)
                for epoch, made in self._epochs(steps).items()
            ]
            self.first_noise = self.sensitivity * noise_for(
                self.target_epsilon, self.delta, plan, accountant=self.accountant
            )

    def _fix(self, examples: int, size: int) -> None:
        """What follows from the number of examples and the expected size of a step."""
        self.examples, self.expected_batch_size = examples, size
        self.sample_rate = size / examples
        self.delta = self.target_delta or examples**-1.1
        self.bound = Bound(self.max_grad_norm)
        self._steps_of_epoch = max(1, round(1 / self.sample_rate))

    @property
    def terms(self) -> int:
        """Public number of terms that a step's sum is divided by."""
        return self.expected_batch_size

    @property
    def rate_accounted(self) -> float:
        """The chance of an example to be in a step that the statement may count on."""
        return self.sample_rate if self.poisson else 1.0

    def draw(self, context: Context) -> np.ndarray:
        """Every example with chance q by itself."""
        return self.rows(self._rng(context, DRAW_STREAM))

    def rows(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of a step's examples."""
        return np.flatnonzero(rng.random(self.examples) < self.sample_rate)

    def _rng(self, context: Context, purpose: int) -> np.random.Generator:
        """The same random numbers in every process: drawn twice, an example would count twice."""
        if self.noise.secure:
            return np.random.default_rng(context.fabric.broadcast(self.noise.fresh()))
        return self.noise.stream(purpose, self.made)

    def gradient(self, batches: Iterable[Batch], context: Context) -> Gradient:
        """The clipped sum of the step's examples and noise, over the expected batch size."""
        sums: dict[nn.Parameter, Tensor] = {}
        loss = 0.0

        def evaluate(batch: Batch) -> tuple[Tensor, Tensor]:
            scores, weights, _ = context.evaluate(batch, finite=False)
            return scores, weights

        for batch in batches:
            found = self.clipper(batch, evaluate, self.layers)
            self.dropped += found.dropped
            loss += float(torch.nan_to_num(found.losses, 0, 0, 0).sum())
            for parameter, total in found.gradients.items():
                sums[parameter] = sums[parameter] + total if parameter in sums else total
        for parameter in context.parameters.values():
            sums.setdefault(parameter, torch.zeros_like(parameter))
        noise = self.noise if context.fabric.global_rank == 0 else None
        if noise is not None:
            self.perturb(sums, context.step, context.device)
        for parameter in context.parameters.values():
            parameter.grad = sums[parameter] / self.terms
        counts = self.layers.counts(noise, self._noise(context.step), context.device)
        loss, *counts = context.sum_gradients(loss, *counts)
        add_penalties(context)
        self.layers.follow(counts)
        self.count(context.step)
        return Gradient(loss / self.expected_batch_size, float(self.expected_batch_size))

    def perturb(self, sums: dict[nn.Parameter, Tensor], step: int, device: torch.device) -> None:
        """Adds a step's noise to clipped sums, in place."""
        self.noise.begin(self.made)
        self.noise.add(sums, self.layers.deviations(self._noise(step)), device)

    def release(self, sums: dict[nn.Parameter, Tensor], step: int, device: torch.device) -> None:
        """Makes the clipped sums of a whole step private, in place: noise, over the public size.

        Args:
            sums: of every trained parameter, 0 for those that no example moved.
            step: its number, from 0.
            device: of the sums.
        """
        self.perturb(sums, step, device)
        counts = self.layers.counts(self.noise, self._noise(step), device)
        for total in sums.values():
            total /= self.terms
        self.layers.follow(counts)
        self.count(step)

    def count(self, step: int) -> None:
        """Enters a step into the books."""
        epoch = step // self._steps_of_epoch
        self._made[epoch] = self._made.get(epoch, 0) + 1

    @property
    def made(self) -> int:
        """Steps that were made, by this object."""
        return sum(self._made.values())

    def _epochs(self, steps: int) -> dict[int, int]:
        """Pass over the data -> its steps; one entry where the noise does not change."""
        if self.noise_decay == 1:
            return {0: steps}
        every = self._steps_of_epoch
        return {e: min(every, steps - e * every) for e in range(math.ceil(steps / every))}

    def _noise(self, step: int) -> float:
        decayed = self.first_noise * self.noise_decay ** (step // self._steps_of_epoch)
        return decayed if decayed == self.first_noise else max(self.smallest_noise, decayed)

    @property
    def history(self) -> list[NoisySteps]:
        """The steps that were made, by their noise."""
        kinds: dict[float, int] = {}
        for epoch, steps in sorted(self._made.items()):
            noise = self._noise(epoch * self._steps_of_epoch) / self.sensitivity
            kinds[noise] = kinds.get(noise, 0) + steps
        return [NoisySteps(self.rate_accounted, noise, steps) for noise, steps in kinds.items()]

    def statement(self, delta: float | None = None) -> PrivacyStatement:
        """The guarantee of the steps that were made so far.

        Args:
            delta: ``None`` for that of the training.

        Raises:
            TrainingError: training has not begun.
        """
        if not hasattr(self, "sample_rate"):
            raise TrainingError("there is no statement before training: pass the strategy to fit")
        delta = self.delta if delta is None else delta
        steps = self.history
        assumptions = [
            "the number of examples, the expected batch size and all hyper-parameters are public",
            "only the weights are published: logged losses and validation scores are not covered",
            "examples of a validation part, which may choose among weights, are not covered",
            f"one person's data are one {self.unit}; what occurs k times has k records",
        ]
        if self.noise.seed is not None:
            assumptions.append(
                "the noise and the draws are reproducible: all follows from noise_seed, and the "
                "guarantee holds only while that number is secret, with a generator as good as "
                "random"
            )
        elif not self.noise.secure:
            assumptions.append(
                "the checkpoints, which hold the secret that noise and draws follow from, are kept "
                "like the examples, and the generator is as good as random"
            )
        return PrivacyStatement(
            epsilon=epsilon(steps, delta, accountant=self.accountant),
            delta=delta,
            adjacency=self.adjacency,
            unit=self.unit,
            sampling=f"poisson({self.sample_rate:.6g})" if self.poisson else "none",
            accountant=self.accountant,
            clipping=f"{self._way()}, bound {self.max_grad_norm}",
            sensitivity_factor=self.sensitivity,
            noise_multipliers=tuple(kind.noise_multiplier for kind in steps),
            steps=tuple(kind.steps for kind in steps),
            assumptions=tuple(assumptions),
            dp_event=repr(dp_event(steps)) if steps else "none",
        )

    def _way(self) -> str:
        """How statements call the clipping."""
        way = "book_keeping" if self.clipping == "auto" else self.clipping
        return way if self.layer_scale is None else f"{way} by layer ({self.layer_scale})"

    def state_dict(self) -> dict[str, Any]:
        """Steps made, the bound and the noise with its secret, for an exact resume."""
        return {
            "made": {str(epoch): steps for epoch, steps in self._made.items()},
            "layers": self.layers.state_dict(),
            "first_noise": self.first_noise,
            "noise": self.noise.state_dict(),
            "dropped": self.dropped,
            "examples": self.examples,
            "expected_batch_size": self.expected_batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back; after training in other processes, also what they were set up with."""
        if not hasattr(self, "bound"):
            self._fix(int(state["examples"]), int(state["expected_batch_size"]))
        self._made = {int(epoch): int(steps) for epoch, steps in state["made"].items()}
        if hasattr(self, "layers"):
            self.layers.load_state_dict(state["layers"])
        self.noise.load_state_dict(state["noise"])
        self.first_noise, self.dropped = float(state["first_noise"]), int(state["dropped"])

    def settings(self) -> dict[str, Any]:
        """What a resumed run must find unchanged, or its statement would be false."""
        return {
            "examples": self.examples,
            "expected_batch_size": self.expected_batch_size,
            "max_grad_norm": self.max_grad_norm,
            "noise_multiplier": self.noise_multiplier or 0.0,
            "target_epsilon": self.target_epsilon or 0.0,
            "delta": self.delta,
            "clipping": self.clipping,
            "noise_decay": self.noise_decay,
            "smallest_noise": self.smallest_noise,
            "layer_scale": self.layer_scale or "none",
            "noise_allocation": self.noise_allocation,
            "secure_mode": self.noise.secure,
            "noise_seed": "given" if self.noise.seed is not None else "none",
        }


def add_penalties(context: Context) -> None:
    """Penalties on parameters alone need neither clipping nor noise."""
    parameters = list(context.parameters.values())
    for strategy in context.strategies:
        if isinstance(strategy, ParameterPenalty):
            value = strategy.value(context.learner)
            if value is None:
                continue
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, found, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad += gradient
