"""Classifiers that are retrained at one instant on labels that are not final."""

from __future__ import annotations

import json
import warnings

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import check_estimator

from foretell.data.events import EventLog
from foretell.errors import DataError, NotMatureError, ParameterError
from foretell.estimators.feedback import SNAPSHOT_METHODS, SnapshotClassifier
from foretell.estimators.feedback.recalibration import IsotonicMap, LogitShift, fit_recalibration

TREES = HistGradientBoostingClassifier(
    max_iter=30, max_leaf_nodes=6, min_samples_leaf=40, early_stopping=False
)
WINDOW = 96.0


def simulate(n=20_000, seed=0, until=600.0, drift=0.6):
    """A funnel whose law of x is known: entities, P(Y within W | x, t)."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, until + 200, n))
    x = rng.standard_normal((n, 3))
    score = 0.9 * x[:, 0] + drift * np.sin(t / 400)
    engages = rng.random(n) < 1 / (1 + np.exp(-score))
    p = 1 / (1 + np.exp(-(-0.2 + 0.9 * x[:, 1] + drift * np.sin(t / 400 - 0.2))))
    view = rng.exponential(4 * np.exp(0.3 * x[:, 2]), n)
    rate = 30 * np.exp(0.3 * x[:, 2])
    conversion = view + rng.exponential(rate, n)
    converts = engages & (rng.random(n) < p) & (conversion <= WINDOW)
    views = engages & (view <= WINDOW)
    ids = np.arange(n)
    entities = pl.DataFrame({"id": ids, "t": t, **{f"x{j}": x[:, j] for j in range(3)}})
    outcomes = pl.concat(
        pl.DataFrame({"id": ids[on], "t_outcome": (t + d)[on]}).with_columns(
            pl.lit(kind).alias("kind")
        )
        for kind, on, d in (("view", views, view), ("conversion", converts, conversion))
    )
    return EventLog.from_frames(entities, outcomes, attribution_window=WINDOW)


@pytest.fixture(scope="module")
def log():
    return simulate()


def nll(y, p):
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -np.where(y > 0, np.log(p), np.log(1 - p)).mean()


def fitted(log, method, now=600, since=510.0, **options):
    options = {"engagement": "view", "auxiliary": TREES, **options}
    return SnapshotClassifier(TREES, method, **options).fit(log, now, since=since)


# ---------------------------------------------------------------- what it is for


def test_corrections_close_most_of_the_gap_to_final_labels(log):
    test = log.select((log.times > 600) & (log.times <= 640))
    y = test.label()
    loss, ratio = {}, {}
    for method in SNAPSHOT_METHODS:
        p = fitted(log, method).predict_proba(test)[:, 1]
        loss[method], ratio[method] = nll(y, p), p.mean() / y.mean()
    gap = loss["naive"] - loss["oracle"]
    for method in ("fsiw", "soft", "funnel", "average"):
        assert loss[method] < loss["history"] < loss["naive"], loss
        assert (loss["naive"] - loss[method]) / gap > 0.75, loss
    assert loss["funnel"] < loss["fsiw"], loss
    assert ratio["naive"] < 0.7 and 0.85 < ratio["funnel"] < 1.15, ratio


def test_outcomes_after_now_change_no_prediction():
    log = simulate(5000)
    rng = np.random.default_rng(0)
    entities, outcomes = log.to_polars()
    late = outcomes["t_outcome"].to_numpy() > 600
    times = outcomes["t_outcome"].to_numpy().copy()
    times[late] = rng.permutation(times[late])
    ids = outcomes["id"].to_numpy().copy()
    ids[late] = rng.permutation(ids[late])
    shuffled = outcomes.with_columns(pl.Series("t_outcome", times), pl.Series("id", ids))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        other = EventLog.from_frames(entities, shuffled, attribution_window=WINDOW, max_early=1.0)
    assert not np.array_equal(other.delay(), log.delay())
    X = log.matrix(np.arange(200))
    tree = DecisionTreeClassifier(max_depth=4)
    for method in ("naive", "history", "fsiw", "soft", "funnel", "average"):
        for options in ({}, {"weights": "plain", "recalibration": "shift"}):
            model = SnapshotClassifier(tree, method, engagement="view", auxiliary=tree, **options)
            left = clone(model).fit(log, 600, since=510).predict_proba(X)
            right = clone(model).fit(other, 600, since=510).predict_proba(X)
            np.testing.assert_array_equal(left, right, err_msg=f"{method} {options}")


def test_the_oracle_needs_final_labels(log):
    with pytest.raises(NotMatureError, match="final labels"):
        fitted(log.until(620), "oracle")


# ---------------------------------------------------------------- recalibration and card


def test_the_plain_funnel_is_too_high_and_the_shift_takes_it_down():
    # Early engagers convert far more often at equal x: the plain product must be too high.
    rng = np.random.default_rng(1)
    n = 16_000
    t = np.sort(np.concatenate([np.zeros(n // 2), np.full(n // 2, 1000.0)]))
    early = rng.random(n) < 0.5
    view = np.where(early, rng.uniform(1, 10, n), rng.uniform(40, 60, n))
    converts = rng.random(n) < np.where(early, 0.7, 0.2)
    conversion = np.where(converts, view + rng.uniform(1, 30, n), np.inf)
    ids = np.arange(n)
    entities = pl.DataFrame({"id": ids, "t": t, "x": rng.standard_normal(n)})
    outcomes = pl.concat(
        pl.DataFrame({"id": ids[np.isfinite(d)], "t_outcome": (t + d)[np.isfinite(d)]})
        .with_columns(pl.lit(kind).alias("kind"))
        for kind, d in (("view", view), ("conversion", conversion))
    )  # fmt: skip
    log = EventLog.from_frames(entities, outcomes, attribution_window=100.0)
    test = log.select(log.times == 1000)
    ratio = {}
    for name, options in {
        "bare": {"weights": "plain", "recalibration": None},
        "shift": {"weights": "plain"},
        "isotonic": {"weights": "plain", "recalibration": "isotonic"},
        "exact": {},
    }.items():
        model = fitted(log, "funnel", now=1030, since=1000, **options)
        ratio[name] = model.predict_proba(test)[:, 1].mean() / test.label().mean()
        shift = model.model_card_["shift"]
        assert (shift == 0) == (name in ("bare", "exact")) or shift is None
    assert ratio["bare"] > 1.25, ratio
    for name in ("shift", "isotonic", "exact"):
        assert abs(ratio[name] - 1) < 0.06, ratio


def test_logit_shift_makes_means_equal():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.9, 5000)
    y = rng.random(5000) < 1 / (1 + np.exp(-(np.log(p / (1 - p)) - 0.7)))
    found = LogitShift.fit(p, y)
    assert found(p).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert found.shift == pytest.approx(-0.7, abs=0.1)
    assert LogitShift.fit(p, np.zeros(5000)).shift == -10
    assert LogitShift.fit(p, np.ones(5000)).shift == 10
    smooth = IsotonicMap.fit(p, y)(np.linspace(0, 1, 50))
    assert (np.diff(smooth) >= 0).all() and 0 < smooth.min() and smooth.max() < 1
    with pytest.raises(ParameterError, match="recalibration must be"):
        fit_recalibration("platt", p, y)


def test_the_model_card_says_what_was_done(log):
    model = fitted(log, "funnel", weights="plain")
    card = json.loads(json.dumps(model.model_card_))
    assert card["method"] == "funnel" and card["engagement"] == [["view"]] and card["now"] == 600
    assert card["shift"] != 0 and card["recalibration"] == "shift"
    for size in card["effective_sample_size"].values():
        assert 0 < size["effective"] <= size["rows"] and size["largest_weight"] <= 20
    view = log.until(600)
    assert card["rows"] == (view.times >= 510).sum() and card["rows_history"] == view.matured.sum()


def test_a_few_effective_rows_are_an_alarm():
    rng = np.random.default_rng(0)
    n = 4000
    t = np.repeat([0.0, 1000.0], n // 2)
    delay = np.where(rng.random(n) < 0.999, rng.uniform(1, 99, n), np.inf)
    ids = np.arange(n)
    on = np.isfinite(delay)
    log = EventLog.from_frames(
        pl.DataFrame({"id": ids, "t": t, "x": rng.standard_normal(n)}),
        pl.DataFrame({"id": ids[on], "t_outcome": (t + delay)[on]}),
        attribution_window=100.0,
    )
    with pytest.warns(UserWarning, match="rows of equal weight"):
        SnapshotClassifier(TREES, "fsiw").fit(log, 1001.5, since=500)


# ---------------------------------------------------------------- as an estimator


@pytest.mark.parametrize("inner", [LogisticRegression(), DecisionTreeClassifier()])
def test_scikit_learn_accepts_it(inner):
    check_estimator(SnapshotClassifier(inner))


def test_fit_on_final_labels_is_the_estimator_itself():
    rng = np.random.default_rng(0)
    X, weight = rng.standard_normal((300, 3)), rng.random(300)
    y = np.where(X[:, 0] > 0, "kept", "cancelled")
    model = SnapshotClassifier(LogisticRegression()).fit(X, y, weight)
    plain = LogisticRegression().fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    assert set(model.predict(X)) == {"kept", "cancelled"}


@pytest.mark.parametrize("method", ["naive", "history", "fsiw", "soft", "funnel", "average"])
def test_seeds_are_repeated_and_parameters_stay(log, method):
    model = SnapshotClassifier(
        DecisionTreeClassifier(max_depth=4, max_features=1), method, engagement="view",
        auxiliary=DecisionTreeClassifier(max_depth=3), random_state=3,
    )  # fmt: skip
    X = log.matrix(np.arange(50))
    first = clone(model).fit(log, 600, since=500).predict_proba(X)
    np.testing.assert_array_equal(first, clone(model).fit(log, 600, since=500).predict_proba(X))
    assert model.estimator.random_state is None
    assert first.shape == (50, 2)
    np.testing.assert_allclose(first.sum(1), 1)


def test_lightgbm(log):
    lightgbm = pytest.importorskip("lightgbm")
    inner = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        model = SnapshotClassifier(inner, engagement="view").fit(log, 600, since=500)
        p = model.predict_proba(log)[:, 1]
    assert len(p) == len(log) and ((p > 0) & (p < 1)).all()


def test_missing_values_reach_the_estimator(log):
    entities, outcomes = log.to_polars()
    holes = entities.with_columns(
        pl.when(pl.col("x0") < -1).then(None).otherwise(pl.col("x0")).alias("x0")
    )
    other = EventLog.from_frames(holes, outcomes, attribution_window=WINDOW)
    model = fitted(other, "funnel")
    assert np.isfinite(model.predict_proba(other)).all()
    with pytest.raises(ValueError, match="NaN"):
        SnapshotClassifier(LogisticRegression(), "naive").fit(other, 600)


def test_categories_of_another_log_are_matched_by_name():
    def make(names, n=2000, seed=0):
        rng = np.random.default_rng(seed)
        colour = rng.choice(names, n)
        t = np.sort(rng.uniform(0, 100, n))
        hit = (colour == names[0]) & (rng.random(n) < 0.9)
        outcomes = pl.DataFrame({"id": np.flatnonzero(hit), "t_outcome": t[hit] + 1})
        return EventLog.from_frames(
            pl.DataFrame({"id": np.arange(n), "t": t, "colour": colour}), outcomes,
            attribution_window=5.0,
        )  # fmt: skip

    model = SnapshotClassifier(TREES, "naive").fit(make(["red", "tan"]), 100)
    other = make(["red", "blue", "tan"], seed=1)
    p, colour = model.predict_proba(other)[:, 1], other.frame()["colour"].to_numpy()
    assert p[colour == "red"].min() > 0.7 and p[colour == "tan"].max() < 0.2
    with pytest.raises(DataError, match="features"):
        model.predict_proba(simulate(50))


def test_engagement_is_predicted_too(log):
    model = fitted(log, "funnel")
    test = log.select(log.times > 620)
    p = model.predict_engagement(test)
    assert (p >= model.predict_proba(test)[:, 1]).all()
    assert p.mean() == pytest.approx(test.label("view").mean(), rel=0.1)
    with pytest.raises(ParameterError, match="funnel"):
        fitted(log, "fsiw").predict_engagement(test)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("method", ["history", "fsiw", "soft", "funnel"])
def test_nothing_has_matured(log, method):
    with pytest.raises(NotMatureError, match="earliest workable now is 9"):
        fitted(log, method, now=50, since=0.0)
    assert fitted(log, "naive", now=50, since=0.0).predict_proba(log).shape == (len(log), 2)


def test_no_conversion_at_all_is_a_constant():
    entities = pl.DataFrame({"id": [1, 2, 3], "t": [0.0, 1.0, 2.0], "x": [0.0, 1.0, 2.0]})
    log = EventLog.from_frames(entities, attribution_window=10.0)
    with pytest.warns(UserWarning, match="it is a constant"):
        p = SnapshotClassifier(TREES, "naive").fit(log, 5).predict_proba(log)
    np.testing.assert_array_equal(p[:, 1], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method must be one of"),
        ({"method": "funnel", "engagement": ()}, "needs engagement="),
        ({"method": "average", "average": ()}, "at least one"),
        ({"method": "average", "average": ("average",)}, "method must be one of"),
        ({"method": "fsiw", "recalibration": "platt"}, "recalibration must be"),
        ({"method": "fsiw", "folds": 1}, "folds must be at least 2"),
        ({"method": "fsiw", "estimator": 7}, "estimator must be a classifier"),
        ({"method": "fsiw", "estimator": KNeighborsClassifier()}, "takes no sample_weight"),
        ({"method": "fsiw", "estimator": make_pipeline(StandardScaler(), LogisticRegression())},
         "takes no sample_weight"),
    ],
)  # fmt: skip
def test_parameters_out_of_range(log, options, message):
    model = SnapshotClassifier(**{"estimator": TREES, "engagement": "view", **options})
    with pytest.raises(ParameterError, match=message):
        model.fit(log, 600)


def test_misuse(log):
    with pytest.raises(ParameterError, match="needs an instant"):
        SnapshotClassifier(TREES).fit(log)
    with pytest.raises(ParameterError, match="sample_weight must be None"):
        SnapshotClassifier(TREES).fit(log, 600, np.ones(len(log)))
    with pytest.raises(ValueError, match="Only binary"):
        SnapshotClassifier(TREES).fit(np.zeros((6, 1)), [0, 1, 2, 0, 1, 2])
