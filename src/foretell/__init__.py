"""foretell turns a history of events into decisions people can trust.

The names below are loaded when they are first used: ``import foretell`` itself is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretell.lazy import lazily

if TYPE_CHECKING:
    from foretell.audits.dp import audit_clopper_pearson, audit_one_run
    from foretell.audits.extraction import CanarySuite, ModelInversionAttack
    from foretell.audits.membership import RMIA, LiRA, ShadowTrainer, audit_membership
    from foretell.data import Panel, read_panel
    from foretell.data.clinical import Stays, UnitRepair
    from foretell.data.clinical.deidentify import Deidentifier
    from foretell.data.events import EventLog, read_events
    from foretell.data.text import TextSet
    from foretell.decisions import Orders, Replenishment
    from foretell.decisions.abstention import Composer, Gate
    from foretell.decisions.alarms import AlarmPolicy
    from foretell.decisions.sensing import EIGSensing
    from foretell.decisions.thresholds import (
        DecisionSurface,
        UncertaintyThresholdClassifier,
        fit_decision_surface,
        precision_recall_frontier,
    )
    from foretell.errors import ForetellError, PrivacyViolation
    from foretell.estimators import MQCNN, MQDNN, MQRNN, QuantileEnsemble
    from foretell.estimators.continual import WUPERR
    from foretell.estimators.feedback import (
        DelayedFeedbackClassifier,
        SnapshotClassifier,
        SnapshotCorrector,
    )
    from foretell.estimators.language import (
        NLU,
        LanguageModel,
        Seq2Seq,
        SequenceTagger,
        SpanQA,
        TextClassifier,
    )
    from foretell.estimators.risk import (
        AdditiveRisk,
        DeepAISE,
        FeedForwardRisk,
        SubsetRisk,
        WeibullCox,
    )
    from foretell.evaluation import backtest, evaluate, leaderboard, leakage_check
    from foretell.evaluation.feedback import feedback_audit, prequential, snapshot_study
    from foretell.learners.demand import Forecast, Forecaster, LegacyForecaster, QRFForecaster, Span
    from foretell.learners.risk import BoostedRisk
    from foretell.training.continual import train_sequence
    from foretell.training.federated import (
        ActivitySelection,
        FederatedResult,
        LocalTraining,
        run_federated,
    )
    from foretell.training.private import PrivacyEngine, PrivacyStatement, PrivateTraining

__version__ = "0.1.0"

_HOMES = {
    "foretell.audits.dp": ("audit_clopper_pearson", "audit_one_run"),
    "foretell.audits.extraction": ("CanarySuite", "ModelInversionAttack"),
    "foretell.audits.membership": ("LiRA", "RMIA", "ShadowTrainer", "audit_membership"),
    "foretell.data": ("Panel", "read_panel"),
    "foretell.data.clinical": ("Stays", "UnitRepair"),
    "foretell.data.clinical.deidentify": ("Deidentifier",),
    "foretell.data.events": ("EventLog", "read_events"),
    "foretell.data.text": ("TextSet",),
    "foretell.decisions": ("Orders", "Replenishment"),
    "foretell.decisions.abstention": ("Composer", "Gate"),
    "foretell.decisions.alarms": ("AlarmPolicy",),
    "foretell.decisions.sensing": ("EIGSensing",),
    "foretell.decisions.thresholds": (
        "DecisionSurface",
        "UncertaintyThresholdClassifier",
        "fit_decision_surface",
        "precision_recall_frontier",
    ),
    "foretell.errors": ("ForetellError", "PrivacyViolation"),
    "foretell.estimators": ("MQCNN", "MQDNN", "MQRNN", "QuantileEnsemble"),
    "foretell.estimators.continual": ("WUPERR",),
    "foretell.estimators.feedback": (
        "DelayedFeedbackClassifier",
        "SnapshotClassifier",
        "SnapshotCorrector",
    ),
    "foretell.estimators.language": (
        "LanguageModel",
        "NLU",
        "Seq2Seq",
        "SequenceTagger",
        "SpanQA",
        "TextClassifier",
    ),
    "foretell.estimators.risk": (
        "AdditiveRisk",
        "DeepAISE",
        "FeedForwardRisk",
        "SubsetRisk",
        "WeibullCox",
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
    "foretell.learners.risk": ("BoostedRisk",),
    "foretell.training.continual": ("train_sequence",),
    "foretell.training.federated": (
        "ActivitySelection",
        "FederatedResult",
        "LocalTraining",
        "run_federated",
    ),
    "foretell.training.private": ("PrivacyEngine", "PrivacyStatement", "PrivateTraining"),
}

__all__ = [
    "MQCNN",
    "MQDNN",
    "MQRNN",
    "NLU",
    "RMIA",
    "WUPERR",
    "ActivitySelection",
    "AdditiveRisk",
    "AlarmPolicy",
    "BoostedRisk",
    "CanarySuite",
    "Composer",
    "DecisionSurface",
    "DeepAISE",
    "Deidentifier",
    "DelayedFeedbackClassifier",
    "EIGSensing",
    "EventLog",
    "FederatedResult",
    "FeedForwardRisk",
    "Forecast",
    "Forecaster",
    "ForetellError",
    "Gate",
    "LanguageModel",
    "LegacyForecaster",
    "LiRA",
    "LocalTraining",
    "ModelInversionAttack",
    "Orders",
    "Panel",
    "PrivacyEngine",
    "PrivacyStatement",
    "PrivacyViolation",
    "PrivateTraining",
    "QRFForecaster",
    "QuantileEnsemble",
    "Replenishment",
    "Seq2Seq",
    "SequenceTagger",
    "ShadowTrainer",
    "SnapshotClassifier",
    "SnapshotCorrector",
    "Span",
    "SpanQA",
    "Stays",
    "SubsetRisk",
    "TextClassifier",
    "TextSet",
    "UncertaintyThresholdClassifier",
    "UnitRepair",
    "WeibullCox",
    "audit_clopper_pearson",
    "audit_membership",
    "audit_one_run",
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
    "run_federated",
    "snapshot_study",
    "train_sequence",
]


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
