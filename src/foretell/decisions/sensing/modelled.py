"""What all samplers share that keep a model of the patients instead of the patients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from foretell.decisions.sensing.donors import centre_and_spread, checked_patients
from foretell.decisions.sensing.panels import Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact


class ModelledDonors(ABC):
    """Draws a panel's values from a fitted distribution of the standardised features.

    Draws are the same in each call: noise is fixed. They know no bounds: skewed features are better
    given as logarithms. A feature is shown if it was seen at least half as often as the one of the
    panel that was seen most often.

    What is kept are parameters and how often each feature was seen; no patient's values.
    """

    keeps_patients = False

    size: int
    _centre: NDArray[np.float64]
    _spread: NDArray[np.float64]
    _rate: NDArray[np.float64]

    @property
    def n_features(self) -> int:
        """Number F of features."""
        return len(self._centre)

    def _measure(
        self, values: Any, seen: Any, size: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Keeps the scales; standardised values (N, F), 0 where nothing was seen, and masks."""
        if size < 2:
            raise ParameterError(f"at least 2 draws are needed, not {size}")
        X, S = checked_patients(values, seen)
        self.size, self._rate = size, S.mean(0)
        self._centre, self._spread = centre_and_spread(X, S)
        return self._scaled(X, S), S

    def knows(self, features: Sequence[int]) -> bool:
        """Whether any training patient had one of the features."""
        return bool(self._rate[list(features)].max() > 0)

    def draw(
        self, values: NDArray, seen: NDArray[np.bool_], panel: Panel
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values and masks (n, k, len(panel.features)) of the panel, k draws for each patient.

        What is known of the panel itself is not used: it is what a new result replaces.

        Raises:
            DataError: no training patient has the panel, or values that are known are not finite
                or not of the training patients' features.
        """
        columns = np.array(panel.features)
        rate = self._rate[columns]
        if not self.knows(panel.features):
            raise DataError(f"no training patient has panel {panel.name!r}")
        z, S = self._given(values, seen)
        S[:, columns] = False
        out = self._draws(np.where(S, z, 0.0), S, columns)
        out = self._centre[columns] + out * self._spread[columns]
        return out, np.broadcast_to(rate >= 0.5 * rate.max(), out.shape).copy()

    def _given(self, values: Any, seen: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Standardised values and a mask of one's own of patients (n, F)."""
        X, S = np.asarray(values, np.float64), np.array(seen, bool)
        if X.ndim != 2 or X.shape != S.shape or X.shape[1] != self.n_features:
            raise DataError(
                f"values {X.shape} and seen {S.shape} must be of {self.n_features} features"
            )
        if not np.isfinite(X[S]).all():
            raise DataError("a value that is known is not finite")
        return self._scaled(X, S), S

    def _scaled(self, X: NDArray, S: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.where(S, (np.where(S, X, 0.0) - self._centre) / self._spread, 0.0)

    @abstractmethod
    def _draws(
        self, z: NDArray[np.float64], given: NDArray[np.bool_], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Standardised draws (n, size, len(columns)) given standardised values (n, F)."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """What else is kept: JSON values and arrays."""

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        """Takes what :meth:`_state` gave; wrong sizes raise ValueError."""

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors: parameters, and no patient's values."""
        config, arrays = self._state()
        scales = {"centre": self._centre, "spread": self._spread, "rate": self._rate}
        save_artefact(folder, type(self).__name__, {"size": self.size, **config}, scales | arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            model = cls.__new__(cls)
            model.size = int(config["size"])
            centre, spread, rate = (arrays[k] for k in ("centre", "spread", "rate"))
            if model.size < 2 or centre.ndim != 1 or not len(centre):
                raise ValueError("draws or features are missing")
            for values in (centre, spread, rate):
                finite(values, centre.shape)
            if not (spread > 0).all():
                raise ValueError("a spread is not positive")
            model._centre, model._spread, model._rate = centre, spread, rate
            model._restore(config, arrays)
        return model


def finite(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The same values, if they have the shape and are finite.

    Raises:
        ValueError: they are not.
    """
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"an array {values.shape} must be finite and {shape}")
    return values


@lru_cache(maxsize=64)
def normals(count: int, size: int) -> NDArray[np.float64]:
    """(count, size) standard normals of an additive recurrence, with exact moments if they can be.

    Steps are powers of the root of ``x^(size + 1) = x + 1``: the golden ratio in more dimensions.
    The mean is 0; the covariance is 1 where there are more than twice as many draws as dimensions.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (size + 1))
    steps = root ** -np.arange(1, size + 1)
    uniform = (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0
    return _exact(ndtri(np.clip(uniform, 1e-6, 1 - 1e-6)))


@lru_cache(maxsize=64)
def stratified_normals(count: int, size: int, *, seed: int = 0) -> NDArray[np.float64]:
    """(count, size) standard normals, each dimension once in each of ``count`` equal shares.

    A Latin hypercube (McKay, Beckman and Conover 1979): in many dimensions the recurrence of
    :func:`normals` moves neighbours together, independent permutations do not. Moments are as
    exact as there.
    """
    rng = np.random.default_rng(seed)
    places = np.stack([rng.permutation(count) for _ in range(size)], axis=1)
    return _exact(ndtri((places + 0.5) / count))


def _exact(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    count, size = normal.shape
    normal = normal - normal.mean(0)
    if count > 2 * size:
        lower = np.linalg.cholesky(normal.T @ normal / count)
        out = np.asarray(np.linalg.solve(lower, normal.T).T)
    else:
        out = np.asarray(normal / normal.std(0))
    out.flags.writeable = False
    return out
