"""ROC curves by counting, with ties as steps of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from foretell.decisions.thresholds import clopper_pearson
from foretell.errors import DataError

FloatArray = NDArray[np.float64]


class OperatingPoint(NamedTuple):
    """What an attack finds when it may be wrong about so many non-members.

    Attributes:
        fpr: the false-positive rate that is allowed.
        tpr: share of members found at most that rate; None where ``fpr`` times the number of
            non-members is below 1, so that nothing can be said.
        low: lower end of the 95% Clopper-Pearson interval of ``tpr``, at this threshold.
        high: upper end.
        low_count: whether fewer than 10 non-members stand behind the rate.
    """

    fpr: float
    tpr: float | None
    low: float | None
    high: float | None
    low_count: bool


class Curve(NamedTuple):
    """Numbers of non-members and members at or above each threshold, from none to all.

    Attributes:
        false: ``(P,)`` non-members called members.
        true: ``(P,)`` members called members.
        thresholds: ``(P,)``; the first is infinite.
    """

    false: NDArray[np.int64]
    true: NDArray[np.int64]
    thresholds: FloatArray

    @property
    def fpr(self) -> FloatArray:
        """False-positive rates ``(P,)``."""
        return self.false / self.false[-1]

    @property
    def tpr(self) -> FloatArray:
        """True-positive rates ``(P,)``."""
        return self.true / self.true[-1]


def check_scores(scores: ArrayLike, membership: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Scores and membership ``(n,)`` as arrays.

    Raises:
        DataError: lengths differ, a score is not finite, or there are only members or none.
    """
    values, member = np.asarray(scores, np.float64), np.asarray(membership)
    if values.ndim != 1 or values.shape != member.shape:
        raise DataError(
            f"scores {values.shape} and membership {member.shape} must be two vectors of one length"
        )
    if member.dtype != bool:
        if not np.isin(member, (0, 1)).all():
            raise DataError("membership must be true or false")
        member = member.astype(bool)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(f"a score is {values[bad[0]]}", row=int(bad[0]))
    if not member.any() or member.all():
        raise DataError("an attack is judged on members and non-members: one of them is missing")
    return values, member


def roc(scores: ArrayLike, membership: ArrayLike) -> Curve:
    """The ROC curve; examples of equal score are called together.

    Raises:
        DataError: see :func:`check_scores`.
    """
    values, member = check_scores(scores, membership)
    order = np.argsort(-values, kind="stable")
    ranked, inside = values[order], member[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    true = np.append(0, np.cumsum(inside)[last])
    false = np.append(0, np.cumsum(~inside)[last])
    return Curve(false, true, np.append(np.inf, ranked[last]))


def auc(scores: ArrayLike, membership: ArrayLike) -> float:
    """Chance that a member scores above a non-member, ties counted half (mid-ranks).

    Raises:
        DataError: see :func:`check_scores`.
    """
    values, member = check_scores(scores, membership)
    inside = int(member.sum())
    total = float(rankdata(values)[member].sum()) - inside * (inside + 1) / 2
    return total / (inside * (len(values) - inside))


def operating_point(curve: Curve, fpr: float) -> OperatingPoint:
    """The largest true-positive rate at a false-positive rate of at most ``fpr``."""
    outside, inside = int(curve.false[-1]), int(curve.true[-1])
    expected = fpr * outside
    if expected < 1 - 1e-9:
        return OperatingPoint(fpr, None, None, None, True)
    place = int(np.searchsorted(curve.false, expected + 1e-9, side="right")) - 1
    found = int(curve.true[place])
    low, high = clopper_pearson(found, inside)
    return OperatingPoint(fpr, found / inside, float(low), float(high), expected < 10)
