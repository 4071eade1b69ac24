"""One trip: data, backtests, scores, orders, the saved model, the report."""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretell.data.panel import Panel
from foretell.data.readers import read_table
from foretell.decisions import Orders, Replenishment
from foretell.errors import ForetellError
from foretell.estimators import QuantileEnsemble, combine
from foretell.evaluation import (
    Backtest,
    DecisionCost,
    decision_cost,
    evaluate,
    leaderboard,
    summarise,
)
from foretell.evaluation.report import ReportInput, legacy_effects, write_report
from foretell.learners.demand import Forecast, Forecaster
from foretell.runs.engine import Engine, make_engine
from foretell.runs.folder import RunFolder
from foretell.runs.jobs import Job, build, plan_jobs, run_job
from foretell.runs.recipe import OrdersSection, Recipe
from foretell.runs.sources import load_panel

Tell = Callable[[str], None]
Results = dict[str, dict[str, dict[int, Backtest]]]
"""protocol -> model -> seed -> backtest."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The tables of a run's backtests.

    Args:
        tables: protocol -> sums by model, seed, series and segment.
        metrics: model -> protocol -> score -> mean over seeds.
        boards: protocol -> leaderboard.
        best: the model with the lowest WQL, averaged over protocols.
    """

    tables: dict[str, pl.DataFrame]
    metrics: dict[str, dict[str, dict[str, float]]]
    boards: dict[str, pl.DataFrame]
    best: str


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    engine: str = "local",
    command: str = "",
    resume: bool = False,
    progress: bool = False,
    tell: Tell = lambda _: None,
) -> RunFolder:
    """Makes the trip that a recipe describes.

    Args:
        recipe: what to do.
        out: folder of the run; must be new, or with ``resume`` that of an interrupted run.
        engine: ``"local"`` or ``"ray"``.
        command: how the run was called, for the record.
        resume: go on behind the jobs that are done.
        progress: draw progress lines.
        tell: gets one line at each stage.

    Returns:
        The folder, complete. A run that fails leaves its folder marked ``failed`` with the reason,
        one that is interrupted ``interrupted``; the error is raised.
    """
    document = {"task": recipe.task, "command": command, "recipe": recipe.model_dump()}
    folder = RunFolder.create(out, {**document, "engine": engine}, resume=resume)
    with _marking(folder), make_engine(engine) as workers:
        _run_demand(recipe, folder, workers, progress, tell)
    return folder


def _run_demand(
    recipe: Recipe, folder: RunFolder, engine: Engine, progress: bool, tell: Tell
) -> None:
    seconds: dict[str, float] = {}
    with _timing(seconds, "data"):
        panel = load_panel(recipe.data, seed=recipe.seeds[0])
    tell(f"data: {panel!r}")
    folder.update(data=_describe(recipe, panel))
    with _timing(seconds, "backtests"):
        results = _run_jobs(recipe, panel, folder, engine, progress, tell)
        _add_ensembles(recipe, results)
    with _timing(seconds, "scores"):
        scores = _score(recipe, panel, results)
        _write_backtests(folder.path / "backtest.parquet", results)
    tell(f"best: {scores.best}")
    with _timing(seconds, "decisions"):
        costs = _decision_costs(recipe, panel, results)
    with _timing(seconds, "final"):
        model, future, orders = _final(recipe, panel, folder, results, scores.best, progress, tell)
    timings = {
        name: {
            protocol: {
                "fit_seconds": _mean([b.fit_seconds for b in seeds.values()]),
                "predict_seconds": _mean([b.predict_seconds for b in seeds.values()]),
            }
            for protocol, models in results.items()
            for seeds in [models[name]]
        }
        for name in recipe.models
    }
    record = folder.update(
        title=recipe.title,
        seeds=recipe.seeds,
        best=scores.best,
        metrics=scores.metrics,
        leaderboard={p: board.to_dicts() for p, board in scores.boards.items()},
        orders={
            name: {row["measure"]: row for row in cost.summary().to_dicts()}
            for name, cost in costs.items()
        },
        timings={**timings, "stages": seconds},
        peak_memory_mib=peak_memory_mib(),
    )
    with _timing(seconds, "report"):
        write_report(
            folder.path / "report.html",
            ReportInput(
                run=record,
                panel=panel,
                backtests={
                    p: {m: next(iter(seeds.values())) for m, seeds in models.items()}
                    for p, models in results.items()
                },
                tables=scores.tables,
                season_length=_season(recipe),
                baseline=recipe.baseline,
                best=scores.best,
                future=future,
                orders=orders,
                decision_costs=costs,
                effects=_effects(results, model, panel),
                series=recipe.report.series,
            ),
        )
    folder.end("complete", timings={**timings, "stages": seconds})


def _run_jobs(
    recipe: Recipe, panel: Panel, folder: RunFolder, engine: Engine, progress: bool, tell: Tell
) -> Results:
    jobs = plan_jobs(recipe, folder.work, progress=progress and engine.name == "local")
    results: Results = {}
    done = engine.map(run_job, jobs, [panel] * len(jobs))
    for number, (job, result) in enumerate(zip(jobs, done, strict=True), start=1):
        results.setdefault(job.protocol, {}).setdefault(job.model, {})[job.seed] = result
        tell(
            f"[{number}/{len(jobs)}] {job.protocol}: {job.model}, seed {job.seed}: "
            f"fit {result.fit_seconds:.1f} s, predict {result.predict_seconds:.1f} s"
        )
    return results


def _add_ensembles(recipe: Recipe, results: Results) -> None:
    """An ensemble's forecast at a seed joins its members' at that seed; it is not trained again."""
    for name, section in recipe.models.items():
        if not section.is_ensemble:
            continue
        for models in results.values():
            members = [models[m] for m in section.parameters["members"]]
            seeds = sorted(set().union(*members))
            models[name] = {}
            for seed in seeds:
                parts = [m[seed] if seed in m else next(iter(m.values())) for m in members]
                forecast = combine(
                    [p.forecast for p in parts],
                    section.parameters.get("method", "median"),
                    model=name,
                )
                fits = tuple(fit for part in parts for fit in part.fits)
                models[name][seed] = replace(parts[0], forecast=forecast, fits=fits, model=None)
    for protocol, models in results.items():
        results[protocol] = {name: models[name] for name in recipe.models}


def _score(recipe: Recipe, panel: Panel, results: Results) -> Scores:
    tables, boards = {}, {}
    metrics: dict[str, dict[str, dict[str, float]]] = {name: {} for name in recipe.models}
    for protocol, models in results.items():
        parts = []
        for name, seeds in models.items():
            for seed, result in seeds.items():
                table = evaluate(
                    {name: result},
                    panel,
                    by=tuple(recipe.report.segments),
                    season_length=_season(recipe),
                )
                parts.append(table.with_columns(pl.lit(seed).alias("seed")))
        tables[protocol] = pl.concat(parts)
        boards[protocol] = leaderboard(tables[protocol], baseline=recipe.baseline)
        for row in _means(tables[protocol]).to_dicts():
            name = row.pop("model")
            values = [b.forecast.values for b in models[name].values()]
            row["crossings"] = int(
                sum((np.diff(v, axis=-1) < 0).any(axis=-1).sum() for v in values)
            )
            metrics[name][protocol] = row
    best = min(recipe.models, key=lambda m: np.mean([metrics[m][p]["wql"] for p in results]).item())
    return Scores(tables, metrics, boards, best)


def _means(table: pl.DataFrame) -> pl.DataFrame:
    """All scores of each model, the mean over its seeds, and the spread of the main one."""
    by_seed = summarise(table, by=["seed"], details=True)
    numbers = [c for c in by_seed.columns if c not in ("model", "seed")]
    return by_seed.group_by("model", maintain_order=True).agg(
        pl.len().alias("seeds"),
        pl.col("wql").std().alias("wql_sd"),
        *[pl.col(c).mean() for c in numbers],
    )


def _decision_costs(recipe: Recipe, panel: Panel, results: Results) -> dict[str, DecisionCost]:
    if recipe.orders is None:
        return {}
    models = next(iter(results.values()))
    rule = _rule(recipe.orders)
    costs = {}
    for name, seeds in models.items():
        forecast = next(iter(seeds.values())).forecast
        costs[name] = decision_cost(rule.decide(forecast), panel)
    return costs


def _final(
    recipe: Recipe,
    panel: Panel,
    folder: RunFolder,
    results: Results,
    best: str,
    progress: bool,
    tell: Tell,
) -> tuple[Forecaster | None, Forecast | None, Orders | None]:
    """The model that is kept, its forecasts beyond the data and the orders that follow."""
    section = recipe.final
    if section is None:
        return None, None, None
    name = best if section.model == "best" else section.model
    models = next(iter(results.values()))
    if section.refit:
        tell(f"fitting {name} on all data")
        model = final_model(recipe, name, folder, progress).fit(panel)
    else:
        fitted = next(iter(models[name].values())).model if name in models else None
        if fitted is None:
            tell(f"{name} is not kept: final.refit is off and it has no fitted model of its own")
            return None, None, None
        model = fitted
    model.save(folder.path / "model")
    if panel.known and np.any(panel.known_lengths < panel.lengths + model.h):
        tell("no forecast beyond the data: known covariates end with them")
        return model, None, None
    future = replace(model.predict(panel), model=name)
    future.to_polars().write_parquet(folder.path / "predictions.parquet")
    orders = None
    if recipe.orders is not None:
        orders = make_orders(recipe.orders, future)
        orders.to_polars().write_parquet(folder.path / "orders.parquet")
    return model, future, orders


def final_model(recipe: Recipe, name: str, folder: RunFolder, progress: bool) -> Forecaster:
    """The unfitted model of a name; an ensemble is built of its members."""
    section = recipe.models[name]

    def single(member: str) -> Forecaster:
        job = Job(recipe, member, "final", recipe.seeds[0], folder.work, progress)
        return build(job)

    if not section.is_ensemble:
        return single(name)
    return QuantileEnsemble(
        [single(m) for m in section.parameters["members"]],
        section.parameters.get("method", "median"),
        alias=name,
    )


def make_orders(section: OrdersSection, forecast: Forecast) -> Orders:
    """Orders by a recipe's rule, with its table of items where it names one."""
    items = None if section.items is None else read_table(section.items)
    return _rule(section).decide(forecast, items)


def _rule(section: OrdersSection) -> Replenishment:
    given = section.model_dump(exclude={"model", "items"})
    if given["maximum_order"] is None:
        given["maximum_order"] = np.inf
    return Replenishment(**given)


def _effects(
    results: Results, model: Forecaster | None, panel: Panel
) -> Mapping[str, pl.DataFrame]:
    """What a classical model learned of prices and events, from wherever one was fitted."""
    fitted = [
        b.model for models in results.values() for seeds in models.values() for b in seeds.values()
    ]
    for candidate in [model, *fitted]:
        if candidate is not None and (effects := legacy_effects(candidate, panel)):
            return effects
    return {}


def _write_backtests(path: Path, results: Results) -> None:
    parts = []
    for protocol, models in results.items():
        for name, seeds in models.items():
            for seed, result in seeds.items():
                table = result.forecast.to_polars()
                parts.append(
                    table.with_columns(
                        pl.Series("y", result.truth.ravel()).fill_nan(None),
                        pl.lit(name).alias("model"),
                        pl.lit(protocol).alias("protocol"),
                        pl.lit(seed).alias("seed"),
                    )
                )
    partial = path.with_suffix(".partial")
    pl.concat(parts).write_parquet(partial)
    partial.replace(path)


def _describe(recipe: Recipe, panel: Panel) -> dict[str, Any]:
    ends = panel.frequency.time(panel.ends)
    starts = panel.frequency.time(panel.starts)
    return {
        "source": recipe.data.source,
        "series": len(panel),
        "steps": int(panel.lengths.sum()),
        "first": str(starts.min()),
        "last": str(ends.max()),
        "frequency": panel.frequency.alias,
        "fingerprint": panel.fingerprint(),
        "notes": [
            {"kind": n.kind, "message": n.message, "count": n.count, "series": n.series}
            for n in panel.notes
        ],
    }


def _season(recipe: Recipe) -> int | None:
    season = recipe.data.season_length
    return season[0] if isinstance(season, list) else season


def peak_memory_mib() -> float:
    """Largest resident memory of this process and its finished children so far, in MiB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@contextmanager
def _timing(seconds: dict[str, float], stage: str) -> Any:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)


@contextmanager
def _marking(folder: RunFolder) -> Any:
    """Marks the folder by how its run ends badly."""
    try:
        yield
    except KeyboardInterrupt:
        folder.end("interrupted", failure={"message": "interrupted; go on with --resume"})
        raise
    except BaseException as error:
        known = isinstance(error, ForetellError)
        failure = {"kind": type(error).__name__, "message": str(error)}
        if not known:
            failure["trace"] = traceback.format_exc(limit=-8)
        folder.end("failed", failure=failure)
        raise
