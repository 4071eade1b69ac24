"""Calibration scores of rows that come in patients, and the p-values that each promise needs.

Hours of one patient hang together, so that patients are exchangeable and hours are not. What can be
promised then depends on of whom:

- ``"rows"``: ``(1 + #{s >= x}) / (n + 1)``, exact where rows are exchangeable, such as one hour a
  patient; the usual one (Vovk, Gammerman and Shafer, 2005).
- ``"hours"``: of all hours of new patients at most ``alpha``. With ``R_i`` of the ``n_i`` hours of
  patient i beyond a score, the loss ``R_i - alpha n_i`` falls as the score rises and is at most
  ``(1 - alpha) m`` for patients of at most m hours. Conformal risk control (Angelopoulos et al.,
  2022, Theorem 1) of its mean at 0 asks for ``sum(R_i - alpha n_i) + (1 - alpha) m <= 0``, which is
  ``(m + sum R_i) / (m + sum n_i) <= alpha``: the usual p-value with m in place of 1. Exact for
  exchangeable patients of at most m hours, m being the most that a calibration patient has.
- ``"patients"``: of an hour drawn at random from a new patient, whose patients count alike however
  long they stay: ``(1 + sum_i mean_j{s_ij >= x}) / (J + 1)`` for J patients. Exact for exchangeable
  patients (Lee, Barber and Willett, 2023, on Dunn, Wasserman and Ramdas, 2022): it is the mean over
  all ways to draw one hour a patient of the usual p-value, and spreads half as much as one draw.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError

Guarantee = Literal["rows", "hours", "patients"]


def checked(guarantee: str) -> Guarantee:
    """A guarantee by its name.

    Raises:
        ParameterError: there is none of this name.
    """
    for known in get_args(Guarantee):
        if guarantee == known:
            return known  # type: ignore[no-any-return]
    names = ", ".join(map(repr, get_args(Guarantee)))
    raise ParameterError(f"guarantee must be one of {names}, not {guarantee!r}")


def group_numbers(guarantee: Guarantee, patients: ArrayLike | None, size: int) -> NDArray | None:
    """(n,) numbers of the patients of rows; None where rows count by themselves.

    Raises:
        DataError: the guarantee needs to know the patients, and they are not one a row.
    """
    if guarantee == "rows":
        return None
    if patients is None:
        raise DataError(
            f"guarantee {guarantee!r} needs the patients of the calibration rows",
            hint="Give patients, one name or number a row",
        )
    names = np.asarray(patients)
    if names.shape != (size,):
        raise DataError(f"patients must be {size:,} names, one a row, not {names.shape}")
    return np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)[1]


class CalibrationScores(NamedTuple):
    """Scores of calibration rows, sorted once for all hours to come.

    Args:
        scores: (n,) ascending.
        weights: (n,) of the rows; None where each counts one.
        head: what counts for the row that is judged.
    """

    scores: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    head: float
    # (n + 1,) the head and the weights of all scores from each one on.
    above: NDArray[np.float64]

    @classmethod
    def of(
        cls, scores: ArrayLike, groups: NDArray | None = None, guarantee: Guarantee = "rows"
    ) -> Self:
        """Sorts scores (n,) of rows of the patients with numbers ``groups`` (n,)."""
        given = np.asarray(scores, np.float64)
        if groups is None or guarantee == "rows":
            return cls.restored(np.sort(given), None, 1.0)
        counts = np.bincount(groups)
        if guarantee == "hours":
            return cls.restored(np.sort(given), None, float(counts.max()))
        order = np.argsort(given, kind="stable")
        return cls.restored(given[order], 1.0 / counts[groups[order]], 1.0)

    @classmethod
    def restored(
        cls, scores: NDArray[np.float64], weights: NDArray[np.float64] | None, head: float
    ) -> Self:
        """From ascending scores with their weights."""
        if weights is None:
            above = head + np.arange(len(scores), -1, -1.0)
        else:
            above = head + np.concatenate([np.cumsum(weights[::-1])[::-1], [0.0]])
        return cls(scores, weights, head, above)

    @property
    def least(self) -> float:
        """The smallest p-value there is: at a level below it nothing is ever rejected."""
        return float(self.above[-1] / self.above[0])

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """(m,) p-values of scores (m,); ties count against strangeness."""
        place = np.searchsorted(self.scores, np.asarray(scores, np.float64), side="left")
        return np.asarray(self.above[place] / self.above[0])

    def arrays(self, name: str) -> dict[str, NDArray]:
        """What is saved, by names that begin with ``name``."""
        out: dict[str, NDArray] = {name: self.scores}
        if self.weights is not None:
            out[f"{name}_weights"] = self.weights
        if self.head != 1.0:
            out[f"{name}_head"] = np.array([self.head])
        return out

    @classmethod
    def read(cls, arrays: Any, name: str) -> Self:
        """From what :meth:`arrays` gave.

        Raises:
            ValueError: there is no score, or scores, weights or head are no positive numbers.
            LookupError: the scores are missing.
        """
        scores = np.asarray(arrays[name], np.float64)
        if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError("calibration scores must be finite numbers in one row")
        head = float(np.asarray(arrays.get(f"{name}_head", [1.0])).reshape(-1)[0])
        order = np.argsort(scores, kind="stable")
        weights = arrays.get(f"{name}_weights")
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            if weights.shape != scores.shape:
                raise ValueError("there is not one weight a calibration score")
            weights = weights[order]
        if not (np.isfinite(head) and head > 0) or not (
            weights is None or (np.isfinite(weights).all() and (weights > 0).all())
        ):
            raise ValueError("weights of calibration scores must be positive numbers")
        return cls.restored(scores[order], weights, head)


def thinned(
    rows: NDArray[np.int64],
    patients: NDArray,
    room: int,
    guarantee: Guarantee,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """About ``room`` of the rows, so that what a guarantee says still holds.

    For ``"hours"`` some patients are taken whole; for ``"patients"`` each one keeps some hours, so
    that those with few are not lost.

    Args:
        rows: (n,) numbers.
        patients: (n,) numbers of their patients.
        room: how many, at least 1.
        guarantee: not ``"rows"``, which may take any.
        rng: of the choice.
    """
    _, number, counts = np.unique(patients, return_inverse=True, return_counts=True)
    if guarantee == "hours" or len(counts) > room:
        share = room / len(rows) if guarantee == "hours" else room / len(counts)
        kept = rng.permutation(len(counts))[: max(int(len(counts) * share), 1)]
        there = np.isin(number, kept)
        rows, number = rows[there], number[there]
        if guarantee == "hours":
            return rows
        _, number, counts = np.unique(number, return_inverse=True, return_counts=True)
    most = np.arange(1, counts.max() + 1)
    fits = [int(np.minimum(counts, m).sum()) <= room for m in most]
    cap = int(most[fits][-1]) if any(fits) else 1
    order = np.lexsort((rng.random(len(rows)), number))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(rows)) - first[number[order]]
    return np.sort(rows[order[rank < cap]])


def patients_of_hours(stays: Stays) -> NDArray[np.int64]:
    """(R,) number of the patient of every hour of stays."""
    number = np.unique(stays.patients.astype(str), return_inverse=True)[1]
    return np.repeat(number, stays.lengths)
