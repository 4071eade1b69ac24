from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from foretell.decisions.sensing import MixtureDonors, Panel
from foretell.decisions.sensing.mixture import Component
from foretell.errors import DataError, ParameterError

PANEL = Panel("pair", (2, 3), 1.0)
MEANS = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 4.0, -4.0]])


def patients(size, seed):
    """Two kinds of patients; the first feature says, of most, which."""
    rng = np.random.default_rng(seed)
    kind = rng.random(size) < 0.3
    factor = rng.normal(size=(size, 1))
    noise = rng.normal(size=(size, 4)) * [0.5, 0.8, 0.5, 0.7]
    return MEANS[kind.astype(int)] + factor * [0.0, 1.0, 1.0, -0.5] + noise, kind


@pytest.fixture(scope="module")
def training():
    X, _ = patients(4000, seed=1)
    seen = np.random.default_rng(2).random(X.shape) < 0.75
    return np.where(seen, X, np.nan), seen


@pytest.fixture(scope="module")
def donors(training):
    return MixtureDonors(*training, size=200, components=2, factors=1)


def closed_form(components, z, seen, columns):
    """Weights, means and covariances by the formula for the joint Gaussians."""
    known = np.flatnonzero(seen)
    log, means, covariances = [], [], []
    for one in components:
        cov = one.covariance
        inverse = np.linalg.inv(cov[np.ix_(known, known)])
        slopes = cov[np.ix_(columns, known)] @ inverse
        means.append(one.mean[columns] + slopes @ (z[known] - one.mean[known]))
        left = cov[np.ix_(columns, columns)] - slopes @ cov[np.ix_(known, columns)]
        covariances.append(left)
        density = 0.0
        if len(known):
            density = multivariate_normal(one.mean[known], cov[np.ix_(known, known)]).logpdf(
                z[known]
            )
        log.append(np.log(one.weight) + density)
    weights = np.exp(np.array(log) - np.logaddexp.reduce(log))
    return weights, np.array(means), np.array(covariances)


def some(size, count, factors, seed):
    """A mixture nobody fitted, of standardised features."""
    rng = np.random.default_rng(seed)
    held = MixtureDonors(rng.normal(size=(40, size)), np.ones((40, size), bool), iterations=1,
                         components=2, factors=0)  # fmt: skip
    weight = rng.dirichlet(np.ones(count))
    held.components = tuple(
        Component(float(weight[k]), 2 * rng.normal(size=size), rng.normal(size=(size, factors)),
                  rng.uniform(0.2, 2.0, size))
        for k in range(count)
    )  # fmt: skip
    held._centre, held._spread = np.zeros(size), np.ones(size)
    return held


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(3, 7), count=st.integers(1, 4), factors=st.integers(0, 4),
    seed=st.integers(0, 999), known=st.integers(0, 2**5 - 1),
)  # fmt: skip
def test_conditionals_are_the_closed_form(size, count, factors, seed, known):
    held = some(size, count, factors, seed)
    columns = np.array([size - 2, size - 1])
    z = 2 * np.random.default_rng(seed + 1).normal(size=(1, size))
    seen = np.array([[bool(known >> i & 1) and i not in columns for i in range(size)]])
    found = held.conditional(np.where(seen, z, np.nan), seen, columns)
    expected = closed_form(held.components, z[0], seen[0], columns)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine[0], theirs, rtol=1e-7, atol=1e-9)
    assert found[0].sum() == pytest.approx(1.0)


def test_draws_have_the_conditional_mean_and_covariance(donors):
    X, _ = patients(40, seed=3)
    seen = np.zeros((40, 4), bool)
    seen[:, :2] = True
    shown, there = donors.draw(X, seen, PANEL)
    assert shown.shape == (40, 200, 2) and there.all()
    weights, means, covariances = donors.conditional(X, seen, PANEL.features)
    middle = np.einsum("nk,nkp->np", weights, means)
    np.testing.assert_allclose(shown.mean(1), middle, atol=0.15)
    around = means - middle[:, None]
    total = np.einsum("nk,nkpq->npq", weights, covariances + around[..., None] * around[:, :, None])
    found = np.stack([np.cov(one.T, bias=True) for one in shown])
    np.testing.assert_allclose(found, total, atol=0.5)


def test_two_kinds_of_patients_are_found_where_one_gaussian_sees_none(donors):
    """Given nothing, the panel is at 0 or at 4: hardly ever between."""
    found = sorted(c.mean[0] for c in donors.components)
    shown, _ = donors.draw(np.zeros((1, 4)), np.zeros((1, 4), bool), PANEL)
    away = np.abs(shown[0, :, 0] - shown[0, :, 1])
    assert found[1] - found[0] > 1.5
    assert 0.2 < (away > 4).mean() < 0.4
    # The first feature tells which.
    seen = np.zeros((2, 4), bool)
    seen[:, 0] = True
    shown, _ = donors.draw(np.array([[-0.5, 0, 0, 0], [3.5, 0, 0, 0]]), seen, PANEL)
    np.testing.assert_allclose(shown.mean(1), [[0, 0], [4, -4]], atol=0.3)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), rate=st.floats(0.2, 1.0), factors=st.integers(0, 3))
def test_an_iteration_never_makes_it_worse(seed, rate, factors):
    X, _ = patients(120, seed)
    seen = np.random.default_rng(seed).random(X.shape) < rate
    held = MixtureDonors(X, seen, components=3, factors=factors, iterations=30, tolerance=1e-12)
    assert np.diff(held.objective).min(initial=0.0) > -1e-9


def test_log_density_is_that_of_the_components(donors):
    X, _ = patients(3, seed=5)
    seen = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    z = (X - donors._centre) / donors._spread
    expected = []
    for row, mask in zip(z, seen, strict=True):
        k = np.flatnonzero(mask)
        parts = [
            c.weight * (multivariate_normal(c.mean[k], c.covariance[np.ix_(k, k)]).pdf(row[k])
                        if len(k) else 1.0)
            for c in donors.components
        ]  # fmt: skip
        expected.append(np.log(sum(parts)))
    np.testing.assert_allclose(donors.log_density(X, seen), expected, atol=1e-9)


def test_more_components_explain_new_patients_better(training):
    X, _ = patients(1000, seed=9)
    one, two = (MixtureDonors(*training, components=k, factors=1) for k in (1, 2))
    seen = np.ones(X.shape, bool)
    assert two.log_density(X, seen).mean() > one.log_density(X, seen).mean() + 0.3


def test_patients_without_anything_and_features_without_spread_give_numbers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    X[:, 1] = 3.0
    seen = rng.random((60, 4)) < 0.5
    seen[:20] = False
    seen[:, 3] = False
    held = MixtureDonors(np.where(seen, X, np.nan), seen, components=3, factors=2)
    assert all(np.isfinite(part).all() for c in held.components for part in c)
    shown, there = held.draw(np.full((2, 4), np.nan), np.zeros((2, 4), bool), PANEL)
    assert np.isfinite(shown).all() and there[..., 0].all() and not there[..., 1].any()
    with pytest.raises(DataError, match="no training patient has panel 'd'"):
        held.draw(np.zeros((1, 4)), np.zeros((1, 4), bool), Panel("d", (3,), 1.0))


def test_what_is_wrong_is_said(training):
    X, seen = training
    with pytest.raises(DataError, match="5 patients are too few for 8 components"):
        MixtureDonors(X[:5], seen[:5])
    for wrong in ({"components": 0}, {"factors": -1}, {"prior": 0.0}, {"iterations": 0},
                  {"tolerance": 0.0}, {"size": 1}):  # fmt: skip
        with pytest.raises(ParameterError):
            MixtureDonors(X[:50], seen[:50], **wrong)
