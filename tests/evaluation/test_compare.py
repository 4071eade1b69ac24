from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.evaluation import (
    cluster_bootstrap,
    diebold_mariano,
    difference,
    evaluate,
    leaderboard,
    losses_by_date,
    over_seeds,
    reliability,
    summarise,
)
from foretell.learners.demand.forecast import Forecast

LEVELS = np.arange(1, 10) / 10


@pytest.fixture
def case():
    """60 series with a level of their own; a good, a slightly worse and a bad forecast."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(3, 10, 60)
    panel = Panel.from_arrays([m + rng.normal(size=30) for m in mean])

    def forecast(name, shift, spread=1.0):
        own = mean + shift * rng.normal(size=60)
        q = own[:, None, None] + spread * stats.norm.ppf(LEVELS) + np.zeros((60, 6, 1))
        return Forecast(
            panel.ids, panel.ends - 6, panel.frequency, LEVELS, q.astype(np.float32), model=name
        )

    return panel, [forecast("good", 0.0), forecast("worse", 0.3), forecast("bad", 2.0, 0.3)]


def test_bootstrap_equals_resampling_series_one_by_one():
    rng = np.random.default_rng(1)
    sums = rng.gamma(2, 1, (25, 2))
    found = cluster_bootstrap(sums, lambda s: s[:, 0] / s[:, 1], resamples=4000)
    draws = [sums[rng.integers(0, 25, 25)].sum(axis=0) for _ in range(4000)]
    ratios = [a / b for a, b in draws]
    low, high = np.quantile(ratios, [0.025, 0.975])
    width = high - low
    assert found.estimate == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
    assert found.lower == pytest.approx(low, abs=0.06 * width)
    assert found.upper == pytest.approx(high, abs=0.06 * width)


def test_bootstrap_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for i in range(200):
        # Ten cells a series share its error: cells alone would give far too narrow intervals.
        sums = np.stack([10 * rng.normal(size=80), np.full(80, 10.0)], axis=1)
        found = cluster_bootstrap(sums, lambda s: s[:, 0] / s[:, 1], resamples=300, seed=i)
        hits += found.lower <= 0 <= found.upper
    assert 0.90 <= hits / 200 <= 0.99


def test_many_clusters_are_grouped_without_changing_the_interval():
    sums = np.random.default_rng(5).gamma(2, 1, (40_000, 1))
    found = cluster_bootstrap(sums, lambda s: s[:, 0] / 40_000, resamples=400)
    half = 1.96 * sums.std() / np.sqrt(40_000)
    assert found.estimate == pytest.approx(sums.mean())
    assert found.upper - found.lower == pytest.approx(2 * half, rel=0.15)
    assert found.lower < sums.mean() < found.upper


def test_bootstrap_refuses_what_makes_no_sense():
    with pytest.raises(ParameterError, match="no series"):
        cluster_bootstrap(np.zeros((0, 2)), lambda s: s[:, 0])
    with pytest.raises(ParameterError, match="confidence"):
        cluster_bootstrap(np.zeros((3, 2)), lambda s: s[:, 0], confidence=1.0)
    nothing = cluster_bootstrap(np.zeros((3, 2)), lambda s: np.full(len(s), np.nan), resamples=5)
    assert np.isnan(nothing.lower)


def test_difference_is_paired_by_series(case):
    panel, forecasts = case
    table = evaluate(forecasts, panel, by=())
    scores = dict(summarise(table).select("model", "wql").iter_rows())
    found = difference(table, "bad", "good")
    assert found.difference == pytest.approx(scores["bad"] - scores["good"])
    assert found.relative == pytest.approx(scores["bad"] / scores["good"] - 1)
    assert found.lower < found.difference < found.upper
    assert found.significant and found.series == 60
    back = difference(table, "good", "bad")
    assert (back.lower, back.upper) == (pytest.approx(-found.upper), pytest.approx(-found.lower))
    # Pairing: levels differ by 10 between series, the models by 0.3 units.
    assert difference(table, "worse", "good").upper < 0.1 * scores["good"] * 5
    same = evaluate({"a": forecasts[0], "b": forecasts[0]}, panel, by=())
    none = difference(same, "a", "b")
    assert (none.difference, none.lower, none.upper) == (0, 0, 0) and not none.significant


def test_models_must_be_scored_on_the_same_outcomes(case):
    panel, forecasts = case
    part = forecasts[1].select(np.arange(58))
    with pytest.raises(ParameterError, match="2 series differ: 58, 59"):
        difference(evaluate([forecasts[0], part], panel, by=()), "worse", "good")
    longer = pl.concat(
        [evaluate(forecasts[0], panel, by=()), evaluate(forecasts[1].first(3), panel, by=())]
    )
    with pytest.raises(ParameterError, match="60 series differ"):
        difference(longer, "worse", "good")
    with pytest.raises(ParameterError, match="'other' is not in the table"):
        difference(longer, "other", "good")


def test_leaderboard_is_sorted_and_compares_with_the_reference(case):
    panel, forecasts = case
    board = leaderboard(forecasts[::-1], panel)
    assert board["model"].to_list() == ["good", "worse", "bad"]
    assert board["rank"].to_list() == [1, 2, 3]
    assert board["difference"].null_count() == 1 and board["difference"][0] is None
    assert board["difference"][2] == pytest.approx(board["wql"][2] - board["wql"][0])
    against = leaderboard(evaluate(forecasts, panel), baseline="bad", metrics=("mase",))
    assert against["reference"].to_list() == ["bad", "bad", None]
    assert against["upper"][0] < 0
    with pytest.raises(ParameterError, match="baseline 'none'"):
        leaderboard(forecasts, panel, baseline="none")
    with pytest.raises(ParameterError, match="panel="):
        leaderboard(forecasts)


def test_seeds_give_mean_and_deviation(case):
    panel, forecasts = case
    good, worse, bad = (evaluate({"m": f}, panel, by=()) for f in forecasts)
    table = pl.concat(
        [part.with_columns(pl.lit(i).alias("seed")) for i, part in enumerate((good, worse, bad))]
    )
    values = [summarise(part)["wql"][0] for part in (good, worse, bad)]
    row = over_seeds(table, metrics=["wql"]).row(0, named=True)
    assert row["seeds"] == 3
    assert row["wql"] == pytest.approx(np.mean(values))
    assert row["wql_sd"] == pytest.approx(np.std(values, ddof=1))
    other = evaluate({"once": forecasts[0]}, panel, by=())
    both = pl.concat([table, other.with_columns(pl.lit(0).alias("seed"))])
    board = leaderboard(both)
    assert board["model"].to_list() == ["once", "m"]
    assert board["difference"][1] == pytest.approx(np.mean(values) - values[0])
    assert board["wql_sd"].to_list()[0] is None


def test_diebold_mariano_by_hand_and_under_the_null():
    first, second = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 1.0, 1.0, 1.0])
    gap = first - second
    plain = gap.mean() / np.sqrt(gap.var() / 4)
    corrected = plain * np.sqrt((4 + 1 - 2 + 0) / 4)
    found = diebold_mariano(first, second)
    assert found.statistic == pytest.approx(corrected)
    assert found.statistic == pytest.approx(stats.ttest_1samp(gap, 0).statistic)
    rng = np.random.default_rng(0)
    rejected = np.mean(
        [diebold_mariano(*rng.normal(size=(2, 40))).p_value < 0.05 for _ in range(600)]
    )
    assert 0.02 < rejected < 0.09
    same = diebold_mariano(first, first)
    assert (same.statistic, same.p_value) == (0.0, 1.0)
    with pytest.raises(ParameterError, match="at least 3 dates"):
        diebold_mariano(first[:2], second[:2])


def test_losses_by_date_add_up(case):
    panel, forecasts = case
    dates = losses_by_date(forecasts[0], panel)
    assert dates.height == 6 and dates["n"].to_list() == [60] * 6
    table = evaluate(forecasts[0], panel, by=())
    total = sum(table[f"pinball_q{a:g}"].sum() for a in LEVELS) / 9
    assert dates["loss"].sum() == pytest.approx(total)


def test_reliability_bands_hold_the_level_of_a_calibrated_model(case):
    panel, forecasts = case
    table = evaluate(forecasts, panel, by=("horizon_bucket",))
    bands = reliability(table)
    good = bands.filter(pl.col("model") == "good")
    assert good["level"].to_list() == pytest.approx(LEVELS.tolist())
    inside = ((good["lower"] <= good["level"]) & (good["level"] <= good["upper"])).sum()
    assert inside >= 7
    bad = bands.filter(pl.col("model") == "bad")
    assert bad["lower"][0] > 0.1 and bad["upper"][8] < 0.9
    split = reliability(table, by=["horizon_bucket"])
    assert split.height == 3 * 3 * 9
    assert split.filter(pl.col("model") == "good")["n"].max() < good["n"][0]
