from __future__ import annotations

import numpy as np
import pytest

from foretell.decisions.sensing import EIGSensing, GaussianDonors, Panel
from foretell.errors import DataError, ParameterError

PANELS = [Panel("a", (2,), 1.0), Panel("b", (3, 4), 1.0), Panel("c", (5,), 1.0)]
WEIGHTS = np.array([1.0, -0.6, 1.8, 0.7, -0.5, 0.4])
CENTRE = np.array([0.3, -2.0, 5.0, 0.0, 1.0, -0.4])


def true_covariance():
    rng = np.random.default_rng(7)
    loads = rng.normal(size=(6, 3)) * 0.5
    return loads @ loads.T + np.diag([0.5, 0.8, 1.2, 0.6, 0.9, 0.7])


def patients(size, seed):
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal(CENTRE, true_covariance(), size)


def given(known, wanted):
    """Slopes and covariance by the formula for the joint Gaussian."""
    cov = true_covariance()
    inverse = np.linalg.inv(cov[np.ix_(known, known)])
    slopes = cov[np.ix_(wanted, known)] @ inverse
    left = cov[np.ix_(wanted, wanted)] - slopes @ cov[np.ix_(known, wanted)]
    return slopes, left


def start(size):
    seen = np.zeros((size, 6), bool)
    seen[:, :2] = True
    return seen


@pytest.fixture(scope="module")
def training():
    """Half of the values are missing; the more so, the higher the first one is."""
    X = patients(12_000, seed=1)
    rng = np.random.default_rng(2)
    rate = 0.2 + 0.5 * (X[:, :1] > CENTRE[0])
    seen = rng.random(X.shape) > rate
    seen[:, 0] = True
    return np.where(seen, X, np.nan), seen


@pytest.fixture(scope="module")
def donors(training):
    return GaussianDonors(*training, size=64)


@pytest.mark.parametrize("known", [(), (0,), (0, 1), (1, 5), (0, 1, 2, 5)])
def test_draws_have_the_conditional_mean_and_covariance(donors, known):
    X, known, wanted = patients(5, seed=3), list(known), [3, 4]
    seen = np.zeros((5, 6), bool)
    seen[:, known] = True
    shown, there = donors.draw(np.where(seen, X, np.nan), seen, PANELS[1])
    assert shown.shape == there.shape == (5, 64, 2) and there.all()
    slopes, left = given(known, wanted)
    expected = CENTRE[wanted] + (X[:, known] - CENTRE[known]) @ slopes.T
    # What is left is the error of an estimate from some thousand patients.
    np.testing.assert_allclose(shown.mean(1), expected, atol=0.15)
    for one in shown:
        np.testing.assert_allclose(np.cov(one.T, bias=True), left, atol=0.07)


def test_moments_of_the_draws_are_exact(donors):
    """Of the Gaussian that was estimated: nothing is left to the draws."""
    X, known, wanted = patients(4, seed=3), [0, 1], [3, 4]
    shown, _ = donors.draw(X, start(4), PANELS[1])
    # Differences of two patients' means and the covariance do not depend on the units.
    spread = donors._spread
    cov = donors.covariance * np.outer(spread, spread)
    slopes = np.linalg.solve(cov[np.ix_(known, known)], cov[np.ix_(known, wanted)])
    means = shown.mean(1)
    moved = (X[:, known] - X[:1, known]) @ slopes
    np.testing.assert_allclose(means - means[:1], moved, atol=1e-9)
    left = cov[np.ix_(wanted, wanted)] - cov[np.ix_(wanted, known)] @ slopes
    for one in shown:
        np.testing.assert_allclose(np.cov(one.T, bias=True), left, atol=1e-9)


def test_values_missing_by_others_do_not_bias_the_mean():
    """The mean of those that were seen is off; the estimate is not."""
    rng = np.random.default_rng(4)
    X = rng.multivariate_normal([0, 1], [[1, 0.8], [0.8, 1]], 4000)
    seen = np.ones(X.shape, bool)
    seen[:, 1] = X[:, 0] < 0.5
    held = GaussianDonors(X, seen, size=64)
    shown, _ = held.draw(np.zeros((1, 2)), np.zeros((1, 2), bool), Panel("a", (1,), 1.0))
    assert X[seen[:, 1], 1].mean() < 0.7
    assert shown.mean() == pytest.approx(1, abs=0.06)
    assert shown.std() == pytest.approx(1, abs=0.06)


def logistic(middle, variance):
    """Mean of the logistic function of Gaussians, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    at = np.asarray(middle)[..., None] + np.sqrt(variance) * nodes
    return (1 / (1 + np.exp(-at))) @ weights / weights.sum()


def of_subset(X, known):
    """Mean and variance of the logit, given some features."""
    rest = [j for j in range(6) if j not in known]
    slopes, left = given(known, rest)
    guess = CENTRE[rest] + (X[:, known] - CENTRE[known]) @ slopes.T
    middle = (X[:, known] - CENTRE[known]) @ WEIGHTS[known] + (guess - CENTRE[rest]) @ WEIGHTS[rest]
    return middle - 1.0, WEIGHTS[rest] @ left @ WEIGHTS[rest]


def risk(values, seen):
    out = np.empty(len(values))
    for mask in np.unique(seen, axis=0):
        rows = (seen == mask).all(1)
        out[rows] = logistic(*of_subset(values[rows], list(np.flatnonzero(mask))))
    return out


def entropy(p):
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


def exact_gains(X):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    middle, before = of_subset(X, [0, 1])
    out = np.empty((len(X), len(PANELS)))
    for j, panel in enumerate(PANELS):
        _, after = of_subset(X, [0, 1, *panel.features])
        # The mean of the logit given the panel is Gaussian around that without it.
        moved = middle[:, None] + np.sqrt(before - after) * nodes
        later = entropy(logistic(moved, after)) @ weights / weights.sum()
        out[:, j] = entropy(logistic(middle, before)) - later
    return out


def test_gains_order_panels_as_exact_ones_do(training):
    sensing = EIGSensing(risk, PANELS, sampler="gaussian").fit(*training, donors=32)
    X = patients(200, seed=5)
    found, exact = sensing.gains(X, start(200)), exact_gains(X)
    assert (found.argsort(1) == exact.argsort(1)).all(1).mean() > 0.95
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.995
    np.testing.assert_allclose(found.mean(0), exact.mean(0), rtol=0.15)
    np.testing.assert_array_equal(found, sensing.gains(X, start(200)))
    # Patients of one call do not move each other's gains.
    np.testing.assert_allclose(found[:7], sensing.gains(X[:7], start(7)), atol=1e-12)


def test_nearest_is_the_default_and_an_object_needs_no_fit(training, donors):
    X = patients(20, seed=6)
    default = EIGSensing(risk, PANELS).fit(*training)
    named = EIGSensing(risk, PANELS, sampler="knn").fit(*training)
    np.testing.assert_array_equal(default.gains(X, start(20)), named.gains(X, start(20)))
    held = EIGSensing(risk, PANELS, sampler=donors)
    fitted = EIGSensing(risk, PANELS, sampler="gaussian").fit(*training, donors=64)
    np.testing.assert_array_equal(held.gains(X, start(20)), fitted.gains(X, start(20)))
    assert held.fit(*training).donors_ is donors


def test_few_patients_and_features_that_are_one_give_a_positive_definite_covariance():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(4, 1))
    X = np.concatenate([one, one, 2 * one, np.ones((4, 1)), one, -one], axis=1)
    seen = np.ones(X.shape, bool)
    seen[:, 5] = False
    held = GaussianDonors(X, seen)
    assert np.linalg.eigvalsh(held.covariance).min() > 0
    shown, there = held.draw(X[:2], start(2), PANELS[1])
    assert np.isfinite(shown).all() and there.all()
    with pytest.raises(DataError, match="no training patient has panel 'c'"):
        held.draw(X, start(4), PANELS[2])


def test_a_feature_that_few_panels_bring_is_not_shown(training):
    X, seen = training[0].copy(), training[1].copy()
    seen[10:, 4] = False
    _, there = GaussianDonors(X, seen, iterations=3).draw(X[:2], start(2) & seen[:2], PANELS[1])
    assert there[..., 0].all() and not there[..., 1].any()


def test_more_features_than_draws_are_drawn_too():
    X = np.random.default_rng(0).normal(size=(300, 9))
    panel = Panel("wide", tuple(range(1, 9)), 1.0)
    seen = np.zeros((3, 9), bool)
    shown, _ = GaussianDonors(X, np.ones(X.shape, bool), size=6).draw(X[:3], seen, panel)
    assert shown.shape == (3, 6, 8) and np.isfinite(shown).all()
    # What is known of the panel itself is replaced.
    seen[:, 1] = True
    again, _ = GaussianDonors(X, np.ones(X.shape, bool), size=6).draw(X[:3], seen, panel)
    np.testing.assert_array_equal(shown, again)


def test_what_is_wrong_is_said(training, donors):
    X, seen = training
    with pytest.raises(DataError, match="same patients"):
        GaussianDonors(X, seen[:5])
    with pytest.raises(DataError, match="not finite"):
        GaussianDonors(X, np.ones(X.shape, bool))
    for wrong in ({"size": 1}, {"prior": 0.0}, {"iterations": 0}, {"tolerance": 0.0}):
        with pytest.raises(ParameterError):
            GaussianDonors(X, seen, **wrong)
    with pytest.raises(DataError, match="6 features"):
        donors.draw(X[:2, :5], seen[:2, :5], PANELS[0])
    with pytest.raises(DataError, match="known is not finite"):
        donors.draw(np.full((1, 6), np.nan), start(1), PANELS[0])
    with pytest.raises(ParameterError, match="knn, gaussian, mixture, vae, not 'nearest'"):
        EIGSensing(risk, PANELS, sampler="nearest")
    with pytest.raises(ParameterError, match="size and draw; dict"):
        EIGSensing(risk, PANELS, sampler={})

    class Short:
        size = 4

        def draw(self, values, seen, panel):
            return np.zeros((len(values), 4, 9)), np.ones((len(values), 4, 9), bool)

    with pytest.raises(DataError, match=r"panel 'a' must be \(3, draws, 1\)"):
        EIGSensing(risk, PANELS, sampler=Short()).gains(X[:3], start(3))
