"""Rules for acting at a precision: chosen on a hold-out, judged on rows that came later."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds import DecisionSurface, SurfaceWarning, fit_decision_surface

CHOSEN = "guaranteed"
_PLAIN, _SINGLE = "surface", "single"


class RuleSection(Protocol):
    """What a recipe says of the rules."""

    min_precision: float
    method: Literal["mist", "ew_dp", "vw_dp", "milp"]
    n_levels: int
    delta: float
    abstain: bool


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows with a score, its uncertainty and the final label, all (n,)."""

    score: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    y: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Rules:
    """What was chosen, and how it turned out.

    Args:
        surfaces: rule -> surface; :data:`CHOSEN` is the one that is kept.
        decisions: rule -> decisions (n,) on the test rows.
        record: what ``run.json`` says of it.
    """

    surfaces: dict[str, DecisionSurface]
    decisions: dict[str, NDArray[np.int8]]
    record: dict[str, Any]


def choose_rules(section: RuleSection, hold_out: Scored, test: Scored, seed: int) -> Rules:
    """A surface with a guarantee, the same without, and a single threshold on the score."""
    surfaces, notes = _surfaces(section, hold_out, seed)
    rules: dict[str, Any] = {}
    decisions = {}
    for rule, (title, surface) in surfaces.items():
        decisions[rule] = surface.predict(test.score, test.uncertainty)
        found = surface.report(test.score, test.uncertainty, test.y)
        rules[rule] = {
            "title": title,
            "method": surface.method,
            "chosen": rule == CHOSEN,
            "feasible": surface.feasible_,
            "guaranteed": surface.guarantee is not None,
            "best_precision": surface.best_precision_,
            "hold_out": asdict(surface.achieved),
            "test": {**asdict(found.surface), "abstained": found.abstained},
            "guarantee": None if surface.guarantee is None else asdict(surface.guarantee),
        }
    record = {
        "min_precision": section.min_precision,
        "delta": section.delta,
        "rows": {"hold_out": len(hold_out.y), "test": len(test.y)},
        "base_rate": {"hold_out": float(hold_out.y.mean()), "test": float(test.y.mean())},
        "rules": rules,
        "notes": [*notes, *_drift(hold_out.y, test.y)],
    }
    return Rules({k: surface for k, (_, surface) in surfaces.items()}, decisions, record)


def surface_file(rule: str) -> str:
    """Name of the file that keeps a rule's surface."""
    return "surface.json" if rule == CHOSEN else f"surface-{rule}.json"


def _surfaces(
    section: RuleSection, rows: Scored, seed: int
) -> tuple[dict[str, tuple[str, DecisionSurface]], list[str]]:
    common: dict[str, Any] = {"min_precision": section.min_precision, "random_state": seed}
    levels: dict[str, Any] = {**common, "method": section.method, "n_levels": section.n_levels}
    guarantee = {"guarantee": "ltt", "delta": section.delta, "abstain": section.abstain}
    asked = {
        CHOSEN: ("surface with guarantee", {**levels, **guarantee}),
        _PLAIN: ("surface without guarantee", levels),
        _SINGLE: ("single threshold", {**common, "method": "single"}),
    }
    surfaces, notes = {}, []
    for rule, (title, arguments) in asked.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SurfaceWarning)
            found = fit_decision_surface(rows.score, rows.uncertainty, rows.y, **arguments)
        surfaces[rule] = (title, found)
        notes += [f"{title}: {w.message}" for w in caught if w.category is SurfaceWarning]
    return surfaces, list(dict.fromkeys(notes))


def _drift(y: NDArray[Any], later: NDArray[Any]) -> list[str]:
    """A word where the test rows are plainly not what the hold-out was."""
    a, b = float(y.mean()), float(later.mean())
    error = np.sqrt(a * (1 - a) / len(y) + b * (1 - b) / len(later))
    if error > 0 and abs(a - b) > 4 * error:
        return [
            f"the share of positives was {a:.3f} in the hold-out and is {b:.3f} in the test rows: "
            "these are not exchangeable, so that the guarantee does not cover them"
        ]
    return []
