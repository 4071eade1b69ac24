"""Whether two samples have one distribution, by the mean of random features of a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

_FEATURES = 48


@dataclass(frozen=True, eq=False)
class MeanEmbedding:
    """What is kept of a sample for the maximum mean discrepancy: no value of it.

    The discrepancy of two samples is the distance of their mean features under a Gaussian kernel
    (Gretton, Borgwardt, Rasch, Schoelkopf and Smola, JMLR 13, 2012, section 2), here under random
    Fourier features of it (Rahimi and Recht, NeurIPS 2007). Where nothing has changed its square is
    a sum of squares of normal numbers, whose first two moments the reference knows.

    Attributes:
        centre: median of the reference.
        scale: what values are divided by: its quartiles' distance, or their standard deviation.
        mean: (D,) mean features.
        trace: of the features' covariance.
        squares: of all its entries, summed.
        size: number of values, or of those whose they are.
    """

    centre: float
    scale: float
    mean: NDArray[np.float64]
    trace: float
    squares: float
    size: int

    @classmethod
    def of(cls, values: NDArray[np.float64], people: int | None = None) -> Self:
        """That of (n,) values, at least one, of so many people; of one each by default."""
        low, centre, high = np.quantile(values, [0.25, 0.5, 0.75])
        scale = float(high - low) / 1.349 or float(values.std()) or 1.0
        features = _features((values - centre) / scale)
        covariance = np.cov(features, rowvar=False, bias=True).reshape(_FEATURES, _FEATURES)
        return cls(
            float(centre), scale, features.mean(0), float(np.trace(covariance)),
            float((covariance**2).sum()),
            len(values) if people is None else people,
        )  # fmt: skip

    def compare(
        self, values: NDArray[np.float64], people: int | None = None
    ) -> tuple[float, float]:
        """The discrepancy from (m,) values, and how likely one as large is by chance.

        Args:
            values: at least one.
            people: whose they are; of one each by default.
        """
        gap = _features((values - self.centre) / self.scale).mean(0) - self.mean
        squared = float(gap @ gap)
        if self.trace <= 1e-12:
            # All values of the reference are alike: any other one is news.
            return float(np.sqrt(squared)), float(squared <= 1e-12)
        each = 1 / self.size + 1 / (len(values) if people is None else people)
        degrees = self.trace**2 / self.squares
        return float(np.sqrt(squared)), float(
            chi2.sf(squared * degrees / (self.trace * each), degrees)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**vars(self), "mean": self.mean.tolist()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_dict` gave.

        Raises:
            ValueError: it is of another size.
        """
        mean = np.asarray(told["mean"], np.float64)
        if mean.shape != (_FEATURES,):
            raise ValueError(f"a mean embedding has {_FEATURES} features, not {mean.shape}")
        return cls(**{**told, "mean": mean})


def _features(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, D) features whose products are near ``exp(-(z - z')^2 / 2)``; the same for everybody."""
    frequencies = np.random.default_rng(0).standard_normal(_FEATURES // 2)
    angles = np.outer(z, frequencies)
    return np.asarray(
        np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(_FEATURES // 2)
    )
