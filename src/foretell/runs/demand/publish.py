"""From backtests to what is said of them: scores, the cost of orders, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from foretell.data.panel import Panel
from foretell.data.readers import read_table
from foretell.decisions import Orders, Replenishment
from foretell.evaluation import (
    DecisionCost,
    decision_cost,
    evaluate,
    leaderboard,
    summarise,
)
from foretell.evaluation.report import ReportInput, write_report
from foretell.learners.demand import Forecast
from foretell.runs.demand.recipe import OrdersSection, Recipe
from foretell.runs.demand.results import Results
from foretell.runs.folder import RunFolder

_STOCK = ("on_hand", "on_order")


@dataclass(frozen=True, eq=False)
class Findings:
    """What the backtests of a run say.

    Args:
        tables: protocol -> sums by model, seed, series and segment.
        metrics: model -> protocol -> score -> mean over seeds; ``coverage`` by level.
        boards: protocol -> leaderboard.
        best: the model with the lowest WQL, averaged over protocols.
        costs: model -> cost of the orders it would have made, in the first protocol.
    """

    tables: dict[str, pl.DataFrame]
    metrics: dict[str, dict[str, dict[str, Any]]]
    boards: dict[str, pl.DataFrame]
    best: str
    costs: dict[str, DecisionCost]

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {
            "best": self.best,
            "metrics": self.metrics,
            "leaderboard": {p: board.to_dicts() for p, board in self.boards.items()},
            "orders": {
                name: {row.pop("measure"): row for row in cost.summary().to_dicts()}
                for name, cost in self.costs.items()
            },
        }


@dataclass(frozen=True, eq=False)
class Ahead:
    """What a run says of the time after its data; parts that it does not have are empty.

    Args:
        forecast: of the model that is kept.
        orders: by the recipe's rule.
        effects: what a classical model learned of prices and events.
        reason: why there is no forecast.
    """

    forecast: Forecast | None = None
    orders: Orders | None = None
    effects: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    reason: str | None = None


def find(recipe: Recipe, panel: Panel, results: Results) -> Findings:
    """Scores all backtests and the orders that would have followed from them."""
    tables, boards = {}, {}
    metrics: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in recipe.models}
    for protocol in results.protocols:
        parts = []
        for name, seeds in results.backtests[protocol].items():
            for seed, result in seeds.items():
                table = evaluate(
                    {name: result},
                    panel,
                    by=tuple(recipe.report.segments),
                    season_length=season_length(recipe),
                )
                parts.append(table.with_columns(pl.lit(seed).alias("seed")))
        tables[protocol] = pl.concat(parts)
        boards[protocol] = leaderboard(tables[protocol], baseline=recipe.baseline)
        for row in _means(tables[protocol]).to_dicts():
            name = row.pop("model")
            row["coverage"] = {
                key.removeprefix("coverage_q"): row.pop(key)
                for key in list(row)
                if key.startswith("coverage_q")
            }
            row["crossings"] = sum(_crossings(b.forecast) for b in results.of(protocol, name))
            metrics[name][protocol] = row

    def mean_wql(name: str) -> float:
        scores = [metrics[name][p]["wql"] for p in results.protocols]
        mean = float(np.mean(scores))
        return mean if np.isfinite(mean) else np.inf

    best = min(recipe.models, key=mean_wql)
    return Findings(tables, metrics, boards, best, _costs(recipe, panel, results))


def draw(
    folder: RunFolder,
    record: Mapping[str, Any],
    recipe: Recipe,
    panel: Panel,
    results: Results,
    findings: Findings,
    ahead: Ahead,
) -> None:
    """Writes ``report.html``."""
    write_report(
        folder.path / "report.html",
        ReportInput(
            run=record,
            panel=panel,
            backtests={p: results.first_seeds(p) for p in results.protocols},
            tables=findings.tables,
            season_length=season_length(recipe),
            baseline=recipe.baseline,
            best=findings.best,
            future=ahead.forecast,
            orders=ahead.orders,
            decision_costs=findings.costs,
            effects=ahead.effects,
            series=recipe.report.series,
        ),
    )


def make_orders(section: OrdersSection, forecast: Forecast) -> Orders:
    """Orders by a recipe's rule, with its table of items where it names one."""
    return order_rule(section).decide(forecast, read_items(section))


def order_rule(section: OrdersSection) -> Replenishment:
    """The rule itself.

    Raises:
        ParameterError: its numbers contradict each other.
    """
    given = section.model_dump(exclude={"items"})
    if given["maximum_order"] is None:
        given["maximum_order"] = np.inf
    return Replenishment(**given)


def read_items(section: OrdersSection) -> pl.DataFrame | None:
    """The table of items; ``None`` where the section names none."""
    return None if section.items is None else read_table(section.items)


def season_length(recipe: Recipe) -> int | None:
    """The season that errors are scaled by: the first that the recipe names."""
    season = recipe.data.season_length
    return season[0] if isinstance(season, list) else season


def _costs(recipe: Recipe, panel: Panel, results: Results) -> dict[str, DecisionCost]:
    if recipe.orders is None:
        return {}
    rule = order_rule(recipe.orders)
    items = read_items(recipe.orders)
    costs = {}
    for name, result in results.first_seeds(results.protocols[0]).items():
        own = items
        if items is not None and "unique_id" in items.columns:
            # Today's stock says nothing of an order in the past; the costs of an item do.
            ids = pl.col("unique_id").cast(pl.String)
            own = items.drop(_STOCK, strict=False).filter(
                ids.is_in([str(i) for i in result.forecast.ids])
            )
        costs[name] = decision_cost(rule.decide(result.forecast, own), panel)
    return costs


def _means(table: pl.DataFrame) -> pl.DataFrame:
    """All scores of each model, the mean over its seeds, and the spread of the main one."""
    by_seed = summarise(table, by=["seed"], details=True)
    numbers = [c for c in by_seed.columns if c not in ("model", "seed")]
    return by_seed.group_by("model", maintain_order=True).agg(
        pl.len().alias("seeds"),
        pl.col("wql").std().alias("wql_sd"),
        *[pl.col(c).mean() for c in numbers],
    )


def _crossings(forecast: Forecast) -> int:
    return int((np.diff(forecast.values, axis=-1) < 0).any(axis=-1).sum())
