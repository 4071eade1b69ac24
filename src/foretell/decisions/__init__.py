"""What is done with a prediction: it takes predictions with their uncertainty, never a learner."""

from foretell.decisions.costs import UnitCosts, critical_fractile, unit_costs
from foretell.decisions.demand import PeriodDemand, demand_quantile
from foretell.decisions.orders import Orders
from foretell.decisions.replenishment import Replenishment

__all__ = [
    "Orders",
    "PeriodDemand",
    "Replenishment",
    "UnitCosts",
    "critical_fractile",
    "demand_quantile",
    "unit_costs",
]
