"""Studies of snapshot methods, on a simulated log and on the public data."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from foretell.data.events import EventLog
from foretell.errors import DataError, NotMatureError, ParameterError
from foretell.evaluation.feedback import (
    Snapshot,
    bookings_protocol,
    coupons_protocol,
    feedback_audit,
    offers_protocol,
    snapshot_methods,
    snapshot_study,
)


def small_log(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    t, x = np.sort(rng.uniform(0, 400, n)), rng.standard_normal(n)
    view = np.where(rng.random(n) < 0.7, rng.exponential(5, n), np.inf)
    ends = view + rng.exponential(20, n)
    conversion = np.where(rng.random(n) < 1 / (1 + np.exp(-x)), ends, np.inf)
    tables = []
    for kind, delay in (("view", view), ("conversion", conversion)):
        on = delay <= 60
        tables.append(
            pl.DataFrame({"id": np.flatnonzero(on), "t_outcome": (t + delay)[on]}).with_columns(
                pl.lit(kind).alias("kind")
            )
        )
    entities = pl.DataFrame({"id": np.arange(n), "t": t, "x": x})
    return EventLog.from_frames(entities, pl.concat(tables), attribution_window=60.0)


SNAPSHOTS = (Snapshot("early", 200, (201, 260)), Snapshot("late", 300, (301, 360), since=240))


def test_a_study_is_tidy_and_repeatable():
    log = small_log()
    methods = snapshot_methods(
        LogisticRegression(), engagement="view", auxiliary=LogisticRegression(),
        names=["naive", "fsiw", "funnel", "oracle"],
    )  # fmt: skip
    study = snapshot_study(log, SNAPSHOTS, methods, seeds=(0, 1), resamples=100)
    assert study.scores.height == 2 * 4 * 2
    again = snapshot_study(log, SNAPSHOTS, methods, seeds=(0, 1), resamples=100)
    assert study.scores.equals(again.scores) and study.intervals.equals(again.intervals)
    late = study.scores.filter((pl.col("snapshot") == "late") & (pl.col("method") == "fsiw"))
    assert study.estimate("fsiw", "nll", "late") == pytest.approx(late["nll"].mean())
    assert study.estimate("fsiw", "nll") < study.estimate("naive", "nll")
    value, low, high = study.interval("fsiw", "nll", versus="naive")
    assert low <= value <= high < 0
    assert study.predictions.height == sum(
        ((log.times >= b) & (log.times < e)).sum() for b, e in (s.test for s in SNAPSHOTS)
    )
    table = study.to_polars()
    assert table.height == 3 * 4 and table["estimate_nll"].is_not_null().all()
    found = json.loads(study.to_json())
    assert len(found["scores"]) == 16 and found["cards"][0]["method"] == "naive"


def test_no_method_but_the_oracle_is_given_the_future():
    seen = []

    class Spy:
        def __init__(self, method="spy"):
            self.method = method

        def get_params(self, deep=True):
            return {"method": self.method}

        def set_params(self, **params):
            return self

        def fit(self, X, y, **options):
            seen.append((self.method, X.now, X.times.max(), options))
            return self

        def predict_proba(self, X):
            return np.full((len(X), 2), 0.5)

    log = small_log()
    snapshot_study(
        log, SNAPSHOTS[:1], {"spy": Spy(), "oracle": Spy("oracle")}, resamples=10, gap=None
    )
    assert seen[0][1] == 200 and seen[0][2] <= 200 and np.isinf(seen[1][1])
    assert seen[0][3] == {"since": -np.inf, "history": None}


def test_tests_need_final_labels_and_entities():
    log, methods = small_log(), snapshot_methods(LogisticRegression(), names=["naive"])
    with pytest.raises(NotMatureError, match="test labels are not final"):
        snapshot_study(log.until(330), SNAPSHOTS[1:], methods)
    with pytest.raises(ParameterError, match="no entity lies in the test"):
        snapshot_study(log, [Snapshot("s", 200, (900, 901))], methods)
    with pytest.raises(ParameterError, match="begins at or before the instant of training"):
        snapshot_study(log, [Snapshot("s", 200, (150, 260))], methods)
    with pytest.raises(ParameterError, match="names of snapshots must differ"):
        snapshot_study(log, [SNAPSHOTS[0]] * 2, methods)
    with pytest.raises(ParameterError, match="at least one snapshot"):
        snapshot_study(log, [], methods)
    with pytest.raises(ParameterError, match="not among the methods"):
        snapshot_methods(names=["funnel"])
    with pytest.raises(ParameterError, match="clusters"):
        snapshot_study(log, SNAPSHOTS[:1], methods, clusters=np.zeros(3))


# ---------------------------------------------------------------- audit


def test_the_audit_sees_through_truncation():
    log = small_log(12_000)
    complete = log.delay()
    truth = [(complete[np.isfinite(complete)] <= s).mean() for s in (10, 30)]
    audit = feedback_audit(
        log, 150, engagement="view", ages=[10, 30], auxiliary=LogisticRegression(),
        probabilities=np.full((log.times <= 150).sum(), 0.3),
    )  # fmt: skip
    curve = audit.delay_curve.filter(pl.col("kind") == "conversion")
    shares = {k: v["share"].to_numpy() for (k,), v in curve.group_by("estimate")}
    np.testing.assert_allclose(shares["product_limit"], truth, atol=0.04)
    assert (shares["visible"] > shares["product_limit"]).all()
    fake = [np.isfinite(complete[complete > s]).mean() for s in (10, 30)]
    np.testing.assert_allclose(audit.fake_negatives["share"], fake, atol=0.03)
    assert set(audit.weights["method"]) == {"fsiw", "soft", "funnel"}
    assert (audit.weights["effective_share"] <= 1).all()
    corrected = audit.weights.filter(pl.col("method") == "fsiw")["mean_label_corrected"][0]
    assert corrected == pytest.approx(log.label()[log.times <= 150].mean(), abs=0.03)
    assert audit.calibration.height == 5 and audit.calibration["period"][0] == "all"
    assert len(audit.plot().data) >= 6 and audit.notes == ()
    assert set(audit.to_polars()) == {
        "summary", "delay_curve", "fake_negatives", "weights", "calibration"
    }  # fmt: skip
    assert audit.summary["matured"][0] == (log.times + 60 <= 150).sum()


def test_the_audit_of_a_log_without_history_says_so():
    log = small_log()
    audit = feedback_audit(log, 20, probabilities=np.full((log.times <= 20).sum(), 0.3))
    assert audit.calibration is None and audit.weights.height == 0
    assert any("earliest workable now" in note for note in audit.notes)
    assert any("no entity has matured" in note for note in audit.notes)
    with pytest.raises(ParameterError, match="no entity lies before"):
        feedback_audit(log, -1)
    with pytest.raises(ParameterError, match="one for each"):
        feedback_audit(log, 200, probabilities=[0.1])


def test_the_audit_says_where_nobody_has_engaged():
    rng = np.random.default_rng(0)
    times, converts = np.arange(200.0), rng.random(200) < 0.4
    outcomes = {"id": np.flatnonzero(converts), "t_outcome": times[converts] + 2}
    log = EventLog.from_frames(
        {"id": np.arange(200), "t": times, "x": rng.normal(size=200)},
        {**outcomes, "kind": ["conversion"] * int(converts.sum())},
        attribution_window=10.0,
        kinds=["view"],
    )
    audit = feedback_audit(log, 150, engagement=("view",), since=150)
    assert audit.weights["method"].to_list() == ["fsiw", "soft", "funnel"]
    assert any("nobody has come so far" in note for note in audit.notes)


def test_outcomes_after_now_do_not_change_the_audit():
    log = small_log()
    audits = [feedback_audit(other, 150, methods=()) for other in (log, log.until(150))]
    for name, table in audits[0].to_polars().items():
        assert table.equals(audits[1].to_polars()[name]), name


def test_protocols_keep_only_what_is_complete():
    rng = np.random.default_rng(0)
    n = 4000
    lead, booked = rng.integers(0, 400, n).astype(float), rng.integers(-300, 800, n).astype(float)
    day = np.datetime64("2015-07-01") + booked.astype(int)
    entities = pl.DataFrame(
        {"id": np.arange(n), "t": day, "arrival": day + lead.astype(int), "lead_time": lead}
    )
    # The source holds the arrivals between two dates only.
    inside = pl.col("arrival").is_between(pl.date(2015, 7, 1), pl.date(2017, 8, 31))
    log = EventLog.from_frames(
        entities.filter(inside), attribution_window=737.0, deadline="arrival", unit="d"
    )
    kept = bookings_protocol(log, ["2016-04-01"]).log
    full = (lead <= 180) & (booked >= 0) & (booked < 793 - 180)
    assert len(kept) == full.sum() and kept.matured.all()
    with pytest.raises(DataError, match="no feature 'lead_time'"):
        bookings_protocol(small_log())
    offers = offers_protocol(small_log(), [(100.0, 20.0)], test_wave=370.0)
    assert offers.log.window == 60.0 and offers.snapshots[0].now == 120


# ---------------------------------------------------------------- public data


@pytest.mark.real_data
def test_starbucks_offers_reach_the_required_order(data_set):
    from foretell.data.public.feedback import starbucks

    trees = HistGradientBoostingClassifier(
        max_iter=50, learning_rate=0.12, max_leaf_nodes=8, min_samples_leaf=60
    )
    protocol = offers_protocol(starbucks(data_set("starbucks_offers")), [(336.0, 48.0)])
    methods = snapshot_methods(trees, engagement=protocol.engagement, auxiliary=trees)
    study = snapshot_study(
        protocol.log,
        protocol.snapshots,
        {name: m for name, m in methods.items() if name not in ("funnel-plain", "average")},
        clusters=protocol.clusters,
        resamples=200,
    )
    nll = {m: study.estimate(m, "nll") for m in study.scores["method"].unique()}
    assert nll["funnel"] <= 0.53, nll
    assert study.estimate("funnel", "auc") >= study.estimate("fsiw", "auc") + 0.004
    assert study.estimate("funnel", "gap_closed") >= 0.85
    assert nll["soft+engagement"] <= nll["soft"]
    for method in ("soft", "soft+engagement", "fsiw", "funnel"):
        assert nll[method] < nll["history"] < nll["naive"], nll
    assert study.interval("funnel", "nll", versus="history")[2] < 0


@pytest.mark.real_data
def test_hotel_bookings_are_better_predicted_with_corrected_labels(data_set):
    from foretell.data.public.feedback import hotel_bookings

    trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=12, early_stopping=False)
    protocol = bookings_protocol(hotel_bookings(data_set("hotel_bookings")), ["2016-04-01"])
    assert protocol.log.matured.all() and (protocol.log.windows <= 181).all()
    study = snapshot_study(
        protocol.log,
        protocol.snapshots,
        snapshot_methods(trees, auxiliary=trees, names=["naive", "history", "soft", "oracle"]),
        clusters=protocol.clusters,
        resamples=200,
    )
    nll = {m: study.estimate(m, "nll") for m in study.scores["method"].unique()}
    assert nll["soft"] < nll["history"] and nll["soft"] < nll["naive"], nll
    with pytest.raises(ParameterError, match="beyond the complete bookings"):
        bookings_protocol(hotel_bookings(data_set("hotel_bookings")), ["2017-02-20"])


@pytest.mark.real_data
def test_coupons_go_through_from_end_to_end(data_set):
    from foretell.data.public.feedback import completejourney

    protocol = coupons_protocol(completejourney(data_set("completejourney")))
    trees = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=6, early_stopping=False)
    study = snapshot_study(
        protocol.log,
        protocol.snapshots,
        snapshot_methods(
            trees,
            engagement=protocol.engagement,
            auxiliary=trees,
            names=["naive", "soft+engagement", "funnel", "oracle"],
        ),
        clusters=protocol.clusters,
        resamples=100,
    )
    assert study.intervals.filter(pl.col("metric") != "gap_closed")["estimate"].is_finite().all()
    for method in study.scores["method"].unique():
        value, low, high = study.interval(method, "auc")
        assert low <= value <= high and high - low > 0.02
