"""Quantile bins of sparse columns: what is present is binned, what is absent is not stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 254
"""Bins of present values; bin 0 means absent, so that a bin fits into one byte."""


@dataclass(frozen=True)
class BinnedColumns:
    """A table in compressed columns with one byte a present value.

    Attributes:
        column_ptr: ``(p + 1,)`` int64, where each column starts in ``rows`` and ``bins``.
        rows: ``(nnz,)`` int32 row ids, ascending within a column.
        bins: ``(nnz,)`` uint8 bins from 1; an absent value has no entry.
        cut_ptr: ``(p + 1,)`` int64, where each column's cut points start.
        cuts: float32 cut points; bin ``b`` of a column holds values in ``(cut[b-2], cut[b-1]]``.
        n_rows: number of rows.
    """

    column_ptr: NDArray[np.int64]
    rows: NDArray[np.int32]
    bins: NDArray[np.uint8]
    cut_ptr: NDArray[np.int64]
    cuts: NDArray[np.float32]
    n_rows: int

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.column_ptr) - 1

    def threshold(
        self, columns: NDArray[np.integer], bins: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Largest value that still falls into a bin; infinite for a column's last bin."""
        columns = np.asarray(columns, dtype=np.int64)
        position = self.cut_ptr[columns] + np.asarray(bins, dtype=np.int64) - 1
        inside = position < self.cut_ptr[columns + 1]
        result = np.full(len(columns), np.inf, dtype=np.float32)
        result[inside] = self.cuts[position[inside]]
        return result


def cut_points(
    values: NDArray[np.float32], weights: NDArray[np.float64], max_bins: int = MAX_BINS
) -> NDArray[np.float32]:
    """Cut points of one column from its present values.

    Up to ``max_bins`` distinct values get a bin each; more are cut into bins of about equal weight.
    A cut lies half-way between its neighbours, so that unseen values go to the nearer side.
    """
    return _cut(values, weights, max_bins)[0]


def _cut(
    values: NDArray[np.float32], weights: NDArray[np.float64], max_bins: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut points of one column, and the bin of each value, from 1."""
    # sorting pairs of (value, place) is a stable order, and faster than asking for one
    place = np.arange(len(values), dtype=np.uint64)
    key = np.sort((_sortable(values) << np.uint64(32)) | place)
    order = (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    distinct = ordered[starts]
    if len(distinct) <= max_bins:
        last = np.arange(len(distinct) - 1)
    else:
        mass = np.cumsum(np.add.reduceat(weights[order], starts))
        bin_of = np.minimum(
            (mass * (max_bins / mass[-1]) * (1 - 1e-12)).astype(np.int64), max_bins - 1
        )
        last = np.flatnonzero(bin_of[1:] != bin_of[:-1])
    opens = np.zeros(len(values), dtype=np.uint8)
    opens[starts[last + 1]] = 1
    bins = np.empty(len(values), dtype=np.uint8)
    bins[order] = np.cumsum(opens, dtype=np.uint8) + np.uint8(1)
    return _between(distinct[last], distinct[last + 1]), bins


def _sortable(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Whole numbers below 2^32 in the order of the values; both zeros are one."""
    bits = (values + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    return np.where(bits >= sign, ~bits, bits | sign).astype(np.uint64)


def bin_columns(
    column_ptr: NDArray[np.integer],
    rows: NDArray[np.int32],
    values: NDArray[np.float32],
    weights: NDArray[np.float64],
    n_rows: int,
    max_bins: int = MAX_BINS,
) -> BinnedColumns:
    """Bins every column of a table in compressed sparse columns.

    Args:
        column_ptr: ``(p + 1,)`` column starts.
        rows: ``(nnz,)`` row of each present value.
        values: ``(nnz,)`` present values, finite.
        weights: ``(n_rows,)`` weight of each row, positive.
        n_rows: number of rows.
        max_bins: most bins a column gets.
    """
    sizes = np.diff(column_ptr)
    bins = np.empty(len(rows), dtype=np.uint8)
    counts = np.zeros(len(sizes), dtype=np.int64)
    long = np.flatnonzero(sizes > max_bins)
    pieces: list[NDArray[np.float32]] = []
    for column in long:
        start, end = column_ptr[column], column_ptr[column + 1]
        present = values[start:end]
        cuts_here, bins[start:end] = _cut(present, weights[rows[start:end]], max_bins)
        pieces.append(cuts_here)
        counts[column] = len(pieces[-1])
    is_short = np.repeat(sizes <= max_bins, sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)[is_short]
    short_bins, short_owner, short_cuts = _rank_bins(owner, values[is_short])
    bins[is_short] = short_bins
    counts += np.bincount(short_owner, minlength=len(sizes))
    cut_ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    cuts = np.empty(cut_ptr[-1], dtype=np.float32)
    of_short = np.repeat(sizes <= max_bins, counts)
    cuts[of_short] = short_cuts
    if pieces:
        cuts[~of_short] = np.concatenate(pieces)
    return BinnedColumns(
        np.ascontiguousarray(column_ptr, dtype=np.int64), rows, bins, cut_ptr, cuts, n_rows
    )


def _rank_bins(
    owner: NDArray[np.int64], values: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
    """Bins of many columns that have too few values to share bins, all at once.

    Takes the column of each value; gives each value's bin, and the columns and places of the cuts.
    """
    # columns are in order already, and equal values share a bin: any order of theirs will do
    order = np.argsort((owner.astype(np.uint64) << np.uint64(32)) | _sortable(values))
    column, ordered = owner[order], values[order]
    opens = np.ones(len(order), dtype=bool)  # a new column
    opens[1:] = column[1:] != column[:-1]
    rises = np.zeros(len(order), dtype=bool)  # a new value of the same column
    rises[1:] = ~opens[1:] & (ordered[1:] != ordered[:-1])
    climbed = np.cumsum(rises)
    bins = np.empty(len(order), dtype=np.uint8)
    bins[order] = climbed - climbed[opens][np.cumsum(opens) - 1] + 1 if len(order) else 0
    at = np.flatnonzero(rises)
    return bins, column[at], _between(ordered[at - 1], ordered[at])


def _between(lower: NDArray[np.float32], upper: NDArray[np.float32]) -> NDArray[np.float32]:
    """Middle of neighbours, below the upper one even where they are neighbouring floats."""
    middle = ((lower.astype(np.float64) + upper.astype(np.float64)) / 2).astype(np.float32)
    return np.where(middle >= upper, lower, middle).astype(np.float32)
