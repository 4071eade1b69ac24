"""One unit of a run's work: a model trained at a snapshot with a seed, and its predictions."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.events import EventLog
from foretell.errors import DataError
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.runs.feedback.models import make_estimator, make_model
from foretell.runs.feedback.recipe import Range, Recipe, SnapshotSection
from foretell.runs.memory import peak_memory_mib
from foretell.runs.threads import limited_threads

_KIND = "SnapshotPredictions"


@dataclass(frozen=True)
class Job:
    """A model to train and ask; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        snapshot: name of the snapshot's section.
        model: name of the model's section.
        seed: of the estimator and the model.
        folder: where results are kept, so that an interrupted run goes on behind them.
    """

    recipe: Recipe
    snapshot: str
    model: str
    seed: int
    folder: Path

    @property
    def home(self) -> Path:
        """The job's own folder."""
        return self.folder / self.snapshot / self.model / f"seed{self.seed}"


@dataclass(frozen=True, eq=False)
class Done:
    """What a job found.

    Args:
        p: probabilities (m,) of the snapshot's test rows.
        effective_share: effective sample size of the training weights over the rows.
        fit_seconds: how long the training took.
        peak_memory_mib: the most memory that its process had used by then.
        warnings: what the training warned of.
    """

    p: NDArray[np.float64]
    effective_share: float | None
    fit_seconds: float
    peak_memory_mib: float
    warnings: tuple[str, ...] = ()


def plan_jobs(recipe: Recipe, folder: Path) -> list[Job]:
    """All models of a recipe at all of its snapshots."""
    return [
        Job(recipe, snapshot, model, seed, folder)
        for snapshot in recipe.snapshots
        for model in recipe.models
        for seed in recipe.seeds
    ]


def run_job(job: Job, log: EventLog) -> Done:
    """Does a job, or reads its result where it was done before."""
    if (job.home / "model.json").is_file():
        config, arrays = load_artefact(job.home, _KIND)
        return Done(arrays["p"], **{**config, "warnings": tuple(config["warnings"])})
    section = job.recipe.snapshots[job.snapshot]
    begun = time.perf_counter()
    with limited_threads(job.recipe.threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = train(job.recipe, job.model, section, log, job.seed)
        spent = time.perf_counter() - begun
        p = model.predict_proba(log.select(rows_of(log, section.test, "test")))[:, 1]
    told = dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning)
    done = Done(p, _effective_share(model), spent, peak_memory_mib(), tuple(told))
    config = {
        "effective_share": done.effective_share,
        "fit_seconds": done.fit_seconds,
        "peak_memory_mib": done.peak_memory_mib,
        "warnings": list(done.warnings),
    }
    save_artefact(job.home, _KIND, config, {"p": p})
    return done


def train(recipe: Recipe, name: str, section: SnapshotSection, log: EventLog, seed: int) -> Any:
    """A model of the recipe, trained on what is visible at a snapshot's moment.

    The oracle alone is shown final labels.
    """
    model = recipe.models[name]
    estimator = make_estimator(
        recipe.estimator.kind, recipe.estimator.parameters, seed, recipe.threads, log
    )
    made = make_model(f"models.{name}", model.method, model.parameters, estimator, seed)
    asked: dict[str, Any] = {}
    if section.since is not None:
        asked["since"] = section.since
    if section.history is not None:
        asked["history"] = section.history
    return made.fit(log, section.now, **asked)


def _effective_share(model: Any) -> float | None:
    """The least effective sample size of a model's training sets over their rows."""
    sizes = model.model_card_.get("effective_sample_size") or {}
    shares = [s["effective"] / s["rows"] for s in sizes.values() if s["rows"]]
    return min(shares, default=None)


def rows_of(log: EventLog, span: Range, what: str) -> NDArray[np.int64]:
    """Positions of the entities of a range of exposure times.

    Args:
        log: the log.
        span: the range.
        what: the recipe's key, for messages.

    Raises:
        DataError: there is none.
    """
    begin, end = (log.moment(edge) for edge in span)
    rows = np.flatnonzero((log.times >= begin) & (log.times < end))
    if not len(rows):
        between = "it is empty"
        if len(log):
            between = f"its entities lie between {log.times.min():g} and {log.times.max():g}"
        raise DataError(
            f"no entity lies in {what} = [{span[0]}, {span[1]})",
            hint=f"Of the log up to {log.now:g}, {between}",
        )
    return rows


def require_final(log: EventLog, rows: NDArray[np.int64], what: str) -> None:
    """Checks that labels are final at the log's moment.

    Raises:
        DataError: those of some are not; says how many.
    """
    waiting = log.deadlines[rows] > log.now
    if waiting.any():
        latest = float(log.deadlines[rows].max())
        raise DataError(
            f"the labels of {int(waiting.sum()):,} of the {len(rows):,} rows in {what} are not "
            f"final at {log.now:g}",
            hint=f"They all are at {latest:g}: look later, end the range earlier, or set a shorter "
            "data.attribution_window",
        )
