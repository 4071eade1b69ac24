"""Risk hour by hour: early-warning scores that need no training, and nets that learn."""

from foretell.learners.risk.examples import HourExamples, StayExamples
from foretell.learners.risk.feed_forward import (
    FeedForwardRiskLearner,
    FeedForwardShape,
    RiskOutput,
)
from foretell.learners.risk.scores import (
    SCORES,
    EarlyWarning,
    EarlyWarningScore,
    news2,
    qsofa,
    sirs,
)

__all__ = [
    "SCORES",
    "EarlyWarning",
    "EarlyWarningScore",
    "FeedForwardRiskLearner",
    "FeedForwardShape",
    "HourExamples",
    "RiskOutput",
    "StayExamples",
    "news2",
    "qsofa",
    "sirs",
]
