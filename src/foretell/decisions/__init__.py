"""What is done with a prediction: it takes predictions with their uncertainty, never a learner.

The names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretell.lazy import lazily

if TYPE_CHECKING:
    from foretell.decisions.costs import UnitCosts, critical_fractile, unit_costs
    from foretell.decisions.demand import PeriodDemand, demand_quantile
    from foretell.decisions.orders import Orders
    from foretell.decisions.replenishment import Replenishment
    from foretell.decisions.thresholds import (
        DecisionSurface,
        fit_decision_surface,
        precision_recall_frontier,
    )

__all__ = [
    "DecisionSurface",
    "Orders",
    "PeriodDemand",
    "Replenishment",
    "UnitCosts",
    "critical_fractile",
    "demand_quantile",
    "fit_decision_surface",
    "precision_recall_frontier",
    "unit_costs",
]

__getattr__ = lazily(
    __name__,
    {
        "foretell.decisions.costs": ("UnitCosts", "critical_fractile", "unit_costs"),
        "foretell.decisions.demand": ("PeriodDemand", "demand_quantile"),
        "foretell.decisions.orders": ("Orders",),
        "foretell.decisions.replenishment": ("Replenishment",),
        "foretell.decisions.thresholds": (
            "DecisionSurface",
            "fit_decision_surface",
            "precision_recall_frontier",
        ),
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
