"""Learn-then-test: a surface whose precision holds on fresh data with probability 1 - delta.

Choosing the loosest surface that reaches a precision on the hold-out is optimistic. Here a family
of surfaces, from strict to loose, is fitted on one part of the hold-out; on the other part the
hypothesis "precision below the target" is tested for one surface after the other with the exact
binomial tail (fixed-sequence testing: Angelopoulos et al., Learn then Test, 2021, sec. 3).
Several walks start at coverages fixed beforehand, share delta between them, and each stops at its
first failure; a walk that reaches the start of the next hands its share over (the fallback
procedure: Wiens, Pharmaceutical Statistics 2003), which is never weaker than walks of their own.
The loosest surface of all walks is returned. A surface below the target is returned with
probability at most delta if rows are exchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds.candidates import Candidates, Goals, LevelCurves
from foretell.decisions.thresholds.figures import Guarantee
from foretell.decisions.thresholds.holdout import HoldOut
from foretell.decisions.thresholds.intervals import binomial_tail
from foretell.decisions.thresholds.proposal import Plan, Proposal, propose

STEP = 0.02
"""Size of a step of the refined family, as a share of what the plain surface calls."""


@dataclass(frozen=True, eq=False)
class Tested:
    """What the test found.

    Args:
        proposal: the family, fitted on the first part.
        thresholds: (K,) of the surface, or None where none passed.
        plain: (K,) of the surface that would be chosen without a guarantee, or None.
        test: the second part.
        selection: the first part.
        best_precision: the greatest precision of any candidate, on the first part.
        figures: the guarantee.
    """

    proposal: Proposal
    thresholds: NDArray[np.float64] | None
    plain: NDArray[np.float64] | None
    test: HoldOut
    selection: HoldOut
    best_precision: float
    figures: Guarantee


def hull(family: Candidates) -> Candidates:
    """The concave hull of true positives over weight called: fewer, steadier steps to test."""
    order = np.lexsort((-family.tp, family.n))
    kept: list[int] = []
    for i in order:
        if kept and family.n[i] == family.n[kept[-1]]:
            continue
        while kept:
            b = kept[-1]
            n0, t0 = (family.n[kept[-2]], family.tp[kept[-2]]) if len(kept) > 1 else (0.0, 0.0)
            rise = (family.tp[b] - t0) * (family.n[i] - n0)
            if rise > (family.tp[i] - t0) * (family.n[b] - n0):
                break
            kept.pop()
        kept.append(int(i))
    return family.select(np.array(kept, np.int64))


def refined(family: Candidates, curves: LevelCurves, step: float) -> Candidates:
    """A nested family with smaller steps: each is cut at distinct scores, highest scores first.

    A block of the isotonic regression is only as large as the noise of the first part makes it;
    inside it, too, higher scores are the better ones. Smaller steps let a walk end closer to where
    precision gives out.

    Args:
        family: nested surfaces, each loosening one or more levels.
        curves: the rows that the family was fitted on.
        step: weight that a step should have at least.
    """
    levels = len(family.cuts)
    cuts = []
    for scores in curves.scores:
        cuts.append(np.concatenate([[np.inf], np.unique(scores)[::-1]]))
    mass = [curves.counts(k, cuts[k])[1] for k in range(levels)]
    thresholds = family.thresholds()
    # position of each threshold among the distinct scores of its level
    ends = np.column_stack([np.searchsorted(-cuts[k], -thresholds[:, k]) for k in range(levels)])
    vectors: list[NDArray[np.int64]] = []
    before = np.zeros(levels, np.int64)
    for end in ends:
        for k in range(levels):
            first = mass[k][before[k]]
            wanted = np.arange(first + step, mass[k][end[k]] - step / 2, step)
            inner = np.unique(np.searchsorted(mass[k], wanted))
            for position in inner[(inner > before[k]) & (inner < end[k])]:
                before[k] = position
                vectors.append(before.copy())
            before[k] = end[k]
        vectors.append(before.copy())
    index = np.stack(vectors)
    tp, n = curves.totals(np.column_stack([cuts[k][index[:, k]] for k in range(levels)]))
    kept = np.flatnonzero(n > 0)
    return Candidates(tuple(cuts), index[kept], tp[kept], n[kept])


def walk(p_values: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[int | None, int]:
    """The loosest hypothesis that any walk rejects, and how many were tested.

    Args:
        p_values: (F,) strict surfaces first.
        shares: (F,) level that starts at each: above 0 where a walk begins, delta in total.
    """
    loosest: int | None = None
    tested = 0
    level = 0.0
    for i, (p, share) in enumerate(zip(p_values.tolist(), shares.tolist(), strict=True)):
        level += share
        if level == 0.0:
            continue
        tested += 1
        if p <= level:
            loosest = i
        else:
            level = 0.0
    return loosest, tested


def start_coverages(walks: int) -> NDArray[np.float64]:
    """Where walks begin: shares of what the plain surface calls on the first part, (J,)."""
    return np.geomspace(0.12, 0.75, walks) if walks > 1 else np.array([0.3])


def start_levels(walks: int) -> NDArray[np.float64]:
    """Shares of delta, (J,): most for the walk in the middle, which succeeds most often."""
    weight = 0.5 ** np.abs(np.arange(walks) - (walks - 1) / 2)
    return weight / weight.sum()


def learn_then_test(
    rows: HoldOut, plan: Plan, goals: Goals, delta: float, walks: int, split: float, seed: int
) -> Tested:
    """Fits a family on a random part of the rows and tests it on the rest.

    Args:
        rows: the hold-out, unweighted.
        plan: how the family is found.
        goals: target precision and other goals; these others are met on the first part.
        delta: greatest probability of a surface below the target.
        walks: J starting points.
        split: share of the first part.
        seed: of the split.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    size = min(max(round(split * len(rows)), 1), len(rows) - 1)
    selection, test = rows.select(np.sort(order[:size])), rows.select(np.sort(order[size:]))
    proposal = propose(selection, plan)
    fine = (plan.method == "mist" and not plan.monotone_levels) or (
        plan.method == "single" and not plan.missing
    )
    family = proposal.candidates if plan.method == "mist" else hull(proposal.candidates)
    total = float(len(selection))
    allowed = Goals(
        goals.min_precision,
        None,
        goals.max_positive_rate,
        goals.max_cost,
        goals.costs,
        goals.class_weights,
    )
    positives = selection.positives
    best = float(np.max(goals.shifted(family.tp / family.n), initial=0.0))
    at = goals.choose(family, positives, total)
    reach = family.n[at] if at is not None else family.n[0] if len(family) else 0.0
    if len(family) and fine:
        family = refined(family, proposal.curves, max(STEP * reach, 1.0))
    family = family.select(
        np.flatnonzero(allowed.met(family.tp, family.n, positives, total, precision=False))
    )
    thresholds = family.thresholds() if len(family) else np.empty((0, proposal.partition.n_levels))
    thresholds[:, [len(s) == 0 for s in proposal.curves.scores]] = np.inf
    level = proposal.partition.locate(test.score, test.uncertainty)[1]
    curves = LevelCurves.of(test.score, test.label, test.weight, level, proposal.partition.n_levels)
    tp, n = curves.totals(thresholds)
    p_values = binomial_tail(tp, n, goals.raw_precision)
    p_values[n == 0] = 1.0
    shares = np.zeros(len(family))
    if len(family):
        starts = np.searchsorted(family.n, start_coverages(walks) * reach)
        np.add.at(shares, np.minimum(starts, len(family) - 1), delta * start_levels(walks))
    found, tested = walk(p_values, shares)
    if found is not None and goals.min_recall is not None:
        found = found if tp[found] >= goals.min_recall * test.positives else None
    plain = goals.choose(family, positives, total)
    plain_tp, plain_n = (tp[plain], n[plain]) if plain is not None else (0.0, 0.0)
    reached = tp[found] if found is not None else 0.0
    figures = Guarantee(
        delta=delta,
        walks=walks,
        tested=tested,
        family=len(family),
        selection_rows=len(selection),
        test_rows=len(test),
        p_value=float(p_values[found]) if found is not None else 1.0,
        plain_recall=float(plain_tp / test.positives) if test.positives else float("nan"),
        plain_precision=float(goals.shifted(np.array(plain_tp / plain_n)))
        if plain_n
        else float("nan"),
        price=float(reached / plain_tp) if plain_tp else float("nan"),
    )
    return Tested(
        proposal,
        thresholds[found] if found is not None else None,
        thresholds[plain] if plain is not None else None,
        test,
        selection,
        best,
        figures,
    )
