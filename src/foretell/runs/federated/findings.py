"""What the jobs of a federated run say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.runs.federated.jobs import STATIC, Done, Job
from foretell.runs.federated.recipe import PrivacySection, Recipe

PROTOCOL = "final"
SHARE_OF_STATIC = 0.95

Found = Sequence[tuple[Job, Done]]


def best_rates(recipe: Recipe, found: Found) -> dict[str, float | None]:
    """The server rate of each method that is best on average over ``read_at`` and tuning seeds."""
    best: dict[str, float | None] = {}
    for name in recipe.methods:
        scores: dict[float | None, list[float]] = {}
        for job, done in found:
            if job.method == name and job.mode == STATIC and job.seed in recipe.tuning.seeds:
                mean = float(np.mean([done.at(r) for r in recipe.rounds.read_at]))
                scores.setdefault(job.rate, []).append(mean)
        ranked = sorted(scores, key=lambda rate: -float(np.mean(scores[rate])))
        best[name] = ranked[0] if ranked else None
    return best


def curves(found: Found) -> pl.DataFrame:
    """A row a job and round: ``mode, method, rate, seed`` and the columns of its curve."""
    parts = [
        pl.DataFrame(done.curve, strict=False).with_columns(
            pl.lit(job.mode).alias("mode"),
            pl.lit(job.method).alias("method"),
            pl.lit(job.rate, pl.Float64).alias("rate"),
            pl.lit(job.seed).alias("seed"),
        )
        for job, done in found
    ]
    table = pl.concat(parts, how="diagonal_relaxed")
    first = ["mode", "method", "rate", "seed", "round"]
    return table.select(*first, pl.exclude(first))


def static_table(recipe: Recipe, found: Found) -> list[dict[str, Any]]:
    """A row a method at its best rate: accuracy by rounds, samples, bytes, evenness."""
    rows = []
    for name, method in recipe.methods.items():
        own = [d for j, d in found if j.method == name and j.mode == STATIC]
        rate = next(j.rate for j, _ in found if j.method == name and j.mode == STATIC)
        row: dict[str, Any] = {
            "method": name, "selection": method.selection, "aggregation": method.aggregation,
            "rate": rate, "seeds": len(own),
        }  # fmt: skip
        for at in recipe.rounds.read_at:
            values = [d.at(at) for d in own]
            row[f"round_{at}"] = float(np.mean(values))
            row[f"spread_{at}"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        last = recipe.rounds.count
        row["samples_per_round"] = float(
            np.mean([d.at(last, "samples_cumulative") / last for d in own])
        )
        row["megabytes"] = float(
            np.mean([(d.at(last, "bytes_down") + d.at(last, "bytes_up")) / 1e6 for d in own])
        )
        row["clients_used"] = float(np.mean([(d.chosen > 0).mean() for d in own]))
        row["seconds"] = float(np.mean([d.seconds for d in own]))
        row["warning"] = next((w for d in own for w in d.warnings), None)
        for slice_name in own[0].curve:
            if slice_name.endswith("topics"):
                row[slice_name] = float(np.mean([d.at(last, slice_name) for d in own]))
        rows.append(row)
    return rows


def by_samples(recipe: Recipe, found: Found, points: int = 6) -> list[dict[str, Any]]:
    """Accuracy of each method after equally many *samples*: a row a method and number of samples.

    Numbers of samples go up to what the least greedy method processed in all rounds.
    """
    static = [(j, d) for j, d in found if j.mode == STATIC]
    least = min(d.curve["samples_cumulative"][-1] for _, d in static)
    marks = np.linspace(0, least, points + 1)[1:]
    rows = []
    for name in recipe.methods:
        own = [d for j, d in static if j.method == name]
        for mark in marks:
            values = [
                np.interp(mark, d.curve["samples_cumulative"], d.curve["accuracy"]) for d in own
            ]
            rows.append(
                {"method": name, "samples": float(mark), "accuracy": float(np.mean(values))}
            )
    return rows


def group_table(recipe: Recipe, found: Found) -> list[dict[str, Any]]:
    """Accuracy by activity: a row a method and group, means over seeds."""
    rows: list[dict[str, Any]] = []
    for name in recipe.methods:
        own = [d.groups for j, d in found if j.method == name and j.mode == STATIC and d.groups]
        for same in zip(*own, strict=True):
            values = [g["accuracy"] for g in same if g["accuracy"] is not None]
            rows.append(
                {
                    "method": name,
                    **{k: same[0][k] for k in ("group", "low", "high", "clients", "tests")},
                    "accuracy": float(np.mean(values)) if values else None,
                }
            )
    return rows


def continual_table(recipe: Recipe, found: Found) -> list[dict[str, Any]]:
    """A row a buffer and method: final accuracy, of this period and of all past, speed."""
    section = recipe.continual
    if section is None:
        return []
    rows = []
    for buffer in section.buffers:
        for name in section.methods:
            own = [d for j, d in found if j.method == name and j.mode == buffer]
            if not own:
                continue
            static = [d for j, d in found if j.method == name and j.mode == STATIC]
            target = SHARE_OF_STATIC * float(np.mean([d.curve["accuracy"][-1] for d in static]))
            reached = [
                next((r for r, a in zip(d.curve["round"], d.curve["accuracy"], strict=True)
                      if a >= target), None)
                for d in own
            ]  # fmt: skip
            ends = [d.periods[-1] for d in own]
            rows.append(
                {
                    "buffer": buffer,
                    "method": name,
                    "seeds": len(own),
                    **{
                        key: float(np.mean([end[key] for end in ends]))
                        for key in ("accuracy", "accuracy_period", "accuracy_past")
                    },
                    "by_period": [
                        float(np.mean([d.periods[p]["accuracy"] for d in own]))
                        for p in range(section.periods)
                    ],
                    "static": target / SHARE_OF_STATIC,
                    "rounds_to_static": None
                    if any(r is None for r in reached)
                    else float(np.mean([r for r in reached if r is not None])),
                }
            )
    return rows


def privacy_table(
    section: PrivacySection, activity: NDArray[np.float64], k: int, rounds: int
) -> list[dict[str, Any]]:
    """What each rule's chances cost clients of different activity, without and with the bound."""
    from foretell.training.federated.accounting import client_epsilons
    from foretell.training.federated.draws import capped_inclusion
    from foretell.training.federated.selection import ActivitySelection

    bound = section.q_max or min(1.0, 4 * k / len(activity))
    held = np.sort(activity[activity > 0])
    shown = np.unique([1.0, *np.quantile(held, [0.5, 0.9, 0.99, 1.0], method="higher")])
    rows = []
    for rule in section.rules:
        selection = ActivitySelection(rule, "poisson")
        chances = selection.probabilities(activity, k)
        for q_max in (1.0, bound):
            inclusion = capped_inclusion(chances, k, q_max)
            different, number = np.unique(inclusion[activity > 0], return_counts=True)
            costs = client_epsilons(
                [[(q, rounds)] for q in different], section.noise_multiplier, section.delta,
                discretization=1e-3,
            )  # fmt: skip
            cost_of = dict(zip(different.tolist(), costs.tolist(), strict=True))
            every = np.repeat(costs, number)
            row: dict[str, Any] = {
                "rule": rule, "q_max": q_max, "bounded": q_max < 1,
                "expected_clients": float(inclusion.sum()),
                "largest_chance": float(inclusion.max()),
                "median": float(np.median(every)), "p90": float(np.quantile(every, 0.9)),
                "largest": float(every.max()),
                "at": {
                    f"{n:g}": cost_of[float(inclusion[np.flatnonzero(activity == n)[0]])]
                    for n in shown
                },
            }  # fmt: skip
            rows.append(row)
    return rows


def record(recipe: Recipe, found: Found, tables: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics``, ``leaderboard``, ``best`` and ``baseline`` of ``run.json``."""
    last = max(recipe.rounds.read_at)
    rows = tables["static"]
    ranked = sorted(rows, key=lambda r: -float(np.mean([r[f"round_{a}"] for a in
                                                        recipe.rounds.read_at])))  # fmt: skip
    metrics = {
        r["method"]: {
            PROTOCOL: {
                "accuracy": r[f"round_{last}"],
                "mean_accuracy": float(np.mean([r[f"round_{a}"] for a in recipe.rounds.read_at])),
                "samples_per_round": r["samples_per_round"],
                "megabytes": r["megabytes"],
            }
        }
        for r in rows
    }
    board = [{"rank": i, "model": r["method"]} for i, r in enumerate(ranked, start=1)]
    return {
        "best": ranked[0]["method"],
        "baseline": recipe.baseline,
        "metrics": metrics,
        "leaderboard": {PROTOCOL: board},
    }
