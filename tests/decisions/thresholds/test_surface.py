"""`fit_decision_surface` and `DecisionSurface`: invariants, options, bad input."""

from __future__ import annotations

import json
import math
import pickle
import threading
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.decisions.thresholds import (
    DecisionSurface,
    SurfaceWarning,
    fit_decision_surface,
    precision_recall_frontier,
)
from foretell.errors import ArtefactError, DataError, ParameterError

METHODS = ("mist", "ew_dp", "vw_dp", "milp", "single")


def achieved(surface, score, uncertainty, y):
    called = surface.predict(score, uncertainty) == 1
    return y[called].mean() if called.any() else np.nan, y[called].sum() / y.sum()


# ------------------------------------------------------------------ invariants


@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(METHODS),
    sigma=st.floats(0.2, 0.95),
    ties=st.booleans(),
    jitter=st.booleans(),
    monotone=st.booleans(),
    levels=st.integers(1, 5),
    binning=st.sampled_from(["score_then_uncertainty", "uncertainty_then_score"]),
    abstain=st.booleans(),
)
def test_precision_on_the_own_hold_out_is_never_violated(
    small_hold_out, seed, method, sigma, ties, jitter, monotone, levels, binning, abstain
):
    score, uncertainty, y = small_hold_out(seed, 500, ties)
    surface = fit_decision_surface(
        score,
        uncertainty,
        y,
        min_precision=sigma,
        method=method,
        n_levels=levels,
        n_bins=20,
        binning=binning,
        ties="jitter" if jitter else "merge",
        monotone_levels=monotone,
        abstain=abstain,
    )
    precision, recall = achieved(surface, score, uncertainty, y)
    assert surface.feasible_ == (not np.isnan(precision))
    if surface.feasible_:
        assert precision >= sigma - 1e-9
        assert precision == pytest.approx(surface.precision_)
        assert surface.precision_interval_[0] <= precision <= surface.precision_interval_[1]
    assert recall == pytest.approx(surface.recall_)
    if monotone:
        known = surface.thresholds[: surface.n_levels - surface.partition.missing]
        assert abstain or np.all(known[1:] >= known[:-1])
    # a higher score never turns a decision back within a level
    grid_s, grid_u = (a.ravel() for a in np.meshgrid(np.linspace(-0.1, 1.1, 60), [0.1, 0.5, 0.9]))
    level = surface.level(grid_s, grid_u)
    decisions = surface.predict(grid_s, grid_u)
    rank = np.where(decisions == -1, 0.5, decisions)
    probability = surface.probability(grid_s, grid_u)
    for k in np.unique(level):
        here = level == k
        assert np.all(np.diff(rank[here][np.argsort(grid_s[here], kind="stable")]) >= 0)
        assert np.all(np.diff(probability[here][np.argsort(grid_s[here], kind="stable")]) >= 0)


@given(seed=st.integers(0, 10_000), method=st.sampled_from(METHODS), ties=st.booleans())
def test_all_ways_to_decide_agree(small_hold_out, seed, method, ties):
    score, uncertainty, y = small_hold_out(seed, 400, ties)
    surface = fit_decision_surface(
        score, uncertainty, y, min_precision=0.6, method=method, n_bins=10
    )
    rng = np.random.default_rng(seed)
    s, u = np.append(score[:50], rng.normal(size=50)), np.append(uncertainty[:50], rng.random(50))
    decisions = surface.predict(s, u)
    assert [surface.decide(a, b) for a, b in zip(s, u, strict=True)] == decisions.tolist()
    np.testing.assert_array_equal(surface.decision_function(s, u) > 0, decisions == 1)
    text = surface.to_json()
    again = DecisionSurface.from_json(text)
    assert again.to_json() == text
    np.testing.assert_array_equal(again.predict(s, u), decisions)
    np.testing.assert_array_equal(again.predict_proba(s, u), surface.predict_proba(s, u))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(surface)).predict(s, u), decisions)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 1000), shift=st.floats(-1e3, 1e3))
def test_only_the_order_of_the_scores_matters(small_hold_out, seed, scale, shift):
    score, uncertainty, y = small_hold_out(seed, 400)
    moved = score * scale + shift
    plain = fit_decision_surface(score, uncertainty, y, min_precision=0.6)
    other = fit_decision_surface(moved, uncertainty, y, min_precision=0.6)
    if len(np.unique(moved)) == len(score):
        np.testing.assert_array_equal(
            other.predict(moved, uncertainty), plain.predict(score, uncertainty)
        )


def test_integer_weights_are_repeated_rows(small_hold_out):
    score, uncertainty, y = small_hold_out(1, 800)
    weight = np.random.default_rng(0).integers(0, 4, 800)
    for method in ("mist", "vw_dp", "single"):
        weighted = fit_decision_surface(
            score, uncertainty, y, min_precision=0.6, sample_weight=weight, method=method,
            n_levels=1, n_bins=8,
        )  # fmt: skip
        repeated = fit_decision_surface(
            *(np.repeat(a, weight) for a in (score, uncertainty, y)), min_precision=0.6,
            method=method, n_levels=1, n_bins=8,
        )  # fmt: skip
        if method != "vw_dp":
            np.testing.assert_array_equal(weighted.thresholds, repeated.thresholds)
        assert weighted.precision_ >= 0.6
        assert weighted.recall_ == pytest.approx(repeated.recall_, abs=0.05)
        # weights that are not all alike say less than as many rows
        assert weighted.precision_interval_[0] <= repeated.precision_interval_[0] + 0.05


def test_recall_beats_the_single_threshold_where_uncertainty_matters(cells):
    held, test = cells
    recalls = {}
    for method in ("single", "mist", "vw_dp", "milp"):
        surface = fit_decision_surface(
            held.score, held.uncertainty, held.y, min_precision=0.7, n_levels=3, method=method
        )
        called = surface.predict(test.score, test.uncertainty) == 1
        recalls[method] = test.theta[called].sum() / test.theta.sum()
        assert test.theta[called].mean() >= 0.66
    assert recalls["mist"] >= 1.5 * recalls["single"]
    assert recalls["vw_dp"] >= 1.5 * recalls["single"]
    assert recalls["milp"] == pytest.approx(recalls["vw_dp"], abs=0.01)


def test_positive_rate_falls_with_uncertainty_at_the_same_score(cells):
    held, _ = cells
    near = (held.score >= 0.7) & (held.score < 0.8)
    order = np.argsort(held.uncertainty[near], kind="stable")
    rates = [third.mean() for third in np.array_split(held.theta[near][order], 3)]
    assert rates[0] > rates[1] > rates[2]


# ------------------------------------------------------------------ edge cases, one by one


def test_out_of_reach_predicts_nothing_and_says_what_is_attainable():
    rng = np.random.default_rng(0)
    score, uncertainty = rng.random(2000), rng.random(2000)
    y = (rng.random(2000) < 0.3).astype(int)
    surface = fit_decision_surface(
        score, uncertainty, y, min_precision=0.99, method="vw_dp", n_bins=5
    )
    assert not surface.feasible_
    assert 0.3 < surface.best_precision_ < 0.99
    assert not surface.predict(score, uncertainty).any()
    assert surface.decide(2.0, 0.5) == 0
    assert np.isnan(surface.precision_) and surface.recall_ == 0
    assert "infeasible" in str(surface)
    assert not DecisionSurface.from_json(surface.to_json()).feasible_
    assert surface.levels()["threshold"].null_count() == surface.n_levels
    surface.report(score, uncertainty, y)
    surface.plot()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_an_error(label):
    with pytest.raises(DataError, match=f"every label is {label}.*one class"):
        fit_decision_surface([0.1, 0.2], [1, 2], [label, label], min_precision=0.5)


def test_constant_uncertainty_falls_back_to_a_single_threshold(small_hold_out):
    score, _, y = small_hold_out(0)
    with pytest.warns(SurfaceWarning, match="constant.*single threshold"):
        surface = fit_decision_surface(score, np.full(600, 3.0), y, min_precision=0.6)
    single = fit_decision_surface(score, None, y, min_precision=0.6, method="single")
    assert surface.method == "single"
    np.testing.assert_array_equal(surface.thresholds, single.thresholds)
    assert [single.decide(s) for s in score[:50]] == single.predict(score[:50]).tolist()
    assert single.predict(score).sum() == surface.predict(score, np.full(600, 3.0)).sum()


@pytest.mark.parametrize("method", METHODS)
def test_missing_uncertainty_is_an_error_or_a_level(small_hold_out, method):
    score, uncertainty, y = small_hold_out(0, 1500)
    uncertainty[::3] = np.nan
    with pytest.raises(DataError, match=r"500 uncertainties are missing.*row 0"):
        fit_decision_surface(score, uncertainty, y, min_precision=0.6, method=method)
    surface = fit_decision_surface(
        score, uncertainty, y, min_precision=0.6, missing="level", method=method, n_bins=20
    )
    decisions = surface.predict(score, uncertainty)
    assert decisions.any()
    if method != "single":
        assert np.all(surface.level(score, uncertainty)[::3] == surface.n_levels - 1)
        assert DecisionSurface.from_json(surface.to_json()).decide(5.0, float("nan")) == 1
    without = fit_decision_surface(score[1::3], uncertainty[1::3], y[1::3], min_precision=0.6)
    with pytest.raises(DataError, match="missing"):
        without.predict([0.5], [np.nan])
    with pytest.raises(DataError, match="missing"):
        without.decide(0.5, float("nan"))


def test_a_level_never_seen_calls_nothing(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    for method in ("mist", "ew_dp", "vw_dp", "milp"):
        surface = fit_decision_surface(
            score, uncertainty, y, min_precision=0.5, missing="level", method=method, n_bins=4
        )
        assert surface.decide(1e9, float("nan")) == 0
        assert np.isfinite(surface.probability([0.5], [np.nan])).all()


def test_equal_uncertainty_edges_merge_levels(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    coarse = (uncertainty > 0.5).astype(float)
    surface = fit_decision_surface(score, coarse, y, min_precision=0.6, n_levels=5)
    assert surface.n_levels == 2
    assert set(surface.level(score, coarse)) == {0, 1}


def test_few_positives_warn_and_allow_two_levels_only():
    rng = np.random.default_rng(0)
    score, uncertainty = rng.random(2000), rng.random(2000)
    y = np.zeros(2000, int)
    y[np.argsort(score)[-30:]] = 1
    with pytest.warns(SurfaceWarning, match="30 positives.*2 uncertainty levels instead of 4"):
        surface = fit_decision_surface(score, uncertainty, y, min_precision=0.5)
    assert surface.n_levels == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_decision_surface(score, uncertainty, y, min_precision=0.5, n_levels=2)


def test_uncertainty_out_of_range_is_clipped_and_counted(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    surface = fit_decision_surface(score, uncertainty, y, min_precision=0.6)
    far = surface.predict([0.9, 0.9, 0.9, 0.9], [-5.0, 0.0, 99.0, np.inf])
    near = surface.predict([0.9, 0.9], [uncertainty.min(), uncertainty.max()])
    assert far.tolist() == [near[0], near[0], near[1], near[1]]
    assert surface.n_clipped == 4  # 0.0 is below the least of the hold-out, too
    surface.decide(0.9, -1.0)
    assert surface.n_clipped == 5
    assert surface.report([0.5, 0.6], [-1.0, 0.5], [0, 1]).n_clipped == 1


def test_ties_under_jitter_are_judged_as_deployed(small_hold_out):
    # three distinct scores over many rows: bins of equal weight only after splitting ties
    rng = np.random.default_rng(0)
    for seed in range(20):
        score = rng.choice([0.1, 0.5, 0.9], 900)
        uncertainty = rng.choice([0.1, 0.2, 0.3], 900)
        y = (rng.random(900) < score * (1.2 - 2 * uncertainty)).astype(int)
        for ties in ("jitter", "merge"):
            surface = fit_decision_surface(
                score, uncertainty, y, min_precision=0.7, method="ew_dp", ties=ties, n_levels=3,
                random_state=seed,
            )  # fmt: skip
            precision, _ = achieved(surface, score, uncertainty, y)
            assert np.isnan(precision) or precision >= 0.7
            routed = any("vw_dp" in note for note in surface.notes)
            assert routed == (ties == "merge")


def test_weights_send_equal_bins_to_the_variable_programme(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    weight = np.random.default_rng(0).uniform(0.5, 2, 600)
    surface = fit_decision_surface(
        score, uncertainty, y, min_precision=0.6, method="ew_dp", sample_weight=weight, n_bins=4
    )
    assert any("vw_dp" in note for note in surface.notes)
    called = surface.predict(score, uncertainty) == 1
    assert (weight * y)[called].sum() / weight[called].sum() >= 0.6 - 1e-9
    surface = fit_decision_surface(
        score, uncertainty, y, min_precision=0.6, method="ew_dp", n_bins=3
    )
    assert not surface.notes


def test_another_base_rate_keeps_the_precision_there():
    rng = np.random.default_rng(0)

    def draw(n, rate):
        y = (rng.random(n) < rate).astype(int)
        # the same scores given the class, whatever the base rate
        return rng.normal(1.5 * y), rng.random(n), y

    score, uncertainty, y = draw(40_000, 0.3)
    new_score, new_uncertainty, new_y = draw(40_000, 0.1)
    options = {"min_precision": 0.6, "n_levels": 2}
    plain = fit_decision_surface(score, uncertainty, y, **options)
    shifted = fit_decision_surface(
        score, uncertainty, y, unlabelled=(new_score, new_uncertainty), **options
    )
    assert shifted.base_rates[0] == pytest.approx(0.3, abs=0.01)
    assert shifted.base_rates[1] == pytest.approx(0.1, abs=0.01)
    assert plain.report(new_score, new_uncertainty, new_y).precision < 0.5
    assert shifted.report(new_score, new_uncertainty, new_y).precision == pytest.approx(
        0.6, abs=0.04
    )
    assert shifted.precision_ >= 0.6 - 1e-9
    assert shifted.probability(new_score, new_uncertainty).mean() == pytest.approx(0.1, abs=0.01)
    assert shifted.estimate_base_rate(new_score, new_uncertainty) == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ParameterError, match="not both"):
        fit_decision_surface(
            score, uncertainty, y, unlabelled=(score, uncertainty), target_base_rate=0.1, **options
        )


def test_predict_is_safe_in_threads(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    surface = fit_decision_surface(score, uncertainty, y, min_precision=0.6)
    expected = surface.predict(score, uncertainty)
    wrong = []

    def work():
        for _ in range(50):
            if not np.array_equal(surface.predict(score, uncertainty), expected):
                wrong.append(1)
            surface.predict([0.5, 0.5], [-1.0, 0.5])
            surface.decide(0.5, 99.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert surface.n_clipped == 4 * 50 * 2


# ------------------------------------------------------------------ options


def test_goals_besides_precision(small_hold_out):
    score, uncertainty, y = small_hold_out(0, 2000)
    for method in METHODS:
        options = {"method": method, "n_bins": 10}
        loose = fit_decision_surface(score, uncertainty, y, min_precision=0.5, **options)
        few = fit_decision_surface(
            score, uncertainty, y, min_precision=0.5, max_positive_rate=0.05, **options
        )
        assert few.predict(score, uncertainty).mean() <= 0.05 < loose.achieved.called / 2000
        cheap = fit_decision_surface(
            score, uncertainty, y, min_precision=0.5, max_cost=0.02, **options
        )
        called = cheap.predict(score, uncertainty) == 1
        assert (y[called] == 0).sum() <= 0.02 * 2000
        beyond = fit_decision_surface(
            score, uncertainty, y, min_precision=0.5, min_recall=0.999, **options
        )
        assert not beyond.feasible_
    led = fit_decision_surface(score, uncertainty, y, min_precision=None, min_recall=0.4)
    assert led.recall_ >= 0.4
    assert led.precision_ > loose.precision_


def test_abstains_where_precision_is_in_doubt(cells):
    held, test = cells
    options = {"min_precision": 0.7, "n_levels": 3}
    plain = fit_decision_surface(held.score, held.uncertainty, held.y, **options)
    careful = fit_decision_surface(held.score, held.uncertainty, held.y, abstain=True, **options)
    decisions = careful.predict(test.score, test.uncertainty)
    called = plain.predict(test.score, test.uncertainty) == 1
    assert set(np.unique(decisions)) <= {-1, 0, 1}
    assert np.all(called[decisions != 0])
    levels = plain.levels()
    for row in careful.levels().iter_rows(named=True):
        before = levels.row(row["level"], named=True)
        if before["called"] and before["precision_low"] < 0.7 <= before["precision_high"]:
            assert row["threshold"] is None or row["threshold"] > before["threshold"]
            assert row["floor"] == before["threshold"]
        if row["called"]:
            assert row["precision_low"] >= 0.7
    again = DecisionSurface.from_json(careful.to_json())
    np.testing.assert_array_equal(again.predict(test.score, test.uncertainty), decisions)


def test_a_level_that_is_never_called_may_abstain_for_any_score(small_hold_out):
    surface = fit_decision_surface(*small_hold_out(0), min_precision=0.5)
    never = np.full(surface.n_levels, np.inf)
    for floors, decision in ((np.full(surface.n_levels, 0.5), -1), (never, 0)):
        shy = replace(surface, thresholds=never, floors=floors)
        for score in (0.6, np.inf):
            assert shy.decide(score, 0.5) == shy.predict([score], [0.5])[0] == decision


def test_intervals_of_a_frontier_do_not_grow_with_the_unit_of_the_weights(small_hold_out):
    score, doubt, y = small_hold_out(0)
    plain = precision_recall_frontier(score, doubt, y, method="single").to_frame()
    nearly = np.where(np.arange(len(y)) % 2, 1000.0, 1000.1)
    heavy = precision_recall_frontier(
        score, doubt, y, method="single", sample_weight=nearly
    ).to_frame()
    assert heavy["precision_low"][-1] == pytest.approx(plain["precision_low"][-1], abs=1e-3)


def test_tables_and_pictures(cells):
    held, test = cells
    surface = fit_decision_surface(held.score, held.uncertainty, held.y, min_precision=0.7)
    frame = surface.to_frame()
    assert frame["rows"].sum() == len(held)
    assert frame["positives"].sum() == held.y.sum()
    assert (frame["rows"] * frame["called"]).sum() == pytest.approx(surface.achieved.called)
    levels = surface.levels()
    assert levels["true_positives"].sum() == surface.achieved.true_positives
    report = surface.report(test.score, test.uncertainty, test.y)
    assert report.to_frame()["rule"].to_list() == ["surface", "single"]
    assert report.levels["rows"].sum() == len(test)
    assert "precision" in str(report)
    figure = surface.plot()
    assert {trace.type for trace in figure.data} == {"heatmap", "scatter"}


def test_json_file_and_damage(tmp_path, small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    surface = fit_decision_surface(score, uncertainty, y, min_precision=0.6)
    surface.to_json(tmp_path / "surface.json")
    for source in (tmp_path / "surface.json", str(tmp_path / "surface.json")):
        assert DecisionSurface.from_json(source).recall_ == surface.recall_
    text = surface.to_json()
    for damage, message in (
        (text.replace("foretell.decision_surface", "other"), "not a decision surface"),
        (text.replace('"schema_version": 1', '"schema_version": 99'), "update foretell"),
        (text.replace('"thresholds": [', '"thresholds": [0.1, '), "thresholds for"),
        (text.replace('"floors"', '"flaws"'), "lacks 'floors'"),
        (text[:-5], "not JSON"),
        ("{}", "not a decision surface"),
        (str(tmp_path / "absent.json"), "cannot read"),
    ):
        with pytest.raises(ArtefactError, match=message):
            DecisionSurface.from_json(damage)


def test_json_is_enough_to_decide_elsewhere(small_hold_out):
    score, uncertainty, y = small_hold_out(4, 1500)
    uncertainty[::7] = np.nan
    surface = fit_decision_surface(
        score, uncertainty, y, min_precision=0.5, missing="level", abstain=True
    )
    document = json.loads(surface.to_json())

    def decide(s, u):  # what the module's text tells, with nothing but the document
        region = sum(edge <= s for edge in document["score_edges"])
        edges = document["level_edges"][region]
        if math.isnan(u):
            level = len(document["thresholds"]) - 1
        else:
            level = sum(edge is not None and edge <= u for edge in edges)
        threshold, floor = document["thresholds"][level], document["floors"][level]
        if threshold is not None and s >= threshold:
            return 1
        return -1 if floor is not None and s >= floor else 0

    expected = surface.predict(score, uncertainty).tolist()
    assert [decide(s, u) for s, u in zip(score, uncertainty, strict=True)] == expected
    assert {-1, 0, 1} == set(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_precision": 1.0}, "min_precision"),
        ({"min_precision": None}, "min_precision, min_recall"),
        ({"min_precision": 0.0}, "min_precision"),
        ({"method": "best"}, "method='best'"),
        ({"n_levels": 0}, "n_levels"),
        ({"n_levels": 2.5}, "n_levels"),
        ({"n_bins": 0}, "n_bins"),
        ({"n_bins": 10**6}, "n_bins"),
        ({"binning": "both"}, "binning"),
        ({"ties": "split"}, "ties"),
        ({"missing": "zero"}, "missing"),
        ({"guarantee": "hope"}, "guarantee"),
        ({"guarantee": "ltt", "delta": 0}, "delta"),
        ({"guarantee": "ltt", "split": 1}, "split"),
        ({"guarantee": "ltt", "n_walks": 0}, "n_walks"),
        ({"guarantee": "ltt", "method": "milp"}, "family"),
        ({"guarantee": "ltt", "sample_weight": np.arange(600) + 1}, "unweighted"),
        ({"segment_precision": 0.5}, "milp"),
        ({"segment_precision": 0.5, "method": "milp"}, "segments="),
        ({"recall_parity": 2, "method": "milp", "segments": ["a", "b"] * 300}, "recall_parity"),
        (
            {"segment_precision": {"c": 0.5}, "method": "milp", "segments": ["a", "b"] * 300},
            "the segments are a, b",
        ),
        ({"target_base_rate": 1.0}, "base rate"),
        ({"confidence": 1.0}, "confidence"),
        ({"max_positive_rate": 0}, "max_positive_rate"),
        ({"max_cost": -1}, "max_cost"),
        ({"costs": (1, -1)}, "costs"),
    ],
)
def test_parameters_out_of_range(small_hold_out, change, message):
    score, uncertainty, y = small_hold_out(0)
    with pytest.raises(ParameterError, match=message):
        fit_decision_surface(score, uncertainty, y, **{"min_precision": 0.6, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": np.append(np.ones(599), np.nan)}, "score is nan.*row 599"),
        ({"score": np.ones((600, 2))}, "one value a row"),
        ({"score": ["a"] * 600}, "not numbers"),
        ({"uncertainty": np.ones(3)}, "3 values for 600"),
        ({"uncertainty": np.append(np.ones(599), np.inf)}, "infinite"),
        ({"y": np.full(600, 2)}, "label is 2.0.*row 0"),
        ({"sample_weight": -np.ones(600)}, "weight is -1"),
        ({"sample_weight": np.zeros(600)}, "all weights are 0"),
        ({"score": [], "uncertainty": [], "y": []}, "no rows"),
    ],
)
def test_bad_columns_are_named(small_hold_out, change, message):
    score, uncertainty, y = small_hold_out(0)
    columns = {"score": score, "uncertainty": uncertainty, "y": y, **change}
    with pytest.raises(DataError, match=message):
        fit_decision_surface(min_precision=0.6, **columns)


def test_predict_names_bad_values(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    surface = fit_decision_surface(score, uncertainty, y, min_precision=0.6)
    with pytest.raises(DataError, match=r"score is nan.*row 1"):
        surface.predict([0.1, np.nan], [0.1, 0.1])
    with pytest.raises(DataError, match="uncertainty levels"):
        surface.predict([0.1])
    with pytest.raises(DataError, match="uncertainty levels"):
        surface.decide(0.1)
    assert surface.predict([np.inf, -np.inf], [0.1, 0.1]).tolist() == [1, 0]
    assert len(surface.predict([], [])) == 0


def test_polars_columns_are_taken(small_hold_out):
    score, uncertainty, y = small_hold_out(0)
    frame = pl.DataFrame({"s": score, "u": uncertainty, "y": y.astype(bool)})
    surface = fit_decision_surface(frame["s"], frame["u"], frame["y"], min_precision=0.6)
    plain = fit_decision_surface(score, uncertainty, y, min_precision=0.6)
    np.testing.assert_array_equal(surface.thresholds, plain.thresholds)
    assert surface.predict(frame["s"], frame["u"]).sum() == plain.achieved.called


# ------------------------------------------------------------------ frontier


def test_a_frontier_refuses_missing_uncertainties_that_it_has_no_level_for(small_hold_out):
    score, uncertainty, y = small_hold_out(0, 1200)
    frontier = precision_recall_frontier(score, uncertainty, y, n_bins=8, n_levels=3)
    uncertainty = np.where(np.arange(len(y)) == 7, np.nan, uncertainty)
    with pytest.raises(DataError, match="uncertainty"):
        frontier.evaluate(score, uncertainty, y)


@pytest.mark.parametrize("method", ["mist", "ew_dp", "vw_dp", "single"])
def test_frontier_holds_the_surface_of_every_target(small_hold_out, method):
    score, uncertainty, y = small_hold_out(0, 1200)
    options = {"method": method, "n_bins": 8, "n_levels": 3}
    frontier = precision_recall_frontier(score, uncertainty, y, **options)
    assert np.all(np.diff(frontier.precision) <= 0) and np.all(np.diff(frontier.recall) > 0)
    for sigma in (0.4, 0.55, 0.7, 0.8):
        solved = fit_decision_surface(score, uncertainty, y, min_precision=sigma, **options)
        assert frontier.surface(sigma).recall_ == solved.recall_
    precision, recall = frontier.evaluate(score, uncertainty, y)
    np.testing.assert_allclose(precision, frontier.precision)
    np.testing.assert_allclose(recall, frontier.recall)
    frame = frontier.to_frame()
    assert len(frame) == len(frontier)
    assert f"threshold_{frontier.thresholds.shape[1] - 1}" in frame.columns
    assert not frontier.surface(0.999999).feasible_ or frontier.precision[0] >= 0.999999
    frontier.plot()
    with pytest.raises(ParameterError, match="no frontier"):
        precision_recall_frontier(score, uncertainty, y, method="milp")
