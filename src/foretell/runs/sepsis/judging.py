"""The deployed model judged on patients that nothing was learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.clinical import Stays, challenge_label, target
from foretell.decisions.abstention import (
    RULES,
    DriftMonitor,
    Gate,
    MondrianConformal,
    Status,
)
from foretell.decisions.alarms import AlarmPolicy, Tier, places_of, run_policy, thresholds_of
from foretell.errors import DataError
from foretell.estimators import FeedForwardRisk
from foretell.estimators.continual.site import intercept_for
from foretell.evaluation.clinical import (
    AlarmMetrics,
    TunedAlarms,
    alarm_metrics,
    best_threshold,
    both_conventions,
    calibration,
    decision_curve,
    ranking_metrics,
    tune_alarms,
    utility_table,
)
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sources import Parts
from foretell.serving.deployment import Deployment, Judged

AGES = ((45, "under 45"), (65, "45 to 64"), (80, "65 to 79"), (np.inf, "80 and over"))
WINDOWS = (12, 24, 48)
"""Hours within which the onset must follow a true alarm, beside the recipe's own."""
_IN_WINDOWS = ("patient_sensitivity", "ppv", "false_alarms_per_patient_hour", "lead_median")
_EQUITY = ("patient_sensitivity", "ppv", "false_alarms_per_patient_hour")


def fit_gate(recipe: Recipe, parts: Parts, model: FeedForwardRisk, risk: NDArray) -> Gate:
    """What is usual from training patients, calibrated on validation patients of all sites.

    Args:
        recipe: its section on the gate.
        parts: stays.
        model: whose horizon counts.
        risk: (R,) of the validation hours.
    """
    section = recipe.gate
    gate = Gate(
        conformal=MondrianConformal(section.score, alpha=section.alpha),
        ambiguity=section.ambiguity or None, alarm_level=section.alarm_level or None,
        horizon=float(model.horizon),
        max_rows=section.max_rows, random_state=recipe.seeds[0],
    )  # fmt: skip
    return gate.fit(parts.split.train, parts.split.validation, risk)


def fit_monitor(
    parts: Parts, gate: Gate, risk: NDArray, policy: AlarmPolicy
) -> DriftMonitor | None:
    """What is usual of inputs and scores, of validation patients; None where they are too few.

    Args:
        parts: stays.
        gate: fitted.
        risk: (R,) of the validation hours.
        policy: whose lowest tier alarms.
    """
    stays = parts.split.validation
    scores = gate.judge(stays, risk).score
    try:
        return DriftMonitor().fit(stays, scores, policy.tiers[0])
    except DataError:
        return None


def lacking(stays: Stays, risk: NDArray, horizon: float) -> dict[str, float]:
    """What the log-odds of each site lack, so that its risks add up to its onsets.

    Training that shows every site the same share of positive hours leaves the sites' rates out.

    Args:
        stays: of all sites, none of which trained the model.
        risk: (R,) of their hours.
        horizon: of the risk.
    """
    wanted = target(stays, horizon)
    site = stays.names("site").astype(str)[stays.stay_of_row()]
    odds = _log_odds(risk)
    found = {}
    for name in np.unique(site):
        mine = wanted.at_risk & (site == name)
        label = wanted.label[mine]
        known = 0 < int(label.sum()) < len(label)
        found[str(name)] = intercept_for(odds[mine], label, float(label.mean())) if known else 0.0
    return found


def _log_odds(risk: NDArray) -> NDArray[np.float64]:
    inside = np.clip(risk, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)


def _moved(risk: NDArray, by: NDArray | float) -> NDArray[np.float64]:
    """Risks whose log-odds are moved; what is no risk stays."""
    values = np.asarray(risk, np.float64)
    inside = (values > 0) & (values < 1)
    return np.where(inside, 1 / (1 + np.exp(-(_log_odds(values) + by))), values)


def tune(
    recipe: Recipe, parts: Parts, gate: Gate, risk: NDArray, horizon: float
) -> tuple[TunedAlarms, AlarmPolicy, Tier]:
    """The tuned policy behind the gate, and the threshold of the highest challenge utility.

    Where nothing meets the constraint, the policy is tuned to the target alone: what is returned
    first says so, and so does the report. With ``by_site`` a threshold is one of risks that are
    right at each site, and what that is in scores differs from site to site.

    Args:
        recipe: its section on alarms.
        parts: stays.
        gate: fitted.
        risk: (R,) of the validation hours.
        horizon: of the risk.
    """
    section, stays = recipe.alarms, parts.split.validation
    gated = gate.judge(stays, risk)
    scores = np.nan_to_num(gated.score, nan=0.0)
    lack: dict[str, float] = {}
    if section.by_site:
        lack = lacking(stays, risk, horizon)
        site = stays.names("site").astype(str)
        scores = _moved(scores, np.array([lack[s] for s in site])[stays.stay_of_row()])
    policy = AlarmPolicy(
        0.5, snooze=section.snooze, persistence=section.persistence, rise=section.rise
    )

    def tuned(constraint: Mapping[str, float]) -> TunedAlarms:
        return tune_alarms(
            policy, stays, scores, target_sensitivity=section.target_sensitivity,
            constraint=constraint, horizon=section.horizon, issued=gated.may_alarm,
            candidates=section.candidates,
        )  # fmt: skip

    asked = tuned({str(k): v for k, v in section.constraint.items()})
    chosen = asked if asked.feasible or not section.constraint else tuned({})
    level, _ = best_threshold(scores, stays.labels(), stays.lengths)

    def placed(name: str, threshold: float) -> Tier:
        one = np.array([threshold])
        return Tier(name, threshold, {s: float(_moved(one, -by)[0]) for s, by in lack.items()})

    found = chosen.require()
    tier = placed(found.tiers[0].name, found.tiers[0].threshold)
    return asked, replace(found, threshold=None, tiers=(tier,)), placed("utility", level)


def judge(
    recipe: Recipe,
    parts: Parts,
    deployment: Deployment,
    told: Judged,
    asked: TunedAlarms,
    utility: Tier,
) -> dict[str, Any]:
    """All tables of the report, from what was said of the test part."""
    test = parts.split.test
    settings = recipe.evaluation
    horizon = float(deployment.model.horizon)
    wanted = target(test, horizon)
    stay = test.stay_of_row()
    patients = np.unique(test.patients.astype(str), return_inverse=True)[1][stay]
    issued, risk = told.gated.issued, told.risk
    counted = wanted.at_risk & issued
    again: dict[str, Any] = {"resamples": settings.resamples}
    calibrated = calibration(
        risk, wanted.label, patients, rows=counted, bins=settings.bins, **again
    )
    curve = decision_curve(risk, wanted.label, patients, settings.thresholds, rows=counted, **again)
    alarms = alarm_metrics(
        test, told.alarms.raised, horizon=recipe.alarms.horizon, predicted=issued
    )
    places = places_of(deployment.policy.tiers, test)
    plain = run_policy(deployment.policy, risk, test.lengths, units=places)
    ungated = alarm_metrics(test, plain.raised, horizon=recipe.alarms.horizon)
    found = alarms.values()
    return {
        "horizon": horizon,
        "hours": _hours(test, told, counted),
        "ranking": _ranking(test, risk, wanted.label, wanted.at_risk, issued, patients, settings),
        "calibration": {
            "bins": _binned(risk, wanted.label, patients, counted, calibrated.table, settings),
            "error": _interval(calibrated.error),
            "slope": calibrated.slope,
            "intercept": calibrated.intercept,
            "slope_around": _interval(calibrated.slope_interval),
            "intercept_around": _interval(calibrated.intercept_interval),
        },
        "decision_curve": curve.to_dicts(),
        "alarms": {
            "gated": alarms.table(**again).to_dicts(),
            "ungated": ungated.table(**again).to_dicts(),
            "windows": _windows(test, told, settings.resamples),
            "septic": int(alarms.counts[:, 0].sum()),
            "found": int(alarms.counts[:, 1].sum()),
            "well": int(alarms.counts[:, 2].sum()),
            "true": int(alarms.counts[:, 5].sum()),
            "false": int(alarms.counts[:, 6].sum()),
            **alarms.apart,
            "target": asked.target,
            "feasible": asked.feasible,
            "threshold": deployment.policy.tiers[0].threshold,
            "thresholds": dict(deployment.policy.tiers[0].units),
            "horizon": recipe.alarms.horizon,
            "snooze": deployment.policy.snooze,
        },
        "leads": [float(v) for v in alarms.lead[np.isfinite(alarms.lead)]],
        "conventions": _conventions(test, told, deployment.policy),
        "abstentions": _abstentions(test, told, wanted.label, wanted.at_risk),
        "equity": _equity(test, told, alarms, settings.resamples),
        "utility": _utility(test, told, utility, settings),
        "metrics": {
            **{k: found[k] for k in (*_EQUITY, "alarms_per_bed_day", "lead_median")},
            "ece": float(calibrated.error.estimate),
            "abstained": float((~issued).mean()),
        },
    }


def _interval(found: Any) -> dict[str, float]:
    return {k: float(getattr(found, k)) for k in ("estimate", "lower", "upper")}


def _windows(test: Stays, told: Judged, resamples: int) -> list[dict[str, Any]]:
    """The same alarms where the onset must follow within fewer hours, or more."""
    rows = []
    for hours in WINDOWS:
        found = alarm_metrics(
            test, told.alarms.raised, horizon=hours, predicted=told.gated.issued
        ).table(resamples=resamples)
        row: dict[str, Any] = {"hours": hours}
        for metric in found.iter_rows(named=True):
            row[metric["metric"]] = [metric[k] for k in ("value", "lower", "upper")]
        rows.append({k: v for k, v in row.items() if k in ("hours", *_IN_WINDOWS)})
    return rows


def _hours(test: Stays, told: Judged, counted: NDArray[np.bool_]) -> dict[str, int]:
    return {
        "stays": len(test),
        "septic": int(np.isfinite(test.onset).sum()),
        "hours": test.n_rows,
        "judged": int(counted.sum()),
        "issued": int(told.gated.issued.sum()),
    }


def _ranking(
    test: Stays, risk: NDArray, label: NDArray, at_risk: NDArray[np.bool_],
    issued: NDArray[np.bool_], patients: NDArray, settings: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """AUROC of hours at every site, of all hours and of those with a score."""
    site = test.names("site").astype(str)[test.stay_of_row()]
    rows = []
    for name in ("all", *sorted(set(site.tolist()))):
        mine = at_risk & ((site == name) | (name == "all"))
        for which, chosen in (("all hours", mine), ("hours with a score", mine & issued)):
            if len(np.unique(label[chosen])) < 2:
                continue
            metrics = ranking_metrics(
                risk, label, patients, rows=chosen, resamples=min(100, settings.resamples)
            )
            rows.append({
                "site": name, "hours": which, "auroc": float(metrics.auroc.estimate),
                "lower": float(metrics.auroc.lower), "upper": float(metrics.auroc.upper),
                "auprc": float(metrics.auprc.estimate), "rate": float(label[chosen].mean()),
            })  # fmt: skip
    return rows


def _binned(
    risk: NDArray, label: NDArray, patients: NDArray, rows: NDArray[np.bool_],
    table: pl.DataFrame, settings: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Bins with intervals of the rate: patients are resampled."""
    from foretell.evaluation.bootstrap import cluster_bootstrap

    p, y = risk[rows], label[rows]
    owner = np.unique(patients[rows], return_inverse=True)[1]
    edges = np.unique(np.quantile(p, np.linspace(0, 1, settings.bins + 1)[1:-1]))
    place = np.unique(np.searchsorted(edges, p, side="left"), return_inverse=True)[1]
    size, bins = int(owner.max()) + 1, int(place.max()) + 1
    sums = [
        np.bincount(owner * bins + place, w, minlength=size * bins).reshape(size, bins)
        for w in (np.ones(len(p)), y.astype(np.float64))
    ]

    def rate(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return total[:, bins:] / np.maximum(total[:, :bins], 1)

    around = cluster_bootstrap(np.concatenate(sums, axis=1), rate, resamples=settings.resamples)
    return [
        {**row, "lower": float(low), "upper": float(high)}
        for row, low, high in zip(table.to_dicts(), around.lower, around.upper, strict=True)
    ]


def _conventions(test: Stays, told: Judged, policy: AlarmPolicy) -> list[dict[str, Any]]:
    """Judgements of armed hours with indeterminate hours left out, and counted as negative."""
    label, level = challenge_label(test), thresholds_of(policy.tiers[0], test)
    table = both_conventions(
        told.risk - level, label, test.lengths, 0.0, issued=told.gated.issued, snooze=policy.snooze
    )
    return table.to_dicts()


def _abstentions(
    test: Stays, told: Judged, label: NDArray, at_risk: NDArray[np.bool_]
) -> dict[str, Any]:
    """How often the gate said what, of hours without and with an onset to come, and why."""
    status = told.gated.status
    classes = {
        "well": at_risk & (label == 0), "septic": at_risk & (label == 1), "after": ~at_risk,
    }  # fmt: skip
    rows = [
        {"status": s.name.lower(), "hours": int((status == s).sum()),
         "share": float((status == s).mean()),
         **{n: float((status[m] == s).mean()) if m.any() else None for n, m in classes.items()}}
        for s in Status
    ]  # fmt: skip
    flags = told.gated.quality.flags
    rules = [
        {"rule": name, "meaning": words, "hours": int(flags[:, k].sum()),
         "share": float(flags[:, k].mean())}
        for k, (name, words) in enumerate(RULES.items())
    ]  # fmt: skip
    site = test.names("site").astype(str)[test.stay_of_row()]
    by_site = [
        {"site": name,
         **{s.name.lower(): float((status[site == name] == s).mean()) for s in Status}}
        for name in sorted(set(site.tolist()))
    ]  # fmt: skip
    return {"status": rows, "rules": rules, "by_site": by_site}


def age_band(ages: NDArray[np.float64]) -> NDArray[np.str_]:
    """(N,) names of age bands."""
    found = np.full(len(ages), "unknown", dtype="U12")
    for limit, name in reversed(AGES):
        found[ages < limit] = name
    return found


def _equity(
    test: Stays, told: Judged, alarms: AlarmMetrics, resamples: int
) -> list[dict[str, Any]]:
    """Sensitivity, PPV, false alarms and abstentions of groups, with intervals."""
    groups: dict[str, NDArray] = {"age": age_band(test.number("age"))}
    for name in ("sex", "unit", "site"):
        if name in test.categories:
            groups[name] = test.names(name).astype(str)
    if len(set(groups.get("site", np.array([""])).tolist())) < 2:
        groups.pop("site", None)
    silent = ~told.gated.issued
    stay, rows = test.stay_of_row(), []
    for kind, names in groups.items():
        table = alarms.by(names, resamples=resamples).filter(pl.col("metric").is_in(_EQUITY))
        parts = {str(name[0]): mine for name, mine in table.group_by("group")}
        order = [name for _, name in AGES if name in parts] if kind == "age" else []
        for group in [*order, *sorted(set(parts) - set(order))]:
            mine = parts[group]
            row: dict[str, Any] = {
                "kind": kind, "group": group, "stays": int(mine["stays"][0]),
                "septic": int(mine["septic"][0]),
                "abstained": float(silent[(names == group)[stay]].mean()),
            }  # fmt: skip
            for metric in mine.iter_rows(named=True):
                row[metric["metric"]] = [metric[k] for k in ("value", "lower", "upper")]
            rows.append(row)
    return rows


def _utility(test: Stays, told: Judged, tier: Tier, settings: Any) -> list[dict[str, Any]]:
    issued, threshold = told.gated.issued, thresholds_of(tier, test)
    return utility_table(
        test,
        {
            "model without the gate": told.risk >= threshold,
            "model behind the gate": (told.risk >= threshold) & issued,
        },
        clock_hour=settings.clock_hour,
        resamples=settings.resamples,
    ).to_dicts()
