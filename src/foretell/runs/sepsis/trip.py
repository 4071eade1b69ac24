"""One run about early warning: methods from site to site, then gate, alarms, figures, report."""

from __future__ import annotations

import shutil
from statistics import mean, stdev
from typing import Any

import polars as pl

from foretell.decisions.alarms import Tier
from foretell.errors import ArtefactError
from foretell.estimators import FeedForwardRisk
from foretell.runs.folder import RunFolder, write_table
from foretell.runs.memory import peak_memory_mib
from foretell.runs.sepsis.checks import run_checks, settings_of
from foretell.runs.sepsis.examples import example_alarms
from foretell.runs.sepsis.judging import fit_gate, fit_monitor, judge, tune
from foretell.runs.sepsis.publish import draw
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sensing import fit_sensing
from foretell.runs.sepsis.sequence import BUNDLE, Job, check, run_job
from foretell.runs.sepsis.sources import Parts, load_parts
from foretell.runs.tasks import Trip
from foretell.runs.threads import limited_threads
from foretell.serving.deployment import Deployment

PROTOCOL = "sites"


def run(trip: Trip[Recipe]) -> dict[str, Any]:
    """Training, gate and policy, figures, what is kept, and the report."""
    recipe, folder, tell = trip.recipe, trip.folder, trip.tell
    with trip.stage("data"):
        check(recipe)
        settings_of(recipe)
        parts = load_parts(recipe.data.model_dump_json())
        about = describe(recipe, parts)
    tell(f"data: {about['stays']:,} stays of {len(parts.sites)} sites, {about['septic']:,} septic")
    require_same_data(folder, about["fingerprint"])
    folder.update(data=about)
    work = folder.work.resolve()
    jobs = [Job(recipe, name, seed, work) for seed in recipe.seeds for name in recipe.methods]
    rows: list[dict[str, Any]] = []
    with trip.stage("training"):
        for number, row in enumerate(trip.engine.map(run_job, jobs), start=1):
            rows.append(row)
            tell(
                f"[{number}/{len(jobs)}] {row['method']}, seed {row['seed']}: mean AUROC "
                f"{row['final_mean']:.3f}, forgetting {row['forgetting']:.3f} "
                f"({row['cpu_seconds']:.0f} CPU s)"
            )
    write_table(matrix_table(rows), folder.path / "matrix.parquet")
    chosen = next(j for j in jobs if j.method == recipe.deployed)
    with limited_threads(recipe.threads):
        with trip.stage("gate and policy"):
            deployment, asked, level = assemble(recipe, parts, chosen)
        tell(f"policy: threshold {deployment.policy.tiers[0].threshold:.4f} for {asked.target}")
        bundle = chosen.home / BUNDLE
        if bundle.is_file():
            shutil.copyfile(bundle, folder.path / BUNDLE)
        with trip.stage("judging"):
            # The stays are in canonical units already.
            plain = Deployment(deployment.model, deployment.gate, deployment.policy)
            told = plain.judge(parts.split.test)
            tables = judge(recipe, parts, plain, told, asked, level)
            tables["examples"] = example_alarms(
                plain, parts.split.test, told, most=recipe.evaluation.examples,
                horizon=recipe.alarms.horizon, seed=recipe.seeds[0],
            )  # fmt: skip
        with trip.stage("checks"):
            horizon = float(deployment.model.horizon)
            tables["checks"] = run_checks(recipe, parts, horizon, work / "checks", tell)
    scores = tables.pop("metrics")
    result = {
        **findings(recipe, rows, scores, tables["utility"]),
        "tables": {**tables, "sequence": summary(recipe, rows)},
        "deployed": {
            "method": recipe.deployed, "seed": chosen.seed, "version": deployment.version,
            "folder": ".", "utility_threshold": level.threshold,
            "utility_thresholds": dict(level.units),
            "monitor": None if deployment.monitor is None else {
                name: usual.patients for name, usual in deployment.monitor.usual_.items()
            },
        },
        "final": {"model": recipe.deployed, "kept": True},
    }  # fmt: skip
    folder.update(**result, timings={"stages": trip.seconds}, peak_memory_mib=peak_memory_mib())
    with trip.stage("report"):
        draw(folder, folder.read())
    return result


def assemble(recipe: Recipe, parts: Parts, job: Job) -> tuple[Deployment, Any, Tier]:
    """Model, gate and policy in the run's folder; what was asked of the policy; a threshold."""
    model = FeedForwardRisk.load(job.home / "model")
    risk = model.predict_proba(parts.split.validation)[:, 1]
    gate = fit_gate(recipe, parts, model, risk)
    asked, policy, level = tune(recipe, parts, gate, risk, float(model.horizon))
    source = "hospital" if "hospital" in parts.split.test.categories else "site"
    monitor = fit_monitor(parts, gate, risk, policy)
    deployment = Deployment(
        model, gate, policy, parts.repair, source, monitor=monitor,
        sensing=fit_sensing(recipe, parts, model),
    )  # fmt: skip
    return deployment.save(job.folder.parent), asked, level


def describe(recipe: Recipe, parts: Parts) -> dict[str, Any]:
    """What a run's record says of its data."""
    sites = []
    for name in parts.sites:
        row: dict[str, Any] = {"site": name}
        for part, stays in zip(("train", "validation", "test"), parts.split, strict=True):
            mine = stays.of("site", name)
            row |= {f"{part}_stays": len(mine), f"{part}_hours": mine.n_rows}
            row[f"{part}_septic"] = int(pl.Series(mine.onset).is_finite().sum())
        sites.append(row)
    return {
        "source": recipe.data.source,
        "sites": sites,
        "stays": sum(len(s) for s in parts.split),
        "hours": sum(s.n_rows for s in parts.split),
        "septic": sum(r[f"{p}_septic"] for r in sites for p in ("train", "validation", "test")),
        "repaired": parts.repaired.to_dicts(),
        "notes": [vars(n) if hasattr(n, "__dict__") else str(n) for n in parts.split.test.notes],
        "fingerprint": parts.fingerprint,
    }


def matrix_table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """``method, seed, trained_on, site, auroc, ppv, specificity``: one row a step and site."""
    table = []
    for row in rows:
        told = {(s["trained_on"], s["site"]): s for s in row["steps"]}
        for i, step in enumerate(row["sites"]):
            for j, site in enumerate(row["sites"]):
                table.append({
                    "method": row["method"], "seed": row["seed"], "auroc": row["auroc"][i][j],
                    **told[step, site],
                })  # fmt: skip
    return pl.DataFrame(table)


def summary(recipe: Recipe, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, one entry a method, with the spread of what is compared."""
    table = matrix_table(rows)
    found = []
    for name in recipe.methods:
        mine = [row for row in rows if row["method"] == name]
        sites = mine[0]["sites"]
        means = table.filter(method=name).group_by("trained_on", "site").agg(
            pl.col("auroc", "ppv", "specificity").mean()
        )  # fmt: skip
        at = {(r["trained_on"], r["site"]): r for r in means.iter_rows(named=True)}
        entry: dict[str, Any] = {
            "method": name, "kind": recipe.methods[name].kind, "keeps": mine[0]["keeps"],
            "release": recipe.methods[name].release,
            "noise_seed": recipe.methods[name].noise_seed, "seeds": len(mine), "sites": sites,
            "offsets": mine[0]["offsets"], "audits": mine[0]["audits"],
            "notes": mine[0]["notes"],
            "cpu_seconds": min(row["cpu_seconds"] for row in mine),
        }  # fmt: skip
        for key in ("auroc", "ppv", "specificity"):
            entry[key] = [[at[i, j][key] for j in sites] for i in sites]
        for key in ("final_mean", "forgetting", "backward_transfer", "forward_transfer"):
            values = [row[key] for row in mine]
            entry[key] = mean(values)
            entry[f"{key}_spread"] = stdev(values) if len(values) > 1 else None
        found.append(entry)
    return found


def findings(
    recipe: Recipe, rows: list[dict[str, Any]], scores: dict[str, Any], utility: list[Any]
) -> dict[str, Any]:
    """Scores of each method; those of gate and alarms for the deployed one."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in summary(recipe, rows):
        metrics[entry["method"]] = {
            PROTOCOL: {
                "final_mean": entry["final_mean"],
                "forgetting": entry["forgetting"],
                "first_site": entry["auroc"][-1][0],
            }
        }
    gated = utility[-1]
    metrics[recipe.deployed][PROTOCOL] |= {
        **scores, "utility": gated["utility"], "utility_margin": gated["margin"],
    }  # fmt: skip
    ranked = sorted(metrics, key=lambda name: -float(metrics[name][PROTOCOL]["final_mean"]))
    board = [{"rank": rank, "model": name} for rank, name in enumerate(ranked, start=1)]
    return {"best": recipe.deployed, "metrics": metrics, "leaderboard": {PROTOCOL: board}}


def require_same_data(folder: RunFolder, fingerprint: str) -> None:
    """Refuses to go on with other data.

    Raises:
        ArtefactError: the data have changed since the run was started.
    """
    before = (folder.read().get("data") or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        raise ArtefactError(
            f"the data of the run in {folder.path} are not what they were when it was started: "
            "start anew in another folder"
        )
