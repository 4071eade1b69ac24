"""The result of a replenishment decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.frequency import Frequency
from foretell.decisions.constraints import OrderRules
from foretell.decisions.costs import UnitCosts


@dataclass(frozen=True, eq=False)
class Orders:
    """M order quantities, in units, and why they are what they are.

    Args:
        ids: (M,) names of the series.
        cutoffs: (M,) period at whose end the order is placed.
        frequency: the time grid.
        periods: (M,) protection periods: the order must last for demand of the next so many.
        fractile: (M,) probability with which the stock should last.
        target: (M,) order-up-to level.
        on_hand: (M,) stock, negative for a backlog.
        on_order: (M,) units under way.
        order: (M,) the order.
        method: (M,) how the demand's quantile was had: ``period``, ``span``, ``rank`` (periods
            summed as if all were high or low together) or ``independent`` (summed as if
            independent); ``none`` where nothing was needed.
        reason: (M,) what shaped the order, in words; empty where it is target minus position.
        costs: cost of a unit short and of a unit left over.
        rules: limits that were applied.
        model: the forecast's model.
    """

    ids: NDArray[np.object_]
    cutoffs: NDArray[np.int64]
    frequency: Frequency
    periods: NDArray[np.int64]
    fractile: NDArray[np.float64]
    target: NDArray[np.float64]
    on_hand: NDArray[np.float64]
    on_order: NDArray[np.float64]
    order: NDArray[np.float64]
    method: NDArray[np.object_]
    reason: NDArray[np.object_]
    costs: UnitCosts
    rules: OrderRules
    model: str = "model"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def position(self) -> NDArray[np.float64]:
        """Inventory position before the order: on hand plus on order (M,)."""
        return self.on_hand + self.on_order

    def to_polars(self) -> pl.DataFrame:
        """One row an order.

        Columns ``unique_id, cutoff, periods, fractile, target, on_hand, on_order, position, order,
        method, reason, underage, overage``.
        """
        return pl.DataFrame(
            {
                "unique_id": pl.Series(self.ids.astype(str), dtype=pl.String),
                "cutoff": self.frequency.time(self.cutoffs),
                "periods": self.periods,
                "fractile": self.fractile,
                "target": self.target,
                "on_hand": self.on_hand,
                "on_order": self.on_order,
                "position": self.position,
                "order": self.order,
                "method": pl.Series(self.method.astype(str), dtype=pl.String),
                "reason": pl.Series(self.reason.astype(str), dtype=pl.String),
                "underage": self.costs.underage,
                "overage": self.costs.overage,
            }
        )
