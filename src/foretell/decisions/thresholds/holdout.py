"""The hold-out rows a surface is chosen on: checked once, then plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import DataError, ParameterError


@dataclass(frozen=True, eq=False)
class HoldOut:
    """n scored rows with known labels.

    Args:
        score: (n,) finite; any scale, only the order is used.
        uncertainty: (n,) larger is less certain; NaN where it is missing.
        label: (n,) 1.0 or 0.0.
        weight: (n,) above 0; ones where no weights were given or all are alike.
        weighted: whether weights were given that are not all alike.
        segment: (n,) codes into ``segment_names`` or None.
        segment_names: names of the segments, sorted.
    """

    score: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    label: NDArray[np.float64]
    weight: NDArray[np.float64]
    weighted: bool = False
    segment: NDArray[np.int64] | None = None
    segment_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.score)

    @property
    def positives(self) -> float:
        """Weight of the rows whose label is 1."""
        return float(self.weight @ self.label)

    def select(self, rows: NDArray[np.int64]) -> HoldOut:
        """Some of the rows."""
        return HoldOut(
            self.score[rows],
            self.uncertainty[rows],
            self.label[rows],
            self.weight[rows],
            self.weighted,
            None if self.segment is None else self.segment[rows],
            self.segment_names,
        )


def numbers(values: ArrayLike, name: str, n: int | None = None) -> NDArray[np.float64]:
    """A column as float64 (n,).

    Raises:
        DataError: not one-dimensional, not numeric or of another length than the scores.
    """
    if hasattr(values, "to_numpy"):  # polars, pandas and pyarrow columns
        values = values.to_numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("values are not numbers", column=name) from None
    if array.ndim != 1:
        raise DataError(
            f"expected one value a row, got an array of shape {array.shape}",
            column=name,
            hint="pass one column, for example predict_proba(X)[:, 1]",
        )
    if n is not None and len(array) != n:
        raise DataError(f"{len(array)} values for {n} scores", column=name)
    return np.ascontiguousarray(array)


def check_scores(score: NDArray[np.float64], name: str = "score") -> None:
    """Scores may have any scale but must be finite.

    Raises:
        DataError: a NaN or infinite score, with its row.
    """
    bad = ~np.isfinite(score)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"the score is {score[row]}", column=name, row=row, hint="drop the row")


def check_uncertainties(uncertainty: NDArray[np.float64], missing: str, infinite: bool) -> None:
    """NaN is an error unless it has a level of its own.

    Raises:
        DataError: NaN with ``missing="error"``; an infinite value where ``infinite`` is False.
    """
    nan = np.isnan(uncertainty)
    if missing == "error" and nan.any():
        raise DataError(
            f"{int(nan.sum())} uncertainties are missing (NaN)",
            column="uncertainty",
            row=int(np.argmax(nan)),
            hint='fit with missing="level" to give them a level of their own',
        )
    if not infinite and np.isinf(uncertainty).any():
        row = int(np.argmax(np.isinf(uncertainty)))
        raise DataError("the uncertainty is infinite", column="uncertainty", row=row)


def check_labels(y: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """Labels as 0.0 and 1.0 (n,).

    Raises:
        DataError: another value than 0 and 1, with its row.
    """
    label = numbers(y, "y", n)
    bad = (label != 0) & (label != 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"the label is {label[row]}, not 0 or 1", column="y", row=row)
    return label


def check_weights(sample_weight: ArrayLike, n: int) -> NDArray[np.float64]:
    """Weights (n,), finite and not negative.

    Raises:
        DataError: a negative, NaN or infinite weight; weights that are all 0.
    """
    weight = numbers(sample_weight, "sample_weight", n)
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"the weight is {weight[row]}", column="sample_weight", row=row)
    if not weight.any():
        raise DataError("all weights are 0", column="sample_weight")
    return weight


def hold_out(
    score: ArrayLike,
    uncertainty: ArrayLike | None,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    missing: str = "error",
) -> HoldOut:
    """Checks the columns of a hold-out; rows of weight 0 are left out, the others sorted by score.

    All that follows sorts by score in some way: rows that are sorted already cost it next to
    nothing.

    Raises:
        DataError: a column that cannot be used, or labels of one class only.
        ParameterError: ``missing`` is neither "error" nor "level".
    """
    if missing not in ("error", "level"):
        raise ParameterError(f'missing={missing!r}: choose "error" or "level"')
    scores = numbers(score, "score")
    n = len(scores)
    if n == 0:
        raise DataError("the hold-out has no rows", column="score")
    check_scores(scores)
    label = check_labels(y, n)
    doubt = np.zeros(n) if uncertainty is None else numbers(uncertainty, "uncertainty", n)
    check_uncertainties(doubt, missing, infinite=False)
    weight = np.ones(n) if sample_weight is None else check_weights(sample_weight, n)
    codes: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    if segments is not None:
        values = np.asarray(segments.to_numpy() if hasattr(segments, "to_numpy") else segments)
        if values.shape != (n,):
            raise DataError(f"shape {values.shape} for {n} scores", column="segments")
        found, codes = np.unique(values.astype(str), return_inverse=True)
        names = tuple(str(name) for name in found)
    # Weights that are alike say nothing: counted with them, ten rows of weight 3 would be thirty.
    kept = weight[weight > 0]
    weighted = bool(np.ptp(kept) > 0)
    order = np.argsort(scores, kind="stable")
    if not weight.all():
        order = order[weight[order] > 0]
    if not weighted:
        weight = np.ones(n)
    rows = HoldOut(scores, doubt, label, weight, weighted, codes, names).select(order)
    if rows.label.min() == rows.label.max():
        raise DataError(
            f"every label is {int(rows.label[0])}: the hold-out has one class only",
            column="y",
            hint="a threshold needs rows of both classes",
        )
    return rows
