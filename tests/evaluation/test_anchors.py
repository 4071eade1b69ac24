"""The metric code reproduces published figures of trivial forecasters on public data."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data.public import m4, walmart
from foretell.data.public.competitions import hierarchical_bottom
from foretell.evaluation import backtest, evaluate, summarise
from foretell.evaluation.metrics import mase, seasonal_scale, wape, weighted_quantile_loss
from foretell.learners.demand.legacy import StatsForecastModel

LEVELS = np.arange(1, 10) / 10


def _last_values(panel, horizon, season):
    """Repeats each series' last season of observed values."""
    rows = np.arange(len(panel))
    window = panel.windows(rows, panel.lengths, season)
    if season == 1:
        window = np.array([[s[~np.isnan(s)][-1]] for s in panel])
    return np.tile(window, (1, -(-horizon // season)))[:, :horizon]


def _scores(panel, horizon, forecast_season, scale_season):
    history = panel.cut(horizon)
    y = panel.windows(np.arange(len(panel)), panel.lengths, horizon)
    point = _last_values(history, horizon, forecast_season)
    scales = np.array([seasonal_scale(s, scale_season) for s in history])
    quantiles = np.repeat(point[..., None], len(LEVELS), axis=-1)
    return mase(y, point, scales), wape(y, point), weighted_quantile_loss(y, quantiles, LEVELS)


@pytest.mark.real_data
def test_walmart_last_value(data_root):
    panel = walmart(data_root / "walmart_store_sales")
    assert len(panel) == 2936
    scaled, relative, _ = _scores(panel, 39, 1, 1)
    assert scaled == pytest.approx(1.524093, abs=1e-4)
    assert relative == pytest.approx(0.196735, abs=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("part", "horizon", "season", "published"),
    [("hourly", 48, 24, (1.193211, 0.0483092)), ("weekly", 13, 1, (2.777295, 0.0633986))],
)
def test_m4_seasonal_naive(data_root, part, horizon, season, published):
    panel = m4(data_root / "m4", part)
    scaled, _, loss = _scores(panel, horizon, season, season)
    assert scaled == pytest.approx(published[0], abs=1e-4)
    assert loss == pytest.approx(published[1], abs=1e-4)


@pytest.mark.real_data
def test_tourism_hierarchy_bottom_up(data_set):
    """AutoETS of the bottom series, summed up: 0.1009 over all 89 series, points as quantiles."""
    folder = data_set("hierarchical_benchmarks")
    panel = hierarchical_bottom(folder, "tourism")
    matrix = pl.read_parquet(folder / "tourism_agg_mat.parquet")
    summing = matrix.select(list(panel.ids)).to_numpy().astype(float)
    assert summing.shape == (89, 56)
    rows = np.arange(len(panel))
    history = panel.cut(8).windows(rows, panel.cut(8).lengths, 28).astype(float)
    point = summing @ StatsForecastModel("AutoETS").forecast(history, 8, 4)
    y = summing @ panel.windows(rows, panel.lengths, 8)
    levels = np.arange(1, 20) / 20
    quantiles = np.repeat(point[..., None], len(levels), axis=-1)
    assert weighted_quantile_loss(y, quantiles, levels) == pytest.approx(0.1009, abs=1e-4)


@pytest.mark.real_data
def test_walmart_through_backtest_and_table(data_root, kit):
    panel = walmart(data_root / "walmart_store_sales")
    result = backtest(kit.LastValue(h=39, quantiles=LEVELS), panel)
    table = evaluate(result, panel, by=("event_name", "cutoff", "Type"), season_length=1)
    row = summarise(table, metrics=["mase", "wape", "wql"]).row(0, named=True)
    assert row["mase"] == pytest.approx(1.524093, abs=1e-6)
    assert row["wape"] == pytest.approx(0.196735, abs=1e-6)
    assert row["wql"] == pytest.approx(row["wape"])
    events = summarise(table, by=["event_name"], metrics=["wql"])
    # Series end at dates of their own, so all four holidays fall into some test window.
    assert {"none", *panel.events} < set(events["event_name"])
    assert set(table["Type"]) == {"A", "B", "C"}
    # Every series ends its training part 39 weeks before its own last week.
    assert result.to_polars()["cutoff"].dt.weekday().unique().to_list() == [5]
