"""Confusion and AUROC of an alarm that is snoozed after it fires.

The evaluation of COMPOSER (Shashikumar, Wardi, Malhotra and Nemati, npj Digital Medicine 4:134,
2021). An alarm is judged by what comes within the horizon, silence by the label of its own hour, so
the four cells do not part the hours: they are counts of judgements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError
from foretell.evaluation.clinical.checks import binary, row_values
from foretell.evaluation.clinical.kernels import FN, FP, TN, TP, positive_ahead, snoozed_cells

HORIZON, SNOOZE = 44, 6
"""Hours ahead that justify an alarm, and hours of silence after one."""


@dataclass(frozen=True)
class SnoozedConfusion:
    """Judgements at one threshold; rates are NaN where they have no denominator."""

    tp: int
    fp: int
    fn: int
    tn: int
    patients: int
    patients_found: int

    @property
    def sensitivity(self) -> float:
        """TP / (TP + FN)."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP)."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> float:
        """TP / (TP + FP)."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float:
        """TN / (TN + FN)."""
        return _ratio(self.tn, self.tn + self.fn)

    @property
    def odds_ratio(self) -> float:
        """TP TN / (FP FN), the diagnostic odds ratio."""
        return _ratio(self.tp * self.tn, self.fp * self.fn)

    @property
    def patient_sensitivity(self) -> float:
        """Share of stays with a positive label that have a true alarm."""
        return _ratio(self.patients_found, self.patients)


@dataclass(frozen=True, eq=False)
class SnoozedCurve:
    """Sensitivity, specificity and precision (K,) at ascending thresholds, and their areas."""

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]
    precision: NDArray[np.float64]
    auroc: float
    auprc: float


def snoozed_confusion(
    scores: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    threshold: float,
    *,
    mask: ArrayLike | None = None,
    horizon: int = HORIZON,
    snooze: int = SNOOZE,
) -> SnoozedConfusion:
    """Judges every armed hour of every stay.

    In a stay, hour after hour: while snoozed, the hour is skipped and counted down, whatever its
    mask. Else, where the mask is 1, the score alarms at ``>= threshold``: TP if a label of the
    next ``horizon`` hours (its own included) is 1, else FP, and the alarm is snoozed; no alarm is
    FN where the hour's own label is 1, else TN. Armed hours whose mask is 0 are left out.

    Args:
        scores: (R,) stay after stay; may be any number where the mask is 0.
        label: (R,) 0 or 1.
        lengths: (N,) rows of each stay.
        threshold: of the alarm.
        mask: (R,) 1 where a score was issued, all by default.
        horizon: in hours.
        snooze: hours of silence after an alarm.

    Raises:
        DataError: sizes do not fit, a score is not finite, a label is not 0 or 1.
    """
    args = _checked(scores, label, lengths, mask, horizon, snooze)
    values, positive, kept, sizes = args
    ahead = positive_ahead(positive, sizes, horizon)
    cells, found = snoozed_cells(
        values, positive, ahead, kept, sizes, np.array([threshold], np.float64), snooze
    )
    septic = _any(positive, sizes)
    tp, fp, fn, tn = (int(cells[0, k]) for k in (TP, FP, FN, TN))
    return SnoozedConfusion(tp, fp, fn, tn, int(septic.sum()), int((found[0] & septic).sum()))


def snoozed_curve(
    scores: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    horizon: int = HORIZON,
    snooze: int = SNOOZE,
    n_thresholds: int = 500,
) -> SnoozedCurve:
    """Snoozed rates over thresholds, with AUROC by trapezoids and AUPRC by steps.

    Thresholds are percentiles (nearest) of the distinct scores of each stay, between one below and
    one above all scores.

    Args:
        scores: see :func:`snoozed_confusion`.
        label: (R,) 0 or 1.
        lengths: (N,) rows of each stay.
        mask: see :func:`snoozed_confusion`.
        horizon: in hours.
        snooze: in hours.
        n_thresholds: number K of percentiles.
    """
    if n_thresholds < 2:
        raise ParameterError(f"n_thresholds must be at least 2, not {n_thresholds}")
    values, positive, kept, sizes = _checked(scores, label, lengths, mask, horizon, snooze)
    stay = np.repeat(np.arange(len(sizes)), sizes)
    distinct = np.unique(np.stack([stay.astype(np.float64), values], axis=1), axis=0)[:, 1]
    levels = np.linspace(0, 100, n_thresholds)
    inner = np.unique(np.percentile(distinct, levels, method="nearest"))
    thresholds = np.concatenate([inner, [np.nextafter(inner[-1], np.inf)]])
    ahead = positive_ahead(positive, sizes, horizon)
    cells, _ = snoozed_cells(values, positive, ahead, kept, sizes, thresholds, snooze)
    tp, fp, fn, tn = (cells[:, k].astype(np.float64) for k in (TP, FP, FN, TN))
    with np.errstate(invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        precision = np.where(tp + fp > 0, tp / (tp + fp), 1.0)
    # From the highest threshold (nobody is alarmed) to the lowest.
    true, false = sensitivity[::-1], 1 - specificity[::-1]
    auroc = float(np.trapezoid(np.append(true, 1.0), np.append(false, 1.0)))
    auprc = float(np.sum(np.diff(true, prepend=0.0) * precision[::-1]))
    return SnoozedCurve(thresholds, sensitivity, specificity, precision, auroc, auprc)


def both_conventions(
    scores: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    threshold: float,
    *,
    issued: ArrayLike,
    horizon: int = HORIZON,
    snooze: int = SNOOZE,
    n_thresholds: int = 100,
) -> pl.DataFrame:
    """An abstaining score judged in both ways, beside the same score that never abstains.

    To leave hours without a score out, as COMPOSER's evaluation does, takes their misses out of the
    tally; at the bedside an hour without a score is an hour without an alarm. Neither is reported
    without the other.

    Args:
        scores: (R,) of the model, also where none was issued.
        label: (R,) 0 or 1.
        lengths: (N,) rows of each stay.
        threshold: of the alarm.
        issued: (R,) 1 where a score was issued.
        horizon: in hours.
        snooze: in hours.
        n_thresholds: of the curve whose area is told.

    Returns:
        ``convention`` (``"no gate"``, ``"excluded"``, ``"negative"``), ``tp``, ``fp``, ``fn``,
        ``tn``, ``sensitivity``, ``specificity``, ``ppv``, ``patient_sensitivity``, ``auroc``.

    Raises:
        DataError: as :func:`snoozed_confusion`.
    """
    sizes = np.asarray(lengths, np.int64)
    total = int(sizes.sum())
    given = row_values("score", scores, total, finite=False)
    kept = binary("issued", issued, total)
    least = float(np.min(given, initial=threshold, where=np.isfinite(given))) - 1.0
    ways: tuple[tuple[str, NDArray, NDArray | None], ...] = (
        ("no gate", np.where(np.isfinite(given), given, least), None),
        ("excluded", given, kept),
        ("negative", np.where(kept, given, least), None),
    )
    rows = []
    for name, values, mask in ways:
        cells = snoozed_confusion(
            values, label, sizes, threshold, mask=mask, horizon=horizon, snooze=snooze
        )
        curve = snoozed_curve(
            values, label, sizes, mask=mask, horizon=horizon, snooze=snooze,
            n_thresholds=n_thresholds,
        )  # fmt: skip
        rows.append({
            "convention": name, "tp": cells.tp, "fp": cells.fp, "fn": cells.fn, "tn": cells.tn,
            "sensitivity": cells.sensitivity, "specificity": cells.specificity, "ppv": cells.ppv,
            "patient_sensitivity": cells.patient_sensitivity, "auroc": curve.auroc,
        })  # fmt: skip
    return pl.DataFrame(rows)


def _checked(
    scores: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    mask: ArrayLike | None,
    horizon: int,
    snooze: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    if horizon < 0 or snooze < 0:
        raise ParameterError("horizon and snooze must not be negative")
    sizes = np.asarray(lengths, np.int64)
    rows = int(sizes.sum())
    kept = np.ones(rows, bool) if mask is None else binary("mask", mask, rows)
    values = np.where(kept, row_values("score", scores, rows, finite=False), 0.0)
    row_values("score", values, rows)
    return values.astype(np.float64), binary("label", label, rows), kept, sizes


def _any(positive: NDArray[np.bool_], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    stay = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(stay, positive, minlength=len(sizes)) > 0


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")
