"""eDP-SGD: clipping micro-batches, with a statement that says what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch
from foretell.training.context import Context
from foretell.training.private.clipping.rules import wide
from foretell.training.private.layers import LayerScale
from foretell.training.private.noise import SLOT_STREAM
from foretell.training.private.strategy import PrivateTraining, add_penalties
from foretell.training.strategy import Gradient


class MicroBatchTraining(PrivateTraining):
    """Private training by ordinary backward passes over micro-batches (Dupuy et al. 2022).

    Each drawn example falls into one of ``M = L / k`` slots by chance; a slot's mean gradient is
    clipped layer by layer, the sum over slots gets noise and is divided by M. That needs no
    gradient of a single example, but **one example can turn a slot's clipped gradient into its
    opposite**: the sensitivity is 2 C, not C, and the statement counts it so. At equal noise,
    exact clipping (:class:`~foretell.training.private.PrivateTraining`) guarantees far more, and
    on a CPU it is also faster: use this to compare, or where the batch is a device's worth.

    Args:
        noise_multiplier: noise over C, as for exact clipping; accounted at half of it.
        microbatch_size: examples k that a slot expects.
        layer_scale: how C is shared among layers, see
            :class:`~foretell.training.private.layers.Layers`; ``None`` clips all layers together.
        fixed_groups: micro-batches are groups of neighbouring examples, fixed in advance and drawn
            as one. The sensitivity is C then, and the guarantee is that of a whole group's being
            added or removed.
        adjacency: ``None`` for what follows; ``"add_remove_microbatch"`` needs ``fixed_groups``.
        sensitivity_factor: ``None`` for what follows; another is refused.
        options: those of :class:`~foretell.training.private.PrivateTraining` but ``clipping``.

    Raises:
        ParameterError: values out of range, or a claim that would be false.
    """

    def __init__(
        self,
        noise_multiplier: float | None = None,
        *,
        microbatch_size: int = 16,
        layer_scale: LayerScale | None = "weight_norm",
        fixed_groups: bool = False,
        adjacency: str | None = None,
        sensitivity_factor: float | None = None,
        **options: Any,
    ) -> None:
        if "clipping" in options:
            raise ParameterError("MicroBatchTraining clips slots: it has no option clipping")
        super().__init__(noise_multiplier, layer_scale=layer_scale, **options)
        if microbatch_size < 1:
            raise ParameterError(f"microbatch_size must be at least 1, not {microbatch_size}")
        self.microbatch_size = microbatch_size
        self.fixed_groups = fixed_groups
        if fixed_groups:
            self.adjacency, self.unit = "add_remove_microbatch", "microbatch"
        elif microbatch_size > 1:
            self.sensitivity = 2.0
        if adjacency not in (None, self.adjacency):
            raise ParameterError(
                f"adjacency={adjacency!r} is not what fixed_groups={fixed_groups} guarantees, "
                f"which is {self.adjacency!r}"
            )
        if sensitivity_factor not in (None, self.sensitivity):
            raise ParameterError(
                f"sensitivity_factor={sensitivity_factor:g} would be a false claim: one example "
                f"moves the clipped sum of micro-batches of {microbatch_size} by "
                f"{self.sensitivity:g} C. A factor of 1 is that of whole micro-batches "
                "(fixed_groups=True, adjacency='add_remove_microbatch') or of exact clipping"
            )

    def setup(self, context: Context) -> None:
        """Fixes the slots; see the base class.

        Raises:
            TrainingError: several devices, among which one example more would share out all that
                follow it anew.
        """
        if context.processes > 1:
            raise TrainingError(
                "MicroBatchTraining runs on one device: with several, one example more moves the "
                "others to other slots. Set devices=1, or use PrivateTraining"
            )
        super().setup(context)

    @property
    def terms(self) -> int:
        """Number of slots M."""
        return max(1, round(self.expected_batch_size / self.microbatch_size))

    def rows(self, rng: np.random.Generator) -> np.ndarray:
        """Examples by themselves, or whole groups."""
        if not self.fixed_groups:
            return super().rows(rng)
        k = self.microbatch_size
        groups = np.flatnonzero(rng.random(-(-self.examples // k)) < self.sample_rate)
        rows = (groups[:, None] * k + np.arange(k)).ravel()
        return rows[rows < self.examples]

    def gradient(self, batches: Iterable[Batch], context: Context) -> Gradient:
        """The clipped mean gradients of the slots and noise, over the number of slots.

        Raises:
            TrainingError: ``accumulate`` above 1: slots are the micro-batches.
        """
        parts = list(batches)
        if len(parts) > 1:
            raise TrainingError("MicroBatchTraining: slots are the micro-batches: set accumulate=1")
        parameters = list(context.parameters.values())
        sums = {p: torch.zeros_like(p) for p in parameters}
        bounds = self.layers.bounds()
        loss = 0.0
        for batch in parts:
            size = len(next(iter(batch.values())))
            for rows in self.slots(size, self._rng(context, SLOT_STREAM)):
                part = {key: value[rows] for key, value in batch.items()}
                scores, weights, _ = context.evaluate(part, finite=False)
                mean = (scores * weights).mean()
                found = torch.autograd.grad(mean, parameters, allow_unused=True)
                if self.add_clipped(dict(zip(parameters, found, strict=True)), bounds, sums):
                    loss += float(mean.detach()) * len(rows)
        self.release(sums, context.step, context.device)
        for parameter in parameters:
            parameter.grad = sums[parameter]
        add_penalties(context)
        return Gradient(loss / self.expected_batch_size, float(self.expected_batch_size))

    def slots(self, size: int, rng: np.random.Generator) -> list[Tensor]:
        """Rows of each slot that holds any of ``size`` drawn examples."""
        if self.fixed_groups or self.microbatch_size == 1:
            # Slots by chance could hold two examples, of which either can turn the other's around.
            slot = np.arange(size) // self.microbatch_size
        else:
            slot = rng.integers(self.terms, size=size)
        return [torch.from_numpy(np.flatnonzero(slot == s)) for s in np.unique(slot)]

    def add_clipped(
        self,
        gradients: Mapping[nn.Parameter, Tensor | None],
        bounds: Mapping[str, float],
        sums: dict[nn.Parameter, Tensor],
    ) -> bool:
        """Adds a slot's gradient, clipped by layer; False for one that is not finite."""
        found = {p: g for p, g in gradients.items() if g is not None}
        if not all(bool(torch.isfinite(g).all()) for g in found.values()):
            self.dropped += 1
            return False
        for name, bound in bounds.items():
            members = [p for p in self.layers.groups[name] if p in found]
            if not members:
                continue
            norm = torch.stack([wide(found[p]).norm() for p in members]).norm()
            factor = self.layers.factors(name, bound, norm[None])[0]
            for parameter in members:
                sums[parameter] += found[parameter] * factor
        return True

    def _way(self) -> str:
        shared = "together" if self.layer_scale is None else f"by layer ({self.layer_scale})"
        return f"micro-batches of {self.microbatch_size}, {shared}"

    def settings(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {
            **super().settings(),
            "microbatch_size": self.microbatch_size,
            "fixed_groups": self.fixed_groups,
        }
