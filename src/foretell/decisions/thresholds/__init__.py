"""Decisions over score x uncertainty: one score threshold for each uncertainty level."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foretell.decisions.thresholds.figures import Achieved, Baseline, Guarantee
from foretell.decisions.thresholds.fit import fit_decision_surface
from foretell.decisions.thresholds.frontier import (
    PrecisionRecallFrontier,
    precision_recall_frontier,
)
from foretell.decisions.thresholds.intervals import clopper_pearson
from foretell.decisions.thresholds.planning import SurfaceWarning
from foretell.decisions.thresholds.prior_shift import estimate_base_rate
from foretell.decisions.thresholds.report import SurfaceReport
from foretell.decisions.thresholds.surface import DecisionSurface

if TYPE_CHECKING:
    from foretell.decisions.thresholds.classifier import UncertaintyThresholdClassifier

__all__ = [
    "Achieved",
    "Baseline",
    "DecisionSurface",
    "Guarantee",
    "PrecisionRecallFrontier",
    "SurfaceReport",
    "SurfaceWarning",
    "UncertaintyThresholdClassifier",
    "clopper_pearson",
    "estimate_base_rate",
    "fit_decision_surface",
    "precision_recall_frontier",
]


def __getattr__(name: str) -> Any:
    # A service that only scores a surface need not load the networks behind the classifier.
    if name != "UncertaintyThresholdClassifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("foretell.decisions.thresholds.classifier"), name)
