"""One trip: data, backtests, scores, orders, the saved model, the report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from foretell.data.panel import Panel
from foretell.data.storage import is_stored_panel, write_panel
from foretell.errors import ArtefactError, DataError, ForetellError
from foretell.evaluation import Backtest
from foretell.evaluation.report import legacy_effects
from foretell.learners.demand import Forecaster
from foretell.runs.engine import Engine, make_engine, spread_series
from foretell.runs.final import final_model
from foretell.runs.folder import RunFolder
from foretell.runs.jobs import join, limited_threads, plan_jobs, run_job
from foretell.runs.memory import peak_memory_mib
from foretell.runs.publish import Ahead, draw, find, make_orders, order_rule, read_items
from foretell.runs.recipe import Recipe, parse
from foretell.runs.results import Results, with_ensembles, write_results, write_table
from foretell.runs.sources import describe, load_panel, naming_source

Tell = Callable[[str], None]


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    engine: str = "local",
    command: str = "",
    progress: bool = False,
    tell: Tell = lambda _: None,
) -> RunFolder:
    """Makes the trip that a recipe describes.

    Args:
        recipe: what to do.
        out: folder of the run; must be new.
        engine: ``"local"`` or ``"ray"``.
        command: how the run was called, for the record.
        progress: draw progress lines.
        tell: gets one line at each stage.

    Returns:
        The folder, complete. A run that fails leaves its folder marked ``failed`` with the reason,
        one that is interrupted ``interrupted``; the error is raised.
    """
    workers = make_engine(engine)
    document = {
        "task": recipe.task,
        "title": recipe.title,
        "command": command,
        "engine": engine,
        "seeds": recipe.seeds,
        "recipe": recipe.model_dump(mode="json"),
    }
    folder = RunFolder.create(out, document)
    with _marking(folder), workers:
        _run_demand(recipe, folder, workers, progress, tell)
    return folder


def resume(
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    engine: str | None = None,
    progress: bool = False,
    tell: Tell = lambda _: None,
) -> RunFolder:
    """Goes on with a run that was interrupted, killed or failed, behind what it had done.

    Args:
        out: folder of the run.
        recipe: refused unless it is the run's own; the run's own when ``None``.
        engine: the run's own when ``None``.
        progress: draw progress lines.
        tell: gets one line at each stage.

    Raises:
        ArtefactError: there is nothing to resume, another process works on it, or recipe or data
            are not what they were.
    """
    path = RunFolder(out)
    if not (path.path / "run.json").is_file():
        raise ArtefactError(f"{path.path} holds no run to resume")
    record = path.read()
    own = read_recipe(path, record)
    if recipe is not None and recipe != own:
        raise ArtefactError(
            f"the run in {path.path} was started with another recipe ({_difference(own, recipe)}): "
            "resume it without naming one, or start anew in another folder"
        )
    name = engine or str(record.get("engine", "local"))
    workers = make_engine(name)
    folder = RunFolder.resume(out)
    folder.update(engine=name)
    with _marking(folder), workers:
        _run_demand(own, folder, workers, progress, tell)
    return folder


def read_recipe(folder: RunFolder, record: Mapping[str, Any]) -> Recipe:
    """The recipe that a run was started with.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    try:
        return parse(record["recipe"], where=str(folder.path / "run.json"))
    except (KeyError, TypeError, ForetellError) as error:
        raise ArtefactError(f"{folder.path} holds a recipe that cannot be read: {error}") from error


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
    with limited_threads(recipe):
        forecast = replace(model.predict(panel), model=name)
    orders = None if recipe.orders is None else make_orders(recipe.orders, forecast)
    return Ahead(forecast, orders, effects)


def _run_demand(
    recipe: Recipe, folder: RunFolder, engine: Engine, progress: bool, tell: Tell
) -> None:
    seconds: dict[str, float] = {}
    with _timing(seconds, "data"), naming_source(recipe.data.source):
        panel = load_panel(recipe.data, seed=recipe.seeds[0])
        if recipe.orders is not None:  # what is wrong here should not show after hours
            order_rule(recipe.orders)
            read_items(recipe.orders)
    tell(f"data: {panel!r}")
    _require_same_data(folder, panel)
    _require_history(recipe, panel)
    folder.update(data=describe(recipe.data, panel))
    with naming_source(recipe.data.source):
        with _timing(seconds, "backtests"):
            results, peak = _backtests(recipe, panel, folder, engine, progress, tell)
        with _timing(seconds, "scores"):
            findings = find(recipe, panel, results)
            fits = write_results(folder.path, results)
        tell(f"best: {findings.best}")
        with _timing(seconds, "final"), spread_series(engine):
            model, name = final_model(recipe, panel, folder, results, findings.best, progress, tell)
            effects = _effects(results, model, panel)
            ahead = look_ahead(recipe, panel, model, name, effects)
    _write_ahead(folder, model, ahead)
    if ahead.reason is not None:
        tell(f"no forecast beyond the data: {ahead.reason}")
    record = folder.update(
        **findings.record(),
        final={"model": name, "kept": model is not None, "no_forecast": ahead.reason},
        backtests=fits,
        timings={**_model_seconds(results), "stages": seconds},
        peak_memory_mib=max(peak, peak_memory_mib()),
    )
    with _timing(seconds, "report"):
        draw(folder, record, recipe, panel, results, findings, ahead)
    folder.end(
        "complete",
        timings={**_model_seconds(results), "stages": seconds},
        peak_memory_mib=max(peak, peak_memory_mib()),
    )


def _backtests(
    recipe: Recipe, panel: Panel, folder: RunFolder, engine: Engine, progress: bool, tell: Tell
) -> tuple[Results, float]:
    """All backtests, and the largest memory of a process that made one."""
    work = folder.work.resolve()
    jobs = plan_jobs(recipe, work, engine=engine.name, progress=progress and engine.shares_memory)
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
        tell(
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


def _difference(own: Recipe, other: Recipe) -> str:
    """The first key in which two recipes differ."""

    def walk(a: Any, b: Any, place: str) -> str | None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in [*a, *(k for k in b if k not in a)]:
                inner = walk(a.get(key), b.get(key), f"{place}.{key}" if place else key)
                if inner is not None:
                    return inner
            return None
        return None if a == b else f"{place} was {a!r} and is {b!r}"

    return walk(own.model_dump(mode="json"), other.model_dump(mode="json"), "") or "in order"


@contextmanager
def _timing(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)


@contextmanager
def _marking(folder: RunFolder) -> Iterator[None]:
    """Marks the folder by how its run ends badly."""
    try:
        yield
    except KeyboardInterrupt:
        folder.end("interrupted", failure={"message": "interrupted; go on with --resume"})
        raise
    except BaseException as error:
        failure = {"kind": type(error).__name__, "message": str(error)}
        if not isinstance(error, ForetellError):
            failure["trace"] = traceback.format_exc(limit=-8)
        folder.end("failed", failure=failure)
        raise
