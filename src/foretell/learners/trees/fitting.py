"""Grows the trees of a forest from binned columns, in threads, the same whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ForetellError
from foretell.learners.trees.binning import BinnedColumns
from foretell.learners.trees.responses import ResponseTable
from foretell.learners.trees.storage import Tree


@dataclass(frozen=True)
class TreeSettings:
    """How one tree is grown; see `SparseQuantileForestRegressor`."""

    grid: NDArray[np.float64]
    max_depth: int
    min_samples_split: int
    min_samples_leaf: int
    fraction: float
    at_most: int
    min_presence: float
    always: int
    max_samples_leaf: int
    bootstrap: bool
    n_draws: int
    entropy: int


def kernels(backend: str) -> tuple[ModuleType, ModuleType]:
    """Growth and prediction functions, compiled or in plain numpy.

    Raises:
        ForetellError: numba finds no folder in which it may keep compiled code.
    """
    if backend == "numba":
        try:
            from foretell.learners.trees import growth, prediction
        except RuntimeError as error:
            if "cache" not in str(error):
                raise
            raise ForetellError(
                "numba finds no writable folder for compiled code: name one in the environment "
                "variable NUMBA_CACHE_DIR, or use backend='numpy'"
            ) from error
        return growth, prediction
    from foretell.learners.trees import growth_numpy, prediction_numpy

    return growth_numpy, prediction_numpy


def run_in_threads(n_jobs: int, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Maps in threads (the kernels release the interpreter lock), results in order."""
    if n_jobs == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=n_jobs) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C too: what has not begun must not be waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def draw_counts(n: int, tree: int, settings: TreeSettings) -> NDArray[np.int64]:
    """How often each row is in a tree's sample: from (entropy, tree) alone."""
    rng = np.random.default_rng([settings.entropy, tree, 1])
    if settings.bootstrap:
        return np.bincount(rng.integers(0, n, settings.n_draws), minlength=n)
    counts = np.zeros(n, dtype=np.int64)
    if settings.n_draws >= n:
        counts[:] = 1
    else:
        counts[rng.choice(n, settings.n_draws, replace=False, shuffle=False)] = 1
    return counts


def grow(
    columns: BinnedColumns,
    responses: ResponseTable,
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    counts: NDArray[np.int64],
    tree: int,
    settings: TreeSettings,
    growth: ModuleType,
) -> Tree:
    """Grows one tree on the rows with a positive count."""
    order = responses.order
    in_bag = counts[order] > 0
    rows = order[in_bag]
    position = np.full(columns.n_rows, -1, dtype=np.int32)
    position[rows] = np.arange(len(rows), dtype=np.int32)
    start, end, local_rows, local_bins = growth.take_rows(
        columns.column_ptr, columns.rows, columns.bins, position
    )
    local_weight = weight[rows] * counts[rows]
    local_y = y[rows]
    if len(settings.grid) == 0:
        # sums of squares about the mean keep their digits
        local_y = local_y - np.average(local_y, weights=local_weight)
    tolerance = 1e-10 * float(np.sum(local_weight * local_y**2))
    state = np.random.SeedSequence([settings.entropy, tree, 2]).generate_state(2, np.uint64)
    feature, split_bin, default_left, child, gain, leaf_ptr, leaf_rows = growth.grow_tree(
        start,
        end,
        local_rows,
        local_bins,
        local_y,
        local_weight,
        settings.grid,
        settings.max_depth,
        settings.min_samples_split,
        settings.min_samples_leaf,
        settings.fraction,
        settings.at_most,
        settings.min_presence,
        settings.always,
        np.uint64(state[0]),
        tolerance,
    )
    ptr, codes, weights = growth.summarize_leaves(
        leaf_ptr,
        leaf_rows,
        responses.code[in_bag],
        local_weight,
        settings.max_samples_leaf,
        np.uint64(state[1]),
    )
    inner = feature >= 0
    threshold = np.zeros(len(feature), dtype=np.float32)
    threshold[inner] = columns.threshold(feature[inner], split_bin[inner])
    code_type = np.uint16 if len(responses.values) <= 2**16 else np.int32
    return Tree(
        feature=feature.copy(),
        threshold=threshold,
        default_left=default_left.copy(),
        child=child.copy(),
        leaf_ptr=ptr,
        codes=codes.astype(code_type),
        weights=weights.copy(),
        importance=gain[inner] / max(float(local_weight.sum()), 1e-300),
        split_column=feature[inner],
    )
