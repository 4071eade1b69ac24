"""`fit_decision_surface`: the most recall at a precision, by score and uncertainty."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from foretell.decisions.thresholds.binning import BINNINGS, Binning
from foretell.decisions.thresholds.build import assemble, baseline
from foretell.decisions.thresholds.candidates import NEVER, Goals
from foretell.decisions.thresholds.holdout import HoldOut, hold_out
from foretell.decisions.thresholds.proposal import DEFAULT_BINS, METHODS, Method, Plan, propose
from foretell.decisions.thresholds.surface import DecisionSurface
from foretell.errors import ParameterError

FEW_POSITIVES = 50


class SurfaceWarning(UserWarning):
    """A hold-out that supports less than was asked for: fewer levels, no uncertainty, no target."""


def fit_decision_surface(
    score: ArrayLike,
    uncertainty: ArrayLike | None,
    y: ArrayLike,
    *,
    min_precision: float | None,
    method: Method = "mist",
    n_levels: int = 4,
    n_bins: int | None = None,
    binning: Binning = "score_then_uncertainty",
    sample_weight: ArrayLike | None = None,
    monotone_levels: bool = False,
    min_recall: float | None = None,
    max_positive_rate: float | None = None,
    max_cost: float | None = None,
    costs: tuple[float, float] = (1.0, 0.0),
    ties: Literal["merge", "jitter"] = "merge",
    missing: Literal["error", "level"] = "error",
    confidence: float = 0.95,
    random_state: int = 0,
) -> DecisionSurface:
    """Chooses one score threshold for each uncertainty level on a hold-out."""
    goals = Goals(min_precision, min_recall, max_positive_rate, max_cost, costs)
    goals.check()
    rows = hold_out(score, uncertainty, y, sample_weight, missing=missing)
    plan, notes = make_plan(
        rows, method, n_levels, n_bins, binning, ties, monotone_levels, missing, random_state
    )
    proposal = propose(rows, plan)
    family = proposal.candidates
    total = float(rows.weight.sum())
    at = goals.choose(family, rows.positives, total)
    thresholds = np.full(proposal.partition.n_levels, NEVER)
    if at is not None:
        thresholds = family.thresholds(np.array([at]))[0]
        empty = [len(s) == 0 for s in proposal.curves.scores]
        thresholds[np.array(empty)] = NEVER
    best = float(goals.shifted(np.max(family.tp / family.n))) if len(family) else float("nan")
    return assemble(
        method=plan.method,
        binning=plan.binning,
        partition=proposal.partition,
        thresholds=thresholds,
        floors=None,
        rows=rows,
        judged=rows,
        goals=goals,
        best_precision=best,
        reference=baseline(rows, goals, confidence),
        guarantee=None,
        base_rates=None,
        confidence=confidence,
        notes=(*notes, *proposal.notes),
    )


def make_plan(
    rows: HoldOut,
    method: str,
    n_levels: int,
    n_bins: int | None,
    binning: str,
    ties: str,
    monotone_levels: bool,
    missing: str,
    random_state: int,
) -> tuple[Plan, tuple[str, ...]]:
    """Checks how a surface is to be sought and fits it to what the hold-out supports.

    Raises:
        ParameterError: an unknown method, binning or treatment of ties, or numbers out of range.
    """
    for name, value, known in (
        ("method", method, METHODS),
        ("binning", binning, BINNINGS),
        ("ties", ties, ("merge", "jitter")),
    ):
        if value not in known:
            raise ParameterError(f"{name}={value!r}: choose one of {', '.join(known)}")
    if isinstance(n_levels, bool) or int(n_levels) != n_levels or n_levels < 1:
        raise ParameterError(f"n_levels={n_levels!r}: must be a whole number of at least 1")
    if n_bins is not None and (int(n_bins) != n_bins or n_bins < 1):
        raise ParameterError(f"n_bins={n_bins!r}: must be a whole number of at least 1")
    notes: list[str] = []

    def warn(text: str) -> None:
        notes.append(text)
        warnings.warn(text, SurfaceWarning, stacklevel=4)

    known_u = rows.uncertainty[~np.isnan(rows.uncertainty)]
    nan = len(known_u) < len(rows)
    if method != "single" and not nan and (len(known_u) == 0 or np.ptp(known_u) == 0):
        warn("the uncertainty is constant: fell back to a single threshold on the score")
        method = "single"
    positives = int(rows.label.sum())
    if method != "single" and positives < FEW_POSITIVES and n_levels > 2:
        warn(
            f"the hold-out has {positives} positives, fewer than {FEW_POSITIVES}: used 2 "
            f"uncertainty levels instead of {n_levels}"
        )
        n_levels = 2
    plan = Plan(
        method=method,  # type: ignore[arg-type]
        n_levels=int(n_levels),
        n_bins=DEFAULT_BINS[method] if n_bins is None else int(n_bins),
        binning=binning,  # type: ignore[arg-type]
        ties=ties,  # type: ignore[arg-type]
        monotone_levels=monotone_levels,
        missing=missing == "level",
        seed=random_state,
    )
    return plan, tuple(notes)
