"""`fit_decision_surface`: the most recall at a precision, by score and uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.thresholds.binning import Binning, Partition
from foretell.decisions.thresholds.build import assemble, baseline, level_figures
from foretell.decisions.thresholds.candidates import NEVER, Goals
from foretell.decisions.thresholds.figures import Baseline, Guarantee
from foretell.decisions.thresholds.guarantee import Tested, learn_then_test
from foretell.decisions.thresholds.holdout import HoldOut, hold_out
from foretell.decisions.thresholds.intervals import clopper_pearson, effective_counts
from foretell.decisions.thresholds.isotonic import mist
from foretell.decisions.thresholds.milp import solve
from foretell.decisions.thresholds.planning import make_plan
from foretell.decisions.thresholds.prior_shift import class_weights
from foretell.decisions.thresholds.proposal import Method, Plan, Proposal, propose
from foretell.decisions.thresholds.side_constraints import SegmentConstraints
from foretell.decisions.thresholds.surface import DecisionSurface
from foretell.errors import ParameterError


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
    segments: ArrayLike | None = None,
    segment_precision: float | Mapping[str, float] | None = None,
    recall_parity: float | None = None,
    guarantee: Literal["ltt"] | None = None,
    delta: float = 0.1,
    n_walks: int = 5,
    split: float = 0.3,
    abstain: bool = False,
    ties: Literal["merge", "jitter"] = "merge",
    missing: Literal["error", "level"] = "error",
    target_base_rate: float | None = None,
    unlabelled: tuple[ArrayLike, ArrayLike | None] | None = None,
    confidence: float = 0.95,
    time_limit: float | None = None,
    random_state: int = 0,
) -> DecisionSurface:
    """Chooses one score threshold for each uncertainty level: most recall at a precision.

    Equal scores hide unequal reliability: at the same score the rate of positives changes with the
    uncertainty. A hold-out tells how much; the surface returned never has less than
    ``min_precision`` on it.

    Args:
        score: (n,) hold-out scores, finite, on any scale: only their order is used.
        uncertainty: (n,) larger is less certain; None for ``method="single"``.
        y: (n,) labels 0 and 1, both present.
        min_precision: target precision in (0, 1). None with ``min_recall``: the surface of greatest
            precision that has this recall.
        method: "mist": isotonic regression in every level and one global threshold, unbinned in the
            score. "vw_dp": exact over score bins of any weight. "ew_dp": exact over bins of equal
            weight (solved as "vw_dp" where ties, weights or missing values make them unequal).
            "milp": exact, with the constraints on segments. "single": one threshold on the score.
        n_levels: K uncertainty levels; 2 where the hold-out has fewer than 50 positives.
        n_bins: score bins L, at most: each (bin, level) keeps 50 rows or more. For "mist" the
            regions inside which the uncertainty is ranked.
        binning: "score_then_uncertainty" ranks the uncertainty among similar scores,
            "uncertainty_then_score" among all rows.
        sample_weight: (n,) weights.
        monotone_levels: thresholds may not fall with the uncertainty.
        min_recall: least recall.
        max_positive_rate: greatest share of the rows called positive.
        max_cost: greatest mean cost a row.
        costs: cost of a false positive and of a false negative.
        segments: (n,) segment of each row, for the two constraints that follow ("milp" only).
        segment_precision: least precision of every segment, or of some by name.
        recall_parity: greatest difference between the recalls of two segments.
        guarantee: "ltt": P(true precision >= min_precision) >= 1 - delta, see `learn_then_test`.
            The price in recall stands in ``surface.guarantee``. With another base rate it holds if
            both base rates are what they are taken for: that of the hold-out is estimated.
        delta: accepted probability that the guarantee fails.
        n_walks: starting points of the test, which share ``delta``.
        split: share of the hold-out that finds surfaces; the rest tests them.
        abstain: predict -1 where precision is in doubt. Without guarantee: in levels whose
            Clopper-Pearson interval straddles the target, below the scores down to which it lies
            above; levels surely below the target are not called there. With guarantee: between
            the guaranteed surface and the one without guarantee.
        ties: for "ew_dp": "merge" keeps tied rows in one bin, "jitter" splits them over bins for
            the programme; deployed thresholds take a tie whole, and are judged as deployed.
        missing: NaN uncertainties are an "error" or get a "level" of their own.
        target_base_rate: base rate where the surface will be used, if it differs.
        unlabelled: scores and uncertainties from there, to estimate that base rate.
        confidence: of the intervals.
        time_limit: seconds for "milp".
        random_state: seed of the jitter and the split.

    Returns:
        The surface. Where none meets the goals it calls nothing positive, ``feasible_`` is False
        and ``best_precision_`` tells what is attainable.

    Raises:
        DataError: a column that cannot be used; one class only.
        ParameterError: an option outside its range, or two that contradict each other.
    """
    goals = Goals(min_precision, min_recall, max_positive_rate, max_cost, costs)
    goals.check()
    rows = hold_out(score, uncertainty, y, sample_weight, segments, missing)
    plan, notes = make_plan(
        rows, method, n_levels, n_bins, binning, ties, monotone_levels, missing, random_state
    )
    _check_options(rows, plan, goals, guarantee, delta, n_walks, split, confidence, abstain)
    side = SegmentConstraints(segment_precision, recall_parity)
    side.check(rows, plan.method)
    total = float(rows.weight.sum())
    base_rate = rows.positives / total
    target = _target(rows, plan, base_rate, target_base_rate, unlabelled)
    if target is not None:
        goals = replace(goals, class_weights=class_weights(base_rate, target))
    found = _Found(plan, goals, rows, notes, confidence, (base_rate, target or base_rate))
    if guarantee is not None:
        if target is not None:
            found.notes += (
                "the guarantee takes both base rates as known, and only them to have changed",
            )
        return _guaranteed(
            found, learn_then_test(rows, plan, goals, delta, n_walks, split, random_state), abstain
        )
    proposal = propose(rows, plan)
    found.notes += proposal.notes
    family = proposal.candidates
    thresholds = None
    if plan.method == "milp" and proposal.table is not None:
        ordered = proposal.partition.n_levels - proposal.partition.missing
        index, more = solve(
            proposal.table,
            rows,
            proposal.level,
            goals,
            side,
            ordered if monotone_levels else None,
            time_limit,
        )
        found.notes += more
        if index is not None:
            thresholds = proposal.table.cuts[np.arange(len(index)), index]
        family = mist(proposal.blocks)  # tells what precision is attainable
    else:
        at = goals.choose(family, rows.positives, total)
        if at is not None:
            thresholds = family.thresholds(np.array([at]))[0]
    best = float(np.max(goals.shifted(family.tp / family.n), initial=0.0))
    if thresholds is not None:
        thresholds[[len(s) == 0 for s in proposal.curves.scores]] = NEVER
    floors = None
    if abstain and thresholds is not None:
        thresholds, floors = _abstaining(proposal, thresholds, goals, confidence)
        if not np.isfinite(thresholds).any():
            found.notes += ("no call is surely precise enough: all are left to somebody else",)
    return found.surface(
        proposal.partition, thresholds, floors, rows, best, baseline(rows, goals, confidence)
    )


@dataclass
class _Found:
    """What does not depend on how the thresholds were found."""

    plan: Plan
    goals: Goals
    rows: HoldOut
    notes: tuple[str, ...]
    confidence: float
    base_rates: tuple[float, float]

    def surface(
        self,
        cells: Partition,
        thresholds: NDArray[np.float64] | None,
        floors: NDArray[np.float64] | None,
        judged: HoldOut,
        best: float,
        reference: Baseline,
        guarantee: Guarantee | None = None,
    ) -> DecisionSurface:
        if thresholds is None:
            thresholds = np.full(cells.n_levels, NEVER)
            self.notes += ("no surface meets the goals: nothing is called positive",)
        return assemble(
            method=self.plan.method,
            binning=self.plan.binning,
            partition=cells,
            thresholds=thresholds,
            floors=floors,
            rows=self.rows,
            judged=judged,
            goals=self.goals,
            best_precision=best,
            reference=reference,
            guarantee=guarantee,
            base_rates=self.base_rates,
            confidence=self.confidence,
            notes=self.notes,
        )


def _guaranteed(found: _Found, tested: Tested, abstain: bool) -> DecisionSurface:
    found.notes += tested.proposal.notes
    thresholds, floors = tested.thresholds, None
    if abstain and tested.plain is not None:
        above = np.full(len(tested.plain), NEVER) if thresholds is None else thresholds
        floors = np.minimum(above, tested.plain)
    reference = baseline(tested.selection, found.goals, found.confidence, tested.test)
    return found.surface(
        tested.proposal.partition,
        thresholds,
        floors,
        tested.test,
        tested.best_precision,
        reference,
        tested.figures,
    )


def _abstaining(
    proposal: Proposal, thresholds: NDArray[np.float64], goals: Goals, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds above which each level is surely precise enough; floors where doubt begins.

    In a level whose interval straddles the target only the top of its scores is called, down to
    where the interval of all rows above still lies above the target; the rest is left to somebody
    else, or not called where the level is surely below the target. What is called has the target
    precision in every level, so it has it altogether.
    """
    curves, blocks = proposal.curves, proposal.blocks
    figures = level_figures(curves, thresholds, goals, confidence)
    target = float(goals.min_precision or 0.0)
    sure, floors = np.full(len(thresholds), NEVER), thresholds.copy()
    for k, threshold in enumerate(thresholds):
        cuts = np.append(blocks.start[k][blocks.start[k] > threshold], threshold)
        first = curves.at(k, cuts)
        low, _ = clopper_pearson(
            *effective_counts(
                curves.hits[k][first], curves.mass[k][first], curves.squares[k][first]
            ),
            confidence,
        )
        enough = np.flatnonzero(goals.shifted(low) >= target)
        if len(enough) and threshold < NEVER:
            sure[k] = cuts[enough].min()
        if figures["precision_high"][k] < target:
            floors[k] = sure[k]
    return sure, floors


def _target(
    rows: HoldOut,
    plan: Plan,
    base_rate: float,
    given: float | None,
    unlabelled: tuple[ArrayLike, ArrayLike | None] | None,
) -> float | None:
    """The base rate to shift to, given or estimated from rows without labels."""
    if unlabelled is None:
        if given is not None:
            class_weights(base_rate, given)  # checks it
        return given
    if given is not None:
        raise ParameterError("give target_base_rate or unlabelled, not both")
    score, uncertainty = unlabelled
    calibrating = replace(plan, method="mist") if plan.method != "single" else plan
    proposal = propose(rows, calibrating)
    plain = Goals(0.5)
    surface = assemble(
        method=calibrating.method,
        binning=plan.binning,
        partition=proposal.partition,
        thresholds=np.full(proposal.partition.n_levels, NEVER),
        floors=None,
        rows=rows,
        judged=rows,
        goals=plain,
        best_precision=float("nan"),
        reference=baseline(rows, plain, 0.95),
        guarantee=None,
        base_rates=(base_rate, base_rate),
        confidence=0.95,
        notes=(),
    )
    return surface.estimate_base_rate(score, uncertainty)


def _check_options(
    rows: HoldOut,
    plan: Plan,
    goals: Goals,
    guarantee: str | None,
    delta: float,
    n_walks: int,
    split: float,
    confidence: float,
    abstain: bool,
) -> None:
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence={confidence!r}: must lie between 0 and 1")
    if abstain and goals.min_precision is None:
        raise ParameterError("abstain=True needs min_precision")
    if plan.method == "milp" and goals.min_precision is None:
        raise ParameterError('method="milp" needs min_precision')
    if guarantee is None:
        return
    if guarantee != "ltt":
        raise ParameterError(f'guarantee={guarantee!r}: choose None or "ltt"')
    if goals.min_precision is None:
        raise ParameterError('guarantee="ltt" needs min_precision')
    if rows.weighted:
        raise ParameterError(
            'guarantee="ltt" is exact for unweighted rows only: drop sample_weight'
        )
    if plan.method == "milp":
        raise ParameterError('guarantee="ltt" needs a family of surfaces: use "mist" or "vw_dp"')
    if not 0 < delta < 1:
        raise ParameterError(f"delta={delta!r}: must lie between 0 and 1")
    if not 0 < split < 1:
        raise ParameterError(f"split={split!r}: must lie between 0 and 1")
    if int(n_walks) != n_walks or n_walks < 1:
        raise ParameterError(f"n_walks={n_walks!r}: must be a whole number of at least 1")
