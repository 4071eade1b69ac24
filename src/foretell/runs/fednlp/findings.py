"""What the jobs of a grid say together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from foretell.runs.fednlp.jobs import Done, Job
from foretell.runs.fednlp.recipe import Recipe

Found = Sequence[tuple[Job, Done]]


def curves(found: Found) -> pl.DataFrame:
    """A row a job of the grid and measured round."""
    parts = [
        pl.DataFrame(done.curve, strict=False).select(
            pl.lit(job.task).alias("task"), pl.lit(job.setting).alias("setting"),
            pl.lit(job.alpha, pl.Float64).alias("alpha"), pl.lit(job.method).alias("method"),
            pl.lit(job.seed).alias("seed"), pl.all(),
        )
        for job, done in found
        if job.kind == "grid"
    ]  # fmt: skip
    return pl.concat(parts, how="diagonal_relaxed")


def task_rows(recipe: Recipe, found: Found) -> list[dict[str, Any]]:
    """A row a task: its metric's central and trivial scores."""
    rows = []
    for name, section in recipe.tasks.items():
        central = [d for j, d in found if j.task == name and j.kind == "central"]
        if not central:
            continue
        scores = [d.scores["score"] for d in central]
        trivial = central[0].trivial
        best = max(trivial, key=lambda key: trivial[key])
        rows.append(
            {
                "task": name,
                "formulation": section.formulation,
                "source": section.data.source,
                "metric": METRICS[section.formulation],
                "central": _mean(scores),
                "central_spread": _spread(scores),
                "trivial": trivial,
                "best_trivial": best,
                "best_trivial_score": trivial[best],
                "seeds": len(scores),
                "seconds": _mean(d.seconds for d in central),
            }
        )
    return rows


METRICS = {"tc": "accuracy", "st": "F1 of spans", "qa": "F1 of words", "ss": "ROUGE-L"}


def grid_rows(found: Found, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a setting and algorithm: score, gap to central training, clients' own scores, bytes."""
    central = {row["task"]: row["central"] for row in tasks}
    rows = []
    for (setting, method), own in _groups(found, "grid").items():
        job, done = own[0]
        scores = [d.scores["score"] for _, d in own]
        mine = np.concatenate([d.clients for _, d in own])
        last = [d.curve["bytes_down"][-1] + d.curve["bytes_up"][-1] for _, d in own]
        rows.append(
            {
                "task": job.task, "setting": setting, "partition": job.section.kind,
                "alpha": job.alpha, "classes": done.classes, "method": method,
                "score": _mean(scores), "spread": _spread(scores), "seeds": len(scores),
                "gap": _mean(scores) - central[job.task],
                **_clients(mine),
                "megabytes": _mean(last) / 1e6,
                "seconds": _mean(d.seconds for _, d in own),
                "summary": done.summary,
            }
        )  # fmt: skip
    return rows


def optimiser_rows(found: Found) -> list[dict[str, Any]]:
    """A row a setting and pair of optimisers."""
    rows = []
    for (setting, method), own in _groups(found, "optimisers").items():
        scores = [d.scores["score"] for _, d in own]
        client, server = method.split("+")
        rows.append(
            {"setting": setting, "alpha": own[0][0].alpha, "client": client, "server": server,
             "score": _mean(scores), "spread": _spread(scores), "seeds": len(scores)}
        )  # fmt: skip
    return rows


def freezing_rows(recipe: Recipe, found: Found) -> list[dict[str, Any]]:
    """A row a set of frozen layers."""
    rows = []
    for (setting, method), own in _groups(found, "freezing").items():
        scores = [d.scores["score"] for _, d in own]
        facts = own[0][1].facts
        assert recipe.freezing is not None
        rows.append(
            {"setting": setting, "frozen": method,
             "layers": [str(layer) for layer in recipe.freezing.sets[method]],
             "score": _mean(scores), "spread": _spread(scores), "seeds": len(scores),
             "share_frozen": 1 - facts["bytes_travelling"] / facts["bytes_weights"],
             **facts,
             "frozen_identical": all(d.facts["frozen_identical"] for _, d in own)}
        )  # fmt: skip
    return rows


def record(recipe: Recipe, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``metrics``, ``leaderboard``, ``best`` and ``baseline`` of ``run.json``."""
    metrics: dict[str, dict[str, Any]] = {}
    boards: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        metrics.setdefault(row["method"], {})[row["setting"]] = {
            "score": row["score"], "gap": row["gap"], "clients": row["clients_mean"],
            "megabytes": row["megabytes"],
        }  # fmt: skip
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = sorted(
            (row for row in rows if row["setting"] == setting), key=lambda row: -row["score"]
        )
        boards[setting] = [{"rank": i, "model": r["method"]} for i, r in enumerate(own, start=1)]
    wins = {name: [board[0]["model"] for board in boards.values()].count(name) for name in metrics}
    return {
        "best": max(wins, key=lambda name: wins[name]),
        "baseline": recipe.baseline,
        "metrics": metrics,
        "leaderboard": boards,
    }


def _groups(found: Found, kind: str) -> dict[tuple[str, str], list[tuple[Job, Done]]]:
    """Jobs of a kind by setting and method: the seeds of each."""
    groups: dict[tuple[str, str], list[tuple[Job, Done]]] = {}
    for job, done in found:
        if job.kind == kind:
            groups.setdefault((job.setting, job.method), []).append((job, done))
    return groups


def _clients(scores: np.ndarray) -> dict[str, float | None]:
    """How clients' own scores lie."""
    if not len(scores):
        return {"clients_mean": None, "clients_low": None, "clients_worst": None}
    return {
        "clients_mean": float(scores.mean()),
        "clients_low": float(np.quantile(scores, 0.1)),
        "clients_worst": float(scores.min()),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
