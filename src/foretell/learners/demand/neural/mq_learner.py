"""MQ-RNN and MQ-CNN: a causal encoder, two decoders, quantiles at every horizon from every fork."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.learners.contract import Batch, Learner
from foretell.learners.demand.forecast import DEFAULT_LEVELS
from foretell.learners.demand.neural.decoders import GlobalDecoder, LocalDecoder
from foretell.learners.demand.neural.encoders import make_encoder
from foretell.learners.demand.neural.heads import MonotoneGridHead
from foretell.learners.demand.neural.linear import together
from foretell.learners.demand.neural.losses import censored_pinball, pinball
from foretell.learners.demand.neural.sequences import SequenceReader


@dataclass(frozen=True)
class MQShape:
    """Widths and options of an :class:`MQLearner`, JSON-able.

    Args:
        horizon: number of periods K.
        levels: (Q,) quantile levels.
        sequence: channels of the encoder's input.
        future: features of one target period.
        reference: seasonal features of one target period.
        candidates: candidates of the additive skip.
        cardinalities: codes of each static category, 0 (unknown) included.
        static_real: static numbers.
        spans: sums of periods that are forecast too, as ``(lead, cover)``.
        encoder: ``cnn``, ``cnn-gluonts``, ``lstm`` or ``gru``.
        hidden: width of the encoder.
        layers: layers of a recurrent encoder.
        global_hidden: hidden width of the global decoder.
        specific: width of the context of one horizon.
        agnostic: width of the shared context.
        local_hidden: widths of the local decoder; empty leaves the local decoder out (only for
            comparisons: a linear layer reads the contexts).
        embedding: largest width of a category's embedding.
        dropout: share of units dropped.
        loss_weight: exponent gamma of the scale in the loss.
        typical_scale: scale at which a loss has weight 1.
        guard: whether a second branch reads the target without its event periods.
    """

    horizon: int
    levels: tuple[float, ...] = DEFAULT_LEVELS
    sequence: int = 2
    future: int = 0
    reference: int = 0
    candidates: int = 1
    cardinalities: tuple[int, ...] = ()
    static_real: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    encoder: str = "cnn"
    hidden: int = 32
    layers: int = 1
    global_hidden: int = 64
    specific: int = 8
    agnostic: int = 16
    local_hidden: tuple[int, ...] = (32, 32)
    embedding: int = 8
    dropout: float = 0.0
    loss_weight: float = 1.0
    typical_scale: float = 1.0
    guard: bool = False

    @classmethod
    def of(cls, reader: SequenceReader, **options: Any) -> MQShape:
        """The widths that a reader's batches need."""
        spec = reader.spec
        return cls(
            horizon=spec.horizon,
            sequence=reader.sequence_channels,
            future=reader.future_channels,
            reference=reader.reference_channels,
            candidates=reader.candidates,
            cardinalities=tuple(len(v) + 1 for v in spec.static_categorical.values()),
            static_real=len(spec.static_real),
            spans=tuple((s.lead, s.cover) for s in spec.spans),
            typical_scale=spec.default_scale,
            guard=spec.guard,
            **options,
        )

    def to_dict(self) -> dict[str, Any]:
        """The shape as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MQShape:
        """The inverse of :meth:`to_dict`."""
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        tuples["spans"] = tuple((int(a), int(b)) for a, b in values["spans"])
        return cls(**{**values, **tuples})


class MQOutput(NamedTuple):
    """Forecasts of every fork, in original units.

    Attributes:
        quantiles: ``(B, F, K, Q)``, non-decreasing along Q.
        spans: ``(B, F, S, Q)`` of the sums over spans.
    """

    quantiles: Tensor
    spans: Tensor


class MQLearner(Learner):
    """The network of MQ-RNN and MQ-CNN (Wen, Torkkola, Narayanaswamy and Madeka 2017).

    Reads the batches of :class:`~foretell.learners.demand.neural.forking.ForkingExamples`. The
    quantiles are corrections of a blend of references (the local level, last season's values,
    the same adjusted by the growth since), chosen period by period by the local decoder.

    Args:
        shape: widths and options.
    """

    levels: Tensor

    def __init__(self, shape: MQShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = nn.ModuleList(
            nn.Embedding(n, min(shape.embedding, (n + 1) // 2)) for n in shape.cardinalities
        )
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.1)  # type: ignore[arg-type]
        static = sum(e.embedding_dim for e in self.embeddings) + shape.static_real  # type: ignore[misc]
        self.encoder = make_encoder(
            shape.encoder, shape.sequence + static, shape.hidden, shape.layers, shape.dropout
        )
        width = self.encoder.width
        self.guard = None
        if shape.guard:
            self.guard = make_encoder(shape.encoder, 2, max(8, shape.hidden // 2), shape.layers)
            width += self.guard.width
        self.width = width
        self.global_decoder = GlobalDecoder(
            width, static, shape.future + shape.reference, shape.horizon, shape.global_hidden,
            shape.specific, shape.agnostic, dropout=shape.dropout,
        )  # fmt: skip
        constant = [shape.agnostic, static]
        if shape.local_hidden:
            self.local_decoder: LocalDecoder | None = LocalDecoder(
                [shape.specific, shape.future, shape.reference],
                constant,
                shape.local_hidden,
                shape.dropout,
            )
            features = self.local_decoder.width
        else:
            self.local_decoder = None
            features = shape.specific + shape.agnostic
        self.head = MonotoneGridHead(features, shape.levels)
        self.blend = nn.Linear(features, shape.candidates)
        with torch.no_grad():
            self.blend.weight.mul_(0.1)
            self.blend.bias.zero_()
            self.blend.bias[1:] = 1.0
        if shape.spans:
            self.span_body = nn.Linear(features + shape.agnostic, features)
            self.span_head = MonotoneGridHead(features, shape.levels)
        self.register_buffer("levels", torch.tensor(shape.levels, dtype=torch.float32))

    @property
    def receptive_field(self) -> int | None:
        """Steps that reach an output of the encoder; None for a recurrent one."""
        return self.encoder.receptive_field

    def encode(self, batch: Batch) -> Tensor:
        """The encoder's state at each fork ``(B, F, D)``; zeros before the first step."""
        inputs = batch["sequence"]
        static = self._static(batch)
        spread = static.unsqueeze(1).expand(-1, inputs.shape[1], -1)
        hidden = self.encoder(torch.cat([inputs, spread], -1))
        if self.guard is not None:
            hidden = torch.cat([hidden, self.guard(batch["guard"])], -1)
        forks = batch["forks"]
        index = forks.clamp(min=0).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, index) * (forks >= 0).unsqueeze(-1)

    def decode(self, encoding: Tensor, batch: Batch) -> MQOutput:
        """Quantiles of every fork and horizon in original units."""
        shape = self.shape
        static = self._static(batch).unsqueeze(1).expand(-1, encoding.shape[1], -1)
        given = torch.cat([batch["future"], batch["reference"]], -1)
        own, shared = self.global_decoder(encoding, static, given)
        if self.local_decoder is not None:
            features = self.local_decoder(
                [own, batch["future"], batch["reference"]], [shared, static]
            )
        else:
            features = torch.cat([own, shared.unsqueeze(-2).expand(*own.shape[:-1], -1)], -1)
        raw = together(features, (self.head.linear, self.blend))
        raw, scores = raw.split([len(self.levels), shape.candidates], -1)
        choice = scores.masked_fill(~batch["available"], -torch.inf).softmax(-1)
        candidates = batch["candidates"]
        base = (choice * candidates).sum(-1)
        unit = 0.2 + 0.8 * (choice * candidates.abs()).sum(-1)
        scale = batch["scale"].unsqueeze(-1)
        quantiles = self.head.quantiles(raw, base * scale, unit * scale)
        if not shape.spans:
            none = quantiles.new_zeros((*quantiles.shape[:2], 0, len(self.levels)))
            return MQOutput(quantiles, none)
        spans = []
        middle = quantiles[..., self.head.anchor]
        for lead, cover in shape.spans:
            part = slice(lead, lead + cover)
            mixed = torch.cat([features[:, :, part].mean(-2), shared], -1)
            spans.append(
                self.span_head(
                    F.relu(self.span_body(mixed)),
                    middle[..., part].sum(-1),
                    (unit * scale)[..., part].sum(-1),
                )
            )
        return MQOutput(quantiles, torch.stack(spans, -2))

    def score(self, output: MQOutput, batch: Batch) -> Tensor:
        """Mean quantile loss over each example's observed cells ``(B,)``, in the scaled unit.

        Each cell weighs ``(scale / typical scale) ** loss_weight``; with 1, the loss is the
        unscaled one that the weighted quantile loss adds up.
        """
        scale = batch["scale"]
        target, observed = batch["target"], batch["observed"]
        censored = batch.get("censored")
        losses = self._losses(target, output.quantiles, observed, censored, scale)
        if self.shape.spans:
            sums, whole, cut = [], [], []
            for lead, cover in self.shape.spans:
                part = slice(lead, lead + cover)
                sums.append(target[..., part].sum(-1) / cover)
                whole.append(observed[..., part].all(-1))
                if censored is not None:
                    cut.append(censored[..., part].any(-1))
            covers = output.spans.new_tensor([c for _, c in self.shape.spans]).unsqueeze(-1)
            losses = losses + self._losses(
                torch.stack(sums, -1), output.spans / covers, torch.stack(whole, -1),
                torch.stack(cut, -1) if cut else None, scale,
            )  # fmt: skip
        return losses / batch["weight"].clamp(min=1)

    def _losses(
        self,
        target: Tensor,
        quantiles: Tensor,
        observed: Tensor,
        censored: Tensor | None,
        scale: Tensor,
    ) -> Tensor:
        """Sums over each example's observed cells ``(B,)``."""
        if censored is None:
            loss = pinball(target, quantiles, self.levels)
        else:
            loss = censored_pinball(target, quantiles, self.levels, censored)
        # Quantile losses scale with their unit: one division a fork does for all its cells.
        weight = (scale / self.shape.typical_scale) ** self.shape.loss_weight / scale
        return (loss.mean(-1) * observed * weight.unsqueeze(-1)).sum((1, 2))

    def _static(self, batch: Batch) -> Tensor:
        codes = batch["static_categorical"]
        parts = [table(codes[:, j]) for j, table in enumerate(self.embeddings)]
        return torch.cat([*parts, batch["static_real"]], -1)


def count_parameters(learner: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in learner.parameters())
