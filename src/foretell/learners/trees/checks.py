"""Checks of what users pass to the forest: parameters, levels, weights, groups."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

from foretell.errors import DataError, ParameterError


def require(value: Any, name: str, kind: type, low: float | None, high: float | None) -> None:
    """Refuses a parameter of the wrong kind or outside ``[low, high]``, by name."""
    if (
        not isinstance(value, kind)
        or isinstance(value, (bool, np.bool_))
        or not (low is None or value >= low)  # type: ignore[operator]
        or not (high is None or value <= high)  # type: ignore[operator]
    ):
        what = "a whole number" if kind is Integral else "a number"
        upper = "" if high is None else f" and at most {high}"
        raise ParameterError(f"{name}={value!r} must be {what} of at least {low}{upper}")


def require_finite(y: Any) -> None:
    """Names the row of a response that is not finite; other faults are left to scikit-learn."""
    if isinstance(y, (list, tuple, np.ndarray)) or hasattr(y, "to_numpy"):
        values = np.asarray(y)
        if values.ndim == 1 and values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                kind = "NaN" if np.isnan(values[bad[0]]) else "infinity"
                raise DataError(
                    f"Input y contains {kind}", row=int(bad[0]), hint="Leave such rows out."
                )


def quantile_levels(quantiles: float | Sequence[float]) -> NDArray[np.float64]:
    """Levels in [0, 1] as a vector."""
    levels = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    if levels.ndim != 1 or len(levels) == 0 or not ((levels >= 0) & (levels <= 1)).all():
        raise ParameterError(f"quantiles={quantiles!r} must be levels between 0 and 1")
    return levels


def row_weights(sample_weight: ArrayLike | None, X: Any) -> NDArray[np.float64]:
    """Weights as a vector: none negative, not all zero."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weight < 0).any():
        raise DataError("a negative sample weight", row=int(np.flatnonzero(weight < 0)[0]))
    if not (weight > 0).any():
        raise DataError("Sample weights must contain at least one non-zero number.")
    return weight


def group_labels(groups: ArrayLike, n: int) -> NDArray[Any]:
    """Labels as text, one a row."""
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise DataError(f"groups have shape {labels.shape}, expected ({n},)")
    return labels.astype(str)


def order_groups(
    labels: NDArray[Any], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> dict[str, float]:
    """Position of each group in the order of mean responses, so that cuts are good splits."""
    names, inverse = np.unique(labels, return_inverse=True)
    mean = np.bincount(inverse, weight * y) / np.bincount(inverse, weight)
    position = np.empty(len(names))
    position[np.argsort(mean, kind="stable")] = np.arange(len(names))
    return {str(name): float(place) for name, place in zip(names, position, strict=True)}
