"""One run of the grid: central trainings, federated ones, tables, the report."""

from __future__ import annotations

from typing import Any

from foretell.errors import ArtefactError
from foretell.runs.fednlp.findings import (
    curves,
    freezing_rows,
    grid_rows,
    optimiser_rows,
    record,
    task_rows,
)
from foretell.runs.fednlp.jobs import Done, Job, run_job
from foretell.runs.fednlp.publish import draw
from foretell.runs.fednlp.recipe import Recipe
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.tasks import Trip

CURVES = "curves.parquet"


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """All jobs, task by task, each kept when it is done; then tables and the report."""
    recipe, folder = trip.recipe, trip.folder
    found: list[tuple[Job, Done]] = []
    for name in recipe.tasks:
        with trip.stage(name):
            own = _do(trip, jobs_of(trip, name))
        _require_same_data(folder, name, own[0][1].fingerprint)
        found += own
    tasks = task_rows(recipe, found)
    rows = grid_rows(found, tasks)
    tables = {
        "tasks": tasks,
        "grid": rows,
        "optimisers": optimiser_rows(found),
        "freezing": freezing_rows(recipe, found),
    }
    write_table(curves(found), folder.path / CURVES)
    result = {
        **record(recipe, rows),
        "tables": tables,
        "warnings": list(dict.fromkeys(f"{j.task}: {n}" for j, d in found for n in d.notes)),
        "final": {"model": None, "kept": False, "reason": "the comparison is what is kept"},
    }
    document = folder.update(
        **{**result, "timings": {"stages": trip.seconds}, "peak_memory_mib": peak_memory_mib()}
    )
    with trip.stage("report"):
        draw(folder, document)
    return result


def jobs_of(trip: Trip[Recipe], name: str) -> list[Job]:
    """Jobs of a task: central training first, then the grid and the tables it is part of."""
    recipe, work = trip.recipe, trip.folder.work.resolve()
    section = recipe.tasks[name]
    jobs = [Job(recipe, "central", name, seed, work) for seed in recipe.seeds_of(name)]
    for place, part in enumerate(section.partitions):
        jobs += [
            Job(recipe, "grid", name, seed, work, place, alpha, method)
            for alpha in recipe.alphas_of(part)
            for method in recipe.algorithms_of(name)
            for seed in recipe.seeds_of(name)
        ]
    optimisers, freezing = recipe.optimisers, recipe.freezing
    if optimisers is not None and optimisers.task == name:
        jobs += [
            Job(recipe, "optimisers", name, seed, work, 0, alpha, f"{client}+{server}")
            for alpha in optimisers.alphas
            for client in optimisers.client_rates
            for server in optimisers.server_rates
            for seed in recipe.seeds_of(name)
        ]
    if freezing is not None and freezing.task == name:
        alpha = None if section.partitions[0].kind == "natural" else freezing.alpha
        jobs += [
            Job(recipe, "freezing", name, seed, work, 0, alpha, frozen)
            for frozen in freezing.sets
            for seed in recipe.seeds_of(name)
        ]
    return jobs


def _do(trip: Trip[Recipe], jobs: list[Job]) -> list[tuple[Job, Done]]:
    """All jobs, in order; those that were done before are read."""
    found = []
    for number, (job, done) in enumerate(
        zip(jobs, trip.engine.map(run_job, jobs), strict=True), start=1
    ):
        if number == 1:
            for note in done.notes:
                trip.tell(f"{job.task}: {note}")
        found.append((job, done))
        what = job.setting if job.kind != "central" else f"{job.task} in one place"
        trip.tell(
            f"[{number}/{len(jobs)}] {what}: {job.method}, seed {job.seed}: "
            f"{done.scores['score']:.3f} ({done.seconds:.0f} s)"
        )
    return found


def _require_same_data(folder: RunFolder, task: str, fingerprint: str) -> None:
    data = dict(folder.read().get("data") or {})
    known = dict(data.get("fingerprints") or {})
    if known.get(task, fingerprint) != fingerprint:
        raise ArtefactError(
            f"the texts of task {task!r} of the run in {folder.path} are not what they were when "
            "it was started: start anew in another folder"
        )
    folder.update(data={**data, "fingerprints": {**known, task: fingerprint}})
