"""What is kept of a sample's distribution, and how far another one is from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, kstwobign

_GRID, _TINY = 200, 1e-4
Doubles = NDArray[np.float64]


def bins_for(most: int, people: int, behind: int) -> int:
    """How many bins so many people fill, where each is to have ``behind`` of them."""
    return most if behind == 1 else max(1, min(most, people // behind))


def equal_bins(values: Doubles, bins: int) -> tuple[Doubles, Doubles]:
    """Inner borders (B - 1,) of bins that hold equal shares of values, and the shares (B,)."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    return edges, _shares(values, edges)


def stability_index(values: Doubles, edges: Doubles, shares: Doubles) -> float:
    """Population stability index of values against the shares of :func:`equal_bins`.

    An empty bin counts as half a value: of few values one is soon empty, and its logarithm would
    be most of the index.
    """
    now = np.maximum(_shares(values, edges), max(_TINY, 0.5 / len(values)))
    before = np.maximum(shares, _TINY)
    return float(((now - before) * np.log(now / before)).sum())


def index_by_chance(bins: int, size: int, people: int, level: float) -> float:
    """The stability index that is exceeded by chance at a level, where nothing has changed.

    It is near a chi-squared of ``bins - 1`` degrees times ``1 / size + 1 / people`` (Yurdakul,
    Statistical properties of population stability index, 2018), so that of few it is large.

    Args:
        bins: of the index.
        size: how many count in the reference.
        people: how many count now.
        level: inside (0, 1).
    """
    return float(chi2.isf(level, max(bins - 1, 1)) * (1 / size + 1 / people))


def steps(values: Doubles, behind: int = 1, people: int | None = None) -> tuple[Doubles, Doubles]:
    """Ascending values (G,), 200 at most, and the distribution (G,) there.

    Args:
        values: (n,) at least one.
        behind: people for each of them; with more than one the ends of the sample are not told.
        people: whose values they are; of one each by default.
    """
    shares = np.linspace(0, 1, _GRID)
    if behind > 1:
        count = len(values) if people is None else people
        points = int(np.clip(count // behind, 1, _GRID))
        shares = np.arange(1, points + 1) / (points + 1)
    grid = np.unique(np.quantile(values, shares))
    return grid, _below(values, grid)


def step_distance(
    values: Doubles, grid: Doubles, cdf: Doubles, size: int, people: int | None = None
) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance from :func:`steps` of ``size`` values.

    Args:
        values: (n,) at least one.
        grid: (G,) of the steps.
        cdf: (G,) of the steps.
        size: how many values count on their side.
        people: how many count on this one; all by default.

    Returns:
        The distance, and how likely one as large is by chance.
    """
    distance = float(np.abs(_below(values, grid) - cdf).max())
    count = len(values) if people is None else people
    both = count * size / (count + size)
    return distance, float(kstwobign.sf(distance * np.sqrt(both)))


def _shares(values: Doubles, edges: Doubles) -> Doubles:
    place = np.searchsorted(edges, values, side="left")
    return np.asarray(np.bincount(place, minlength=len(edges) + 1) / len(values), np.float64)


def _below(values: Doubles, grid: Doubles) -> Doubles:
    return np.asarray(np.searchsorted(np.sort(values), grid, side="right") / len(values))
