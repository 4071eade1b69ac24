"""The classifier of late labels: its life on a log, and as a classifier of final labels."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.utils.estimator_checks import check_estimator

from foretell.data.events import EmissionEngine, EventLog
from foretell.data.simulators.funnel_stream import funnel_stream
from foretell.errors import ArtefactError, DataError, NotFittedError, NotMatureError, ParameterError
from foretell.estimators.feedback import METHODS, DelayedFeedbackClassifier
from foretell.estimators.feedback.auxiliary import FittedAuxiliary
from foretell.estimators.feedback.method import get_method

SMALL = {
    "hidden_sizes": (16,),
    "batch_norm": False,
    "learning_rate": 1e-2,
    "waiting_time": 2.0,
}
STREAM_METHODS = (
    "vanilla", "wait", "oracle", "fnw", "fnc", "esdfm", "defer", "defuse", "bidefuse", "ulc",
    "ddfm", "funnel",
)  # fmt: skip


@pytest.fixture(scope="module")
def log() -> EventLog:
    return funnel_stream("short_window", seed=0, days=6.0, rate=60.0)[0]


def _classifier(method: str, auxiliary: str = "auto", **settings) -> DelayedFeedbackClassifier:
    engagement = ("view",) if method == "funnel" else ()
    return DelayedFeedbackClassifier(
        method=method, auxiliary=auxiliary, engagement=engagement, **{**SMALL, **settings}
    )


def _modes():
    return [(name, mode) for name in STREAM_METHODS for mode in get_method(name).modes]


@pytest.mark.parametrize(("method", "auxiliary"), _modes())
def test_every_method_learns_saves_and_goes_on(method, auxiliary, log, tmp_path):
    clf = _classifier(method, auxiliary).fit_history(log, 72.0)
    rows = log.emit(**clf.emission(), since=72.0, until=80.0)
    for hour in range(72, 78):
        assert clf.partial_fit(rows.between(hour, hour + 1)) is clf
    assert clf.updates_ == 6
    p = clf.predict_proba(log)
    assert p.shape == (len(log), 2)
    assert np.isfinite(p).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert p.sum(1) == pytest.approx(1)
    assert p[:, 1].std() > 0.01
    weights = clf.sample_weight(rows)
    assert weights.shape == (len(rows),)
    assert np.isfinite(weights).all()
    assert weights.min() >= 0
    assert weights.max() <= 20
    assert 0 < clf.effective_share_ <= 1 + 1e-6
    clf.save(tmp_path)
    again = DelayedFeedbackClassifier.load(tmp_path)
    assert again.get_params().keys() == clf.get_params().keys()
    assert_array_equal(again.predict_proba(log), p)
    assert_array_equal(again.sample_weight(rows), weights)
    for one in (clf, again):
        one.partial_fit(rows.between(78.0, 80.0))
    assert_array_equal(again.predict_proba(log), clf.predict_proba(log))


def test_the_unit_of_time_does_not_matter(log):
    entities, outcomes = log.to_polars()
    seconds = EventLog.from_frames(
        entities.with_columns(pl.col("t") * 4096.0),
        outcomes.with_columns(pl.col("t_outcome") * 4096.0),
        attribution_window=log.window * 4096.0,
    )
    results = []
    for view, scale in ((log, 1.0), (seconds, 4096.0)):
        clf = _classifier("funnel", "self", waiting_time=2.0 * scale)
        clf.fit_history(view, 72.0 * scale)
        rows = view.emit(**clf.emission(), since=72.0 * scale, until=80.0 * scale)
        results.append(clf.partial_fit(rows).predict_proba(view))
        results.append(clf.predict_delay(view, 5.0 * scale))
    assert_array_equal(results[0], results[2])
    assert_array_equal(results[1], results[3])


def test_vanilla_and_corrected_methods_wait_equally_long(log):
    waits = {m: _classifier(m).fit_history(log, 72.0).emission()["waiting_time"]
             for m in ("vanilla", "esdfm", "defuse")}  # fmt: skip
    assert set(waits.values()) == {2.0}


def test_delay_and_engagement(log):
    clf = _classifier("funnel").fit_history(log, 120.0)
    curve = np.stack([clf.predict_delay(log, s) for s in (0.0, 1.0, 2.0, 6.0, 12.0, 24.0)])
    assert (np.diff(curve, axis=0) >= -1e-6).all()
    assert curve[-1] == pytest.approx(1)
    delay = log.until(120.0).delay()[log.until(120.0).matured]
    seen = delay[np.isfinite(delay)]
    assert curve[3].mean() == pytest.approx((seen <= 6).mean(), abs=0.12)
    engaged = clf.predict_engagement(log)
    assert (engaged >= clf.predict_proba(log)[:, 1] - 1e-6).all()
    truth = log.label("view").mean()
    assert engaged.mean() == pytest.approx(truth, abs=0.12)
    with pytest.raises(ParameterError, match="engagement"):
        _classifier("esdfm").fit_history(log, 72.0).predict_engagement(log)
    with pytest.raises(ParameterError, match="delay model"):
        _classifier("esdfm", "frozen").fit_history(log, 72.0).predict_delay(log, 1.0)


@pytest.mark.filterwarnings("ignore:only")
def test_a_funnel_that_is_not_strict_has_a_fourth_label():
    rng = np.random.default_rng(0)
    n = 3000
    t, x = np.sort(rng.uniform(0, 100, n)), rng.normal(size=n)
    views, buys = rng.random(n) < 0.5, rng.random(n) < 0.3
    outcomes = pl.concat([
        pl.DataFrame({"id": np.flatnonzero(k), "t_outcome": t[k] + rng.exponential(4, k.sum())})
        .with_columns(pl.lit(kind).alias("kind"))
        for kind, k in (("view", views), ("conversion", buys))
    ])  # fmt: skip
    entities = pl.DataFrame({"id": np.arange(n), "t": t, "x": x})
    log = EventLog.from_frames(entities, outcomes, attribution_window=20.0)
    for mode in ("self", "frozen"):
        clf = _classifier("funnel", mode, strict=False).fit_history(log, 60.0)
        rows = log.emit(**clf.emission(), since=60.0, until=80.0)
        assert set(np.unique(rows.label)) == {0, 1, 2, 3}
        for hour in range(60, 80):
            clf.partial_fit(rows.between(hour, hour + 1))
        assert clf.predict_proba(log)[:, 1].mean() == pytest.approx(0.3, abs=0.06)


def test_automatic_waiting_time_is_a_quantile_of_matured_delays(log):
    clf = _classifier("esdfm", waiting_time="auto").fit_history(log, 72.0)
    view = log.until(72.0)
    delays = view.delay()[view.matured]
    assert clf.waiting_time_ == pytest.approx(np.quantile(delays[np.isfinite(delays)], 0.1))
    with pytest.raises(ParameterError, match="shorter than the attribution window"):
        _classifier("esdfm", waiting_time=24.0).fit_history(log, 72.0)
    assert _classifier("esdfm", waiting_time="2h").fit_history(log, 72.0).waiting_time_ == 2.0


def test_too_young_a_log_names_the_earliest_moment(log):
    with pytest.raises(NotMatureError, match="earliest workable now") as caught:
        _classifier("esdfm").fit_history(log, 10.0)
    earliest = caught.value.earliest
    with pytest.raises(NotMatureError):  # no window at all is over
        _classifier("esdfm").fit_history(log, log.times[0] + log.window - 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _classifier("esdfm").fit_history(log, earliest)
    with pytest.raises(NotMatureError, match="fit_history"):
        _classifier("esdfm").partial_fit(log.emit("esdfm", 2.0, until=5.0))
    for method in ("fnw", "wait"):
        clf = _classifier(method).fit_history(log, 10.0)
        rows = log.emit(**clf.emission(), since=10.0, until=40.0)
        assert np.isfinite(clf.partial_fit(rows).predict_proba(log)).all()
        fresh = _classifier(method).partial_fit(rows)
        assert np.isfinite(fresh.predict_proba(log)).all()


def test_few_matured_conversions_fall_back_to_the_pooled_rate(log):
    view = log.until(26.0)
    delays = view.delay()[view.matured]
    assert 0 < np.isfinite(delays).sum() < 40
    with pytest.warns(UserWarning, match="pooled rate"):
        clf = _classifier("esdfm").fit_history(log, 26.0)
    rows = log.emit(**clf.emission(), since=26.0, until=30.0)
    survival = clf.auxiliaries_[0].columns(clf.transform_(log.matrix(rows.entity)), rows)
    assert len(survival["survival"].unique()) == 1
    assert np.isfinite(clf.partial_fit(rows).predict_proba(log)).all()
    with warnings.catch_warnings():  # told once; and with more examples it is learned after all
        warnings.simplefilter("error")
        clf.partial_fit(log.emit(**clf.emission(), since=30.0, until=80.0))
    assert not clf.auxiliaries_[0].scarce
    survival = clf.auxiliaries_[0].columns(clf.transform_(log.matrix(rows.entity)), rows)
    assert len(survival["survival"].unique()) > 10


def test_an_hour_of_negatives_and_an_hour_of_nothing(log):
    for method in ("funnel", "esdfm", "fnw", "defer", "defuse", "ddfm", "bidefuse"):
        clf = _classifier(method).fit_history(log, 72.0)
        rows = log.emit(**clf.emission(), since=72.0, until=80.0)
        negative = rows.select(rows.label == 0)
        assert np.isfinite(clf.sample_weight(negative)).all()
        assert np.isfinite(clf.partial_fit(negative).predict_proba(log)).all()
        before = clf.predict_proba(log)
        clf.partial_fit(rows.select(np.zeros(len(rows), bool)))
        assert_array_equal(clf.predict_proba(log), before)


def test_nearly_worthless_weights_raise_an_alarm(log):
    clf = _classifier("esdfm").fit_history(log, 72.0)
    rows = log.emit(**clf.emission(), since=72.0, until=74.0)
    with torch.no_grad():  # every row is now believed to convert
        clf.learner_.head.bias.fill_(30.0)
    chosen = np.flatnonzero(rows.label == 0)[:200]
    chosen = np.sort(np.r_[chosen, np.flatnonzero(rows.label == 1)[:1]])
    with pytest.warns(UserWarning, match="rows of equal weight"):
        clf.partial_fit(rows.select(chosen))
    assert np.isfinite(clf.predict_proba(log)).all()


def test_catching_up_uses_nothing_later(log):
    clf = _classifier("esdfm").fit_history(log, 72.0, catch_up=True)
    short = _classifier("esdfm").fit_history(log.until(72.0), catch_up=True)
    assert_array_equal(clf.predict_proba(log), short.predict_proba(log))
    assert not np.array_equal(
        clf.predict_proba(log), _classifier("esdfm").fit_history(log, 72.0).predict_proba(log)
    )


def test_same_seed_same_model(log):
    first = _classifier("funnel").fit_history(log, 72.0).predict_proba(log)
    assert_array_equal(_classifier("funnel").fit_history(log, 72.0).predict_proba(log), first)
    other = _classifier("funnel", random_state=1).fit_history(log, 72.0).predict_proba(log)
    assert not np.array_equal(other, first)


def test_rows_of_another_protocol_are_refused(log):
    clf = _classifier("esdfm").fit_history(log, 72.0)
    with pytest.raises(ParameterError, match="protocol 'esdfm'"):
        clf.partial_fit(log.emit("wait", until=80.0))
    with pytest.raises(ParameterError, match="waiting time of 5"):
        clf.partial_fit(log.emit("esdfm", 5.0, until=80.0))


def test_wrong_settings_say_so(log):
    with pytest.raises(ParameterError, match="unknown method 'esdmf'"):
        _classifier("esdmf").fit_history(log)
    with pytest.raises(ParameterError, match="own prediction"):
        _classifier("ulc", "self").fit_history(log)
    with pytest.raises(ParameterError, match="needs engagement"):
        DelayedFeedbackClassifier(method="funnel", **SMALL).fit_history(log)
    with pytest.raises(ParameterError, match="exact"):
        _classifier("fnw", weights="best").fit_history(log)
    with pytest.raises(ParameterError, match="'mlp'"):
        _classifier("fnw", base="forest").fit_history(log)
    with pytest.raises((NotFittedError, ValueError)):
        _classifier("fnw").predict_proba(log)
    assert set(STREAM_METHODS) <= set(METHODS)
    assert DelayedFeedbackClassifier().method_name == "esdfm"
    assert DelayedFeedbackClassifier(engagement="view").method_name == "funnel"


def test_a_module_of_ones_own(log, tmp_path):
    base = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh())
    before = base[0].weight.clone()
    clf = _classifier("esdfm", base=base).fit_history(log, 72.0)
    assert clf.predict_proba(log)[:, 1].std() > 0.01
    assert torch.equal(base[0].weight, before)
    with pytest.raises(ParameterError, match="cannot be saved"):
        clf.save(tmp_path)


def test_categories_and_gaps_are_part_of_the_model(tmp_path):
    rng = np.random.default_rng(0)
    n = 1500
    colour = rng.choice(["red", "green", "blue"], n)
    x = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))
    p = np.where(colour == "red", 0.7, 0.1)
    t = np.sort(rng.uniform(0, 60, n))
    hit = np.flatnonzero(rng.random(n) < p)
    outcomes = {"id": hit, "t_outcome": t[hit] + rng.exponential(2, len(hit))}
    entities = {"id": np.arange(n), "t": t, "colour": colour, "x": x}
    log = EventLog.from_frames(pl.DataFrame(entities), pl.DataFrame(outcomes),
                               attribution_window=10.0)  # fmt: skip
    clf = _classifier("esdfm", waiting_time=0.5).fit_history(log, 50.0)
    p = clf.predict_proba(log)[:, 1]
    assert p[colour == "red"].mean() > 0.5
    assert p[colour != "red"].mean() < 0.25
    clf.save(tmp_path)
    assert_array_equal(DelayedFeedbackClassifier.load(tmp_path).predict_proba(log)[:, 1], p)


def test_a_damaged_file_is_refused(log, tmp_path):
    _classifier("fnw").fit_history(log, 72.0).save(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ArtefactError):
        DelayedFeedbackClassifier.load(tmp_path)


def test_final_labels_as_any_classifier():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    clf = DelayedFeedbackClassifier(**SMALL).fit(X, y)
    assert clf.score(X, y) > 0.9
    assert clf.classes_.tolist() == ["no", "yes"]
    clf.partial_fit(X, y)
    with pytest.raises(DataError, match="not among"):
        clf.partial_fit(X, np.full(300, "maybe"))
    with pytest.raises(DataError, match="binary"):
        DelayedFeedbackClassifier(**SMALL).fit(X, np.arange(300) % 3)
    weight = np.where(X[:, 1] > 0, 1.0, 0.0)
    mixed = np.where(X[:, 1] > 0, y, "no")
    clf = DelayedFeedbackClassifier(**SMALL).fit(X, mixed, sample_weight=weight)
    assert clf.score(X[weight > 0], y[weight > 0]) > 0.9


def test_scikit_learn_checks():
    # Weights and repeated rows give the same loss, but standardisation counts rows, and float32
    # sums in another order: equal to a few digits, not to seven.
    expected = {"check_sample_weight_equivalence_on_dense_data": "float32 network"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(
            DelayedFeedbackClassifier(hidden_sizes=(16,), learning_rate=1e-2),
            expected_failed_checks=expected,
        )


def test_labels_that_are_taken_back_need_final_or_soft_labels():
    rng = np.random.default_rng(0)
    n = 800
    t = np.sort(rng.uniform(0, 60, n))
    hit = np.flatnonzero(rng.random(n) < 0.4)
    bought = t[hit] + rng.exponential(3, len(hit))
    outcomes = pl.concat([
        pl.DataFrame({"id": hit, "t_outcome": bought})
        .with_columns(pl.lit("conversion").alias("kind")),
        pl.DataFrame({"id": hit[::3], "t_outcome": bought[::3] + 1.0})
        .with_columns(pl.lit("refund").alias("kind")),
    ])  # fmt: skip
    entities = pl.DataFrame({"id": np.arange(n), "t": t, "x": rng.normal(size=n)})
    log = EventLog.from_frames(entities, outcomes, attribution_window=10.0, revocation="refund")
    with pytest.raises(ParameterError, match="refund"):
        _classifier("esdfm").fit_history(log, 40.0)
    for method in ("ulc", "wait"):
        clf = _classifier(method).fit_history(log, 40.0)
        rows = log.emit(**clf.emission(), since=40.0, until=60.0)
        assert np.isfinite(clf.partial_fit(rows).predict_proba(log)).all()


def test_arrays_and_logs_are_predicted_alike(log):
    clf = _classifier("esdfm").fit_history(log, 72.0)
    assert_array_equal(clf.predict_proba(log.matrix()), clf.predict_proba(log))
    with pytest.raises((DataError, ValueError), match="features"):
        clf.predict_proba(np.zeros((2, 3)))


def test_live_rows_refresh_auxiliary_nets_as_those_of_a_log_do(log, monkeypatch):
    """Of the entities that emit a row as they mature, all are converters: not all that mature."""
    learned: list[list[int]] = []

    def refresh(self, matured, inputs):
        learned.append(matured.ids.tolist())

    monkeypatch.setattr(FittedAuxiliary, "refresh", refresh)

    def play(rows_until):
        learned.clear()
        clf = _classifier("esdfm", "refresh", epochs=1).fit_history(log, until=60.0)
        for now in (64.0, 68.0, 72.0, 76.0):
            clf.partial_fit(rows_until(clf, now))
        return list(learned)

    engine = EmissionEngine(log, "esdfm", SMALL["waiting_time"])
    entities, outcomes = log.to_polars()
    engine.push_entities(entities.filter(pl.col("t") <= 76))
    engine.push_outcomes(outcomes.filter(pl.col("t_outcome") <= 76))
    engine.advance(60.0)
    live = play(lambda clf, now: engine.advance(now))
    assert live == play(lambda clf, now: log.emit(**clf.emission(), since=now - 4, until=now))
    shares = log.label()[log.positions(np.concatenate(live[1:]))].mean()
    assert shares == pytest.approx(log.label()[log.matured].mean(), abs=0.15)
