"""What a gate says of hours: a score, or the first reason why there is none."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.decisions.abstention.conformal import PredictionSets
from foretell.decisions.abstention.quality import RULES, Quality


class Status(IntEnum):
    """What the gate says of an hour."""

    OK = 0
    INVALID_INPUT = 1
    OUT_OF_DISTRIBUTION = 2
    AMBIGUOUS = 3

    @property
    def indeterminate(self) -> bool:
        """Whether no score is given."""
        return self in (Status.INVALID_INPUT, Status.OUT_OF_DISTRIBUTION)


class Gated(NamedTuple):
    """What the gate says of R hours.

    Args:
        status: (R,) int8, see :class:`Status`; the first reason that holds.
        score: (R,) the score; NaN where the status is indeterminate. An ambiguous hour keeps its
            score: it is a reason to measure more, not to be silent.
        p_values: (R, 2) conformity with either class.
        quality: what the rules say.
        may_alarm: (R,) whether the hour may raise an alarm; one that may not keeps its score.
    """

    status: NDArray[np.int8]
    score: NDArray[np.float64]
    p_values: NDArray[np.float64]
    quality: Quality
    may_alarm: NDArray[np.bool_]

    @property
    def issued(self) -> NDArray[np.bool_]:
        """(R,) whether a score is given."""
        return ~np.isnan(self.score)

    def reasons(self, row: int) -> list[str]:
        """Why, in words that can be shown beside the patient."""
        told = [RULES[name] for name in self.quality.reasons(row)]
        if self.status[row] == Status.INVALID_INPUT and not self.quality.invalid[row]:
            told.append("the model gave no number")
        if self.status[row] == Status.OUT_OF_DISTRIBUTION:
            told.append("the measurements are unlike those the model was validated on")
        if self.status[row] == Status.AMBIGUOUS:
            told.append("the measurements do not decide; another one may")
        if self.issued[row] and not self.may_alarm[row]:
            told.append("the measurements are unlike those before an onset: no alarm is raised")
        return told

    def to_polars(self) -> pl.DataFrame:
        """``status``, ``hours``, ``share``: how often the gate said what."""
        counts = np.bincount(self.status, minlength=len(Status))
        return pl.DataFrame(
            {
                "status": [s.name.lower() for s in Status],
                "hours": counts,
                "share": counts / max(len(self.status), 1),
            }
        )


def verdict(
    quality: Quality,
    scores: NDArray[np.float64],
    p_values: NDArray[np.float64],
    *,
    alpha: float,
    sets: PredictionSets | None = None,
    alarm_level: float | None = None,
) -> Gated:
    """What is said of R hours: broken input comes before strange, and strange before ambiguous.

    Args:
        quality: what the rules say.
        scores: (R,) of the model; one that is not finite counts as broken input.
        p_values: (R, 2) conformity with either class.
        alpha: an hour that conforms to no class at this level is strange.
        sets: an hour whose set has both classes is ambiguous; None for no such status.
        alarm_level: conformity with the hours before an onset that an alarm needs; None for none.
    """
    status = np.full(len(scores), Status.OK, np.int8)
    broken = quality.invalid | ~np.isfinite(scores)
    if sets is not None:
        usable = np.flatnonzero(~broken)
        status[usable[sets.ambiguous(scores[usable])]] = Status.AMBIGUOUS
    status[p_values.max(1) < alpha] = Status.OUT_OF_DISTRIBUTION
    status[broken] = Status.INVALID_INPUT
    silent = (status == Status.INVALID_INPUT) | (status == Status.OUT_OF_DISTRIBUTION)
    may_alarm = ~silent
    if alarm_level is not None:
        may_alarm &= p_values[:, 1] >= alarm_level
    return Gated(status, np.where(silent, np.nan, scores), p_values, quality, may_alarm)
