"""What a panel may show: values of patients who are alike in what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.panels import Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact


class Donors(Protocol):
    """Something that draws what a panel may show."""

    @property
    def size(self) -> int:
        """Draws for a patient."""
        ...

    def draw(
        self, values: NDArray, seen: NDArray[np.bool_], panel: Panel
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values and masks (n, size, len(panel.features)) for patients (n, F)."""
        ...


def checked_patients(
    values: ArrayLike, seen: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values and masks (N, F) of training patients.

    Raises:
        DataError: shapes do not fit, or a value that was seen is not finite.
    """
    X, S = np.asarray(values, np.float64), np.asarray(seen, bool)
    if X.ndim != 2 or X.shape != S.shape or len(X) < 1:
        raise DataError(f"values {X.shape} and seen {S.shape} must be of the same patients")
    if not np.isfinite(X[S]).all():
        raise DataError("a value that was seen is not finite")
    return X, S


def centre_and_spread(
    values: NDArray[np.float64], seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) means and standard deviations of what was seen; a spread of 1 where nothing varies."""
    count = np.maximum(seen.sum(0), 1)
    centre = np.where(seen, values, 0.0).sum(0) / count
    spread = np.sqrt((np.where(seen, values - centre, 0.0) ** 2).sum(0) / count)
    return centre, np.where(spread > 1e-9, spread, 1.0)


class NearestDonors:
    """Draws a panel's values from the nearest training patients who have it.

    Two patients are compared on what both have: the mean squared difference of standardised
    features, plus one for each share of the asker's features that the donor lacks (a donor about
    whom little is known is not near).

    Args:
        values: (N, F) training patients.
        seen: (N, F) bool, which values are there.
        size: donors of a patient.

    Raises:
        DataError: shapes do not fit, or a value that was seen is not finite.
        ParameterError: ``size`` is not positive.
    """

    keeps_patients = True

    def __init__(self, values: ArrayLike, seen: ArrayLike, *, size: int = 24) -> None:
        if size < 1:
            raise ParameterError(f"at least 1 donor is needed, not {size}")
        X, S = checked_patients(values, seen)
        self.size = size
        self._seen = S.astype(np.float64)
        self._mean, self._spread = centre_and_spread(X, S)
        self._values = X
        self._z = np.where(S, (X - self._mean) / self._spread, 0.0)

    def distances(
        self, values: NDArray, seen: NDArray[np.bool_], donors: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """(n, N) distances to all training patients, or to some of them."""
        among = slice(None) if donors is None else donors
        theirs, there = self._z[among], self._seen[among]
        known = seen.astype(np.float64)
        z = np.where(seen, (values - self._mean) / self._spread, 0.0)
        # Three products of matrices are the sums over features that both have.
        apart = (z**2) @ there.T - 2 * z @ theirs.T + known @ (theirs**2).T
        shared = known @ there.T
        wanted = np.maximum(known.sum(1, keepdims=True), 1)
        return np.maximum(apart, 0) / np.maximum(shared, 1) + (wanted - shared) / wanted

    def draw(
        self, values: NDArray, seen: NDArray[np.bool_], panel: Panel
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values and masks (n, k, len(panel.features)) of the panel from k donors each.

        Raises:
            DataError: no training patient has the panel.
        """
        columns = list(panel.features)
        have = self._seen[:, columns].any(1)
        if not have.any():
            raise DataError(f"no training patient has panel {panel.name!r}")
        donors = np.flatnonzero(have)
        far = self.distances(values, seen, donors)
        size = min(self.size, len(donors))
        near = donors[np.argpartition(far, size - 1, axis=1)[:, :size]]
        return self._values[near][..., columns], self._seen[near][..., columns].astype(bool)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors, with the values of all training patients."""
        arrays = {"values": np.where(self._seen > 0, self._values, 0.0), "seen": self._seen > 0}
        save_artefact(folder, type(self).__name__, {"size": self.size}, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            return cls(arrays["values"], arrays["seen"], size=int(config["size"]))
