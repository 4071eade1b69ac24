"""Training rows: which (series, origin, horizon) to learn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import DataError
from foretell.learners.demand.features.pack import FeatureRows

BLOCK = 2_000_000


def sample_rows(
    panel: Panel,
    horizon: int,
    n: int,
    *,
    season: int,
    rng: np.random.Generator,
    early: float = 0.05,
    tilt: float = 0.0,
) -> tuple[FeatureRows, NDArray[np.float64], NDArray[np.float64]]:
    """Draws rows whose targets were observed, uniformly over targets and then over horizons.

    Args:
        panel: the training panel; every target lies in it, and every origin before its target.
        horizon: longest horizon K.
        n: number of rows, with replacement where there are fewer (target, horizon) pairs.
        season: m. Targets before one season have no seasonal reference.
        rng: generator.
        early: share of the rows drawn from such targets, so that new series are learned too.
        tilt: series are drawn in proportion to their mean absolute value to this power; the
            returned weights undo it.

    Returns:
        The rows, their targets (n,) in original units and their weights (n,).

    Raises:
        DataError: no series has two observations.
    """
    series, steps, firsts, sizes = _targets(panel)
    if series.size == 0:
        raise DataError("there is nothing to learn from: no series has two observed steps")
    late = steps - firsts >= season
    chance = np.ones(len(series))
    if 0 < late.sum() < late.size:
        chance[late] = (1 - early) / late.sum()
        chance[~late] = early / (~late).sum()
    tilted = np.maximum(sizes, 1e-3 * sizes.mean()) ** tilt if sizes.mean() > 0 else np.ones(1)
    chance *= np.broadcast_to(tilted, chance.shape)
    edges = np.cumsum(chance)
    # One draw in each of n equal slices: less noise than independent draws.
    draws = (np.arange(n) + rng.random(n)) / n * edges[-1]
    chosen = np.minimum(np.searchsorted(edges, draws, side="right"), len(series) - 1)
    longest = np.minimum(horizon, steps[chosen] - firsts[chosen])
    k = 1 + np.floor(rng.random(n) * longest).astype(np.int64)
    rows = FeatureRows(series[chosen], steps[chosen] - k, k)
    targets = panel.windows(rows.series, steps[chosen] + 1, 1)[:, 0].astype(np.float64)
    weights = 1.0 / np.broadcast_to(tilted, chance.shape)[chosen]
    return rows, targets, weights / weights.mean()


def _targets(panel: Panel) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Every usable target: its series, step, the series' first observed step and mean size."""
    length = int(panel.lengths.max(initial=1)) or 1
    block = max(1, BLOCK // length)
    parts = []
    for begin in range(0, len(panel), block):
        rows = np.arange(begin, min(begin + block, len(panel)))
        stops = np.full(len(rows), length, np.int64)
        y = panel.windows(rows, stops, length)
        seen = np.isfinite(y)
        if panel.censored is not None:
            seen &= ~panel.censored_windows(rows, stops, length)
        first = np.where(seen.any(axis=1), seen.argmax(axis=1), length)
        size = np.nansum(np.abs(np.where(seen, y, 0)), axis=1) / np.maximum(seen.sum(axis=1), 1)
        i, step = np.nonzero(seen & (np.arange(length)[None, :] > first[:, None]))
        parts.append((rows[i], step, first[i], size[i]))
    if not parts:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty, np.zeros(0)
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return joined[0], joined[1].astype(np.int64), joined[2].astype(np.int64), joined[3]
