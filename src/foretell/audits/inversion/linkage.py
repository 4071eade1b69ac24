"""Finding a patient among stored representations: which is his, and whether any is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.audits.membership import auc

FloatArray = NDArray[np.float32]
_AT_ONCE = 512
_SILENT = 1e-8
_SHRUNK = 0.05
"""Of the covariance of representations towards its diagonal: the attacker's rows are few."""


class Linkage(NamedTuple):
    """Shares of true representations that are linked to a stored one of the same patient.

    Attributes:
        nearest: by the smallest distance.
        likely: by the largest likelihood under Gaussian noise; None where there is no noise.
        by_chance: of an attacker who draws a stored representation.
    """

    nearest: float
    likely: float | None
    by_chance: float

    @property
    def best(self) -> float:
        """That of the better attack."""
        return max(self.nearest, self.likely or 0.0)


def linkage(
    hidden: FloatArray,
    patients: NDArray[np.int64],
    stored: FloatArray,
    stored_patients: NDArray[np.int64],
    noise: NDArray[np.float64],
    known: FloatArray,
) -> Linkage:
    """What somebody who knows true representations of patients finds among the stored ones.

    The attacker has the exact features of an hour, those of other patients, and the first layer,
    which is in the bundle.

    Args:
        hidden: (Q, D) true representations that are asked for.
        patients: (Q,) whose they are.
        stored: (M, D) representations as stored.
        stored_patients: (M,) whose they are.
        noise: (D,) variance of what was added to each unit.
        known: (A, D) true representations of the attacker's own rows.
    """
    likely = likely_rate(hidden, patients, stored, stored_patients, noise, known)
    _, place, count = np.unique(stored_patients, return_inverse=True, return_counts=True)
    share = dict(zip(stored_patients.tolist(), (count / len(stored))[place], strict=True))
    return Linkage(
        linkage_rate(hidden, patients, stored, stored_patients),
        likely,
        float(np.mean([share.get(p, 0.0) for p in patients.tolist()])),
    )


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


def likely_rate(
    hidden: FloatArray,
    patients: NDArray[np.int64],
    stored: FloatArray,
    stored_patients: NDArray[np.int64],
    noise: NDArray[np.float64],
    known: FloatArray,
) -> float | None:
    """Share whose likeliest stored vector is of the same patient; None where there is no noise.

    A stored vector s is the noisy h with ``log N(s; h, noise) - log N(s; m, V + noise)``, where m
    and V are mean and covariance of representations, which the attacker learns from his own rows.
    A distance also counts how much noise s happens to have along axes where patients hardly differ:
    hundreds of such axes drown what the others say. Arguments as :func:`linkage`.
    """
    heard = noise > _SILENT * max(float(noise.max(initial=0.0)), _SILENT)
    if not heard.any() or len(known) < 2:
        return None
    unit = np.sqrt(noise[heard])
    s, h, own = stored[:, heard] / unit, hidden[:, heard] / unit, known[:, heard] / unit
    middle = own.mean(axis=0)
    variance = (own - middle).T @ (own - middle) / len(own)
    variance = (1 - _SHRUNK) * variance + _SHRUNK * np.diag(np.diag(variance))
    variance[np.diag_indices_from(variance)] += 1.0
    apart = s - middle
    of_all = (apart * np.linalg.solve(variance, apart.T).T).sum(axis=1)
    score = (s**2).sum(axis=1) - of_all
    found = [
        (score - 2 * h[at : at + _AT_ONCE] @ s.T).argmin(axis=1)
        for at in range(0, len(h), _AT_ONCE)
    ]
    return float((stored_patients[np.concatenate(found)] == patients).mean())


def sigma_for(
    hidden: FloatArray,
    patients: NDArray[np.int64],
    allowed: float,
    rng: np.random.Generator,
    *,
    asked: int = 2000,
) -> float | None:
    """Gaussian noise, in standard deviations of each unit, that links no more than is allowed.

    Found by trying it on the true representations, rounded up to a tenth. None where noise of 64
    would not do.

    Args:
        hidden: (M, D) true representations of all that is stored.
        patients: (M,) whose they are.
        allowed: share of :class:`Linkage`.
        rng: of the noise that is tried.
        asked: of how many patients' hours.
    """
    spread = hidden.std(axis=0, dtype=np.float64)
    some = rng.choice(len(hidden), min(asked, len(hidden)), replace=False)
    drawn = rng.standard_normal(hidden.shape, np.float32)

    def holds(sigma: float) -> bool:
        stored = np.asarray(hidden + drawn * (sigma * spread), np.float32)
        added = (sigma * spread) ** 2
        found = linkage(hidden[some], patients[some], stored, patients, added, hidden)
        return found.best <= allowed

    least = least_that_holds(holds, 0.25, 64.0)
    return None if least is None else float(np.ceil(10 * least) / 10)


def units_for(
    hidden: FloatArray,
    stored: FloatArray,
    patients: NDArray[np.int64],
    noise: NDArray[np.float64],
    allowed: float,
    rng: np.random.Generator,
    *,
    asked: int = 2000,
) -> int | None:
    """Of how many of the units, drawn by chance, no more than is allowed would be linked.

    Noise on each stays as it is. None where not even two would do. Arguments as
    :func:`sigma_for` and :func:`linkage`.
    """
    some = rng.choice(len(hidden), min(asked, len(hidden)), replace=False)
    order = rng.permutation(hidden.shape[1])

    def holds(divided: float) -> bool:
        kept = order[: max(2, int(len(order) / divided))]
        found = linkage(
            hidden[some][:, kept], patients[some], stored[:, kept], patients, noise[kept],
            hidden[:, kept],
        )  # fmt: skip
        return found.best <= allowed

    divisor = least_that_holds(holds, 1.0, len(order) / 2)
    return None if divisor is None else max(2, int(len(order) / divisor))


def membership_auc(members: FloatArray, others: FloatArray, stored: FloatArray) -> float:
    """How well closeness to a stored vector tells hours that are stored from those that are not.

    0.5 is chance.
    """
    scores = np.concatenate([-nearest(members, stored)[1], -nearest(others, stored)[1]])
    truth = np.concatenate([np.ones(len(members), bool), np.zeros(len(others), bool)])
    return float(auc(scores, truth))


def least_that_holds(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """The least number between two at which something holds, from above, within a twentieth."""
    if not holds(high):
        return None
    while high > 1.05 * low:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
