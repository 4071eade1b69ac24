"""Importance weighting: examples count as much as they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch
from foretell.training.context import Context
from foretell.training.strategy import Strategy


class ImportanceWeighting(Strategy):
    """Weighs each example by a density ratio, an inverse propensity, or any other importance.

    The loss is the self-normalised estimate ``sum_i w_i s_i / sum_i w_i`` (Shimodaira 2000): its
    bias vanishes with the batch, its variance is that of the weights.

    Args:
        weights: a key of the batch that holds the weights ``(B,)``, or a function
            ``(scores, batch) -> weights`` of the detached scores ``(B,)``.
        power: exponent on the weights; 0 ignores them, values between 0 and 1 trade bias for
            variance (Shimodaira 2000, section 3).
        clip: largest weight, applied after the power; None for none.

    Raises:
        TrainingError: a missing key, or negative weights.
    """

    examples_apart = True

    def __init__(
        self,
        weights: str | Callable[[Tensor, Batch], Tensor],
        *,
        power: float = 1.0,
        clip: float | None = None,
    ) -> None:
        if not 0 <= power:
            raise ParameterError(f"power must not be negative, not {power}")
        if clip is not None and not clip > 0:
            raise ParameterError(f"clip must be positive, not {clip}")
        self.weights, self.power, self.clip = weights, power, clip

    def weigh(self, scores: Tensor, batch: Batch, context: Context) -> Tensor:
        """Weights ``(B,)``."""
        if callable(self.weights):
            weights = self.weights(scores, batch)
        elif self.weights in batch:
            weights = batch[self.weights]
        else:
            raise TrainingError(
                f"ImportanceWeighting: the batch has no key {self.weights!r}, only {sorted(batch)}"
            )
        if bool((weights < 0).any()):
            raise TrainingError(f"step {context.step}: an importance weight is negative")
        if self.power != 1.0:
            weights = weights.to(scores.dtype) ** self.power
        return weights if self.clip is None else weights.clamp(max=self.clip)

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        weights = self.weights if isinstance(self.weights, str) else "function"
        return {"weights": weights, "power": self.power, "clip": self.clip}
