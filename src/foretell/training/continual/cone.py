"""The nearest vector that opposes none of a few others, by the dual of its quadratic programme."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from foretell.errors import ParameterError

_RANK = 1e-12
"""Relative to the largest eigenvalue: below it directions of the unit references count as none."""


def multipliers(gram: ArrayLike, against: ArrayLike, margin: float = 0.0) -> NDArray[np.float64]:
    """Weights ``v`` of the references ``G`` with which ``g + G' v`` opposes none of them.

    Solves ``min_v 1/2 v' G G' v + g' G' v`` over ``v >= margin`` (Lopez-Paz and Ranzato 2017,
    eq. 11, and the paragraph below it for the margin). At the optimum every inner product of
    ``g + G' v`` with a reference is at least 0, and is 0 where ``v`` is above the margin. With a
    margin of 0 that is the nearest such vector to ``g``.

    The programme has one variable a reference, so it is solved exactly, by active sets: as
    least squares with non-negative unknowns, on a root of the Gram matrix of references of unit
    length. References may depend on each other or be zero; those weigh the margin.

    Args:
        gram: ``(k, k)`` inner products ``G G'`` of the references.
        against: ``(k,)`` inner products ``G g`` with the vector.
        margin: least weight.

    Raises:
        ParameterError: shapes do not fit, or a number is not finite.
    """
    products, inner = np.asarray(gram, np.float64), np.asarray(against, np.float64)
    if inner.ndim != 1 or products.shape != (len(inner), len(inner)):
        raise ParameterError(
            f"gram must be (k, k) and against (k,), not {products.shape} and {inner.shape}"
        )
    if not (np.isfinite(products).all() and np.isfinite(inner).all() and np.isfinite(margin)):
        raise ParameterError("inner products and the margin must be finite")
    found = np.full(len(inner), float(margin))
    used = np.flatnonzero(np.diag(products) > 0)
    if not len(used):
        return found
    length = np.sqrt(np.diag(products)[used])
    unit = products[np.ix_(used, used)] / np.outer(length, length)
    # In w = length * (v - margin) >= 0: min 1/2 w' unit w + slope' w = 1/2 |root w - goal|^2 + ...
    slope = (inner[used] + margin * products[np.ix_(used, used)].sum(1)) / length
    values, vectors = np.linalg.eigh(unit)
    full = values > _RANK * values[-1]
    root = np.sqrt(values[full])[:, None] * vectors[:, full].T
    goal = -(vectors[:, full].T @ slope) / np.sqrt(values[full])
    found[used] += nnls(root, goal)[0] / length
    return found
