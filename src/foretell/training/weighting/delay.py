"""Delay survival models: hazards over intervals, from which any ``P(D > s | Y = 1, x)`` follows.

The hazard of an interval is the chance that a converter that has not converted before it does so
in it: one yes-or-no event for each interval, known to those still at risk. Their product is the
survival (discrete-time survival analysis). The first interval ends at the waiting time, so that
``S_e`` is one event and not a product. Delays are in the log's unit; the intervals carry the scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import ParameterError

FloatArray = NDArray[np.float64]


def interval_edges(
    delays: FloatArray, waiting_time: float, window: float, intervals: int = 8
) -> FloatArray:
    """Edges ``(intervals + 1,)`` from 0 over the waiting time to the window.

    Beyond the waiting time they stand at quantiles of the delays seen there, apart by at least a
    thousandth of the window.

    Raises:
        ParameterError: fewer than two intervals, or a waiting time not in ``[0, window)``.
    """
    if intervals < 2 or not 0 <= waiting_time < window:
        raise ParameterError(
            f"{intervals} intervals, waiting time {waiting_time:g} and window {window:g}: at least "
            "2 intervals and 0 <= waiting time < window are needed"
        )
    later = delays[np.isfinite(delays) & (delays > waiting_time)]
    parts = np.linspace(0, 1, intervals)
    even = waiting_time + (window - waiting_time) * parts
    edges = (
        np.concatenate([[waiting_time], np.quantile(later, parts[1:-1]), [window]])
        if len(later)
        else even
    )
    gap = min(1e-3 * window, (window - waiting_time) / (2 * intervals))
    edges = waiting_time + np.maximum.accumulate(edges - waiting_time - gap * np.arange(len(edges)))
    edges = edges + gap * np.arange(len(edges))
    # Pushed apart from below; what was pushed beyond the window is pushed back from above.
    top = window - gap * np.arange(len(edges))[::-1]
    edges = np.minimum(edges, top)
    edges[0], edges[-1] = waiting_time, window
    return np.concatenate([[0.0], edges])


def hazard_targets(delays: FloatArray, edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Whether each delay falls into an interval ``(m, I)``, and whether it was still at risk.

    Intervals are open below and closed above, as "converted by e" is; the first holds 0 as well.
    """
    low, high = edges[:-1], edges[1:].copy()
    lower = low.copy()
    lower[0] = -np.inf
    risk = delays[:, None] > lower
    inside = risk & (delays[:, None] <= high)
    return inside.astype(np.float64), risk.astype(np.float64)


def survival(hazards: Tensor, edges: FloatArray, delay: float) -> Tensor:
    """``P(D > delay | Y = 1, x)`` ``(m,)`` of hazards ``(m, I)``.

    Within an interval the rate is constant.
    """
    if delay < 0:
        return hazards[:, 0] * 0 + 1
    low, high = edges[:-1], edges[1:]
    width = np.maximum(high - low, np.finfo(float).tiny)
    share = np.clip((delay - low) / width, 0.0, 1.0)
    share[0] = 1.0 if high[0] <= delay else share[0]
    result = hazards[:, 0] * 0 + 1
    for i, part in enumerate(share):
        if part > 0:
            result = result * (1 - hazards[:, i]).clamp(min=1e-12) ** float(part)
    if delay >= edges[-1]:
        return result * 0
    return result
