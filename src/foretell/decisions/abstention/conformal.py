"""Conformal tests: is this input like those on which the model was validated?

With p-values of calibration rows, class by class (Mondrian), the share of rejected rows of *each*
class is bounded under exchangeability: sick patients, who look strange because they are sick, are
not rejected more often than promised. Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
World, 2005, chapter 4; Shashikumar et al., npj Digital Medicine 4:134, 2021 (COMPOSER).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.abstention.nonconformity import Nonconformity, nonconformity
from foretell.errors import (
    ArtefactError,
    DataError,
    ForetellError,
    NotFittedError,
    ParameterError,
)
from foretell.learners.artefact import load_artefact, save_artefact

MIN_POSITIVES = 200
"""Calibration rows that a class needs to have p-values of its own."""


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """(m,) ``(1 + #{calibration >= score}) / (n + 1)``: small where a score is strangely large.

    Ties count against strangeness, so that the test never rejects more than it promises.

    Args:
        calibration: (n,) scores of rows that are known to be in order.
        scores: (m,) to be judged.
    """
    return _p_values(np.sort(np.asarray(calibration, np.float64)), scores)


def _p_values(ascending: NDArray[np.float64], scores: ArrayLike) -> NDArray[np.float64]:
    """As :func:`conformal_p_values`, of what is sorted once for all hours to come."""
    below = np.searchsorted(ascending, np.asarray(scores, np.float64), side="left")
    return np.asarray((1 + len(ascending) - below) / (len(ascending) + 1))


class OutOfDistribution(NamedTuple):
    """Result of the test.

    Args:
        rejected: (m,) bool, both p-values below ``alpha``.
        p_values: (m, 2) conformity with the rows of class 0 and of class 1.
    """

    rejected: NDArray[np.bool_]
    p_values: NDArray[np.float64]


class MondrianConformal:
    """Rejects inputs that conform with neither class at level ``alpha``.

    Args:
        score: ``"mahalanobis"``, ``"max_abs_z"``, ``"pca_residual"`` or ``"knn"``; on what, is the
            caller's choice: standardised inputs find wrong units and broken sensors, a hidden layer
            finds what the model has not seen.
        alpha: P(reject | class c) <= alpha for both classes, under exchangeability. Hours of one
            patient hang together, so that patients count, not hours: with few patients of a class
            the share is above alpha, in simulations 0.056 for 0.05 at 50 patients of 4 hours each,
            0.052 at 200, and more where long stays are the strange ones.

    Attributes:
        pooled: whether the classes share one set of calibration scores because one of them has
            fewer than 200 rows. The guarantee is then one for all rows together.
        calibration_: per class, ascending scores of the calibration rows.
    """

    def __init__(self, score: str = "mahalanobis", *, alpha: float = 0.05) -> None:
        if not 0 < alpha < 1:
            raise ParameterError(f"alpha must lie inside (0, 1), not {alpha}")
        self.score = score
        self.alpha = alpha
        self._measure: Nonconformity = nonconformity(score)
        self.calibration_: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self.pooled = False
        self._n_features = 0

    def fit(self, reference: ArrayLike, calibration: ArrayLike, labels: ArrayLike) -> Self:
        """Learns the measure from reference rows and calibrates it on others.

        Args:
            reference: (n, d) rows of training patients.
            calibration: (m, d) rows of other patients.
            labels: (m,) 0 or 1, of the calibration rows.

        Raises:
            DataError: a class has no calibration row, shapes do not fit, a value is not finite.
        """
        known = _rows("reference", reference)
        rows = _rows("calibration", calibration, known.shape[1])
        classes = np.asarray(labels)
        if classes.shape != (len(rows),) or not np.isin(classes, (0, 1)).all():
            raise DataError(f"labels must be {len(rows):,} values 0 or 1, not {classes.shape}")
        counts = np.bincount(classes.astype(np.int64), minlength=2)
        if not counts.all():
            raise DataError(
                f"class {int(np.argmin(counts))} has no calibration row",
                hint="Calibrate on more patients; a class without rows would be rejected blindly",
            )
        self._measure.fit(known)
        self._n_features = known.shape[1]
        return self._calibrate(self._measure(rows), classes)

    def recalibrate(self, calibration: ArrayLike, labels: ArrayLike) -> Self:
        """Takes newer calibration rows and leaves the measure as it is.

        Raises:
            DataError: as :meth:`fit`.
            NotFittedError: before :meth:`fit`.
        """
        self._require()
        rows = _rows("calibration", calibration, self._n_features)
        classes = np.asarray(labels)
        if classes.shape != (len(rows),) or len(np.unique(classes)) != 2:
            raise DataError("labels must hold both classes, one value a calibration row")
        return self._calibrate(self._measure(rows), classes)

    def _calibrate(self, scores: NDArray[np.float64], classes: NDArray) -> Self:
        self.pooled = bool(np.bincount(classes.astype(np.int64)).min() < MIN_POSITIVES)
        parts = [np.sort(scores if self.pooled else scores[classes == c]) for c in (0, 1)]
        self.calibration_ = (parts[0], parts[1])
        return self

    def test(self, rows: ArrayLike) -> OutOfDistribution:
        """Judges (m, d) rows.

        Raises:
            DataError: shapes do not fit, or a value is not finite.
            NotFittedError: before :meth:`fit`.
        """
        calibration = self._require()
        scores = self._measure(_rows("input", rows, self._n_features))
        p_values = np.stack([_p_values(part, scores) for part in calibration], axis=1)
        return OutOfDistribution(p_values.max(1) < self.alpha, p_values)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors."""
        calibration = self._require()
        arrays = {f"measure.{k}": v for k, v in self._measure.arrays().items()}
        arrays |= {"class0": calibration[0], "class1": calibration[1]}
        config = {
            "score": self.score,
            "alpha": self.alpha,
            "pooled": self.pooled,
            "features": self._n_features,
        }
        save_artefact(folder, type(self).__name__, config, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: it is damaged or something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        try:
            loaded = cls(config["score"], alpha=config["alpha"])
            loaded.pooled, loaded._n_features = bool(config["pooled"]), int(config["features"])
            found = {k.removeprefix("measure."): v for k, v in arrays.items() if k.startswith("m")}
            loaded._measure.restore(found)
            loaded._measure(np.zeros((1, loaded._n_features)))
            loaded.calibration_ = (sorted_scores(arrays["class0"]), sorted_scores(arrays["class1"]))
        except (LookupError, TypeError, ValueError, ForetellError) as error:
            raise ArtefactError(f"{folder} is not a readable {cls.__name__}: {error}") from error
        return loaded

    def _require(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.calibration_ is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit first")
        return self.calibration_


class PredictionSets:
    """Label-conditional conformal classification: ambiguous where both labels remain possible.

    The set of an input holds each class c whose p-value under ``1 - p(c | x)`` exceeds ``alpha``;
    it misses the true class in at most ``alpha`` of the rows of that class, under exchangeability.

    Args:
        alpha: share of misses per class.
    """

    def __init__(self, *, alpha: float = 0.1) -> None:
        if not 0 < alpha < 1:
            raise ParameterError(f"alpha must lie inside (0, 1), not {alpha}")
        self.alpha = alpha
        self.calibration_: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def fit(self, probabilities: ArrayLike, labels: ArrayLike) -> Self:
        """Calibrates on (n,) probabilities of class 1 and their labels.

        Raises:
            DataError: a class has no row, or a probability is outside [0, 1].
        """
        p, y = _probabilities(probabilities), np.asarray(labels)
        if y.shape != p.shape or set(np.unique(y).tolist()) != {0, 1}:
            raise DataError("labels must be one value 0 or 1 a probability, and hold both classes")
        self.calibration_ = (np.sort(p[y == 0]), np.sort(1 - p[y == 1]))
        return self

    def p_values(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """(m, 2) p-values of both labels.

        Raises:
            NotFittedError: before :meth:`fit`.
        """
        if self.calibration_ is None:
            raise NotFittedError("PredictionSets is not fitted: call fit first")
        p = _probabilities(probabilities)
        zero, one = self.calibration_
        return np.stack([_p_values(zero, p), _p_values(one, 1 - p)], axis=1)

    def sets(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """(m, 2) whether each label remains possible."""
        return self.p_values(probabilities) > self.alpha

    def ambiguous(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """(m,) whether both labels remain possible: a reason to measure more."""
        return np.asarray(self.sets(probabilities).all(1))


def sorted_scores(scores: NDArray) -> NDArray[np.float64]:
    """Saved calibration scores in order.

    Raises:
        ValueError: there is none, they are not of one dimension, or not finite.
    """
    found = np.asarray(scores, np.float64)
    if found.ndim != 1 or len(found) == 0 or not np.isfinite(found).all():
        raise ValueError("calibration scores must be finite numbers in one row")
    return np.sort(found)


def _rows(name: str, values: ArrayLike, features: int | None = None) -> NDArray[np.float64]:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or len(rows) == 0 or features not in (None, rows.shape[1]):
        wanted = "(n, d)" if features is None else f"(n, {features})"
        raise DataError(f"{name} rows must have shape {wanted}, not {rows.shape}")
    if not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).all(1)))
        raise DataError(
            f"a value of the {name} rows is not finite",
            row=row,
            hint="Standardise, and put 0 where nothing was measured",
        )
    return rows


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError("probabilities must be (n,) numbers in [0, 1]")
    return p
