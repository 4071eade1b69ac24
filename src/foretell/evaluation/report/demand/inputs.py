"""What a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from foretell.data.panel import Panel
from foretell.decisions.orders import Orders
from foretell.errors import ParameterError
from foretell.evaluation.backtest import Backtest
from foretell.evaluation.decision_cost import DecisionCost
from foretell.evaluation.tidy import summarise
from foretell.learners.demand.forecast import Forecast

PROMOTION_NAMES = (
    "promotion", "promotions", "promo", "onpromotion", "on_promotion", "is_promo", "feat",
    "feature", "featured", "discount",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportInput:
    """Everything that the report shows. The first protocol is the one that the page leads with.

    Args:
        run: the run's record: ``title, recipe, versions, data {source, fingerprint, series, steps,
            frequency, notes}, metrics, timings, seeds, command``; any of it may be missing.
        panel: all data, outcomes included.
        backtests: protocol -> model -> backtest (of the first seed).
        tables: protocol -> table of :func:`foretell.evaluation.evaluate` with all models, with a
            column ``seed`` where a model was trained several times.
        best: name of the best model.
        season_length: periods of a season; the frequency's when ``None``.
        baseline: model that the others are compared with; the best when ``None``.
        future: forecasts beyond the data's end.
        orders: order quantities for the future.
        decision_costs: model -> cost of its orders in the backtest.
        effects: tables of what the model learned: ``elasticity`` (``unique_id, elasticity`` and, if
            known, ``lower, upper, group``) and ``events`` (``event, offset, multiplier`` and, if
            known, ``group``); see :func:`legacy_effects`.
        promoted: names of known covariates that mark promotions; when empty, those with a usual
            name, then the events.
        series: how many series can be looked up in the page.
    """

    run: Mapping[str, Any]
    panel: Panel
    backtests: Mapping[str, Mapping[str, Backtest]]
    tables: Mapping[str, pl.DataFrame]
    best: str
    season_length: int | None = None
    baseline: str | None = None
    future: Forecast | None = None
    orders: Orders | None = None
    decision_costs: Mapping[str, DecisionCost] = field(default_factory=dict)
    effects: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    promoted: tuple[str, ...] = ()
    series: int = 200

    def __post_init__(self) -> None:
        if not self.tables or set(self.tables) - set(self.backtests):
            raise ParameterError(
                f"every protocol needs a table and backtests; tables: {list(self.tables)}, "
                f"backtests: {list(self.backtests)}"
            )
        models = self.tables[self.protocol]["model"].unique().to_list()
        for what, name in (("best", self.best), ("baseline", self.baseline)):
            if name is not None and name not in models:
                raise ParameterError(f"{what} {name!r} is not among the models {sorted(models)}")
        if self.best not in self.backtests[self.protocol]:
            raise ParameterError(f"there is no backtest of the best model {self.best!r}")
        if self.series < 1:
            raise ParameterError(f"series must be at least 1, not {self.series}")

    @property
    def protocol(self) -> str:
        """The protocol that the page leads with."""
        return next(iter(self.tables))

    @property
    def reference(self) -> str | None:
        """The model that the best is compared with.

        The baseline; where that is the best itself or not named, the next best by WQL; ``None``
        when there is one model only.
        """
        if self.baseline is not None and self.baseline != self.best:
            return self.baseline
        summary = summarise(self.tables[self.protocol], metrics=["wql"])
        others = summary.filter(pl.col("model") != self.best).sort("wql", "model", nulls_last=True)
        return None if others.is_empty() else str(others["model"][0])

    @property
    def models(self) -> list[str]:
        """All models, the best first, then the baseline, then by name."""
        names = {m for table in self.tables.values() for m in table["model"].unique()}
        leading = [self.best, *([self.baseline] if self.baseline is not None else [])]
        return list(dict.fromkeys([*leading, *sorted(names)]))

    @property
    def promotion_columns(self) -> tuple[str, ...]:
        """Known covariates that mark promotions, events last."""
        known = self.panel.known
        if self.promoted:
            return tuple(name for name in self.promoted if name in known)
        usual = tuple(name for name in known if name.lower() in PROMOTION_NAMES)
        return usual or tuple(self.panel.events)
