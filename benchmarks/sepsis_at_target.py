"""What a run's alarms would be at the thresholds that find exactly the target on its test patients.

    python benchmarks/sepsis_at_target.py runs/sepsis --out benchmarks/results/sepsis_at_target.json

A threshold that was tuned on other patients finds more or fewer than it was asked for; methods are
compared where all find the same. Thresholds are moved together, in log-odds, until the target is
just met: once those of the run, each site with its own where it has, and once one for all sites.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import machine, save

from foretell.decisions.alarms import AlarmPolicy, places_of, run_policy
from foretell.evaluation.clinical import AlarmMetrics, alarm_metrics
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sources import load_parts
from foretell.serving.deployment import Deployment

TOLD = ("patient_sensitivity", "ppv", "false_alarms_per_patient_hour", "lead_median")
REACH = 8.0
"""Log-odds by which thresholds are moved at most."""


def moved(policy: AlarmPolicy, by: float) -> AlarmPolicy:
    """The policy with all thresholds moved."""

    def one(threshold: float) -> float:
        odds = threshold / (1 - threshold) * np.exp(by)
        return float(odds / (1 + odds))

    tiers = tuple(
        replace(t, threshold=one(t.threshold), units={u: one(v) for u, v in t.units.items()})
        for t in policy.tiers
    )
    return replace(policy, threshold=None, tiers=tiers)


def main() -> None:
    """Judges the deployed model of a run at its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run about sepsis")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = Recipe.model_validate(json.loads((options.run / "run.json").read_text())["recipe"])
    deployment = Deployment.load(options.run)
    test = load_parts(recipe.data.model_dump_json()).split.test
    told = deployment.judge(test)
    scores = np.nan_to_num(told.gated.score, nan=0.0)
    aim, policy = recipe.alarms.target_sensitivity, deployment.policy
    once = replace(policy, tiers=tuple(replace(t, units={}) for t in policy.tiers), threshold=None)

    def judged(by: float, policy: AlarmPolicy) -> AlarmMetrics:
        at = moved(policy, by)
        raised = run_policy(
            at, scores, test.lengths, issued=told.gated.may_alarm, units=places_of(at.tiers, test)
        ).raised  # fmt: skip
        return alarm_metrics(
            test, raised, horizon=recipe.alarms.horizon, predicted=told.gated.issued
        )

    rows = []
    for name, some in (("the run's thresholds", policy), ("one for all sites", once)):
        low, high = -REACH, REACH
        for _ in range(30):
            middle = (low + high) / 2
            reached = judged(middle, some).values()["patient_sensitivity"] >= aim
            low, high = (middle, high) if reached else (low, middle)
        for what, by in (("as tuned", 0.0), ("exactly the target", low)):
            table = judged(by, some).table(resamples=recipe.evaluation.resamples).to_dicts()
            found = {r["metric"]: [r["value"], r["lower"], r["upper"]] for r in table}
            rows.append({"policy": name, "at": what, "moved": by, **{m: found[m] for m in TOLD}})
            print(rows[-1], flush=True)
    save(options.out, {"machine": machine("torch"), "run": options.run.name, "rows": rows})


if __name__ == "__main__":
    main()
