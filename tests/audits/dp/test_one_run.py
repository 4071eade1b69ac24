"""Lower bounds from one run, against linear programs, exact chances and the mechanisms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from scipy.optimize import linprog
from scipy.stats import norm

from foretell.audits.dp import audit_one_run, flip
from foretell.audits.dp.gaussian import delta_of, epsilon_of, mu_of
from foretell.audits.dp.one_run import fdp_refuted, steinke_p_value
from foretell.errors import DataError, ParameterError


def test_delta_of_the_gaussian_mechanism_is_the_integral_of_its_definition():
    for epsilon, mu in ((0.5, 1.0), (2.0, 0.7), (4.377, 1.0)):
        at = epsilon / mu + mu / 2  # beyond here the first density is e^epsilon times the second
        direct = norm.sf(at - mu) - math.exp(epsilon) * norm.sf(at)
        assert delta_of(epsilon, mu) == pytest.approx(direct, rel=1e-9)
    assert epsilon_of(1.0, 1e-5) == pytest.approx(4.3772, abs=1e-3)
    assert epsilon_of(mu_of(3.0, 1e-6), 1e-6) == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "delta", "right"), [(1.0, 1e-3, 70), (0.5, 1e-4, 66), (2.0, 1e-3, 95)]
)
def test_the_p_value_is_that_of_a_linear_program(epsilon, delta, right):
    """delta hands over i right guesses with chance p_i, where sum i p_i <= 2 m delta."""
    guesses = 100
    chance = 1 / (1 + math.exp(-epsilon))
    gained = np.arange(right + 1)
    tails = scipy.stats.binom.sf(right - gained - 1, guesses, chance)
    best = linprog(
        -tails, A_ub=gained[None], b_ub=[2 * guesses * delta], A_eq=np.ones((1, right + 1)),
        b_eq=[1.0],
    )  # fmt: skip
    found = steinke_p_value(epsilon, delta, guesses, guesses, right)
    # The formula is the tangent at no gain: equal while the best gain is not certain.
    assert found == pytest.approx(-best.fun, rel=1e-6)


def test_randomized_response_has_exactly_the_p_value_of_pure_privacy():
    """m coins, each told truly with chance Q: the count is binomial, and the p-value its tail."""
    m, epsilon = 30, 1.3
    chance = 1 / (1 + math.exp(-epsilon))
    for right in range(m + 1):
        exact = sum(
            math.comb(m, k) * chance**k * (1 - chance) ** (m - k) for k in range(right, m + 1)
        )
        assert steinke_p_value(epsilon, 0.0, m, m, right) == pytest.approx(exact, rel=1e-9)


def _largest_chance(mu: float, canaries: int, guesses: int, right: int) -> float:
    """Most that P[right guesses >= v] can be under the trade-off, by a linear program.

    The trade-off is convex, and stands as the highest of its tangents.
    """
    count = guesses + 1
    points = norm.cdf(np.linspace(-6, 6, 2500))
    values = norm.cdf(norm.ppf(points) - mu)
    slopes = np.exp(mu * norm.ppf(points) - mu**2 / 2)
    i = np.arange(count)
    rows, limits = [], []
    for c in range(1, right + 1):
        caught = np.where(i >= c, i, 0) / canaries
        missed = np.where(i >= c - 1, guesses - i, 0) / canaries
        # missed >= value + slope (caught - point), for every tangent
        rows.append(slopes[:, None] * caught - missed)
        limits.append(slopes * points - values)
    result = linprog(
        -(i >= right).astype(float), A_ub=np.concatenate(rows), b_ub=np.concatenate(limits),
        A_eq=np.ones((1, count)), b_eq=[1.0], method="highs",
    )  # fmt: skip
    assert result.status == 0
    return -result.fun


@pytest.mark.parametrize(
    ("mu", "canaries", "guesses", "right"), [(1.0, 12, 12, 11), (0.5, 20, 10, 9), (1.5, 15, 8, 8)]
)
def test_the_recursion_is_the_linear_program_of_the_trade_off(mu, canaries, guesses, right):
    most = _largest_chance(mu, canaries, guesses, right)
    assert 0.001 < most < 0.9
    assert not fdp_refuted(mu, canaries, guesses, right, most * 0.99)[0]
    assert fdp_refuted(mu, canaries, guesses, right, most * 1.01)[0]


def test_the_trade_off_holds_for_the_gaussian_mechanism_itself():
    """Independent canaries: right guesses are binomial, whose chances must obey the inequality."""
    m, mu = 25, 1.0
    chances = scipy.stats.binom.pmf(np.arange(m + 1), m, norm.cdf(mu / 2))
    i = np.arange(m + 1)
    for c in range(1, m + 1):
        caught = (i * chances)[c:].sum() / m
        missed = ((m - i) * chances)[c - 1 :].sum() / m
        assert missed >= norm.cdf(norm.ppf(caught) - mu) - 1e-12


def gaussian_scores(mu: float, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    coins = flip(m, seed)
    return mu * coins + np.random.default_rng(seed).standard_normal(m), coins


def test_no_true_guarantee_is_refuted_and_f_dp_proves_more():
    true = epsilon_of(1.0, 1e-5)
    proven = {"fdp": [], "steinke": []}
    for seed in range(8):
        scores, coins = gaussian_scores(1.0, 4000, seed)
        for method in proven:
            proven[method].append(audit_one_run(scores, coins, 1e-5, method=method).epsilon)
    for found in proven.values():
        assert sum(e > true for e in found) <= 1
    assert np.mean(proven["fdp"]) > 1.1 * np.mean(proven["steinke"]) > 1.0


def test_a_bound_grows_with_what_leaks_and_a_fair_score_proves_nothing():
    proven = [
        audit_one_run(*gaussian_scores(mu, 2000, 3), 1e-5).epsilon for mu in (0.0, 0.5, 1.0, 2.0)
    ]
    assert proven[0] < 0.1 and proven == sorted(proven) and proven[-1] > 3
    constant = audit_one_run(np.zeros(500), flip(500), 1e-5)
    assert constant.epsilon == 0
    perfect = audit_one_run(flip(500).astype(float), flip(500), 0.0, method="steinke", guesses=200)
    # All right: the bound is where Q^200 = 0.05.
    q = 0.05 ** (1 / 200)
    assert perfect.epsilon == pytest.approx(math.log(q / (1 - q)), abs=0.01)


def test_several_numbers_of_guesses_are_paid_for():
    scores, coins = gaussian_scores(2.0, 1000, 0)
    alone = audit_one_run(scores, coins, 1e-5, guesses=125)
    among = audit_one_run(scores, coins, 1e-5, guesses=[125, 250, 500, 1000])
    at = next(t for t in among.tries if t.rule == 125)
    assert at.epsilon < alone.epsilon
    assert among.details["tried"] == 4 and len(among.tries) == 4
    for side in ("in", "out"):
        assert 0 < audit_one_run(scores, coins, 1e-5, side=side).epsilon < epsilon_of(2.0, 1e-5)


def test_what_cannot_be_audited_is_refused():
    scores, coins = gaussian_scores(1.0, 200, 0)
    with pytest.raises(DataError, match="no fair coins"):
        audit_one_run(scores, np.arange(200) < 150, 1e-5)
    with pytest.raises(DataError, match="not finite"):
        audit_one_run(np.where(np.arange(200) == 7, np.nan, scores), coins, 1e-5)
    with pytest.raises(DataError, match="one length"):
        audit_one_run(scores, coins[:-1], 1e-5)
    with pytest.raises(ParameterError, match="delta"):
        audit_one_run(scores, coins, 0.0)
    with pytest.raises(ParameterError, match="guesses"):
        audit_one_run(scores, coins, 1e-5, guesses=300)
    with pytest.raises(ParameterError, match="method"):
        audit_one_run(scores, coins, 1e-5, method="f-dp")
