"""What alarms are worth at the bedside: found patients, false alarms an hour, hours of lead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.labels import hours_to_onset
from foretell.data.clinical.stays import Stays
from foretell.decisions.alarms import AlarmPolicy, run_policy
from foretell.errors import DataError, ParameterError
from foretell.evaluation.bootstrap import cluster_bootstrap
from foretell.evaluation.clinical.checks import binary

METRICS = (
    "patient_sensitivity",
    "patient_specificity",
    "patient_ppv",
    "patient_npv",
    "patient_odds_ratio",
    "ppv",
    "alarms_per_true_alarm",
    "false_alarms_per_patient_hour",
    "alarms_per_bed_day",
    "lead_q25",
    "lead_median",
    "lead_q75",
)
"""Names of the metrics in tables; leads are in hours."""

APART = {
    "onset_before_record": "stays septic before or with the first hour, left out of sensitivity",
    "onset_before_prediction": "septic stays without a score before the onset, counted as missed",
    "onset_after_record": "stays with an onset beyond the record",
    "without_prediction": "stays without any hour with a score",
    "after_onset": "alarms at or after the onset, which count as neither",
}
"""What is told beside the metrics: names of counts, and what they count."""

_COUNTS = ("septic", "found", "well", "well_alarmed", "alarmed", "true", "false", "hours")


def threshold_alarms(
    scores: ArrayLike,
    lengths: ArrayLike,
    threshold: float,
    *,
    snooze: int = 0,
    mask: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """(R,) alarms of the plain policy: ``score >= threshold``, then ``snooze`` hours of silence.

    Args:
        scores: (R,) stay after stay.
        lengths: (N,) rows of each stay.
        threshold: of the alarm.
        snooze: in hours.
        mask: (R,) 1 where a score was issued; no alarm elsewhere. All by default.

    Raises:
        DataError: sizes do not fit, or a score that counts is not finite.
    """
    policy = AlarmPolicy(threshold, snooze=snooze)
    rows = int(np.asarray(lengths, np.int64).sum())
    issued = None if mask is None else binary("mask", mask, rows)
    return run_policy(policy, scores, lengths, issued=issued).raised


@dataclass(frozen=True, eq=False)
class AlarmMetrics:
    """Counts of each stay, from which all metrics and intervals follow.

    Attributes:
        horizon: hours within which the onset must follow a true alarm.
        counts: (N, 8) per stay: counted as septic, found by a true alarm, counted as well, well
            but alarmed, alarmed at all, true alarms, false alarms, hours at risk.
        lead: (N,) hours from the first true alarm to the onset; NaN where there is none.
        leads: name -> (N,) hours from the first true alarm to another event, such as antibiotics.
        patients: (N,) whom each stay belongs to: they are resampled.
        after_onset: alarms at or after the onset, which count as neither.
        onset_before_record: septic stays without an hour at risk, left out of sensitivity.
        onset_after_record: septic stays whose onset lies beyond their last hour.
        without_prediction: stays without any hour with a prediction.
        onset_before_prediction: septic stays with hours at risk, in none of which a score was
            issued. They count as missed: silence must not improve sensitivity.
    """

    horizon: float
    counts: NDArray[np.float64]
    lead: NDArray[np.float64]
    leads: Mapping[str, NDArray[np.float64]]
    patients: NDArray[np.object_]
    after_onset: int
    onset_before_record: int
    onset_after_record: int
    without_prediction: int
    onset_before_prediction: int = 0

    @property
    def apart(self) -> dict[str, int]:
        """The counts of :data:`APART`."""
        return {name: int(getattr(self, name)) for name in APART}

    def values(self) -> dict[str, float]:
        """All metrics without intervals."""
        sums, levels, _ = self._sums(None)
        return dict(
            zip(self.names, self._statistic(levels)(sums.sum(axis=0, keepdims=True))[0].tolist(),
                strict=True)
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics of the table in order."""
        extra = tuple(f"{k}_{n}" for n in self.leads for k in ("found_before", "median_lead_to"))
        return METRICS + extra

    def table(
        self,
        *,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
        stays: NDArray[np.bool_] | None = None,
    ) -> pl.DataFrame:
        """``metric``, ``value``, ``lower``, ``upper``: intervals resample whole patients.

        Args:
            resamples: of the bootstrap.
            confidence: of the percentile intervals.
            seed: of the bootstrap.
            stays: (N,) mask of the stays that count, all by default.
        """
        sums, levels, _ = self._sums(stays)
        found = cluster_bootstrap(
            sums, self._statistic(levels), resamples=resamples, confidence=confidence, seed=seed
        )
        return pl.DataFrame(
            {
                "metric": list(self.names),
                "value": found.estimate,
                "lower": found.lower,
                "upper": found.upper,
            }
        ).with_columns(pl.col("value", "lower", "upper").fill_nan(None))

    def by(
        self,
        groups: ArrayLike,
        *,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> pl.DataFrame:
        """The table for each group of stays, such as sex, unit or age band: for equity.

        Args:
            groups: (N,) name of each stay's group.
            resamples: of the bootstrap.
            confidence: of the intervals.
            seed: of the bootstrap.

        Returns:
            ``group``, ``stays``, ``septic`` and the columns of :meth:`table`.
        """
        names = np.asarray(groups).astype(str)
        if names.shape != self.lead.shape:
            raise DataError(f"groups has shape {names.shape} for {len(self.lead)} stays")
        parts = []
        for name in np.unique(names):
            mine = names == name
            table = self.table(resamples=resamples, confidence=confidence, seed=seed, stays=mine)
            parts.append(
                table.select(
                    pl.lit(str(name)).alias("group"),
                    pl.lit(int(mine.sum())).alias("stays"),
                    pl.lit(int(self.counts[mine, 0].sum())).alias("septic"),
                    pl.all(),
                )
            )
        return pl.concat(parts)

    def _sums(
        self, stays: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], int]:
        """(patients, C) sums, and the distinct leads whose counts stand in the last columns."""
        chosen = np.ones(len(self.lead), bool) if stays is None else np.asarray(stays, bool)
        if not chosen.any():
            raise ParameterError("there is no stay to score")
        _, patient = np.unique(self.patients[chosen].astype(str), return_inverse=True)
        size = int(patient.max()) + 1
        columns = [np.bincount(patient, c, minlength=size) for c in self.counts[chosen].T]
        levels = []
        for lead in (self.lead, *self.leads.values()):
            mine = lead[chosen]
            known = np.isfinite(mine)
            # Leads to other events may have minutes: their median is of whole hours.
            hours = mine if lead is self.lead else np.floor(mine)
            distinct = np.unique(hours[known])
            levels.append(distinct)
            for value in distinct:
                columns.append(np.bincount(patient, hours == value, minlength=size))
        return np.stack(columns, axis=1).astype(np.float64), levels, size

    def _statistic(self, levels: list[NDArray[np.float64]]):  # type: ignore[no-untyped-def]
        def statistic(sums: NDArray[np.float64]) -> NDArray[np.float64]:
            c = {name: sums[:, i] for i, name in enumerate(_COUNTS)}
            missed, quiet = c["septic"] - c["found"], c["well"] - c["well_alarmed"]
            alarms = c["true"] + c["false"]
            columns = [
                _ratio(c["found"], c["septic"]),
                _ratio(quiet, c["well"]),
                _ratio(c["found"], c["alarmed"]),
                _ratio(quiet, quiet + missed),
                _ratio(c["found"] * quiet, missed * c["well_alarmed"]),
                _ratio(c["true"], alarms),
                _ratio(alarms, c["true"]),
                _ratio(c["false"], c["hours"]),
                _ratio(24 * alarms, c["hours"]),
            ]
            at = len(_COUNTS)
            for i, values in enumerate(levels):
                counts = sums[:, at : at + len(values)]
                at += len(values)
                if i == 0:
                    columns += [_quantile(values, counts, q) for q in (0.25, 0.5, 0.75)]
                else:
                    columns.append(_ratio(counts[:, values >= 0].sum(axis=1), counts.sum(axis=1)))
                    columns.append(_quantile(values, counts, 0.5))
            return np.stack(columns, axis=1)

        return statistic


def alarm_metrics(
    stays: Stays,
    alarms: ArrayLike,
    *,
    horizon: float = 48,
    predicted: ArrayLike | None = None,
    references: Mapping[str, ArrayLike] | None = None,
) -> AlarmMetrics:
    """Judges alarms as a ward meets them.

    An alarm at hour t is true if the onset lies in (t, t + horizon], else false; alarms at or
    after the onset are not early and count as neither, and hours from the onset on are not at
    risk. A septic patient is found by a true alarm; patients whose onset comes before or with
    their first hour cannot be, and are left out of sensitivity and counted. A patient who is
    septic beyond the record is still septic if an alarm could have been true for them.

    Args:
        stays: with their onsets.
        alarms: (R,) 0 or 1.
        horizon: H in hours.
        predicted: (R,) 1 where a score was issued. Other hours are at risk all the same (silence
            of the system protects nobody); an alarm there is an error.
        references: name -> (N,) other times on the unit's clock, such as the first antibiotics or
            a clinician's suspicion; NaN where unknown.

    Raises:
        DataError: sizes do not fit, or an alarm was raised without a prediction.
        ParameterError: the horizon is not positive.
    """
    if not horizon > 0:
        raise ParameterError(f"the horizon must be positive, not {horizon}")
    rows = stays.n_rows
    alarm = binary("alarm", alarms, rows)
    issued = np.ones(rows, bool) if predicted is None else binary("predicted", predicted, rows)
    if (alarm & ~issued).any():
        raise DataError(
            "an alarm was raised without a prediction", row=int(np.argmax(alarm & ~issued))
        )
    ahead, stay = hours_to_onset(stays), stays.stay_of_row()
    size = len(stays)

    def total(condition: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(stay, condition, minlength=size).astype(np.float64)

    at_risk = ahead > 0
    true = alarm & at_risk & (ahead <= horizon)
    false = alarm & at_risk & (ahead > horizon)
    has_onset = np.isfinite(stays.onset)
    hours, hits, misses = total(at_risk), total(true), total(false)
    # An onset so far beyond the record that no alarm in it could be true makes nobody septic.
    reachable = total(at_risk & (ahead <= horizon)) > 0
    septic = has_onset & reachable
    well = ~has_onset & (stays.lengths > 0)
    alarmed = (hits + misses > 0) & (septic | well)
    found = septic & (hits > 0)
    counts = np.stack(
        [septic, found, well, well & (misses > 0), alarmed, hits, misses, hours], axis=1
    ).astype(np.float64)
    first = np.full(size, np.inf)
    np.minimum.at(first, stay[true], stays.hours()[true].astype(np.float64))
    lead = np.where(found, stays.onset - first, np.nan)
    leads = {}
    for name, times in (references or {}).items():
        when = np.asarray(times, np.float64)
        if when.shape != (size,):
            raise DataError(f"reference {name!r} has shape {when.shape} for {size} stays")
        leads[name] = np.where(found, when - first, np.nan)
    ends = stays.starts + stays.lengths - 1
    return AlarmMetrics(
        float(horizon),
        counts,
        lead,
        leads,
        stays.patients,
        int((alarm & ~at_risk).sum()),
        int((has_onset & (hours == 0)).sum()),
        int((has_onset & (stays.onset > ends)).sum()),
        int((total(issued) == 0).sum()),
        int((septic & (total(issued & at_risk) == 0)).sum()),
    )


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(bottom == 0, np.nan, top / np.where(bottom == 0, 1.0, bottom))


def _quantile(
    values: NDArray[np.float64], counts: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """(B,) lower quantile of values that occur ``counts`` (B, V) times; NaN where none does."""
    if not len(values):
        return np.full(len(counts), np.nan)
    reached = np.cumsum(counts, axis=1)
    total = reached[:, -1:]
    place = np.argmax(reached >= level * total - 1e-9, axis=1)
    # The first value that occurs at all, where the level is reached by nothing.
    return np.where(total[:, 0] > 0, values[place], np.nan)
