"""From predictions to what is said of them: how late labels are, scores, leaderboards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.events import EventLog
from foretell.evaluation.feedback.audit import feedback_audit
from foretell.evaluation.feedback.binary_metrics import (
    average_precision,
    calibration_bins,
    expected_calibration_error,
    negative_log_likelihood,
)
from foretell.evaluation.feedback.paired_scores import compare_probabilities
from foretell.runs.feedback.jobs import Done, Job, rows_of
from foretell.runs.feedback.recipe import Recipe

ORACLE = "oracle"
_BINS = 20


@dataclass(frozen=True, eq=False)
class Findings:
    """What the predictions of a run say.

    Args:
        metrics: model -> snapshot -> score -> value; intervals under ``_lower`` and ``_upper``.
        boards: snapshot -> rows of the leaderboard.
        best: the model that can be deployed with the lowest loss, averaged over snapshots.
        baseline: the model that the others are compared with.
        snapshots: snapshot -> facts of its rows.
    """

    metrics: dict[str, dict[str, dict[str, Any]]]
    boards: dict[str, list[dict[str, Any]]]
    best: str
    baseline: str | None
    snapshots: dict[str, dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {
            "best": self.best,
            "baseline": self.baseline,
            "metrics": self.metrics,
            "leaderboard": self.boards,
            "snapshots": self.snapshots,
        }


def gather(
    recipe: Recipe, log: EventLog, jobs: Sequence[Job], done: Sequence[Done]
) -> tuple[pl.DataFrame, dict[str, dict[str, dict[str, Any]]]]:
    """All predictions, one row a model, snapshot, seed and test row, and means over the seeds.

    Returns:
        ``snapshot, model, seed, id, time, p, y`` and model -> snapshot -> ``fit_seconds,
        effective_share``.
    """
    parts = []
    costs: dict[str, dict[str, dict[str, Any]]] = {}
    for job, one in zip(jobs, done, strict=True):
        test = recipe.snapshots[job.snapshot].test
        rows = rows_of(log, test, f"snapshots.{job.snapshot}.test")
        parts.append(
            pl.DataFrame(
                {"id": log.ids[rows], "time": log.times[rows], "p": one.p, "y": log.label()[rows]}
            ).select(
                pl.lit(job.snapshot).alias("snapshot"),
                pl.lit(job.model).alias("model"),
                pl.lit(job.seed).alias("seed"),
                pl.all(),
            )
        )
        own = costs.setdefault(job.model, {}).setdefault(job.snapshot, {})
        own.setdefault("fit_seconds", []).append(one.fit_seconds)
        own.setdefault("effective_share", []).append(one.effective_share)
    means = {
        model: {
            snapshot: {key: _mean(values) for key, values in own.items()}
            for snapshot, own in snapshots.items()
        }
        for model, snapshots in costs.items()
    }
    return pl.concat(parts), means


def find(
    recipe: Recipe,
    log: EventLog,
    predictions: pl.DataFrame,
    costs: dict[str, dict[str, dict[str, Any]]],
) -> Findings:
    """Scores with intervals, leaderboards, and which model is the best."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in recipe.models}
    boards: dict[str, list[dict[str, Any]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    baseline = recipe.baseline
    for snapshot, section in recipe.snapshots.items():
        part = predictions.filter(pl.col("snapshot") == snapshot)
        y, p = _arrays(part, list(recipe.models))
        rows = rows_of(log, section.test, f"snapshots.{snapshot}.test")
        table = compare_probabilities(
            y,
            p,
            clusters=_clusters(recipe.report.cluster, log, rows),
            references=() if baseline is None else (baseline,),
            resamples=recipe.report.resamples,
        )
        for name in recipe.models:
            metrics[name][snapshot] = {**_scores(table, name, y, p[name]), **costs[name][snapshot]}
        losses = {name: metrics[name][snapshot]["nll"] for name in recipe.models}
        boards[snapshot] = _board(losses, table, baseline)
        now = log.until(log.moment(section.now))
        begin = -np.inf if section.since is None else log.moment(section.since)
        facts[snapshot] = {
            "now": section.now if isinstance(section.now, str) else f"{section.now:g}",
            "train_rows": int((now.times >= begin).sum()),
            "test_rows": len(y),
            "test_rate": float(y.mean()),
        }

    def mean_loss(name: str) -> float:
        return float(np.mean([metrics[name][snapshot]["nll"] for snapshot in recipe.snapshots]))

    able = [name for name, model in recipe.models.items() if model.method != ORACLE]
    best = min(able or list(recipe.models), key=mean_loss)
    return Findings(metrics, boards, best, baseline, facts)


def _arrays(part: pl.DataFrame, models: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Labels (n,) and model -> predictions (seeds, n), rows in the same order for all."""
    p = {}
    y = None
    for name in models:
        seeds = part.filter(pl.col("model") == name).partition_by("seed", maintain_order=True)
        p[name] = np.stack([one["p"].to_numpy() for one in seeds])
        y = seeds[0]["y"].to_numpy() if y is None else y
    return y, p


def _clusters(kind: str, log: EventLog, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """Who is resampled together (n,); None for rows alone."""
    if kind == "row":
        return None
    if kind == "time":
        return log.times[rows]
    return np.array([str(name).rpartition("/")[0] or str(name) for name in log.ids[rows]], object)


_NAMES = {"nll": "nll", "auc": "auc", "ratio": "calibration_ratio"}


def _scores(
    table: pl.DataFrame, name: str, y: NDArray[Any], runs: NDArray[np.float64]
) -> dict[str, Any]:
    """Scores of a model with their intervals, means over its runs (seeds, n)."""
    scores: dict[str, Any] = {"seeds": len(runs)}
    own = table.filter(pl.col("versus").is_null(), method=name, group=table["group"][0])
    for row in own.iter_rows(named=True):
        if row["metric"] in _NAMES:
            key = _NAMES[row["metric"]]
            scores |= {key: row["estimate"], f"{key}_lower": row["lower"]}
            scores[f"{key}_upper"] = row["upper"]
    losses = [negative_log_likelihood(y, p) for p in runs]
    scores["nll_sd"] = float(np.std(losses, ddof=1)) if len(runs) > 1 else None
    scores["pr_auc"] = float(np.mean([average_precision(y, p) for p in runs]))
    bins = [expected_calibration_error(calibration_bins(y, p, _BINS)) for p in runs]
    scores["ece"] = float(np.mean(bins))
    return scores


def _board(
    losses: dict[str, float], table: pl.DataFrame, baseline: str | None
) -> list[dict[str, Any]]:
    """Models from the lowest loss to the highest, each against the baseline."""
    rows = []
    versus = table.filter(versus=baseline, metric="nll", group=table["group"][0])
    differences = {r["method"]: r for r in versus.iter_rows(named=True)} if baseline else {}
    base, oracle = losses.get(baseline or ""), losses.get(ORACLE)
    rank = 0
    for name in sorted(losses, key=lambda name: losses[name]):
        rank += name != ORACLE
        row: dict[str, Any] = {"rank": None if name == ORACLE else rank, "model": name}
        row |= dict.fromkeys(("difference", "lower", "upper", "relative", "gap_closed"))
        if name in differences and base is not None:
            row["difference"] = differences[name]["estimate"]
            row |= {end: differences[name][end] for end in ("lower", "upper")}
            row["relative"] = row["difference"] / base
            if oracle is not None and base > oracle:
                row["gap_closed"] = (base - losses[name]) / (base - oracle)
        rows.append(row)
    return rows


def audit(recipe: Recipe, log: EventLog) -> dict[str, Any]:
    """How late the labels of each snapshot's training rows are, seen from the end of the log."""
    found = {}
    for name, section in recipe.snapshots.items():
        now = log.moment(section.now)
        begin = -np.inf if section.since is None else log.moment(section.since)
        trained = log.select((log.times <= now) & (log.times >= begin))
        visible, final = trained.until(now).label(), trained.label()
        ages = np.linspace(0, _reach(trained), recipe.report.ages + 1)
        tables = feedback_audit(trained, engagement=tuple(log.kinds[1:]), methods=(), ages=ages)
        curve = tables.delay_curve.filter(estimate="product_limit")
        fake = tables.fake_negatives
        found[name] = {
            "rows": len(trained),
            "visible_share": float(visible.sum() / max(final.sum(), 1)),
            "mean_visible": float(visible.mean()),
            "mean_final": float(final.mean()),
            "delays": {
                kind: {
                    "delay": curve.filter(kind=kind)["age"].to_list(),
                    "share": curve.filter(kind=kind)["share"].to_list(),
                }
                for kind in curve["kind"].unique(maintain_order=True)
            },
            "fake_negatives": {
                "rows": fake["matured_unlabelled"].to_list(),
                **{key: fake[key].to_list() for key in ("age", "share", "lower", "upper")},
            },
        }
    return found


def _reach(log: EventLog) -> float:
    """The delay that 99 in 100 conversions do not exceed."""
    delay = log.delay()
    seen = delay[np.isfinite(delay)]
    return float(np.quantile(seen, 0.99)) if len(seen) else log.window


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
