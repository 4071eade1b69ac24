"""Exact boundaries over score bins: EW-DPMT for equal bins, VW-DP for unequal ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds import kernels
from foretell.decisions.thresholds.binning import MINIMUM_CELL, Partition, score_edges
from foretell.decisions.thresholds.candidates import NEVER, Candidates, LevelCurves
from foretell.decisions.thresholds.holdout import HoldOut

EXACT_POSITIVES = 2**20
"""Positives up to which VW-DP counts them one by one; beyond, and with fractional weights, in units
of the total over this."""
MEMORY = 2**27
"""Entries of the back-pointers of the monotone programme."""


@dataclass(frozen=True, eq=False)
class BinTable:
    """What each level has at or above each boundary.

    Args:
        cuts: (K, L + 1) score thresholds; column ``j`` takes the top ``j`` bins, column 0 is +inf.
        hits: (K, L + 1) positive weight there.
        mass: (K, L + 1) weight there.
    """

    cuts: NDArray[np.float64]
    hits: NDArray[np.float64]
    mass: NDArray[np.float64]

    @property
    def n_bins(self) -> int:
        """Score bins L."""
        return self.cuts.shape[1] - 1


def bin_table(
    rows: HoldOut,
    level: NDArray[np.int32],
    cells: Partition,
    curves: LevelCurves,
    n_bins: int,
    binning: str,
    minimum: int = MINIMUM_CELL,
    step: int | None = None,
) -> BinTable:
    """Boundaries of the score bins and the counts of the deployed rule above them.

    With "score_then_uncertainty" the bins are the partition's regions, alike in all levels; with
    "uncertainty_then_score" every level is cut into bins of its own.
    """
    if binning == "score_then_uncertainty":
        lowest = rows.score.min()
        edges = np.concatenate([[NEVER], cells.score_edges[::-1], [lowest]])
        cuts = np.tile(edges, (cells.n_levels, 1))
    else:
        own = []
        for k in range(cells.n_levels):
            here = level == k
            if not here.any():
                own.append(np.array([NEVER]))
                continue
            inner = score_edges(rows.score[here], rows.weight[here], n_bins, minimum, step=step)
            own.append(np.concatenate([[NEVER], inner[::-1], [rows.score[here].min()]]))
        width = max(len(edges) for edges in own)
        # a level with fewer bins repeats its last boundary: bins without rows
        cuts = np.stack([np.pad(edges, (0, width - len(edges)), mode="edge") for edges in own])
    hits = np.zeros(cuts.shape)
    mass = np.zeros(cuts.shape)
    for k in range(len(cuts)):
        hits[k], mass[k] = curves.counts(k, cuts[k])
    return BinTable(cuts, hits, mass)


def _family(table: BinTable, index: NDArray[np.integer]) -> Candidates:
    """Boundaries (F, K) with the counts they truly have."""
    levels = np.arange(len(table.cuts))
    tp = table.hits[levels, index].sum(axis=1)
    n = table.mass[levels, index].sum(axis=1)
    taken = n > 0
    return Candidates(tuple(table.cuts), index[taken], tp[taken], n[taken])


def equal_bins(table: BinTable) -> bool:
    """Whether all bins weigh the same, the lowest ones excepted: they hold the remainder.

    A boundary that calls a whole level positive is counted with a full bin too many or too few for
    the remainder; it matters only where the target is near the base rate of the level.
    """
    sizes = np.diff(table.mass, axis=1)[:, :-1]
    return sizes.size > 0 and bool(np.all(sizes == sizes.flat[0]))


def equal_weight(table: BinTable, accounted: NDArray[np.float64] | None = None) -> Candidates:
    """EW-DPMT: the best boundary for every number of positive bins, in one pass.

    ``R[k, M] = max_j pi[k, j] + R[k-1, M-j]`` in O(K^2 L^2). Exact where all bins weigh the same;
    what the boundaries really have is counted afterwards, so that no candidate can be credited
    with a precision it lacks.

    Args:
        table: the deployed bins.
        accounted: (K, L + 1) positives the programme counts with: those of bins that ties were
            split over; ``table.hits`` if None.
    """
    gain = np.ascontiguousarray(table.hits if accounted is None else accounted)
    best, taken = kernels.equal_weight_programme(gain)
    left = np.flatnonzero(best >= 0)
    index = np.zeros((len(left), len(gain)), np.int32)
    for k in range(len(gain) - 1, -1, -1):
        index[:, k] = taken[k, left]
        left = left - index[:, k]
    return _family(table, index)


def variable_weight(table: BinTable, ordered: int | None = None) -> Candidates:
    """VW-DP: the least weight for every number of true positives, exact for unequal bins.

    ``best_k[T] = min_j best_{k-1}[T - pi[k, j]] + N[k, j]`` in O(K L P). Fractional weights, and
    more positives than can be counted, are rounded to units; candidates are then judged by what
    they truly have.

    Args:
        table: the deployed bins.
        ordered: with a number, thresholds never fall from one of the first so many levels to the
            next; the others are free.
    """
    levels, width = table.hits.shape
    total = float(table.hits[:, -1].sum())
    limit = EXACT_POSITIVES
    if ordered is not None:
        limit = min(limit, max(1000, MEMORY // (levels * width)))
    whole = bool(np.all(table.hits == np.rint(table.hits)))
    unit = 1.0 if whole and total <= limit else total / min(limit, 100_000)
    gain = np.ascontiguousarray(np.rint(table.hits / unit).astype(np.int64))
    if ordered is None:
        best, taken = kernels.variable_weight_programme(gain, np.ascontiguousarray(table.mass))
        left = np.flatnonzero(np.isfinite(best))
        index = np.zeros((len(left), levels), np.int32)
        for k in range(levels - 1, -1, -1):
            index[:, k] = taken[k, left]
            left = left - gain[k, index[:, k]]
        return _family(table, index)
    # free levels come first, with a rank that binds nobody
    order = np.concatenate([np.arange(ordered, levels), np.arange(ordered)])
    rank = np.searchsorted(np.unique(table.cuts), table.cuts).astype(np.int64)
    rank[ordered:] = -1
    gain, size, rank = (np.ascontiguousarray(a[order]) for a in (gain, table.mass, rank))
    best, taken = kernels.variable_weight_monotone_programme(gain, size, rank)
    last = best.argmin(axis=0)
    left = np.flatnonzero(np.isfinite(best.min(axis=0)))
    index = np.zeros((len(left), levels), np.int32)
    at = last[left]
    for k in range(levels - 1, -1, -1):
        index[:, order[k]] = at
        source = taken[k, at, left]
        left = left - gain[k, at]
        at = source.astype(np.int64)
    return _family(table, index)
