"""Hours and stays as examples to train on, encoded when they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.errors import DataError, ParameterError


class HourExamples:
    """One hour an example: ``x`` ``(B, E)``, ``label`` ``(B,)``.

    Args:
        features: (R, F) scaled features without missing values.
        label: (R,) 0 or 1.
        encoder: encodes the rows of a batch; None takes them as they are.
        positives: share of positive hours in a batch, in the mean, drawn with replacement; None
            draws every hour with the same chance, as private training must.
        weight: (R,) of each hour in the loss; 1 by default.

    Raises:
        DataError: no hour, sizes that differ, values that are not finite, or one class only where
            ``positives`` is given.
    """

    def __init__(
        self,
        features: ArrayLike,
        label: ArrayLike,
        encoder: PiecewiseLinearEncoder | None = None,
        *,
        positives: float | None = None,
        weight: ArrayLike | None = None,
    ) -> None:
        self.features, self.label = checked_rows(features, label)
        self.encoder = encoder
        self.weight = None if weight is None else checked_weight(weight, len(self.label))
        self.sampling_weights: NDArray[np.float64] | None = None
        if positives is not None:
            if not 0 < positives < 1:
                raise ParameterError(f"positives must lie inside (0, 1), not {positives}")
            count = int(self.label.sum())
            if count in (0, len(self.label)):
                raise DataError(
                    f"{count} of {len(self.label)} hours are positive",
                    hint="Balanced batches need both classes",
                )
            self.sampling_weights = np.where(
                self.label == 1, positives / count, (1 - positives) / (len(self.label) - count)
            )

    def __len__(self) -> int:
        """Number of hours."""
        return len(self.label)

    @property
    def fingerprint(self) -> str:
        """Identifies the hours, so that a run is not resumed on other data."""
        digest = hashlib.sha256(np.ascontiguousarray(self.features).tobytes())
        digest.update(self.label.tobytes())
        return digest.hexdigest()

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Hours ``indices`` as tensors ``(B, ...)``."""
        batch = {
            "x": encoded(self.features[indices], self.encoder),
            "label": torch.from_numpy(self.label[indices].astype(np.float32)),
        }
        if self.weight is not None:
            batch["weight"] = torch.from_numpy(self.weight[indices])
        return batch


class StayExamples:
    """One stay an example: ``x`` ``(B, T, E)``, ``label`` and ``mask`` ``(B, T)``.

    Args:
        features: (R, F) scaled features, stay after stay.
        label: (R,) 0 or 1.
        lengths: (N,) rows of each stay, none empty.
        encoder: see :class:`HourExamples`.
        longest: hours of a stay that are used, its last ones.

    Raises:
        DataError: sizes that differ, or a stay without an hour.
    """

    def __init__(
        self,
        features: ArrayLike,
        label: ArrayLike,
        lengths: ArrayLike,
        encoder: PiecewiseLinearEncoder | None = None,
        *,
        longest: int = 336,
    ) -> None:
        self.features, self.label = checked_rows(features, label)
        self.lengths = np.asarray(lengths, np.int64)
        if self.lengths.sum() != len(self.label) or (self.lengths < 1).any():
            raise DataError(
                f"the lengths add up to {self.lengths.sum()} hours, there are {len(self.label)}",
                hint="Leave stays without an hour at risk out",
            )
        self.encoder, self.longest = encoder, longest
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Identifies the stays, so that a run is not resumed on other data."""
        digest = hashlib.sha256(np.ascontiguousarray(self.features).tobytes())
        digest.update(self.label.tobytes() + self.lengths.tobytes())
        return digest.hexdigest()

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Stays ``indices`` as padded tensors ``(B, T, ...)``."""
        ends = self._ends[indices]
        sizes = np.minimum(self.lengths[indices], self.longest)
        steps = np.arange(int(sizes.max(initial=0)))
        mask = steps < sizes[:, None]
        rows = ((ends - sizes)[:, None] + steps)[mask]
        flat = encoded(self.features[rows], self.encoder)
        seen = torch.from_numpy(mask)
        x = flat.new_zeros((*mask.shape, flat.shape[1]))
        x[seen] = flat
        label = torch.zeros(mask.shape)
        label[seen] = torch.from_numpy(self.label[rows].astype(np.float32))
        return {"x": x, "label": label, "mask": seen}


def encoded(features: NDArray, encoder: PiecewiseLinearEncoder | None) -> Tensor:
    """Rows (B, F) as the input (B, E) of a net."""
    if encoder is None:
        return torch.from_numpy(np.ascontiguousarray(features, np.float32))
    return torch.from_numpy(encoder.transform(features))


def require_finite(features: NDArray[np.float32]) -> None:
    """Refuses features (R, F) that hold NaN or infinities; another shape is not looked at.

    Raises:
        DataError: names the first such row.
    """
    # The sum is finite where all values are, and needs no table of booleans.
    if features.ndim == 2 and not np.isfinite(features.sum(dtype=np.float64)):
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise DataError("a feature is not finite", row=int(np.argmax(bad)))


def row_mask(rows: ArrayLike, hours: int) -> NDArray[np.bool_]:
    """A mask (R,) of hours.

    Raises:
        DataError: it is none of so many hours.
    """
    mask = np.asarray(rows, bool)
    if mask.shape != (hours,):
        raise DataError(f"rows must be a mask of {hours} hours, not of shape {mask.shape}")
    return mask


def checked_weight(weight: ArrayLike, hours: int) -> NDArray[np.float32]:
    """Weights (R,) of hours, finite and not negative.

    Raises:
        DataError: they are not, or not one an hour.
    """
    found = np.asarray(weight, np.float32)
    if found.shape != (hours,):
        raise DataError(f"sample_weight has {found.size} values for {hours} hours")
    wrong = ~(np.isfinite(found) & (found >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"a weight is {found[row]:g}", column="sample_weight", row=row,
                        hint="Weights are finite and not negative")  # fmt: skip
    return found


def checked_rows(
    features: ArrayLike, label: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features (R, F) and labels (R,) of the same rows, finite and 0 or 1."""
    X, y = np.asarray(features, np.float32), np.asarray(label)
    if X.ndim != 2 or y.shape != (len(X),) or len(X) == 0:
        raise DataError(f"features {X.shape} and labels {y.shape} must be of the same hours")
    require_finite(X)
    if not np.isin(y, (0, 1)).all():
        row = int(np.argmin(np.isin(y, (0, 1))))
        raise DataError(f"a label is {y[row]!r}, not 0 or 1", column="label", row=row)
    return X, y.astype(np.int8)
