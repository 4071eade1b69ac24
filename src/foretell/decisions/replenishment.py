"""How much to order: a quantile of the demand until the next order can arrive, less the stock.

Timing: an order is placed at the end of period t (the forecast's cutoff) and arrives before the
demand of period t + 1 + lead time; the next one can be placed ``review`` periods later. The stock
must therefore last for the demand of ``lead_time + review`` periods. With lead time 0 and review 1
this is the newsvendor; with backlogged demand and linear costs the level is optimal for any lead
time (Karlin and Scarf 1958); with lost sales it orders somewhat too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.decisions.constraints import OrderRules
from foretell.decisions.costs import UnitCosts, critical_fractile, unit_costs
from foretell.decisions.demand import Dependence, demand_quantile
from foretell.decisions.orders import Orders
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.forecast import Forecast

_MONEY = ("underage", "overage", "service_level", "price", "unit_cost", "salvage", "holding")
_STOCK = (
    "lead_time",
    "review",
    "on_hand",
    "on_order",
    "minimum_order",
    "batch_size",
    "maximum_order",
)


@dataclass(frozen=True)
class Replenishment:
    """An order-up-to rule on forecast quantiles.

    Numbers given here hold for every series; a table given to :meth:`decide` overrides them series
    by series. The fractile comes from exactly one of ``service_level``, ``underage`` with
    ``overage``, or ``price`` with ``unit_cost`` (then also ``salvage`` and ``holding``).

    Args:
        service_level: probability with which the stock should last, in (0, 1).
        underage: cost of one unit of unmet demand.
        overage: cost of one unit left over, > 0.
        price: selling price of a unit.
        unit_cost: purchase price of a unit.
        salvage: what a unit left over still brings.
        holding: cost of keeping a unit left over.
        lead_time: whole periods between order and arrival, >= 0.
        review: whole periods between orders, >= 1.
        on_hand: units in stock; negative is a backlog.
        on_order: units under way, >= 0.
        minimum_order: smallest order that is not zero.
        batch_size: orders are whole multiples, rounded up; 0 allows any quantity.
        maximum_order: largest order.
        dependence: how periods are summed where the forecast has no quantiles of their sum; see
            :func:`foretell.decisions.demand.demand_quantile`.
        samples: number of sample paths for ``dependence="independent"``.
        seed: of the samples.
    """

    service_level: float | None = None
    underage: float | None = None
    overage: float | None = None
    price: float | None = None
    unit_cost: float | None = None
    salvage: float | None = None
    holding: float | None = None
    lead_time: int = 0
    review: int = 1
    on_hand: float = 0.0
    on_order: float = 0.0
    minimum_order: float = 0.0
    batch_size: float = 0.0
    maximum_order: float = np.inf
    dependence: Dependence = "rank"
    samples: int = 2000
    seed: int = 0

    def decide(self, forecast: Forecast, items: pl.DataFrame | None = None) -> Orders:
        """Order quantities for every row of a forecast.

        Args:
            forecast: quantiles, with span quantiles for the protection period if it has them.
            items: ``unique_id`` (and ``cutoff``, a date, where the stock differs between origins)
                and any of this class's numbers as columns; a null takes the number given here.

        Raises:
            DataError: ids of ``items`` and forecast do not match, are repeated, or a column holds
                no number; lists them.
            ParameterError: a number is out of its range, or the costs are not stated one way.
        """
        columns = _columns(forecast, items)
        numbers = {name: self._number(name, columns, len(forecast)) for name in _STOCK}
        _check_ranges(forecast, numbers)
        stated = _stated(self, columns)
        money = {name: self._number(name, columns, len(forecast)) for name in stated}
        costs = _costs(forecast, money)
        rules = OrderRules(
            numbers["minimum_order"], numbers["batch_size"], numbers["maximum_order"]
        )
        _refuse(
            forecast,
            rules.impossible(),
            "no order satisfies its minimum, batch and maximum together",
        )
        _refuse(
            forecast,
            np.asarray(~np.isfinite(forecast.values).all(axis=(1, 2))),
            "the forecast is not a finite number",
        )
        periods = (numbers["lead_time"] + numbers["review"]).astype(np.int64)
        fractile = critical_fractile(costs.underage, costs.overage)
        pays = fractile > 0
        target, method = np.zeros(len(forecast)), np.full(len(forecast), "none", object)
        for length in np.unique(periods[pays]):
            rows = np.flatnonzero(pays & (periods == length))
            found = demand_quantile(
                forecast.select(rows),
                int(length),
                fractile[rows],
                dependence=self.dependence,
                samples=self.samples,
                seed=self.seed,
            )
            target[rows], method[rows] = found.quantile, found.method
        negative = target < 0
        target = np.maximum(target, 0.0)
        position = numbers["on_hand"] + numbers["on_order"]
        need = np.where(pays, target - position, 0.0)
        order, raised, rounded, capped = rules.apply(need)
        outer = (fractile < forecast.levels[0]) | (fractile > forecast.levels[-1])
        free = pays & ~negative
        no_margin = "price does not exceed cost: order 0"
        if "price" not in stated:
            no_margin = "a unit short costs nothing: order 0"
        reason = _reasons(
            (~pays, no_margin),
            (pays & negative, "quantile of demand is negative (returns): target 0"),
            (pays & outer, "fractile beyond the forecast's levels: tail extrapolated"),
            (free & (method == "rank"), "no span quantiles: periods summed as if fully dependent"),
            (free & (method == "independent"), "no span quantiles: periods summed as independent"),
            (pays & (need <= 0), "stock suffices"),
            (raised, "raised to the minimum order"),
            (rounded, "rounded up to whole batches"),
            (capped, "held at the maximum order"),
        )
        return Orders(
            forecast.ids,
            forecast.cutoffs,
            forecast.frequency,
            periods,
            fractile,
            target,
            numbers["on_hand"],
            numbers["on_order"],
            order,
            method,
            reason,
            costs,
            rules,
            forecast.model,
        )

    def _number(
        self, name: str, columns: dict[str, NDArray[np.float64]], size: int
    ) -> NDArray[np.float64]:
        """One number a row: the table's, this object's where the table has none, else NaN."""
        own = getattr(self, name)
        default = np.full(size, np.nan if own is None else float(own))
        if name not in columns:
            return default
        return np.where(np.isnan(columns[name]), default, columns[name])


def _stated(rule: Replenishment, columns: dict[str, NDArray]) -> set[str]:
    """Names of the money numbers to use: a way stated in the table replaces the rule's."""
    ways = (
        {"underage", "overage"},
        {"service_level"},
        {"price", "unit_cost", "salvage", "holding"},
    )
    own = {name for name in _MONEY if getattr(rule, name) is not None}
    for way in ways:
        if way & set(columns) and not (own & way):
            own = set()  # the table states costs another way than the rule did
    return own | (set(_MONEY) & set(columns))


def _costs(forecast: Forecast, money: dict[str, NDArray[np.float64]]) -> UnitCosts:
    for name, values in money.items():
        _refuse(forecast, ~np.isfinite(values), f"{name} is missing or not finite")
    costs = unit_costs(**money)  # type: ignore[arg-type]
    _refuse(forecast, costs.overage <= 0, "a unit left over costs nothing (overage <= 0)")
    return costs


def _columns(forecast: Forecast, items: pl.DataFrame | None) -> dict[str, NDArray[np.float64]]:
    """The table's numbers, one a row of the forecast; NaN for null."""
    if items is None:
        return {}
    keys = ["unique_id", "cutoff"] if "cutoff" in items.columns else ["unique_id"]
    known = [*keys, *_MONEY, *_STOCK]
    strange = [c for c in items.columns if c not in known]
    if "unique_id" not in items.columns or strange:
        raise DataError(
            f"columns {strange or ['unique_id']} are {'not known' if strange else 'missing'}",
            file="items",
            hint=f"Known are {', '.join(known)}",
        )
    asked = pl.DataFrame(
        {
            "unique_id": pl.Series(forecast.ids.astype(str), dtype=pl.String),
            "cutoff": forecast.frequency.time(forecast.cutoffs),
        }
    ).select(keys)
    items = items.with_columns(pl.col("unique_id").cast(pl.String))
    if "cutoff" in keys:
        items = items.with_columns(pl.col("cutoff").cast(asked["cutoff"].dtype))
    repeated = items.filter(items.select(keys).is_duplicated())
    if repeated.height:
        raise DataError(
            f"{repeated.height} rows repeat a series: {_shown(repeated['unique_id'].to_list())}",
            file="items",
            column=", ".join(keys),
            hint="Give one row a series, or a cutoff column",
        )
    lost = asked.join(items, on=keys, how="anti")
    extra = items.join(asked, on=keys, how="anti")
    if lost.height or extra.height:
        parts = []
        if lost.height:
            parts.append(
                f"{lost.height} rows of the forecast have none: {_shown(lost['unique_id'])}"
            )
        if extra.height:
            parts.append(f"{extra.height} have no forecast: {_shown(extra['unique_id'])}")
        raise DataError(
            f"items and forecast do not match: {'; '.join(parts)}",
            file="items",
            column=", ".join(keys),
            hint="Give exactly the series of the forecast",
        )
    joined = asked.join(items, on=keys, how="left", maintain_order="left")
    result = {}
    for name in items.columns:
        if name in keys:
            continue
        if not joined[name].dtype.is_numeric() and joined[name].dtype != pl.Null:
            raise DataError(
                f"column {name!r} holds {joined[name].dtype}, not numbers",
                file="items",
                column=name,
                hint="Convert it to numbers first; leave unknown values empty",
            )
        result[name] = joined[name].cast(pl.Float64).to_numpy().astype(np.float64)
    return result


def _check_ranges(forecast: Forecast, numbers: dict[str, NDArray[np.float64]]) -> None:
    for name, low, whole in (
        ("lead_time", 0, True),
        ("review", 1, True),
        ("on_order", 0, False),
        ("minimum_order", 0, False),
        ("batch_size", 0, False),
        ("maximum_order", 0, False),
    ):
        values = numbers[name]
        bad = ~(values >= low)
        if whole:
            bad |= ~np.isfinite(values) | (values != np.rint(values))
        elif name != "maximum_order":
            bad |= ~np.isfinite(values)
        kind = "a whole number" if whole else "a number"
        _refuse(forecast, bad, f"{name} must be {kind} >= {low}", ParameterError)
    _refuse(forecast, ~np.isfinite(numbers["on_hand"]), "on_hand must be a number", ParameterError)


def _refuse(
    forecast: Forecast,
    bad: NDArray[np.bool_],
    problem: str,
    kind: type[DataError] | type[ParameterError] = DataError,
) -> None:
    if bad.any():
        raise kind(f"{problem}: {int(bad.sum())} series, {_shown(forecast.ids[bad])}")


def _shown(names: Sequence[str] | NDArray | pl.Series) -> str:
    listed = list(dict.fromkeys(str(n) for n in names))
    return ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")


def _reasons(*parts: tuple[NDArray[np.bool_], str]) -> NDArray[np.object_]:
    result = np.full(len(parts[0][0]), "", object)
    for where, text in parts:
        for i in np.flatnonzero(where):
            result[i] = f"{result[i]}; {text}" if result[i] else text
    return result
