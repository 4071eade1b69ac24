"""What is done with a prediction: it takes predictions with their uncertainty, never a learner."""

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
