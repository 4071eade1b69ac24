"""The orders, and what orders made the same way would have cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from foretell.errors import ParameterError
from foretell.evaluation.report.demand import figures
from foretell.evaluation.report.demand.fans import period_labels, rounded
from foretell.evaluation.report.demand.inputs import ReportInput
from foretell.evaluation.report.style import to_json
from foretell.evaluation.report.words import count, fixed, number, percent

MOST_ORDERS = 5000
_METHODS = {
    "period": "the period's own forecast",
    "span": "a forecast of the periods' sum",
    "rank": "periods summed as if high or low together",
    "independent": "periods summed as if independent",
}


def cost_rows(data: ReportInput) -> list[dict[str, Any]]:
    """Figures of each model's orders in the backtest, the cheapest first."""
    rows = []
    for model, cost in data.decision_costs.items():
        try:
            summary = cost.summary(resamples=500)
        except ParameterError:
            continue  # no order of this model has an observed outcome
        rows.append(
            {
                "model": model,
                "relative": cost.relative,
                "orders": int(cost.table["cost"].is_not_null().sum()),
                "unscored": cost.unscored,
                **{
                    r["measure"]: (r["value"], r["lower"], r["upper"])
                    for r in summary.iter_rows(named=True)
                },
            }
        )
    return sorted(rows, key=lambda r: (np.nan_to_num(r["mean_cost"][0], nan=np.inf), r["model"]))


def cost_section(
    data: ReportInput, rows: list[dict[str, Any]], styles: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What the page says of costs, and its figure."""
    if not rows:
        return None, {}
    own = next((r for r in rows if r["model"] == data.best), rows[0])
    bars = [
        _bar("perfect foresight", "", own["mean_cost_perfect"]),
        *[_bar(r["model"], r["model"], r["mean_cost"]) for r in rows],
        _bar("naive: the usual mean", "", own["mean_cost_naive"]),
    ]
    drawn = {"cost": to_json(figures.cost_figure(bars, styles))}
    table = [
        {
            "model": r["model"],
            "best": r["model"] == data.best,
            "cost": number(r["mean_cost"][0], 4),
            "to_naive": _interval(r["cost_to_naive"]),
            "possible": _interval(r["share_of_possible_saving"]),
            "fill": percent(r["fill_rate"][0], 1),
            "in_stock": percent(r["in_stock_rate"][0], 1),
            "left_over": percent(r["left_over_share"][0], 1),
            "orders": f"{r['orders']:,}",
        }
        for r in rows
    ]
    unscored = own["unscored"]
    return {
        "sentence": saving_sentence(own),
        "relative": own["relative"],
        "rows": table,
        "unscored": count(unscored, "order") if unscored else "",
        "naive": number(own["mean_cost_naive"][0], 4),
        "perfect": number(own["mean_cost_perfect"][0], 4),
    }, drawn


def saving_sentence(row: Mapping[str, Any]) -> str:
    """What a model's orders would have cost beside the naive rule's, with the interval."""
    ratio, lower, upper = row["cost_to_naive"]
    if not np.isfinite(ratio):
        return "What its orders cost cannot be set against the naive rule's, whose cost is zero."
    interval = f"(95% interval {percent(1 - upper)} to {percent(1 - lower)})"
    if upper < 1:
        return (
            f"Orders from {row['model']} would have cost {percent(1 - ratio)} less than always "
            f"ordering up to the usual mean {interval}."
        )
    if lower > 1:
        interval = f"(95% interval {percent(lower - 1)} to {percent(upper - 1)})"
        return (
            f"Orders from {row['model']} would have cost {percent(ratio - 1)} more than always "
            f"ordering up to the usual mean {interval}."
        )
    return (
        f"The cost of orders from {row['model']} cannot be told from that of always ordering up "
        f"to the usual mean: {percent(ratio)} of it (95% interval {percent(lower)} to "
        f"{percent(upper)})."
    )


def orders_section(data: ReportInput) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the page says of the orders, and the rows of their table as JSON values."""
    orders = data.orders
    if orders is None or len(orders) == 0:
        return None, None
    table = orders.to_polars().with_columns(
        pl.Series("expected", _expected(data), dtype=pl.Float64),
        pl.Series("placed", _placed(data)),
    )
    table = table.with_columns(pl.col("method").replace(_METHODS))
    total = float(table["order"].sum())
    placed = int((table["order"] > 0).sum())
    shown = table.sort("order", "unique_id", descending=[True, False]).head(MOST_ORDERS)
    texts = {"unique_id": "series", "placed": "ordered after"}
    numbers = {
        "order": "order",
        "expected": "expected demand",
        "target": "order up to",
        "on_hand": "on hand",
        "on_order": "under way",
        "periods": "lasts for",
        "fractile": "service level",
    }
    if data.future is None:
        del numbers["expected"]
    last = {"method": "demand from", "reason": "note"}
    columns = [
        _column(shown[key], title, text)
        for titles, text in ((texts, True), (numbers, False), (last, True))
        for key, title in titles.items()
    ]
    payload: dict[str, Any] = {
        "columns": columns,
        "rows": [
            list(row)
            for row in zip(
                *[shown[c].to_list() for c in texts],
                *[_numbers(shown[c]) for c in numbers],
                *[shown[c].to_list() for c in last],
                strict=True,
            )
        ],
    }
    row = payload["rows"][0]
    shared = [
        f"{c['title']} {_cell(c, v)}{' periods' if c['name'] == 'periods' else ''}"
        for c, v in zip(columns, row, strict=True)
        if c["hidden"] and v not in (None, "")
    ]
    periods = sorted(set(orders.periods.tolist()))
    span = f"{periods[0]}" if len(periods) == 1 else f"{periods[0]} to {periods[-1]}"
    section = {
        "sentence": (
            f"{placed:,} of {count(len(orders), 'series', 'series')} need an order now, "
            f"{number(total, 4)} units in all, to last for the next {span} "
            f"{'period' if span == '1' else 'periods'}; forecasts by {orders.model}."
        ),
        "left_out": len(table) - len(shown),
        "shown": len(shown),
        "total": len(table),
        "shared": f"All of them: {'; '.join(shared)}." if shared else "",
        "columns": columns,
        "first": [
            [
                {"text": _cell(c, v), "number": not c["text"]}
                for c, v in zip(columns, row, strict=True)
                if not c["hidden"]
            ]
            for row in payload["rows"][:15]
        ],
    }
    return section, payload


def _column(values: pl.Series, title: str, text: bool) -> dict[str, Any]:
    """A column's heading; one that says the same of all orders stays out of sight."""
    whole = text or all(v is None or float(v).is_integer() for v in values.to_list())
    kept = values.name in ("unique_id", "order")
    return {
        "name": values.name,
        "title": title,
        "text": text,
        "places": 0 if whole else 1,
        "hidden": not kept and values.n_unique() == 1,
    }


def _cell(column: Mapping[str, Any], value: Any) -> str:
    """An entry of the orders' table as text, as the page's script writes it."""
    if column["text"]:
        return str(value)
    if column["name"] == "fractile":
        return f"{fixed(100 * value, 1)}%".replace(".0%", "%")
    return fixed(value, column["places"])


def _numbers(values: pl.Series) -> list[float | int | None]:
    """Numbers with at most six significant digits, whole ones as integers."""
    result: list[float | int | None] = []
    for value in values.cast(pl.Float64).to_list():
        if value is None or not np.isfinite(value):
            result.append(None)
        elif float(value).is_integer() and abs(value) < 1e15:
            result.append(int(value))
        else:
            result.append(float(f"{value:.6g}"))
    return result


def _placed(data: ReportInput) -> list[str]:
    """When each order is placed."""
    assert data.orders is not None
    periods, where = np.unique(data.orders.cutoffs, return_inverse=True)
    grid = data.future or data.backtests[data.protocol][data.best].forecast
    labels = period_labels(grid, periods)
    return [labels[i] for i in where]


def _expected(data: ReportInput) -> list[float | None]:
    """Sum of the forecast medians over the periods that an order must last for."""
    orders, future = data.orders, data.future
    assert orders is not None
    if future is None:
        return [None] * len(orders)
    rows = {
        (str(i), int(c)): k for k, (i, c) in enumerate(zip(future.ids, future.cutoffs, strict=True))
    }
    total = np.cumsum(np.maximum(future.median, 0), axis=1)
    result: list[float | None] = []
    for name, cutoff, periods in zip(orders.ids, orders.cutoffs, orders.periods, strict=True):
        k = rows.get((str(name), int(cutoff)))
        known = k is not None and periods <= future.horizon
        result.append(float(total[k, periods - 1]) if known and k is not None else None)
    return [None if v is None else rounded([v])[0] for v in result]


def _bar(label: str, model: str, value: tuple[float, float, float]) -> dict[str, Any]:
    return {"label": label, "model": model, "cost": value[0], "lower": value[1], "upper": value[2]}


def _interval(value: tuple[float, float, float]) -> str:
    centre, lower, upper = value
    if not np.isfinite(centre):
        return percent(None)
    return f"{percent(centre)} ({percent(lower)} to {percent(upper)})"
