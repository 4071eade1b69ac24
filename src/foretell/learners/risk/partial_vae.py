"""A variational autoencoder of whatever was seen of a patient: EDDI's partial VAE."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Batch, Learner

_LOG_2PI = float(np.log(2 * np.pi))
_LEAST_LOG_VARIANCE = -6.0


class PartialVAEOutput(NamedTuple):
    """What is decoded.

    Args:
        mean: (B, F) of each feature given the code.
        log_variance: (F,) of the noise on it.
        code_mean: (B, D) of ``q(z | x_S)``.
        code_log_variance: (B, D).
    """

    mean: Tensor
    log_variance: Tensor
    code_mean: Tensor
    code_log_variance: Tensor


class PartialVAELearner(Learner):
    """``q(z | x_S)`` from a set of seen features, ``p(x_j | z)`` for each feature (Ma et al. 2019).

    The encoder knows no order and no size of the set: each seen feature ``j`` becomes
    ``h(x_j, e_j)`` with an identity ``e_j`` that is learned, these are added up, and a net makes
    mean and log variance of the code of the sum (the "point net" of EDDI, section 3.2). ``h`` is a
    layer of rectified units: its weights on ``x_j``, on ``e_j`` and on ``x_j e_j`` make it
    ``relu(x_j u_j + v_j)`` with ``u_j`` and ``v_j`` linear in ``e_j``.

    Args:
        inputs: features F; a batch holds ``x`` and ``seen`` ``(B, F)``, and in training ``noise``
            ``(B, code)``.
        code: dimensions of the code.
        identity: dimensions of the identities.
        hidden: units of every hidden layer.
    """

    def __init__(self, inputs: int, code: int = 8, identity: int = 16, hidden: int = 64) -> None:
        super().__init__()
        if min(inputs, code, identity, hidden) < 1:
            raise ParameterError(f"sizes must be positive, not {(inputs, code, identity, hidden)}")
        self.identity = nn.Parameter(torch.randn(inputs, identity) / identity**0.5)
        self.slope = nn.Linear(identity, hidden)
        self.level = nn.Linear(identity, hidden)
        self.encoder = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2 * code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, inputs),
        )  # fmt: skip
        self.log_variance = nn.Parameter(torch.zeros(inputs))
        self.code = code

    def encode(self, batch: Batch) -> Tensor:
        """Mean and log variance of the code, ``(B, 2 code)``."""
        x, seen = batch["x"], batch["seen"].to(batch["x"].dtype)
        each = (
            (x * seen)[:, :, None] * self.slope(self.identity) + self.level(self.identity)
        ).relu()
        # A product of matrices adds up what was seen, and nothing else.
        return self.encoder(torch.einsum("bf,bfh->bh", seen, each))

    def decode(self, encoding: Tensor, batch: Batch) -> PartialVAEOutput:
        """Features given a code drawn with the batch's ``noise``, or given its mean without."""
        mean, log_variance = encoding.chunk(2, dim=-1)
        log_variance = log_variance.clamp(-10.0, 4.0)
        code = mean
        if "noise" in batch:
            code = mean + batch["noise"] * (0.5 * log_variance).exp()
        return PartialVAEOutput(
            self.features(code), self.log_variance.clamp(min=_LEAST_LOG_VARIANCE), mean,
            log_variance,
        )  # fmt: skip

    def features(self, code: Tensor) -> Tensor:
        """``(..., F)`` means of the features given codes ``(..., code)``."""
        return self.decoder(code)

    def score(self, output: PartialVAEOutput, batch: Batch) -> Tensor:
        """Minus the evidence lower bound of what was seen, ``(B,)`` in nats."""
        seen = batch["seen"].to(output.mean.dtype)
        gap = (batch["x"] - output.mean) ** 2 / output.log_variance.exp()
        density = -0.5 * (seen * (gap + output.log_variance + _LOG_2PI)).sum(-1)
        spread = output.code_log_variance
        divergence = 0.5 * (output.code_mean**2 + spread.exp() - 1 - spread).sum(-1)
        return divergence - density


class HiddenValues:
    """Examples some of whose values are hidden anew whenever they are drawn.

    The share that stays is drawn evenly for each patient, and then which values: as in EDDI, the
    bound is that of what is left, so that the code of every subset is learned.

    Args:
        values: (n, F) standardised.
        seen: (n, F) bool.
        code: dimensions of the code that is drawn for each.

    Raises:
        DataError: shapes do not fit, or a value that was seen is not finite.
    """

    def __init__(self, values: ArrayLike, seen: ArrayLike, *, code: int) -> None:
        S = np.asarray(seen, bool)
        X = np.where(S, np.asarray(values, np.float64), 0.0).astype(np.float32)
        if X.ndim != 2 or X.shape != S.shape:
            raise DataError(f"values {X.shape} and seen {S.shape} must be of the same patients")
        if not np.isfinite(X).all():
            raise DataError("a value that was seen is not finite")
        self.values, self.seen, self.code = X, S, code

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.values)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Any]:
        """Patients as ``x``, ``seen`` ``(B, F)`` and ``noise`` ``(B, code)``."""
        size = self.values.shape[1]
        kept = rng.random((len(indices), size)) < rng.random((len(indices), 1))
        noise = rng.standard_normal((len(indices), self.code), np.float32)
        return {
            "x": torch.from_numpy(self.values[indices]),
            "seen": torch.from_numpy(self.seen[indices] & kept),
            "noise": torch.from_numpy(noise),
        }
