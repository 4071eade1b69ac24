"""The feed-forward risk net: the risk of an hour from the features of that hour."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.risk.weighting import AgingColumns, WeightedInputs


@dataclass(frozen=True)
class FeedForwardShape:
    """Widths of a :class:`FeedForwardRiskLearner`, JSON-able.

    Args:
        inputs: width E of an encoded hour.
        hidden: units of the layers; the first is the representation.
        dropout: share of units dropped after each layer.
        aging: inputs that are weighed by their age or left out; None for none.
    """

    inputs: int
    hidden: tuple[int, ...] = (512, 64)
    dropout: float = 0.3
    aging: AgingColumns | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if isinstance(self.aging, dict):
            object.__setattr__(self, "aging", AgingColumns(**self.aging))
        sizes = (self.inputs, *self.hidden)
        if not self.hidden or any(isinstance(n, bool) or n < 1 for n in sizes):
            raise ParameterError(
                f"a risk net needs inputs and one hidden layer or more, not {sizes}"
            )
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class RiskOutput(NamedTuple):
    """Log-odds of the onset within the horizon, ``(B,)``, or ``(B, T)`` for stays."""

    logit: Tensor


class RiskLearner(Learner):
    """A net whose output is log-odds of the onset within the horizon.

    An example is an hour, ``x`` ``(B, E)`` with ``label`` ``(B,)``, or a stay, ``x`` ``(B, T, E)``
    with ``label`` and ``mask`` ``(B, T)``: then its score is the mean over its own hours, so that
    the gradient of one example is that of one stay, however long.
    """

    def score(self, output: RiskOutput, batch: Batch) -> Tensor:
        """Binary cross-entropy of each example ``(B,)`` in nats."""
        label = batch["label"].to(output.logit.dtype)
        losses = F.binary_cross_entropy_with_logits(output.logit, label, reduction="none")
        if losses.ndim == 1:
            return losses
        mask = batch["mask"].to(losses.dtype)
        # What stands in the padding must not reach the score, not even as 0 times infinity.
        losses = losses.masked_fill(mask == 0, 0.0)
        return losses.sum(1) / mask.sum(1).clamp(min=1)


class FeedForwardRiskLearner(RiskLearner):
    """``f(x) = w3' relu(W2 relu(W1 x + b1) + b2) + b3`` on encoded hours.

    ``encode`` is the first layer, ``h1 = relu(W1 x + b1)``; ``decode`` the layers above it
    (:attr:`upper`). Dropout acts in ``decode``, so that what is stored of ``encode`` has no noise.

    Args:
        shape: widths.
    """

    def __init__(self, shape: FeedForwardShape) -> None:
        super().__init__()
        self.shape = shape
        self.weighting = None
        width = shape.inputs
        if shape.aging is not None:
            self.weighting = WeightedInputs(shape.aging, shape.inputs)
            width = self.weighting.n_outputs
        self.first = nn.Linear(width, shape.hidden[0])
        layers: list[nn.Module] = [nn.Dropout(shape.dropout)]
        for before, after in zip(shape.hidden[:-1], shape.hidden[1:], strict=True):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(shape.dropout)]
        self.upper = nn.Sequential(*layers, nn.Linear(shape.hidden[-1], 1))

    def encode(self, batch: Batch) -> Tensor:
        """The first layer ``(B, ..., D)``."""
        x = batch["x"] if self.weighting is None else self.weighting(batch["x"])
        return F.relu(self.first(x))

    def decode(self, encoding: Tensor, batch: Batch) -> RiskOutput:
        """Log-odds from the first layer."""
        return RiskOutput(self.upper(encoding).squeeze(-1))

    def last_hidden(self, batch: Batch) -> Tensor:
        """The layer ``(B, ..., D)`` that the log-odds are read from."""
        found: Tensor = self.upper[:-1](self.encode(batch))
        return found
