"""What each hourly prediction is worth under the utility of the 2019 challenge.

Reyna et al., Early Prediction of Sepsis From Clinical Data, Critical Care Medicine 48(2), 2020,
figure 2: an alarm earns most six hours before the onset and nothing after three hours; silence
near the onset costs up to two points, a false alarm one twentieth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.labels import CHALLENGE_LEAD
from foretell.errors import DataError, ParameterError


@dataclass(frozen=True)
class UtilityParameters:
    """The numbers of the utility; hours are counted from the onset.

    Args:
        early: hour at which an alarm begins to earn something.
        optimal: hour at which it earns ``best_alarm``.
        late: hour after which nothing counts any more.
        best_alarm: the most a true alarm earns.
        worst_silence: what silence costs at ``late``.
        false_alarm: what an alarm costs in a stay without onset, or too early.
        silence: what silence is worth in a stay without onset.
        lead: hours by which the label precedes the onset.
    """

    early: float = -12
    optimal: float = -6
    late: float = 3
    best_alarm: float = 1
    worst_silence: float = -2
    false_alarm: float = -0.05
    silence: float = 0
    lead: int = CHALLENGE_LEAD

    def __post_init__(self) -> None:
        if not self.early < self.optimal < self.late:
            raise ParameterError("early, optimal and late must ascend")


class UtilityRows(NamedTuple):
    """Utilities (R,) of each row: of an alarm, of silence, and of the best that could be done.

    ``alarm - silence`` is what predicting 1 gains: the target of utility regression.
    """

    alarm: NDArray[np.float64]
    silence: NDArray[np.float64]
    best: NDArray[np.float64]

    @property
    def gain(self) -> NDArray[np.float64]:
        """(R,) what an alarm gains over silence."""
        return self.alarm - self.silence


def challenge_utility_rows(
    label: ArrayLike, lengths: ArrayLike, parameters: UtilityParameters | None = None
) -> UtilityRows:
    """Utilities of both predictions for every hour, with the semantics of the official scorer.

    The onset of a stay is its first positive row plus ``lead`` rows. Rows more than ``late`` after
    it are worth nothing. The best predictions are 1 from ``early`` to ``late``, as far as the
    record reaches.

    Args:
        label: (R,) the challenge's label, 0 or 1, stay after stay.
        lengths: (N,) rows of each stay.
        parameters: of the utility, the challenge's by default.

    Raises:
        DataError: a label is neither 0 nor 1, or the lengths do not add up.
    """
    p = UtilityParameters() if parameters is None else parameters
    label = np.asarray(label)
    lengths = np.asarray(lengths, np.int64)
    if label.ndim != 1 or lengths.ndim != 1 or lengths.sum() != len(label):
        raise DataError(f"lengths add up to {lengths.sum():,} rows, there are {label.shape}")
    if len(label) and not np.isin(label, (0, 1)).all():
        row = int(np.argmin(np.isin(label, (0, 1))))
        raise DataError(
            f"a label is {label[row]!r}, not 0 or 1",
            column="label",
            row=row,
            hint="Leave stays without a known label out",
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    place = np.arange(len(label)) - np.repeat(offsets[:-1], lengths)
    first = np.full(len(lengths), np.iinfo(np.int64).max // 4)
    positive = np.flatnonzero(label)
    stay = np.searchsorted(offsets, positive, side="right") - 1
    np.minimum.at(first, stay, place[positive])
    septic = np.repeat(first < np.iinfo(np.int64).max // 8, lengths)
    onset = np.repeat(first + p.lead, lengths)
    d = (place - onset).astype(np.float64)
    rise, fall = p.best_alarm / (p.optimal - p.early), -p.best_alarm / (p.late - p.optimal)
    alarm = np.where(
        d <= p.optimal, np.maximum(rise * (d - p.early), p.false_alarm), fall * (d - p.late)
    )
    loss = p.worst_silence / (p.late - p.optimal)
    silence = np.where(d <= p.optimal, 0.0, loss * (d - p.optimal))
    counts = septic & (d <= p.late)
    alarm = np.where(septic, np.where(counts, alarm, 0.0), p.false_alarm)
    silence = np.where(septic, np.where(counts, silence, 0.0), p.silence)
    window = septic & (d >= p.early) & (d <= p.late)
    return UtilityRows(alarm, silence, np.where(window, alarm, silence))
