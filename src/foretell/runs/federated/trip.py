"""One federated run: server rates are chosen, methods are compared, the report is drawn."""

from __future__ import annotations

from typing import Any

from foretell.errors import ArtefactError
from foretell.runs.federated.findings import (
    best_rates,
    by_samples,
    continual_table,
    curves,
    group_table,
    privacy_table,
    record,
    static_table,
)
from foretell.runs.federated.jobs import STATIC, Done, Job, run_job
from foretell.runs.federated.private import AuditJob, run_audit, verdict
from foretell.runs.federated.publish import draw
from foretell.runs.federated.recipe import Recipe
from foretell.runs.federated.sources import load_federation
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.tasks import Trip

CURVES = "curves.parquet"


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Tuning, static and continual training, what privacy costs, and the report."""
    recipe, folder = trip.recipe, trip.folder
    with trip.stage("data"):
        federation = load_federation(recipe, recipe.seeds[0])
    about = federation.about
    trip.tell(f"data: {about['clients']:,} clients, {about['examples']:,} examples")
    _require_same_data(folder, about["fingerprint"])
    folder.update(data=about)
    work = folder.work.resolve()
    with trip.stage("tuning"):
        tried = _do(
            trip,
            [
                Job(recipe, name, rate, seed, STATIC, work)
                for name in recipe.methods
                for rate in recipe.rates_of(name)
                for seed in recipe.tuning.seeds
            ],
        )
        rates = best_rates(recipe, tried)
    with trip.stage("training"):
        found = _do(
            trip,
            [
                Job(recipe, name, rates[name], seed, STATIC, work)
                for name in recipe.methods
                for seed in recipe.seeds
            ],
        )
    if recipe.continual is not None:
        section = recipe.continual
        with trip.stage("continual"):
            found += _do(
                trip,
                [
                    Job(recipe, name, section.rate or rates[name], seed, buffer, work)
                    for buffer in section.buffers
                    for name in section.methods
                    for seed in recipe.seeds
                ],
            )
            # What continual runs are measured against has their server rate.
            compared = _do(
                trip,
                [
                    Job(recipe, name, section.rate or rates[name], seed, STATIC, work)
                    for name in section.methods
                    for seed in recipe.seeds
                ],
            )
    tables: dict[str, Any] = {
        "tuning": [
            {"method": j.method, "rate": j.rate, "seed": j.seed,
             **{f"round_{a}": d.at(a) for a in recipe.rounds.read_at}}
            for j, d in tried
        ],
        "static": static_table(recipe, found),
        "samples": by_samples(recipe, found),
        "groups": group_table(recipe, found),
    }  # fmt: skip
    if recipe.continual is not None:
        moving = [(j, d) for j, d in found if j.mode != STATIC]
        tables["continual"] = continual_table(recipe, [*moving, *compared])
    if recipe.privacy is not None:
        with trip.stage("privacy"):
            tables["privacy"] = privacy_table(
                recipe.privacy, federation.activity, recipe.rounds.clients, recipe.rounds.count
            )
    if recipe.audit is not None:
        with trip.stage("audit"):
            tables["audit"] = _audited(trip)
    statements = {
        j.method: d.statement for j, d in found if d.statement is not None and j.mode == STATIC
    }
    write_table(curves(found), folder.path / CURVES)
    result = {
        **record(recipe, found, tables),
        "tables": tables,
        "rates": rates,
        "statements": statements,
        "warnings": list(dict.fromkeys(f"{j.method}: {w}" for j, d in found for w in d.warnings)),
        "final": {"model": None, "kept": False, "reason": "the comparison is what is kept"},
    }
    trip.tell(f"best: {result['best']}")
    document = folder.update(
        **{**result, "timings": {"stages": trip.seconds}, "peak_memory_mib": peak_memory_mib()}
    )
    with trip.stage("report"):
        draw(folder, document)
    return result


def _audited(trip: Trip[Recipe]) -> dict[str, Any]:
    """Trainings with canary clients, with the noise that is claimed and without it."""
    recipe, section = trip.recipe, trip.recipe.audit
    assert section is not None
    work = trip.folder.work.resolve()
    noises = (True, False) if section.without_noise else (True,)
    jobs = [AuditJob(recipe, noisy, recipe.seeds[0], work) for noisy in noises]
    found = list(trip.engine.map(run_audit, jobs))
    result = verdict(found[0], found[1] if len(found) > 1 else None)
    for row in result["runs"]:
        noise = "with the noise" if row["noisy"] else "without noise"
        trip.tell(
            f"audit {noise}: epsilon of a client at least {max(row['bounds'].values()):.3g} "
            f"(claimed {result['claim']['epsilon']:.3g})"
        )
    return result


def _do(trip: Trip[Recipe], jobs: list[Job]) -> list[tuple[Job, Done]]:
    """All jobs, in order; those that were done before are read."""
    found = []
    for number, (job, done) in enumerate(
        zip(jobs, trip.engine.map(run_job, jobs), strict=True), start=1
    ):
        found.append((job, done))
        rate = "" if job.rate is None else f", rate {job.rate:g}"
        trip.tell(
            f"[{number}/{len(jobs)}] {job.mode}: {job.method}{rate}, seed {job.seed}: "
            f"{done.curve['accuracy'][-1]:.3f} ({done.seconds:.0f} s)"
        )
    return found


def _require_same_data(folder: RunFolder, fingerprint: str) -> None:
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )
