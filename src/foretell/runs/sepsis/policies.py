"""What a policy of alarms would have done: the same scores, other thresholds and silences."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.clinical import Stays, challenge_label, target
from foretell.data.readers import read_table
from foretell.decisions.alarms import (
    AlarmPolicy,
    Tier,
    places_of,
    run_policy,
    thresholds_of,
)
from foretell.errors import DataError, ForetellError, ParameterError
from foretell.evaluation.clinical import (
    alarm_metrics,
    challenge_utility,
    clock_rule,
    ranking_metrics,
    snoozed_confusion,
)
from foretell.serving.deployment import Deployment

_INTERVAL = ("estimate", "lower", "upper")


def read_policy(file: str | Path) -> AlarmPolicy:
    """A policy of a TOML file: the arguments of :class:`AlarmPolicy` by name.

    ``tiers`` are tables with ``name``, ``threshold`` and ``units``.

    Raises:
        ParameterError: it cannot be read, a key is unknown or a value is wrong.
    """
    try:
        told = tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(f"{file} cannot be read: {error}") from None
    known = {f.name for f in fields(AlarmPolicy)}
    unknown = sorted(set(told) - known)
    if unknown:
        raise ParameterError(
            f"{file} has the unknown key {unknown[0]!r}; known are {sorted(known)}"
        )
    try:
        if "tiers" in told:
            told["tiers"] = tuple(Tier(**tier) for tier in told["tiers"])
        if "persistence" in told:
            m, n = told["persistence"]
            told["persistence"] = (int(m), int(n))
        return AlarmPolicy(**told)
    except ForetellError:
        raise
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{file} holds no policy: {error}") from None


def scores_of_table(
    stays: Stays, file: str | Path
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(R,) scores of a table with ``id``, ``hour`` and ``score``, and where one was issued.

    Raises:
        DataError: a column is missing, a row is there twice, or none fits.
    """
    table = read_table(str(file))
    missing = sorted({"id", "hour", "score"} - set(table.columns))
    if missing:
        raise DataError(f"the column {missing[0]!r} is missing", file=str(file))
    given = table.select(
        pl.col("id").cast(pl.String), pl.col("hour").cast(pl.Int64),
        pl.col("score").cast(pl.Float64),
    )  # fmt: skip
    if given.select("id", "hour").is_duplicated().any():
        raise DataError("an hour of a stay is there twice", file=str(file))
    rows = pl.DataFrame(
        {"id": np.repeat(stays.ids, stays.lengths).astype(str), "hour": stays.hours()},
        schema_overrides={"hour": pl.Int64},
    )
    joined = rows.join(given, on=["id", "hour"], how="left", maintain_order="left")
    scores = joined["score"].to_numpy().astype(np.float64)
    issued = np.isfinite(scores)
    if not issued.any():
        raise DataError("no row is of these stays", file=str(file), hint="id and hour must fit")
    return np.nan_to_num(scores, nan=0.0), issued


def evaluate_policy(
    stays: Stays,
    policy: AlarmPolicy,
    scores: NDArray[np.float64],
    issued: NDArray[np.bool_],
    *,
    horizon: float = 48.0,
    by: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is asked of alarms, with intervals that resample patients.

    Args:
        stays: with their onsets.
        policy: that is judged.
        scores: (R,) of the hours.
        issued: (R,) whether there was one.
        horizon: hours within which the onset must follow a true alarm.
        by: categories of the stays, such as ``"sex"`` or ``"unit"``, to be told apart.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: the stays have no such category, or nobody is septic.
    """
    if not np.isfinite(stays.onset).any():
        raise DataError("no stay has an onset: alarms cannot be judged")
    units = places_of(policy.tiers, stays)
    found = run_policy(policy, scores, stays.lengths, issued=issued, units=units)
    metrics = alarm_metrics(stays, found.raised, horizon=horizon, predicted=issued)
    label = challenge_label(stays)
    alarm = found.raised.astype(np.int8)
    low = thresholds_of(policy.tiers[0], stays)
    crossing = ((scores >= low) & issued).astype(np.int8)
    clock = clock_rule(stays).astype(np.int8)
    snoozed = snoozed_confusion(
        scores - low, label, stays.lengths, 0.0, mask=issued, snooze=policy.snooze
    )
    groups = {}
    for name in by:
        if name not in stays.categories:
            raise DataError(f"the stays have no {name!r}; they have {sorted(stays.categories)}")
        groups[name] = metrics.by(stays.names(name), resamples=resamples, seed=seed).to_dicts()
    return {
        "policy": policy.to_json(),
        "horizon": horizon,
        "stays": len(stays),
        "hours": stays.n_rows,
        "withheld": int((~issued).sum()),
        "alarms": int(alarm.sum()),
        "septic": int(metrics.counts[:, 0].sum()),
        **metrics.apart,
        "metrics": metrics.table(resamples=resamples, seed=seed).to_dicts(),
        "ranking": rank_hours(stays, scores, issued, horizon, resamples),
        "utility": {
            "threshold": challenge_utility(crossing, label, stays.lengths).normalised,
            "clock_rule": challenge_utility(clock, label, stays.lengths).normalised,
        },
        "snoozed": {
            n: getattr(snoozed, n)
            for n in (
                "tp",
                "fp",
                "fn",
                "tn",
                "sensitivity",
                "specificity",
                "ppv",
                "npv",
                "odds_ratio",
                "patient_sensitivity",
            )
        },
        "by": groups,
    }


def rank_hours(
    stays: Stays,
    scores: NDArray[np.float64],
    issued: NDArray[np.bool_],
    horizon: float,
    resamples: int,
) -> dict[str, Any] | None:
    """AUROC and average precision of hours before the onset: does it come within ``horizon`` hours?

    Args:
        stays: with their onsets.
        scores: (R,) of the hours.
        issued: (R,) whether there was one; other hours are left out.
        horizon: hours ahead within which the onset counts.
        resamples: of the bootstrap, 100 at most.

    Returns:
        ``auroc`` and ``auprc``, each with ``estimate``, ``lower`` and ``upper``, and the
        ``horizon``; None where all hours have the same label.
    """
    wanted = target(stays, horizon)
    patients = np.unique(stays.patients.astype(str), return_inverse=True)[1][stays.stay_of_row()]
    counted = wanted.at_risk & issued
    if len(np.unique(wanted.label[counted])) < 2:
        return None
    told = ranking_metrics(
        scores, wanted.label, patients, rows=counted, resamples=min(resamples, 100)
    )
    return {
        name: {k: float(getattr(getattr(told, name), k)) for k in _INTERVAL}
        for name in ("auroc", "auprc")
    } | {"horizon": horizon}


def evaluate_run(
    run: str | Path, stays: Stays, policy: AlarmPolicy | None = None, **options: Any
) -> dict[str, Any]:
    """The same of a run's model behind its gate.

    ``model_ranking`` ranks the hours as the run's report does: for the onset within the model's own
    horizon, where ``ranking`` asks for the onset within the window in which an alarm is true.

    Args:
        run: folder of a run.
        stays: with their onsets.
        policy: instead of the run's.
        options: of :func:`evaluate_policy`.
    """
    deployment = Deployment.load(run)
    told = deployment.judge(stays)
    scores = np.nan_to_num(told.gated.score, nan=0.0)
    chosen = deployment.policy if policy is None else policy
    found = evaluate_policy(told.stays, chosen, scores, told.gated.may_alarm, **options)
    model_ranking = rank_hours(
        told.stays, told.risk, told.gated.issued, float(deployment.model.horizon),
        int(options.get("resamples", 1000)),
    )  # fmt: skip
    return found | {"model_ranking": model_ranking, "version": deployment.version}
