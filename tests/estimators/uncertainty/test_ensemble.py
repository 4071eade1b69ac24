from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from foretell.errors import ParameterError
from foretell.estimators.uncertainty import EnsembleUncertainty, FittedEnsemble, from_learner
from foretell.estimators.uncertainty.ensemble import summarise


def test_mean_and_std_of_the_members(table):
    X, y = table(400, 0)
    model = EnsembleUncertainty(LogisticRegression(), n_members=5, random_state=3).fit(X, y)
    by_hand = np.column_stack([m.predict_proba(X)[:, 1] for m in model.estimators_])
    seen = model(X)
    assert seen.score == pytest.approx(by_hand.mean(1))
    assert seen.uncertainty == pytest.approx(by_hand.std(1))
    assert model.predict_proba(X)[:, 1] == pytest.approx(seen.score)


def test_members_differ_and_a_seed_repeats_them(table):
    X, y = table(300, 0)
    first = EnsembleUncertainty(random_state=1).fit(X, y)
    again = EnsembleUncertainty(random_state=1).fit(X, y)
    other = EnsembleUncertainty(random_state=2).fit(X, y)
    assert np.array_equal(first(X).score, again(X).score)
    assert not np.array_equal(first(X).score, other(X).score)
    assert (first(X).uncertainty > 0).mean() > 0.5


def test_uncertainty_shrinks_with_data(table):
    X, _ = table(200, 9)
    spreads = []
    for n in (200, 5000):
        model = EnsembleUncertainty(LogisticRegression(), n_members=20, random_state=0)
        spreads.append(model.fit(*table(n, 1))(X).uncertainty.mean())
    # Standard errors fall with the root of the rows: 1 to 5.
    assert 3 < spreads[0] / spreads[1] < 8


def test_mutual_information_is_that_of_member_and_label():
    scores = np.array([[0.0, 1.0], [0.5, 0.5], [0.2, 0.6]])
    mean, information = summarise(scores, "mutual_information")
    assert mean == pytest.approx([0.5, 0.5, 0.4])
    assert information[:2] == pytest.approx([np.log(2), 0.0], abs=1e-12)
    joint = np.array([[0.2, 0.6], [0.8, 0.4]]) / 2
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    assert information[2] == pytest.approx((joint * np.log(joint / outer)).sum())


def test_rows_of_weight_zero_are_never_drawn(table):
    X, y = table(400, 0)
    weight = np.ones(400)
    weight[200:] = 0
    y_spoilt = y.copy()
    y_spoilt[200:] = 1 - y_spoilt[200:]
    model = EnsembleUncertainty(GaussianNB(), n_members=4, random_state=0)
    kept = model.fit(X, y, sample_weight=weight)(X).score
    assert np.array_equal(model.fit(X, y_spoilt, sample_weight=weight)(X).score, kept)


def test_both_classes_are_in_every_sample(table):
    X, _ = table(500, 0)
    y = np.zeros(500, int)
    y[7] = 1
    model = EnsembleUncertainty(LogisticRegression(), n_members=12, random_state=0).fit(X, y)
    assert all(len(member.classes_) == 2 for member in model.estimators_)


def test_data_frames_reach_the_members_as_they_are(table):
    pd = pytest.importorskip("pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    X, y = table(300, 0)
    frame = pd.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "up", "down")})
    base = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["b"]), remainder="passthrough"),
        LogisticRegression(),
    )
    model = EnsembleUncertainty(base, n_members=3, random_state=0).fit(frame, y)
    assert model(frame).score.shape == (300,)
    assert list(model.feature_names_in_) == ["a", "b"]


def test_fitted_forests_are_read_member_by_member(table):
    X, y = table(400, 0)
    names = np.array(["no", "yes"])[y]
    forest = RandomForestClassifier(20, min_samples_leaf=5, random_state=0).fit(X, names)
    seen = from_learner(forest)(X)
    assert seen.score == pytest.approx(forest.predict_proba(X)[:, 1])
    assert seen.uncertainty.min() >= 0 and seen.uncertainty.max() > 0.05
    bag = BaggingClassifier(DecisionTreeClassifier(max_depth=3), 8, random_state=0).fit(X, y)
    assert from_learner(bag)(X).score == pytest.approx(bag.predict_proba(X)[:, 1])


def test_bagging_over_columns_is_refused(table):
    X, y = table(100, 0)
    bag = BaggingClassifier(max_features=0.5, random_state=0).fit(X, y)
    with pytest.raises(ParameterError, match="see different columns each"):
        from_learner(bag)


def test_a_list_of_fitted_models(table):
    X, y = table(300, 0)
    members = [LogisticRegression(C=c).fit(X, y) for c in (0.01, 1.0)]
    seen = from_learner(members)(X)
    by_hand = np.column_stack([m.predict_proba(X)[:, 1] for m in members])
    assert seen.uncertainty == pytest.approx(by_hand.std(1))
    with pytest.raises(ParameterError, match="at least 2 members, not 1"):
        FittedEnsemble(members[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_members": 1}, "n_members must be at least 2"),
        ({"max_samples": 0.0}, r"max_samples must lie in \(0, 1\]"),
        ({"uncertainty": "iqr"}, "std, mutual_information, range"),
    ],
)
def test_parameters_out_of_range_are_named(table, options, message):
    with pytest.raises(ParameterError, match=message):
        EnsembleUncertainty(**options).fit(*table(50, 0))
