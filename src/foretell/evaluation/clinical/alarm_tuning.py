"""Choosing the threshold of an alarm policy on validation stays, and saying when none will do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.decisions.alarms import AlarmPolicy, Tier, run_policy
from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical.alarms import AlarmMetrics, alarm_metrics

_AT_MOST = {
    "faph": "false_alarms_per_patient_hour",
    "alarms_per_bed_day": "alarms_per_bed_day",
    "alarms_per_true_alarm": "alarms_per_true_alarm",
}
_AT_LEAST = {"ppv": "ppv", "patient_ppv": "patient_ppv"}


@dataclass(frozen=True)
class AlarmCosts:
    """What mistakes cost, in any common unit.

    Args:
        missed: a septic patient who is not found.
        false_alarm: an alarm without an onset to come.
        delay: each hour less than ``horizon`` between the first true alarm and the onset.
    """

    missed: float
    false_alarm: float
    delay: float = 0.0

    def of(self, metrics: AlarmMetrics) -> float:
        """The cost of a policy over the stays it was judged on."""
        missed = metrics.counts[:, 0].sum() - metrics.counts[:, 1].sum()
        lead = metrics.lead[np.isfinite(metrics.lead)]
        late = np.clip(metrics.horizon - lead, 0, None).sum()
        return float(
            self.missed * missed + self.false_alarm * metrics.counts[:, 6].sum() + self.delay * late
        )


@dataclass(frozen=True, eq=False)
class TunedAlarms:
    """A threshold that was chosen, or the news that none meets what was asked.

    Attributes:
        policy: with the chosen threshold; None where nothing meets the target and constraint.
        metrics: of that policy on the validation stays: ``metrics.table()`` has intervals.
        curve: one row a candidate threshold, ascending: ``threshold``, the metrics, ``cost``,
            ``feasible``.
        target: what was asked, in words.
    """

    policy: AlarmPolicy | None
    metrics: AlarmMetrics | None
    curve: pl.DataFrame
    target: str

    @property
    def feasible(self) -> bool:
        """Whether a threshold meets what was asked."""
        return self.policy is not None

    def require(self) -> AlarmPolicy:
        """The policy.

        Raises:
            DataError: nothing meets what was asked; says how near the candidates come.
        """
        if self.policy is None:
            best = float(np.nanmax(self.curve["patient_sensitivity"].to_numpy()))
            raise DataError(
                f"no threshold meets {self.target}; the highest patient sensitivity of all "
                f"{len(self.curve)} candidates is {best:.3f}",
                hint="Look at .curve, and relax the target or the constraint knowingly",
            )
        return self.policy


class _Tried(NamedTuple):
    policy: AlarmPolicy
    metrics: AlarmMetrics
    row: dict[str, Any]


def tune_alarms(
    policy: AlarmPolicy,
    stays: Stays,
    scores: ArrayLike,
    *,
    target_sensitivity: float | None = 0.6,
    constraint: Mapping[str, float] | None = None,
    costs: AlarmCosts | None = None,
    horizon: float = 48,
    issued: ArrayLike | None = None,
    candidates: int = 200,
) -> TunedAlarms:
    """Finds the threshold with the fewest false alarms that still finds enough patients.

    All else of the policy (snooze, persistence, limits) stays as given. Candidates are quantiles of
    the highest score of each stay, where patients are won and lost; then those between the best of
    them and its neighbours. With ``costs`` the cheapest candidate that meets target and constraint
    is taken instead.

    Args:
        policy: with one tier; its threshold is replaced.
        stays: validation stays with their onsets, none of which trained the model.
        scores: (R,) of the validation hours.
        target_sensitivity: least share of septic patients found; None for no such target.
        constraint: any of ``ppv``, ``patient_ppv`` (at least), ``faph``, ``alarms_per_bed_day``,
            ``alarms_per_true_alarm`` (at most). It is never relaxed.
        costs: to minimise instead of false alarms.
        horizon: hours within which the onset must follow a true alarm.
        issued: (R,) 1 where a score was issued.
        candidates: number of thresholds that are tried at first, and again around the best.

    Raises:
        DataError: sizes do not fit, or no stay is septic.
        ParameterError: several tiers, thresholds of units, or an unknown constraint.
    """
    if len(policy.tiers) != 1:
        raise ParameterError(
            f"a policy with one tier is tuned at a time, not {len(policy.tiers)}; tune each tier "
            "with a policy of its own"
        )
    if policy.tiers[0].units:
        raise ParameterError(
            "the threshold that is tuned is one for all units: tune on the stays of each unit, "
            "with a policy without thresholds of units"
        )
    limits = dict(constraint or {})
    unknown = [name for name in limits if name not in _AT_LEAST | _AT_MOST]
    if unknown:
        known = ", ".join(_AT_LEAST | _AT_MOST)
        raise ParameterError(f"unknown constraint {unknown[0]!r}; known are {known}")
    if target_sensitivity is not None and not 0 < target_sensitivity <= 1:
        raise ParameterError(f"target_sensitivity must lie in (0, 1], not {target_sensitivity}")
    values = np.asarray(scores, np.float64)
    given = np.ones(stays.n_rows, bool) if issued is None else np.asarray(issued).astype(bool)
    highest = _highest(values, given, stays)
    by = "cost" if costs is not None else "false_alarms_per_patient_hour"
    tried: dict[float, _Tried] = {}

    def judge(thresholds: NDArray[np.float64]) -> list[float]:
        """Tries what was not tried; all that meet what was asked, the best first."""
        for threshold in (float(t) for t in thresholds if float(t) not in tried):
            now = _with_threshold(policy, threshold)
            raised = run_policy(now, values, stays.lengths, issued=given).raised
            metrics = alarm_metrics(stays, raised, horizon=horizon, predicted=given)
            found = metrics.values()
            enough = target_sensitivity is None or (
                found["patient_sensitivity"] >= target_sensitivity
            )
            kept = all(found[_AT_LEAST[k]] >= v for k, v in limits.items() if k in _AT_LEAST)
            kept &= all(found[_AT_MOST[k]] <= v for k, v in limits.items() if k in _AT_MOST)
            cost = None if costs is None else costs.of(metrics)
            row = {"threshold": threshold, **found, "cost": cost, "feasible": bool(enough & kept)}
            tried[threshold] = _Tried(now, metrics, row)
        good = [t for t, one in tried.items() if one.row["feasible"]]
        return sorted(good, key=lambda t: (np.nan_to_num(tried[t].row[by], nan=np.inf), t))

    best = judge(_spread(highest, candidates))
    if not tried:
        raise DataError("no hour has a score to tune on")
    if not next(iter(tried.values())).metrics.counts[:, 0].any():
        raise DataError("no validation stay is septic: there is nothing to find")
    if best:
        near = sorted(tried)
        place = near.index(best[0])
        low, high = near[max(place - 1, 0)], near[min(place + 1, len(near) - 1)]
        best = judge(_spread(highest[(highest > low) & (highest < high)], candidates))
    curve = pl.DataFrame(
        [tried[t].row for t in sorted(tried)], schema_overrides={"cost": pl.Float64}
    ).with_columns(pl.col(pl.Float64).fill_nan(None))
    parts = [] if target_sensitivity is None else [f"patient sensitivity >= {target_sensitivity}"]
    parts += [f"{k} {'>=' if k in _AT_LEAST else '<='} {v}" for k, v in limits.items()]
    words = " and ".join(parts) or "no condition"
    if not best:
        return TunedAlarms(None, None, curve, words)
    chosen = tried[best[0]]
    return TunedAlarms(chosen.policy, chosen.metrics, curve, words)


def _with_threshold(policy: AlarmPolicy, threshold: float) -> AlarmPolicy:
    return replace(policy, threshold=None, tiers=(Tier(policy.tiers[0].name, float(threshold)),))


def _highest(
    scores: NDArray[np.float64], issued: NDArray[np.bool_], stays: Stays
) -> NDArray[np.float64]:
    """The highest score of each stay that has one, ascending, each once."""
    if scores.shape != (stays.n_rows,) or issued.shape != scores.shape:
        raise DataError(f"there are {scores.shape} scores for {stays.n_rows:,} hours")
    highest = np.full(len(stays), -np.inf)
    np.maximum.at(highest, stays.stay_of_row()[issued], scores[issued])
    return np.unique(highest[np.isfinite(highest)])


def _spread(known: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """At most so many of ascending values, their quantiles."""
    if len(known) <= most:
        return known
    return known[np.unique(np.linspace(0, len(known) - 1, most).round().astype(np.int64))]
