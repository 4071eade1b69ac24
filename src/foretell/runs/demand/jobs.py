"""One unit of a run's work: one fit of one model with one seed, and the origins it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.data.storage import open_panel
from foretell.evaluation import Backtest, WindowResult, backtest
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.demand import Forecast, Forecaster, Span
from foretell.runs.demand.models import is_random, make_model
from foretell.runs.demand.recipe import Recipe
from foretell.runs.demand.spread import spread_series
from foretell.runs.engine import make_engine
from foretell.runs.memory import peak_memory_mib
from foretell.runs.threads import limited_threads

_KIND = "Backtest"


@dataclass(frozen=True)
class Job:
    """A part of a backtest to do; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
        protocol: name of the protocol's section.
        seed: of the model.
        back: origins, in periods before each series' end, the earliest first; the model is fitted
            on what lies before that one.
        part: number of the fit within the backtest.
        last: whether it is the last fit, whose model is kept.
        folder: where results are kept, so that an interrupted run goes on behind them.
        progress: draw the training's progress line.
        engine: where models that go from series to series may spread them.
    """

    recipe: Recipe
    model: str
    protocol: str
    seed: int
    back: tuple[int, ...]
    part: int
    last: bool
    folder: Path
    progress: bool = False
    engine: str = "local"

    @property
    def home(self) -> Path:
        """The job's own folder: its result and its checkpoints."""
        return self.folder / self.protocol / self.model / f"seed{self.seed}" / f"fit{self.part}"


@dataclass(frozen=True)
class Done:
    """A job's backtest, and the most memory that its process had used by then, in MiB."""

    backtest: Backtest
    peak_memory_mib: float


def plan_jobs(
    recipe: Recipe, folder: Path, *, engine: str = "local", progress: bool = False
) -> list[Job]:
    """All fits of a recipe's backtests; a model without a seed is fitted once."""
    jobs = []
    for protocol, section in recipe.protocols.items():
        fits = section.fits(recipe.data.horizon)
        for name, model in recipe.models.items():
            if model.is_ensemble:
                continue
            seeds = recipe.seeds if is_random(model.kind) else recipe.seeds[:1]
            jobs += [
                Job(
                    recipe, name, protocol, seed, back, part, part + 1 == len(fits), folder,
                    progress, engine,
                )
                for seed in seeds
                for part, back in enumerate(fits)
            ]  # fmt: skip
    return jobs


def run_job(job: Job, panel: Panel | Path) -> Done:
    """Does a job, or reads its result where it was done before.

    Args:
        job: what to do.
        panel: the data, or the folder that holds them (:func:`foretell.data.write_panel`).
    """
    if isinstance(panel, Path):
        panel = _open(panel)
    if (job.home / "model.json").is_file():
        return _read(job.home, panel)
    section = job.recipe.protocols[job.protocol]
    model = make(job.recipe, job.model, job.seed, job.home / "checkpoint", job.progress)
    with (
        limited_threads(job.recipe.threads),
        make_engine(job.engine) as engine,
        spread_series(engine),
    ):
        result = backtest(
            model, panel, h=section.horizon, back=job.back, min_history=section.min_history
        )
    forecast = replace(result.forecast, model=job.model, components=None)
    result = replace(result, forecast=forecast, model=result.model if job.last else None)
    done = Done(result, peak_memory_mib())
    _write(job.home, done)
    return done


def join(parts: Sequence[Backtest]) -> Backtest:
    """The backtest of several fits, in order of time."""
    if len(parts) == 1:
        return parts[0]
    return Backtest(
        Forecast.concat([p.forecast for p in parts]),
        np.concatenate([p.truth for p in parts]),
        np.concatenate([p.back for p in parts]),
        tuple(fit for part in parts for fit in part.fits),
        parts[-1].model,
        sum(p.skipped for p in parts),
    )


def make(
    recipe: Recipe, name: str, seed: int, checkpoint: Path, progress: bool = False
) -> Forecaster:
    """An unfitted model of a recipe, which goes on from its checkpoint where there is one."""
    section = recipe.models[name]
    return make_model(
        name,
        section.kind,
        section.parameters,
        h=recipe.data.horizon,
        quantiles=tuple(recipe.quantiles),
        season_length=recipe.data.season_length,
        seed=seed,
        threads=recipe.threads,
        checkpoint=str(checkpoint),
        resume=True,
        progress=progress,
    )


@lru_cache(maxsize=1)
def _open(folder: Path) -> Panel:
    return open_panel(folder)


def _write(folder: Path, done: Done) -> None:
    result, forecast = done.backtest, done.backtest.forecast
    config = {
        "model": forecast.model,
        "spans": [[s.lead, s.cover] for s in forecast.spans],
        "fits": [
            [f.fit_back, f.fit_seconds, f.predict_seconds, f.fitted_series, f.skipped]
            for f in result.fits
        ],
        "skipped": result.skipped,
        "peak_memory_mib": done.peak_memory_mib,
    }
    ids = np.frombuffer("\0".join(forecast.ids).encode(), np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "ids": ids,
        "cutoffs": forecast.cutoffs,
        "levels": forecast.levels,
        "values": forecast.values,
        "back": result.back,
        **{f"span{i}": values for i, values in enumerate(forecast.spans.values())},
    }
    if result.model is not None:
        result.model.save(folder / "fitted")
    save_artefact(folder, _KIND, config, arrays)  # last: its header says that the job is done


def _read(folder: Path, panel: Panel) -> Done:
    config, arrays = load_artefact(folder, _KIND)
    names = np.array(bytes(arrays["ids"]).decode().split("\0"), object)
    forecast = Forecast(
        names,
        arrays["cutoffs"],
        panel.frequency,
        arrays["levels"],
        arrays["values"],
        {Span(*s): arrays[f"span{i}"] for i, s in enumerate(config["spans"])},
        model=config["model"],
    )
    fits = tuple(make_fit(forecast, *fit) for fit in config["fits"])
    model: Any = Forecaster.load(folder / "fitted") if (folder / "fitted").is_dir() else None
    truth = panel.outcomes(list(names), forecast.cutoffs, forecast.horizon)
    result = Backtest(forecast, truth, arrays["back"], fits, model, config["skipped"])
    return Done(result, config["peak_memory_mib"])


def make_fit(
    forecast: Forecast,
    fit_back: int | None,
    fit_seconds: float,
    predict_seconds: float,
    fitted_series: int,
    skipped: int,
) -> WindowResult:
    """What is kept of one fit besides its forecasts."""
    nothing = np.zeros(0, np.int64)
    return WindowResult(
        forecast.select(nothing),
        nothing,
        fit_back,
        fit_seconds,
        predict_seconds,
        fitted_series,
        skipped,
        None,
    )
