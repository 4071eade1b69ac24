"""One demand run: data, backtests, scores, orders, the saved model, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from foretell.data.panel import Panel
from foretell.data.storage import is_stored_panel, write_panel
from foretell.errors import ArtefactError, DataError
from foretell.evaluation import Backtest
from foretell.evaluation.report import legacy_effects
from foretell.learners.demand import Forecaster
from foretell.runs.demand.final import final_model
from foretell.runs.demand.jobs import join, plan_jobs, run_job
from foretell.runs.demand.publish import Ahead, draw, find, make_orders, order_rule, read_items
from foretell.runs.demand.recipe import Recipe
from foretell.runs.demand.results import Results, with_ensembles, write_results
from foretell.runs.demand.sources import describe, load_panel
from foretell.runs.demand.spread import spread_series
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.sources import naming_source
from foretell.runs.tasks import Trip
from foretell.runs.threads import limited_threads


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Backtests, scores, the final model, its forecasts and orders, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"), naming_source(recipe.data.source):
        panel = load_panel(recipe.data, seed=recipe.seeds[0])
        if recipe.orders is not None:  # what is wrong here should not show after hours
            order_rule(recipe.orders)
            read_items(recipe.orders)
    tell(f"data: {panel!r}")
    _require_same_data(folder, panel)
    _require_history(recipe, panel)
    folder.update(data=describe(recipe.data, panel))
    with naming_source(recipe.data.source):
        with trip.stage("backtests"):
            results, peak = _backtests(trip, panel)
        with trip.stage("scores"):
            findings = find(recipe, panel, results)
            fits = write_results(folder.path, results)
        tell(f"best: {findings.best}")
        with trip.stage("final"), spread_series(trip.engine):
            model, name = final_model(
                recipe, panel, folder, results, findings.best, trip.progress, tell
            )
            effects = _effects(results, model, panel)
            ahead = look_ahead(recipe, panel, model, name, effects)
    _write_ahead(folder, model, ahead)
    if ahead.reason is not None:
        tell(f"no forecast beyond the data: {ahead.reason}")
    found = {
        **findings.record(),
        "final": {"model": name, "kept": model is not None, "no_forecast": ahead.reason},
        "backtests": fits,
        "timings": _model_seconds(results),
        "peak_memory_mib": max(peak, peak_memory_mib()),
    }
    timings = {**found["timings"], "stages": trip.seconds}
    record = folder.update(**{**found, "timings": timings})
    with trip.stage("report"):
        draw(folder, record, recipe, panel, results, findings, ahead)
    return found


def look_ahead(
    recipe: Recipe,
    panel: Panel,
    model: Forecaster | None,
    name: str,
    effects: Mapping[str, pl.DataFrame],
) -> Ahead:
    """Forecasts beyond the data, and the orders that follow."""
    if model is None:
        return Ahead(effects=effects, reason="the recipe keeps no model")
    try:
        panel.require_known(model.h)
    except DataError as error:
        return Ahead(effects=effects, reason=str(error))
    with limited_threads(recipe.threads):
        forecast = replace(model.predict(panel), model=name)
    orders = None if recipe.orders is None else make_orders(recipe.orders, forecast)
    return Ahead(forecast, orders, effects)


def _backtests(trip: Trip[Recipe], panel: Panel) -> tuple[Results, float]:
    """All backtests, and the largest memory of a process that made one."""
    recipe, engine = trip.recipe, trip.engine
    work = trip.folder.work.resolve()
    progress = trip.progress and engine.shares_memory
    jobs = plan_jobs(recipe, work, engine=engine.name, progress=progress)
    given: Panel | Path = panel
    if not engine.shares_memory:
        source = Path(recipe.data.source)
        if recipe.data.limit is None and is_stored_panel(source):
            given = source.resolve()
        else:
            given = write_panel(panel, work / "panel", overwrite=True)
    found: dict[str, dict[str, dict[int, list[Backtest]]]] = {}
    peak = 0.0
    done = engine.map(run_job, jobs, [given] * len(jobs))
    for number, (job, one) in enumerate(zip(jobs, done, strict=True), start=1):
        seeds = found.setdefault(job.protocol, {}).setdefault(job.model, {})
        seeds.setdefault(job.seed, []).append(one.backtest)
        peak = max(peak, one.peak_memory_mib)
        trip.tell(
            f"[{number}/{len(jobs)}] {job.protocol}: {job.model}, seed {job.seed}, "
            f"fit {job.part + 1}: trained in {one.backtest.fit_seconds:.1f} s, "
            f"forecast in {one.backtest.predict_seconds:.1f} s"
        )
    joined = {
        protocol: {
            model: {seed: join(parts) for seed, parts in seeds.items()}
            for model, seeds in models.items()
        }
        for protocol, models in found.items()
    }
    return with_ensembles(recipe, joined), peak


def _require_same_data(folder: RunFolder, panel: Panel) -> None:
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != panel.fingerprint():
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )


def _require_history(recipe: Recipe, panel: Panel) -> None:
    """Every origin must lie within a series; said before anything is trained."""
    longest = int(panel.lengths.argmax())
    for name, protocol in recipe.protocols.items():
        first = protocol.fits(recipe.data.horizon)[0][0]
        if first >= panel.lengths[longest]:
            raise DataError(
                f"the first origin of protocols.{name} lies {first} periods before the end, but "
                f"the longest series has {panel.lengths[longest]} periods",
                file=recipe.data.source,
                series=str(panel.ids[longest]),
                hint="Give a longer history, a shorter data.horizon, or fewer or later origins",
            )


def _write_ahead(folder: RunFolder, model: Forecaster | None, ahead: Ahead) -> None:
    if model is not None:
        model.save(folder.path / "model")
    if ahead.forecast is not None:
        write_table(ahead.forecast.to_polars(), folder.path / "predictions.parquet")
    if ahead.orders is not None:
        write_table(ahead.orders.to_polars(), folder.path / "orders.parquet")
    for name, table in ahead.effects.items():
        write_table(table, folder.path / f"{name}.parquet")


def _effects(
    results: Results, model: Forecaster | None, panel: Panel
) -> Mapping[str, pl.DataFrame]:
    """What a classical model learned of prices and events, from wherever one was fitted."""
    for candidate in (model, *(backtest.model for *_, backtest in results)):
        if candidate is not None and (effects := legacy_effects(candidate, panel)):
            return effects
    return {}


def _model_seconds(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Model -> protocol -> mean over seeds of its seconds."""
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    for protocol, models in results.backtests.items():
        for name, seeds in models.items():
            tests = list(seeds.values())
            seconds.setdefault(name, {})[protocol] = {
                "fit_seconds": sum(b.fit_seconds for b in tests) / len(tests),
                "predict_seconds": sum(b.predict_seconds for b in tests) / len(tests),
            }
    return seconds
