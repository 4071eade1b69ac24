"""Two renderings of a feature matrix: sparse with absent entries, dense with indicators."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


def to_sparse(values: NDArray[np.float32]) -> sp.csr_matrix:
    """(B, P) with NaN as CSR float32: absent features have no entry, a zero is stored."""
    present = ~np.isnan(values)
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    indices = np.nonzero(present)[1].astype(np.int32)
    return sp.csr_matrix((values[present], indices, indptr), shape=values.shape)


class DenseScaler:
    """Robust scaling with indicators of what is missing, for neural networks.

    Each feature is centred on its median, divided by its inter-quartile range (the standard
    deviation where that is zero) and, beyond its 1 % and 99 % quantiles, grows only with the
    logarithm of the distance; what is missing becomes the median, and a feature that is missing
    in some training rows gets an indicator column. Features that are (nearly) always missing in
    training, or constant, are left out: a network cannot learn what to do with them, and would
    do anything when they appear.

    Args:
        clip: share of the values on each side beyond which to damp.
        least: share of the rows in which a feature must be present to be used.
    """

    def __init__(self, clip: float = 0.01, least: float = 0.02) -> None:
        self.clip, self.least = clip, least

    def fit(self, values: NDArray[np.float32]) -> DenseScaler:
        """Learns from training rows (B, P)."""
        missing = np.isnan(values)
        share = missing.mean(axis=0)
        p = values.shape[1]
        self.centre_, self.spread_ = np.zeros(p), np.ones(p)
        self.low_, self.high_ = np.full(p, -np.inf), np.full(p, np.inf)
        used = np.zeros(p, bool)
        for j in range(p):
            if 1 - share[j] < self.least:
                continue
            column = values[~missing[:, j], j].astype(np.float64)
            levels = [self.clip, 0.25, 0.5, 0.75, 1 - self.clip]
            low, first, middle, third, high = np.quantile(column, levels)
            if high <= low:  # rare values only, such as an event's flag
                low, high = column.min(), column.max()
            spread = third - first if third > first else np.clip(column, low, high).std()
            if high <= low or spread <= 0:
                continue
            self.low_[j], self.high_[j] = low, high
            self.centre_[j], self.spread_[j] = middle, spread
            used[j] = True
        self.used_ = np.flatnonzero(used)
        some = (share > 0.005) & (share < 1 - self.least)
        self.flagged_ = np.flatnonzero(some)
        return self

    @property
    def width(self) -> int:
        """Number of columns of the dense rendering."""
        return len(self.used_) + len(self.flagged_)

    def transform(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, P) with NaN to (B, width) float32 without; within a few units of zero."""
        part = values[:, self.used_]
        j = self.used_
        held = np.clip(part, self.low_[j], self.high_[j])
        beyond = (part - held) / self.spread_[j]
        scaled = (held - self.centre_[j]) / self.spread_[j]
        scaled += np.sign(beyond) * np.log1p(np.abs(beyond))
        scaled = np.where(np.isnan(part), 0.0, np.clip(scaled, -8.0, 8.0))
        flags = np.isnan(values[:, self.flagged_])
        return np.concatenate([scaled, flags], axis=1).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """What was given and learned, as JSON values."""
        return {
            "clip": self.clip, "least": self.least, "used": self.used_.tolist(),
            "flagged": self.flagged_.tolist(), "centre": self.centre_.tolist(),
            "spread": self.spread_.tolist(), "low": self.low_[self.used_].tolist(),
            "high": self.high_[self.used_].tolist(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> DenseScaler:
        """The inverse of :meth:`state`."""
        scaler = cls(state["clip"], state["least"])
        scaler.used_ = np.asarray(state["used"], np.int64)
        scaler.flagged_ = np.asarray(state["flagged"], np.int64)
        scaler.centre_, scaler.spread_ = np.array(state["centre"]), np.array(state["spread"])
        p = len(scaler.centre_)
        scaler.low_, scaler.high_ = np.full(p, -np.inf), np.full(p, np.inf)
        scaler.low_[scaler.used_], scaler.high_[scaler.used_] = state["low"], state["high"]
        return scaler
