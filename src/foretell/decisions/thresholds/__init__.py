"""Decisions over score x uncertainty: one score threshold for each uncertainty level."""

from foretell.decisions.thresholds.fit import SurfaceWarning, fit_decision_surface
from foretell.decisions.thresholds.surface import DecisionSurface

__all__ = ["DecisionSurface", "SurfaceWarning", "fit_decision_surface"]
