"""Decisions over score x uncertainty: one score threshold for each uncertainty level."""

from foretell.decisions.thresholds.fit import SurfaceWarning, fit_decision_surface
from foretell.decisions.thresholds.frontier import (
    PrecisionRecallFrontier,
    precision_recall_frontier,
)
from foretell.decisions.thresholds.intervals import clopper_pearson
from foretell.decisions.thresholds.prior_shift import estimate_base_rate
from foretell.decisions.thresholds.report import SurfaceReport
from foretell.decisions.thresholds.surface import (
    Achieved,
    Baseline,
    DecisionSurface,
    Guarantee,
)

__all__ = [
    "Achieved",
    "Baseline",
    "DecisionSurface",
    "Guarantee",
    "PrecisionRecallFrontier",
    "SurfaceReport",
    "SurfaceWarning",
    "clopper_pearson",
    "estimate_base_rate",
    "fit_decision_surface",
    "precision_recall_frontier",
]
