"""Finding a patient among stored representations: by the nearest one, and whether at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.audits.membership import auc

FloatArray = NDArray[np.float32]
_AT_ONCE = 512


def nearest(
    queries: FloatArray, stored: FloatArray
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(Q,) number of the nearest stored vector, and the distance to it."""
    length = (stored.astype(np.float64) ** 2).sum(axis=1)
    which, far = [np.zeros(0, np.int64)], [np.zeros(0)]
    for at in range(0, len(queries), _AT_ONCE):
        part = queries[at : at + _AT_ONCE]
        gap = length - 2.0 * (part @ stored.T)
        which.append(gap.argmin(axis=1))
        far.append(gap.min(axis=1) + (part.astype(np.float64) ** 2).sum(axis=1))
    return np.concatenate(which), np.sqrt(np.maximum(np.concatenate(far), 0))


def linkage_rate(
    hidden: FloatArray,
    patients: NDArray[np.int64],
    stored: FloatArray,
    stored_patients: NDArray[np.int64],
) -> float:
    """Share of true representations whose nearest stored vector is of the same patient."""
    found, _ = nearest(hidden, stored)
    return float((stored_patients[found] == patients).mean())


def membership_auc(members: FloatArray, others: FloatArray, stored: FloatArray) -> float:
    """How well closeness to a stored vector tells hours that are stored from those that are not.

    0.5 is chance.
    """
    scores = np.concatenate([-nearest(members, stored)[1], -nearest(others, stored)[1]])
    truth = np.concatenate([np.ones(len(members), bool), np.zeros(len(others), bool)])
    return float(auc(scores, truth))
