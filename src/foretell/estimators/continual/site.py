"""What a site is trained on, and what is said of it afterwards."""

from __future__ import annotations

import copy
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

_LEAST_SPREAD = 0.1
"""Of the median spread of units that vary."""


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
        metrics: right after its training: ``validation_auroc``, or ``training_auroc`` where there
            was no validation part with both classes.
        exemplar_patients: patients behind the stored exemplars without and with an onset; None
            where patients are not known.
        release: what was done to the exemplars, JSON values.
        new_channels: features that no earlier site had.
        trained: whether it had both classes.
        warm_up: whether its rows trained the first layer beside those of other sites.
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
    warm_up: bool = False

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


@dataclass(frozen=True, eq=False)
class Standards:
    """Mean and spread of the units of the first layer over the hours of the first site.

    Units of a rectified layer lie far from 0, some with hardly any spread. Upper layers that are
    trained on them as they are follow the few directions that vary most at the first site, and
    learn slowly what a later site needs.

    Attributes:
        centre: (D,) means.
        spread: (D,) standard deviations, those of units that hardly vary raised to a floor.
    """

    centre: Tensor
    spread: Tensor

    @classmethod
    def none(cls, width: int) -> Standards:
        """Leaves units as they are."""
        return cls(torch.zeros(width), torch.ones(width))

    @classmethod
    def of(cls, hidden: NDArray[np.float32]) -> Standards:
        """Those of representations (R, D)."""
        values = hidden.astype(np.float64)
        spread = values.std(axis=0)
        # A unit that is silent at the first site may speak at another: not a thousand times louder.
        floor = _LEAST_SPREAD * float(np.median(spread[spread > 0])) if spread.any() else 1.0
        spread = np.maximum(spread, floor)
        return cls(
            torch.from_numpy(values.mean(axis=0).astype(np.float32)),
            torch.from_numpy(spread.astype(np.float32)),
        )


class SiteNet(Learner):
    """A risk net as a later site trains it: what is above its first layer, standardised.

    Its upper layers start as a copy of the net's that gives the same log-odds; what was learned is
    written back with :meth:`hand_back`. Parameters have the names of the net's.

    Args:
        learner: of which a site is trained.
        standards: of the units of its first layer.
        frozen: whether the first layer stays as it is.
        adapted: whether an affine map of the encoded inputs is trained, too.

    Attributes:
        scale: (E,) what 1 plus it the inputs are multiplied by, where adapted.
        shift: (E,) added to them, where adapted.
    """

    centre: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        learner: FeedForwardRiskLearner,
        standards: Standards,
        *,
        frozen: bool = True,
        adapted: bool = False,
    ) -> None:
        super().__init__()
        self.upper = copy.deepcopy(learner.upper)
        self.register_buffer("centre", standards.centre.clone(), persistent=False)
        self.register_buffer("spread", standards.spread.clone(), persistent=False)
        with torch.no_grad():
            weight, bias = _above(self.upper)
            bias += weight @ standards.centre
            weight *= standards.spread
        self.upper.requires_grad_(True)
        if frozen:
            self.register_buffer("weight", learner.first.weight.detach(), persistent=False)
            self.register_buffer("bias", learner.first.bias.detach(), persistent=False)
        else:
            self.first = copy.deepcopy(learner.first).requires_grad_(True)
        self.adapted = adapted
        if adapted:
            self.scale = torch.nn.Parameter(torch.zeros(learner.shape.inputs))
            self.shift = torch.nn.Parameter(torch.zeros(learner.shape.inputs))
        # A new module counts as training.
        self.train(learner.training)

    def encode(self, batch: Batch) -> Tensor:
        """The first layer, or what was encoded already under ``h``."""
        if "h" in batch:
            return batch["h"]
        x = batch["x"]
        if self.adapted:
            x = x * (1 + self.scale) + self.shift
        if hasattr(self, "first"):
            return torch.nn.functional.relu(self.first(x))
        return torch.nn.functional.relu(torch.nn.functional.linear(x, self.weight, self.bias))

    def decode(self, encoding: Tensor, batch: Batch) -> RiskOutput:
        """Log-odds."""
        standard = (encoding - self.centre) / self.spread
        return RiskOutput(self.upper(standard).squeeze(-1))

    def score(self, output: RiskOutput, batch: Batch) -> Tensor:
        """Binary cross-entropy ``(B,)``."""
        label = batch["label"].to(output.logit.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            output.logit, label, reduction="none"
        )

    @torch.no_grad()
    def hand_back(self, learner: FeedForwardRiskLearner) -> None:
        """Writes what was learned into the net."""
        learner.upper.load_state_dict(self.upper.state_dict())
        weight, bias = _above(learner.upper)
        weight /= self.spread
        bias -= weight @ self.centre
        if hasattr(self, "first"):
            learner.first.load_state_dict(self.first.state_dict())


def _above(upper: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that reads representations."""
    reading = next(m for m in upper.modules() if isinstance(m, torch.nn.Linear))
    return reading.weight, reading.bias


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

    reach = 40.0
    if gap(-reach) * gap(reach) > 0:
        # Log-odds of thousands: whoever releases them, they are no error of the site's. Beyond
        # these no shift changes anything.
        reach = 61.0 + float(np.abs(logits).max(initial=0.0))
    return float(brentq(gap, -reach, reach, xtol=1e-6))
