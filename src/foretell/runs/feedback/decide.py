"""A decision on corrected scores: members that disagree, a surface, and what it then achieves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.events import EventLog
from foretell.decisions.thresholds import DecisionSurface
from foretell.errors import DataError
from foretell.runs.feedback.jobs import require_final, rows_of, train
from foretell.runs.feedback.recipe import DecisionSection, Recipe
from foretell.runs.rules import Scored, choose_rules
from foretell.runs.threads import limited_threads


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
    rules = choose_rules(
        section, Scored(score, spread, y), Scored(later_score, later_spread, later_y),
        recipe.seeds[0],
    )  # fmt: skip
    columns: dict[str, Any] = {
        "id": log.ids[test],
        "time": log.times[test],
        "score": later_score,
        "uncertainty": later_spread,
        "y": later_y,
        **rules.decisions,
    }
    record = {"model": name, "members": section.members, **rules.record}
    record["notes"] = [*record["notes"], *_cautions(log, section)]
    return Decision(members, rules.surfaces, record, pl.DataFrame(columns))


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
