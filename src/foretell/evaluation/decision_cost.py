"""What orders cost once the demand is known, beside perfect foresight and a naive rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.decisions.orders import Orders
from foretell.errors import ParameterError
from foretell.evaluation.bootstrap import cluster_bootstrap
from foretell.evaluation.history import history_at, rows_of

_SUMS = ("cost", "cost_perfect", "cost_naive", "demand", "short", "left_over", "in_stock", "orders")


@dataclass(frozen=True, eq=False)
class DecisionCost:
    """Costs of M orders; each order stands alone: nothing is carried over to the next one.

    Args:
        table: one row an order: ``unique_id, cutoff, demand, order, left_over, short, cost``, and
            ``order_`` and ``cost_`` of ``perfect`` (the demand was known, the same limits held) and
            of ``naive`` (order up to the mean of the history); null where the demand of a period
            was not observed.
        unscored: number of these.
        relative: costs are relative: a service level was given, not money.
    """

    table: pl.DataFrame
    unscored: int
    relative: bool

    def summary(
        self, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> pl.DataFrame:
        """Figures with cluster-bootstrap intervals over series.

        Returns:
            ``measure, value, lower, upper`` with measures ``mean_cost``, ``mean_cost_perfect``,
            ``mean_cost_naive`` (per order), ``cost_to_naive`` (ratio, below 1 is a saving),
            ``saving_over_naive`` (per order), ``share_of_possible_saving`` (0 naive, 1 perfect
            foresight), ``fill_rate`` (units served at once), ``in_stock_rate`` (orders that
            sufficed) and ``left_over_share`` (of demand). NaN where a denominator is zero.
        """
        scored = self.table.filter(pl.col("cost").is_not_null())
        if scored.is_empty():
            raise ParameterError("no order has an observed outcome")
        sums = (
            scored.with_columns(
                (pl.col("short") <= 1e-9).cast(pl.Float64).alias("in_stock"),
                pl.col("demand").clip(lower_bound=0),
                pl.lit(1.0).alias("orders"),
            )
            .group_by("unique_id")
            .agg(pl.col(_SUMS).sum())
            .sort("unique_id")
            .select(_SUMS)
            .to_numpy()
        )
        found = cluster_bootstrap(
            sums, _figures, resamples=resamples, confidence=confidence, seed=seed
        )
        return pl.DataFrame(
            {
                "measure": list(_MEASURES),
                "value": found.estimate,
                "lower": found.lower,
                "upper": found.upper,
            }
        )


_MEASURES = (
    "mean_cost",
    "mean_cost_perfect",
    "mean_cost_naive",
    "cost_to_naive",
    "saving_over_naive",
    "share_of_possible_saving",
    "fill_rate",
    "in_stock_rate",
    "left_over_share",
)


def decision_cost(
    orders: Orders, outcomes: Panel | NDArray, *, naive_demand: NDArray | None = None
) -> DecisionCost:
    """Cost ``Co (left over) + Cu (short)`` of each order against what was then sold.

    An order is judged by the demand of the periods that it had to last for. Stock and units under
    way count as available; demand not met is short once.

    Args:
        orders: M orders.
        outcomes: the panel that holds the periods after the cutoffs, or demand totals (M,) over the
            protection periods, NaN where not known.
        naive_demand: (M,) what the naive rule orders up to; the mean of each series' history times
            the number of periods when ``None`` and outcomes are a panel.
    """
    if isinstance(outcomes, Panel):
        demand = _totals(orders, outcomes)
        if naive_demand is None:
            rows = rows_of(outcomes, orders.ids)
            mean = history_at(outcomes, rows, orders.cutoffs, season=1).mean
            naive_demand = np.maximum(np.nan_to_num(mean), 0) * orders.periods
    else:
        demand = np.asarray(outcomes, np.float64)
    if demand.shape != (len(orders),):
        raise ParameterError(f"demand has shape {demand.shape}, not ({len(orders)},)")
    seen = ~np.isnan(demand)
    known = np.where(seen, demand, 0.0)
    perfect = _perfect(orders, known)
    columns: dict[str, NDArray] = {
        "demand": demand,
        "order": orders.order,
        "left_over": np.maximum(orders.position + orders.order - known, 0),
        "short": np.maximum(known - orders.position - orders.order, 0),
        "cost": _cost(orders, orders.order, known),
        "order_perfect": perfect,
        "cost_perfect": _cost(orders, perfect, known),
    }
    if naive_demand is None:
        naive = np.full(len(orders), np.nan)
    else:
        naive = orders.rules.apply(np.asarray(naive_demand, np.float64) - orders.position)[0]
    columns["order_naive"], columns["cost_naive"] = naive, _cost(orders, naive, known)
    outcome = [c for c in columns if not c.startswith("order")]
    table = pl.DataFrame(
        {
            "unique_id": pl.Series(orders.ids.astype(str), dtype=pl.String),
            "cutoff": orders.frequency.time(orders.cutoffs),
            **columns,
        }
    )
    observed = pl.Series(seen)
    table = table.with_columns(
        pl.when(observed).then(pl.col(c)).otherwise(None).fill_nan(None).alias(c) for c in outcome
    )
    return DecisionCost(table, int((~seen).sum()), orders.costs.relative)


def _perfect(orders: Orders, demand: NDArray) -> NDArray[np.float64]:
    """The cheapest order that the rules allow: none, the need in whole batches up, or down."""
    need = demand - orders.position
    up, down = orders.rules.apply(need)[0], orders.rules.apply(need - orders.rules.batch)[0]
    choices = np.stack([np.zeros_like(up), down, up])
    costs = np.stack([_cost(orders, choice, demand) for choice in choices])
    return np.take_along_axis(choices, costs.argmin(axis=0)[None], axis=0)[0]


def _cost(orders: Orders, order: NDArray, demand: NDArray) -> NDArray[np.float64]:
    left = orders.position + order - demand
    # A sale that does not pay is not missed.
    short = np.maximum(orders.costs.underage, 0)
    return orders.costs.overage * np.maximum(left, 0) + short * np.maximum(-left, 0)


def _totals(orders: Orders, panel: Panel) -> NDArray[np.float64]:
    rows_of(panel, orders.ids)  # refuses names that the panel does not hold
    result = np.empty(len(orders))
    for length in np.unique(orders.periods):
        at = np.flatnonzero(orders.periods == length)
        y = panel.outcomes(list(orders.ids[at]), orders.cutoffs[at], int(length))
        result[at] = y.astype(np.float64).sum(axis=1)
    return result


def _figures(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    s = dict(zip(_SUMS, sums.T, strict=True))

    def ratio(top: NDArray, bottom: NDArray) -> NDArray:
        return np.where(bottom != 0, top / np.where(bottom != 0, bottom, 1), np.nan)

    saved = s["cost_naive"] - s["cost"]
    return np.stack(
        [
            ratio(s["cost"], s["orders"]),
            ratio(s["cost_perfect"], s["orders"]),
            ratio(s["cost_naive"], s["orders"]),
            ratio(s["cost"], s["cost_naive"]),
            ratio(saved, s["orders"]),
            ratio(saved, s["cost_naive"] - s["cost_perfect"]),
            1 - ratio(s["short"], s["demand"]),
            ratio(s["in_stock"], s["orders"]),
            ratio(s["left_over"], s["demand"]),
        ],
        axis=1,
    )
