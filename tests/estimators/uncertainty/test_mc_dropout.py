from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from foretell.errors import ParameterError
from foretell.estimators.feedback import DelayedFeedbackClassifier
from foretell.estimators.uncertainty import MCDropoutUncertainty, NetworkClassifier, from_learner
from foretell.estimators.uncertainty.mc_dropout import dropout_layers, thinned


def network(dropout: float = 0.3) -> NetworkClassifier:
    return NetworkClassifier(hidden_sizes=(16,), dropout=dropout, min_steps=80, epochs=1,
                             random_state=0, threads=1)  # fmt: skip


@pytest.fixture(scope="module")
def model(table):
    return MCDropoutUncertainty(network(), n_draws=8, random_state=0).fit(*table(400, 0))


def test_draws_are_the_same_for_a_row_whatever_stands_beside_it(model, table):
    X, _ = table(30, 1)
    all_at_once = model(X)
    one_by_one = [model(X[i : i + 1]) for i in range(len(X))]
    assert np.array_equal(all_at_once.score, model(X).score)
    assert np.concatenate([s.score for s in one_by_one]) == pytest.approx(all_at_once.score)
    spread = np.concatenate([s.uncertainty for s in one_by_one])
    assert spread == pytest.approx(all_at_once.uncertainty, abs=1e-6)


def test_units_are_dropped_at_the_layers_rate(model, table):
    X, _ = table(5, 1)
    layer = dropout_layers(model.estimator_)[0]
    shares = []
    handle = None
    for draw in range(200):
        with thinned(model.estimator_, 0, draw):
            kept = []
            handle = layer.register_forward_hook(
                lambda m, i, o, kept=kept: kept.append((i[0] != 0) & (o == 0))
            )
            model.estimator_.predict_proba(X)
            handle.remove()
            mask = torch.cat(kept)
            # One draw is one set of weights: a unit is dropped for every row or for none.
            active = kept[0].any(0)
            shares.append(active.double().mean().item())
    # LeakyReLU has no zeros of its own, so that every dropped unit is seen.
    assert len(mask) == 5
    assert np.mean(shares) == pytest.approx(0.3, abs=0.03)


def test_nothing_is_left_behind(model, table):
    X, _ = table(50, 1)
    before = model.estimator_.predict_proba(X)
    model(X)
    assert np.array_equal(model.estimator_.predict_proba(X), before)
    assert not any(layer._forward_hooks for layer in dropout_layers(model.estimator_))


def test_the_draws_surround_the_plain_prediction(model, table):
    X, _ = table(200, 2)
    draws = model.draws(X)
    assert draws.shape == (200, 8)
    plain = model.estimator_.predict_proba(X)[:, 1]
    assert np.corrcoef(draws.mean(1), plain)[0, 1] > 0.97
    assert (draws.std(1) > 0).all()


def test_without_dropout_there_is_nothing_to_draw(table):
    X, y = table(60, 0)
    with pytest.raises(ParameterError, match="no dropout layer with a rate above 0"):
        MCDropoutUncertainty(network(0.0)).fit(X, y)
    with pytest.raises(ParameterError, match="no dropout layer"):
        MCDropoutUncertainty(LogisticRegression()).fit(X, y)
    with pytest.raises(ParameterError, match="n_draws must be at least 2"):
        MCDropoutUncertainty(network(), n_draws=1).fit(X, y)


def test_a_delayed_feedback_classifier_with_a_base_of_ones_own(table):
    X, y = table(300, 0)
    base = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.4))
    fitted = DelayedFeedbackClassifier(base, "vanilla", random_state=0).fit(X, y)
    dropped = from_learner(fitted, n_draws=10, random_state=0)
    assert isinstance(dropped, MCDropoutUncertainty)
    assert (dropped(X).uncertainty > 0).all()
    curved = from_learner(fitted, "laplace", X=X)(X)
    assert (curved.uncertainty > 0).all()
