"""What every clinical score demands of its input."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import DataError


def row_values(name: str, values: ArrayLike, rows: int, *, finite: bool = True) -> NDArray:
    """One value a row (R,).

    Raises:
        DataError: there are more or fewer, or one is NaN or infinite.
    """
    array = np.asarray(values)
    if array.shape != (rows,):
        raise DataError(f"{name} has shape {array.shape}, the stays have {rows:,} rows")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise DataError(
            f"{name} is {array[row]}",
            row=row,
            hint="Say which rows have no prediction with a mask, and give them any number",
        )
    return array


def binary(name: str, values: ArrayLike, rows: int) -> NDArray[np.bool_]:
    """One 0 or 1 a row (R,), as bool.

    Raises:
        DataError: a value is neither.
    """
    array = row_values(name, values, rows)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        row = int(np.argmin(np.isin(array, (0, 1))))
        raise DataError(f"{name} is {array[row]!r}, not 0 or 1", row=row)
    return array.astype(bool)
