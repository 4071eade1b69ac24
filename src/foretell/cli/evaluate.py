"""``foretell evaluate``: what a policy of alarms would have done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foretell.cli.console import cell, reporting, stderr, stdout


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="stays with onsets: PSV files, Parquet, a public data set"
        ),
    ],
    run: Annotated[
        Path | None, typer.Option(help="run of early warning whose scores count")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="table with id, hour and score instead of a run")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file of a policy", show_default="the run's")
    ] = None,
    horizon: Annotated[
        float, typer.Option(help="hours within which the onset must follow an alarm", min=1)
    ] = 48.0,
    by: Annotated[str, typer.Option(help="categories to tell apart, with commas")] = "",
    resamples: Annotated[int, typer.Option(help="of the bootstrap", min=10)] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Judges a policy of alarms on stays: found patients, false alarms an hour, hours of lead.

    A policy file holds the arguments of the policy: threshold = 0.4, snooze = 12 and so on.

    foretell evaluate training_setB --run runs/sepsis --policy calmer.toml

    foretell evaluate stays.parquet --scores scores.parquet --policy calmer.toml --by sex,unit
    """
    with reporting():
        from foretell.errors import ParameterError
        from foretell.evaluation.clinical import APART
        from foretell.runs.sepsis.policies import (
            evaluate_policy,
            evaluate_run,
            read_policy,
            scores_of_table,
        )
        from foretell.runs.sepsis.sources import read_stays

        if (run is None) == (scores is None):
            raise ParameterError("name --run or --scores, and not both")
        chosen = None if policy is None else read_policy(policy)
        stays = read_stays(data)
        groups = tuple(b.strip() for b in by.split(",") if b.strip())
        if run is not None:
            told = evaluate_run(run, stays, chosen, horizon=horizon, by=groups, resamples=resamples)
        else:
            if chosen is None or scores is None:
                raise ParameterError("--scores needs a --policy")
            values, issued = scores_of_table(stays, scores)
            told = evaluate_policy(
                stays, chosen, values, issued, horizon=horizon, by=groups, resamples=resamples
            )
        if as_json:
            stdout.print(json.dumps(told, indent=1), markup=False, highlight=False)
            return
        stdout.print(
            f"{told['stays']:,} stays, {told['septic']:,} septic, {told['hours']:,} hours "
            f"({told['withheld']:,} without a score), {told['alarms']:,} alarms",
            markup=False,
        )
        apart = [f"{told[name]:,} {words}" for name, words in APART.items() if told[name]]
        if apart:
            stdout.print(f"counted apart: {'; '.join(apart)}", markup=False)
        table = Table("metric", "value", "95% interval")
        for row in told["metrics"]:
            between = f"{cell(row['lower'])} to {cell(row['upper'])}"
            table.add_row(row["metric"], cell(row["value"]), between)
        for key in ("ranking", "model_ranking"):
            ranked = told.get(key)
            if ranked is None:
                continue
            for name in ("auroc", "auprc"):
                found = ranked[name]
                between = f"{cell(found['lower'])} to {cell(found['upper'])}"
                row_name = f"{name} of hours, onset within {ranked['horizon']:g} h"
                table.add_row(row_name, cell(found["estimate"]), between)
        table.add_row("challenge utility at the threshold", cell(told["utility"]["threshold"]), "")
        table.add_row("the same of the clock alone", cell(told["utility"]["clock_rule"]), "")
        table.add_row("snoozed odds ratio", cell(told["snoozed"]["odds_ratio"]), "")
        stdout.print(table)
        for name, rows in told["by"].items():
            wanted = ("patient_sensitivity", "ppv", "false_alarms_per_patient_hour")
            shown = Table(name, "stays", "septic", *wanted)
            held: dict[str, dict[str, str]] = {}
            sizes: dict[str, tuple[int, int]] = {}
            for row in rows:
                held.setdefault(row["group"], {})[row["metric"]] = cell(row["value"])
                sizes[row["group"]] = (row["stays"], row["septic"])
            for group, found in held.items():
                size, septic = sizes[group]
                shown.add_row(group, str(size), str(septic), *(found[w] for w in wanted))
            stdout.print(shown)
        if told.get("model_ranking") is not None:
            stderr.print(
                f"AUROC over {told['horizon']:g} h asks another question than over "
                f"{told['model_ranking']['horizon']:g} h, which the run's report tells: compare "
                "like with like.", style="dim",
            )  # fmt: skip
        stderr.print("The challenge's utility rewards long stays: look at the margin over the "
                     "clock.", style="dim")  # fmt: skip
