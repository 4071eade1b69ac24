"""foretell turns a history of events into decisions people can trust.

The names below are loaded when they are first used: ``import foretell`` itself is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretell.data import Panel, read_panel
    from foretell.data.events import EventLog, read_events
    from foretell.decisions import Orders, Replenishment
    from foretell.decisions.thresholds import (
        DecisionSurface,
        UncertaintyThresholdClassifier,
        fit_decision_surface,
        precision_recall_frontier,
    )
    from foretell.errors import ForetellError
    from foretell.estimators import MQCNN, MQDNN, MQRNN, QuantileEnsemble
    from foretell.estimators.feedback import (
        DelayedFeedbackClassifier,
        SnapshotClassifier,
        SnapshotCorrector,
    )
    from foretell.evaluation import backtest, evaluate, leaderboard, leakage_check
    from foretell.evaluation.feedback import feedback_audit, prequential, snapshot_study
    from foretell.learners.demand import (
        Forecast,
        Forecaster,
        LegacyForecaster,
        QRFForecaster,
        Span,
    )

__version__ = "0.1.0"

_HOMES = {
    "foretell.data": ("Panel", "read_panel"),
    "foretell.data.events": ("EventLog", "read_events"),
    "foretell.decisions": ("Orders", "Replenishment"),
    "foretell.decisions.thresholds": (
        "DecisionSurface",
        "UncertaintyThresholdClassifier",
        "fit_decision_surface",
        "precision_recall_frontier",
    ),
    "foretell.errors": ("ForetellError",),
    "foretell.estimators": ("MQCNN", "MQDNN", "MQRNN", "QuantileEnsemble"),
    "foretell.estimators.feedback": (
        "DelayedFeedbackClassifier",
        "SnapshotClassifier",
        "SnapshotCorrector",
    ),
    "foretell.evaluation": ("backtest", "evaluate", "leaderboard", "leakage_check"),
    "foretell.evaluation.feedback": ("feedback_audit", "prequential", "snapshot_study"),
    "foretell.learners.demand": (
        "Forecast",
        "Forecaster",
        "LegacyForecaster",
        "QRFForecaster",
        "Span",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MQCNN",
    "MQDNN",
    "MQRNN",
    "DecisionSurface",
    "DelayedFeedbackClassifier",
    "EventLog",
    "Forecast",
    "Forecaster",
    "ForetellError",
    "LegacyForecaster",
    "Orders",
    "Panel",
    "QRFForecaster",
    "QuantileEnsemble",
    "Replenishment",
    "SnapshotClassifier",
    "SnapshotCorrector",
    "Span",
    "UncertaintyThresholdClassifier",
    "backtest",
    "evaluate",
    "feedback_audit",
    "fit_decision_surface",
    "leaderboard",
    "leakage_check",
    "precision_recall_frontier",
    "prequential",
    "read_events",
    "read_panel",
    "snapshot_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
