from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.decisions import Replenishment
from foretell.errors import ParameterError
from foretell.evaluation import decision_cost
from foretell.learners.demand.forecast import Forecast, Span

LEVELS = np.arange(1, 100) / 100


def _forecast(ids, cutoffs, mean, sd, horizon=1, spans=None):
    q = np.asarray(mean)[:, None, None] + sd * stats.norm.ppf(LEVELS) + np.zeros((1, horizon, 1))
    names, ends = np.array(ids, object), np.asarray(cutoffs)
    return Forecast(names, ends, Frequency(), LEVELS, q.astype(np.float32), spans or {})


def test_newsvendor_cost_closed_form_by_simulation():
    # N1: cost 1.99761 at the optimum, and no other fractile is cheaper.
    rng = np.random.default_rng(0)
    size = 200_000
    demand = 50 + 8 * rng.normal(size=size)
    forecast = _forecast(np.arange(size).astype(str), np.zeros(size, int), np.full(size, 50.0), 8.0)
    orders = Replenishment(underage=0.70, overage=0.18).decide(forecast)
    result = decision_cost(orders, demand)
    assert result.table["cost"].mean() == pytest.approx(1.99761, abs=0.02)
    exact = 0.88 * stats.norm.pdf(stats.norm.ppf(0.7 / 0.88)) * 8
    assert exact == pytest.approx(1.99761, abs=1e-5)
    for level in (0.6, 0.7, 0.88, 0.95):
        other = Replenishment(service_level=level).decide(forecast)
        left = np.maximum(other.order - demand, 0).mean()
        short = np.maximum(demand - other.order, 0).mean()
        assert 0.18 * left + 0.70 * short > result.table["cost"].mean()
    assert result.table["cost_perfect"].max() == pytest.approx(0, abs=1e-6)
    assert result.table["cost_naive"].null_count() == size


def test_order_up_to_with_a_lead_time_simulated_over_time():
    # N2: backlog, lead time 4, S from the span quantile; average cost 6.279 a period. Orders are
    # decided by the library from the stock position of each of 400 paths in every period.
    rng = np.random.default_rng(1)
    paths, periods, lead = 400, 260, 4
    z = stats.norm.ppf(LEVELS)
    ids = np.arange(paths).astype(str)
    spans = {Span(0, 5): np.tile(25 + 1.6 * np.sqrt(5) * z, (paths, 1)).astype(np.float32)}
    forecast = _forecast(ids, np.zeros(paths, int), np.full(paths, 5.0), 1.6, 1, spans)
    rule = Replenishment(underage=9, overage=1, lead_time=lead)
    stock, pipeline = np.zeros(paths), np.zeros((paths, lead))
    costs = []
    for t in range(periods):
        items = pl.DataFrame({"unique_id": ids, "on_hand": stock, "on_order": pipeline.sum(axis=1)})
        order = rule.decide(forecast, items).order
        stock = stock + pipeline[:, 0]
        pipeline = np.column_stack([pipeline[:, 1:], order])
        stock = stock - np.maximum(5 + 1.6 * rng.normal(size=paths), 0)
        if t >= 20:
            costs.append((np.maximum(stock, 0) + 9 * np.maximum(-stock, 0)).mean())
    assert np.mean(costs) == pytest.approx(6.279, rel=0.01)


def test_costs_by_hand_with_perfect_foresight_and_naive_rule():
    panel = Panel.from_arrays([[2, 4, 6, 10], [8, 8, 8, 2], [3, 3, 3, np.nan]])
    forecast = _forecast(panel.ids, [2, 2, 2], [7.0, 7.0, 7.0], 1e-6)
    items = pl.DataFrame({"unique_id": ["0", "1", "2"], "on_hand": [1.0, 0.0, 0.0]})
    orders = Replenishment(underage=3.0, overage=1.0).decide(forecast, items)
    result = decision_cost(orders, panel)
    table = result.table
    assert table["demand"].to_list() == [10, 2, None]
    np.testing.assert_allclose(table["cost"].to_list()[:2], [9, 5], atol=1e-4)
    np.testing.assert_allclose(table["short"].to_list()[:2], [3, 0], atol=1e-4)
    np.testing.assert_allclose(table["left_over"].to_list()[:2], [0, 5], atol=1e-4)
    np.testing.assert_allclose(table["order_naive"].to_list(), [3, 8, 3])  # up to the mean
    np.testing.assert_allclose(table["cost_naive"].to_list()[:2], [18, 6])
    np.testing.assert_allclose(table["cost_perfect"].to_list()[:2], [0, 0])
    assert table["cost"][2] is None and result.unscored == 1
    summary = dict(result.summary(resamples=50).select("measure", "value").iter_rows())
    assert summary["mean_cost"] == pytest.approx(7, abs=1e-4)
    assert summary["cost_to_naive"] == pytest.approx(14 / 24, abs=1e-4)
    assert summary["share_of_possible_saving"] == pytest.approx(10 / 24, abs=1e-4)
    assert summary["fill_rate"] == pytest.approx(9 / 12, abs=1e-4)
    assert summary["in_stock_rate"] == 0.5


def test_perfect_foresight_obeys_the_same_limits():
    forecast = _forecast(["a", "b", "c"], [0, 0, 0], [10.0, 10.0, 10.0], 1.0)
    rule = Replenishment(underage=1.0, overage=1.0, batch_size=6, minimum_order=6)
    result = decision_cost(rule.decide(forecast), np.array([1.0, 7.0, 11.0]))
    # Nothing for 1, one batch for 7, two for 11: brute force over whole batches.
    assert result.table["order_perfect"].to_list() == [0, 6, 12]
    for demand, cost in zip([1.0, 7.0, 11.0], result.table["cost_perfect"], strict=True):
        assert cost == min(abs(6 * b - demand) for b in range(5))
    assert (result.table["cost"] >= result.table["cost_perfect"] - 1e-9).all()


def test_demand_is_summed_over_the_protection_periods():
    panel = Panel.from_arrays([np.arange(10.0), np.arange(10.0)])
    forecast = _forecast(panel.ids, [4, 4], [6.0, 6.0], 1.0, horizon=3)
    items = pl.DataFrame({"unique_id": ["0", "1"], "lead_time": [0, 2]})
    orders = Replenishment(service_level=0.5).decide(forecast, items)
    result = decision_cost(orders, panel)
    assert result.table["demand"].to_list() == [5, 5 + 6 + 7]
    assert result.relative
    np.testing.assert_allclose(result.table["order_naive"], [2, 6])


def test_better_forecasts_cost_less_and_the_interval_says_so():
    rng = np.random.default_rng(3)
    mean = rng.gamma(4, 10, 300)
    panel = Panel.from_arrays([rng.normal(m, 2, 12) for m in mean])
    panel.target[panel.begins + 11] = (1.5 * mean + rng.normal(0, 2, 300)).astype(np.float32)
    forecast = _forecast(panel.ids, panel.ends - 1, 1.5 * mean, 2.0)  # knows of the promotion
    result = decision_cost(Replenishment(underage=4.0, overage=1.0).decide(forecast), panel)
    summary = {r["measure"]: r for r in result.summary().iter_rows(named=True)}
    assert summary["cost_to_naive"]["upper"] < 0.2
    assert summary["saving_over_naive"]["lower"] > 0
    assert summary["mean_cost"]["lower"] < summary["mean_cost"]["value"]


def test_outcomes_that_do_not_fit():
    forecast = _forecast(["a", "b"], [0, 0], [10.0, 10.0], 1.0)
    orders = Replenishment(service_level=0.9).decide(forecast)
    with pytest.raises(ParameterError, match="shape"):
        decision_cost(orders, np.ones(3))
    with pytest.raises(ParameterError, match="2 series of the forecast are not in the panel: a, b"):
        decision_cost(orders, Panel.from_arrays([np.ones(3)]))
    with pytest.raises(ParameterError, match="observed outcome"):
        decision_cost(orders, np.full(2, np.nan)).summary()
