"""The dynamic programmes and the MILP against brute force; MIST's bound."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from foretell.decisions.thresholds.candidates import Goals, LevelCurves
from foretell.decisions.thresholds.dynamic_programming import (
    BinTable,
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
from foretell.decisions.thresholds.milp import solve
from foretell.decisions.thresholds.side_constraints import SegmentConstraints


def table_of(positives: np.ndarray, counts: np.ndarray) -> BinTable:
    """Bins (K, L), lowest scores first, as the table that the solvers read."""
    levels, bins = counts.shape

    def above(values: np.ndarray) -> np.ndarray:
        return np.column_stack([np.zeros(levels), np.cumsum(values[:, ::-1], axis=1)]).astype(float)

    cuts = np.tile(np.append(np.inf, np.arange(bins)[::-1].astype(float)), (levels, 1))
    return BinTable(cuts, above(positives), above(counts))


def best(table: BinTable, sigma: float, monotone: bool = False, allowed=None) -> float:
    """Most true positives of any boundary with precision ``sigma`` or more; 0 if there is none."""
    levels, width = table.hits.shape
    most = 0.0
    for boundary in product(range(width), repeat=levels):
        if monotone and any(b < a for b, a in pairwise(boundary)):
            continue
        tp = sum(table.hits[k, j] for k, j in enumerate(boundary))
        n = sum(table.mass[k, j] for k, j in enumerate(boundary))
        if n > 0 and tp >= sigma * n - 1e-9 and (allowed is None or allowed(boundary, tp, n)):
            most = max(most, tp)
    return most


def rows_of(positives: np.ndarray, counts: np.ndarray) -> tuple[HoldOut, np.ndarray]:
    """One row for each member of each bin, score = the bin's number."""
    score, label, level = [], [], []
    for (k, j), n in np.ndenumerate(counts):
        score += [float(j)] * n
        level += [k] * n
        label += [1.0] * positives[k, j] + [0.0] * (n - positives[k, j])
    n = len(score)
    rows = HoldOut(np.array(score), np.zeros(n), np.array(label), np.ones(n))
    return rows, np.array(level, np.int32)


def instance(seed: int, equal: bool) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(2, 6)))
    counts = np.full(shape, int(rng.integers(3, 12))) if equal else rng.integers(1, 15, shape)
    positives = rng.binomial(counts, np.sort(rng.random(shape), axis=1))
    return positives, counts, float(rng.uniform(0.3, 0.95))


def chosen(family, sigma: float, positives: float, total: float) -> float:
    at = Goals(sigma).choose(family, positives, total)
    return 0.0 if at is None else float(family.tp[at])


@pytest.mark.parametrize("equal", [True, False])
def test_programmes_find_the_optimum_of_200_random_instances(equal):
    for seed in range(200):
        positives, counts, sigma = instance(seed, equal)
        table = table_of(positives, counts)
        size = (positives.sum(), counts.sum())
        optimum = best(table, sigma)
        assert chosen(variable_weight(table), sigma, *size) == optimum
        if equal:
            assert chosen(equal_weight(table), sigma, *size) == optimum
        ordered = variable_weight(table, ordered=len(counts))
        assert chosen(ordered, sigma, *size) == best(table, sigma, monotone=True)
        cuts = np.nan_to_num(ordered.thresholds(), posinf=99.0)
        assert np.all(np.diff(cuts, axis=1) >= 0)


@pytest.mark.parametrize("equal", [True, False])
def test_mist_loses_less_than_the_next_block(equal):
    for seed in range(200):
        positives, counts, sigma = instance(seed, equal)
        if not positives.any():
            continue
        rows, level = rows_of(positives, counts)
        curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, len(counts))
        family = mist(IsotonicLevels.of(curves))
        optimum = best(table_of(positives, counts), sigma)
        at = Goals(sigma).choose(family, positives.sum(), counts.sum())
        got = 0.0 if at is None else family.tp[at]
        following = 0 if at is None else at + 1
        block = np.diff(family.tp, prepend=0.0)
        gap = optimum - got
        assert gap >= 0
        assert gap == 0 or gap < block[following]
        # what the family says it achieves is what its thresholds achieve
        tp, n = curves.totals(family.thresholds())
        np.testing.assert_array_equal(tp, family.tp)
        np.testing.assert_array_equal(n, family.n)


def test_worked_example():
    positives = np.array([[2, 7, 9], [0, 1, 8]])
    counts = np.full((2, 3), 10)
    table = table_of(positives, counts)
    common = [(table.hits[:, j].sum(), table.mass[:, j].sum()) for j in range(1, 4)]
    assert max(tp for tp, n in common if tp >= 0.8 * n) == 17
    for family in (equal_weight(table), variable_weight(table)):
        at = Goals(0.8).choose(family, positives.sum(), 60)
        assert (family.tp[at], family.n[at]) == (24, 30)
        # b = (1, 2): scores from bin 1 up in level 1, from bin 2 up in level 2
        assert family.thresholds(np.array([at]))[0].tolist() == [1.0, 2.0]


def test_milp_equals_brute_force_with_side_constraints():
    for seed in range(12):
        positives, counts, sigma = instance(seed, equal=False)
        table = table_of(positives, counts)
        rows, level = rows_of(positives, counts)
        if not positives.any():
            continue
        total, all_positives = float(counts.sum()), float(positives.sum())

        def reached(goals, table=table, rows=rows, level=level, **more):
            index, _ = solve(table, rows, level, goals, **more)
            return 0.0 if index is None else table.hits[np.arange(len(index)), index].sum()

        assert reached(Goals(sigma)) == best(table, sigma)
        assert reached(Goals(sigma), ordered=len(counts)) == best(table, sigma, monotone=True)
        assert reached(Goals(sigma, max_positive_rate=0.3)) == best(
            table, sigma, allowed=lambda b, tp, n, t=total: n <= 0.3 * t + 1e-9
        )
        cost = 0.2 * all_positives / total
        assert reached(Goals(sigma, max_cost=cost, costs=(1.0, 0.2))) == best(
            table,
            sigma,
            allowed=lambda b, tp, n, t=total, p=all_positives, c=cost: (
                n - tp + 0.2 * (p - tp) <= c * t + 1e-9
            ),
        )


def test_milp_holds_precision_and_recall_in_segments():
    rng = np.random.default_rng(5)
    positives, counts = np.array([[1, 4, 9, 11], [0, 2, 5, 10]]), np.full((2, 4), 12)
    rows, level = rows_of(positives, counts)
    segment = rng.integers(0, 2, len(rows))
    rows = HoldOut(
        rows.score, rows.uncertainty, rows.label, rows.weight, False, segment, ("a", "b")
    )
    table = table_of(positives, counts)
    per_segment = []
    for code in (0, 1):
        here = segment == code
        curves = LevelCurves.of(
            rows.score[here], rows.label[here], rows.weight[here], level[here], 2
        )
        per_segment.append([curves.counts(k, table.cuts[k]) for k in range(2)])

    def figures(boundary):
        for counted in per_segment:
            tp = sum(counted[k][0][j] for k, j in enumerate(boundary))
            n = sum(counted[k][1][j] for k, j in enumerate(boundary))
            yield tp, n, counted[0][0][-1] + counted[1][0][-1]

    def precise(boundary, tp, n):
        return all(t >= 0.75 * m - 1e-9 for t, m, _ in figures(boundary))

    def even(boundary, tp, n):
        recalls = [t / p for t, _, p in figures(boundary)]
        return max(recalls) - min(recalls) <= 0.02 + 1e-9

    for segments, allowed in (
        (SegmentConstraints(precision=0.75), precise),
        (SegmentConstraints(recall_parity=0.02), even),
        (SegmentConstraints(0.75, 0.02), lambda *a: precise(*a) and even(*a)),
    ):
        index, _ = solve(table, rows, level, Goals(0.7), segments)
        got = 0.0 if index is None else table.hits[np.arange(2), index].sum()
        assert got == best(table, 0.7, allowed=allowed)


def test_fractional_weights_are_close_to_brute_force():
    rng = np.random.default_rng(2)
    for _ in range(20):
        counts = rng.uniform(0.5, 8, (3, 4))
        positives = counts * np.sort(rng.random((3, 4)), axis=1)
        table = table_of(positives, counts)
        got = chosen(variable_weight(table), 0.6, positives.sum(), counts.sum())
        optimum = best(table, 0.6)
        assert optimum * (1 - 1e-3) <= got <= optimum + 1e-9


def test_monotone_mist_is_the_lagrangian_solution():
    for seed in range(40):
        positives, counts, _ = instance(seed, equal=False)
        if not positives.any():
            continue
        rows, level = rows_of(positives, counts)
        curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, len(counts))
        family = monotone_mist(IsotonicLevels.of(curves), curves, len(counts))
        thresholds = family.thresholds()
        assert np.all(np.diff(np.nan_to_num(thresholds, posinf=99.0), axis=1) >= 0)
        assert np.all(np.diff(np.nan_to_num(thresholds, posinf=99.0), axis=0) <= 0)  # nested
        table = table_of(positives, counts)
        for tp, n in zip(family.tp, family.n, strict=True):
            # a hull point cannot be beaten at its own precision by more than the next step
            assert best(table, tp / n, monotone=True) >= tp


def test_single_threshold_is_the_best_cut():
    rng = np.random.default_rng(0)
    score = np.round(rng.random(300), 2)
    label = (rng.random(300) < score).astype(float)
    curves = LevelCurves.of(score, label, np.ones(300), np.zeros(300, np.int32), 1)
    family = single_threshold(curves)
    for sigma in (0.5, 0.7, 0.9):
        cuts = [(label[score >= t].sum(), (score >= t).sum()) for t in np.unique(score)]
        optimum = max((tp for tp, n in cuts if tp >= sigma * n), default=0)
        assert chosen(family, sigma, label.sum(), 300) == optimum
