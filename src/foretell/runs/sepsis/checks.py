"""Does it read the clock, and does it travel? What boosted trees say of a run's own patients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foretell.errors import ForetellError, RecipeError
from foretell.evaluation.clinical import (
    EVERYWHERE,
    BoostedStudy,
    leave_hospital_out,
    time_blind_check,
)
from foretell.learners.risk import BoostedRisk
from foretell.runs.building import make
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sequence import load_tables
from foretell.runs.sepsis.sources import Parts

_FIXED = ("learns", "features", "horizon", "validation_size", "random_state", "threads")
"""Arguments of the trees that a check sets itself."""

OFF = "the recipe asks for none"

Check = Callable[[BoostedStudy], list[dict[str, Any]]]


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the trees.

    Raises:
        RecipeError: an option is unknown or refused.
    """
    options = recipe.checks.options
    model: BoostedRisk = make("checks.options", BoostedRisk, options, **dict.fromkeys(_FIXED))
    own: dict[str, Any] = {"random_state": recipe.seeds[0], "threads": recipe.threads or 1}
    try:
        BoostedRisk(**{**{name: getattr(model, name) for name in options}, **own})._check()
    except ForetellError as error:
        raise RecipeError(f"checks.options: {error}") from error
    return {**options, **own}


def run_checks(
    recipe: Recipe, parts: Parts, horizon: float, folder: Path, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Both checks, each with ``performed``; what was not performed has a ``reason``.

    Args:
        recipe: its sections ``checks`` and ``evaluation``.
        parts: stays; trees learn from the training part, thresholds come from the validation part.
        horizon: hours ahead within which the onset counts.
        folder: where results are kept, so that an interrupted run goes on behind them.
        tell: gets a line for each check.
    """
    section, asked = recipe.checks, recipe.evaluation
    hour, again = asked.clock_hour, asked.resamples
    checks: dict[str, tuple[bool, Check]] = {
        "time_blind": (
            section.time_blind,
            lambda study: time_blind_check(
                study, bar=section.bar, horizon=horizon, clock_hour=hour, resamples=min(100, again)
            ),
        ),
        "leave_hospital_out": (
            section.leave_hospital_out,
            lambda study: leave_hospital_out(
                study, horizon=horizon, clock_hour=hour, resamples=again
            ),
        ),
    }  # fmt: skip
    common: dict[str, Any] = {"horizon": horizon, "clock_hour": hour, "bar": section.bar}
    study: BoostedStudy | None = None
    found: dict[str, dict[str, Any]] = {}
    for name, (wanted, check) in checks.items():
        done = folder / f"{name}.json"
        if done.is_file():
            found[name] = json.loads(done.read_text())
            continue
        started = time.process_time()
        if not wanted:
            found[name] = {"performed": False, "reason": OFF}
            continue
        try:
            if study is None:
                # The nets' features have done their work; those of trees take as much memory.
                load_tables.cache_clear()
                study = BoostedStudy(parts.split, settings_of(recipe))
            rows = check(study)
        except ForetellError as error:  # one hospital, channels that are missing, nobody septic
            found[name] = {"performed": False, "reason": str(error).rstrip(".")}
        else:
            seconds = round(time.process_time() - started, 1)
            common |= {"grown_by": study.backend, "cpu_seconds": seconds}
            found[name] = {"performed": True, "rows": rows, **common}
        folder.mkdir(parents=True, exist_ok=True)
        partial = done.with_suffix(".partial")
        partial.write_text(json.dumps(found[name]))
        partial.replace(done)
        tell(f"check: {name.replace('_', ' ')}: {in_a_line(name, found[name])}")
    return found


def in_a_line(name: str, found: dict[str, Any]) -> str:
    """What a check found, for the terminal."""
    if not found["performed"]:
        return f"not made: {found['reason']}"
    if name == "time_blind":
        told = [
            f"{row['hospital']} {_shown(row['blind_auroc'])}"
            for row in found["rows"] if row["hospital"] != EVERYWHERE
        ]  # fmt: skip
        return f"AUROC without time {', '.join(told)} (wanted {found['bar']:g})"
    told = [
        f"{row['judged_at']} {_shown(row['utility'])} (clock {_shown(row['clock'])})"
        for row in found["rows"]
    ]
    return f"utility at the hospital left out {', '.join(told)}"


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
