from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foretell.data.frequency import Frequency
from foretell.decisions import Replenishment, critical_fractile, demand_quantile, unit_costs
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.forecast import Forecast, Span

LEVELS = np.arange(1, 100) / 100


def normal_forecast(mean=(50.0,), sd=8.0, horizon=1, levels=LEVELS, spans=(), frequency=None):
    """Independent normal demand; spans are exact."""
    mean = np.asarray(mean, float)
    z = stats.norm.ppf(levels)
    values = mean[:, None, None] + sd * z + np.zeros((len(mean), horizon, 1))
    exact = {
        Span(0, n): (n * mean[:, None] + np.sqrt(n) * sd * z).astype(np.float32) for n in spans
    }
    ids = np.array([f"item{i}" for i in range(len(mean))], object)
    cutoffs = np.full(len(mean), 20, np.int64)
    grid = frequency or Frequency()
    return Forecast(ids, cutoffs, grid, np.asarray(levels), values.astype(np.float32), exact)


def test_newsvendor_closed_form():
    # N1: Normal(50, 8), holding .18, penalty .70.
    fractile = float(critical_fractile(0.70, 0.18))
    assert fractile == pytest.approx(0.70 / 0.88)
    levels = np.sort(np.append(LEVELS, fractile))
    orders = Replenishment(underage=0.70, overage=0.18).decide(normal_forecast(levels=levels))
    assert orders.order[0] == pytest.approx(56.6040, abs=1e-4)
    assert orders.method[0] == "period" and orders.reason[0] == ""
    coarse = Replenishment(underage=0.70, overage=0.18).decide(normal_forecast())
    assert coarse.order[0] == pytest.approx(56.6040, abs=0.01)


def test_order_up_to_closed_form_with_a_lead_time():
    # N2: Normal(5, 1.6), lead time 4, b = 9, h = 1: S = 29.58.
    rule = Replenishment(underage=9, overage=1, lead_time=4)
    forecast = normal_forecast((5.0,), 1.6, horizon=5, spans=(5,))
    orders = rule.decide(forecast)
    exact = 25 + stats.norm.ppf(0.9) * 1.6 * np.sqrt(5)
    assert exact == pytest.approx(29.58, abs=0.01)
    assert orders.target[0] == pytest.approx(exact, abs=1e-4)
    assert orders.method[0] == "span" and orders.periods[0] == 5


def test_without_span_quantiles_the_assumption_is_named():
    rule = Replenishment(service_level=0.9, lead_time=4)
    forecast = normal_forecast((5.0, 7.0), 1.6, horizon=5)
    rank = rule.decide(forecast)
    z = stats.norm.ppf(0.9)
    np.testing.assert_allclose(rank.target, [25 + 5 * z * 1.6, 35 + 5 * z * 1.6], rtol=1e-5)
    assert set(rank.method) == {"rank"} and "fully dependent" in rank.reason[0]
    independent = Replenishment(
        service_level=0.9, lead_time=4, dependence="independent", samples=20000
    )
    found = independent.decide(forecast)
    np.testing.assert_allclose(found.target, [29.58, 39.58], atol=0.08)
    assert set(found.method) == {"independent"} and "as independent" in found.reason[0]
    again = independent.decide(forecast)
    np.testing.assert_array_equal(found.order, again.order)


def test_a_forecast_that_ends_too_early():
    rule = Replenishment(service_level=0.9, lead_time=5)
    with pytest.raises(ParameterError, match=r"cover 6 periods .* reaches 5"):
        rule.decide(normal_forecast((5.0,), 1.6, horizon=5))
    longer = normal_forecast((5.0,), 1.6, horizon=5, spans=(6,))
    assert rule.decide(longer).method[0] == "span"


def test_stock_on_hand_on_order_and_backlog():
    rule = Replenishment(service_level=0.5)
    forecast = normal_forecast((50.0,) * 4)
    items = pl.DataFrame(
        {
            "unique_id": forecast.ids.astype(str),
            "on_hand": [0.0, 20.0, -5.0, 80.0],
            "on_order": [0.0, 10.0, 0.0, None],
        }
    )
    orders = rule.decide(forecast, items)
    np.testing.assert_allclose(orders.order, [50, 20, 55, 0], atol=1e-4)
    assert orders.reason[3] == "stock suffices"
    np.testing.assert_allclose(orders.position, [0, 30, -5, 80])


def test_minimum_batch_and_maximum():
    forecast = normal_forecast((50.0,) * 6)
    items = pl.DataFrame(
        {
            "unique_id": forecast.ids.astype(str),
            "on_hand": [45.0, 0.0, 0.0, 45.0, 60.0, 49.9999999],
            "minimum_order": [12.0, 12.0, 0.0, 10.0, 12.0, 0.0],
            "batch_size": [0.0, 12.0, 12.0, 12.0, 12.0, 12.0],
            "maximum_order": [np.inf, np.inf, 30.0, np.inf, np.inf, np.inf],
        }
    )
    orders = Replenishment(service_level=0.5).decide(forecast, items)
    np.testing.assert_allclose(orders.order, [12, 60, 24, 12, 0, 0])
    assert "raised to the minimum" in orders.reason[0]
    assert "whole batches" in orders.reason[1]
    assert "maximum" in orders.reason[2] and "whole batches" not in orders.reason[2]
    assert orders.reason[4] == "stock suffices"
    bad = items.with_columns(maximum_order=pl.lit(5.0))
    with pytest.raises(DataError, match=r"minimum, batch and maximum .* item0"):
        Replenishment(service_level=0.5).decide(forecast, bad)


@given(
    st.floats(-50, 200),
    st.floats(0, 40),
    st.sampled_from([0.0, 0.5, 1.0, 6.0, 12.0]),
    st.floats(40, 500),
    st.floats(0.02, 0.98),
)
def test_orders_always_keep_their_limits(on_hand, minimum, batch, maximum, level):
    rule = Replenishment(
        service_level=level, on_hand=on_hand, minimum_order=minimum, batch_size=batch,
        maximum_order=maximum,
    )  # fmt: skip
    try:
        orders = rule.decide(normal_forecast())
    except DataError:
        assert batch > 0 and np.floor(maximum / batch) * batch < minimum
        return
    order = orders.order[0]
    need = orders.target[0] - on_hand
    assert order == 0 or minimum - 1e-6 <= order <= maximum + 1e-6
    if batch:
        assert order / batch == pytest.approx(round(order / batch), abs=1e-6)
    if need <= 0:
        assert order == 0
    if 0 < order < maximum - batch:
        assert order >= need - 1e-4
        assert order <= max(need, minimum) + batch + 1e-6


@given(st.lists(st.floats(0.02, 0.98), min_size=2, max_size=5, unique=True))
def test_a_higher_service_level_never_orders_less(levels):
    forecast = normal_forecast((5.0,), 1.6, horizon=3)
    for dependence in ("rank", "independent"):
        targets = [
            Replenishment(service_level=a, lead_time=2, dependence=dependence, samples=200)
            .decide(forecast)
            .target[0]
            for a in sorted(levels)
        ]
        assert np.all(np.diff(targets) >= -1e-9)


def test_costs_from_prices():
    forecast = normal_forecast((50.0,) * 3)
    items = pl.DataFrame(
        {
            "unique_id": forecast.ids.astype(str),
            "price": [10.0, 4.0, 5.0],
            "unit_cost": [6.0, 5.0, 5.0],
            "salvage": [2.0, None, 1.0],
        }
    )
    orders = Replenishment(salvage=0.0, holding=0.5).decide(forecast, items)
    np.testing.assert_allclose(orders.fractile, [4 / (4 + 4.5), 0, 0])
    assert orders.order[0] > 0
    np.testing.assert_array_equal(orders.order[1:], 0)
    for i in (1, 2):
        assert orders.reason[i] == "price does not exceed cost: order 0"
        assert orders.method[i] == "none"
    with pytest.raises(DataError, match="unit_cost is missing or not finite: 1 series, item1"):
        rule = Replenishment()
        rule.decide(
            forecast, items.with_columns(unit_cost=pl.Series([1.0, None, 1.0]), salvage=0.0)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"service_level": 0.9, "underage": 1.0, "overage": 1.0}, "exactly one"),
        ({"underage": 1.0}, "exactly one"),
        ({"price": 1.0}, "exactly one"),
        ({"service_level": 1.0}, r"inside \(0, 1\), not 1"),
        ({"service_level": 0.0}, r"inside \(0, 1\), not 0"),
        ({"service_level": 0.9, "holding": 1.0}, "salvage and holding"),
        ({"underage": -1.0, "overage": 1.0}, "must not be negative"),
        ({"price": 3.0, "unit_cost": -1.0}, "unit_cost must not be negative"),
    ],
)
def test_costs_that_cannot_be(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Replenishment(**arguments).decide(normal_forecast())
    with pytest.raises(ParameterError, match=message):
        unit_costs(**arguments)


def test_leftovers_must_cost_something():
    with pytest.raises(ParameterError, match="unlimited order"):
        critical_fractile(1.0, 0.0)
    with pytest.raises(DataError, match=r"left over costs nothing .* item0"):
        Replenishment(price=5.0, unit_cost=3.0, salvage=3.0).decide(normal_forecast())
    with pytest.raises(ParameterError, match="finite"):
        critical_fractile(np.nan, 1.0)
    np.testing.assert_array_equal(critical_fractile([-1.0, 0.0, 1.0], 1.0), [0, 0, 0.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lead_time": -1}, "lead_time must be a whole number >= 0"),
        ({"lead_time": 1.5}, "lead_time must be a whole number"),
        ({"review": 0}, "review must be a whole number >= 1"),
        ({"on_order": -1.0}, "on_order must be a number >= 0"),
        ({"batch_size": np.nan}, "batch_size"),
        ({"on_hand": np.nan}, "on_hand"),
        ({"dependence": "copula", "lead_time": 1}, "dependence"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Replenishment(service_level=0.9, **arguments).decide(normal_forecast(horizon=2))


def test_ids_that_do_not_match_are_listed():
    forecast = normal_forecast((50.0,) * 3)
    rule = Replenishment(service_level=0.9)
    items = pl.DataFrame({"unique_id": ["item0", "item2", "other"], "on_hand": [1.0, 2.0, 3.0]})
    with pytest.raises(DataError, match=r"have none: item1; 1 have no forecast: other"):
        rule.decide(forecast, items)
    twice = pl.DataFrame({"unique_id": ["item0", "item0", "item1", "item2"], "on_hand": 1.0})
    with pytest.raises(DataError, match="repeat a series: item0"):
        rule.decide(forecast, twice)
    with pytest.raises(DataError, match=r"stok.*not known"):
        rule.decide(forecast, pl.DataFrame({"unique_id": ["item0"], "stok": [1.0]}))
    with pytest.raises(DataError, match=r"'unique_id'.* missing"):
        rule.decide(forecast, pl.DataFrame({"on_hand": [1.0]}))
    text = pl.DataFrame({"unique_id": ["item0", "item1", "item2"], "on_hand": ["a", "b", "c"]})
    with pytest.raises(DataError, match="not numbers"):
        rule.decide(forecast, text)


def test_stock_of_each_origin():
    forecast = normal_forecast((50.0, 50.0), frequency=Frequency.parse("W-MON"))
    forecast = Forecast.concat([forecast, forecast])
    forecast.cutoffs[2:] += 1
    items = pl.DataFrame(
        {
            "unique_id": forecast.ids.astype(str),
            "cutoff": forecast.frequency.time(forecast.cutoffs),
            "on_hand": [0.0, 10.0, 20.0, 30.0],
        }
    ).reverse()
    orders = Replenishment(service_level=0.5).decide(forecast, items)
    np.testing.assert_allclose(orders.order, [50, 40, 30, 20], atol=1e-4)


def test_negative_quantiles_and_tails():
    returns = normal_forecast((-30.0,))
    orders = Replenishment(service_level=0.9).decide(returns)
    assert (orders.target[0], orders.order[0]) == (0, 0)
    assert "negative" in orders.reason[0]
    few = normal_forecast(levels=np.array([0.1, 0.5, 0.9]))
    orders = Replenishment(service_level=0.99).decide(few)
    assert "tail extrapolated" in orders.reason[0]
    assert orders.target[0] > 50 + 8 * stats.norm.ppf(0.9)
    few.values[0, 0, 1] = np.nan
    with pytest.raises(DataError, match="not a finite number: 1 series, item0"):
        Replenishment(service_level=0.9).decide(few)


def test_lead_times_of_each_series():
    forecast = normal_forecast((10.0, 10.0, 10.0), 1.0, horizon=4, spans=(2, 4))
    items = pl.DataFrame({"unique_id": forecast.ids.astype(str), "lead_time": [0, 1, 3]})
    orders = Replenishment(service_level=0.5).decide(forecast, items)
    np.testing.assert_allclose(orders.target, [10, 20, 40], rtol=1e-5)
    assert orders.method.tolist() == ["period", "span", "span"]
    table = orders.to_polars()
    assert table["periods"].to_list() == [1, 2, 4]
    assert {
        "unique_id",
        "cutoff",
        "fractile",
        "target",
        "position",
        "order",
        "method",
        "reason",
    } <= set(table.columns)


def test_demand_quantile_refuses_fractiles_outside():
    with pytest.raises(ParameterError, match="fractiles"):
        demand_quantile(normal_forecast(), 1, np.array([1.0]))
    with pytest.raises(ParameterError, match="samples"):
        demand_quantile(
            normal_forecast(horizon=2), 2, np.array([0.5]), dependence="independent", samples=1
        )
