"""A decision on corrected scores: members that disagree, a surface, and what it then achieves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.events import EventLog
from foretell.decisions.thresholds import DecisionSurface, SurfaceWarning, fit_decision_surface
from foretell.errors import DataError
from foretell.runs.feedback.jobs import require_final, rows_of, train
from foretell.runs.feedback.recipe import DecisionSection, Recipe
from foretell.runs.threads import limited_threads

CHOSEN = "guaranteed"


@dataclass(frozen=True, eq=False)
class Members:
    """Models of one kind, each trained on another random part of the rows.

    Their mean is the score, their standard deviation the uncertainty.
    """

    models: tuple[Any, ...]

    def __call__(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores (n,) and uncertainties (n,) of features (n, d) or the entities of a log."""
        p = np.stack([model.predict_proba(X)[:, 1] for model in self.models])
        return p.mean(axis=0), p.std(axis=0)


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided, and how it turned out.

    Args:
        members: the models that score.
        surfaces: rule -> surface, the one that is kept among them.
        record: what ``run.json`` says of it.
        table: one row a test row: ``id, time, score, uncertainty, y`` and each rule's decision.
    """

    members: Members
    surfaces: dict[str, DecisionSurface]
    record: dict[str, Any]
    table: pl.DataFrame


def decide(recipe: Recipe, section: DecisionSection, log: EventLog, name: str) -> Decision:
    """Trains the members, chooses surfaces on the hold-out and judges them on later rows.

    Args:
        recipe: the run's recipe.
        section: its decision.
        log: the complete log.
        name: the model whose corrected scores are decided on.

    Raises:
        DataError: a range is empty, or labels in it are not final when they must be.
    """
    snapshot = recipe.snapshots[section.snapshot or next(reversed(recipe.snapshots))]
    known = log.until(log.moment(section.known))
    hold = rows_of(known, section.hold_out, "decision.hold_out")
    require_final(known, hold, "decision.hold_out")
    test = rows_of(log, section.test, "decision.test")
    require_final(log, test, "decision.test")
    _check_order(log, snapshot.now, section)
    members = _members(recipe, section, log, name)
    with limited_threads(recipe.threads):
        score, spread = members(known.select(hold))
        later_score, later_spread = members(log.select(test))
    y, later_y = known.label()[hold], log.label()[test]
    surfaces, notes = _surfaces(section, score, spread, y, recipe.seeds[0])
    rules: dict[str, Any] = {}
    columns: dict[str, Any] = {
        "id": log.ids[test],
        "time": log.times[test],
        "score": later_score,
        "uncertainty": later_spread,
        "y": later_y,
    }
    for rule, (title, surface) in surfaces.items():
        decided = surface.predict(later_score, later_spread)
        columns[rule] = decided
        rules[rule] = _rule(title, surface, rule == CHOSEN, later_score, later_spread, later_y)
        rules[rule]["test"]["abstained"] = int((decided == -1).sum())
    record = {
        "model": name,
        "min_precision": section.min_precision,
        "delta": section.delta,
        "members": section.members,
        "rows": {"hold_out": len(hold), "test": len(test)},
        "base_rate": {"hold_out": float(y.mean()), "test": float(later_y.mean())},
        "rules": rules,
        "notes": [*notes, *_drift(y, later_y), *_cautions(log, section)],
    }
    return Decision(
        members, {k: surface for k, (_, surface) in surfaces.items()}, record, pl.DataFrame(columns)
    )


def _members(recipe: Recipe, section: DecisionSection, log: EventLog, name: str) -> Members:
    """Models trained on random parts of what is visible at the snapshot's moment."""
    snapshot = recipe.snapshots[section.snapshot or next(reversed(recipe.snapshots))]
    whole = log.until(log.moment(snapshot.now))
    models = []
    with limited_threads(recipe.threads):
        for i in range(section.members):
            rng = np.random.default_rng([recipe.seeds[0], i])
            kept = np.flatnonzero(rng.random(len(whole)) < section.share)
            models.append(train(recipe, name, snapshot, whole.select(kept), recipe.seeds[0] + i))
    return Members(tuple(models))


def _surfaces(
    section: DecisionSection,
    score: NDArray[np.float64],
    spread: NDArray[np.float64],
    y: NDArray[np.int8],
    seed: int,
) -> tuple[dict[str, tuple[str, DecisionSurface]], list[str]]:
    """The rule that is kept, the same without guarantee, and a single threshold."""
    common: dict[str, Any] = {"min_precision": section.min_precision, "random_state": seed}
    levels: dict[str, Any] = {**common, "method": section.method, "n_levels": section.n_levels}
    asked = {
        CHOSEN: (
            "surface with guarantee",
            {**levels, "guarantee": "ltt", "delta": section.delta, "abstain": section.abstain},
        ),
        "surface": ("surface without guarantee", levels),
        "single": ("single threshold", {**common, "method": "single"}),
    }
    surfaces, notes = {}, []
    for rule, (title, arguments) in asked.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SurfaceWarning)
            surfaces[rule] = (title, fit_decision_surface(score, spread, y, **arguments))
        notes += [f"{title}: {w.message}" for w in caught if w.category is SurfaceWarning]
    return surfaces, list(dict.fromkeys(notes))


def _rule(
    title: str,
    surface: DecisionSurface,
    chosen: bool,
    score: NDArray[np.float64],
    spread: NDArray[np.float64],
    y: NDArray[np.int8],
) -> dict[str, Any]:
    return {
        "title": title,
        "method": surface.method,
        "chosen": chosen,
        "feasible": surface.feasible_,
        "guaranteed": surface.guarantee is not None,
        "best_precision": surface.best_precision_,
        "hold_out": asdict(surface.achieved),
        "test": asdict(surface.report(score, spread, y).surface),
        "guarantee": None if surface.guarantee is None else asdict(surface.guarantee),
    }


def _drift(y: NDArray[np.int8], later: NDArray[np.int8]) -> list[str]:
    """A word where the later rows are plainly not what the hold-out was."""
    a, b = float(y.mean()), float(later.mean())
    error = np.sqrt(a * (1 - a) / len(y) + b * (1 - b) / len(later))
    if error > 0 and abs(a - b) > 4 * error:
        return [
            f"the share of positives was {a:.3f} in the hold-out and is {b:.3f} in the test rows: "
            "these are not exchangeable, so that the guarantee does not cover them"
        ]
    return []


def _cautions(log: EventLog, section: DecisionSection) -> list[str]:
    """What a reader of the test's figures must know."""
    if log.moment(section.test[0]) >= log.moment(section.known):
        return []
    return [
        "the test rows came before the hold-out's labels were final: this is what the rule would "
        "have achieved on them, not what it could have been used for"
    ]


def _check_order(log: EventLog, now: Any, section: DecisionSection) -> None:
    """The hold-out must not be what the members learned from, nor the test what chose the rule."""
    moments: Mapping[str, float] = {
        "the snapshot's now": log.moment(now),
        "the end of decision.hold_out": log.moment(section.hold_out[1]),
        "decision.known": log.moment(section.known),
    }
    if log.moment(section.hold_out[0]) < moments["the snapshot's now"]:
        raise DataError(
            "decision.hold_out begins before the snapshot's now, so that the models have seen its "
            "rows",
            hint=f"Begin it at {now} or later",
        )
    if log.moment(section.test[0]) < moments["the end of decision.hold_out"]:
        raise DataError(
            "decision.test begins before decision.hold_out ends",
            hint="A rule is judged on rows that did not choose it",
        )
