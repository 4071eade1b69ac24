"""What is to be predicted, hour by hour: the challenge's label and the target some hours ahead."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError

CHALLENGE_LEAD = 6
"""Hours by which the challenge's label precedes the onset."""


class Target(NamedTuple):
    """What each row should predict.

    Args:
        label: (R,) int8, 1 where the onset comes within the horizon.
        at_risk: (R,) bool, rows before the onset; the others are neither trained on nor scored.
    """

    label: NDArray[np.int8]
    at_risk: NDArray[np.bool_]


def hours_to_onset(stays: Stays) -> NDArray[np.float64]:
    """(R,) hours from each row to the onset, negative after it; +inf in stays without one."""
    onset = np.where(np.isnan(stays.onset), np.inf, stays.onset)
    return np.repeat(onset, stays.lengths) - stays.hours()


def target(stays: Stays, horizon: float = 4) -> Target:
    """The label ``0 < t_onset - t <= horizon``; rows at or after the onset are not at risk.

    Args:
        stays: with their onset.
        horizon: in hours.

    Raises:
        ParameterError: the horizon is not positive.
    """
    if not horizon > 0:
        raise ParameterError(f"the horizon must be positive, not {horizon}")
    ahead = hours_to_onset(stays)
    at_risk = ahead > 0
    return Target((at_risk & (ahead <= horizon)).astype(np.int8), at_risk)


def challenge_label(stays: Stays, lead: float = CHALLENGE_LEAD) -> NDArray[np.int8]:
    """(R,) the label of the 2019 challenge: 1 from ``lead`` hours before the onset on."""
    return (hours_to_onset(stays) <= lead).astype(np.int8)


def onset_from_label(
    label: NDArray[np.int8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    lead: float = CHALLENGE_LEAD,
) -> NDArray[np.float64]:
    """(N,) onset on the unit's clock from the challenge's label: its first 1, plus ``lead``.

    A stay that is positive from its first row on may have begun earlier; as the official scorer
    does, its onset is still put ``lead`` hours after that row. :func:`septic_at_start` finds them.

    Raises:
        DataError: a label falls back from 1 to 0, or is neither 0 nor 1.
    """
    if len(label) and not np.isin(label, (0, 1)).all():
        row = int(np.argmin(np.isin(label, (0, 1))))
        raise DataError("a label is neither 0 nor 1", column="label", row=row)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    falls = np.flatnonzero(np.diff(label) < 0) + 1
    inside = falls[~np.isin(falls, offsets)]
    if len(inside):
        raise DataError(
            "a label falls back from 1 to 0",
            column="label",
            row=int(inside[0]),
            hint="An onset cannot be undone: correct the label",
        )
    sums = np.concatenate([[0], np.cumsum(label, dtype=np.int64)])
    positive = sums[offsets[1:]] - sums[offsets[:-1]]
    return np.where(positive > 0, starts + lengths - positive + lead, np.nan).astype(np.float64)


def septic_at_start(stays: Stays, lead: float = CHALLENGE_LEAD) -> NDArray[np.bool_]:
    """(N,) whether the challenge's label is 1 from the first row on: too late for early warning."""
    return stays.onset - lead <= stays.starts
