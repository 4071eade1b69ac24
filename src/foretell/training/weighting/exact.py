r"""Exact importance weights of rows whose labels may still change.

An entity is emitted as a training row at ``t + e`` with the label it has then, and again each time
its label rises. If every entity is emitted once for each label it attains, a row ``(x, k)`` has,
up to one global constant, the exact importance weight

    ``w(x, k) = P(final label = k | a row (x, k) is emitted)``

because the density of rows ``(x, k)`` is ``p(x) P(row (x, k) emitted | x)``, and every entity of
final label ``k`` emits exactly one of them. Positives of a binary problem therefore always weigh
1, whatever was published: the published weights carry another factor, the number of rows an
entity emits, which leaves the pointwise optimum alone but fits a restricted model to a tilted
population.

Everything here is arithmetic on arrays or tensors of any shape that broadcasts: ``p`` is
``P(Y = 1 | x)``, ``survival`` is ``S_e(x) = P(D > e | Y = 1, x)``, ``delayed = p * survival``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foretell.errors import ParameterError
from foretell.training.weighting import published
from foretell.training.weighting.published import Values

EPSILON = 1e-6
"""Probabilities are kept this far from 0 and 1 before they enter a quotient."""


def clip_probability(values: Values, epsilon: float = EPSILON) -> Values:
    """Probabilities in ``[epsilon, 1 - epsilon]``."""
    if isinstance(values, Tensor):
        return values.clamp(epsilon, 1 - epsilon)
    return np.clip(values, epsilon, 1 - epsilon)


def real_negative(p: Values, delayed: Values) -> Values:
    """Probability that a row that looks negative at ``e`` is a real negative, ``p_rn(x)``."""
    return (1 - p) / (1 - p + delayed)


def observed_positive(p: Values, delayed: Values) -> Values:
    """Share of positives among the rows of a protocol with positive copies, ``p / (1 + p_dp)``."""
    return p / (1 + delayed)


def esdfm(label: Values, p_rn: Values) -> Values:
    """Weights of rows with positive copies: 1 for positives, ``p_rn`` for negatives."""
    return label + (1 - label) * p_rn


def fnw(label: Values, p: Values) -> Values:
    """Weights of rows emitted at once as negatives, copied on conversion (``e = 0``)."""
    return label + (1 - label) * (1 - p)


def defer(label: Values, p: Values, delayed: Values) -> Values:
    """Weights when every entity is emitted twice: at ``t + e``, and with its final label.

    The number of rows does not depend on x, so these are the published ones (Gu et al. 2021).
    """
    return published.defer(label, p, delayed)


def fnc(observed: Values, survival: Values = 1.0) -> Values:
    """Undoes the bias of a model trained without weights on rows with positive copies.

    ``b = p / (1 + p S)`` solved for ``p``; with ``survival = 1`` the ``b / (1 - b)`` of Ktena et
    al. (2019).
    """
    return observed / (1 - observed * survival)


def defuse(label: Values, copied: Values, p_rn: Values, delayed: Values) -> tuple[Values, Values]:
    """Masses on ``-log f`` and ``-log(1 - f)`` of each row: the published ones untilted.

    Args:
        label: 1 for positives.
        copied: 1 for the positive copies of delayed conversions.
        p_rn: probability that a negative row stays one.
        delayed: ``p_dp``.
    """
    positive, negative = published.defuse(label, copied, p_rn, delayed)
    return positive / (1 + delayed), negative / (1 + delayed)


def ddfm(
    label: Values, second: Values, p_rn: Values, p: Values, delayed: Values
) -> tuple[Values, Values]:
    """Masses of DDFM's rows, untilted: entities have masses ``1 + (1 - p + p_dp)``."""
    positive, negative = published.ddfm(label, second, p_rn, p, delayed)
    rows = 2 - p + delayed
    return positive / rows, negative / rows


def finality(probabilities: Values, survivals: Values) -> Values:
    """Weights of the rows of a funnel: the chance that the label a row carries was the final one.

    ``c_k = P_k / (P_k + S_k * (P_{k+1} + ... + P_K))`` over the labels that can follow ``k``.

    Args:
        probabilities: ``(..., K)`` of the final labels: (none, engaged, converted), and, where
            a conversion needs no engagement, (none, engaged, converted, converted without
            engagement). Two labels are the ordinary problem.
        survivals: ``(..., J)`` chance that an entity emits a row of label ``j`` given that its
            final label lies beyond ``j``, for the ``J`` labels that can still change: 1 of two,
            2 of three or four.

    Returns:
        ``(..., K)`` weights; 1 for labels that cannot change.

    Raises:
        ParameterError: numbers of labels and survivals that do not belong together.
    """
    states, changing = probabilities.shape[-1], survivals.shape[-1]
    if (states, changing) not in {(2, 1), (3, 2), (4, 2)}:
        raise ParameterError(
            f"{states} labels and {changing} survivals do not belong together: a funnel of 2 "
            "labels has 1, one of 3 or 4 has 2"
        )
    p, s = probabilities, survivals
    one = p[..., 0] * 0 + 1
    columns = [p[..., 0] / (p[..., 0] + s[..., 0] * (one - p[..., 0]))]
    if changing == 2:
        columns.append(p[..., 1] / (p[..., 1] + s[..., 1] * p[..., 2]))
    columns += [one] * (states - changing)
    return torch.stack(columns, -1) if isinstance(p, Tensor) else np.stack(columns, -1)


def effective_sample_size(weights: Values) -> float:
    """``(sum w)^2 / sum w^2`` of ``(m,)``: so many rows of equal weight would be worth the same."""
    total, squares = float((weights).sum()), float((weights * weights).sum())
    return total * total / squares if squares > 0 else 0.0
