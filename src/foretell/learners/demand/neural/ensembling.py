"""Causal ensembling over forecast creation dates: yesterday's forecast still knows something.

"Forking-Sequences" (arXiv 2510.04487): the forecasts of one date that were made at several
earlier dates are combined; all of them were available at the newest one. It steadies forecasts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

EnsembleMethod = Literal["mean", "median", "ewm"]


def ensemble_origins(
    quantiles: NDArray[np.float32], method: EnsembleMethod = "mean", decay: float = 0.5
) -> NDArray[np.float32]:
    """Combines forecasts of the same dates, level by level.

    Args:
        quantiles: (B, E + 1, K, Q): the newest forecast, the one made a period before it, ...
        method: how; ``"ewm"`` weighs each older forecast ``decay`` times the next newer one.
        decay: see above.

    Returns:
        (B, K, Q). Period k of the newest forecast meets period k + i of the one i periods older;
        where that lies beyond its horizon, the older one is left out.
    """
    if method not in ("mean", "median", "ewm"):
        raise ParameterError(f"unknown ensemble method {method!r}: one of mean, median, ewm")
    batch, count, horizon, levels = quantiles.shape
    if count == 1:
        return quantiles[:, 0]
    aligned = np.full((batch, count, horizon, levels), np.nan, np.float32)
    for age in range(min(count, horizon)):
        aligned[:, age, : horizon - age] = quantiles[:, age, age:]
    if method == "median":
        return np.nanmedian(aligned, axis=1).astype(np.float32)
    weights = np.ones(count) if method == "mean" else decay ** np.arange(count)
    there = ~np.isnan(aligned)
    weighted = np.where(there, aligned, 0) * weights[:, None, None]
    total = (there * weights[:, None, None]).sum(axis=1)
    combined = (weighted.sum(axis=1) / total).astype(np.float32)
    return np.maximum.accumulate(combined, axis=-1)
