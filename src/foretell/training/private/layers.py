"""Sharing the clipping bound among layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.training.private.bounds import Bound
from foretell.training.private.noise import NoiseSource

LayerScale = Literal["uniform", "numel", "weight_norm", "quantile"]
NoiseAllocation = Literal["equal", "flat"]
_STABLE = 0.01
_SPENT = 1.6


def check_layers(scale: str | None, allocation: str, max_grad_norm: object) -> None:
    """Refuses what does not fit together.

    Raises:
        ParameterError: an unknown name, or two things that follow quantiles.
    """
    if scale is not None and scale not in get_args(LayerScale):
        raise ParameterError(
            f"layer_scale must be None or one of {', '.join(get_args(LayerScale))}, not {scale!r}"
        )
    if allocation not in get_args(NoiseAllocation):
        raise ParameterError(f"noise_allocation must be 'equal' or 'flat', not {allocation!r}")
    if scale is not None and max_grad_norm == "quantile":
        raise ParameterError(
            "max_grad_norm='quantile' follows one bound for all layers: set layer_scale=None, or "
            "layer_scale='quantile' with a number for max_grad_norm"
        )
    if scale == "quantile" and max_grad_norm == "automatic":
        raise ParameterError("layer_scale='quantile' needs a number for max_grad_norm")


class Layers:
    """Bounds ``C_l`` of the layers, whose squares sum to C squared (Dupuy et al. 2022).

    A layer is a module with parameters of its own. A weight that layers share belongs to the first.

    Args:
        scale: ``"uniform"``, by ``"numel"`` or by ``"weight_norm"`` (the norms of the present
            weights, which are private already); ``"quantile"`` starts uniform, and each layer's
            bound follows the median of its norms, whose noisy counts cost a tenth of the budget at
            most. ``None``: all layers together.
        allocation: noise of each layer in proportion to its bound (``"equal"`` shares of the
            budget), or the same on every number (``"flat"``).
        bound: the bound of all.
        named: trained parameters.
        size: public number of terms of the sum that is expected.
        adaptive: whether the bound of all layers together follows the median, with ``scale=None``.
    """

    rate, target = 0.2, 0.5

    def __init__(
        self,
        scale: LayerScale | None,
        allocation: NoiseAllocation,
        bound: Bound,
        named: Mapping[str, nn.Parameter],
        size: int,
        *,
        adaptive: bool = False,
    ) -> None:
        self.scale, self.allocation, self.bound, self.size = scale, allocation, bound, size
        self.follows = adaptive or scale == "quantile"
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in named.items():
            groups["" if scale is None else name.rpartition(".")[0]].append(parameter)
        self.groups = dict(groups)
        self.own = dict.fromkeys(self.groups, bound.value / math.sqrt(max(1, len(self.groups))))
        self._below = dict.fromkeys(self.groups, 0.0)

    def bounds(self) -> dict[str, float]:
        """Layer -> its bound of this step."""
        if self.follows:
            return dict(self.own)
        if self.scale is None:
            return dict.fromkeys(self.groups, self.bound.value)
        shares = {}
        for name, parameters in self.groups.items():
            numel = sum(p.numel() for p in parameters)
            if self.scale == "uniform":
                shares[name] = 1.0
            elif self.scale == "numel":
                shares[name] = math.sqrt(numel)
            else:
                norm = math.sqrt(sum(float(p.detach().square().sum()) for p in parameters))
                shares[name] = max(norm, 1e-3 * math.sqrt(numel))
        whole = math.sqrt(sum(share**2 for share in shares.values()))
        return {name: self.bound.value * share / whole for name, share in shares.items()}

    def factors(self, name: str, bound: float, norms: Tensor) -> Tensor:
        """Clipping factors ``(B,)`` of a layer's norms ``(B,)``."""
        if self.follows:
            self._below[name] += float((norms <= bound).sum()) - len(norms) / 2
        if self.bound.kind == "automatic":
            return bound / (norms + _STABLE)
        return (bound / norms.clamp(min=1e-12)).clamp(max=1)

    def deviations(self, multiplier: float) -> dict[nn.Parameter, float]:
        """Standard deviation of the noise that makes one Gaussian of ``multiplier``."""
        bounds, multiplier = self.bounds(), self.gradient_multiplier(multiplier)
        whole = math.sqrt(sum(bound**2 for bound in bounds.values()))
        equal = multiplier * math.sqrt(len(bounds))
        return {
            parameter: equal * bounds[name] if self.allocation == "equal" else multiplier * whole
            for name, parameters in self.groups.items()
            for parameter in parameters
        }

    def gradient_multiplier(self, multiplier: float) -> float:
        """Noise on the gradients, so that with the counts' a step costs ``multiplier``."""
        if not self.follows:
            return multiplier
        # One record more moves each centred count by a half, so all by sqrt(layers) / 2.
        spent = len(self.groups) / (2 * self._count_noise(multiplier)) ** 2
        return (multiplier**-2 - spent) ** -0.5

    def _count_noise(self, multiplier: float) -> float:
        return max(self.size / 20, _SPENT * math.sqrt(len(self.groups)) * multiplier)

    def counts(
        self, noise: NoiseSource | None, multiplier: float, device: torch.device
    ) -> list[float]:
        """Centred counts of norms below the bounds since the last call; empty if none follows.

        Args:
            noise: None for no noise: of several processes that share a step one adds it.
            multiplier: of the step.
            device: where noise is drawn.
        """
        if not self.follows:
            return []
        found = list(self._below.values())
        self.forget()
        if noise is None:
            return found
        deviation = self._count_noise(multiplier)
        return [count + noise.normal(deviation, device) for count in found]

    def forget(self) -> None:
        """Forgets the counts of a step that was not made: its examples may come again."""
        self._below = dict.fromkeys(self.groups, 0.0)

    def follow(self, counts: list[float]) -> None:
        """Moves the bounds after a step, by the noisy counts of all its records."""
        for name, count in zip(self.groups, counts, strict=False):
            share = 0.5 + count / self.size
            self.own[name] *= math.exp(-self.rate * (share - self.target))

    def state_dict(self) -> dict[str, Any]:
        """The present bounds."""
        return dict(self.own)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self.own = {name: float(value) for name, value in state.items()}
