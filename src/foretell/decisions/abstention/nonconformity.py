"""How unlike the reference an input is: scores that are larger the stranger it looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from foretell.errors import DataError, ParameterError

Array = NDArray[np.float64]


class Nonconformity(ABC):
    """A measure of strangeness that is learned from reference rows."""

    name: ClassVar[str]

    @abstractmethod
    def fit(self, reference: Array) -> None:
        """Learns from (n, d) reference rows, finite."""

    @abstractmethod
    def __call__(self, rows: Array) -> Array:
        """(m,) strangeness of (m, d) rows."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray]:
        """What was learned, for saving."""

    @abstractmethod
    def restore(self, arrays: dict[str, NDArray]) -> None:
        """Takes back what :meth:`arrays` gave."""


class _Mahalanobis(Nonconformity):
    """Distance from the mean in units of the regularised covariance.

    The covariance is shrunk towards its diagonal by one tenth, so that rare directions do not
    explode.
    """

    name = "mahalanobis"
    shrinkage = 0.1

    def fit(self, reference: Array) -> None:
        self._mean = reference.mean(0)
        covariance = np.cov(reference, rowvar=False).reshape(reference.shape[1], -1)
        diagonal = np.maximum(np.diag(covariance), 1e-6)
        shrunk = (1 - self.shrinkage) * covariance
        np.fill_diagonal(shrunk, diagonal)
        # Distances are lengths after this map: no inverse is formed.
        self._map = np.linalg.inv(np.linalg.cholesky(shrunk)).T

    def __call__(self, rows: Array) -> Array:
        return np.sqrt((((rows - self._mean) @ self._map) ** 2).sum(1))

    def arrays(self) -> dict[str, NDArray]:
        return {"mean": self._mean, "map": self._map}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        self._mean, self._map = arrays["mean"], arrays["map"]


class _MaxAbsZ(Nonconformity):
    """The largest absolute standardised value of a row."""

    name = "max_abs_z"

    def fit(self, reference: Array) -> None:
        self._mean = reference.mean(0)
        spread = reference.std(0)
        self._spread = np.where(spread > 1e-9, spread, 1.0)

    def __call__(self, rows: Array) -> Array:
        return np.asarray(np.abs((rows - self._mean) / self._spread).max(1))

    def arrays(self) -> dict[str, NDArray]:
        return {"mean": self._mean, "spread": self._spread}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        self._mean, self._spread = arrays["mean"], arrays["spread"]


class _PCAResidual(Nonconformity):
    """Length of what the leading principal components cannot explain.

    As many components are kept as explain 80 % of the reference's variance.
    """

    name = "pca_residual"
    explained = 0.8

    def fit(self, reference: Array) -> None:
        if reference.shape[1] < 2:
            raise DataError("components of one feature explain all of it: take another measure")
        self._mean = reference.mean(0)
        values, vectors = np.linalg.eigh(
            np.cov(reference, rowvar=False).reshape(len(self._mean), -1)
        )
        order = np.argsort(values)[::-1]
        share = np.cumsum(values[order]) / max(values.sum(), 1e-300)
        kept = min(int(np.searchsorted(share, self.explained)) + 1, max(len(share) - 1, 1))
        self._basis = vectors[:, order[:kept]]

    def __call__(self, rows: Array) -> Array:
        centred = rows - self._mean
        inside = centred @ self._basis
        return np.sqrt(np.maximum((centred**2).sum(1) - (inside**2).sum(1), 0.0))

    def arrays(self) -> dict[str, NDArray]:
        return {"mean": self._mean, "basis": self._basis}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        self._mean, self._basis = arrays["mean"], arrays["basis"]


class _NearestRows(Nonconformity):
    """Mean distance to the ten nearest rows of a trust set.

    The trust set is the densest 90 % of at most 5,000 reference rows (Jiang et al. 2018, Trust
    Score). On a hidden layer this is what COMPOSER does; note that septic patients look strange
    there, see :class:`~foretell.decisions.abstention.MondrianConformal`.
    """

    name = "knn"
    neighbours, most, dense = 10, 5000, 0.9

    def fit(self, reference: Array) -> None:
        rng = np.random.default_rng(0)
        chosen = reference
        if len(reference) > self.most:
            chosen = reference[rng.choice(len(reference), self.most, replace=False)]
        near = NearestNeighbors(n_neighbors=min(self.neighbours + 1, len(chosen))).fit(chosen)
        radius = near.kneighbors(chosen)[0][:, -1]
        self._index(chosen[radius <= np.quantile(radius, self.dense)])

    def _index(self, trusted: Array) -> None:
        self._trusted = trusted
        self._near = NearestNeighbors(n_neighbors=min(self.neighbours, len(trusted))).fit(trusted)

    def __call__(self, rows: Array) -> Array:
        return np.asarray(self._near.kneighbors(rows)[0].mean(1))

    def arrays(self) -> dict[str, NDArray]:
        return {"trusted": self._trusted}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        self._index(arrays["trusted"])


_KINDS: dict[str, type[Nonconformity]] = {
    kind.name: kind for kind in (_Mahalanobis, _MaxAbsZ, _PCAResidual, _NearestRows)
}


def nonconformity(name: str) -> Nonconformity:
    """A measure by name.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in _KINDS:
        raise ParameterError(f"score must be one of {', '.join(_KINDS)}, not {name!r}")
    return _KINDS[name]()
