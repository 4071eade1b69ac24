"""What a site is trained on, and what is said of it afterwards."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from foretell.learners.contract import Batch, Learner
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner, RiskOutput


@dataclass(frozen=True, eq=False)
class SiteRows:
    """Hours at risk of one site.

    Attributes:
        features: (R, F) scaled, without missing values.
        label: (R,) 0 or 1.
        patients: (R,) number of the patient of each row; None where not known.
        weight: (R,) of each row in the loss, or None.
        rate: share of positive hours at the site, before any subsampling.
    """

    features: NDArray[np.float32]
    label: NDArray[np.int8]
    patients: NDArray[np.int64] | None
    weight: NDArray[np.float32] | None
    rate: float


@dataclass
class SiteRecord:
    """What is known of a site: numbers only.

    Attributes:
        name: of the site.
        hours: that were trained on.
        positives: of them.
        patients: of them, or None.
        rate: share of positive hours at the site.
        intercept: what is added to the log-odds at this site.
        episodes_gap: by how much that exceeded what the stored representations asked for, right
            after its training: noise on them moves the mean risk.
        metrics: of the validation part right after its training.
        exemplar_patients: patients behind the stored exemplars without and with an onset; None
            where patients are not known.
        release: what was done to the exemplars, JSON values.
        new_channels: features that no earlier site had.
        trained: whether it had both classes.
    """

    name: str
    hours: int
    positives: int
    patients: int | None
    rate: float
    intercept: float = 0.0
    episodes_gap: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    exemplar_patients: tuple[int, int] | None = None
    release: dict[str, Any] = field(default_factory=dict)
    new_channels: tuple[str, ...] = ()
    trained: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> SiteRecord:
        """The inverse, from JSON too."""
        pair = told["exemplar_patients"]
        more = {
            "exemplar_patients": None if pair is None else (int(pair[0]), int(pair[1])),
            "new_channels": tuple(str(n) for n in told["new_channels"]),
        }
        return cls(**{**told, **more})


@dataclass(frozen=True, eq=False)
class Episodes:
    """Stored representations of one site.

    Attributes:
        h: (M, D) float16: the noise is far above its rounding.
        label: (M,) 0 or 1.
        frozen: hash of the layer that made them.
    """

    h: NDArray[np.float16]
    label: NDArray[np.int8]
    frozen: str

    def hidden(self) -> Tensor:
        """(M, D) in single precision."""
        return torch.from_numpy(self.h.astype(np.float32))


class UpperLayers(Learner):
    """A risk net behind its first layer, for hours that were encoded once.

    Its parameters are those of the net, by the same names.
    """

    def __init__(self, learner: FeedForwardRiskLearner) -> None:
        super().__init__()
        self.upper = learner.upper
        # A new module counts as training, and would hand that on to the layers it shares.
        self.train(learner.training)

    def encode(self, batch: Batch) -> Tensor:
        """What was encoded already."""
        return batch["h"]

    def decode(self, encoding: Tensor, batch: Batch) -> RiskOutput:
        """Log-odds."""
        return RiskOutput(self.upper(encoding).squeeze(-1))

    def score(self, output: RiskOutput, batch: Batch) -> Tensor:
        """Binary cross-entropy ``(B,)``."""
        label = batch["label"].to(output.logit.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            output.logit, label, reduction="none"
        )


class AdaptedInputs(Learner):
    """A frozen risk net behind a site's own affine map of its inputs, both trained.

    Args:
        learner: whose upper layers are trained.
        shift: (E,) added to the encoded inputs.
        scale: (E,) what 1 plus it they are multiplied by.
    """

    def __init__(self, learner: FeedForwardRiskLearner) -> None:
        super().__init__()
        self.upper = learner.upper
        self._first = (learner.first.weight.detach(), learner.first.bias.detach())
        width = learner.shape.inputs
        self.scale = torch.nn.Parameter(torch.zeros(width))
        self.shift = torch.nn.Parameter(torch.zeros(width))
        self.train(learner.training)

    def encode(self, batch: Batch) -> Tensor:
        """The first layer of the adapted inputs."""
        adapted = batch["x"] * (1 + self.scale) + self.shift
        return torch.nn.functional.relu(torch.nn.functional.linear(adapted, *self._first))

    def decode(self, encoding: Tensor, batch: Batch) -> RiskOutput:
        """Log-odds."""
        return RiskOutput(self.upper(encoding).squeeze(-1))

    def score(self, output: RiskOutput, batch: Batch) -> Tensor:
        """Binary cross-entropy ``(B,)``."""
        label = batch["label"].to(output.logit.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            output.logit, label, reduction="none"
        )


def frozen_hash(learner: FeedForwardRiskLearner) -> str:
    """Identifies the first layer: representations of another one mean something else."""
    digest = hashlib.sha256()
    for tensor in (learner.first.weight, learner.first.bias):
        values = np.ascontiguousarray(tensor.detach().cpu().numpy(), "<f4")
        digest.update(repr(values.shape).encode() + values.tobytes())
    return digest.hexdigest()


def intercept_for(logits: NDArray[np.float64], label: NDArray[np.int8], rate: float) -> float:
    """What must be added to log-odds so that their mean risk is the site's rate.

    Rows are weighed so that both classes have their share at the site.
    """
    positive = label == 1
    weight = np.where(
        positive, rate / max(positive.sum(), 1), (1 - rate) / max((~positive).sum(), 1)
    )
    weight = weight / weight.sum()
    # The share of positives among the rows by weight; the rate where both classes are there.
    goal = float(weight[positive].sum()) or rate

    def gap(shift: float) -> float:
        return float((weight / (1 + np.exp(-np.clip(logits + shift, -60, 60)))).sum()) - goal

    return float(brentq(gap, -40, 40, xtol=1e-6))
