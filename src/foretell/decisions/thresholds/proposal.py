"""What each method proposes on some rows: levels and a family of threshold vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds.binning import (
    MINIMUM_CELL,
    Binning,
    Partition,
    partition,
)
from foretell.decisions.thresholds.candidates import Candidates, LevelCurves
from foretell.decisions.thresholds.dynamic_programming import (
    BinTable,
    bin_table,
    equal_bins,
    equal_weight,
    variable_weight,
)
from foretell.decisions.thresholds.holdout import HoldOut
from foretell.decisions.thresholds.isotonic import (
    IsotonicLevels,
    mist,
    monotone_mist,
    single_threshold,
)

Method = Literal["mist", "ew_dp", "vw_dp", "milp", "single"]
METHODS = ("mist", "ew_dp", "vw_dp", "milp", "single")
DEFAULT_BINS = {"mist": 40, "ew_dp": 500, "vw_dp": 500, "milp": 100, "single": 1}
MILP_CELLS = 2000


@dataclass(frozen=True)
class Plan:
    """How threshold vectors are sought, apart from the rows and the goals.

    Args:
        method: the method.
        n_levels: uncertainty levels K.
        n_bins: score bins L (regions in which quantiles are taken, for "mist").
        binning: order of the binning.
        ties: "merge" or "jitter".
        monotone_levels: whether thresholds may not fall with the uncertainty.
        missing: whether NaN uncertainties have a level.
        seed: of the jitter.
        minimum: rows wanted in each (score bin, level).
    """

    method: Method
    n_levels: int
    n_bins: int
    binning: Binning
    ties: Literal["merge", "jitter"] = "merge"
    monotone_levels: bool = False
    missing: bool = False
    seed: int = 0
    minimum: int = MINIMUM_CELL


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a method proposes on some rows.

    Args:
        partition: the levels.
        level: (n,) level of each row.
        curves: the rows sorted level by level.
        blocks: isotonic regression of each level.
        candidates: threshold vectors, strict ones first (for "milp" none: see ``table``).
        table: the score bins, for the dynamic programmes and "milp".
        notes: what was changed on the way.
    """

    partition: Partition
    level: NDArray[np.int32]
    curves: LevelCurves
    blocks: IsotonicLevels
    candidates: Candidates
    table: BinTable | None = None
    notes: tuple[str, ...] = ()


def propose(rows: HoldOut, plan: Plan) -> Proposal:
    """The family of surfaces that a method finds on some rows."""
    if plan.method == "single":
        cells = Partition(np.empty(0), np.empty((1, 0)))
        level = np.zeros(len(rows), np.int32)
        curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, 1)
        blocks = IsotonicLevels.of(curves)
        family = single_threshold(curves)
        if plan.missing:  # the same threshold, whether the uncertainty is known or not
            cells = Partition(np.empty(0), np.empty((1, 0)), True)
            level = np.isnan(rows.uncertainty).astype(np.int32)
            curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, 2)
            blocks = IsotonicLevels.of(curves)
            twice = np.repeat(family.index, 2, axis=1)
            family = Candidates((family.cuts[0],) * 2, twice, family.tp, family.n)
        return Proposal(cells, level, curves, blocks, family)
    n_levels = max(1, min(plan.n_levels, len(rows) // plan.minimum))
    notes: tuple[str, ...] = ()
    if n_levels < plan.n_levels:
        notes = (
            f"{n_levels} uncertainty levels instead of {plan.n_levels}: each needs "
            f"{plan.minimum} rows and there are {len(rows)}",
        )
    step = None
    n_bins = plan.n_bins
    if plan.method == "ew_dp":
        n_bins = max(1, min(n_bins, len(rows) // (n_levels * plan.minimum)))
        step = len(rows) // (n_levels * n_bins)
    if plan.method == "milp":
        n_bins = max(1, min(n_bins, MILP_CELLS // n_levels))
    shape: dict[str, Any] = {
        "n_levels": n_levels,
        "n_bins": n_bins,
        "binning": plan.binning,
        "minimum": plan.minimum,
        "step": step,
        "missing": plan.missing,
    }
    if plan.method == "ew_dp" and plan.ties == "jitter":
        return _jittered(rows, plan, shape)
    cells = partition(rows.score, rows.uncertainty, rows.weight, **shape)
    level = cells.locate(rows.score, rows.uncertainty)[1]
    curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, cells.n_levels)
    blocks = IsotonicLevels.of(curves)
    ordered = cells.n_levels - cells.missing
    if plan.method == "mist":
        if plan.monotone_levels and ordered > 1:
            family = monotone_mist(blocks, curves, ordered)
        else:
            family = mist(blocks)
        return Proposal(cells, level, curves, blocks, family, notes=notes)
    table = bin_table(rows, level, cells, curves, n_bins, plan.binning, plan.minimum, step)
    if plan.method == "milp":
        nothing = Candidates(
            tuple(table.cuts), np.empty((0, len(table.cuts)), int), *np.empty((2, 0))
        )
        return Proposal(cells, level, curves, blocks, nothing, table, notes)
    if plan.method == "ew_dp" and not plan.monotone_levels and equal_bins(table):
        return Proposal(cells, level, curves, blocks, equal_weight(table), table, notes)
    if plan.method == "ew_dp":
        why = (
            "monotone levels need the boundaries' scores"
            if plan.monotone_levels
            else "weights or ties make the bins unequal"
        )
        notes += (f"solved as vw_dp: {why}",)
    family = variable_weight(table, ordered if plan.monotone_levels else None)
    return Proposal(cells, level, curves, blocks, family, table, notes)


def _split_ties(
    values: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks with ties broken at random (NaN stays NaN), and the values by rank."""
    order = np.lexsort((generator.random(len(values)), values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values))
    return np.where(np.isnan(values), np.nan, ranks), values[order]


def _jittered(rows: HoldOut, plan: Plan, shape: dict[str, Any]) -> Proposal:
    """EW-DPMT on bins that ties are split over by seeded jitter.

    The programme counts with the split bins, which all weigh the same; a deployed threshold cannot
    split a tie, so every boundary it proposes is counted again as it would be deployed.
    """
    generator = np.random.default_rng(plan.seed)
    score, by_score = _split_ties(rows.score, generator)
    doubt, by_doubt = _split_ties(rows.uncertainty, generator)

    def raw(ranks: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        known = np.isfinite(ranks)
        return np.where(known, values[np.where(known, ranks, 0).astype(np.int64)], ranks)

    split = partition(score, doubt, rows.weight, **shape)
    split_level = split.locate(score, doubt)[1]
    ranked = replace(rows, score=score, uncertainty=doubt)
    split_curves = LevelCurves.of(score, rows.label, rows.weight, split_level, split.n_levels)
    counted = bin_table(
        ranked, split_level, split, split_curves, shape["n_bins"], plan.binning, plan.minimum,
        shape["step"],
    )  # fmt: skip
    cells = Partition(
        raw(split.score_edges, by_score), raw(split.level_edges, by_doubt), split.missing
    )
    level = cells.locate(rows.score, rows.uncertainty)[1]
    curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, cells.n_levels)
    cuts = raw(counted.cuts, by_score)
    counts = [curves.counts(k, cuts[k]) for k in range(len(cuts))]
    table = BinTable(cuts, np.stack([tp for tp, _ in counts]), np.stack([n for _, n in counts]))
    blocks = IsotonicLevels.of(curves)
    if plan.monotone_levels or not equal_bins(counted):
        family = variable_weight(
            table, cells.n_levels - cells.missing if plan.monotone_levels else None
        )
        notes = ("solved as vw_dp: weights or missing uncertainties make the bins unequal",)
        return Proposal(cells, level, curves, blocks, family, table, notes)
    family = equal_weight(table, counted.hits)
    return Proposal(cells, level, curves, blocks, family, table)
