"""The area under the ROC curve, as a score to stop training by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auroc(scores: NDArray, label: NDArray) -> float:
    """Chance that a positive row is ranked above a negative one; ties count half.

    NaN where a class is missing. Intervals over patients are in ``foretell.evaluation.clinical``.
    """
    positive = np.asarray(label) == 1
    count = int(positive.sum())
    rest = len(positive) - count
    if count == 0 or rest == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))
