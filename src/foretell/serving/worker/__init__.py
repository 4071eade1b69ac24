"""From events to states, scores and alarms: a fold that reads no clock."""

from foretell.serving.worker.fold import Fold
from foretell.serving.worker.policy import ACTIONS, act, check_action
from foretell.serving.worker.scorer import Ladder, ModelScorer, Risk, RuleScorer, Scorer
from foretell.serving.worker.state import PatientState
from foretell.serving.worker.worker import Worker

__all__ = [
    "ACTIONS",
    "Fold",
    "Ladder",
    "ModelScorer",
    "PatientState",
    "Risk",
    "RuleScorer",
    "Scorer",
    "Worker",
    "act",
    "check_action",
]
