"""Columns of a table as a network takes them: standardised numbers and category codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.errors import DataError

LIMIT = 10.0
"""Standardised values are held within this many scales, so that no outlier makes a step alone."""


@dataclass(frozen=True)
class FeatureTransform:
    """Standardises numbers, marks missing ones, and passes category codes on.

    A missing number becomes the mean, with an indicator column for each column that had missing
    values when the transform was fitted (in others a missing value is just the mean). Category
    code 0 means unknown; codes not seen when fitted become 0.

    Attributes:
        names: columns of the table ``(d,)``.
        categorical: positions of the category columns.
        cardinalities: largest code of each.
        mean: of the numeric columns, in order.
        scale: their standard deviations; 1 for constant columns.
        missing: positions among the numeric columns that get an indicator.
    """

    names: tuple[str, ...]
    categorical: tuple[int, ...]
    cardinalities: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    missing: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        matrix: ArrayLike,
        categorical: tuple[int, ...] = (),
        names: tuple[str, ...] | None = None,
    ) -> FeatureTransform:
        """Reads means, scales and codes of ``(n, d)``.

        Raises:
            DataError: infinite values, or category codes that are no whole numbers from 0.
        """
        values = np.asarray(matrix, np.float64)
        count = values.shape[1]
        names = tuple(names) if names is not None else tuple(f"x{i}" for i in range(count))
        cls._check(values, names)
        numeric = [i for i in range(count) if i not in categorical]
        cardinalities = []
        for position in categorical:
            codes = values[:, position]
            codes = codes[~np.isnan(codes)]
            if (codes < 0).any() or (codes != np.round(codes)).any():
                raise DataError(
                    "category codes must be whole numbers, 0 for unknown", column=names[position]
                )
            cardinalities.append(int(codes.max(initial=0)))
        part = values[:, numeric]
        gaps = np.isnan(part)
        present = np.maximum((~gaps).sum(0), 1)
        mean = np.where(gaps, 0.0, part).sum(0) / present
        # Sums of squares of the centred values: raw ones lose timestamps' digits, or overflow.
        spread = np.where(gaps, 0.0, part - mean)
        size = np.maximum(np.abs(spread).max(0, initial=0.0), np.finfo(float).tiny)
        scale = size * np.sqrt(((spread / size) ** 2).sum(0) / present)
        flat = scale <= 1e-12 * np.maximum(np.abs(mean), np.finfo(float).tiny)
        return cls(
            names,
            tuple(int(i) for i in categorical),
            tuple(cardinalities),
            tuple(mean.tolist()),
            tuple(np.where(flat, 1.0, scale).tolist()),
            tuple(np.flatnonzero(gaps.any(0)).tolist()),
        )

    @staticmethod
    def _check(values: NDArray[np.float64], names: tuple[str, ...]) -> None:
        if values.ndim != 2 or values.shape[1] != len(names):
            raise DataError(
                f"features have shape {values.shape}, {len(names)} columns are expected"
            )
        bad = np.isinf(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(
                "a feature is infinite (inf)", column=names[column], row=int(row),
                hint="Leave missing values empty (NaN).",
            )  # fmt: skip

    @property
    def width(self) -> int:
        """Numeric inputs of the network, indicators included."""
        return len(self.mean) + len(self.missing)

    def __call__(self, matrix: ArrayLike) -> dict[str, Tensor]:
        """Inputs of a network: ``numbers`` (n, width) float32 and ``codes`` (n, C) int64.

        Raises:
            DataError: another number of columns, or infinite values.
        """
        values = np.asarray(matrix, np.float64)
        self._check(values, self.names)
        numeric = [i for i in range(len(self.names)) if i not in self.categorical]
        part = values[:, numeric]
        gaps = np.isnan(part)
        standard = np.where(gaps, 0.0, (part - np.array(self.mean)) / np.array(self.scale))
        standard = np.clip(standard, -LIMIT, LIMIT)
        if self.missing:
            standard = np.concatenate([standard, gaps[:, list(self.missing)]], 1)
        batch = {"numbers": torch.from_numpy(standard.astype(np.float32))}
        if self.categorical:
            codes = np.nan_to_num(values[:, list(self.categorical)], nan=0.0)
            known = (codes >= 0) & (codes <= np.array(self.cardinalities))
            batch["codes"] = torch.from_numpy(np.where(known, codes, 0.0).astype(np.int64))
        return batch

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {name: list(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FeatureTransform:
        """Takes back what :meth:`to_dict` gave."""
        return cls(**{name: tuple(values[name]) for name in cls.__dataclass_fields__})
