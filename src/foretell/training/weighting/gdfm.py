"""How much each signal of the generalized delayed feedback model counts (Yang & Zhan 2022)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError


def conditional_entropy(signal: ArrayLike, label: ArrayLike) -> float:
    """Empirical ``H(Y | A)`` in nats of binary labels ``(n,)`` given a discrete signal ``(n,)``."""
    _, codes = np.unique(np.asarray(signal), return_inverse=True)
    positive = np.asarray(label) > 0
    if not len(codes):
        return 0.0
    values = codes.max() + 1
    sides = [np.bincount(codes[side], minlength=values) for side in (~positive, positive)]
    counts = np.stack(sides, axis=1)
    joint = counts / counts.sum()
    marginal = joint.sum(axis=1, keepdims=True)
    ratio = np.divide(marginal, joint, out=np.ones_like(joint), where=joint > 0)
    return float((joint * np.log(ratio)).sum())


def signal_weights(
    ages: ArrayLike, entropies: ArrayLike, *, alpha: float = 2.0, beta: float = 1.0
) -> NDArray[np.float64]:
    """Weight of each signal ``(J, S)``: informative and early ones count the most.

    ``exp(-beta age / max age) exp(-alpha H / max H)``, divided by their mean; then signals of age
    ``j`` of ``J`` are divided by ``J - j``, since an entity brings them again at every later age.

    Args:
        ages: ``(J,)`` ascending, in any unit.
        entropies: ``(J, S)`` entropy of the label given each signal.
        alpha: how strongly uninformative signals are discounted.
        beta: how strongly late ones are.

    Raises:
        ParameterError: ages that do not ascend, or another number of them.
    """
    ages, entropies = np.asarray(ages, np.float64), np.asarray(entropies, np.float64)
    if entropies.ndim != 2 or len(ages) != len(entropies):
        raise ParameterError(
            f"entropies must have shape (ages, signals), not {entropies.shape} for {len(ages)} ages"
        )
    if (np.diff(ages) <= 0).any() or ages[0] < 0 or ages[-1] <= 0:
        raise ParameterError(f"ages of signals must ascend from 0 or above, not {ages.tolist()}")
    highest = entropies.max()
    share = entropies / highest if highest > 0 else np.zeros_like(entropies)
    weights = np.exp(-beta * ages / ages[-1])[:, None] * np.exp(-alpha * share)
    weights /= weights.mean()
    return weights / np.arange(len(ages), 0, -1)[:, None]
