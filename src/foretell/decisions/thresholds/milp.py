"""The boundary as a mixed-integer linear programme: any weights, side constraints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from foretell.decisions.thresholds.candidates import TOLERANCE, Goals, LevelCurves
from foretell.decisions.thresholds.dynamic_programming import BinTable
from foretell.decisions.thresholds.holdout import HoldOut
from foretell.decisions.thresholds.side_constraints import SegmentConstraints
from foretell.errors import ParameterError

MARGINS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4)


def solve(
    table: BinTable,
    rows: HoldOut,
    level: NDArray[np.int32],
    goals: Goals,
    segments: SegmentConstraints | None = None,
    ordered: int | None = None,
    time_limit: float | None = None,
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """The boundary (K,) of a bin table with most true positives, by HiGHS; None without one.

    One binary for each level and boundary, exactly one boundary a level; precision, rate of
    positive calls, cost, recall, precision and recall of segments are linear in them. The solver's
    tolerance is not ours: a boundary that violates a constraint by it is refused and the programme
    solved again with a small margin.

    Args:
        table: boundaries and counts.
        rows: the hold-out.
        level: (n,) level of each row.
        goals: what must be reached; ``min_precision`` is needed.
        segments: constraints on segments.
        ordered: with a number, thresholds never fall from one of the first so many levels to the
            next.
        time_limit: seconds, after which the best boundary found so far is returned.

    Raises:
        ParameterError: no ``min_precision``.
    """
    if goals.min_precision is None:
        raise ParameterError('method="milp" needs min_precision')
    levels, width = table.hits.shape
    size = levels * width
    total = float(rows.weight.sum())
    positives = rows.positives
    w1, w0 = goals.class_weights
    tp, n = table.hits.ravel(), table.mass.ravel()
    mass = w1 * positives + w0 * (total - positives)
    # rows of "A z <= b", each divided by its scale so that the solver's tolerance means the same
    lines: list[tuple[NDArray[np.float64], float]] = [((goals.raw_precision * n - tp) / total, 0.0)]
    if goals.min_recall is not None:
        lines.append((-tp / positives, -goals.min_recall))
    if goals.max_positive_rate is not None:
        lines.append(((w1 * tp + w0 * (n - tp)) / mass, goals.max_positive_rate))
    if goals.max_cost is not None:
        cost = goals.costs[0] * w0 * (n - tp) - goals.costs[1] * w1 * tp
        lines.append((cost / mass, goals.max_cost - goals.costs[1] * w1 * positives / mass))
    recalls: list[NDArray[np.float64]] = []
    if segments:
        lines += _segment_precisions(table, rows, level, goals, segments)
        if segments.recall_parity is not None:
            recalls = _segment_recalls(table, rows, level)
    if ordered is not None:
        lines += _order(table, ordered)
    extra = 1 if recalls else 0  # the least recall of any segment
    one = sparse.hstack(
        [sparse.kron(sparse.eye(levels), np.ones((1, width))), sparse.csr_matrix((levels, extra))]
    )
    objective = np.concatenate([-tp / positives, np.zeros(extra)])
    # among boundaries with equal true positives, the one that calls least
    objective[:size] += 1e-9 * n / total
    options = {"mip_rel_gap": 0.0}
    if time_limit is not None:
        options["time_limit"] = time_limit
    for margin in MARGINS:
        matrix = [np.append(a, np.zeros(extra)) for a, _ in lines]
        bounds = [b - margin for _, b in lines]
        for recall in recalls:  # least <= recall <= least + parity
            matrix += [np.append(-recall, 1.0), np.append(recall, -1.0)]
            bounds += [-margin, float(segments.recall_parity or 0) - margin if segments else 0.0]
        found = milp(
            objective,
            integrality=np.append(np.ones(size), np.zeros(extra)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one, 1, 1),
                LinearConstraint(np.array(matrix), -np.inf, bounds),
            ],
            options=options,
        )
        if found.x is None:
            break
        index = found.x[:size].reshape(levels, width).argmax(axis=1)
        z = np.zeros(size + extra)
        z[np.arange(levels) * width + index] = 1
        if all(a @ z[:size] <= b + TOLERANCE for a, b in lines) and _even(recalls, z, segments):
            notes = () if found.status == 0 else ("the solver stopped at its time limit",)
            return (index if table.mass[np.arange(levels), index].sum() > 0 else None), notes
    return None, ()


def _even(
    recalls: list[NDArray[np.float64]],
    z: NDArray[np.float64],
    segments: SegmentConstraints | None,
) -> bool:
    values = [float(recall @ z[: len(recall)]) for recall in recalls]
    if not values or segments is None or segments.recall_parity is None:
        return True
    return max(values) - min(values) <= segments.recall_parity + TOLERANCE


def _of_segment(
    table: BinTable, rows: HoldOut, level: NDArray[np.int32], code: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """True positives and weight of one segment at every boundary, and its positives."""
    here = np.flatnonzero(rows.segment == code)
    part = rows.select(here)
    curves = LevelCurves.of(part.score, part.label, part.weight, level[here], len(table.cuts))
    counts = [curves.counts(k, table.cuts[k]) for k in range(len(table.cuts))]
    tp = np.concatenate([each[0] for each in counts])
    return tp, np.concatenate([each[1] for each in counts]), part.positives


def _segment_precisions(
    table: BinTable,
    rows: HoldOut,
    level: NDArray[np.int32],
    goals: Goals,
    segments: SegmentConstraints,
) -> list[tuple[NDArray[np.float64], float]]:
    lines = []
    for code, least in segments.precisions(rows).items():
        tp, n, _ = _of_segment(table, rows, level, code)
        raw = Goals(least, class_weights=goals.class_weights).raw_precision
        lines.append(((raw * n - tp) / max(n.max(), 1e-300), 0.0))
    return lines


def _segment_recalls(
    table: BinTable, rows: HoldOut, level: NDArray[np.int32]
) -> list[NDArray[np.float64]]:
    recalls = []
    for code in range(len(rows.segment_names)):
        tp, _, positives = _of_segment(table, rows, level, code)
        if positives > 0:
            recalls.append(tp / positives)
    return recalls


def _order(table: BinTable, ordered: int) -> list[tuple[NDArray[np.float64], float]]:
    """For each pair of neighbouring levels: ranks of their thresholds do not fall."""
    levels, width = table.cuts.shape
    rank = np.searchsorted(np.unique(table.cuts), table.cuts).astype(float)
    rank /= max(rank.max(), 1.0)
    lines = []
    for k in range(ordered - 1):
        a = np.zeros((levels, width))
        a[k], a[k + 1] = rank[k], -rank[k + 1]
        lines.append((a.ravel(), 0.0))
    return lines
