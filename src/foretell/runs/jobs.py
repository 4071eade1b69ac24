"""One unit of a run's work: one model, one seed, one protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretell.data.panel import Panel
from foretell.evaluation import Backtest, WindowResult, backtest
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.demand import Forecast, Forecaster, Span
from foretell.runs.models import is_random, make_model
from foretell.runs.recipe import Recipe

_KIND = "Backtest"


@dataclass(frozen=True)
class Job:
    """A backtest to do; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
        protocol: name of the protocol's section.
        seed: of the model.
        folder: where the result is kept, so that an interrupted run goes on behind it.
        progress: draw the training's progress line.
    """

    recipe: Recipe
    model: str
    protocol: str
    seed: int
    folder: Path
    progress: bool = False

    @property
    def key(self) -> str:
        """Name of the job's folder."""
        return f"{self.protocol}-{self.model}-{self.seed}"


def plan_jobs(recipe: Recipe, folder: Path, *, progress: bool = False) -> list[Job]:
    """All backtests of a recipe; a model without a seed is run once."""
    jobs = []
    for protocol in recipe.protocols:
        for name, model in recipe.models.items():
            if model.is_ensemble:
                continue
            seeds = recipe.seeds if is_random(model.kind) else recipe.seeds[:1]
            jobs += [Job(recipe, name, protocol, seed, folder, progress) for seed in seeds]
    return jobs


def run_job(job: Job, panel: Panel) -> Backtest:
    """Does a job, or reads its result where it was done before."""
    folder = job.folder / job.key
    if (folder / "model.json").is_file():
        return _read(folder, panel)
    section = job.recipe.protocols[job.protocol]
    result = backtest(
        build(job),
        panel,
        h=section.horizon,
        n_windows=section.windows,
        step_size=section.step,
        refit=section.refit,
        back=section.back,
        min_history=section.min_history,
    )
    result = replace(result, forecast=replace(result.forecast, model=job.model))
    _write(folder, result)
    return result


def build(job: Job) -> Forecaster:
    """The job's unfitted model."""
    recipe = job.recipe
    section = recipe.models[job.model]
    return make_model(
        job.model,
        section.kind,
        section.parameters,
        h=recipe.data.horizon,
        quantiles=tuple(recipe.quantiles),
        season_length=recipe.data.season_length,
        seed=job.seed,
        threads=recipe.threads,
        checkpoint=str(job.folder / job.key / "checkpoint"),
        resume=True,
        progress=job.progress,
    )


def _write(folder: Path, result: Backtest) -> None:
    forecast = result.forecast
    config = {
        "model": forecast.model,
        "spans": [[s.lead, s.cover] for s in forecast.spans],
        "fits": [
            [f.fit_back, f.fit_seconds, f.predict_seconds, f.fitted_series, f.skipped]
            for f in result.fits
        ],
        "skipped": result.skipped,
    }
    ids = np.frombuffer("\n".join(forecast.ids).encode(), np.uint8)
    arrays = {
        "ids": ids,
        "cutoffs": forecast.cutoffs,
        "levels": forecast.levels,
        "values": forecast.values,
        "back": result.back,
        **{f"span{i}": values for i, values in enumerate(forecast.spans.values())},
    }
    save_artefact(folder, _KIND, config, arrays)
    if result.model is not None:
        result.model.save(folder / "fitted")


def _read(folder: Path, panel: Panel) -> Backtest:
    config, arrays = load_artefact(folder, _KIND)
    names = np.array(bytes(arrays["ids"]).decode().split("\n"), object)
    forecast = Forecast(
        names,
        arrays["cutoffs"],
        panel.frequency,
        arrays["levels"],
        arrays["values"],
        {Span(*s): arrays[f"span{i}"] for i, s in enumerate(config["spans"])},
        model=config["model"],
    )
    empty = forecast.select(np.zeros(0, int))
    fits = tuple(
        WindowResult(empty, arrays["back"][:0], back, fit, predict, series, skipped, None)
        for back, fit, predict, series, skipped in config["fits"]
    )
    model: Any = Forecaster.load(folder / "fitted") if (folder / "fitted").is_dir() else None
    truth = panel.outcomes(list(names), forecast.cutoffs, forecast.horizon)
    return Backtest(forecast, truth, arrays["back"], fits, model, config["skipped"])
