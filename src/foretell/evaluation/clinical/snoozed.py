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
from foretell.evaluation.bootstrap import Interval, cluster_bootstrap
from foretell.evaluation.clinical.checks import binary, row_values
from foretell.evaluation.clinical.kernels import FN, FP, TN, TP, positive_ahead, snoozed_cells
from foretell.evaluation.clinical.ranking import RankingMetrics

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
        values, positive, ahead, kept, sizes, np.zeros(len(sizes), np.int64), 1,
        np.array([threshold], np.float64), snooze,
    )  # fmt: skip
    septic = _any(positive, sizes)
    tp, fp, fn, tn = (int(cells[0, 0, k]) for k in (TP, FP, FN, TN))
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
    values, positive, kept, sizes = _checked(scores, label, lengths, mask, horizon, snooze)
    thresholds = _levels(values, sizes, n_thresholds)
    ahead = positive_ahead(positive, sizes, horizon)
    cells, _ = snoozed_cells(
        values, positive, ahead, kept, sizes, np.zeros(len(sizes), np.int64), 1, thresholds, snooze
    )
    sensitivity, specificity, precision, areas = _rates(cells[:, 0].astype(np.float64)[None])
    return SnoozedCurve(
        thresholds, sensitivity[0], specificity[0], precision[0], *areas[0].tolist()
    )


def snoozed_ranking(
    scores: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    patients: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    horizon: int = HORIZON,
    snooze: int = SNOOZE,
    n_thresholds: int = 100,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankingMetrics:
    """The areas of :func:`snoozed_curve` with intervals: whole patients are resampled.

    Thresholds are those of the stays at hand, in all resamples.

    Args:
        scores: see :func:`snoozed_confusion`.
        label: (R,) 0 or 1.
        lengths: (N,) rows of each stay.
        patients: (N,) whom each stay belongs to: numbers or names.
        mask: see :func:`snoozed_confusion`.
        horizon: in hours.
        snooze: in hours.
        n_thresholds: number K of percentiles.
        resamples: of the bootstrap.
        confidence: of the percentile intervals.
        seed: of the bootstrap.

    Raises:
        DataError: as :func:`snoozed_confusion`, or there is not one patient a stay.
    """
    values, positive, kept, sizes = _checked(scores, label, lengths, mask, horizon, snooze)
    names = row_values("patients", patients, len(sizes), finite=False)
    known, owner = np.unique(
        names.astype(str) if names.dtype == object else names, return_inverse=True
    )
    thresholds = _levels(values, sizes, n_thresholds)
    ahead = positive_ahead(positive, sizes, horizon)
    cells, _ = snoozed_cells(
        values, positive, ahead, kept, sizes, owner.astype(np.int64), len(known), thresholds, snooze
    )
    sums = cells.transpose(1, 0, 2).reshape(len(known), -1)

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return _rates(total.reshape(len(total), -1, 4))[3]

    found = cluster_bootstrap(
        sums, statistic, resamples=resamples, confidence=confidence, seed=seed
    )
    return RankingMetrics(
        *(Interval(found.estimate[k], found.lower[k], found.upper[k]) for k in range(2))
    )


def _levels(
    values: NDArray[np.float64], sizes: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Percentiles (nearest) of the distinct scores of each stay, and one above all of them.

    Raises:
        ParameterError: fewer than two.
    """
    if count < 2:
        raise ParameterError(f"n_thresholds must be at least 2, not {count}")
    stay = np.repeat(np.arange(len(sizes)), sizes)
    distinct = np.unique(np.stack([stay.astype(np.float64), values], axis=1), axis=0)[:, 1]
    inner = np.unique(np.percentile(distinct, np.linspace(0, 100, count), method="nearest"))
    return np.concatenate([inner, [np.nextafter(inner[-1], np.inf)]])


def _rates(
    cells: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sensitivity, specificity, precision (B, K) at ascending thresholds, and areas (B, 2)."""
    tp, fp, fn, tn = (cells[..., k] for k in (TP, FP, FN, TN))
    with np.errstate(invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        precision = np.where(tp + fp > 0, tp / (tp + fp), 1.0)
    # From the highest threshold (nobody is alarmed) to the lowest.
    true, false = sensitivity[:, ::-1], 1 - specificity[:, ::-1]
    end = np.ones((len(cells), 1))
    auroc = np.trapezoid(
        np.concatenate([true, end], axis=1), np.concatenate([false, end], axis=1), axis=1
    )
    auprc = (np.diff(true, prepend=0.0, axis=1) * precision[:, ::-1]).sum(axis=1)
    return sensitivity, specificity, precision, np.stack([auroc, auprc], axis=1)


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
