"""Quantiles around any point forecast: a planner's spreadsheet, an old system, one formula.

    python examples/distribution_engine.py

The Distribution Engine needs past forecasts and what then happened, nothing else. Here the point
forecast is the mean of the last eight weeks.
"""

from __future__ import annotations

import numpy as np

from foretell.data import Panel
from foretell.data.simulators import shop
from foretell.evaluation.metrics import coverage
from foretell.learners.demand.legacy import DistributionEngine

HORIZON = 6
LEVELS = np.array([0.1, 0.5, 0.9])


def point_forecast(panel: Panel, back: int) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts (N, K) made ``back`` weeks before the end, and the level (N,) they start from."""
    past = panel.cut(back)
    recent = past.windows(np.arange(len(past)), past.lengths, 8)  # (N, 8), NaN before the begin
    level = np.nanmean(recent, axis=1)
    return np.repeat(level[:, None], HORIZON, axis=1), level


def main() -> np.ndarray:
    """Returns the share of outcomes (Q,) at or below each quantile."""
    panel, _ = shop(items=30, stores=3, weeks=120, horizon=HORIZON, new_share=0.0, seed=5)
    ids = list(panel.ids)
    category = panel.static_categorical["category"].codes

    # Rolling origins before the test window: forecasts as they were made then, and the outcomes.
    origins = range(2 * HORIZON, 14 * HORIZON, HORIZON)
    points, levels = zip(*(point_forecast(panel, back) for back in origins), strict=True)
    outcomes = [panel.outcomes(ids, panel.ends - back, HORIZON) for back in origins]
    engine = DistributionEngine().fit(
        np.concatenate(points),
        np.concatenate(outcomes),
        groups=[np.tile(category, len(origins))],
        level=np.concatenate(levels),
        cutoffs=np.concatenate([panel.ends - back for back in origins]),
    )

    point, level = point_forecast(panel, HORIZON)
    quantiles = engine.apply(point, LEVELS, groups=[category], level=level)
    shares = coverage(panel.outcomes(ids, panel.ends - HORIZON, HORIZON), quantiles)
    for wanted, found in zip(LEVELS, shares, strict=True):
        print(f"quantile {wanted:.1f}: {found:.3f} of the outcomes lie at or below it")
    return shares


if __name__ == "__main__":
    main()
