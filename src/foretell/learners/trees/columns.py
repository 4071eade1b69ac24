"""What users hand over as features, made into sparse rows in which absence is absence.

In a sparse matrix an entry that is not stored is absent (not applicable, unknown) and a stored zero
is the value zero. In a dense table NaN is absent. In a list of dicts a missing key or ``None`` is
absent; text values become one column for each category.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from foretell.errors import DataError


def is_records(X: Any) -> bool:
    """Whether the features came as a list of dicts."""
    return isinstance(X, Sequence) and len(X) > 0 and all(isinstance(row, Mapping) for row in X)


def record_columns(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the columns of a list of dicts, sorted: ``name`` or, for text, ``name=value``."""
    names: set[str] = set()
    for number, row in enumerate(records):
        for name, value in row.items():
            column = _record_column(name, value, number)
            if column is not None:
                names.add(column[0])
    return sorted(names)


def _record_column(name: Any, value: Any, row: int) -> tuple[str, float] | None:
    if not isinstance(name, str):
        raise DataError("a feature name is not text", column=repr(name), row=row)
    if value is None:
        return None
    if isinstance(value, str):
        return f"{name}={value}", 1.0
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"feature value of type {type(value).__name__}",
            column=name,
            row=row,
            hint="Give a number, text for a category, or None.",
        ) from None
    return None if math.isnan(number) else (name, number)


def records_to_csr(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> sparse.csr_array:
    """Sparse rows of a list of dicts; what is not among ``columns`` is left out.

    A category that is not among the columns is absent, silently; a feature of which no column
    exists is left out with a warning that names it.
    """
    position = {name: index for index, name in enumerate(columns)}
    roots = {name.split("=", 1)[0] for name in columns}
    unknown: set[str] = set()
    indptr = np.zeros(len(records) + 1, dtype=np.int64)
    indices: list[int] = []
    data: list[float] = []
    for number, row in enumerate(records):
        for name, value in row.items():
            column = _record_column(name, value, number)
            if column is None:
                continue
            index = position.get(column[0])
            if index is not None:
                indices.append(index)
                data.append(column[1])
            elif name not in roots:
                unknown.add(name)
        indptr[number + 1] = len(indices)
    if unknown:
        shown = ", ".join(repr(name) for name in sorted(unknown)[:5])
        warnings.warn(
            f"{len(unknown)} feature(s) were not seen in fit and are ignored: {shown}",
            UserWarning,
            stacklevel=4,
        )
    matrix = sparse.csr_array(
        (np.asarray(data, dtype=np.float64), np.asarray(indices, dtype=np.int32), indptr),
        shape=(len(records), len(columns)),
    )
    return to_float32_csr(matrix, columns)


def to_float32_csr(X: Any, names: Sequence[str] | None = None) -> sparse.csr_array:
    """Sparse float32 rows of a dense (NaN = absent) or sparse table; stored zeros stay stored.

    Raises:
        DataError: an infinite value, or one beyond the range of float32; names column and row.
    """
    if sparse.issparse(X):
        matrix = sparse.csr_array(X)
        with np.errstate(over="ignore"):
            data = matrix.data.astype(np.float32)
        indices = matrix.indices
        indptr = matrix.indptr
        present = ~np.isnan(data)
        if not present.all():
            kept = np.concatenate(([0], np.cumsum(present)))
            indptr = kept[indptr]
            indices, data = indices[present], data[present]
    else:
        with np.errstate(over="ignore"):
            dense = np.ascontiguousarray(X, dtype=np.float32)
        present = ~np.isnan(dense)
        indptr = np.concatenate(([0], np.cumsum(present.sum(axis=1))))
        indices = np.flatnonzero(present.ravel()) % max(dense.shape[1], 1)
        data = dense[present]
        matrix = dense
    bad = np.flatnonzero(np.isinf(data))
    if len(bad):
        column = int(indices[bad[0]])
        raise DataError(
            "an infinite value, or one beyond the range of float32, in the features",
            column=str(names[column]) if names is not None else str(column),
            row=int(np.searchsorted(indptr, bad[0], side="right") - 1),
            hint="Infinity often comes from a division by zero: leave such a value absent (NaN).",
        )
    result = sparse.csr_array(
        (data, indices.astype(np.int32, copy=False), indptr.astype(np.int64, copy=False)),
        shape=matrix.shape,
    )
    if sparse.issparse(X) and not X.has_canonical_format:
        result.sum_duplicates()
    return result


def to_columns(
    matrix: sparse.csr_array,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """``(column_ptr, rows, values)`` of sparse rows; stored zeros stay stored."""
    columns = matrix.tocsc()
    return (
        columns.indptr.astype(np.int64),
        columns.indices.astype(np.int32, copy=False),
        columns.data.astype(np.float32, copy=False),
    )


def select_columns(matrix: sparse.csr_array, n_columns: int) -> sparse.csr_array:
    """Gives rows ``n_columns`` columns: more are ignored with a warning, fewer are absent."""
    if matrix.shape[1] == n_columns:
        return matrix
    if matrix.shape[1] > n_columns:
        warnings.warn(
            f"{matrix.shape[1] - n_columns} column(s) were not seen in fit and are ignored",
            UserWarning,
            stacklevel=4,
        )
        return sparse.csr_array(matrix[:, :n_columns])
    return sparse.csr_array(
        (matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], n_columns)
    )
