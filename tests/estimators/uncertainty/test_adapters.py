from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.estimators import MQCNN
from foretell.estimators.uncertainty import (
    CallableUncertainty,
    ExceedanceUncertainty,
    NetworkClassifier,
    Uncertain,
    from_learner,
)
from foretell.learners.demand.forecast import Forecast, Span
from foretell.learners.tabular import ResponseNet
from foretell.learners.tabular.dropout import DropoutTrunk


def normal_forecast(means, scale: float, levels=None) -> Forecast:
    levels = np.linspace(0.05, 0.95, 19) if levels is None else levels
    means = np.asarray(means, float)
    values = means[:, None, None] + scale * stats.norm.ppf(levels)[None, None, :]
    values = np.repeat(values, 2, axis=1).astype(np.float32)
    ids = np.array([f"s{i}" for i in range(len(means))], dtype=object)
    spans = {Span(0, 2): (2 * values[:, 0]).astype(np.float32)}
    return Forecast(
        ids, np.zeros(len(means), np.int64), Frequency.parse("D"), levels, values, spans
    )


def test_exceedance_is_read_off_the_quantiles():
    means = np.array([5.0, 9.0, 10.0, 12.0])
    seen = ExceedanceUncertainty(None, threshold=10.0)(normal_forecast(means, 2.0))
    assert seen.score == pytest.approx(stats.norm.sf((10 - means) / 2), abs=0.02)
    assert (np.diff(seen.score) > 0).all()
    low, high = means + 2 * stats.norm.ppf(0.1), means + 2 * stats.norm.ppf(0.9)
    assert seen.uncertainty == pytest.approx((high - low) / (high + low), abs=0.02)


def test_thresholds_may_differ_by_row_and_spans_be_asked_about():
    forecast = normal_forecast([5.0, 5.0], 1.0)
    seen = ExceedanceUncertainty(None, threshold=[-100.0, 100.0])(forecast)
    assert seen.score == pytest.approx([1.0, 0.0], abs=1e-2)
    span = ExceedanceUncertainty(None, threshold=10.0, span=Span(0, 2))(forecast)
    assert span.score == pytest.approx([0.5, 0.5], abs=0.01)
    with pytest.raises(DataError, match="has no"):
        ExceedanceUncertainty(None, threshold=1.0, span=Span(0, 3))(forecast)
    with pytest.raises(DataError, match="ends after 2"):
        ExceedanceUncertainty(None, threshold=1.0, horizon=3)(forecast)


def test_mass_on_the_threshold_does_not_exceed_it():
    levels = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    values = np.array([[[0.0, 0.0, 0.0, 2.0, 4.0]]], np.float32)
    forecast = Forecast(np.array(["a"], object), np.zeros(1, np.int64), Frequency.parse("D"),
                        levels, values)  # fmt: skip
    score = ExceedanceUncertainty(None, threshold=0.0)(forecast).score[0]
    assert score == pytest.approx(0.5, abs=0.01)


def test_members_disagree_about_the_event():
    forecasts = [normal_forecast([8.0, 10.0], 1.0), normal_forecast([8.0, 12.0], 1.0)]
    seen = ExceedanceUncertainty(None, threshold=10.0)(forecasts)
    assert seen.uncertainty[0] == pytest.approx(0.0, abs=1e-6)
    assert seen.uncertainty[1] == pytest.approx((stats.norm.sf(-2) - 0.5) / 2, abs=0.02)


def test_a_forecaster_with_several_networks_is_its_own_ensemble():
    rng = np.random.default_rng(0)
    panel = Panel.from_arrays(
        list(rng.poisson(4, size=(6, 40)).astype(np.float32)), frequency=Frequency.parse("W-FRI")
    )
    model = MQCNN(h=2, max_steps=2, seeds=2, seed=0, threads=1).fit(panel)
    provider = from_learner(model, threshold=5.0, horizon=2)
    seen = provider(panel)
    assert seen.score.shape == (6,) and ((seen.score >= 0) & (seen.score <= 1)).all()
    assert len(provider.members) == 2
    assert (seen.uncertainty > 0).any()
    with pytest.raises(ParameterError, match="give threshold="):
        from_learner(model)


def test_a_bare_learner_needs_to_know_its_batch(table):
    X, _ = table(20, 0)
    torch.manual_seed(0)
    learner = ResponseNet(DropoutTrunk(3, hidden_sizes=(8,), dropout=0.5, batch_norm=False))
    with pytest.raises(ParameterError, match="give batch="):
        from_learner(learner)

    def batch(X):
        return {"numbers": torch.tensor(X, dtype=torch.float32)}

    seen = from_learner(learner, batch=batch, n_draws=20, random_state=0)(X)
    assert (seen.uncertainty > 0).all()
    curved = from_learner(learner, "laplace", batch=batch, X=X)(X)
    learner.eval()
    with torch.no_grad():
        plain = learner(batch(X)).log_probabilities[:, 1].exp().numpy()
    assert ((curved.score > 0.5) == (plain > 0.5)).all()
    funnel = ResponseNet(DropoutTrunk(3, hidden_sizes=(8,), dropout=0.5), labels=3)
    with pytest.raises(ParameterError, match="give probability="):
        from_learner(funnel, batch=batch)(X)
    last = from_learner(
        funnel, batch=batch, probability=lambda out: out.log_probabilities[:, 2].exp()
    )
    assert last(X).score.shape == (20,)
    with pytest.raises(ParameterError, match="one logistic unit"):
        from_learner(
            funnel, "laplace", batch=batch, X=X,
            probability=lambda out: out.log_probabilities[:, 2].exp(),
        )  # fmt: skip


def test_a_function_says_what_is_uncertain(table):
    X, y = table(100, 0)
    fitted = LogisticRegression().fit(X, y)
    seen = from_learner(fitted, lambda X: X[:, 0])(X)
    assert np.array_equal(seen.uncertainty, X[:, 0])
    assert np.array_equal(seen.score, fitted.predict_proba(X)[:, 1])
    both = CallableUncertainty(fitted, lambda X: (X[:, 1], X[:, 2])).fit(X, y)(X)
    assert np.array_equal(both.score, X[:, 1])
    with pytest.raises(DataError, match=r"uncertainty of shape \(3,\) for 100 rows"):
        from_learner(fitted, lambda X: np.zeros(3))(X)
    with pytest.raises(ParameterError, match="function must be callable"):
        CallableUncertainty(LogisticRegression()).fit(X, y)


def test_providers_pass_through_and_dead_ends_say_what_would_do(table):
    X, y = table(100, 0)
    provider = CallableUncertainty(LogisticRegression(), lambda X: X[:, 0]).fit(X, y)
    assert from_learner(provider) is provider
    with pytest.raises(ParameterError, match="no members and no dropout"):
        from_learner(LinearSVC().fit(X, y))
    with pytest.raises(ParameterError, match="needs X="):
        from_learner(LogisticRegression().fit(X, y))
    with pytest.raises(ParameterError, match="no fitted ensemble"):
        from_learner(LogisticRegression().fit(X, y), "ensemble")
    with pytest.raises(ParameterError, match="its own provider"):
        from_learner(LogisticRegression().fit(X, y), "posterior_network")


def test_missing_values_pass_through_the_network(table):
    X, y = table(300, 0)
    X[::7, 1] = np.nan
    model = NetworkClassifier(hidden_sizes=(8,), min_steps=60, epochs=1, random_state=0,
                              threads=1).fit(X, y)  # fmt: skip
    assert np.isfinite(model.predict_proba(X)).all()
    assert isinstance(from_learner(model)(X), Uncertain)
