"""Closed forms of the snapshot corrections: weights of rows whose label may still change.

Seen at age a, an entity that converted (Y = 1, delay D <= a) is certain, one that did not is either
a real negative or a fake one. With P the law of the features x and final labels, the weight of a
row is P(x, y) / Q(x, y), where Q is what is visible at the snapshot:

* a visible positive stands for all positives like it, ``1 / P(D <= a | Y = 1, x)``;
* an unlabelled row is a negative with probability ``P(Y = 0 | D > a, x)``.

This is FSIW (Yasui et al., WWW 2020). In a funnel the same holds of every step from a stage A to
the next stage B, learned on the entities that are seen to have reached A. These engaged early, and
who engages early converts more often than who engages late. Weighing positives by
``1 / P(D_B <= a | B, x)`` and the others by ``P(not B | D_A <= a < D_B, x) / P(D_A <= a | A, not
B, x)`` gives exactly the law of all entities that ever reach A: for positives, D_B <= a implies
D_A <= a, so that one probability covers both events; for the others the two factors multiply to
``P(A, not B | x)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def step_weights(
    observed: ArrayLike,
    p_observed: ArrayLike,
    p_final: ArrayLike,
    p_selected: ArrayLike = 1.0,
    *,
    clip: float = 0.05,
    floor: float = 1e-6,
) -> FloatArray:
    """Weights (n,) of the rows of one step of a funnel; FSIW where the step starts at exposure.

    Args:
        observed: (n,) whether the next stage is seen.
        p_observed: (n,) probability that it is seen by now, of those who reach it.
        p_final: (n,) probability that an entity that has not reached it by now never will.
        p_selected: (n,) probability of being among the rows by now, of those who reach this
            stage and never the next; 1 for the first step.
        clip: least value of the two probabilities that divide; no weight exceeds its inverse.
        floor: least weight.
    """
    positive = 1.0 / np.clip(p_observed, clip, 1.0)
    negative = np.clip(p_final, floor, 1.0) / np.clip(p_selected, clip, 1.0)
    return np.where(np.asarray(observed, bool), positive, negative)


def soft_weights(
    visible: ArrayLike, p_flip: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int8], FloatArray]:
    """Splits rows whose label may change: position (m,), label (m,) and weight (m,) of the parts.

    A row is kept with the label that is visible and the weight ``1 - p_flip``, and joined, where
    ``p_flip > 0``, by one with the other label and the weight ``p_flip``. The soft label of ULC
    (Wang et al., 2023), as rows that any estimator with weights can learn from.
    """
    label = np.asarray(visible, np.int8)
    flip = np.clip(np.asarray(p_flip, np.float64), 0.0, 1.0)
    stays, flips = np.flatnonzero(flip < 1), np.flatnonzero(flip > 0)
    return (
        np.concatenate([stays, flips]),
        np.concatenate([label[stays], 1 - label[flips]]).astype(np.int8),
        np.concatenate([1 - flip[stays], flip[flips]]),
    )
