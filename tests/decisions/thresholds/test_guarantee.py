"""The finite-sample guarantee: the test itself, the walks, the rate of misses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from foretell.data.simulators.evidence_cells import evidence_cells
from foretell.decisions.thresholds import clopper_pearson, estimate_base_rate, fit_decision_surface
from foretell.decisions.thresholds.candidates import Candidates
from foretell.decisions.thresholds.guarantee import hull, start_coverages, start_levels, walk
from foretell.decisions.thresholds.intervals import binomial_tail
from foretell.errors import DataError, ParameterError


def test_clopper_pearson_is_scipys_exact_interval():
    hits, trials = np.array([0, 3, 17, 20, 0]), np.array([10, 10, 20, 20, 0])
    low, high = clopper_pearson(hits, trials, 0.9)
    for i in range(4):
        exact = stats.binomtest(int(hits[i]), int(trials[i])).proportion_ci(0.9, method="exact")
        assert (low[i], high[i]) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert (low[4], high[4]) == (0, 1)


def test_binomial_tail_is_the_exact_one_sided_test():
    for hits, trials, rate in ((9, 10, 0.7), (0, 5, 0.3), (70, 100, 0.7)):
        exact = stats.binomtest(hits, trials, rate, alternative="greater").pvalue
        assert binomial_tail(hits, trials, rate) == pytest.approx(exact)


def test_walks_stop_at_their_first_failure():
    p = np.array([0.5, 0.01, 0.01, 0.9, 0.01, 0.01, 0.5, 0.01])

    def shares(*starts):
        return np.bincount(starts, minlength=8) * 0.02

    assert walk(p, shares(0)) == (None, 1)
    assert walk(p, shares(1)) == (2, 3)
    # never the last one: it lies behind a failure
    assert walk(p, shares(0, 1, 4)) == (5, 7)
    assert walk(p, shares(1, 2, 7))[0] == 7
    # a walk that reaches the next start hands its level over
    assert walk(np.array([0.01, 0.03]), np.array([0.02, 0.02])) == (1, 2)
    assert walk(np.array([0.03, 0.03]), np.array([0.02, 0.02])) == (None, 2)


def test_walks_share_delta():
    for walks in range(1, 8):
        coverages, levels = start_coverages(walks), start_levels(walks)
        assert len(coverages) == len(levels) == walks
        assert levels.sum() == pytest.approx(1)
        assert np.all(np.diff(coverages) > 0) and 0 < coverages[0] and coverages[-1] < 1


def test_weights_that_are_alike_are_no_further_rows():
    """Twenty times the weight is not twenty times the evidence."""
    rng = np.random.default_rng(0)
    score, doubt = rng.random((2, 3000))
    y = (rng.random(3000) < 0.85 * score).astype(int)

    def fitted(weight):
        return fit_decision_surface(
            score, doubt, y, min_precision=0.75, guarantee="ltt", sample_weight=weight
        )

    plain, heavy = fitted(None), fitted(np.full(3000, 20.0))
    assert plain.guarantee == heavy.guarantee
    np.testing.assert_array_equal(plain.thresholds, heavy.thresholds)
    none = np.where(np.arange(3000) % 2, 20.0, 0.0)
    half = fit_decision_surface(
        score[1::2], doubt[1::2], y[1::2], min_precision=0.75, guarantee="ltt"
    )
    assert fitted(none).guarantee == half.guarantee


def test_a_guarantee_for_another_base_rate_says_what_it_takes_as_known():
    rng = np.random.default_rng(0)
    score, doubt = rng.random((2, 2000))
    y = (rng.random(2000) < score).astype(int)
    options = {"min_precision": 0.7, "guarantee": "ltt"}
    plain = fit_decision_surface(score, doubt, y, **options)
    shifted = fit_decision_surface(score, doubt, y, target_base_rate=0.4, **options)
    assert any("base rates as known" in note for note in shifted.notes)
    assert not any("base rates" in note for note in plain.notes)


def test_walks_keep_their_level_under_the_null():
    # all precisions exactly at the target: any rejection is an error
    rng = np.random.default_rng(0)
    shares = np.zeros(40)
    shares[[2, 8, 14, 20, 30]] = 0.1 * start_levels(5)
    wrong = 0
    for _ in range(4000):
        hits = np.cumsum(rng.binomial(20, 0.7, 40))
        wrong += walk(binomial_tail(hits, 20 * np.arange(1, 41), 0.7), shares)[0] is not None
    assert wrong / 4000 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 4000)


def test_hull_keeps_the_concave_points():
    n = np.array([1.0, 2, 3, 4, 4])
    tp = np.array([1.0, 1.2, 2.4, 2.5, 2.0])
    family = Candidates((np.arange(5.0),), np.arange(5)[:, None], tp, n)
    assert hull(family).tp.tolist() == [1.0, 2.4, 2.5]


def test_misses_are_as_rare_as_promised():
    misses, plain_misses, recalls = 0, 0, []
    repetitions = 60
    for seed in range(repetitions):
        population, _ = evidence_cells(cells=8_000, draws=2, prior=0.2, seed=seed)
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, len(population), 6_000)
        y = (rng.random(6_000) < population.theta[rows]).astype(int)
        for guarantee in (None, "ltt"):
            surface = fit_decision_surface(
                population.score[rows], population.uncertainty[rows], y, min_precision=0.6,
                n_levels=2, guarantee=guarantee, random_state=seed,
            )  # fmt: skip
            called = surface.predict(population.score, population.uncertainty) == 1
            missed = bool(called.any()) and population.theta[called].mean() < 0.6
            if guarantee:
                misses += missed
                recalls.append(surface.guarantee.price)
                assert surface.guarantee.p_value <= 0.1 or not surface.feasible_
            else:
                plain_misses += missed
    assert misses <= repetitions * 0.1 + 2 * np.sqrt(repetitions * 0.1 * 0.9)
    assert plain_misses > misses
    assert np.nanmean(recalls) > 0.1  # not by calling nothing


def test_guarantee_is_judged_on_rows_that_did_not_choose(cells):
    held, test = cells
    surface = fit_decision_surface(
        held.score, held.uncertainty, held.y, min_precision=0.6, n_levels=3, guarantee="ltt",
        abstain=True,
    )  # fmt: skip
    figures = surface.guarantee
    assert figures.selection_rows + figures.test_rows == len(held)
    assert surface.achieved.rows == figures.test_rows
    assert surface.feasible_ and surface.precision_ > 0.6
    assert 0 < figures.price <= 1.0
    assert "guaranteed with probability 0.9" in str(surface)
    decisions = surface.predict(test.score, test.uncertainty)
    assert (decisions == -1).any()  # between the guaranteed surface and the plain one
    for method, monotone in (
        ("single", False),
        ("ew_dp", False),
        ("vw_dp", False),
        ("vw_dp", True),
        ("mist", True),
    ):
        other = fit_decision_surface(
            held.score, held.uncertainty, held.y, min_precision=0.6, n_levels=2, guarantee="ltt",
            method=method, monotone_levels=monotone,
        )  # fmt: skip
        assert not monotone or np.all(other.thresholds[1:] >= other.thresholds[:-1])
        assert not other.feasible_ or other.precision_ > 0.6


def test_base_rate_of_rows_without_labels():
    rng = np.random.default_rng(0)

    def posterior(x, rate):
        odds = rate / (1 - rate) * np.exp(2 * x - 2)
        return odds / (1 + odds)

    y = rng.random(50_000) < 0.05
    x = rng.normal(2.0 * y)
    assert estimate_base_rate(posterior(x, 0.3), 0.3) == pytest.approx(0.05, abs=0.006)
    with pytest.raises(DataError, match=r"probability is 1.5.*row 0"):
        estimate_base_rate([1.5], 0.3)
    with pytest.raises(DataError, match="no rows"):
        estimate_base_rate([], 0.3)
    with pytest.raises(ParameterError, match="base rate"):
        estimate_base_rate([0.5], 1.0)
