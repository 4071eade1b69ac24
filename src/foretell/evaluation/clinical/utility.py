"""The utility of the 2019 challenge, normalised, with intervals, and beside a clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.data.clinical.utility import UtilityParameters, UtilityRows, challenge_utility_rows
from foretell.errors import DataError
from foretell.evaluation.bootstrap import Interval, cluster_bootstrap
from foretell.evaluation.clinical.checks import binary, row_values

CLOCK_HOUR = 48
"""The clock-only rule: from this hour in the unit on, always alarm."""


@dataclass(frozen=True, eq=False)
class UtilityScore:
    """Utilities of each stay (N,): of the predictions, of the best ones, and of silence."""

    observed: NDArray[np.float64]
    best: NDArray[np.float64]
    inaction: NDArray[np.float64]

    @property
    def normalised(self) -> float:
        """1 for the best predictions, 0 for silence: sums over stays before dividing."""
        return float(_normalised(self._sums().sum(axis=0, keepdims=True))[0])

    def interval(
        self, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> Interval:
        """The normalised utility with its percentile interval over stays."""
        return cluster_bootstrap(
            self._sums(), _normalised, resamples=resamples, confidence=confidence, seed=seed
        )

    def margin(
        self,
        other: UtilityScore,
        *,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> Interval:
        """By how much it exceeds another score of the same stays, resampled together."""
        sums = np.concatenate([self._sums(), other._sums()], axis=1)
        return cluster_bootstrap(
            sums,
            lambda s: _normalised(s[:, :3]) - _normalised(s[:, 3:]),
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )

    def _sums(self) -> NDArray[np.float64]:
        return np.stack([self.observed, self.best, self.inaction], axis=1)


def challenge_utility(
    prediction: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    *,
    parameters: UtilityParameters | None = None,
) -> UtilityScore:
    """The utility of hourly alarms, as the challenge scored them.

    Args:
        prediction: (R,) 0 or 1 for every row, stay after stay.
        label: (R,) the challenge's label.
        lengths: (N,) rows of each stay.
        parameters: of the utility.

    Raises:
        DataError: a value is neither 0 nor 1, or sizes do not fit.
    """
    rows = challenge_utility_rows(label, lengths, parameters)
    alarm = binary("prediction", prediction, len(rows.alarm))
    return _score(rows, alarm, np.asarray(lengths, np.int64))


def utility_of_thresholds(
    scores: ArrayLike,
    thresholds: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    *,
    parameters: UtilityParameters | None = None,
) -> NDArray[np.float64]:
    """(K,) normalised utility of alarms at ``score >= threshold``, all from one sorting."""
    rows = challenge_utility_rows(label, lengths, parameters)
    values = row_values("score", scores, len(rows.alarm))
    order = np.argsort(-values, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum(rows.gain[order])])
    count = np.searchsorted(-values[order], -np.asarray(thresholds, values.dtype), side="right")
    silence, best = float(rows.silence.sum()), float(rows.best.sum())
    return _ratio(gains[count], best - silence)


def best_threshold(
    scores: ArrayLike,
    label: ArrayLike,
    lengths: ArrayLike,
    *,
    parameters: UtilityParameters | None = None,
) -> tuple[float, float]:
    """The threshold with the highest normalised utility on these rows, and that utility.

    Choose it on validation rows: on the rows that are reported it is optimistic. It is +inf
    where silence is best.
    """
    rows = challenge_utility_rows(label, lengths, parameters)
    values = row_values("score", scores, len(rows.alarm))
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    gains = np.cumsum(rows.gain[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    candidates = np.concatenate([[0.0], gains[last]])
    at = int(np.argmax(candidates))
    scale = float(rows.best.sum() - rows.silence.sum())
    threshold = np.inf if at == 0 else float(ranked[last[at - 1]])
    return threshold, float(_ratio(candidates[at : at + 1], scale)[0])


def clock_rule(stays: Stays, hour: float = CLOCK_HOUR) -> NDArray[np.bool_]:
    """(R,) alarms of the clock-only rule, which no model may stay behind."""
    return stays.hours() >= hour


def utility_table(
    stays: Stays,
    predictions: dict[str, ArrayLike],
    *,
    clock_hour: float = CLOCK_HOUR,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pl.DataFrame:
    """Normalised utility of each method beside the clock-only rule.

    The utility rewards long stays: an alarm from hour 48 on, whoever the patient is, earns 0.27.
    What counts is the margin over it, with an interval over patients.

    Args:
        stays: with their labels.
        predictions: name -> (R,) 0 or 1.
        clock_hour: of the clock-only rule.
        resamples: of the bootstrap.
        confidence: of the intervals.
        seed: of the bootstrap.

    Returns:
        ``method``, ``utility``, ``lower``, ``upper``, ``margin`` over the clock with its bounds;
        the first row is the clock itself.
    """
    label = stays.labels()
    if (label < 0).any():
        raise DataError("a label is not known", hint="Leave stays without a label out")
    rows = challenge_utility_rows(label, stays.lengths)
    patient = np.unique(stays.patients.astype(str), return_inverse=True)[1]

    def score(alarms: NDArray[np.bool_]) -> UtilityScore:
        by_stay = _score(rows, alarms, stays.lengths)
        return UtilityScore(
            np.bincount(patient, by_stay.observed).astype(np.float64),
            np.bincount(patient, by_stay.best).astype(np.float64),
            np.bincount(patient, by_stay.inaction).astype(np.float64),
        )

    clock = score(clock_rule(stays, clock_hour))
    found = {f"clock {clock_hour:g} h": clock}
    for name, prediction in predictions.items():
        found[name] = score(binary(f"prediction {name!r}", prediction, stays.n_rows))
    table = []
    for name, value in found.items():
        around = value.interval(resamples=resamples, confidence=confidence, seed=seed)
        margin = value.margin(clock, resamples=resamples, confidence=confidence, seed=seed)
        row: dict[str, object] = {"method": name}
        row |= {"utility": value.normalised, "lower": around.lower, "upper": around.upper}
        row |= {"margin": margin.estimate}
        row |= {"margin_lower": margin.lower, "margin_upper": margin.upper}
        table.append({k: v if isinstance(v, str) else float(v) for k, v in row.items()})  # type: ignore[arg-type]
    return pl.DataFrame(table)


def _score(rows: UtilityRows, alarm: NDArray[np.bool_], lengths: NDArray[np.int64]) -> UtilityScore:
    stay = np.repeat(np.arange(len(lengths)), lengths)

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(stay, values, minlength=len(lengths)).astype(np.float64)

    observed = summed(np.where(alarm, rows.alarm, rows.silence))
    return UtilityScore(observed, summed(rows.best), summed(rows.silence))


def _normalised(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(sums[:, 0] - sums[:, 2], sums[:, 1] - sums[:, 2])


def _ratio(top: NDArray, bottom: NDArray | float) -> NDArray[np.float64]:
    """NaN where nothing can be gained: no stay has an onset."""
    bottom = np.asarray(bottom, np.float64)
    return np.where(bottom == 0, np.nan, top / np.where(bottom == 0, 1.0, bottom))
