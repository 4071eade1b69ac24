"""Empirical quantiles of errors in nested cells, each cell shrunk to its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

LARGEST = 20_000
"""Errors of a cell, on average, beyond which a random part of them is used."""

BLOCK = 8192
"""Cells whose quantiles are taken at a time."""


def weighted_quantiles(
    values: NDArray,
    weights: NDArray,
    cells: NDArray[np.int64],
    count: int,
    taus: NDArray[np.float64],
    overlap: float = 1.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Quantiles of weighted values in each cell, with the finite-sample rank.

    With equal weights and ``n`` values the ``tau`` quantile is the ``ceil((n + 1) tau)``-th
    smallest (the largest one where that exceeds ``n``), so that a new exchangeable value lies at
    or below it with probability at least ``tau``. Unequal weights use the effective number
    ``n = (sum w)^2 / sum w^2``.

    Args:
        values: (R,).
        weights: (R,) positive.
        cells: (R,) cell of each value in 0..count - 1.
        count: number of cells.
        taus: (L,) levels.
        overlap: how many values stand for one independent observation.

    Returns:
        Quantiles (count, L), NaN for an empty cell, and effective sizes (count,).
    """
    order = np.lexsort((values, cells))
    values, weights, cells = values[order], weights[order], cells[order]
    total = np.bincount(cells, weights, count)
    squares = np.bincount(cells, weights**2, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.where(squares > 0, total**2 / squares, 0.0) / overlap
        # Position of each value inside its cell as a number in (cell, cell + 1].
        within = np.cumsum(weights)
    last = np.cumsum(np.bincount(cells, minlength=count)) - 1
    before = np.r_[0.0, within[last[:-1]]] if count > 1 else np.zeros(1)
    before = np.where(last >= 0, before, 0.0)
    share = (within - before[cells]) / total[cells]
    key = cells + np.minimum(share, 1.0)
    filled = total > 0
    rank = np.minimum((size[:, None] + 1) * taus / np.maximum(size[:, None], 1e-12), 1.0)
    wanted = np.arange(count)[:, None] + rank - 1e-9
    place = np.searchsorted(key, wanted.ravel()).reshape(wanted.shape)
    first = np.r_[0, last[:-1] + 1]
    place = np.clip(place, first[:, None], np.maximum(last, first)[:, None])
    place = np.minimum(place, len(values) - 1)
    return np.where(filled[:, None], values[place], np.nan), size


@dataclass
class _Depth:
    """One level of the tree: its known codes, how many buckets it is split in, its table."""

    codes: NDArray[np.int64]
    buckets: int
    table: NDArray[np.float32]  # (codes * buckets, E)


class ErrorCells:
    """A tree of cells: everything, everything by horizon bucket, then each group level.

    Args:
        lam: weight of the parent in errors.
        min_bucket: a group level is split by horizon bucket only where its cells would still
            hold this many errors on average.
    """

    def __init__(self, lam: float, min_bucket: int) -> None:
        self.lam = lam
        self.min_bucket = min_bucket

    def fit(
        self,
        kinds: Sequence[NDArray],
        ranks: Sequence[NDArray[np.float64]],
        weight: NDArray,
        bucket: NDArray[np.int64],
        buckets: int,
        groups: Sequence[NDArray[np.int64]],
        *,
        overlap: float = 1.0,
        moments: bool = False,
    ) -> Self:
        """Fills the table of every depth.

        Args:
            kinds: error arrays (R,), one a kind of error.
            ranks: levels kept of each kind; the tables' last axis E joins them.
            weight: (R,).
            bucket: (R,) horizon bucket.
            buckets: their number.
            groups: code arrays (R,), the coarsest first.
            overlap: errors that stand for one observation.
            moments: keep the mean square of the first kind instead of quantiles.
        """
        self.depths_: list[_Depth] = []
        zero = np.zeros(len(bucket), np.int64)
        levels = [(zero, 1), (zero, buckets)]
        for codes in groups:
            number = max(1, len(np.unique(codes[codes >= 0])))
            enough = len(codes) / overlap / (number * buckets) >= self.min_bucket
            levels.append((codes, buckets if enough else 1))
        for codes, split in levels:
            keep = codes >= 0
            known = np.unique(codes[keep])
            cell = np.searchsorted(known, codes[keep])
            if split > 1:
                cell = cell * split + bucket[keep]
            count = len(known) * split
            if moments:
                own, size = _mean_square(kinds[0][keep], weight[keep], cell, count, overlap)
            else:
                own, size = _quantiles(kinds, ranks, weight, keep, cell, count, overlap)
            self.depths_.append(self._shrunk(known, split, own, size, codes, groups, buckets))
        return self

    def _shrunk(
        self,
        known: NDArray[np.int64],
        split: int,
        own: NDArray,
        size: NDArray,
        codes: NDArray[np.int64],
        groups: Sequence[NDArray[np.int64]],
        buckets: int,
    ) -> _Depth:
        depth = len(self.depths_)
        if depth == 0:
            return _Depth(known, 1, own.astype(np.float32))
        if not len(known):
            return _Depth(known, 1, np.zeros((0, self.depths_[0].table.shape[1]), np.float32))
        # The parent codes of each cell: those of any of its errors, since each level is the
        # parent of the next.
        sample = np.zeros(len(known), np.int64)
        rows = np.flatnonzero(codes >= 0)
        sample[np.searchsorted(known, codes[rows])] = rows
        chain = [g[sample] for g in groups[: max(0, depth - 2)]]
        parents = np.stack(
            [self.lookup(chain, b, len(known), depth) for b in range(buckets)], axis=1
        )
        parent = parents if split > 1 else parents.mean(axis=1, keepdims=True)
        own = own.reshape(len(known), split, -1)
        n = size.reshape(len(known), split, 1)
        mixed = (n * np.nan_to_num(own) + self.lam * parent) / (n + self.lam + 1e-12)
        table = np.where(n > 0, mixed, parent)
        if split == 1:
            # One table for all horizons keeps the parent's difference between buckets.
            share = self.lam / (n + self.lam + 1e-12)
            table = table + share * (parents - parent)
            split = buckets
        return _Depth(known, split, table.reshape(len(known) * split, -1).astype(np.float32))

    def lookup(
        self, groups: Sequence[NDArray[np.int64]], bucket: int, rows: int, depths: int | None = None
    ) -> NDArray[np.float32]:
        """The table row (M, E) of the finest known cell of each example in one bucket."""
        number = len(self.depths_) if depths is None else depths
        chain = [np.zeros(rows, np.int64), np.zeros(rows, np.int64), *groups]
        result = np.zeros((rows, self.depths_[0].table.shape[1]), np.float32)
        for depth, codes in zip(self.depths_[:number], chain, strict=False):
            if not len(depth.codes):
                continue
            place = np.minimum(np.searchsorted(depth.codes, codes), len(depth.codes) - 1)
            found = depth.codes[place] == codes
            cell = place * depth.buckets + (bucket if depth.buckets > 1 else 0)
            values = depth.table[cell]
            result = np.where((found & np.isfinite(values[:, 0]))[:, None], values, result)
        return result

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """JSON values and arrays."""
        arrays: dict[str, NDArray] = {}
        for i, depth in enumerate(self.depths_):
            arrays[f"codes_{i}"], arrays[f"table_{i}"] = depth.codes, depth.table
        return {"buckets": [d.buckets for d in self.depths_]}, arrays

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        self.depths_ = [
            _Depth(arrays[f"codes_{i}"], int(b), arrays[f"table_{i}"])
            for i, b in enumerate(state["buckets"])
        ]
        return self


def _quantiles(
    kinds: Sequence[NDArray],
    ranks: Sequence[NDArray[np.float64]],
    weight: NDArray,
    keep: NDArray[np.bool_],
    cell: NDArray[np.int64],
    count: int,
    overlap: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Quantiles (count, E) and sizes (count,) of all kinds, in bounded memory.

    Large cells are thinned to some thousands of errors drawn at random (their quantiles are known
    well enough); many small cells are done block by block.
    """
    rows = np.flatnonzero(keep)
    thin = max(1.0, len(rows) / (LARGEST * max(count, 1)))
    if thin > 1:
        chosen = np.random.default_rng(0).random(len(rows)) < 1 / thin
        rows, cell = rows[chosen], cell[chosen]
    own = np.empty((count, sum(len(t) for t in ranks)))
    size = np.empty(count)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        if count > BLOCK:
            inside = np.flatnonzero((cell >= start) & (cell < stop))
        else:
            inside = np.arange(len(rows))
        at, local = rows[inside], cell[inside] - start
        place = 0
        for errors, taus in zip(kinds, ranks, strict=True):
            values, number = weighted_quantiles(
                errors[at], weight[at], local, stop - start, taus, overlap / thin
            )
            own[start:stop, place : place + len(taus)] = values
            size[start:stop] = number
            place += len(taus)
    return own, size


def _mean_square(
    values: NDArray, weights: NDArray, cells: NDArray[np.int64], count: int, overlap: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.bincount(cells, weights, count)
    squares = np.bincount(cells, weights**2, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cells, weights * values**2, count) / total
        size = np.where(squares > 0, total**2 / squares, 0.0) / overlap
    return mean[:, None], size
