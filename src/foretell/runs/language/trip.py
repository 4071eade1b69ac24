"""One run about language models: every model with every seed, scores, statements, the report."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl

from foretell.data.text import TextSet
from foretell.errors import ArtefactError, RecipeError
from foretell.evaluation.language import evaluate_understanding
from foretell.learners.language import Understanding
from foretell.runs.folder import write_table
from foretell.runs.language.publish import draw
from foretell.runs.language.recipe import Recipe
from foretell.runs.language.sources import build, load_text
from foretell.runs.memory import peak_memory_mib
from foretell.runs.tasks import Trip
from foretell.runs.threads import limited_threads
from foretell.training.private import PrivacyStatement

PROTOCOL = "test"
_NUMBERS = ("intent_accuracy", "slot_precision", "slot_recall", "slot_f1", "exact_match", "score",
            "cpu_seconds", "wall_seconds")  # fmt: skip


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


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Trainings, scores, what is kept, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"):
        for name in recipe.models:
            build(recipe, name, recipe.seeds[0])  # a wrong key shows before any training
        train, test = load_text(recipe.data, recipe.seeds[0])
        about = _describe(recipe, train, test)
    tell(f"data: {about['train']} utterances to train on, {about['test']} to judge on")
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != about["fingerprint"]:
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )
    folder.update(data=about)
    work = folder.work.resolve()
    jobs = [Job(recipe, name, seed, work) for seed in recipe.seeds for name in recipe.models]
    rows: list[dict[str, Any]] = []
    with trip.stage("training"):
        for number, row in enumerate(trip.engine.map(run_job, jobs), start=1):
            rows.append(row)
            shown = ", ".join(f"{k} {row[k]:.3f}" for k in _NUMBERS[:5] if k in row)
            tell(f"[{number}/{len(jobs)}] {row['model']}, seed {row['seed']}: {shown}")
            if row["statement"] is not None and row["seed"] == recipe.seeds[0]:
                tell(str(PrivacyStatement.from_dict(row["statement"])))
    table = [{k: v for k, v in row.items() if k != "statement"} for row in rows]
    write_table(pl.DataFrame(table, infer_schema_length=None), folder.path / "trainings.parquet")
    found = _found(recipe, rows)
    kept = found["best"] if recipe.final.model == "best" else recipe.final.model
    if recipe.final.keep:
        home = Job(recipe, kept, recipe.seeds[0], work).home / "model"
        shutil.copytree(home, folder.path / "model", dirs_exist_ok=True)
    found["final"] = {"model": kept if recipe.final.keep else None, "kept": recipe.final.keep}
    record = folder.update(
        **found, timings={"stages": trip.seconds}, peak_memory_mib=peak_memory_mib()
    )
    with trip.stage("report"):
        draw(folder, record)
    return found


def run_job(job: Job) -> dict[str, Any]:
    """Trains and judges once, or reads what was found before."""
    done = job.home / "scores.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    train, test = load_text(job.recipe.data, job.recipe.seeds[0])
    model, strategies = build(job.recipe, job.model, job.seed)
    with limited_threads(job.recipe.threads):
        cpu, wall = time.process_time(), time.perf_counter()
        model.fit(train, strategies=strategies)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        scores = _score(model, test)
    statement: PrivacyStatement | None = model.privacy_
    privacy = job.recipe.models[job.model].privacy
    row: dict[str, Any] = {"model": job.model, "seed": job.seed, **scores}
    row |= {"cpu_seconds": cpu, "wall_seconds": wall}
    saved = None if statement is None else statement.to_dict()
    row["epsilon"] = None if saved is None else saved["epsilon"]
    row["delta"] = None if saved is None else saved["delta"]
    row["claimed_epsilon"] = row["epsilon"]
    if privacy is not None and privacy.accounting == "naive":
        row["claimed_epsilon"] = privacy.epsilon
    row["statement"] = saved
    shutil.rmtree(job.home, ignore_errors=True)
    model.save(job.home / "model")
    partial = done.with_suffix(".partial")
    partial.write_text(json.dumps(row))
    partial.replace(done)  # last: it says that the job is done
    return row


def _score(model: Any, test: TextSet) -> dict[str, float]:
    found = model.predict(test)
    if isinstance(found, Understanding):
        return evaluate_understanding(test, found)
    if hasattr(model, "evaluate"):
        return {key: float(value) for key, value in model.evaluate(test).items()}
    raise RecipeError(f"nothing is known about how a {type(model).__name__} is judged")


def _describe(recipe: Recipe, train: TextSet, test: TextSet) -> dict[str, Any]:
    return {
        "source": recipe.data.source,
        "train": len(train),
        "test": len(test),
        "intents": len(train.intent_names) if train.has_intents else 0,
        "slots": len(train.slot_names) if train.has_slots else 0,
        "notes": [vars(note) if hasattr(note, "__dict__") else str(note) for note in train.notes],
        "fingerprint": f"{train.fingerprint()}-{test.fingerprint()}",
    }


def _found(recipe: Recipe, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds; the best is the best of those that claim what is true."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    statements = {}
    for name in recipe.models:
        mine = [row for row in rows if row["model"] == name]
        scores: dict[str, Any] = {
            key: mean(row[key] for row in mine) for key in _NUMBERS if key in mine[0]
        }
        scores["cpu_seconds"] = min(row["cpu_seconds"] for row in mine)
        for key in ("epsilon", "claimed_epsilon", "delta"):
            scores[key] = mine[0][key]
        metrics[name] = {PROTOCOL: scores}
        statements[name] = mine[0]["statement"]

    def order(name: str) -> tuple[bool, bool, float]:
        scores = metrics[name][PROTOCOL]
        private = recipe.models[name].privacy
        true = private is None or private.accounting == "true"
        main = next((scores[k] for k in ("intent_accuracy", "slot_f1", "score") if k in scores), 0)
        return (not (true and scores["epsilon"] is not None), not true, -main)

    ranked = sorted(recipe.models, key=order)
    board = [{"rank": rank, "model": name} for rank, name in enumerate(ranked, start=1)]
    return {
        "best": ranked[0],
        "metrics": metrics,
        "leaderboard": {PROTOCOL: board},
        "statements": statements,
    }
