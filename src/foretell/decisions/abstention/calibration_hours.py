"""Which hours a gate is calibrated on, and what a model's hidden layer is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.labels import target
from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.calibration import Guarantee, patients_of_hours, thinned
from foretell.errors import DataError

_AT_ONCE = 50_000

Represent = Callable[[Stays], NDArray]
"""(R, D) of a hidden layer of the model, for every hour of stays."""


class CalibrationHours(NamedTuple):
    """Hours of R that a gate is calibrated on.

    Args:
        usable: (R,) whether the onset is still ahead or never comes, and no rule is broken.
        labels: (R,) 1 where it comes within the horizon.
        patients: (R,) number of the patient.
        rows: (n,) ascending numbers of usable hours: all of them, or some of too many.
    """

    usable: NDArray[np.bool_]
    labels: NDArray[np.int8]
    patients: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        stays: Stays,
        invalid: NDArray[np.bool_],
        *,
        horizon: float,
        most: int,
        guarantee: Guarantee,
        rng: np.random.Generator,
    ) -> Self:
        """Chooses hours of stays with their onset.

        Args:
            stays: of calibration patients.
            invalid: (R,) whether a rule is broken.
            horizon: hours within which the onset counts.
            most: how many rows, see :func:`some_of`.
            guarantee: of the test that is calibrated.
            rng: of the choice.
        """
        wanted = target(stays, horizon)
        usable = wanted.at_risk & ~invalid
        patients = patients_of_hours(stays)
        rows = some_of(
            usable, most, rng, labels=wanted.label, patients=patients, guarantee=guarantee
        )
        return cls(usable, wanted.label, patients, rows)

    @property
    def both_classes(self) -> bool:
        """Whether there are usable hours of either class."""
        return len(np.unique(self.labels[self.usable])) == 2


def some_of(
    usable: NDArray[np.bool_],
    most: int,
    rng: np.random.Generator,
    *,
    labels: NDArray | None = None,
    patients: NDArray | None = None,
    guarantee: Guarantee = "rows",
) -> NDArray[np.int64]:
    """Ascending numbers of usable rows; of more than ``most`` so many, the positive ones first.

    Args:
        usable: (R,) mask.
        most: how many; about so many where patients count.
        rng: of the choice.
        labels: (R,) 1 for rows that are taken first; None for none.
        patients: (R,) whose rows they are; needed for guarantees that count patients.
        guarantee: what must still hold of the rest, see :func:`thinned`.
    """
    rows = np.flatnonzero(usable)
    if len(rows) <= most:
        return rows
    kept = np.zeros(0, np.int64) if labels is None else rows[labels[rows] == 1][:most]
    others = np.setdiff1d(rows, kept, assume_unique=True)
    if patients is not None and guarantee != "rows":
        more = thinned(others, patients[others], max(most - len(kept), 1), guarantee, rng)
    else:
        more = rng.choice(others, most - len(kept), replace=False)
    return np.sort(np.concatenate([kept, more]))


def hidden_layer(
    represent: Represent, stays: Stays, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(n, D) hidden layer of the hours with ascending numbers ``rows``, chunk by chunk.

    Raises:
        DataError: there is no such hour.
    """
    parts, at = [], 0
    for chunk in stays.chunks(_AT_ONCE):
        low, high = np.searchsorted(rows, (at, at + chunk.n_rows))
        if high > low:
            parts.append(np.asarray(represent(chunk), np.float32)[rows[low:high] - at])
        at += chunk.n_rows
    if not parts:
        raise DataError("there is no hour to learn a hidden layer from")
    return np.concatenate(parts)
