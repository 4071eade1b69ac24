"""One run about late labels: snapshots, streams, the decision, the saved model, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretell.data.events import EventLog
from foretell.errors import ArtefactError, ParameterError
from foretell.runs.feedback.decide import Decision, decide
from foretell.runs.feedback.findings import ORACLE, Findings, audit, find, gather
from foretell.runs.feedback.jobs import plan_jobs, require_final, rows_of, run_job
from foretell.runs.feedback.models import make_stream_model
from foretell.runs.feedback.publish import draw
from foretell.runs.feedback.recipe import Recipe, StreamSection
from foretell.runs.feedback.saved import keep_model
from foretell.runs.feedback.sources import describe, load_log
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.sources import naming_source
from foretell.runs.tasks import Trip

_BLOCK = 24
PREDICTIONS, DECISIONS, STREAM = "predictions.parquet", "decisions.parquet", "stream.parquet"


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Snapshots and streams, their scores, the decision, the model that is kept, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"), naming_source(recipe.data.source):
        log, truth = load_log(recipe.data, seed=recipe.seeds[0])
        for name, section in recipe.snapshots.items():  # what is wrong should not show after hours
            rows = rows_of(log, section.test, f"snapshots.{name}.test")
            require_final(log, rows, f"snapshots.{name}.test")
    tell(f"data: {log!r}")
    _require_same_data(folder, log)
    folder.update(data=describe(recipe.data, log))
    found: dict[str, Any] = {"metrics": {}, "leaderboard": {}}
    peak, findings = 0.0, None
    if recipe.snapshots:
        with trip.stage("audit"):
            found["audit"] = audit(recipe, log)
        with trip.stage("training"):
            predictions, costs, peak = _snapshots(trip, log)
        with trip.stage("scores"):
            findings = find(recipe, log, predictions, costs)
            write_table(predictions, folder.path / PREDICTIONS)
        found |= findings.record()
        tell(f"best: {findings.best}")
    if recipe.stream is not None:
        with trip.stage("stream"):
            found |= _stream(trip, recipe.stream, log, truth, found)
    decision = None
    if recipe.decision is not None and findings is not None:
        name = _named(recipe.decision.model, findings)
        with trip.stage("decision"):
            decision = decide(recipe, recipe.decision, log, name)
        _write_decision(folder.path, decision)
        found["decision"] = decision.record
    with trip.stage("final"):
        found["final"] = _final(trip, log, findings, decision)
    if found["final"]["reason"]:
        tell(f"no model is saved: {found['final']['reason']}")
    found["peak_memory_mib"] = max(peak, peak_memory_mib())
    record = folder.update(**{**found, "timings": {"stages": trip.seconds}})
    with trip.stage("report"):
        draw(folder, record)
    return found


def _snapshots(
    trip: Trip[Recipe], log: EventLog
) -> tuple[pl.DataFrame, dict[str, dict[str, dict[str, Any]]], float]:
    """All models at all snapshots: predictions of the test rows, costs, the largest memory."""
    jobs = plan_jobs(trip.recipe, trip.folder.work.resolve())
    done = []
    told: dict[str, None] = {}
    for number, (job, one) in enumerate(
        zip(jobs, trip.engine.map(run_job, jobs, [log] * len(jobs)), strict=True), start=1
    ):
        done.append(one)
        for text in one.warnings:
            told.setdefault(f"{job.model}, {job.snapshot}: {text}")
        trip.tell(
            f"[{number}/{len(jobs)}] {job.snapshot}: {job.model}, seed {job.seed}: trained in "
            f"{one.fit_seconds:.1f} s"
        )
    trip.folder.update(warnings=list(told))
    return *gather(trip.recipe, log, jobs, done), max(one.peak_memory_mib for one in done)


def _stream(
    trip: Trip[Recipe],
    section: StreamSection,
    log: EventLog,
    truth: np.ndarray | None,
    found: dict[str, Any],
) -> dict[str, Any]:
    """The prequential comparison, and the best of its methods where there are no snapshots."""
    from foretell.evaluation.feedback import prequential

    if section.truth and truth is None:
        raise ParameterError(
            f"stream.truth: the true probabilities of {trip.recipe.data.source!r} are not known"
        )
    made = {
        name: make_stream_model(
            f"stream.models.{name}", m.method, m.parameters, trip.recipe.threads
        )
        for name, m in section.models.items()
    }
    result = prequential(
        made,
        log,
        section.start,
        section.end,
        section.bucket,
        truth=truth if section.truth else None,
        seeds=trip.recipe.seeds,
    )
    write_table(result.table, trip.folder.path / STREAM)
    metric = "kl" if section.truth else "nll"
    # Blocks of neighbouring buckets are resampled; an interval needs some ten of them.
    block = min(_BLOCK, max(1, result.table["start"].n_unique() // 10))
    rows = result.summary(block=block).to_dicts()
    ratios = result.ratio_to("vanilla", metric, block=block).to_dicts()
    against = {row["method"]: row["ratio"] for row in ratios}
    for row in rows:
        row["against_vanilla"] = against[row["method"]]
    able = [r for r in rows if r["method"] != ORACLE and r[metric] is not None]
    ranked = sorted(able, key=lambda r: r[metric])
    trip.tell(f"best on the stream: {ranked[0]['method']}")
    record: dict[str, Any] = {
        "stream": rows,
        "stream_metric": metric,
        "metrics": {**found["metrics"]},
        "leaderboard": {**found["leaderboard"]},
    }
    names = {"auc": "auc", "nll": "nll", "ece": "ece", "ratio": "calibration_ratio", "kl": "kl"}
    for row in rows:
        scores = {new: row[old] for old, new in names.items()}
        record["metrics"].setdefault(row["method"], {})["stream"] = scores
    record["leaderboard"]["stream"] = [
        {"rank": rank, "model": row["method"]} for rank, row in enumerate(ranked, start=1)
    ]
    if "best" not in found:
        record |= {"best": ranked[0]["method"], "baseline": "vanilla"}
    return record


def _final(
    trip: Trip[Recipe], log: EventLog, findings: Findings | None, decision: Decision | None
) -> dict[str, Any]:
    """Trains and saves the model that the recipe asks for; says why where there is none."""
    section = trip.recipe.final
    if section is None or findings is None:
        reason = "the recipe keeps none" if section is None else "a stream keeps no model"
        return {"model": None, "kept": False, "reason": reason}
    name = _named(section.model, findings)
    failed = keep_model(trip.recipe, section, log, name, decision, trip.folder.path / "model")
    return {"model": name, "kept": failed is None, "reason": failed}


def _named(asked: str, findings: Findings) -> str:
    return findings.best if asked == "best" else asked


def _write_decision(folder: Path, decision: Decision) -> None:
    write_table(decision.table, folder / DECISIONS)
    for rule, surface in decision.surfaces.items():
        name = (
            "surface.json" if decision.record["rules"][rule]["chosen"] else f"surface-{rule}.json"
        )
        surface.to_json(folder / name)


def _require_same_data(folder: RunFolder, log: EventLog) -> None:
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != log.fingerprint():
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )
