"""Weights of snapshot corrections against closed forms and known laws."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier

from foretell.data.events import EventLog
from foretell.errors import NotFittedError, NotMatureError, ParameterError
from foretell.estimators.feedback import SnapshotCorrector
from foretell.estimators.feedback.snapshot_view import SnapshotView, draw_ages, funnel_stages
from foretell.estimators.feedback.snapshot_weights import soft_weights, step_weights

TABLE = DecisionTreeClassifier()  # one leaf for each x: the frequencies themselves
# Counts are exact but for the floor of 1e-6 a row on weights that would be 0.


def make_log(x, t, view=None, conversion=None, window=100.0, **options) -> EventLog:
    """Delays (n,), +inf for never."""
    n = len(t)
    parts = []
    for kind, delay in (("view", view), ("conversion", conversion)):
        if delay is not None:
            rows = np.flatnonzero(np.isfinite(delay))
            parts.append(
                pl.DataFrame(
                    {"id": rows, "kind": [kind] * len(rows), "t_outcome": (t + delay)[rows]},
                    schema={"id": pl.Int64, "kind": pl.String, "t_outcome": pl.Float64},
                )
            )
    entities = pl.DataFrame({"id": np.arange(n), "t": t, "x": np.asarray(x, float)})
    return EventLog.from_frames(entities, pl.concat(parts), attribution_window=window, **options)


def funnel_delays(x, rng):
    """A strict funnel in which who engages early converts more often, at equal x."""
    n = len(x)
    engages = rng.random(n) < np.where(x > 0, 0.7, 0.4)
    early = rng.random(n) < 0.6
    view = np.where(
        engages, np.where(early, rng.integers(1, 20, n), rng.integers(20, 90, n)), np.inf
    )
    converts = engages & (rng.random(n) < np.where(early, 0.7, 0.3) + 0.1 * x)
    conversion = np.where(converts, view + rng.integers(0, 60, n), np.inf)
    conversion[conversion > 100] = np.inf
    return view, conversion


def two_cohorts(n=3000, age=30.0, seed=0):
    """The same entities long ago and ``age`` ago: frequencies of the one are laws of the other."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, n)
    view, conversion = funnel_delays(x, rng)
    log = make_log(
        np.tile(x, 2), np.repeat([0.0, 1000.0], n), np.tile(view, 2), np.tile(conversion, 2)
    )
    final = np.isfinite(view).astype(int) + np.isfinite(conversion)
    return log, 1000.0 + age, x, final


def masses(x, y, weight, levels):
    return np.array([[weight[(x == v) & (y == k)].sum() for k in range(levels)] for v in (0, 1)])


# ---------------------------------------------------------------- closed forms


def test_step_weights_restore_the_law_of_all_who_reach_the_stage():
    # P(Y|E) differs between early and late engagers: P(D_E<=a|E,Y) = .9, P(D_E<=a|E,not Y) = .6.
    p_y, early, slow, seen = np.array([0.5, 0.6]), 0.9, 0.6, np.array([0.3, 0.2])
    engaged_now = p_y * early + (1 - p_y) * slow
    positive = p_y * seen  # D <= a implies D_E <= a
    unlabelled = engaged_now - positive
    final = (1 - p_y) * slow / unlabelled
    w1 = step_weights(np.ones(2), seen, final, slow)
    w0 = step_weights(np.zeros(2), seen, final, slow)
    np.testing.assert_allclose(positive * w1, p_y, atol=1e-12)
    np.testing.assert_allclose(unlabelled * w0, 1 - p_y, atol=1e-12)
    # FSIW among the engaged, as if they were no selection, is biased towards conversion.
    plain = step_weights(np.zeros(2), seen / early, final)
    biased = positive * early / seen / (positive * early / seen + unlabelled * plain)
    np.testing.assert_allclose(biased, p_y * early / engaged_now, atol=1e-12)
    assert (biased > p_y + 0.05).all()


def test_fsiw_weights_restore_the_law():
    p, seen = np.array([0.2, 0.5]), np.array([0.5, 0.2])
    unlabelled = 1 - p * seen
    weight = step_weights(np.zeros(2), seen, (1 - p) / unlabelled)
    np.testing.assert_allclose(unlabelled * weight, 1 - p, atol=1e-12)
    np.testing.assert_allclose(p * seen * step_weights(np.ones(2), seen, 0.5), p, atol=1e-12)


def test_weights_are_clipped():
    weight = step_weights(
        [1, 1, 0, 0], [0.01, 0.5, 0.5, 0.5], [0.5, 0.5, 0.0, 1.0], [1, 1, 1, 1e-9]
    )
    np.testing.assert_allclose(weight, [20, 2, 1e-6, 20])


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_soft_weights_keep_every_row_at_weight_one(rows):
    visible, flip = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    at, y, weight = soft_weights(visible, flip)
    np.testing.assert_allclose(np.bincount(at, weight, len(rows)), 1)
    ones = np.bincount(at, weight * y, len(rows))
    np.testing.assert_allclose(ones, np.where(visible, 1 - flip, flip), atol=1e-12)


# ---------------------------------------------------------------- exact on frequencies


@pytest.mark.parametrize("age", [10.0, 30.0, 70.0])
def test_saturated_weights_give_the_final_counts_exactly(age):
    log, now, x, final = two_cohorts(age=age)
    counts = masses(x, final, np.ones(len(x)), 3)
    binary = np.stack([counts[:, :2].sum(1), counts[:, 2]], axis=1)

    def corrected(method, engagement):
        made = SnapshotCorrector(method, engagement, auxiliary=TABLE, clip=1e-3)
        return made.fit(log, now, since=500), made.transform(log, now, since=500)

    for method, engagement in (("fsiw", ()), ("soft", ()), ("fsiw", "view"), ("soft", "view")):
        _, rows = corrected(method, engagement)
        found = masses(rows.X[:, 0], rows.y, rows.sample_weight, 2)
        np.testing.assert_allclose(found, binary, atol=1e-3, err_msg=f"{method} {engagement}")
    made, rows = corrected("funnel", "view")
    np.testing.assert_allclose(
        masses(rows.X[:, 0], rows.y, rows.sample_weight, 3), counts, atol=1e-3
    )
    engaged, converted = made.steps(log, now, since=500)
    found = masses(engaged.X[:, 0], engaged.y, engaged.sample_weight, 2)
    np.testing.assert_allclose(found, np.stack([counts[:, 0], counts[:, 1:].sum(1)], 1), atol=1e-3)
    found = masses(converted.X[:, 0], converted.y, converted.sample_weight, 2)
    np.testing.assert_allclose(found, counts[:, 1:], atol=1e-3)
    naive = (log.until(now).label()[len(x) :] > 0).sum()
    assert naive < 0.97 * counts[:, 2].sum()


def test_three_stages_are_exact_too():
    rng = np.random.default_rng(1)
    n = 4000
    x = rng.integers(0, 2, n)
    view, cart = funnel_delays(x, rng)
    bought = np.where(
        np.isfinite(cart) & (rng.random(n) < 0.5), cart + rng.integers(0, 10, n), np.inf
    )
    bought[bought > 100] = np.inf
    t = np.repeat([0.0, 1000.0], n)
    tables = [
        pl.DataFrame({"id": np.flatnonzero(np.isfinite(d)), "t_outcome": (t + d)[np.isfinite(d)]})
        .with_columns(pl.lit(kind).alias("kind"))
        for kind, d in zip(("view", "cart", "conversion"),
                           (np.tile(view, 2), np.tile(cart, 2), np.tile(bought, 2)), strict=True)
    ]  # fmt: skip
    entities = pl.DataFrame({"id": np.arange(2 * n), "t": t, "x": np.tile(x, 2).astype(float)})
    log = EventLog.from_frames(entities, pl.concat(tables), attribution_window=100.0)
    made = SnapshotCorrector("funnel", (("view",), ("cart",)), auxiliary=TABLE, clip=1e-3)
    rows = made.fit(log, 1030, since=500).transform(log, 1030, since=500)
    final = sum(np.isfinite(d).astype(int) for d in (view, cart, bought))
    found = masses(rows.X[:, 0], rows.y, rows.sample_weight, 4)
    np.testing.assert_allclose(found, masses(x, final, np.ones(n), 4), atol=1e-3)
    assert len(made.steps(log, 1030)) == 3


def test_corrections_are_unbiased_under_a_known_delay_law():
    # Continuous ages, P(Y|x) and exponential delays known; auxiliaries are learned.
    rng = np.random.default_rng(3)
    n, window = 40_000, 100.0
    x = rng.integers(0, 2, n).astype(float)
    t = rng.uniform(0, 600, n)
    rate, p = np.where(x > 0, 40.0, 15.0), np.where(x > 0, 0.5, 0.2)
    # The delay law is cut at the window, so that p is exactly P(Y within W | x).
    delay = -rate * np.log1p(-rng.random(n) * -np.expm1(-window / rate))
    log = make_log(x, t, conversion=np.where(rng.random(n) < p, delay, np.inf), window=window)
    tree = DecisionTreeClassifier(min_samples_leaf=400)
    for method in ("fsiw", "soft"):
        made = SnapshotCorrector(method, auxiliary=tree, replicates=2)
        rows = made.fit(log, 600, since=500).transform(log, 600, since=500)
        for value, truth in ((0, 0.2), (1, 0.5)):
            here = rows.X[:, 0] == value
            found = np.average(rows.y[here], weights=rows.sample_weight[here])
            error = np.sqrt(truth * (1 - truth) / (here.sum() / 2)) * 2.5
            assert abs(found - truth) < 3 * error, (method, value, found)
    young = log.until(600).times >= 500
    naive = log.until(600).label()[young].mean()
    assert naive < 0.75 * 0.35


# ---------------------------------------------------------------- what is never seen


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["fsiw", "soft", "funnel"]))
def test_outcomes_after_now_change_nothing(seed, method):
    rng = np.random.default_rng(seed)
    n, now = 600, 300.0
    x, t = rng.integers(0, 2, n), rng.uniform(0, 400, n)
    view, conversion = funnel_delays(x, rng)
    changed = []
    for delay in (view, conversion):
        future = (t + delay > now) & (t <= now + 1e9)
        other = delay.copy()
        # Outcomes after now are dealt out anew, and every second one is dropped.
        late = np.flatnonzero(future)
        other[late] = np.where(rng.random(len(late)) < 0.5, np.inf, (now - t[late]) + 1e-6
                               + rng.uniform(0, 50, len(late)))  # fmt: skip
        other[(t > now) & np.isfinite(other)] = 5.0
        changed.append(other)
    made = []
    for views, conversions in ((view, conversion), tuple(changed)):
        log = make_log(x, t, views, conversions)
        corrector = SnapshotCorrector(method, "view", auxiliary=DecisionTreeClassifier(max_depth=3))
        made.append(corrector.fit(log, now, since=100).transform(log, now, since=100))
    for left, right in zip(*made, strict=True):
        np.testing.assert_array_equal(left, right)


def test_rows_of_matured_entities_keep_their_final_label_and_weight_one():
    rng = np.random.default_rng(0)
    x, t = rng.integers(0, 2, 2000), rng.uniform(0, 400, 2000)
    view, conversion = funnel_delays(x, rng)
    log = make_log(x, t, view, conversion)
    old = log.until(300).matured
    for method in ("fsiw", "soft", "funnel"):
        rows = SnapshotCorrector(method, "view").fit(log, 300).transform(log, 300)
        matured = old[rows.rows]
        np.testing.assert_array_equal(rows.sample_weight[matured], 1)
        assert matured.sum() == old.sum()
        label = log.label()[rows.rows[matured]]
        np.testing.assert_array_equal(rows.y[matured] == rows.y.max(), label == 1)


# ---------------------------------------------------------------- ages


def test_ages_are_borrowed_from_rows_with_windows_like_their_own():
    def view(age, windows):
        n = len(age)
        return SnapshotView(np.zeros((n, 1)), np.full((1, n), np.inf), age, windows, 100.0)

    targets = view(np.repeat([5.0, 60.0], 100), np.repeat([10.0, 100.0], 100))
    history = view(np.repeat([10.0, 100.0], 50), np.repeat([10.0, 100.0], 50))
    rows, ages = draw_ages(history, targets, 3, np.random.default_rng(0))
    assert len(rows) == 300 and (ages < history.windows[rows]).all()
    assert np.mean(ages[rows < 50] == 5.0) > 0.7 and np.mean(ages[rows >= 50] == 60.0) > 0.7


def test_a_view_cannot_be_older_than_it_is():
    view = SnapshotView(np.zeros((1, 1)), np.zeros((1, 1)), np.array([5.0]), np.array([9.0]), 9.0)
    with pytest.raises(ParameterError, match="age that it has not reached"):
        view.aged(np.array([6.0]))


def test_funnel_stages():
    assert funnel_stages("view") == (("view",),)
    assert funnel_stages(("view", "tap")) == (("view", "tap"),)
    assert funnel_stages((("view", "tap"), "cart")) == (("view", "tap"), ("cart",))
    assert funnel_stages(()) == ()


def test_a_conversion_without_engagement_has_engaged():
    log = make_log([0, 0], np.zeros(2), np.array([50.0, np.inf]), np.array([20.0, 30.0]))
    view = SnapshotView.of(log, (("view",),))
    np.testing.assert_array_equal(view.reach, [[20, 30], [20, 30]])


# ---------------------------------------------------------------- bad input


def test_nothing_has_matured():
    log = make_log([0, 1], np.array([0.0, 5.0]), conversion=np.array([np.inf, 10.0]))
    with pytest.raises(NotMatureError, match="earliest workable now is 105") as caught:
        SnapshotCorrector().fit(log, 20)
    assert caught.value.earliest == 105


def test_no_conversion_has_matured():
    log = make_log([0, 1, 1], np.array([0.0, 50.0, 60.0]), conversion=np.array([np.inf, 20.0, 1.0]))
    with pytest.raises(NotMatureError, match=r"no matured entity converted.*150"):
        SnapshotCorrector().fit(log, 120)


def test_few_conversions_fall_back_to_the_rate_by_age():
    rng = np.random.default_rng(0)
    n = 400
    delay = np.where(np.arange(n) % 40 == 0, rng.uniform(1, 90, n), np.inf)
    log = make_log(rng.integers(0, 2, n), rng.uniform(0, 300, n), conversion=delay)
    with pytest.warns(UserWarning, match="its rate by age alone"):
        rows = SnapshotCorrector().fit(log, 300).transform(log, 300)
    assert np.isfinite(rows.sample_weight).all() and (rows.sample_weight > 0).all()
    assert rows.sample_weight.max() <= 20


def revocable_log(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    t, x = np.repeat([0.0, 1000.0], n), np.tile(rng.integers(0, 2, n), 2)
    bought = np.tile(np.where(rng.random(n) < 0.4, rng.integers(0, 50, n), np.inf), 2)
    refund = np.tile(np.where(rng.random(n) < 0.3, rng.integers(1, 40, n), np.inf), 2) + bought
    parts = [
        pl.DataFrame(
            {"id": np.flatnonzero(np.isfinite(d)), "t_outcome": (t + d)[np.isfinite(d)]}
        ).with_columns(pl.lit(kind).alias("kind"))
        for kind, d in (("conversion", bought), ("refund", refund))
    ]
    entities = pl.DataFrame({"id": np.arange(2 * n), "t": t, "x": x.astype(float)})
    log = EventLog.from_frames(
        entities, pl.concat(parts), attribution_window=100.0, revocation="refund"
    )
    return log, x[:n], np.isfinite(bought[:n]) & np.isinf(refund[:n])


@pytest.mark.parametrize("method", ["fsiw", "funnel"])
def test_labels_that_can_be_taken_back_are_refused(method):
    log, _, _ = revocable_log(100)
    with pytest.raises(ParameterError, match="labels that only rise"):
        SnapshotCorrector(method, "refund" if method == "funnel" else ()).fit(log, 1030)


def test_a_conversion_is_taken_back_by_the_first_revocation_after_it():
    """A revocation before the conversion, of something earlier, does not hide a later one."""
    log = EventLog.from_frames(
        {"id": [1, 2], "t": [0.0, 0.0]},
        {
            "id": [1, 1, 1, 2, 2],
            "kind": ["refund", "conversion", "refund", "refund", "conversion"],
            "t_outcome": [1.0, 2.0, 3.0, 1.0, 2.0],
        },
        attribution_window=10.0,
        revocation="refund",
    )
    view = SnapshotView.of(log)
    assert view.final.tolist() == log.label().tolist() == [0, 1]
    assert view.aged(np.array([2.5, 2.5])).visible.tolist() == [True, True]


def test_soft_labels_take_labels_that_are_taken_back():
    log, x, final = revocable_log()
    made = SnapshotCorrector("soft", auxiliary=TABLE).fit(log, 1030, since=500)
    rows = made.transform(log, 1030, since=500)
    found = masses(rows.X[:, 0], rows.y, rows.sample_weight, 2)
    np.testing.assert_allclose(found, masses(x, final, np.ones(len(x)), 2), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fsi"}, "method must be one of"),
        ({"method": "funnel"}, "needs engagement="),
        ({"weights": "other"}, "'exact' or 'plain'"),
        ({"clip": 0.0}, "clip must lie inside"),
        ({"replicates": 0}, "replicates must be at least 1"),
        ({"auxiliary": 3}, "auxiliary must be a classifier"),
    ],
)
def test_parameters_out_of_range(options, message):
    log, now, *_ = two_cohorts(50)
    with pytest.raises(ParameterError, match=message):
        SnapshotCorrector(**options).fit(log, now)


def test_misuse():
    log, now, *_ = two_cohorts(100)
    with pytest.raises(NotFittedError, match="call fit"):
        SnapshotCorrector().transform(log, now)
    with pytest.raises(ParameterError, match="no entity lies between"):
        SnapshotCorrector().fit(log, now, since=now + 1)
    with pytest.raises(ParameterError, match="steps belong to method 'funnel'"):
        SnapshotCorrector("soft").steps(log, now)
    with pytest.raises(ParameterError, match="no outcome of kind 'tap'"):
        SnapshotCorrector("funnel", "tap").fit(log, now)


def test_all_orders_of_the_same_events_give_the_same_rows():
    log, now, *_ = two_cohorts(60)
    entities, outcomes = log.to_polars()
    results = []
    for flip_entities, flip_outcomes in itertools.product((False, True), repeat=2):
        other = EventLog.from_frames(
            entities[::-1] if flip_entities else entities,
            outcomes[::-1] if flip_outcomes else outcomes,
            attribution_window=100.0,
        )
        made = SnapshotCorrector("soft", auxiliary=TABLE)
        results.append(made.fit(other, now, since=500).transform(other, now, since=500))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].sample_weight, other.sample_weight)
