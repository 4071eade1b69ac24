"""One run about decisions: every model with every seed, the rules, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretell.errors import ArtefactError
from foretell.evaluation.thresholds import ThresholdData, ThresholdStudy, threshold_study
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.rules import CHOSEN, Rules, Scored, choose_rules, surface_file
from foretell.runs.tasks import Trip
from foretell.runs.threads import limited_threads
from foretell.runs.thresholds.publish import draw
from foretell.runs.thresholds.recipe import Recipe
from foretell.runs.thresholds.sources import describe, load_data, providers

PROTOCOL = "test"
_TABLES = ("deployed", "matched", "reliability", "quality", "sizes")
_KIND = "ScoredRows"


@dataclass(frozen=True)
class Job:
    """A model to train and judge with one seed."""

    recipe: Recipe
    model: str
    seed: int
    folder: Path

    @property
    def home(self) -> Path:
        """The job's own folder."""
        return self.folder / self.model / f"seed{self.seed}"


@dataclass(frozen=True, eq=False)
class Done:
    """A job's tables, and the scores behind them."""

    study: ThresholdStudy
    hold_out: Scored
    test: Scored


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Models, rules at several precisions, the rules at the target, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"):
        split = load_data(recipe.data)
        providers(recipe)
        first = split(recipe.seeds[0])
        about = describe(recipe.data, first)
    tell(f"data: {about}")
    _require_same_data(folder, about["fingerprint"])
    folder.update(data=about)
    work = folder.work.resolve()
    jobs = [Job(recipe, name, seed, work) for name in recipe.models for seed in recipe.seeds]
    done: dict[str, list[Done]] = {}
    with trip.stage("training"):
        for number, (job, one) in enumerate(
            zip(jobs, trip.engine.map(run_job, jobs), strict=True), start=1
        ):
            done.setdefault(job.model, []).append(one)
            tell(f"[{number}/{len(jobs)}] {job.model}, seed {job.seed}")
    with trip.stage("scores"):
        study = ThresholdStudy.concat([one.study for runs in done.values() for one in runs])
        for name, table in study.tables().items():
            if table:
                write_table(
                    pl.DataFrame(table, infer_schema_length=None), folder.path / f"{name}.parquet"
                )
    with trip.stage("decision"):
        rules = {
            name: choose_rules(recipe.decision, runs[0].hold_out, runs[0].test, recipe.seeds[0])
            for name, runs in done.items()
        }
    found = _found(recipe, study, rules)
    best = found["best"]
    tell(f"best: {best}")
    _write(folder.path, rules[best], done[best][0].test)
    found["decision"] = {"model": best, **rules[best].record}
    found["tables"] = study.tables()
    found["final"] = {"model": None, "kept": False, "reason": "the surface is what is kept"}
    record = folder.update(
        **{**found, "timings": {"stages": trip.seconds}, "peak_memory_mib": peak_memory_mib()}
    )
    with trip.stage("report"):
        draw(folder, record)
    return found


def run_job(job: Job) -> Done:
    """Does a job, or reads its result where it was done before."""
    if (job.home / "model.json").is_file():
        return _read(job.home)
    recipe, section = job.recipe, job.recipe.decision
    parts = load_data(recipe.data)(job.seed)
    kept: list[Any] = []

    def make(seed: int) -> _Remembering:
        return _Remembering(providers(recipe)[job.model](seed), kept)

    with limited_threads(recipe.threads):
        study = threshold_study(
            parts,
            {job.model: make},
            min_precisions=section.compare,
            methods=section.methods,
            seeds=(job.seed,),
            n_levels=section.n_levels,
            resamples=recipe.report.resamples,
        )
    done = Done(study, *_scored(kept, parts))
    job.home.mkdir(parents=True, exist_ok=True)
    for name in _TABLES:
        write_table(getattr(study, name), job.home / f"{name}.parquet")
    arrays: dict[str, Any] = {}
    for name, rows in (("hold_out", done.hold_out), ("test", done.test)):
        arrays |= {
            f"{name}.score": np.asarray(rows.score, np.float64),
            f"{name}.uncertainty": np.asarray(rows.uncertainty, np.float64),
            f"{name}.y": np.asarray(rows.y, np.int8),
        }
    save_artefact(job.home, _KIND, {}, arrays)  # last: its header says that the job is done
    return done


class _Remembering:
    """A provider that keeps what it said of the hold-out and of the test rows."""

    def __init__(self, provider: Any, kept: list[Any]) -> None:
        self.provider, self.kept = provider, kept

    def fit(self, X: Any, y: Any) -> _Remembering:
        self.provider.fit(X, y)
        return self

    def __call__(self, X: Any) -> Any:
        self.kept.append(self.provider(X))
        return self.kept[-1]


def _scored(kept: list[Any], parts: ThresholdData) -> tuple[Scored, Scored]:
    hold_out, test = kept[:2]
    return (
        Scored(np.asarray(hold_out[0]), np.asarray(hold_out[1]), np.asarray(parts.holdout[1])),
        Scored(np.asarray(test[0]), np.asarray(test[1]), np.asarray(parts.test[1])),
    )


def _read(home: Path) -> Done:
    _, arrays = load_artefact(home, _KIND)
    rows = [
        Scored(*(arrays[f"{name}.{key}"] for key in ("score", "uncertainty", "y")))
        for name in ("hold_out", "test")
    ]
    study = ThresholdStudy(*(pl.read_parquet(home / f"{name}.parquet") for name in _TABLES))
    return Done(study, rows[0], rows[1])


def _found(recipe: Recipe, study: ThresholdStudy, rules: dict[str, Rules]) -> dict[str, Any]:
    """Scores of each model, the best by what its guaranteed rule finds."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    quality = study.quality.group_by("provider").agg(pl.col("auc", "nll").mean())
    for name, own in rules.items():
        scores = quality.filter(provider=name).select("auc", "nll").to_dicts()[0]
        for rule, prefix in ((CHOSEN, ""), ("surface", "plain_"), ("single", "single_")):
            test = own.record["rules"][rule]["test"]
            for key in ("recall", "precision"):
                scores |= {
                    f"{prefix}{key}{end}": test[f"{key}{end}"] for end in ("", "_low", "_high")
                }
        metrics[name] = {PROTOCOL: scores}

    def recall(name: str) -> float:
        value = metrics[name][PROTOCOL]["recall"]
        called = rules[name].record["rules"][CHOSEN]["test"]["called"]
        return float(value) if called else -1.0

    ranked = sorted(rules, key=lambda name: -recall(name))
    board = [{"rank": rank, "model": name} for rank, name in enumerate(ranked, start=1)]
    return {"best": ranked[0], "metrics": metrics, "leaderboard": {PROTOCOL: board}}


def _write(folder: Path, rules: Rules, test: Scored) -> None:
    columns = {"score": test.score, "uncertainty": test.uncertainty, "y": test.y}
    write_table(pl.DataFrame({**columns, **rules.decisions}), folder / "decisions.parquet")
    for rule, surface in rules.surfaces.items():
        surface.to_json(folder / surface_file(rule))


def _require_same_data(folder: RunFolder, fingerprint: str) -> None:
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )
