"""eDP-SGD: clipping micro-batches, with a statement that says what that costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch
from foretell.training.context import Context
from foretell.training.private.strategy import PrivateTraining, add_penalties
from foretell.training.strategy import Gradient

LayerScale = Literal["uniform", "numel", "weight_norm"]


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
        layer_scale: how C is shared among layers: ``"uniform"``, by ``"numel"``, or by
            ``"weight_norm"`` (the norms of the present weights, which are private already);
            ``None`` clips all layers together.
        fixed_groups: micro-batches are groups of neighbouring examples, fixed in advance and drawn
            as one. The sensitivity is C then, and the guarantee is that of a whole group's being
            added or removed.
        options: those of :class:`~foretell.training.private.PrivateTraining` but ``clipping``.

    Raises:
        ParameterError: values out of range.
    """

    def __init__(
        self,
        noise_multiplier: float | None = None,
        *,
        microbatch_size: int = 16,
        layer_scale: LayerScale | None = "weight_norm",
        fixed_groups: bool = False,
        **options: Any,
    ) -> None:
        if "clipping" in options:
            raise ParameterError("MicroBatchTraining clips slots: it has no option clipping")
        if options.get("max_grad_norm") == "quantile":
            raise ParameterError(
                "max_grad_norm='quantile' counts examples, which slots do not have"
            )
        super().__init__(noise_multiplier, **options)
        if microbatch_size < 1:
            raise ParameterError(f"microbatch_size must be at least 1, not {microbatch_size}")
        if layer_scale is not None and layer_scale not in get_args(LayerScale):
            raise ParameterError(
                f"layer_scale must be None or one of {', '.join(get_args(LayerScale))}, not "
                f"{layer_scale!r}"
            )
        self.microbatch_size, self.layer_scale = microbatch_size, layer_scale
        self.fixed_groups = fixed_groups
        if fixed_groups:
            self.adjacency, self.unit = "add_remove_microbatch", "microbatch"
        elif microbatch_size > 1:
            self.sensitivity = 2.0

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
        self.slots = max(1, round(self.expected_batch_size / self.microbatch_size))
        self.layers: dict[str, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in context.parameters.items():
            self.layers[name.rpartition(".")[0]].append(parameter)

    def draw(self, context: Context) -> np.ndarray:
        """Examples by themselves, or whole groups."""
        if not self.fixed_groups:
            return super().draw(context)
        k = self.microbatch_size
        groups = np.flatnonzero(
            self._rng(context).random(-(-self.examples // k)) < self.sample_rate
        )
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
        bounds = self._bounds()
        loss = 0.0
        for batch in parts:
            for rows in self._slots(batch, context):
                part = {key: value[rows] for key, value in batch.items()}
                scores, weights, _ = context.evaluate(part, finite=False)
                mean = (scores * weights).mean()
                found = torch.autograd.grad(mean, parameters, allow_unused=True)
                gradients = {p: g for p, g in zip(parameters, found, strict=True) if g is not None}
                if all(bool(torch.isfinite(g).all()) for g in gradients.values()):
                    self._add_clipped(gradients, bounds, sums)
                    loss += float(mean.detach()) * len(rows)
                else:
                    self.dropped += 1
        if context.fabric.global_rank == 0:
            noise = self._noise(context.step) * math.sqrt(len(bounds))
            deviations = {p: noise * bounds[name] for name in bounds for p in self._members(name)}
            self.noise.add(sums, deviations, context.device)
        for parameter in parameters:
            parameter.grad = sums[parameter] / self.slots
        (loss,) = context.sum_gradients(loss)
        add_penalties(context)
        self._count(context)
        return Gradient(loss / self.expected_batch_size, float(self.expected_batch_size))

    def _slots(self, batch: Batch, context: Context) -> list[Tensor]:
        size = len(next(iter(batch.values())))
        if self.fixed_groups or self.microbatch_size == 1:
            # Slots by chance could hold two examples, of which either can turn the other's around.
            slot = np.arange(size) // self.microbatch_size
        else:
            slot = self._rng(context).integers(self.slots, size=size)
        return [torch.from_numpy(np.flatnonzero(slot == s)) for s in np.unique(slot)]

    def _bounds(self) -> dict[str, float]:
        """Layer -> its bound; their squares sum to C squared."""
        if self.layer_scale is None:
            return {"": self.bound.value}
        shares = {}
        for name, parameters in self.layers.items():
            numel = sum(p.numel() for p in parameters)
            if self.layer_scale == "uniform":
                shares[name] = 1.0
            elif self.layer_scale == "numel":
                shares[name] = math.sqrt(numel)
            else:
                norm = math.sqrt(sum(float(p.detach().square().sum()) for p in parameters))
                shares[name] = max(norm, 1e-3 * math.sqrt(numel))
        whole = math.sqrt(sum(share**2 for share in shares.values()))
        return {name: self.bound.value * share / whole for name, share in shares.items()}

    def _members(self, name: str) -> list[nn.Parameter]:
        if self.layer_scale is None:
            return [p for parameters in self.layers.values() for p in parameters]
        return self.layers[name]

    def _add_clipped(
        self,
        gradients: dict[nn.Parameter, Tensor],
        bounds: dict[str, float],
        sums: dict[nn.Parameter, Tensor],
    ) -> None:
        for name, bound in bounds.items():
            members = [p for p in self._members(name) if p in gradients]
            if not members:
                continue
            norm = torch.stack([gradients[p].float().norm() for p in members]).norm()
            if self.bound.kind == "automatic":
                factor = bound / (norm + 0.01)
            else:
                factor = (bound / norm.clamp(min=1e-12)).clamp(max=1)
            for parameter in members:
                sums[parameter] += gradients[parameter] * factor

    def _way(self) -> str:
        shared = "together" if self.layer_scale is None else f"by layer ({self.layer_scale})"
        return f"micro-batches of {self.microbatch_size}, {shared}"

    def settings(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {
            **super().settings(),
            "microbatch_size": self.microbatch_size,
            "layer_scale": self.layer_scale or "none",
            "fixed_groups": self.fixed_groups,
        }
