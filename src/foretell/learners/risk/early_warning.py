"""A bedside score of all hours of stays, beside the models it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.clinical.features import carry_forward
from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError
from foretell.learners.risk.scores import SCORES, EarlyWarning, Missing


@dataclass
class EarlyWarningScore(BaseEstimator):
    """A bedside score of every hour of stays, from the last known values.

    Args:
        score: ``"news2"``, ``"sirs"`` or ``"qsofa"``.
        missing: see :func:`foretell.learners.risk.scores.news2`.
        carry: whether the last value stands until the next; else only the hour's own values count.
    """

    score: str = "news2"
    missing: Missing = "normal"
    carry: bool = True

    def fit(self, stays: Stays, y: None = None) -> EarlyWarningScore:
        """Nothing is learned; for scikit-learn's sake."""
        return self

    def evaluate(self, stays: Stays) -> EarlyWarning:
        """The score of each row (R,) with its bounds.

        Raises:
            ParameterError: there is no such score.
        """
        if self.score not in SCORES:
            raise ParameterError(f"no score is called {self.score!r}; known are {list(SCORES)}")
        matrix = carry_forward(stays) if self.carry else stays.matrix()
        columns = {name: matrix[:, i] for i, name in enumerate(stays.schema.names)}
        return SCORES[self.score](columns, missing=self.missing)

    def predict(self, stays: Stays) -> NDArray[np.float64]:
        """(R,) the points of each row."""
        return self.evaluate(stays).points
