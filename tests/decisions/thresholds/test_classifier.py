from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, TimeSeriesSplit
from sklearn.tree import DecisionTreeClassifier

from foretell.decisions.thresholds import fit_decision_surface
from foretell.decisions.thresholds.classifier import UncertaintyThresholdClassifier
from foretell.errors import ArtefactError, ParameterError
from foretell.estimators.uncertainty import (
    EnsembleUncertainty,
    LaplaceUncertainty,
    NetworkClassifier,
    PosteriorNetworkClassifier,
    from_learner,
)


def noisy(n: int, seed: int):
    """The label follows x0 where x1 is small and is a coin where it is large."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=n), rng.random(n)])
    sharp = 1 / (1 + np.exp(-4 * X[:, 0]))
    p = np.where(X[:, 1] < 0.5, sharp, 0.25 + 0.5 * sharp)
    return X, (rng.random(n) < p).astype(int)


def second_column(X):
    return np.asarray(X)[:, 1]


@pytest.fixture(scope="module")
def fitted():
    model = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.85, n_levels=2,
        binning="uncertainty_then_score",
    )  # fmt: skip
    return model.fit(*noisy(4000, 0))


def test_uncertainty_finds_more_at_the_same_precision(fitted):
    X, y = noisy(20_000, 1)
    report = fitted.report(X, y)
    assert report.surface.precision > 0.83
    assert report.surface.recall > 1.2 * report.single.recall
    called = fitted.predict(X) == 1
    assert y[called].mean() == pytest.approx(report.surface.precision)
    assert (X[called, 1] < 0.5).mean() > 0.7


def test_decisions_functions_and_probabilities_agree(fitted):
    X, _ = noisy(500, 2)
    labels = fitted.predict(X)
    assert np.array_equal(labels == 1, fitted.decision_function(X) > 0)
    p = fitted.predict_proba(X)
    assert p.sum(1) == pytest.approx(np.ones(500))
    seen = fitted.uncertain(X)
    assert np.array_equal(labels, fitted.surface_.predict(*seen))
    assert np.array_equal(p, fitted.surface_.predict_proba(*seen))


def test_out_of_fold_scores_make_the_surface():
    X, y = noisy(600, 0)
    model = UncertaintyThresholdClassifier(
        DecisionTreeClassifier(max_depth=4, random_state=0), second_column,
        min_precision=0.7, cv=KFold(3), n_levels=2,
    ).fit(X, y)  # fmt: skip
    score = np.zeros(600)
    for train, test in KFold(3).split(X):
        tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X[train], y[train])
        score[test] = tree.predict_proba(X[test])[:, 1]
    by_hand = fit_decision_surface(score, X[:, 1], y, min_precision=0.7, n_levels=2)
    assert np.array_equal(model.surface_.thresholds, by_hand.thresholds)
    whole = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y)
    assert np.array_equal(model.uncertain(X).score, whole.predict_proba(X)[:, 1])


def test_prefit_leaves_the_model_alone():
    X, y = noisy(800, 0)
    held, label = noisy(800, 1)
    inner = EnsembleUncertainty(LogisticRegression(), n_members=4, random_state=0).fit(X, y)
    before = inner(held)
    model = UncertaintyThresholdClassifier(inner, cv="prefit", min_precision=0.7).fit(held, label)
    assert model.provider_ is inner
    after = model.uncertain(held)
    assert np.array_equal(after.score, before.score)
    surface = fit_decision_surface(*before, label, min_precision=0.7)
    assert np.array_equal(surface.thresholds, model.surface_.thresholds)


def test_prefit_takes_what_from_learner_takes():
    X, y = noisy(800, 0)
    held, label = noisy(800, 1)
    forest = RandomForestClassifier(10, min_samples_leaf=10, random_state=0).fit(X, y)
    model = UncertaintyThresholdClassifier(forest, cv="prefit", min_precision=0.7)
    assert model.fit(held, label).surface_.feasible_
    network = NetworkClassifier(hidden_sizes=(8,), min_steps=60, epochs=1, random_state=0,
                                threads=1).fit(X, y)  # fmt: skip
    dropped = UncertaintyThresholdClassifier(network, cv="prefit", min_precision=0.7)
    assert dropped.fit(held, label).uncertain(held).uncertainty.max() > 0
    curved = from_learner(network, "laplace", X=X)
    assert UncertaintyThresholdClassifier(curved, cv="prefit").fit(held, label).provider_ is curved
    logistic = UncertaintyThresholdClassifier(LogisticRegression().fit(X, y), cv="prefit")
    with pytest.raises(ParameterError, match="needs X="):
        logistic.fit(held, label)


def test_text_classes_and_the_first_class_as_positive():
    X, y = noisy(1500, 0)
    names = np.array(["keep", "stop"])[y]
    turned = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.8, pos_label="keep"
    ).fit(X, names)
    plain = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.8
    ).fit(X, 1 - y)
    assert np.array_equal(turned.predict(X) == "keep", plain.predict(X) == 1)
    assert turned.predict_proba(X)[:, 0] == pytest.approx(plain.predict_proba(X)[:, 1], abs=1e-6)
    assert (turned.decision_function(X)[turned.predict(X) == "keep"] < 0).all()
    with pytest.raises(ParameterError, match=r"'sell' is not among the classes \['keep', 'stop'\]"):
        clone(turned).set_params(pos_label="sell").fit(X, names)


@pytest.mark.parametrize(
    ("classes", "label"), [([0, 1], -1), ([False, True], -1), (["a", "b"], "abstain")]
)
def test_abstaining_is_a_third_outcome(classes, label):
    X, y = noisy(3000, 0)
    model = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.8, abstain=True
    ).fit(X, np.array(classes)[y])
    decision = model.surface_.predict(*model.uncertain(X))
    assert (decision == -1).any()
    labels = model.predict(X)
    assert np.array_equal(labels == label, decision == -1)
    assert set(labels[decision >= 0].tolist()) <= set(classes)


def test_an_abstention_that_looks_like_a_class_is_refused():
    X, y = noisy(200, 0)
    model = UncertaintyThresholdClassifier(LogisticRegression(), second_column, abstain=True)
    with pytest.raises(ParameterError, match="abstain_label=-1 is one of the classes"):
        model.fit(X, 2 * y - 1)


def test_the_guarantee_reaches_the_surface():
    X, y = noisy(6000, 0)
    model = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.7, guarantee="ltt", delta=0.2, cv=2
    ).fit(X, y)
    assert model.surface_.guarantee.delta == 0.2
    fresh, label = noisy(20_000, 1)
    assert model.report(fresh, label).precision >= 0.69


def test_a_target_out_of_reach_predicts_nothing():
    rng = np.random.default_rng(0)
    # Two binary columns: no score is so rare that its rows are all positive by chance.
    X, y = rng.integers(0, 2, (400, 2)).astype(float), rng.integers(0, 2, 400)
    model = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.999, cv=2
    ).fit(X, y)
    assert not model.surface_.feasible_
    assert (model.predict(X) == 0).all()


def test_weights_reach_model_and_surface():
    X, y = noisy(1000, 0)
    spoilt = np.r_[y[:700], 1 - y[700:]]
    weight = np.r_[np.ones(700), np.zeros(300)]
    model = UncertaintyThresholdClassifier(
        LogisticRegression(), second_column, min_precision=0.7, cv=KFold(4)
    )
    first = model.fit(X, y, sample_weight=weight).surface_.thresholds.copy()
    second = model.fit(X, spoilt, sample_weight=weight).surface_.thresholds
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    "estimator",
    [
        EnsembleUncertainty(
            HistGradientBoostingClassifier(max_iter=3), n_members=2, random_state=0
        ),
        LaplaceUncertainty(LogisticRegression()),
        PosteriorNetworkClassifier(
            hidden_sizes=(8,),
            latent_size=2,
            flow_layers=2,
            min_steps=40,
            epochs=1,
            random_state=0,
            threads=1,
        ),
        LaplaceUncertainty(
            NetworkClassifier(hidden_sizes=(8,), min_steps=40, epochs=1, random_state=0, threads=1)
        ),
    ],
)
def test_saved_without_pickle_it_decides_the_same(estimator, tmp_path):
    X, y = noisy(500, 0)
    names = np.array(["no", "yes"])[y]
    model = UncertaintyThresholdClassifier(estimator, min_precision=0.7, cv=2).fit(X, names)
    model.save(tmp_path / "model")
    again = UncertaintyThresholdClassifier.load(tmp_path / "model")
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.predict_proba(X) == pytest.approx(model.predict_proba(X))
    assert again.uncertain(X).uncertainty == pytest.approx(model.uncertain(X).uncertainty)
    assert not [f for f in (tmp_path / "model").rglob("*") if f.suffix in (".pkl", ".joblib")]
    pickled = pickle.loads(pickle.dumps(model))
    assert np.array_equal(pickled.predict(X), model.predict(X))


def test_what_needs_a_pickle_says_so(tmp_path):
    X, y = noisy(300, 0)
    model = UncertaintyThresholdClassifier(min_precision=0.7, cv=2).fit(X, y)
    with pytest.raises(ArtefactError, match="DecisionTreeClassifier cannot be saved without"):
        model.save(tmp_path / "model")
    with pytest.raises(ArtefactError):
        UncertaintyThresholdClassifier.load(tmp_path / "nothing")
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_folds_that_leave_rows_out_are_refused():
    X, y = noisy(200, 0)
    model = UncertaintyThresholdClassifier(LogisticRegression(), second_column,
                                           cv=TimeSeriesSplit(3))  # fmt: skip
    with pytest.raises(ParameterError, match="cv='prefit' on later rows"):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cv": "fitted"}, "cv must be 'prefit'"),
        ({"uncertainty": "variance"}, "uncertainty must be ensemble"),
        ({"uncertainty": "posterior_network"}, "a model of its own"),
        ({"method": "greedy"}, "choose one of"),
        ({"min_precision": 1.5}, "min_precision"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    X, y = noisy(200, 0)
    with pytest.raises(ParameterError, match=message):
        UncertaintyThresholdClassifier(LogisticRegression(), **options).fit(X, y)


def test_one_class_is_refused():
    X, _ = noisy(50, 0)
    with pytest.raises(ValueError, match="one class only"):
        UncertaintyThresholdClassifier(LogisticRegression()).fit(X, np.ones(50))


def test_a_fitted_provider_without_fit_needs_prefit():
    X, y = noisy(200, 0)
    members = from_learner([LogisticRegression(C=c).fit(X, y) for c in (0.1, 1.0)])
    with pytest.raises(ParameterError, match="fitted already: use cv='prefit'"):
        UncertaintyThresholdClassifier(members).fit(X, y)
