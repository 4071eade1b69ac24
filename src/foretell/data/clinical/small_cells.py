"""Which features so few patients have that what is told of them tells of single ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_PATIENTS = 10
"""Patients behind each statistic of a feature, and each value of a reference distribution."""


class PatientCounts:
    """Counts of each feature the patients who have it, as far as it takes to know that enough do.

    Args:
        features: number F of them.
        least: patients that are enough.
    """

    def __init__(self, features: int, least: int = LEAST_PATIENTS) -> None:
        self._least = least
        self._open = np.arange(features)
        self._had: list[set[int]] = [set() for _ in range(features)]
        self._all: set[int] = set()

    def add(self, present: NDArray[np.bool_], owner: NDArray[np.int64]) -> None:
        """Takes hours.

        Args:
            present: (R, F) whether the patient of an hour has the feature in it.
            owner: (R,) number of the patient; hours of one stand together, or in several groups.
        """
        if not len(owner):
            return
        begins = np.flatnonzero(np.diff(owner, prepend=owner[0] - 1))
        whose = owner[begins]
        if len(self._all) < self._least:
            self._all.update(whose.tolist())
        there = np.logical_or.reduceat(present[:, self._open], begins, axis=0)
        for column, feature in enumerate(self._open):
            self._had[feature].update(whose[there[:, column]].tolist())
        enough = [len(self._had[feature]) >= self._least for feature in self._open]
        self._open = self._open[~np.array(enough, bool)]

    def few(self) -> NDArray[np.bool_]:
        """(F,) features that some patients have, but not enough of them.

        None where there are not enough patients in all: whatever is learned from them tells of
        single ones.
        """
        out = np.zeros(len(self._had), bool)
        if len(self._all) >= self._least:
            out[[f for f in self._open if self._had[f]]] = True
        return out
