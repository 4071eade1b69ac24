"""Binned columns on disk, for tables that do not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from foretell.errors import ArtefactError, DataError
from foretell.learners.trees.binning import MAX_BINS, BinnedColumns, bin_columns
from foretell.learners.trees.columns import to_columns, to_float32_csr

Block = tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike | None]
"""Features ``(m, p)`` dense or sparse, responses ``(m,)`` and, if wanted, weights ``(m,)``."""

_FILES = {
    "column_ptr": "int64",
    "rows": "int32",
    "bins": "uint8",
    "cut_ptr": "int64",
    "cuts": "float32",
    "y": "float64",
    "weight": "float64",
}
_VERSION = [1, 0]


@dataclass(frozen=True)
class ColumnStore:
    """Memory-mapped columns with their responses; five bytes a present value.

    Attributes:
        columns: binned columns; ``rows`` and ``bins`` are mapped, not read.
        y: ``(n,)`` responses.
        weight: ``(n,)`` weights, positive.
    """

    columns: BinnedColumns
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def create(
        cls,
        folder: str | Path,
        blocks: Callable[[], Iterable[Block]],
        *,
        max_bins: int = MAX_BINS,
        sample_rows: int = 200_000,
        random_state: int = 0,
    ) -> ColumnStore:
        """Writes a store from blocks of rows, of which only one is in memory at a time.

        Args:
            folder: where to write.
            blocks: gives the blocks anew at each call; they are read three times (to count, to find
                cut points on a sample of rows, to write).
            max_bins: most bins of a feature.
            sample_rows: rows on which cut points are found.
            random_state: seed of that sample.

        Raises:
            DataError: blocks that differ in columns or between readings, or unusable values.
        """
        y_parts, weight_parts, counts = [], [], None
        for matrix, y, weight in _clean(blocks()):
            if counts is None:
                counts = np.zeros(matrix.shape[1], dtype=np.int64)
            elif len(counts) != matrix.shape[1]:
                raise DataError(
                    f"a block has {matrix.shape[1]} columns, the first had {len(counts)}"
                )
            counts += np.bincount(matrix.indices, minlength=len(counts))
            y_parts.append(y)
            weight_parts.append(weight)
        if counts is None or sum(len(y) for y in y_parts) == 0:
            raise DataError("there is no row with a positive weight in any block")
        y_all, weight_all = np.concatenate(y_parts), np.concatenate(weight_parts)
        n = len(y_all)
        rng = np.random.default_rng(random_state)
        chosen = np.ones(n, dtype=bool)
        if n > sample_rows:
            chosen[:] = False
            chosen[rng.choice(n, sample_rows, replace=False)] = True
        at, sample = 0, []
        for matrix, y, _ in _clean(blocks()):
            sample.append(matrix[np.flatnonzero(chosen[at : at + len(y)])])
            at += len(y)
        if at != n:
            raise DataError(f"the blocks gave {at} rows when read again, {n} before")
        stacked = sparse.csr_array(sparse.vstack(sample, format="csr"))
        cut = bin_columns(*to_columns(stacked), weight_all[chosen], stacked.shape[0], max_bins)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        column_ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        rows = _create(folder, "rows", int(column_ptr[-1]))
        bins = _create(folder, "bins", int(column_ptr[-1]))
        fill = column_ptr[:-1].copy()
        at = 0
        for matrix, y, _ in _clean(blocks()):
            ptr, block_rows, values = to_columns(matrix)
            sizes = np.diff(ptr)
            if ((fill + sizes) > column_ptr[1:]).any():
                raise DataError("the blocks hold more values than when read before")
            target = np.repeat(fill - ptr[:-1], sizes) + np.arange(len(values))
            rows[target] = block_rows + np.int32(at)
            coded = np.empty(len(values), dtype=np.uint8)
            for column in np.flatnonzero(sizes):
                lo, hi = ptr[column], ptr[column + 1]
                cuts = cut.cuts[cut.cut_ptr[column] : cut.cut_ptr[column + 1]]
                coded[lo:hi] = np.searchsorted(cuts, values[lo:hi], side="left") + 1
            bins[target] = coded
            fill += sizes
            at += len(y)
        rows.flush()
        bins.flush()
        for name, array in (
            ("column_ptr", column_ptr),
            ("cut_ptr", cut.cut_ptr),
            ("cuts", cut.cuts),
            ("y", y_all),
            ("weight", weight_all),
        ):
            np.save(folder / f"{name}.npy", array)
        (folder / "store.json").write_text(json.dumps({"version": _VERSION, "n_rows": n}))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> ColumnStore:
        """Maps a store that `create` wrote.

        Raises:
            ArtefactError: a file is missing or damaged, or the store is newer than this library.
        """
        folder = Path(folder)
        try:
            header = json.loads((folder / "store.json").read_text(encoding="utf-8"))
            if header["version"][0] > _VERSION[0]:
                raise ArtefactError(f"{folder} was written by a newer foretell")
            n_rows = int(header["n_rows"])
            # copy-on-write: never changes the files, and one array type for the kernels
            arrays = {
                name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False))
                if (folder / f"{name}.npy").stat().st_size > 128
                else np.load(folder / f"{name}.npy", allow_pickle=False)
                for name in _FILES
            }
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
            if isinstance(error, ArtefactError):
                raise
            raise ArtefactError(f"{folder} is not a column store: {error}") from error
        for name, kind in _FILES.items():
            if arrays[name].dtype.name != kind or arrays[name].ndim != 1:
                raise ArtefactError(f"{folder / name}.npy is not a vector of {kind}")
        y, weight = arrays.pop("y"), arrays.pop("weight")
        columns = BinnedColumns(n_rows=n_rows, **arrays)
        n_columns = columns.n_columns
        if (
            n_columns < 1
            or not len(y) == len(weight) == n_rows
            or not _is_ptr(columns.column_ptr, len(columns.rows), len(columns.bins))
            or len(columns.cut_ptr) != n_columns + 1
            or not _is_ptr(columns.cut_ptr, len(columns.cuts), len(columns.cuts))
        ):
            raise ArtefactError(f"{folder} is not a column store: its arrays do not fit together")
        if len(columns.rows) and not (columns.rows.min() >= 0 and columns.rows.max() < n_rows):
            raise ArtefactError(f"{folder} is not a column store: a row id is out of range")
        return cls(columns, y, weight)


def _is_ptr(ptr: NDArray[np.int64], first: int, second: int) -> bool:
    return bool(ptr[0] == 0 and ptr[-1] == first == second and (np.diff(ptr) >= 0).all())


def _create(folder: Path, name: str, size: int) -> Any:
    return np.lib.format.open_memmap(
        folder / f"{name}.npy", mode="w+", dtype=np.dtype(_FILES[name]), shape=(size,)
    )


def _clean(
    blocks: Iterable[Block],
) -> Iterator[tuple[sparse.csr_array, NDArray[np.float64], NDArray[np.float64]]]:
    for number, block in enumerate(blocks):
        X, y = block[0], np.asarray(block[1], dtype=np.float64)
        matrix = to_float32_csr(X)
        given = block[2] if len(block) > 2 else None
        weight = np.ones(len(y)) if given is None else np.asarray(given, dtype=np.float64)
        if y.shape != (matrix.shape[0],) or weight.shape != y.shape:
            raise DataError(f"block {number}: features, responses and weights differ in length")
        for name, values in (("responses", y), ("weights", weight)):
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise DataError(f"block {number}: {name} that are not finite", row=int(bad[0]))
        if (weight < 0).any():
            raise DataError(f"block {number}: a negative weight", row=int(weight.argmin()))
        kept = weight > 0
        if kept.all():
            yield matrix, y, weight
        else:
            yield matrix[np.flatnonzero(kept)], y[kept], weight[kept]
