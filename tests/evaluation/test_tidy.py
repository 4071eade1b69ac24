from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data.frames import from_polars
from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.evaluation import backtest, evaluate, evaluate_spans, metrics, summarise
from foretell.evaluation.history import history_at
from foretell.evaluation.segments import horizon_bucket_names
from foretell.learners.demand.forecast import Forecast, Span

LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


@pytest.fixture
def case():
    """A panel with gaps and categories, and random forecasts from two origins."""
    rng = np.random.default_rng(3)
    lengths = [60, 60, 45, 25, 60, 16]
    values = [rng.gamma(2, 2 * (i + 1), n) for i, n in enumerate(lengths)]
    values[1][[3, 55]] = np.nan
    rows = [
        {"unique_id": f"s{i}", "ds": 60 - len(v) + t, "y": None if np.isnan(x) else x}
        for i, v in enumerate(values)
        for t, x in enumerate(v)
    ]
    weeks = pl.DataFrame({"ds": range(75), "sale": [float(t in (50, 57)) for t in range(75)]})
    static = pl.DataFrame(
        {"unique_id": [f"s{i}" for i in range(6)], "kind": ["a", "b", "a", "b", None, "a"]}
    )
    panel = from_polars(pl.DataFrame(rows), events=("sale",), future=weeks, static=static)
    ids = np.repeat(panel.ids, 2)
    cutoffs = np.tile([47, 52], 6)
    q = np.sort(rng.gamma(2, 4, (12, 7, 5)), axis=-1).astype(np.float32)
    spans = {Span(0, 3): np.sort(rng.gamma(6, 4, (12, 5)), axis=-1).astype(np.float32)}
    forecast = Forecast(ids, cutoffs, panel.frequency, LEVELS, q, spans, model="random")
    return panel, forecast


def _truth(panel, forecast):
    y = panel.outcomes(forecast.ids, forecast.cutoffs, forecast.horizon).astype(np.float64)
    rows = np.array([panel.positions[i] for i in forecast.ids])
    scales = np.array(
        [
            metrics.seasonal_scale(panel.series(r)[: max(0, c - panel.starts[r] + 1)], 4)
            for r, c in zip(rows, forecast.cutoffs, strict=True)
        ]
    )
    return y, scales


def test_the_summary_equals_the_metrics(case):
    panel, forecast = case
    y, scales = _truth(panel, forecast)
    q, point = forecast.values, forecast.median
    table = evaluate(forecast, panel, season_length=4)
    row = summarise(table, details=True).row(0, named=True)
    assert row["n"] == np.sum(~np.isnan(y))
    expected = {
        "wql": metrics.weighted_quantile_loss(y, q, LEVELS),
        "wql_q0.7": metrics.weighted_quantile_losses(y, q, LEVELS)[3],
        "mase": metrics.mase(y, point, scales),
        "sql": metrics.scaled_quantile_loss(y, q, LEVELS, scales),
        "wape": metrics.wape(y, point),
        "rmse": metrics.rmse(y, point),
        "smape": metrics.smape(y, point),
        "crps": metrics.crps_from_quantiles(y, q, LEVELS),
        "bias": np.nansum(point - y) / np.nansum(np.abs(y)),
        "calibration_error": metrics.calibration_error(y, q, LEVELS),
        "coverage_q0.9": metrics.coverage(y, q)[4],
        "interval_coverage_80": metrics.interval_coverage(y, q[..., 0], q[..., 4])[0],
        "interval_width_80": metrics.interval_coverage(y, q[..., 0], q[..., 4])[1],
        "msis_40": metrics.msis(y, q[..., 1], q[..., 3], 0.6, scales),
        "crossing_rate": 0.0,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-6), name


ALL_SEGMENTS = (
    "cutoff", "horizon", "horizon_bucket", "target", "velocity", "event", "event_name", "history",
    "kind",
)  # fmt: skip


@pytest.mark.parametrize("segment", ALL_SEGMENTS)
def test_sums_of_segments_are_sums_of_the_whole(case, segment):
    panel, forecast = case
    whole = evaluate(forecast, panel, by=(), keep_series=False)
    split = evaluate(forecast, panel, by=(segment,))
    assert split.height > whole.height == 1
    for column in whole.columns[1:]:
        assert split[column].sum() == pytest.approx(whole[column][0], rel=1e-9), column
    parts = summarise(split, by=[segment], metrics=["wql"])
    assert parts["n"].sum() == whole["n"][0]


def test_segments_hold_the_right_cells(case):
    panel, forecast = case
    y, _ = _truth(panel, forecast)
    periods = forecast.cutoffs[:, None] + np.arange(1, 8)
    table = evaluate(forecast, panel, by=("event",), post_event=2)
    counts = dict(summarise(table, by=["event"], metrics=[]).select("event", "n").iter_rows())
    seen = ~np.isnan(y)
    event, post = np.isin(periods, [50, 57]), np.isin(periods, [51, 52, 58, 59])
    assert counts == {
        "event": (event & seen).sum(),
        "post_event": (post & seen).sum(),
        "none": (~event & ~post & seen).sum(),
    }
    table = evaluate(forecast, panel, by=("horizon",))
    by_step = summarise(table, by=["horizon"], metrics=["wql"])
    step = metrics.weighted_quantile_loss(y[:, 2:3], forecast.values[:, 2:3], LEVELS)
    assert by_step.filter(pl.col("horizon") == 3)["wql"][0] == pytest.approx(step)
    table = evaluate(forecast, panel, by=("kind",))
    kinds = summarise(table, by=["kind"], metrics=["wql"])
    assert kinds["kind"].to_list() == [None, "a", "b"]
    mine = np.isin(forecast.ids, ["s1", "s3"])
    expected = metrics.weighted_quantile_loss(y[mine], forecast.values[mine], LEVELS)
    assert kinds["wql"][2] == pytest.approx(expected)


def test_history_and_velocity_use_what_was_known_at_the_origin(case):
    panel, forecast = case
    table = evaluate(forecast, panel, by=("history", "cutoff"))
    found = {(r["unique_id"], r["cutoff"]): r["history"] for r in table.iter_rows(named=True)}
    assert found["s5", 47] == "new"  # begins at 44: 4 observed steps, K is 7
    assert found["s5", 52] == "short"  # 9 steps
    assert found["s0", 47] == "established"
    shifted = panel.target.copy()
    for i in range(len(panel)):  # sales after the first origin must not move a series' decile
        begin = panel.begins[i] + max(0, 48 - panel.starts[i])
        shifted[begin : panel.begins[i] + panel.lengths[i]] *= 1 + 50 * (i % 2)
    other = type(panel)(**{**_fields(panel), "target": shifted})
    first = evaluate(forecast, panel, by=("velocity",))
    second = evaluate(forecast, other, by=("velocity",))
    assert first["velocity"].to_list() == second["velocity"].to_list()
    order = first.sort("velocity")["unique_id"].to_list()
    means = {
        str(n): np.nanmean(panel.series(i)[: 48 - panel.starts[i]]) for i, n in enumerate(panel.ids)
    }
    assert order == sorted(order, key=means.__getitem__)


def _fields(panel: Panel):
    return {name: getattr(panel, name) for name in panel.__dataclass_fields__}


def test_history_statistics_match_a_loop():
    rng = np.random.default_rng(0)
    series = [rng.normal(size=n) for n in (1, 12, 30, 5)]
    for s in series:
        s[rng.random(len(s)) < 0.2] = np.nan
    panel = Panel.from_arrays(series, start=[0, 3, 5, 9])
    rows = np.repeat(np.arange(4), 5)
    cutoffs = np.tile([-1, 4, 9, 20, 99], 4)
    found = history_at(panel, rows, cutoffs, season=3)
    for i, (row, cutoff) in enumerate(zip(rows, cutoffs, strict=True)):
        known = panel.series(row)[: max(0, cutoff - panel.starts[row] + 1)]
        assert found.observed[i] == np.sum(~np.isnan(known))
        expected = np.nanmean(known) if found.observed[i] else np.nan
        assert found.mean[i] == pytest.approx(expected, nan_ok=True, rel=1e-6)
        scale = metrics.seasonal_scale(known, 3)
        assert found.scale[i] == pytest.approx(scale, nan_ok=True, rel=1e-6)


def test_span_table_scores_sums(case):
    panel, forecast = case
    y, _ = _truth(panel, forecast)
    table = evaluate_spans(forecast, panel)
    assert table["span"].unique().to_list() == ["0+3"]
    found = summarise(table, by=["span"], metrics=["wql"])["wql"][0]
    expected = metrics.span_loss(y, forecast.spans[Span(0, 3)], LEVELS, 0, 3)
    assert found == pytest.approx(expected)
    with pytest.raises(ParameterError, match="span"):
        evaluate_spans(forecast.first(2), panel)


def test_several_models_by_name(case, kit):
    panel, forecast = case
    table = evaluate({"a": forecast, "b": forecast}, panel, by=())
    board = summarise(table)
    assert board["model"].to_list() == ["a", "b"] and board["wql"][0] == board["wql"][1]
    with pytest.raises(ParameterError, match="same model name"):
        evaluate([forecast, forecast], panel)
    other = forecast.at_levels([0.5])
    with pytest.raises(ParameterError, match="pass levels="):
        evaluate({"a": forecast, "b": other}, panel)
    with pytest.warns(UserWarning, match="one level"):
        both = evaluate({"a": forecast, "b": other}, panel, levels=[0.1, 0.5], by=())
    assert both.height == 12
    result = backtest(kit.EmpiricalQuantiles(h=3), panel, n_windows=2)
    assert evaluate(result, panel)["model"][0] == "EmpiricalQuantiles"


def test_what_evaluate_refuses(case):
    panel, forecast = case
    with pytest.raises(ParameterError, match=r"'colour' is not known; known are .*kind"):
        evaluate(forecast, panel, by=("colour",))
    with pytest.raises(ParameterError, match="1 series of the forecast are not in the panel: s2"):
        evaluate(forecast, panel.select(np.array([0, 1, 3, 4, 5])))
    with pytest.raises(ParameterError, match="named twice"):
        evaluate(forecast, panel, by=("event", "event"))
    forecast.values[3, 3, 1] = np.nan
    with pytest.raises(ParameterError, match=r"random has a forecast .* series 's1', horizon 4"):
        evaluate(forecast, panel)
    with pytest.raises(ParameterError, match="no column"):
        summarise(evaluate(forecast.select(np.arange(2)), panel), by=["colour"])
    with pytest.raises(ParameterError, match="'wqk' is not known"):
        summarise(evaluate(forecast.select(np.arange(2)), panel), metrics=["wqk"])


def test_outcomes_must_be_there_and_count_once(case):
    panel, forecast = case
    with pytest.raises(ParameterError, match="no observed outcome"):
        evaluate(forecast.select(forecast.cutoffs == 52), panel.cut(7))
    twice = Forecast.concat([forecast, forecast.select(np.array([3]))])
    with pytest.raises(ParameterError, match="'s1' twice"):
        evaluate(twice, panel)


def test_zero_denominators_are_nan_with_a_warning():
    panel = Panel.from_arrays([np.zeros(20)])
    q = np.ones((1, 4, 5), np.float32)
    forecast = Forecast(panel.ids, np.array([15]), panel.frequency, LEVELS, q)
    table = evaluate(forecast, panel)
    with pytest.warns(UserWarning, match=r"zero denominator.*MASE, no series has more"):
        row = summarise(table).row(0, named=True)
    assert np.isnan(row["wql"]) and np.isnan(row["mase"]) and row["rmse"] == 1


def test_horizon_buckets():
    assert horizon_bucket_names(39) == ["01", "02-04", "05-13", "14-26", "27-39"]
    assert horizon_bucket_names(1) == ["01"]
    assert horizon_bucket_names(4) == ["01", "02-04"]
