from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import expit, ndtr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from foretell.errors import ParameterError
from foretell.estimators.uncertainty import (
    LaplaceUncertainty,
    LogisticPosterior,
    NetworkClassifier,
    from_learner,
    probit_moments,
)


def test_the_posterior_is_that_of_bayesian_logistic_regression(table):
    """Against the Hessian of the log posterior by automatic differentiation."""
    X, y = table(250, 0)
    C = 0.7
    model = LaplaceUncertainty(LogisticRegression(C=C, tol=1e-10, max_iter=1000)).fit(X, y)
    inner = model.estimator_
    phi = torch.tensor(np.column_stack([X, np.ones(len(X))]))
    target = torch.tensor(y, dtype=torch.float64)

    def negative_log_posterior(w):
        logit = phi @ w
        likelihood = torch.nn.functional.binary_cross_entropy_with_logits(
            logit, target, reduction="sum"
        )
        return likelihood + 0.5 / C * (w[:-1] ** 2).sum()

    at = torch.tensor(np.r_[inner.coef_[0], inner.intercept_])
    slope = torch.autograd.functional.jacobian(negative_log_posterior, at)
    assert slope.abs().max() < 1e-3  # the mode
    hessian = torch.autograd.functional.hessian(negative_log_posterior, at).numpy()
    covariance = np.linalg.inv(hessian)
    assert model.posterior_.covariance == pytest.approx(covariance, rel=1e-9, abs=1e-12)
    new, _ = table(40, 1)
    design = np.column_stack([new, np.ones(len(new))])
    mean, variance = model.logit_moments(new)
    assert mean == pytest.approx(design @ np.r_[inner.coef_[0], inner.intercept_])
    assert variance == pytest.approx(np.diag(design @ covariance @ design.T), rel=1e-9)
    seen = model(new)
    assert seen.score == pytest.approx(expit(mean / np.sqrt(1 + np.pi * variance / 8)))


@given(m=st.floats(-12, 12), v=st.floats(1e-6, 200))
def test_probit_moments_are_exact_for_the_probit(m, v):
    slope = np.sqrt(np.pi / 8)
    _, spread = probit_moments(np.array([m]), np.array([v]))
    scale = np.sqrt(v)

    def moment(power):
        def f(z):
            return ndtr(slope * (m + scale * z)) ** power * stats.norm.pdf(z)

        edge = -m / scale
        points = [edge] if -9 < edge < 9 else None
        return integrate.quad(f, -10, 10, points=points, limit=200, epsabs=1e-13)[0]

    variance = max(moment(2) - moment(1) ** 2, 0.0)
    assert spread[0] ** 2 == pytest.approx(variance, abs=2e-8)


def test_moments_are_close_to_those_of_the_logistic_function():
    draws = np.random.default_rng(0).normal(size=200_000)
    for m in (-4.0, -1.0, 0.0, 2.0):
        for v in (0.1, 1.0, 9.0):
            p = expit(m + np.sqrt(v) * draws)
            mean, spread = probit_moments(np.array([m]), np.array([v]))
            assert mean[0] == pytest.approx(p.mean(), abs=0.02)
            assert spread[0] == pytest.approx(p.std(), abs=0.02)


def test_without_variance_nothing_is_uncertain():
    mean, spread = probit_moments(np.array([-30.0, 0.0, 2.0]), np.zeros(3))
    assert mean == pytest.approx(expit([-30.0, 0.0, 2.0]))
    assert spread == pytest.approx(np.zeros(3), abs=1e-7)


def test_sparse_and_dense_inputs_agree():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 12, size=(500, 2))
    y = (rng.random(500) < expit((X[:, 0] - 6) / 3)).astype(int)
    parts = [
        LaplaceUncertainty(
            make_pipeline(OneHotEncoder(sparse_output=sparse), LogisticRegression(C=0.5))
        ).fit(X, y)(X)
        for sparse in (True, False)
    ]
    assert parts[0].score == pytest.approx(parts[1].score, abs=1e-4)
    assert parts[0].uncertainty == pytest.approx(parts[1].uncertainty, rel=1e-3)


def test_rarely_seen_codes_are_more_uncertain():
    rng = np.random.default_rng(1)
    X = np.r_[np.zeros(900), np.ones(20)][:, None]
    y = (rng.random(920) < 0.5).astype(int)
    model = LaplaceUncertainty(make_pipeline(OneHotEncoder(), LogisticRegression()),
                               uncertainty="logit_std").fit(X, y)  # fmt: skip
    often, rarely = model(np.array([[0.0], [1.0]])).uncertainty
    assert rarely > 3 * often


def test_the_evidence_is_greatest_at_the_precision_found():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(400, 6))
    weights = rng.normal(size=6) * 0.5
    logit = phi @ weights
    found = LogisticPosterior.fit(phi, logit, weights).prior_precision
    mass = expit(logit) * (1 - expit(logit))
    design = np.column_stack([phi, np.ones(400)])
    curvature = design.T @ (design * mass[:, None])

    def log_evidence(precision):
        prior = np.diag([precision] * 6 + [0.0])
        return (
            -0.5 * precision * weights @ weights
            + 3 * np.log(precision)
            - 0.5 * np.linalg.slogdet(curvature + prior)[1]
        )

    grid = np.exp(np.linspace(-5, 5, 2001))
    best = grid[np.argmax([log_evidence(g) for g in grid])]
    assert found == pytest.approx(best, rel=0.01)


def test_a_networks_last_layer_is_found(table):
    X, y = table(400, 0)
    network = NetworkClassifier(hidden_sizes=(8,), min_steps=100, epochs=1, random_state=0,
                                threads=1).fit(X, y)  # fmt: skip
    model = from_learner(network, "laplace", X=X)
    mean, variance = model.logit_moments(X[:50])
    assert expit(mean) == pytest.approx(network.predict_proba(X[:50])[:, 1], abs=1e-5)
    assert (variance > 0).all()
    away = 8.0 * np.sign(X[:50])
    assert model.logit_moments(away)[1].mean() > 3 * variance.mean()


def test_pipelines_are_seen_through(table):
    X, y = table(200, 0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    model = from_learner(pipeline, X=X)
    assert model(X).score == pytest.approx(pipeline.predict_proba(X)[:, 1], abs=0.05)


@pytest.mark.parametrize("estimator", [DecisionTreeClassifier()])
def test_what_has_no_logistic_unit_is_refused(table, estimator):
    with pytest.raises(ParameterError, match="does not end in one logistic unit"):
        LaplaceUncertainty(estimator).fit(*table(60, 0))


def test_a_lasso_has_no_gaussian_prior(table):
    lasso = LogisticRegression(l1_ratio=1.0, solver="liblinear")
    with pytest.raises(ParameterError, match="L2 penalty"):
        LaplaceUncertainty(lasso).fit(*table(60, 0))


def test_weighted_classes_are_refused(table):
    weighted = LogisticRegression(class_weight="balanced")
    with pytest.raises(ParameterError, match="class_weight"):
        LaplaceUncertainty(weighted).fit(*table(60, 0))
