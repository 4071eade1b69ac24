"""One run about canaries: every training with every seed, the attacks, and the report."""

from __future__ import annotations

from typing import Any

import polars as pl

from foretell.audits.extraction import ExtractionReport
from foretell.data import registry
from foretell.data.text import TextSet
from foretell.errors import ArtefactError, RecipeError
from foretell.runs.building import check_keys
from foretell.runs.canary.jobs import Done, Job, make_model, require_text, run_job, suite_of
from foretell.runs.canary.publish import draw
from foretell.runs.canary.recipe import DataSection, Recipe
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.sources import is_public, loader_options, naming_source
from foretell.runs.tasks import Trip

PROTOCOL, CANARIES = "valid", "canaries.parquet"


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Trainings, attacks, their comparison, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"), naming_source(recipe.data.source):
        text = load_text(recipe.data)
        train = text.part(recipe.data.train)
        text.part(recipe.data.valid)
        for name, section in recipe.models.items():  # what is wrong should not show after an hour
            make_model(recipe, name, train, recipe.seeds[0])._check()
            suite_of(recipe, section.repetitions, recipe.seeds[0]).insert(train)
        about = _describe(recipe, text)
    tell(f"data: {text!r}")
    _require_same_data(folder, about["fingerprint"])
    folder.update(data=about)
    work = folder.work.resolve()
    jobs = [Job(recipe, name, seed, work) for name in recipe.models for seed in recipe.seeds]
    done: dict[str, list[Done]] = {}
    with trip.stage("training and attacks"):
        results = trip.engine.map(run_job, jobs, [text] * len(jobs))
        for number, (job, one) in enumerate(zip(jobs, results, strict=True), start=1):
            done.setdefault(job.model, []).append(one)
            tell(
                f"[{number}/{len(jobs)}] {job.model}, seed {job.seed}: exposure "
                f"{one.report.exposure:.2f} bits, intent accuracy "
                f"{one.scores.get('intent_accuracy', float('nan')):.3f}"
            )
    with trip.stage("scores"):
        reports = {
            name: ExtractionReport.concat([d.report for d in runs]) for name, runs in done.items()
        }
        tables = [
            report.to_polars().insert_column(0, pl.lit(name).alias("model"))
            for name, report in reports.items()
        ]
        write_table(pl.concat(tables), folder.path / CANARIES)
        found = _found(recipe, reports, done)
    tell(f"least exposed: {found['best']}")
    record = folder.update(
        **{**found, "timings": {"stages": trip.seconds}, "peak_memory_mib": peak_memory_mib()}
    )
    with trip.stage("report"):
        draw(folder, record)
    return found


def load_text(section: DataSection) -> TextSet:
    """The utterances of a recipe.

    Raises:
        RecipeError: the source is no public data set, or an option its reader does not have.
        DataError: it cannot be read, or holds no utterances with intents.
    """
    if not is_public(section.source):
        raise RecipeError(f"data.source: there is no public data set {section.source!r}")
    check_keys("data.options", section.options, loader_options(section.source))
    return require_text(registry.load(section.source, **section.options), section.source)


def _describe(recipe: Recipe, text: TextSet) -> dict[str, Any]:
    return {
        "source": recipe.data.source,
        "options": recipe.data.options,
        "fingerprint": text.fingerprint(),
        "parts": {part: len(text.part(part)) for part in text.splits},
        "notes": [{"kind": n.kind, "message": n.message, "count": n.count} for n in text.notes],
    }


def _found(
    recipe: Recipe, reports: dict[str, ExtractionReport], done: dict[str, list[Done]]
) -> dict[str, Any]:
    """Scores of each training, the least exposed first, and differences to the baseline."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    models: dict[str, dict[str, Any]] = {}
    for name, report in reports.items():
        runs, section = done[name], recipe.models[name]
        means = {
            # The extraction's own exact match is that of secrets.
            "utterances_right" if key == "exact_match" else key: sum(d.scores[key] for d in runs)
            / len(runs)
            for key in runs[0].scores
            if key != "utterances"
        }
        metrics[name] = {PROTOCOL: {**report.summary(), **means}}
        models[name] = {
            "title": section.title or name,
            "repetitions": section.repetitions,
            "utterances": runs[0].utterances,
            "statement": runs[0].statement,
            "epsilon": runs[0].epsilon,
            "missing": list(report.missing),
            "notes": list(dict.fromkeys(note for d in runs for note in d.notes)),
            "fit_seconds": sum(d.fit_seconds for d in runs) / len(runs),
            "attack_seconds": sum(d.attack_seconds for d in runs) / len(runs),
        }
        if recipe.baseline is not None and name != recipe.baseline:
            value, low, high = report.difference(reports[recipe.baseline])
            models[name]["against_baseline"] = {"value": value, "low": low, "high": high}
    ranked = sorted(reports, key=lambda name: reports[name].exposure)
    first = next(iter(reports.values()))
    return {
        "best": ranked[0],
        "baseline": recipe.baseline,
        "metrics": metrics,
        "models": models,
        "attack": {
            "threat_model": first.threat_model, "method": first.method, "space": first.space,
            "words": first.words, "n_tokens": first.n_tokens,
            "chance_token_accuracy": first.chance_token_accuracy,
        },
        "leaderboard": {
            PROTOCOL: [{"rank": rank, "model": name} for rank, name in enumerate(ranked, start=1)]
        },
        "final": {
            "model": None, "kept": False, "reason": "models with planted secrets are not kept",
        },
    }  # fmt: skip


def _require_same_data(folder: RunFolder, fingerprint: str) -> None:
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )
