"""Score bins and uncertainty levels (score x uncertainty partition).

Edges are observed values and a bin holds what is at or above its edge, so tied values never fall
into two cells and a decision does not depend on rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds import kernels

Binning = Literal["score_then_uncertainty", "uncertainty_then_score"]
Spacing = Literal["geometric", "equal"]
BINNINGS = ("score_then_uncertainty", "uncertainty_then_score")
MINIMUM_CELL = 50
TOP_MASS = 0.002


@dataclass(frozen=True, eq=False)
class Partition:
    """Which uncertainty level a (score, uncertainty) pair belongs to.

    Args:
        score_edges: (R - 1,) ascending lower edges of all score regions but the lowest.
        level_edges: (R, K - 1) lower edges of all levels but the most certain, for each region.
        missing: whether NaN uncertainties have a level of their own, number K.
    """

    score_edges: NDArray[np.float64]
    level_edges: NDArray[np.float64]
    missing: bool = False

    @property
    def n_regions(self) -> int:
        """Score regions R."""
        return len(self.score_edges) + 1

    @property
    def n_levels(self) -> int:
        """Levels K, the one of missing uncertainties included."""
        return self.level_edges.shape[1] + 1 + self.missing

    def locate(
        self, score: NDArray[np.float64], uncertainty: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Score region and level (n,) of each pair."""
        bins = np.empty(len(score), np.int32)
        levels = np.empty(len(score), np.int32)
        kernels.locate(score, uncertainty, self.score_edges, self.level_edges, bins, levels)
        return bins, levels


def weight_ranks(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the weight before each row, (n,)."""
    total = np.cumsum(weight)
    return (total - weight) / total[-1]


def geometric_masses(n_bins: int, top: float = TOP_MASS) -> NDArray[np.float64]:
    """Upper-tail masses of the bin edges, from 1 down to ``top`` in equal ratios, (n_bins,)."""
    if n_bins == 1:
        return np.ones(1)
    return np.geomspace(1.0, top, n_bins)


def score_edges(
    score: NDArray[np.float64],
    weight: NDArray[np.float64],
    n_bins: int,
    minimum: int,
    spacing: Spacing = "geometric",
    step: int | None = None,
) -> NDArray[np.float64]:
    """Lower edges of the score bins but the lowest, ascending and distinct, (at most n_bins - 1,).

    Args:
        score: (n,) scores.
        weight: (n,) weights; masses are shares of their sum.
        n_bins: bins wanted; fewer come back where scores tie or bins would be too small.
        minimum: rows that every bin must hold.
        spacing: "geometric": dense at the top, the highest bin holding 0.2 % where rows suffice;
            "equal": all bins of equal mass.
        step: rows of every bin but the lowest, which holds the remainder; overrides ``spacing``.
    """
    n = len(score)
    n_bins = max(1, min(n_bins, n // max(1, minimum)))
    if n_bins == 1:
        return np.empty(0)
    order = np.argsort(score, kind="stable")[::-1]
    ordered = score[order]
    mass = np.cumsum(weight[order])
    mass /= mass[-1]
    if step is not None:
        wanted = mass[np.arange(1, n_bins) * step - 1]
    elif spacing == "equal":
        wanted = np.arange(1, n_bins) / n_bins
    else:
        wanted = geometric_masses(n_bins)[:0:-1]
    # rows of the upper tail down to each edge
    tails = np.searchsorted(mass, wanted * (1 - 1e-12), side="left") + 1
    edges: list[float] = []
    last = 0
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1  # tails tied rows allow
    for tail in tails:
        tail = max(int(tail), last + minimum)
        at = int(np.searchsorted(ends, tail))
        if at >= len(ends) or n - ends[at] < minimum:
            break
        last = int(ends[at])
        edges.append(float(ordered[last - 1]))
    return np.array(edges[::-1])


def level_edges(
    uncertainty: NDArray[np.float64],
    weight: NDArray[np.float64],
    region: NDArray[np.int32],
    n_regions: int,
    n_levels: int,
) -> NDArray[np.float64]:
    """Quantile edges of the uncertainty inside every score region, (R, K - 1).

    NaN is left out. A region without rows gets +inf: whatever comes is at its most certain level.
    """
    edges = np.full((n_regions, n_levels - 1), np.inf)
    if n_levels == 1:
        return edges
    order = np.argsort(region, kind="stable")
    order = order[~np.isnan(uncertainty[order])]
    bounds = np.searchsorted(region[order], np.arange(n_regions + 1))
    wanted = np.arange(1, n_levels) / n_levels
    for r in range(n_regions):
        rows = order[bounds[r] : bounds[r + 1]]
        rows = rows[np.argsort(uncertainty[rows], kind="stable")]
        if len(rows):
            ranks = weight_ranks(weight[rows])
            at = np.minimum(np.searchsorted(ranks, wanted - 1e-12), len(rows) - 1)
            doubt = uncertainty[rows]
            # rows tied at the least uncertainty are the most certain level, however many they are
            above = int(np.searchsorted(doubt, doubt[0], side="right"))
            following = doubt[above] if above < len(doubt) else np.inf
            edges[r] = np.where(doubt[at] == doubt[0], following, doubt[at])
    return edges


def merge_empty_levels(
    edges: NDArray[np.float64], level: NDArray[np.int32], n_levels: int
) -> NDArray[np.float64]:
    """Drops the edges of levels that no row falls into: equal quantile edges merge levels."""
    count = np.bincount(level[level < n_levels], minlength=n_levels)
    dropped = {max(k - 1, 0) for k in range(n_levels) if count[k] == 0}
    keep = [e for e in range(n_levels - 1) if e not in dropped]
    return np.ascontiguousarray(edges[:, keep])


def partition(
    score: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    n_levels: int,
    n_bins: int,
    binning: Binning = "score_then_uncertainty",
    minimum: int = MINIMUM_CELL,
    spacing: Spacing = "geometric",
    step: int | None = None,
    missing: bool = False,
) -> Partition:
    """The uncertainty levels of a hold-out.

    Args:
        score: (n,) finite scores.
        uncertainty: (n,) uncertainties, NaN allowed where ``missing``.
        weight: (n,) weights.
        n_levels: K quantile levels of the uncertainty.
        n_bins: score regions in which quantiles are taken (one for "uncertainty_then_score").
        binning: "score_then_uncertainty" takes quantiles of the uncertainty inside each score
            region: a level then says "certain for such a score". "uncertainty_then_score" takes
            them over all rows, where the many low scores rule.
        minimum: rows wanted in each (region, level).
        spacing: of the regions.
        step: rows of every (region, level) but the lowest.
        missing: give NaN uncertainties a level of their own.
    """
    if binning == "uncertainty_then_score":
        edges = np.empty(0)
    else:
        edges = score_edges(
            score, weight, n_bins, minimum * n_levels, spacing, step and step * n_levels
        )
    region = np.searchsorted(edges, score, side="right").astype(np.int32)
    cuts = level_edges(uncertainty, weight, region, len(edges) + 1, n_levels)
    found = Partition(edges, cuts, missing)
    _, level = found.locate(score, uncertainty)
    return Partition(edges, merge_empty_levels(cuts, level, n_levels), missing)
