"""Conformal tests: is this input like those on which the model was validated?

With p-values of calibration rows, class by class (Mondrian), the share of rejected rows of *each*
class is bounded under exchangeability: sick patients, who look strange because they are sick, are
not rejected more often than promised. Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
World, 2005, chapter 4; Shashikumar et al., npj Digital Medicine 4:134, 2021 (COMPOSER).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.abstention.calibration import (
    CalibrationScores,
    Guarantee,
    checked,
    group_numbers,
)
from foretell.decisions.abstention.nonconformity import Nonconformity, nonconformity
from foretell.errors import (
    DataError,
    NotFittedError,
    ParameterError,
)
from foretell.learners.artefact import load_artefact, readable, save_artefact

MIN_POSITIVES = 200
"""Calibration rows that a class needs to have p-values of its own."""


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """(m,) ``(1 + #{calibration >= score}) / (n + 1)``: small where a score is strangely large.

    Ties count against strangeness, so that the test never rejects more than it promises.

    Args:
        calibration: (n,) scores of rows that are known to be in order.
        scores: (m,) to be judged.

    Raises:
        DataError: there is no calibration score, or a score is not a number.
    """
    held, given = np.asarray(calibration, np.float64), np.asarray(scores, np.float64)
    if held.size == 0 or np.isnan(held).any() or np.isnan(given).any():
        raise DataError("p-values need calibration scores, and numbers on both sides")
    return CalibrationScores.of(held).p_values(given)


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
        alpha: P(reject | class c) <= alpha for both classes; of what, says ``guarantee``.
        guarantee: what is exchangeable, and of what at most ``alpha`` is rejected; see
            :mod:`foretell.decisions.abstention.calibration`. ``"rows"`` is exact for rows of
            patients of their own. Hours of one patient hang together, so that with few patients of
            a class more than ``alpha`` of the hours are rejected: for 0.05 in simulations with
            stays of 27 hours in the median 0.056 at 30 patients, 0.051 at 200, 0.050 at 1,000, and
            0.065 at 30 where long stays are the strange ones. ``"hours"`` holds for all hours of
            new patients and is cautious with few of them (0.000, 0.020, 0.042); ``"patients"``
            holds for a random hour of a random patient, in which long stays count no more than
            short ones: where they are the strange ones, nearly twice
            ``alpha`` of all hours may be rejected. Both need ``patients`` in :meth:`fit`.

    Attributes:
        pooled: whether the classes share one set of calibration scores because one of them has
            fewer than 200 rows. The guarantee is then one for all rows together.
    """

    def __init__(
        self, score: str = "mahalanobis", *, alpha: float = 0.05, guarantee: Guarantee = "rows"
    ) -> None:
        if not 0 < alpha < 1:
            raise ParameterError(f"alpha must lie inside (0, 1), not {alpha}")
        self.score = score
        self.alpha = alpha
        self.guarantee = checked(guarantee)
        self._measure: Nonconformity = nonconformity(score)
        self._calibrated: tuple[CalibrationScores, CalibrationScores] | None = None
        self.pooled = False
        self._n_features = 0

    @property
    def calibration_(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Per class, ascending scores of the calibration rows; None before :meth:`fit`."""
        held = self._calibrated
        return None if held is None else (held[0].scores, held[1].scores)

    @property
    def least_p(self) -> float:
        """The smallest p-value there is: where it is not below ``alpha``, nothing is rejected."""
        return max(part.least for part in self._require())

    def calibration_arrays(self) -> dict[str, NDArray]:
        """What was learned from the calibration rows, by name.

        Raises:
            NotFittedError: before :meth:`fit`.
        """
        zero, one = self._require()
        return zero.arrays("class0") | one.arrays("class1")

    def fit(
        self,
        reference: ArrayLike,
        calibration: ArrayLike,
        labels: ArrayLike,
        patients: ArrayLike | None = None,
    ) -> Self:
        """Learns the measure from reference rows and calibrates it on others.

        Args:
            reference: (n, d) rows of training patients.
            calibration: (m, d) rows of other patients.
            labels: (m,) 0 or 1, of the calibration rows.
            patients: (m,) of the calibration rows; needed for guarantees about patients.

        Raises:
            DataError: a class has no calibration row, shapes do not fit, a value is not finite.
        """
        known = _rows("reference", reference)
        rows = _rows("calibration", calibration, known.shape[1])
        classes = _labels(labels, len(rows))
        if len(known) < 2:
            raise DataError("one reference row says nothing of how rows differ")
        counts = np.bincount(classes.astype(np.int64), minlength=2)
        if not counts.all():
            raise DataError(
                f"class {int(np.argmin(counts))} has no calibration row",
                hint="Calibrate on more patients; a class without rows would be rejected blindly",
            )
        groups = group_numbers(self.guarantee, patients, len(rows))
        self._measure.fit(known)
        self._n_features = known.shape[1]
        return self._calibrate(self._measure(rows), classes, groups)

    def recalibrate(
        self, calibration: ArrayLike, labels: ArrayLike, patients: ArrayLike | None = None
    ) -> Self:
        """Takes newer calibration rows and leaves the measure as it is; arguments as :meth:`fit`.

        Raises:
            DataError: as :meth:`fit`.
            NotFittedError: before :meth:`fit`.
        """
        self._require()
        rows = _rows("calibration", calibration, self._n_features)
        classes = _labels(labels, len(rows))
        if len(np.unique(classes)) != 2:
            raise DataError("labels must hold both classes, one value a calibration row")
        groups = group_numbers(self.guarantee, patients, len(rows))
        return self._calibrate(self._measure(rows), classes, groups)

    def _calibrate(
        self, scores: NDArray[np.float64], classes: NDArray, groups: NDArray | None
    ) -> Self:
        self.pooled = bool(np.bincount(classes.astype(np.int64)).min() < MIN_POSITIVES)
        every = np.ones(len(scores), bool)
        self._calibrated = _both(
            scores, [every if self.pooled else classes == c for c in (0, 1)], groups, self.guarantee
        )
        return self

    def test(self, rows: ArrayLike) -> OutOfDistribution:
        """Judges (m, d) rows.

        Raises:
            DataError: shapes do not fit, or a value is not finite.
            NotFittedError: before :meth:`fit`.
        """
        calibration = self._require()
        scores = self._measure(_rows("input", rows, self._n_features))
        p_values = np.stack([part.p_values(scores) for part in calibration], axis=1)
        return OutOfDistribution(p_values.max(1) < self.alpha, p_values)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors."""
        held = self.calibration_arrays()
        arrays = {f"measure.{k}": v for k, v in self._measure.arrays().items()} | held
        config = {
            "score": self.score,
            "alpha": self.alpha,
            "pooled": self.pooled,
            "features": self._n_features,
        }
        if self.guarantee != "rows":
            config["guarantee"] = self.guarantee
        save_artefact(folder, type(self).__name__, config, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: it is damaged or something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            guarantee = config.get("guarantee", "rows")
            loaded = cls(config["score"], alpha=config["alpha"], guarantee=guarantee)
            loaded.pooled, loaded._n_features = bool(config["pooled"]), int(config["features"])
            found = {k.removeprefix("measure."): v for k, v in arrays.items() if k.startswith("m")}
            loaded._measure.restore(found)
            if not np.isfinite(loaded._measure(np.zeros((1, loaded._n_features)))).all():
                raise ValueError("the measure of strangeness gives no number")
            zero, one = (CalibrationScores.read(arrays, f"class{c}") for c in (0, 1))
            loaded._calibrated = zero, one
        return loaded

    def _require(self) -> tuple[CalibrationScores, CalibrationScores]:
        if self._calibrated is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit first")
        return self._calibrated


class PredictionSets:
    """Label-conditional conformal classification: ambiguous where both labels remain possible.

    The set of an input holds each class c whose p-value under ``1 - p(c | x)`` exceeds ``alpha``;
    it misses the true class in at most ``alpha`` of that class; of what, says ``guarantee``.

    Args:
        alpha: share of misses per class.
        guarantee: as :class:`MondrianConformal` has it.
    """

    def __init__(self, *, alpha: float = 0.1, guarantee: Guarantee = "rows") -> None:
        if not 0 < alpha < 1:
            raise ParameterError(f"alpha must lie inside (0, 1), not {alpha}")
        self.alpha = alpha
        self.guarantee = checked(guarantee)
        self._calibrated: tuple[CalibrationScores, CalibrationScores] | None = None

    def fit(
        self, probabilities: ArrayLike, labels: ArrayLike, patients: ArrayLike | None = None
    ) -> Self:
        """Calibrates on (n,) probabilities of class 1, their labels and, if needed, patients.

        Raises:
            DataError: a class has no row, or a probability is outside [0, 1].
        """
        p, y = _probabilities(probabilities), np.asarray(labels)
        if y.shape != p.shape or set(np.unique(y).tolist()) != {0, 1}:
            raise DataError("labels must be one value 0 or 1 a probability, and hold both classes")
        groups = group_numbers(self.guarantee, patients, len(p))
        strange = np.where(y == 1, 1 - p, p)
        self._calibrated = _both(strange, [y == 0, y == 1], groups, self.guarantee)
        return self

    def p_values(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """(m, 2) p-values of both labels.

        Raises:
            NotFittedError: before :meth:`fit`.
        """
        if self._calibrated is None:
            raise NotFittedError("PredictionSets is not fitted: call fit first")
        p = _probabilities(probabilities)
        zero, one = self._calibrated
        return np.stack([zero.p_values(p), one.p_values(1 - p)], axis=1)

    def arrays(self) -> dict[str, NDArray]:
        """What was learned, for saving; nothing before :meth:`fit`."""
        if self._calibrated is None:
            return {}
        zero, one = self._calibrated
        return zero.arrays("zero") | one.arrays("one")

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Takes back what :meth:`arrays` gave.

        Raises:
            LookupError: a part is missing.
            ValueError: a part is damaged.
        """
        zero, one = (CalibrationScores.read(arrays, n) for n in ("zero", "one"))
        self._calibrated = zero, one

    def sets(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """(m, 2) whether each label remains possible."""
        return self.p_values(probabilities) > self.alpha

    def ambiguous(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """(m,) whether both labels remain possible: a reason to measure more."""
        return np.asarray(self.sets(probabilities).all(1))


def _both(
    scores: NDArray[np.float64],
    parts: Sequence[NDArray[np.bool_]],
    groups: NDArray | None,
    guarantee: Guarantee,
) -> tuple[CalibrationScores, CalibrationScores]:
    """Calibration scores of both classes, each with patients of its own."""
    found = []
    for mine in parts:
        own = None if groups is None else np.unique(groups[mine], return_inverse=True)[1]
        found.append(CalibrationScores.of(scores[mine], own, guarantee))
    return found[0], found[1]


def _labels(values: ArrayLike, rows: int) -> NDArray:
    labels = np.asarray(values)
    if labels.shape != (rows,):
        raise DataError(f"labels must be {rows:,} values 0 or 1, not {labels.shape}")
    wrong = ~np.isin(labels, (0, 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"a label is {labels[row]}, not 0 or 1", column="labels", row=row)
    return labels


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
