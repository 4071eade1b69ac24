"""From a threshold vector to a surface: figures, intervals, calibrated probabilities, picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds.binning import Partition, score_edges
from foretell.decisions.thresholds.candidates import NEVER, Goals, LevelCurves
from foretell.decisions.thresholds.figures import Achieved, Baseline, Guarantee
from foretell.decisions.thresholds.holdout import HoldOut
from foretell.decisions.thresholds.intervals import clopper_pearson, effective_counts
from foretell.decisions.thresholds.isotonic import IsotonicLevels, single_threshold
from foretell.decisions.thresholds.surface import DecisionSurface

PICTURE_BINS = 24


def achieved(
    hits: float,
    mass: float,
    squares: float,
    positives: float,
    positive_squares: float,
    rows: float,
    goals: Goals,
    confidence: float,
) -> Achieved:
    """Precision and recall with their intervals, after the prior shift where there is one."""
    x, n = effective_counts(np.array([hits]), np.array([mass]), np.array([squares]))
    low, high = (goals.shifted(end)[0] for end in clopper_pearson(x, n, confidence))
    x, n = effective_counts(np.array([hits]), np.array([positives]), np.array([positive_squares]))
    recall_low, recall_high = (float(end[0]) for end in clopper_pearson(x, n, confidence))
    rate = float(goals.shifted(np.array(hits / mass))) if mass > 0 else float("nan")
    return Achieved(
        precision=rate,
        precision_low=float(low),
        precision_high=float(high),
        recall=float(hits / positives) if positives > 0 else float("nan"),
        recall_low=recall_low,
        recall_high=recall_high,
        called=float(mass),
        true_positives=float(hits),
        positives=float(positives),
        rows=float(rows),
    )


def level_figures(
    curves: LevelCurves, thresholds: NDArray[np.float64], goals: Goals, confidence: float
) -> dict[str, NDArray[Any]]:
    """Columns of K values: what the thresholds do in each level."""
    levels = range(len(thresholds))
    first = [int(curves.at(k, thresholds[k : k + 1])[0]) for k in levels]
    hits = np.array([curves.hits[k][first[k]] for k in levels])
    mass = np.array([curves.mass[k][first[k]] for k in levels])
    squares = np.array([curves.squares[k][first[k]] for k in levels])
    positives = np.array([curves.hits[k][0] for k in levels])
    low, high = clopper_pearson(*effective_counts(hits, mass, squares), confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / mass, hits / positives
    return {
        "rows": np.array([curves.mass[k][0] for k in levels]),
        "positives": positives,
        "called": mass,
        "true_positives": hits,
        "precision": goals.shifted(precision),
        "precision_low": goals.shifted(low),
        "precision_high": goals.shifted(high),
        "recall": recall,
    }


def overall(
    curves: LevelCurves, thresholds: NDArray[np.float64], goals: Goals, confidence: float
) -> Achieved:
    """What a threshold vector achieves on the rows of the curves."""
    levels = range(len(thresholds))
    first = [int(curves.at(k, thresholds[k : k + 1])[0]) for k in levels]
    return achieved(
        sum(curves.hits[k][first[k]] for k in levels),
        sum(curves.mass[k][first[k]] for k in levels),
        sum(curves.squares[k][first[k]] for k in levels),
        sum(curves.hits[k][0] for k in levels),
        sum(float(curves.positive[k] @ curves.positive[k]) for k in levels),
        sum(curves.mass[k][0] for k in levels),
        goals,
        confidence,
    )


def probabilities(
    blocks: IsotonicLevels, curves: LevelCurves, goals: Goals
) -> tuple[tuple[NDArray[np.float64], ...], tuple[NDArray[np.float64], ...]]:
    """Calibrated rate of each level as a step function of the score.

    Kept off 0 and 1 by one row in the level's size plus two, so that a logarithm is finite.
    """
    base = sum(h.sum() for h in blocks.hits) / sum(m.sum() for m in blocks.mass)
    scores, values = [], []
    for k, start in enumerate(blocks.start):
        if not len(start):  # a level without rows: nothing is known but the base rate
            scores.append(np.zeros(1))
            values.append(goals.shifted(np.array([base])))
            continue
        margin = 1 / (len(curves.scores[k]) + 2)
        rate = np.clip(blocks.rates(k), margin, 1 - margin)
        scores.append(start)
        values.append(goals.shifted(rate))
    return tuple(scores), tuple(values)


def probability_cut(
    scores: Sequence[NDArray[np.float64]],
    values: Sequence[NDArray[np.float64]],
    thresholds: NDArray[np.float64],
) -> float:
    """The calibrated probability that best divides called from other scores."""
    called, other = [], []
    for start, value, threshold in zip(scores, values, thresholds, strict=True):
        whole = start >= threshold if threshold < NEVER else np.zeros(len(start), bool)
        called += value[whole].tolist()
        other += value[~whole].tolist()
    if not called:
        return 1.0
    least, most = min(called), max(other, default=0.0)
    return (least + most) / 2 if most < least else least


def picture_cells(
    rows: HoldOut,
    level: NDArray[np.int32],
    thresholds: NDArray[np.float64],
    goals: Goals,
    confidence: float,
) -> dict[str, NDArray[Any]]:
    """Score bins x levels with their hold-out rates: columns of `DecisionSurface.to_frame`."""
    edges = score_edges(rows.score, rows.weight, PICTURE_BINS, max(1, len(rows) // 1000))
    bins = np.searchsorted(edges, rows.score, side="right")
    levels = len(thresholds)
    cell = (bins * levels + level).astype(np.int64)
    size = (len(edges) + 1) * levels
    w = rows.weight
    mass, hits, squares = (
        np.bincount(cell, each, size).astype(np.float64) for each in (w, w * rows.label, w**2)
    )
    threshold = thresholds[level]
    called = np.bincount(cell, w * ((rows.score >= threshold) & (threshold < NEVER)), size)
    doubt_low, doubt_high = np.full(size, np.inf), np.full(size, -np.inf)
    np.fmin.at(doubt_low, cell, rows.uncertainty)
    np.fmax.at(doubt_high, cell, rows.uncertainty)
    there = np.flatnonzero(mass)
    lower = np.concatenate([[rows.score.min()], edges])
    upper = np.concatenate([edges, [rows.score.max()]])
    low, high = clopper_pearson(
        *effective_counts(hits[there], mass[there], squares[there]), confidence
    )
    unknown = ~np.isfinite(doubt_low[there])  # the level of missing uncertainties
    return {
        "level": (there % levels).astype(np.int32),
        "score_low": lower[there // levels],
        "score_high": upper[there // levels],
        "uncertainty_low": np.where(unknown, np.nan, doubt_low[there]),
        "uncertainty_high": np.where(unknown, np.nan, doubt_high[there]),
        "rows": mass[there],
        "positives": hits[there],
        "rate": goals.shifted(hits[there] / mass[there]),
        "rate_low": goals.shifted(low),
        "rate_high": goals.shifted(high),
        "called": called[there] / mass[there],
    }


def baseline(
    rows: HoldOut, goals: Goals, confidence: float, judged: HoldOut | None = None
) -> Baseline:
    """The best single threshold of some rows and what it achieves on them (or on others)."""

    def curves_of(part: HoldOut) -> LevelCurves:
        flat = np.zeros(len(part), np.int32)
        return LevelCurves.of(part.score, part.label, part.weight, flat, 1)

    curves = curves_of(rows)
    family = single_threshold(curves)
    at = goals.choose(family, rows.positives, float(rows.weight.sum()))
    threshold = np.array([NEVER]) if at is None else family.cuts[0][family.index[at]]
    where = curves if judged is None else curves_of(judged)
    return Baseline(float(threshold[0]), overall(where, threshold, goals, confidence))


def assemble(
    *,
    method: str,
    binning: str,
    partition: Partition,
    thresholds: NDArray[np.float64],
    floors: NDArray[np.float64] | None,
    rows: HoldOut,
    judged: HoldOut,
    goals: Goals,
    best_precision: float,
    reference: Baseline,
    guarantee: Guarantee | None,
    base_rates: tuple[float, float],
    confidence: float,
    notes: tuple[str, ...],
) -> DecisionSurface:
    """The surface of a threshold vector.

    Args:
        method: how it was found.
        binning: order of the binning.
        partition: its levels.
        thresholds: (K,) its thresholds.
        floors: (K,) where abstention begins, or None for the thresholds themselves.
        rows: all hold-out rows: probabilities and picture.
        judged: the rows that its figures are taken on.
        goals: what it was to reach.
        best_precision: the greatest precision of any candidate.
        reference: the best single threshold.
        guarantee: the guarantee or None.
        base_rates: of the hold-out and of the target.
        confidence: of the intervals.
        notes: what was changed on the way.
    """
    level = partition.locate(rows.score, rows.uncertainty)[1]
    curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, partition.n_levels)
    blocks = IsotonicLevels.of(curves)
    if judged is not rows:
        where = partition.locate(judged.score, judged.uncertainty)[1]
        judging = LevelCurves.of(
            judged.score, judged.label, judged.weight, where, partition.n_levels
        )
    else:
        judging = curves
    scores, values = probabilities(blocks, curves, goals)
    figures = overall(judging, thresholds, goals, confidence)
    known = rows.uncertainty[~np.isnan(rows.uncertainty)]
    span = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    return DecisionSurface(
        method=method,
        min_precision=goals.min_precision,
        binning=binning,
        partition=partition,
        thresholds=thresholds,
        floors=thresholds.copy() if floors is None else floors,
        uncertainty_range=span,
        probability_scores=scores,
        probability_values=values,
        cut=probability_cut(scores, values, thresholds),
        feasible_=bool(np.isfinite(thresholds).any()) and figures.called > 0,
        achieved=figures,
        best_precision_=best_precision,
        baseline=reference,
        level_table=level_figures(judging, thresholds, goals, confidence),
        cell_table=picture_cells(rows, level, thresholds, goals, confidence),
        guarantee=guarantee,
        base_rates=base_rates,
        confidence=confidence,
        notes=notes,
    )
