"""Delay curves of truncated and censored outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import ParameterError
from foretell.evaluation.feedback.delays import incidence_curve, truncated_delay_curve


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_without_truncation_it_is_the_empirical_distribution(delays):
    delay = np.array(delays, float)
    ages = np.arange(22.0)
    curve = truncated_delay_curve(delay, np.full(len(delay), np.inf), ages)
    np.testing.assert_allclose(curve.share, [(delay <= s).mean() for s in ages], atol=1e-12)
    assert (curve.lower <= curve.share + 1e-12).all() and (curve.share <= curve.upper + 1e-12).all()


@given(st.lists(st.one_of(st.integers(0, 20), st.just(None)), min_size=1, max_size=40))
def test_without_censoring_incidence_is_the_share_that_converted(delays):
    delay = np.array([np.inf if d is None else d for d in delays])
    ages = np.arange(22.0)
    curve = incidence_curve(delay, np.full(len(delay), np.inf), ages)
    np.testing.assert_allclose(curve.share, [(delay <= s).mean() for s in ages], atol=1e-12)


def test_a_worked_example_of_right_truncation():
    # Seen: (1 of 1), (1 of 3), (2 of 3), (3 of 4). Risk sets: at 3 one of {2,3 with C>=3} ...
    delay, truncation = np.array([1.0, 1, 2, 3]), np.array([1.0, 3, 3, 4])
    # d=3: #{D<=3<=C} = 3 -> factor 2/3; d=2: #{D<=2<=C} = 2 (1 of 3, 2 of 3) -> factor 1/2.
    curve = truncated_delay_curve(delay, truncation, [0.5, 1, 2, 3])
    np.testing.assert_allclose(curve.share, [0, 1 / 3, 2 / 3, 1])


def test_truncation_and_censoring_are_corrected():
    rng = np.random.default_rng(0)
    n, rate, window = 20_000, 20.0, 60.0
    delay = -rate * np.log1p(-rng.random(n) * -np.expm1(-window / rate))
    converts = rng.random(n) < 0.3
    age = rng.uniform(0, 100, n)
    ages = np.array([5.0, 20, 40])
    truth = np.expm1(-ages / rate) / np.expm1(-window / rate)
    seen = converts & (delay <= age)
    naive = [(delay[seen] <= s).mean() for s in ages]
    curve = truncated_delay_curve(delay[seen], age[seen], ages)
    assert (naive - truth > 0.025).all()
    np.testing.assert_allclose(curve.share, truth, atol=0.02)
    assert ((curve.lower < truth) & (truth < curve.upper)).all()
    followed = np.where(age >= window, np.inf, age)
    share = incidence_curve(np.where(seen, delay, np.inf), followed, ages).share
    np.testing.assert_allclose(share, 0.3 * truth, atol=0.01)


def test_intervals_cover():
    rng = np.random.default_rng(1)
    hits, truth = 0, 1 - np.exp(-0.5)
    for _ in range(200):
        delay, age = rng.exponential(20, 400), rng.uniform(5, 200, 400)
        seen = delay <= age
        curve = truncated_delay_curve(delay[seen], age[seen], [10.0])
        hits += curve.lower[0] <= truth <= curve.upper[0]
    assert 0.88 <= hits / 200 <= 0.99


def test_a_risk_set_that_runs_out_leaves_nothing_known_below():
    curve = truncated_delay_curve([1.0, 5.0], [2.0, 9.0], [0.5, 1, 4, 5])
    assert curve.share[3] == 1 and np.isnan(curve.share[1:3]).all()


def test_bad_input_and_nothing_at_all():
    with pytest.raises(ParameterError, match="cannot have been seen"):
        truncated_delay_curve([5.0], [4.0], [1.0])
    assert np.isnan(truncated_delay_curve([], [], [1.0, 2.0]).share).all()
    assert np.isnan(incidence_curve([], [], [1.0]).share).all()
