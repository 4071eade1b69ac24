"""A risk net that takes any subset of its inputs: trained with panels hidden at random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.risk.feed_forward import RiskOutput


class SubsetRiskLearner(Learner):
    """``p(y | x_S, S)``: an MLP on the seen values, 0 elsewhere, and on which were seen.

    Args:
        inputs: features F; a batch holds ``x`` and ``seen`` ``(B, F)`` and ``label`` ``(B,)``.
        hidden: units of the layers.
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        if inputs < 1 or not hidden or min(hidden) < 1:
            raise ParameterError(f"sizes must be positive, not {inputs} and {tuple(hidden)}")
        sizes = [2 * inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], 1)

    def encode(self, batch: Batch) -> Tensor:
        """The trunk's output ``(B, D)``."""
        seen = batch["seen"].to(batch["x"].dtype)
        return self.trunk(torch.cat([batch["x"] * seen, seen], dim=-1))

    def decode(self, encoding: Tensor, batch: Batch) -> RiskOutput:
        """Log-odds ``(B,)``."""
        return RiskOutput(self.head(encoding).squeeze(-1))

    def score(self, output: RiskOutput, batch: Batch) -> Tensor:
        """Binary cross-entropy ``(B,)`` in nats."""
        label = batch["label"].to(output.logit.dtype)
        return F.binary_cross_entropy_with_logits(output.logit, label, reduction="none")


def outdated(seen: NDArray[np.bool_], older: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Masks (n, F) in which an older value counts only while there is no new one.

    Args:
        seen: (n, F) bool.
        older: pairs (feature, number of the feature that holds its value of before).
    """
    if not len(older):
        return seen
    new, old = np.array(older, np.int64).T
    out = seen.copy()
    out[:, old] &= ~seen[:, new]
    return out


class HiddenPanels:
    """Examples some of whose panels are hidden anew whenever they are drawn.

    How many stay is drawn evenly first, so that the model sees few and many panels alike.

    Args:
        values: (n, F) standardised features.
        seen: (n, F) bool.
        label: (n,) 0 or 1.
        panels: numbers of the features of each panel; other features are always kept.
        older: pairs (feature, the same before); see :func:`outdated`.
        hide: False keeps all, for validation.
    """

    def __init__(
        self,
        values: ArrayLike,
        seen: ArrayLike,
        label: ArrayLike,
        panels: Sequence[Sequence[int]],
        *,
        older: Sequence[Sequence[int]] = (),
        hide: bool = True,
    ) -> None:
        S = np.asarray(seen, bool)
        X = np.where(S, np.asarray(values, np.float64), 0.0).astype(np.float32)
        y = np.asarray(label)
        if X.ndim != 2 or y.shape != (len(X),) or not np.isin(y, (0, 1)).all():
            raise DataError(f"values {X.shape} and labels {y.shape} of 0 and 1 must go together")
        if not np.isfinite(X).all():
            raise DataError("a value that was seen is not finite")
        self.values, self.seen, self.label = X, S, y.astype(np.float32)
        self.panels, self.hide = [np.array(p, np.int64) for p in panels], hide
        self.older = older

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.label)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Any]:
        """Patients as ``x``, ``seen`` ``(B, F)`` and ``label`` ``(B,)``."""
        seen = self.seen[indices]
        if self.hide:
            seen = seen.copy()
            size, n = len(self.panels), len(seen)
            kept = rng.integers(0, size + 1, n)
            rank = rng.random((n, size)).argsort(1).argsort(1)
            for j, columns in enumerate(self.panels):
                seen[np.ix_(rank[:, j] >= kept, columns)] = False
        seen = outdated(seen, self.older)
        return {
            "x": torch.from_numpy(self.values[indices]),
            "seen": torch.from_numpy(seen),
            "label": torch.from_numpy(self.label[indices]),
        }
