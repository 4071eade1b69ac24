"""MQ-DNN: a feed-forward network on hand-made features and the multi-horizon quantile loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foretell.learners.contract import Batch, Learner
from foretell.learners.demand.forecast import DEFAULT_LEVELS
from foretell.learners.demand.neural.heads import MonotoneGridHead
from foretell.learners.demand.neural.losses import pinball

EMBEDDING_DROPOUT = 0.2


@dataclass(frozen=True)
class MQDNNShape:
    """Widths and options of an :class:`MQDNNLearner`, JSON-able.

    Args:
        width: number of numeric inputs.
        levels: (Q,) quantile levels.
        cardinalities: codes of each static category, 0 (unknown) included.
        candidates: number of references that the additive skip blends.
        hidden: widths of the hidden layers.
        dropout: share of hidden units dropped.
        embedding: largest width of a category's embedding.
        unknown: share of the codes that are replaced by 0 in training, so that an unknown
            category is something the network has seen.
        loss_weight: exponent gamma of the scale in the loss: 1 equals the unscaled loss, with 0
            all series count the same.
        typical_scale: scale at which a loss has weight 1.
        loss: ``"quantile"``, or ``"squared"`` of the middle level (only for comparisons).
    """

    width: int
    levels: tuple[float, ...] = DEFAULT_LEVELS
    cardinalities: tuple[int, ...] = ()
    candidates: int = 1
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.1
    embedding: int = 50
    unknown: float = 0.02
    loss_weight: float = 1.0
    typical_scale: float = 1.0
    loss: str = "quantile"

    def to_dict(self) -> dict[str, Any]:
        """The shape as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MQDNNShape:
        """The inverse of :meth:`to_dict`."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


class MQDNNOutput(NamedTuple):
    """Forecasts of rows (series, origin, horizon).

    Attributes:
        quantiles: ``(B, Q)`` in original units, non-decreasing along Q.
    """

    quantiles: Tensor


class MQDNNLearner(Learner):
    """A multi-layer perceptron whose quantiles correct a blend of references.

    Batches hold ``x`` ``(B, width)``, ``codes`` ``(B, C)``, ``candidates`` ``(B, n)`` in units of
    the scale, ``scale`` ``(B,)`` and, to score, ``y`` ``(B,)``. The forecast is
    ``scale * (sum_j p_j candidate_j + head)`` with softmax weights p: the network chooses row by
    row whether last season, the same grown since, the aligned event or the recent level is the
    better reference, and the monotone head corrects it.
    """

    levels: Tensor

    def __init__(self, shape: MQDNNShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = nn.ModuleList(
            nn.Embedding(n, min(shape.embedding, (n + 1) // 2)) for n in shape.cardinalities
        )
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.1)  # type: ignore[arg-type]
        width = shape.width + sum(e.embedding_dim for e in self.embeddings)  # type: ignore[misc]
        self.embedding_dropout = nn.Dropout(EMBEDDING_DROPOUT)
        layers: list[nn.Module] = []
        for hidden in shape.hidden:
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU()]
            layers.append(nn.Dropout(shape.dropout))
            width = hidden
        self.body = nn.Sequential(*layers)
        self.blend = nn.Linear(width, shape.candidates)
        nn.init.zeros_(self.blend.weight)
        with torch.no_grad():
            self.blend.bias.zero_()
            self.blend.bias[0] = 1.0
        self.head = MonotoneGridHead(width, shape.levels)
        self.register_buffer("levels", torch.tensor(shape.levels), persistent=False)

    def encode(self, batch: Batch) -> Tensor:
        """``(B, D)`` last hidden layer."""
        parts = [batch["x"]]
        if len(self.embeddings):
            codes = batch["codes"].long()
            if self.training and self.shape.unknown > 0:
                codes = codes * (torch.rand(codes.shape, device=codes.device) >= self.shape.unknown)
            embedded = [e(codes[:, j]) for j, e in enumerate(self.embeddings)]
            parts.append(self.embedding_dropout(torch.cat(embedded, -1)))
        return self.body(torch.cat(parts, -1))

    def decode(self, encoding: Tensor, batch: Batch) -> MQDNNOutput:
        """Quantiles ``(B, Q)`` in original units."""
        shares = self.blend(encoding).softmax(-1)
        base = (shares * batch["candidates"]).sum(-1)
        scale = batch["scale"]
        return MQDNNOutput(self.head(encoding, base * scale, scale))

    def score(self, output: MQDNNOutput, batch: Batch) -> Tensor:
        """Loss ``(B,)``: mean over levels of the quantile loss, times ``scale^(gamma - 1)``."""
        shape = self.shape
        scale, typical = batch["scale"], shape.typical_scale
        if shape.loss == "squared":
            error = (batch["y"] - output.quantiles[:, self.head.anchor]) / scale
            return error.square() * (scale / typical) ** shape.loss_weight
        factor = (scale / typical) ** shape.loss_weight / scale
        return pinball(batch["y"], output.quantiles, self.levels).mean(-1) * factor
