"""The clipping bound: fixed, automatic, or following a noisy quantile of the norms."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from foretell.errors import ParameterError
from foretell.training.private.noise import NoiseSource

MaxGradNorm = float | Literal["automatic", "quantile"]
_STABLE = 0.01


class Bound:
    """How far one example may move the sum of gradients.

    Args:
        max_grad_norm: the bound C; ``"automatic"`` divides each gradient by its norm plus 0.01
            (Bu et al. 2023, AUTO-S), which makes C 1; ``"quantile"`` starts at 1 and follows
            the median of the norms, whose noisy count costs a little of the budget (Andrew et al.
            2021).
        expected_batch_size: public L, in which the noise of the count is given.

    Raises:
        ParameterError: a bound that is not positive.
    """

    rate, target = 0.2, 0.5

    def __init__(self, max_grad_norm: MaxGradNorm, expected_batch_size: int) -> None:
        if isinstance(max_grad_norm, str):
            if max_grad_norm not in ("automatic", "quantile"):
                raise ParameterError(
                    "max_grad_norm must be a positive number, 'automatic' or 'quantile', not "
                    f"{max_grad_norm!r}"
                )
            self.value = 1.0
        elif math.isfinite(max_grad_norm) and max_grad_norm > 0:
            self.value = float(max_grad_norm)
        else:
            raise ParameterError(f"max_grad_norm must be positive, not {max_grad_norm}")
        self.kind = max_grad_norm if isinstance(max_grad_norm, str) else "fixed"
        self.size = expected_batch_size
        self.count_noise = expected_batch_size / 20
        self._below = 0.0

    def factors(self, norms: Tensor) -> Tensor:
        """Clipping factors ``(B,)``."""
        if self.kind == "automatic":
            return 1 / (norms + _STABLE)
        if self.kind == "quantile":
            # Centred, so that one example moves the count by a half.
            self._below += float((norms <= self.value).sum()) - len(norms) / 2
        return (self.value / norms.clamp(min=1e-12)).clamp(max=1)

    def gradient_multiplier(self, multiplier: float) -> float:
        """Noise on the gradients, so that with the count's a step costs ``multiplier``.

        Raises:
            ParameterError: the count alone would cost more.
        """
        if self.kind != "quantile":
            return multiplier
        rest = multiplier**-2 - (2 * self.count_noise) ** -2
        if rest <= 0:
            raise ParameterError(
                f"max_grad_norm='quantile' counts with noise {self.count_noise:g}, too little for "
                f"a noise multiplier of {multiplier:g}: expect larger batches"
            )
        return rest**-0.5

    def count(self, noise: NoiseSource | None, device: torch.device) -> float:
        """The centred count of norms below the bound since the last call; 0 unless ``quantile``.

        Args:
            noise: None for no noise: of several processes that share a step one adds it.
            device: where it is drawn.
        """
        below, self._below = self._below, 0.0
        if self.kind == "quantile" and noise is not None:
            below += noise.normal(self.count_noise, device)
        return below

    def follow(self, below: float) -> None:
        """Moves the bound after a step, by the noisy count of all its examples."""
        if self.kind == "quantile":
            share = 0.5 + below / self.size
            self.value *= math.exp(-self.rate * (share - self.target))

    def state_dict(self) -> dict[str, Any]:
        """The present bound."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.value = float(state["value"])
